"""Names and numbers of a configuration become a federation, or a refusal."""

import jax
import numpy as np
import pytest

from fedjax_gen import federation
from fedjax_gen.data import partition as partitions
from fedjax_gen.data.sources import DataSource, Examples
from fedjax_gen.errors import InputError
from fedjax_gen.federated.mapping import default_cpu_devices
from fedjax_gen.federation import FederationConfig


def _source(**ids):
  """Twelve features of three classes; train and test alike."""
  labels = np.arange(12, dtype=np.int32) % 3
  part = Examples(np.ones((12, 2), np.float32), labels, **ids)
  groups = ('sketch', 'photo') if 'groups' in ids else ()
  return DataSource('toy', part, part, ('a', 'b', 'c'), (), groups)


@pytest.mark.parametrize('partition', ['iid', 'dirichlet', 'quantity'])
def test_every_example_has_one_owner(partition):
  built = federation.build_federation(
    FederationConfig(num_clients=4, partition=partition), _source(), seed=0
  )
  assert built.data.num_clients == built.partition.num_clients == 4
  assert sorted(built.partition.order) == list(range(12))


def test_the_seed_decides_the_partition():
  config = FederationConfig(num_clients=4, partition='dirichlet')
  first, again, other = (
    federation.build_partition(config, _source(), seed=seed).order
    for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def test_classes_per_client_is_kept():
  source = _source()
  built = federation.build_partition(
    FederationConfig(num_clients=3, partition='classes', classes_per_client=1),
    source,
    seed=0,
  )
  held = built.counts(source.train.labels, 3) > 0
  np.testing.assert_array_equal(held.sum(axis=1), [1, 1, 1])


def test_natural_clients_are_the_users_all_of_them_or_some():
  source = _source(users=np.arange(12, dtype=np.int32) // 2)
  for num_clients, expected in ((0, 6), (4, 4), (99, 6)):
    config = FederationConfig(num_clients=num_clients, partition='natural')
    built = federation.build_partition(config, source, seed=0)
    assert built.num_clients == expected
    for client in range(expected):
      assert len(set(source.train.users[built.rows(client)])) == 1


def test_clients_of_groups_hold_one_group_each():
  source = _source(groups=np.arange(12, dtype=np.int32) % 2)
  config = FederationConfig(num_clients=4, partition='groups')
  built = federation.build_partition(config, source, seed=0)
  np.testing.assert_array_equal(built.groups, [0, 0, 1, 1])
  with pytest.raises(InputError, match='multiple of the 2 groups.*got num_cli'):
    federation.build_partition(
      FederationConfig(num_clients=3, partition='groups'), source, seed=0
    )


def test_a_saved_partition_is_read_and_must_fit(tmp_path):
  path = str(tmp_path / 'saved.npz')
  partitions.iid(12, 3, seed=5).save(path)
  config = FederationConfig(partition='file', partition_file=path)
  built = federation.build_federation(config, _source(), seed=0)
  assert built.data.num_clients == 3
  partitions.iid(13, 3, seed=5).save(path)
  with pytest.raises(InputError, match='at most 12 examples.*row 12'):
    federation.build_federation(config, _source(), seed=0)


@pytest.mark.parametrize(
  ('partition', 'missing'), [('natural', 'user ids'), ('groups', 'groups')]
)
def test_ids_that_the_data_lack_are_named(partition, missing):
  config = FederationConfig(partition=partition)
  with pytest.raises(InputError, match=f'data with {missing}.*toy'):
    federation.build_partition(config, _source(), seed=0)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'num_clients': 0}, 'num_clients=0'),
    ({'num_clients': -1, 'partition': 'natural'}, 'num_clients=-1'),
    ({'partition': 'random'}, 'partition=.random'),
    ({'alpha': 0.0}, 'alpha=0.0'),
    ({'alpha': float('nan')}, 'alpha=nan'),
    ({'alpha': float('inf')}, 'alpha=inf'),
    ({'classes_per_client': 0}, 'classes_per_client=0'),
    ({'partition': 'file'}, "partition_file=''"),
    ({'partition_file': 'x.npz'}, "partition='auto'.*partition_file='x.npz'"),
    ({'sampling': 'none'}, "sampling='none'"),
    ({'sampling': 'uniform'}, 'cohort_size=0'),
    ({'sampling': 'by_size', 'cohort_size': -1}, 'cohort_size=-1'),
    ({'cohort_size': 3}, "sampling='all' and cohort_size=3"),
    ({'participation': 1.5}, 'participation=1.5'),
    ({'dropout_rate': -0.1}, 'dropout_rate=-0.1'),
    ({'block_size': '0'}, "a number > 0, all or auto, got block_size='0'"),
    ({'block_size': '1.5'}, "block_size='1.5'"),
    ({'block_size': '²'}, "block_size='²'"),
    ({'num_devices': -1}, 'num_devices=-1'),
  ],
)
def test_a_bad_field_is_refused_by_name_and_value(fields, message):
  with pytest.raises(InputError, match=message):
    FederationConfig(**fields)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'num_clients': 13}, 'num_clients <= the 12 examples.*num_clients=13'),
    ({'sampling': 'uniform', 'cohort_size': 11}, 'cohort_size <= 10'),
    ({'num_devices': 999}, 'num_devices=999'),
    ({'reproducible': True, 'block_size': 'all'}, 'block_size'),
    ({'partition': 'classes', 'classes_per_client': 4}, 'classes=4'),
  ],
)
def test_what_does_not_fit_the_data_or_the_machine_is_refused(fields, message):
  with pytest.raises(InputError, match=message):
    federation.build_federation(FederationConfig(**fields), _source(), seed=0)


def test_block_size_and_devices_become_the_mapping():
  def build(**fields):
    return federation.build_mapping(FederationConfig(**fields))

  assert build().block_size == 'auto'
  assert build(num_devices=1).mesh is None
  assert build(block_size='3').block_size == 3
  assert build(block_size='all').block_size == 'all'
  assert build(num_devices=2).num_devices == 2
  # All that tests have are 8, but not all of a core's own.
  assert build(num_devices=0).num_devices == default_cpu_devices()
  assert build(reproducible=True).reproducible


@pytest.mark.parametrize(
  ('fields', 'groups', 'sizes'),
  [
    # num_clients says nothing once clients_per_group is given.
    ({'clients_per_group': (2,), 'num_clients': 7}, [0, 0, 1, 1], [4, 4, 2, 2]),
    ({'clients_per_group': (1, 3)}, [0, 1, 1, 1], [8, 2, 1, 1]),
    ({'clients_per_group': (3, 1)}, [0, 0, 0, 1], [3, 3, 2, 4]),
  ],
)
def test_groups_may_have_clients_in_unequal_numbers(fields, groups, sizes):
  owners = np.array([0, 0, 1] * 4, np.int32)
  config = FederationConfig(partition='groups', **fields)
  source = _source(groups=owners)
  built = federation.build_federation(config, source, seed=0)
  np.testing.assert_array_equal(built.partition.groups, groups)
  np.testing.assert_array_equal(built.partition.sizes, sizes)
  np.testing.assert_array_equal(built.data.groups, groups)
  for client, group in enumerate(groups):
    assert set(owners[built.partition.rows(client)]) == {group}


@pytest.mark.parametrize('numbers', [(1, 2, 1), (1, 1, 1, 1)])
def test_each_group_must_be_given_its_number_of_clients(numbers):
  config = FederationConfig(partition='groups', clients_per_group=numbers)
  source = _source(groups=np.arange(12, dtype=np.int32) % 2)
  with pytest.raises(
    InputError, match=r'each of 2 groups, got clients_per_group=\[1, '
  ):
    federation.build_partition(config, source, seed=0)


def test_a_group_cannot_have_more_clients_than_examples():
  config = FederationConfig(partition='groups', clients_per_group=(1, 7))
  source = _source(groups=np.arange(12, dtype=np.int32) % 2)
  with pytest.raises(InputError, match='in group 1.*num_clients=7'):
    federation.build_partition(config, source, seed=0)


def test_labels_are_skewed_within_groups_and_never_across():
  groups = (np.arange(240) // 120).astype(np.int32)
  labels = (np.arange(240) % 3).astype(np.int32)
  part = Examples(np.ones((240, 2), np.float32), labels, groups=groups)
  source = DataSource('toy', part, part, ('a', 'b', 'c'), (), ('one', 'two'))

  def largest_shares(group_alpha):
    config = FederationConfig(
      num_clients=6, partition='groups', group_alpha=group_alpha
    )
    built = federation.build_partition(config, source, seed=0)
    np.testing.assert_array_equal(built.groups, [0, 0, 0, 1, 1, 1])
    for client in range(6):
      assert set(groups[built.rows(client)]) == {built.groups[client]}
    counts = built.counts(labels, 3)
    return np.max(counts / counts.sum(axis=1, keepdims=True), axis=1)

  assert np.mean(largest_shares(0.05)) > 0.75
  assert np.mean(largest_shares(1000.0)) < 0.45
  assert np.mean(largest_shares(0.0)) < 0.5


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'clients_per_group': (3,)}, 'partition=groups.*clients_per_group.*auto'),
    ({'group_alpha': 0.5, 'partition': 'dirichlet'}, "got .*'dirichlet'"),
    ({'clients_per_group': (3, 0)}, 'clients_per_group=0'),
    ({'clients_per_group': (-1,)}, 'clients_per_group=-1'),
    ({'group_alpha': -1.0, 'partition': 'groups'}, 'group_alpha=-1.0'),
    ({'group_alpha': float('nan')}, 'group_alpha=nan'),
  ],
)
def test_bad_fields_of_groups_are_refused_by_name_and_value(fields, message):
  with pytest.raises(InputError, match=message):
    FederationConfig(**fields)


def _present(sampler, num_clients):
  """How many clients a round of a fleet of so many has."""
  part = Examples(
    np.ones((num_clients, 2), np.float32), np.zeros(num_clients, np.int32)
  )
  source = DataSource('toy', part, part, ('a',))
  config = FederationConfig(num_clients=num_clients)
  data = federation.build_federation(config, source, seed=0).data
  cohort = sampler(jax.random.key(0), data)
  rows = np.asarray(cohort.row)[np.asarray(cohort.present)]
  assert len(set(rows)) == len(rows)
  return len(rows)


@pytest.mark.parametrize('sampling', ['uniform', 'by_size'])
@pytest.mark.parametrize(
  ('num_clients', 'cohort_size', 'expected'),
  [
    ([6], 4, [4]),
    ([4, 8], 6, [2, 4]),
    ([5, 5], 2, [1, 1]),
    ([1, 9], 2, [1, 1]),
    ([1, 1, 1, 5], 4, [1, 1, 1, 1]),
    ([2, 4, 6], 12, [2, 4, 6]),
    ([10, 30, 60], 10, [1, 3, 6]),
  ],
)
def test_cohorts_of_fleets_add_up_in_proportion(
  sampling, num_clients, cohort_size, expected
):
  config = FederationConfig(sampling=sampling, cohort_size=cohort_size)
  samplers = federation.build_samplers(config, num_clients)
  found = [
    _present(sampler, number)
    for sampler, number in zip(samplers, num_clients, strict=True)
  ]
  assert found == expected


def test_where_nobody_is_counted_every_fleet_is_sampled_alike():
  everyone = federation.build_samplers(FederationConfig(), [3, 5])
  assert [_present(s, n) for s, n in zip(everyone, (3, 5), strict=True)] == [
    3,
    5,
  ]
  config = FederationConfig(sampling='poisson', participation=0.0)
  nobody = federation.build_samplers(config, [3, 5])
  assert [_present(s, n) for s, n in zip(nobody, (3, 5), strict=True)] == [0, 0]


@pytest.mark.parametrize('cohort_size', [1, 9])
def test_a_cohort_has_a_client_of_each_fleet_and_no_more_than_all(cohort_size):
  config = FederationConfig(sampling='uniform', cohort_size=cohort_size)
  message = f'2 <= cohort_size <= 8, .*got cohort_size={cohort_size}'
  with pytest.raises(InputError, match=message):
    federation.build_samplers(config, [3, 5])
