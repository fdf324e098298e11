"""Partitions: each example once, the skew asked for, and refusals by name."""

import time

import numpy as np
from PIL import Image
import pytest

from fedjax_gen.data import allocation, partition
from fedjax_gen.errors import InputError

LABELS = np.random.default_rng(0).integers(0, 10, 2000)
GROUPS = np.repeat([0, 1, 2], [1000, 600, 400])

MADE = {
  'iid': lambda seed: partition.iid(2000, 7, seed=seed),
  'dirichlet': lambda seed: partition.dirichlet(
    LABELS, 200, alpha=0.1, seed=seed
  ),
  'classes': lambda seed: partition.classes_per_client(
    LABELS, 23, classes=3, seed=seed
  ),
  'quantity': lambda seed: partition.quantity_skew(
    2000, 50, alpha=0.3, seed=seed
  ),
  'group': lambda seed: partition.by_group(GROUPS, 4, seed=seed),
  'group dirichlet': lambda seed: partition.by_group(
    GROUPS, [3, 1, 5], seed=seed, labels=LABELS, alpha=0.2
  ),
  'natural': lambda seed: partition.natural(LABELS * 1000, seed=seed),
}


@pytest.mark.parametrize('kind', MADE)
def test_every_example_goes_to_one_client_and_none_is_empty(kind):
  made = MADE[kind](0)
  np.testing.assert_array_equal(np.sort(made.order), np.arange(2000))
  assert made.sizes.sum() == 2000 and made.sizes.min() >= 1
  assert made.order.dtype == made.sizes.dtype == made.groups.dtype == np.int32
  assert len(made.groups) == made.num_clients
  assert f'{made.num_clients} clients' in made.description or 'group' in kind
  for client in (0, made.num_clients - 1):
    start = made.sizes[:client].sum()
    assert made.offsets[client] == start
    np.testing.assert_array_equal(
      made.rows(client), made.order[start : start + made.sizes[client]]
    )


@pytest.mark.parametrize('kind', MADE)
def test_same_seed_same_partition(kind):
  first, again, other = (MADE[kind](seed) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first.order, again.order)
  np.testing.assert_array_equal(first.sizes, again.sizes)
  if kind != 'natural':
    assert not np.array_equal(first.order, other.order)


def test_iid_sizes_differ_by_at_most_one():
  sizes = partition.iid(2000, 7, seed=0).sizes
  assert sizes.max() - sizes.min() == 1


def classes_held(made):
  return (made.counts(LABELS, 10) > 0).sum(axis=1)


def test_alpha_sets_the_skew():
  held = [
    classes_held(partition.dirichlet(LABELS, 20, alpha=alpha, seed=0)).mean()
    for alpha in (0.01, 0.3, 100.0)
  ]
  assert held[0] < 3 < held[1] < 9 < held[2]


@pytest.mark.parametrize('alpha', [1e-300, 1e-9, 0.1, 1e12, 1.7e308])
@pytest.mark.parametrize('num_clients', [1, 200, 2000])
def test_dirichlet_always_ends_with_full_clients(alpha, num_clients):
  made = partition.dirichlet(LABELS, num_clients, alpha=alpha, seed=0)
  assert made.sizes.min() >= 1 and made.sizes.sum() == 2000


def test_min_size_is_kept_and_moves_are_told():
  made = partition.dirichlet(LABELS, 100, alpha=0.05, seed=0, min_size=12)
  assert made.sizes.min() >= 12
  assert 'examples moved' in made.description
  free = partition.dirichlet(LABELS, 100, alpha=0.05, seed=0, min_size=0)
  assert free.sizes.min() == 0 and 'moved' not in free.description


def test_repair_takes_from_the_largest_by_hand():
  counts, moved = allocation.fill(np.array([[5, 0, 1], [1, 0, 2]]), min_size=2)
  np.testing.assert_array_equal(counts, [[3, 2, 1], [1, 0, 2]])
  assert moved == 2


def test_absent_classes_do_no_harm():
  labels = np.array([0, 0, 5, 5, 5, 9])
  for made in (
    partition.dirichlet(labels, 3, alpha=0.1, seed=0),
    partition.classes_per_client(labels, 3, classes=2, seed=0),
  ):
    np.testing.assert_array_equal(np.sort(made.order), np.arange(6))


@pytest.mark.parametrize('num_clients', [4, 10, 23])
@pytest.mark.parametrize('classes', [3, 7, 10])
def test_clients_hold_exactly_so_many_classes(num_clients, classes):
  made = partition.classes_per_client(
    LABELS, num_clients, classes=classes, seed=0
  )
  np.testing.assert_array_equal(classes_held(made), classes)
  holders = (made.counts(LABELS, 10) > 0).sum(axis=0)
  assert holders.max() - holders.min() <= 1


def test_rare_class_leaves_no_client_empty():
  labels = np.array([0] * 30 + [1])
  made = partition.classes_per_client(labels, 10, classes=1, seed=0)
  assert made.sizes.min() == 1
  assert (made.counts(labels, 2) > 0).sum(axis=1).max() == 1


def test_groups_do_not_mix():
  made = MADE['group dirichlet'](0)
  np.testing.assert_array_equal(made.groups, [0] * 3 + [1] + [2] * 5)
  for client, group in enumerate(made.groups):
    assert set(GROUPS[made.rows(client)]) == {group}


def test_natural_keeps_users_whole_and_can_draw_some():
  users = np.array([9, 2, 9, 7, 2, 9])
  made = partition.natural(users)
  assert [made.rows(c).tolist() for c in range(3)] == [[1, 4], [3], [0, 2, 5]]
  drawn = partition.natural(users, max_clients=2, seed=3)
  assert drawn.num_clients == 2 and '2 of 3' in drawn.description
  for client in range(2):
    (user,) = set(users[drawn.rows(client)])
    assert drawn.sizes[client] == (users == user).sum()


def test_million_clients_take_seconds():
  start = time.monotonic()
  made = partition.iid(10_000_000, 1_000_000, seed=0)
  assert made.num_clients == 1_000_000
  users = np.repeat(np.arange(1_000_000, dtype=np.int32), 10)[::-1]
  assert partition.natural(users).num_clients == 1_000_000
  assert time.monotonic() - start < 30


def test_saved_partition_is_read_back(tmp_path):
  made = MADE['group'](0)
  made.save(tmp_path / 'p.npz')
  again = partition.Partition.load(tmp_path / 'p.npz')
  for name in ('order', 'sizes', 'groups'):
    np.testing.assert_array_equal(getattr(again, name), getattr(made, name))
    assert getattr(again, name).dtype == np.int32
  assert again.description == made.description
  assert [file.name for file in tmp_path.iterdir()] == ['p.npz']


FIELDS = {
  'order': [1, 0, 2],
  'sizes': [1, 2],
  'groups': [0, 0],
  'description': 'toy',
}
BAD_FILES = {
  'missing field': ({'order': None}, 'order'),
  'twice': ({'order': [1, 1, 2]}, 'twice'),
  'sum': ({'sizes': [1, 1]}, 'sum 2'),
  'negative': ({'sizes': [-1, 4]}, 'sizes >= 0.*-1'),
  'floats': ({'order': [0.5, 1.0, 2.0]}, 'order.*float64'),
  'groups': ({'groups': [0]}, '1 groups'),
}


@pytest.mark.parametrize('case', BAD_FILES)
def test_foreign_partition_file_is_refused(tmp_path, case):
  changed, message = BAD_FILES[case]
  fields = {k: v for k, v in {**FIELDS, **changed}.items() if v is not None}
  np.savez(tmp_path / 'p.npz', **fields)
  with pytest.raises(InputError, match=f'p.npz.*{message}'):
    partition.Partition.load(tmp_path / 'p.npz')


def test_unwritable_path_is_named(tmp_path):
  made = MADE['iid'](0)
  (tmp_path / 'file').write_text('not a folder')
  for write in (made.save, lambda path: made.plot(LABELS, NAMES, path)):
    with pytest.raises(InputError, match='p.npz'):
      write(tmp_path / 'file' / 'p.npz')


NAMES = [f'class {label}' for label in range(10)]


@pytest.mark.parametrize('num_clients', [1, 2, 200, 1999])
def test_plot_writes_a_picture_of_bounded_size(tmp_path, num_clients):
  made = partition.iid(2000, num_clients, seed=0)
  made.plot(LABELS, NAMES, tmp_path / 'p.png')
  with Image.open(tmp_path / 'p.png') as image:
    assert 400 < image.width < 2000 and 300 < image.height < 1500
    assert len(image.convert('L').getcolors()) > 10


BAD_ARGUMENTS = {
  'clients': (lambda: partition.iid(5, 6, seed=0), 'num_clients=6'),
  'no clients': (lambda: partition.iid(5, 0, seed=0), 'num_clients=0'),
  'half a client': (lambda: partition.iid(5, 1.5, seed=0), 'num_clients=1.5'),
  'seed': (lambda: partition.iid(5, 2, seed=-1), 'seed=-1'),
  'no seed': (lambda: partition.iid(5, 2, seed=None), 'seed=None'),
  'alpha 0': (
    lambda: partition.dirichlet(LABELS, 2, alpha=0, seed=0),
    'alpha > 0.*alpha=0',
  ),
  'alpha nan': (
    lambda: partition.quantity_skew(9, 2, alpha=np.nan, seed=0),
    'alpha=nan',
  ),
  'group alpha': (
    lambda: partition.by_group(GROUPS, 2, seed=0, labels=LABELS, alpha=-1),
    'alpha=-1',
  ),
  'alpha without labels': (
    lambda: partition.by_group(GROUPS, 2, seed=0, alpha=1.0),
    '2000 labels.*none',
  ),
  'min_size': (
    lambda: partition.dirichlet(LABELS, 3, alpha=1, seed=0, min_size=700),
    'num_clients=3 with min_size=700',
  ),
  'float labels': (
    lambda: partition.dirichlet(LABELS / 2, 3, alpha=1, seed=0),
    'labels.*float64',
  ),
  'negative labels': (
    lambda: partition.dirichlet(LABELS - 1, 3, alpha=1, seed=0),
    'labels >= 0',
  ),
  'no labels': (
    lambda: partition.dirichlet(LABELS[:0], 3, alpha=1, seed=0),
    r'labels.*\[0\]',
  ),
  'classes': (
    lambda: partition.classes_per_client(LABELS, 3, classes=11, seed=0),
    'classes=11',
  ),
  'unheld classes': (
    lambda: partition.classes_per_client(LABELS, 3, classes=2, seed=0),
    'num_clients=3 and classes=2',
  ),
  'small group': (
    lambda: partition.by_group(np.array([0, 0, 1]), 2, seed=0),
    'group 1.*num_clients=2',
  ),
  'group numbers': (
    lambda: partition.by_group(GROUPS, [1, 2], seed=0),
    r'3 groups.*\[1, 2\]',
  ),
  'max_clients': (
    lambda: partition.natural(LABELS, max_clients=0),
    'max_clients=0',
  ),
  'counts': (
    lambda: MADE['iid'](0).counts(LABELS, 5),
    'num_classes=5',
  ),
  'other data': (
    lambda: MADE['iid'](0).counts(LABELS[:9], 10),
    'row 1999.*9 labels',
  ),
}


@pytest.mark.parametrize('case', BAD_ARGUMENTS)
def test_bad_argument_is_named_with_its_value(case):
  call, message = BAD_ARGUMENTS[case]
  with pytest.raises(InputError, match=message):
    call()


def test_some_clients_are_a_partition_of_their_rows():
  made = MADE['quantity'](0)
  some = made.select(np.array([7, 2]))
  np.testing.assert_array_equal(some.rows(0), made.rows(7))
  np.testing.assert_array_equal(some.rows(1), made.rows(2))
  assert some.num_clients == 2
  assert len(some.order) == some.sizes.sum()
