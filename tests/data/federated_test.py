"""Clients see their own examples, all of them, and nothing else."""

import functools
import time

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from fedjax_gen import trees
from fedjax_gen.data import federated, partition
from fedjax_gen.data.partition import Partition
from fedjax_gen.errors import InputError

_B = 4
_FEDERATIONS = [
  [0, 1, _B - 1, _B, _B + 1, 3 * _B],
  [_B, _B],
  [_B + 1] * 3,
  [1],
  [2, 0],
]


def _partition(sizes, groups=None):
  """Clients of the given sizes over shuffled rows."""
  order = np.random.default_rng(0).permutation(sum(sizes))
  groups = np.zeros(len(sizes)) if groups is None else np.array(groups)
  return Partition(
    order.astype(np.int32),
    np.array(sizes, np.int32),
    groups.astype(np.int32),
    'test',
  )


def _dataset(sizes, groups=None):
  """The examples are their own row numbers."""
  rows = np.arange(sum(sizes))
  parts = _partition(sizes, groups)
  return federated.federated_dataset(
    rows[:, None].astype(np.float32), rows, parts
  ), parts


@jax.jit
def _batch(data, client, key, step):
  chosen = data.client(client)
  return chosen.batch(chosen.shuffled(key), step, _B)


def _epoch(data, client, key):
  """All batches of one pass, one after the other."""
  steps = int(data.client(client).steps_per_epoch(_B))
  return [_batch(data, client, key, step) for step in range(steps)]


class BatchesTest(parameterized.TestCase):
  @parameterized.parameters(*((sizes,) for sizes in _FEDERATIONS))
  def test_an_epoch_visits_each_of_a_clients_examples_once(self, sizes):
    data, parts = _dataset(sizes)
    for client, size in enumerate(sizes):
      batches = _epoch(data, client, jax.random.key(client))
      visited = [
        row for batch in batches for row in batch.labels[batch.mask].tolist()
      ]
      self.assertEqual(sorted(visited), sorted(parts.rows(client).tolist()))
      for step, batch in enumerate(batches):
        chex.assert_shape(batch.inputs, (_B, 1))
        chex.assert_trees_all_equal(
          batch.inputs[:, 0], batch.labels.astype(jnp.float32)
        )
        filled = min(_B, size - step * _B)
        chex.assert_trees_all_equal(batch.mask, jnp.arange(_B) < filled)

  @parameterized.parameters(
    ([_B, _B], 1), ([_B + 1] * 3, 2), ([1], 1), ([5, 8], 2), ([1, 5], None)
  )
  def test_steps_are_a_python_number_only_if_all_clients_need_the_same(
    self, sizes, expected
  ):
    steps = _dataset(sizes)[0].client(0).steps_per_epoch(_B)
    if expected is None:
      self.assertIsInstance(steps, jax.Array)
      self.assertEqual(steps, 1)
    else:
      self.assertIsInstance(steps, int)
      self.assertEqual(steps, expected)

  def test_passes_with_other_keys_have_other_orders(self):
    data, _ = _dataset([12])
    first, again, other = (
      np.concatenate([b.labels for b in _epoch(data, 0, jax.random.key(seed))])
      for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    self.assertFalse((first == other).all())

  def test_every_order_of_three_examples_is_equally_likely(self):
    # Two slots of the five are beyond the client's size.
    data, _ = _dataset([3, 5])
    client = data.client(0)
    keys = jax.random.split(jax.random.key(0), 6000)
    orders = np.asarray(jax.vmap(client.shuffled)(keys))
    self.assertTrue((np.sort(orders[:, :3], axis=1) == np.arange(3)).all())
    counts = np.unique(orders[:, :3], axis=0, return_counts=True)[1]
    self.assertLen(counts, 6)
    self.assertGreater(stats.chisquare(counts).pvalue, 1e-3)

  @parameterized.parameters(1, 2, 3, 4, 5)
  def test_padding_never_reads_the_rows_of_another_client(self, client):
    sizes = _FEDERATIONS[0]
    parts = _partition(sizes)
    poisoned = np.full((sum(sizes), 1), np.nan, np.float32)
    poisoned[parts.rows(client)] = 1.0
    data = federated.federated_dataset(
      poisoned, np.zeros(sum(sizes), np.int32), parts
    )
    batches = _epoch(data, client, jax.random.key(0))
    # A step too many is all padding.
    batches += [_batch(data, client, jax.random.key(0), len(batches))]
    self.assertFalse(batches[-1].mask.any())
    everything = data.client(client).everything()
    for batch in [*batches, everything]:
      chex.assert_tree_all_finite(batch.inputs)
    self.assertEqual(everything.mask.sum(), sizes[client])

  def test_a_client_without_examples_has_only_masked_rows(self):
    # The last client's range begins beyond the end of the order.
    data, _ = _dataset([2, 0])
    self.assertEqual(data.client(1).steps_per_epoch(_B), 0)
    self.assertFalse(_batch(data, 1, jax.random.key(0), 0).mask.any())
    self.assertFalse(data.client(1).everything().mask.any())

  def test_everything_is_all_of_a_clients_examples(self):
    data, parts = _dataset([2, 5])
    for client in (0, 1):
      everything = data.client(client).everything()
      self.assertEqual(everything.labels.shape, (5,))
      self.assertEqual(
        everything.labels[everything.mask].tolist(),
        parts.rows(client).tolist(),
      )

  def test_clients_can_be_mapped(self):
    data, parts = _dataset([5, 0, 2])
    batch = jax.vmap(functools.partial(_batch, data), (0, None, None))(
      jnp.arange(3), jax.random.key(0), 0
    )
    for client in range(3):
      self.assertContainsSubset(
        batch.labels[client][batch.mask[client]].tolist(),
        parts.rows(client).tolist(),
      )
    self.assertEqual(batch.mask.sum(axis=1).tolist(), [4, 0, 2])


class DatasetTest(parameterized.TestCase):
  def test_select_keeps_the_clients_and_shares_the_examples(self):
    data, parts = _dataset([3, 1, 7, 2], groups=[0, 1, 0, 1])
    chosen = data.select(np.array([3, 1]))
    self.assertIs(chosen.inputs, data.inputs)
    self.assertIs(chosen.labels, data.labels)
    self.assertIs(chosen.order, data.order)
    self.assertEqual(chosen.num_clients, 2)
    self.assertEqual(chosen.sizes.tolist(), [2, 1])
    self.assertEqual(chosen.groups.tolist(), [1, 1])
    self.assertEqual((chosen.min_size, chosen.max_size), (1, 2))
    for new, old in ((0, 3), (1, 1)):
      seen = chosen.client(new).everything()
      self.assertEqual(
        seen.labels[seen.mask].tolist(), parts.rows(old).tolist()
      )

  def test_merged_is_one_client_with_the_rows_of_those_selected(self):
    data, parts = _dataset([2, 3, 4])
    merged = data.select(np.array([2, 0])).merged()
    self.assertEqual((merged.num_clients, merged.max_size), (1, 6))
    np.testing.assert_array_equal(
      np.sort(merged.order), np.sort(np.r_[parts.rows(0), parts.rows(2)])
    )

  @parameterized.parameters(([],), ([-1],), ([0, 2],))
  def test_select_refuses_clients_that_do_not_exist(self, clients):
    data, _ = _dataset([1, 2])
    with self.assertRaisesRegex(InputError, r'indices in \[0, 2\)'):
      data.select(np.array(clients, int))

  def test_a_million_clients_take_seconds_and_the_memory_of_their_indices(
    self,
  ):
    num = 1_000_000
    start = time.monotonic()
    parts = partition.iid(num, num, seed=0)
    data = federated.federated_dataset(
      np.zeros((num, 1), np.uint8), np.arange(num), parts
    )
    batch = _batch(data, num - 1, jax.random.key(0), 0)
    self.assertLess(time.monotonic() - start, 20)
    examples = trees.num_bytes((data.inputs, data.labels))
    self.assertEqual(trees.num_bytes(data) - examples, 4 * 4 * num)
    self.assertEqual(
      batch.labels[batch.mask].tolist(), parts.rows(num - 1).tolist()
    )

  @parameterized.named_parameters(
    ('no_examples', 0, [], [], 'num_examples=0'),
    ('no_clients', 2, [], [], 'num_clients=0'),
    ('no_rows', 2, [], [0, 0], 'num_rows=0'),
    ('row_too_large', 2, [0, 2], [2], r'rows in \[0, 2\), got .* 0 to 2'),
    ('row_negative', 2, [0, -1], [2], r'rows in \[0, 2\), got .* -1 to 0'),
    ('sizes_too_small', 2, [0, 1], [1], 'sum to its 2 rows, got 1'),
    ('sizes_too_large', 2, [0, 1], [3], 'sum to its 2 rows, got 3'),
    ('size_negative', 2, [0, 1], [3, -1], 'smallest size of -1'),
  )
  def test_refuses_a_partition_that_does_not_fit(
    self, num_examples, order, sizes, message
  ):
    parts = Partition(
      np.array(order, np.int32),
      np.array(sizes, np.int32),
      np.zeros(len(sizes), np.int32),
      'wrong',
    )
    with self.assertRaisesRegex(InputError, message):
      federated.federated_dataset(
        np.zeros((num_examples, 1), np.float32),
        np.zeros(num_examples, np.int32),
        parts,
      )

  def test_refuses_labels_and_groups_of_another_length(self):
    inputs = np.zeros((3, 1), np.float32)
    parts = partition.iid(3, 1, seed=0)
    with self.assertRaisesRegex(InputError, '2 labels and 3 inputs'):
      federated.federated_dataset(inputs, np.zeros(2, np.int32), parts)
    groups = Partition(parts.order, parts.sizes, np.zeros(2, np.int32), 'x')
    with self.assertRaisesRegex(InputError, 'each of 1 clients, got 2'):
      federated.federated_dataset(inputs, np.zeros(3, np.int32), groups)


if __name__ == '__main__':
  absltest.main()
