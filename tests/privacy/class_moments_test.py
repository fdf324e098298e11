"""Moments of classes: exact without noise, and bounded whatever a record is."""

import dataclasses
import functools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.data.federated import federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.errors import InputError
from fedjax_gen.federated import blocks
from fedjax_gen.privacy import accounting, clipping
from fedjax_gen.privacy.one_upload import class_moments
from fedjax_gen.privacy.one_upload.class_moments import ClassSums

_NUM_CLASSES, _NUM_FEATURES = 3, 8
_SIZES = np.array([6, 10, 0], np.int32)
_KEY = jax.random.key(0)


def _records(seed=0):
  """Inputs of mean square one, and labels of which the last class has none."""
  rng = np.random.default_rng(seed)
  inputs = rng.normal(size=(_SIZES.sum(), _NUM_FEATURES)).astype(np.float32)
  inputs /= np.sqrt((inputs**2).mean(axis=1, keepdims=True))
  return inputs, rng.integers(0, _NUM_CLASSES - 1, _SIZES.sum())


def _dataset(inputs, labels):
  order = np.random.default_rng(1).permutation(len(inputs)).astype(np.int32)
  groups = np.zeros_like(_SIZES)
  return federated_dataset(
    inputs, labels, Partition(order, _SIZES, groups, 'toy')
  )


def _with_sizes(data, sizes):
  """The data with fewer records of some clients; shapes stay."""
  return dataclasses.replace(data, sizes=jnp.asarray(sizes, jnp.int32))


def _sums(data, unit='record', noise_multiplier=0.0, key=_KEY, share=1.0):
  return class_moments.class_sums(
    key, data, _NUM_CLASSES, noise_multiplier=noise_multiplier, unit=unit,
    share=share,
  )  # fmt: skip


def _units(sums):
  """The sums in the units in which one record has a norm of one."""
  root = np.sqrt(_NUM_FEATURES)
  parts = sums.counts, sums.first / root, sums.second / (2 * root)
  return ClassSums(*(part / np.sqrt(3) for part in parts))


@functools.cache
def _contribution():
  return jax.jit(
    lambda features, label: class_moments.contribution(
      features, label, _NUM_CLASSES
    )
  )


class ClassSumsTest(parameterized.TestCase):
  def test_without_noise_moments_of_bounded_records_are_exact(self):
    inputs, labels = _records()
    self.assertLess(np.linalg.norm(inputs**2, axis=1).max(), 2 * np.sqrt(8))
    counts, means, variances = _sums(_dataset(inputs, labels)).moments()
    for label in range(_NUM_CLASSES - 1):
      mine = np.float64(inputs[labels == label])
      self.assertAlmostEqual(counts[label], len(mine), places=4)
      np.testing.assert_allclose(means[label], mine.mean(0), atol=1e-5)
      np.testing.assert_allclose(variances[label], mine.var(0), atol=1e-5)
    # A class that no record has.
    for values in (counts, means, variances):
      np.testing.assert_array_equal(values[-1], 0)

  def test_clients_that_come_in_parts_add_up_to_the_same_bits(self):
    data = _dataset(*_records())
    whole = _sums(data, noise_multiplier=1.0)
    sums, rows = None, jnp.arange(len(_SIZES))
    for part in (rows[:1], rows[1:]):
      sums = class_moments.class_sums(
        _KEY, blocks.subset(data, part), _NUM_CLASSES, noise_multiplier=1.0,
        rows=part, before=sums,
      )  # fmt: skip
    chex.assert_trees_all_equal(sums, whole)
    by_client = [
      class_moments.class_sums_by_client(
        _KEY, blocks.subset(data, part), _NUM_CLASSES, noise_multiplier=1.0,
        rows=part,
      )
      for part in (rows, rows[1:])
    ]  # fmt: skip
    chex.assert_trees_all_equal(
      by_client[1], jax.tree.map(lambda leaf: leaf[1:], by_client[0])
    )

  def test_clients_count_alike_with_clients_as_the_unit(self):
    inputs, labels = _records()
    data = _dataset(inputs, labels)
    sums = _sums(data, 'client')
    expected = np.zeros(_NUM_CLASSES)
    first = np.zeros((_NUM_CLASSES, _NUM_FEATURES))
    order = np.asarray(data.order)
    for rows in (order[:6], order[6:16]):
      for row in rows:
        expected[labels[row]] += 1 / len(rows)
        first[labels[row]] += inputs[row] / len(rows)
    np.testing.assert_allclose(sums.counts, expected, atol=1e-5)
    np.testing.assert_allclose(sums.first, first, atol=1e-5)

  @parameterized.parameters(1.0, 100.0, 1e-3, 1e30, np.nan, np.inf)
  def test_a_record_has_a_norm_of_one_at_most(self, scale):
    inputs, _ = _records()
    norms = []
    # One of them has all its length in one feature, or nearly.
    for features in [*inputs[:4], np.geomspace(3, 1e-3, _NUM_FEATURES)]:
      part = _contribution()(jnp.float32(features * scale), jnp.int32(1))
      chex.assert_tree_all_finite(part)
      norms.append(float(clipping.tree_norm(part)))
      # Other classes' sums do not move.
      for leaf in part:
        self.assertEqual(np.abs(np.delete(leaf, 1, axis=0)).max(), 0)
    self.assertLessEqual(max(norms), 1 + 1e-6)
    if scale == 100.0:  # the bound is reached
      self.assertGreater(min(norms), 1 - 1e-6)

  @parameterized.product(
    unit=['record', 'client'], value=[0.3, 50.0, np.nan, np.inf]
  )
  def test_who_is_added_moves_the_sums_by_one_at_most(self, unit, value):
    inputs, labels = _records()
    data = _dataset(inputs, labels)
    changed = inputs.copy()
    mine = np.asarray(data.order[:6])
    if unit == 'record':
      changed[mine[-1]] = value
      sizes = _SIZES - [1, 0, 0]
    else:
      changed[mine] = value
      sizes = _SIZES * [0, 1, 1]
    there = _dataset(changed, labels)
    without = _with_sizes(there, sizes)
    moved = jax.tree.map(
      jnp.subtract, _units(_sums(there, unit)), _units(_sums(without, unit))
    )
    chex.assert_tree_all_finite(moved)
    norm = float(clipping.tree_norm(moved))
    self.assertBetween(norm, 0.3, 1 + 1e-5)  # it did move

  @parameterized.parameters(('record', 1.0), ('client', 1.0), ('record', 0.5))
  def test_every_client_adds_the_noise_that_is_charged(self, unit, share):
    data = _dataset(*_records())
    clean = _units(_sums(data, unit))
    drawn = [
      _units(_sums(data, unit, 2.0, jax.random.key(i), share))
      for i in range(60)
    ]
    errors = [jax.tree.map(jnp.subtract, noisy, clean) for noisy in drawn]
    for part in range(3):
      flat = np.ravel([np.ravel(error[part]) for error in errors])
      # Three clients, the empty one included, each by itself.
      expected = 2.0 * share * np.sqrt(3)
      np.testing.assert_allclose(flat.std(), expected, rtol=0.2)
    joined = [
      np.concatenate([np.ravel(leaf) for leaf in error]) for error in errors
    ]
    self.assertLess(abs(np.corrcoef(joined[0], joined[1])[0, 1]), 0.5)

  def test_noise_leaves_no_impossible_moments(self):
    data = _dataset(*_records())
    for seed in range(5):
      sums = _sums(data, noise_multiplier=3.0, key=jax.random.key(seed))
      counts, means, variances = sums.moments(least_count=2.0)
      chex.assert_tree_all_finite((counts, means, variances))
      self.assertGreaterEqual(float(variances.min()), 0)
      unknown = np.asarray(sums.counts) < 2.0
      np.testing.assert_array_equal(np.asarray(counts) == 0, unknown)
      np.testing.assert_array_equal(np.asarray(means)[unknown], 0)
      np.testing.assert_array_equal(np.asarray(variances)[unknown], 0)

  @parameterized.parameters(8.0, 1.0)
  def test_a_class_that_nobody_holds_is_never_taken_as_known(self, epsilon):
    """Of ten clients with thousands of records, at 15 percent of epsilon."""
    num, classes = 10, 5
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes - 1, 5000)
    inputs = rng.normal(size=(5000, 4)).astype(np.float32)
    inputs[:, 0] += labels
    inputs /= np.sqrt((inputs**2).mean(axis=1, keepdims=True))
    order = np.arange(5000, dtype=np.int32)
    sizes = np.full(num, 500, np.int32)
    groups = np.zeros_like(sizes)
    data = federated_dataset(
      inputs, labels, Partition(order, sizes, groups, 'toy')
    )
    multiplier = accounting.noise_multiplier(
      0.15 * epsilon, 1e-4, accountant='rdp'
    )
    least = class_moments.least_count(multiplier, num)
    known_anyhow = 0
    for seed in range(12):
      sums = class_moments.class_sums(
        jax.random.key(seed), data, classes, noise_multiplier=multiplier
      )
      counts, means, _ = sums.moments(least)
      self.assertEqual(counts[-1], 0)
      np.testing.assert_array_equal(means[-1], 0)
      self.assertTrue((counts[:-1] > 0).all())
      known_anyhow += bool(sums.moments()[0][-1] > 0)
    self.assertGreater(known_anyhow, 2)  # by the noise alone

  @parameterized.parameters(
    ({'num_classes': 0}, 'num_classes'),
    ({'noise_multiplier': -1.0}, 'noise_multiplier'),
    ({'unit': 'none'}, 'unit'),
  )
  def test_arguments_are_checked(self, fields, name):
    arguments = {'num_classes': 3, 'noise_multiplier': 0.0, **fields}
    with self.assertRaisesRegex(InputError, name):
      class_moments.class_sums(_KEY, _dataset(*_records()), **arguments)


if __name__ == '__main__':
  absltest.main()
