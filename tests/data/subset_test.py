"""Fewer examples: as many as asked for, shares kept, columns aligned."""

import numpy as np
import pytest

from fedjax_gen.data import examples, sources, subset
from fedjax_gen.errors import InputError


def source(labels, users=None, groups=None):
  """Both splits hold the row's number as their only feature."""
  labels = np.asarray(labels, np.int32)
  inputs = np.arange(len(labels), dtype=np.float32)[:, None]
  part = examples.Examples(inputs, labels, users, groups)
  names = tuple(map(str, range(labels.max() + 1)))
  return sources.DataSource('toy', part, part, names, notes=('before',))


def kept_rows(part):
  return part.inputs[:, 0].astype(int)


@pytest.mark.parametrize('num', [1, 7, 60, 333, 999])
def test_every_class_keeps_its_share_to_within_one(num):
  sizes = np.array([500, 300, 150, 50])
  labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), sizes))
  kept = subset.keep(source(labels), train=num, seed=0)
  counts = np.bincount(kept.train.labels, minlength=4)
  assert counts.sum() == num
  np.testing.assert_array_less(abs(counts - sizes * num / 1000), 1)
  rows = kept_rows(kept.train)
  assert (np.diff(rows) > 0).all()  # the order of the source, none twice
  np.testing.assert_array_equal(kept.train.labels, labels[rows])
  assert len(kept.test.labels) == 1000


def test_no_class_is_lost_while_there_is_room():
  labels = np.repeat(np.arange(5), [1000, 1, 1, 1, 1])
  kept = subset.keep(source(labels), train=5, seed=0)
  np.testing.assert_array_equal(np.bincount(kept.train.labels), np.ones(5))
  kept = subset.keep(source(labels), train=10, seed=0)
  np.testing.assert_array_equal(np.bincount(kept.train.labels), [6, 1, 1, 1, 1])
  assert 'have none' not in kept.notes[-1]
  fewer = subset.keep(source(np.arange(200)), train=50, seed=0)
  assert fewer.notes[-1].endswith('; 150 of 200 classes have none')
  assert fewer.num_classes == 200


def test_users_and_groups_stay_aligned_and_keep_their_shares():
  rng = np.random.default_rng(1)
  labels, users = rng.integers(0, 3, (2, 3000)).astype(np.int32)
  groups = rng.integers(0, 2, 3000).astype(np.int32)
  kept = subset.keep(source(labels, users, groups), train=300, seed=2)
  rows = kept_rows(kept.train)
  np.testing.assert_array_equal(kept.train.labels, labels[rows])
  np.testing.assert_array_equal(kept.train.users, users[rows])
  np.testing.assert_array_equal(kept.train.groups, groups[rows])
  # A tenth of each cell of label, group and user, to within one.
  cells = (labels * 2 + groups) * 3 + users
  counts = np.bincount(cells[rows], minlength=18)
  np.testing.assert_array_less(abs(counts - np.bincount(cells) / 10), 1.5)


def test_no_user_is_at_an_advantage_where_few_are_kept():
  labels, users = np.repeat(np.arange(200), 5), np.tile(np.arange(5), 200)
  kept = subset.keep(source(labels, users.astype(np.int32)), train=200, seed=0)
  np.testing.assert_array_equal(kept.train.labels, np.arange(200))
  # 40 of each are expected, with a stddev of less than 6.
  assert (abs(np.bincount(kept.train.users) - 40) < 20).all()


def test_the_seed_decides_and_splits_do_not_disturb_each_other():
  toy = source(np.arange(400) % 4)
  both = subset.keep(toy, train=40, test=20, seed=3)
  again = subset.keep(toy, train=40, seed=3)
  np.testing.assert_array_equal(kept_rows(both.train), kept_rows(again.train))
  other = subset.keep(toy, train=40, seed=4)
  assert set(kept_rows(other.train)) != set(kept_rows(both.train))
  # Another draw for the test split than for the train split.
  same = subset.keep(toy, train=40, test=40, seed=3)
  assert set(kept_rows(same.train)) != set(kept_rows(same.test))
  # And a draw: neighbouring rows are kept and left alike.
  assert len(set(np.diff(kept_rows(both.train)))) > 5


def test_zero_and_all_keep_everything_and_say_nothing():
  toy = source([0, 1, 1])
  for num in (0, 3):
    kept = subset.keep(toy, train=num, test=num, seed=0)
    assert kept.notes == toy.notes
    np.testing.assert_array_equal(kept_rows(kept.train), [0, 1, 2])


def test_load_keeps_what_is_asked_for_and_says_so():
  full = sources.load('digits', image_size=4)
  fewer = sources.load(
    'digits', image_size=4, num_examples=100, num_test_examples=30
  )
  assert (len(fewer.train.labels), len(fewer.test.labels)) == (100, 30)
  assert (np.bincount(fewer.train.labels) >= 9).all()
  assert fewer.class_names == full.class_names
  assert fewer.input_shape == (4, 4, 1)
  known = {image.tobytes() for image in full.train.inputs}
  assert all(image.tobytes() in known for image in fewer.train.inputs)
  kept = [note for note in fewer.notes if note.startswith('kept')]
  assert 'kept 100 of 1439 training examples' in kept[0]
  assert 'num_examples=100, seed=0' in kept[0]
  assert 'kept 30 of 358 test examples' in kept[1]


@pytest.mark.parametrize(
  'arguments, message',
  [
    ({'num_examples': 1440}, 'num_examples <= 1439.*num_examples=1440'),
    ({'num_test_examples': 999}, 'num_test_examples <= 358.*digits.*=999'),
    ({'num_examples': -1}, 'num_examples=-1'),
    ({'num_test_examples': 1.5}, 'num_test_examples=1.5'),
  ],
)
def test_a_bad_number_is_named_with_what_there_is(arguments, message):
  with pytest.raises(InputError, match=message):
    sources.load('digits', **arguments)
