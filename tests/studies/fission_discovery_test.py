"""Whose client is whose, and who comes later, without any training."""

import numpy as np
import pytest

from fedjax_gen.data.partition import Partition
from fedjax_gen.errors import InputError
from fedjax_gen.studies.fissionvae import fission_discovery

_GROUPS = np.array([2, 0, 2, 1, 0, 2, 1, 2])


def _partition(*rows):
  return Partition(
    np.concatenate(rows).astype(np.int32),
    np.array([len(own) for own in rows], np.int32),
    np.zeros(len(rows), np.int32),
    'by hand',
  )


@pytest.mark.parametrize('may_mix', [False, True])
def test_clients_of_one_kind_are_of_its_group(may_mix):
  # Not in the order of the groups, and rows not in order.
  partition = _partition([7, 0], [6], [4, 1], [5, 2], [3])
  found = fission_discovery.client_groups(partition, _GROUPS, may_mix=may_mix)
  np.testing.assert_array_equal(found, [2, 1, 0, 2, 1])
  assert found.dtype == np.int32


def test_a_mixed_client_is_refused_where_groups_are_given():
  partition = _partition([1, 4], [6, 3], [0, 7, 2, 5], [3, 0])
  with pytest.raises(
    InputError, match='of one group each, got client 3 .*--partition=groups'
  ):
    fission_discovery.client_groups(partition, _GROUPS, may_mix=False)


def test_a_mixed_client_is_of_the_group_that_most_of_it_is_of():
  partition = _partition([1, 0, 2], [3, 6, 7], [4, 5])
  found = fission_discovery.client_groups(partition, _GROUPS, may_mix=True)
  # Of groups equally common it is the first.
  np.testing.assert_array_equal(found, [2, 1, 0])


def test_a_client_without_examples_hinders_nobody():
  partition = _partition([3], [], [0, 2])
  found = fission_discovery.client_groups(partition, _GROUPS, may_mix=False)
  assert found.shape == (3,)
  np.testing.assert_array_equal(found[[0, 2]], [1, 2])


@pytest.mark.parametrize(
  ('num_clients', 'num_newcomers', 'newcomers'),
  [
    (4, 0, []),
    (5, 1, [2]),
    (6, 2, [1, 4]),
    (12, 3, [2, 6, 10]),
    (4, 3, [0, 2, 3]),
  ],
)
def test_newcomers_are_spread_over_the_clients(
  num_clients, num_newcomers, newcomers
):
  members, found = fission_discovery._split(num_clients, num_newcomers)
  np.testing.assert_array_equal(found, newcomers)
  np.testing.assert_array_equal(
    members, [c for c in range(num_clients) if c not in newcomers]
  )


def test_every_equal_group_has_as_many_newcomers():
  for per_group in (2, 3, 5, 10):
    for num_groups in (2, 3, 4):
      groups = np.repeat(np.arange(num_groups), per_group)
      for each in range(1, per_group):
        members, newcomers = fission_discovery._split(
          len(groups), each * num_groups
        )
        assert np.all(np.bincount(groups[newcomers]) == each)
        assert np.all(np.bincount(groups[members]) == per_group - each)


@pytest.mark.parametrize('num_newcomers', [4, 5])
def test_somebody_must_be_there_before_newcomers(num_newcomers):
  with pytest.raises(
    InputError, match=f'num_newcomers < 4, .*got num_newcomers={num_newcomers}'
  ):
    fission_discovery._split(4, num_newcomers)
