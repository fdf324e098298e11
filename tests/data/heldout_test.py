"""Splits inside clients: every row once, every class in its share."""

import numpy as np
import pytest

from fedjax_gen.data import partition
from fedjax_gen.data.federated import federated_dataset
from fedjax_gen.data.heldout import Fractions, split_clients
from fedjax_gen.data.partition import Partition
from fedjax_gen.errors import InputError

_LABELS = np.random.default_rng(0).integers(0, 7, 3000).astype(np.int32)
_SKEWED = partition.dirichlet(_LABELS, 40, alpha=0.2, seed=0)


def _one_client(labels):
  size = len(labels)
  sizes, groups = np.array([size], np.int32), np.zeros(1, np.int32)
  return Partition(np.arange(size, dtype=np.int32), sizes, groups, 'toy')


def _sizes(split):
  return [part.sizes.tolist() for part in split]


def test_every_row_is_in_one_part_of_its_own_client():
  split = split_clients(_SKEWED, _LABELS, seed=0)
  for client in range(40):
    rows = np.concatenate([part.rows(client) for part in split])
    np.testing.assert_array_equal(np.sort(rows), np.sort(_SKEWED.rows(client)))
  for part in split:
    assert part.sizes.sum() == len(part.order)
    assert part.order.dtype == part.sizes.dtype == np.int32


@pytest.mark.parametrize('fractions', [(0.2, 0.16), (0.5, 0.25), (0.3, 0.0)])
def test_every_class_of_a_client_gives_its_share(fractions):
  split = split_clients(_SKEWED, _LABELS, fractions=fractions, seed=0)
  train, validation, test = (part.counts(_LABELS, 7) for part in split)
  cells = _SKEWED.counts(_LABELS, 7)
  many = cells > 1
  assert np.abs(test - fractions[0] * cells)[many].max() < 1
  # Of what the test leaves, which is rounded itself.
  share = fractions[1] / (1 - fractions[0])
  assert np.abs(validation - share * (cells - test))[many].max() < 1
  np.testing.assert_array_equal(train[cells > 0] > 0, True)
  # A little less: classes of one row give none.
  held_out = test.sum() + validation.sum()
  np.testing.assert_allclose(held_out / 3000, sum(fractions), atol=0.02)


def test_whole_shares_are_exact_whatever_the_seed():
  labels = np.repeat([0, 1], [100, 25])
  for seed in range(20):
    split = split_clients(_one_client(labels), labels, seed=seed)
    counts = [part.counts(labels, 2).tolist() for part in split]
    assert counts == [[[64, 16]], [[16, 4]], [[20, 5]]]


def test_small_classes_are_held_out_in_some_seeds_and_add_up():
  labels = np.repeat(np.arange(10), 2)  # a test share of 0.4 rows a class
  chosen = np.zeros(10)
  for seed in range(200):
    split = split_clients(_one_client(labels), labels, seed=seed)
    assert split.test.sizes.tolist() == [4]
    chosen += split.test.counts(labels, 10)[0]
  # No class, the first or the last neither, is at an advantage.
  assert np.abs(chosen / 200 - 0.4).max() < 0.15


def test_a_class_of_one_row_stays_in_train():
  labels = np.arange(6)
  for seed in range(10):
    split = split_clients(
      _one_client(labels), labels, fractions=(0.6, 0.3), seed=seed
    )
    assert _sizes(split) == [[6], [0], [0]]


def test_rows_are_drawn_and_not_taken_from_an_end():
  labels = np.zeros(1000, np.int32)
  test = split_clients(_one_client(labels), labels, seed=0).test
  assert 400 < test.order.mean() < 600
  assert (np.diff(test.order) > 0).all()


def test_the_same_seed_gives_the_same_split():
  first, again, other = (
    split_clients(_SKEWED, _LABELS, seed=seed) for seed in (0, 0, 1)
  )
  for part, same, unlike in zip(first, again, other, strict=True):
    np.testing.assert_array_equal(part.order, same.order)
    np.testing.assert_array_equal(part.sizes, same.sizes)
    assert not np.array_equal(part.order, unlike.order)


def test_empty_clients_stay_and_groups_too():
  labels = np.array([0, 0, 0, 1, 1, 1, 0, 1, 1])
  order = np.array([8, 0, 1, 2, 6, 4, 3, 5], np.int32)  # row 7 is nobody's
  clients = Partition(order, np.array([0, 7, 0, 1, 0]), np.arange(5), 'toy')
  split = split_clients(clients, labels, fractions=(0.25, 0.25), seed=0)
  for part in split:
    np.testing.assert_array_equal(part.groups, np.arange(5))
    assert part.sizes[[0, 2, 4]].tolist() == [0, 0, 0]
    assert 'toy' in part.description
  assert split.train.sizes[3] == 1
  assert 7 not in np.concatenate([part.order for part in split])
  names = [part.description for part in split]
  assert len(set(names)) == 3


def test_parts_make_data_sets_over_the_same_examples(tmp_path):
  split = split_clients(_SKEWED, _LABELS, seed=0)
  inputs = np.arange(3000, dtype=np.float32)[:, None]
  data = [federated_dataset(inputs, _LABELS, part) for part in split]
  assert [d.num_clients for d in data] == [40, 40, 40]
  split.test.save(tmp_path / 'test.npz')
  loaded = Partition.load(tmp_path / 'test.npz')
  np.testing.assert_array_equal(loaded.order, split.test.order)


BAD = {
  'test': ({'fractions': (1.2, 0.1)}, 'test=1.2'),
  'validation': ({'fractions': (0.2, -0.1)}, 'validation=-0.1'),
  'sum': ({'fractions': Fractions(0.5, 0.5)}, 'test=0.5 and validation=0.5'),
  'nan': ({'fractions': (np.nan, 0.1)}, 'test=nan'),
  'seed': ({'seed': -1}, 'seed=-1'),
  'labels': ({'labels': _LABELS[:100]}, 'got 100 labels'),
  'floats': ({'labels': _LABELS * 1.0}, 'whole numbers, got float64'),
}


@pytest.mark.parametrize('case', BAD)
def test_a_bad_argument_is_named_with_its_value(case):
  change, words = BAD[case]
  arguments = {'labels': _LABELS, 'seed': 0} | change
  with pytest.raises(InputError, match=words):
    split_clients(_SKEWED, **arguments)


def test_defaults_are_a_fifth_and_a_fifth_of_the_rest():
  assert Fractions() == (0.2, 0.16)
  labels = np.zeros(100, np.int32)
  split = split_clients(_one_client(labels), labels, seed=5)
  assert _sizes(split) == [[64], [16], [20]]
