"""Class Gaussians of one release: bounded, exact without noise, and usable."""

import functools
import gzip
import os
import pathlib

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.data.federated import federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.errors import InputError
from fedjax_gen.federated import blocks
from fedjax_gen.federated.statistics import correlated_gaussians
from fedjax_gen.privacy import accounting, clipping
from fedjax_gen.privacy.one_upload import (
  gaussian_release,
  kernel_release,
  one_release,
)
from fedjax_gen.privacy.one_upload.gaussian_release import (
  STRUCTURES,
  GaussianStatistic,
)
from fedjax_gen.privacy.one_upload.kernel_release import KernelStatistic

_CLASSES, _SIZE = 3, 6
_SIZES = np.array([400, 600, 0], np.int32)
_KEY = jax.random.key(0)
_STATISTICS = (
  *(GaussianStatistic(_CLASSES, structure) for structure in STRUCTURES),
  KernelStatistic(_CLASSES, 20),
)


def _records(seed=0, num=1000):
  """Correlated features of norm below sqrt(F), and classes 0 and 1."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, _CLASSES - 1, num)
  mixing = 0.2 * rng.normal(size=(_SIZE, _SIZE))
  inputs = rng.normal(size=(num, _SIZE)) @ mixing + 0.3 * (labels[:, None] - 1)
  inputs /= np.maximum(
    1, np.linalg.norm(inputs, axis=1, keepdims=True) / np.sqrt(_SIZE)
  )
  return inputs.astype(np.float32), labels.astype(np.int32)


def _dataset(inputs, labels, sizes=_SIZES):
  order = np.random.default_rng(1).permutation(len(inputs)).astype(np.int32)
  groups = np.zeros_like(sizes)
  return federated_dataset(
    inputs, labels, Partition(order, sizes, groups, 'toy')
  )


def _sums(statistic, noise_multiplier=0.0, data=None, **options):
  data = _dataset(*_records()) if data is None else data
  return one_release.release(
    options.pop('key', _KEY), data, statistic,
    noise_multiplier=noise_multiplier, **options,
  )  # fmt: skip


@functools.cache
def _one(statistic):
  return jax.jit(
    lambda features, label: statistic(
      features[None], label[None], jnp.ones(1, bool)
    )
  )


class SensitivityTest(parameterized.TestCase):
  @parameterized.product(
    statistic=_STATISTICS,
    scale=[1e-3, 1.0, 100.0, 1e30, 3e38, np.nan, np.inf, -np.inf],
  )
  def test_a_record_has_a_norm_of_one_at_most(self, statistic, scale):
    inputs, _ = _records()
    lone = np.zeros(_SIZE, np.float32)
    lone[2] = 2.0  # all of its length in one feature
    norms = []
    for features in (*inputs[:5], lone):
      with np.errstate(over='ignore', invalid='ignore'):
        features = jnp.float32(features * np.float32(scale))
      part = _one(statistic)(features, jnp.int32(1))
      chex.assert_tree_all_finite(part)
      norms.append(float(clipping.tree_norm(part)))
    self.assertLessEqual(max(norms), 1 + 1e-6)
    if not np.isfinite(scale):
      self.assertEqual(norms[-1], 0)  # others may be no number but in zeros
    if scale in (100.0, 1e30) and statistic != _STATISTICS[2]:
      self.assertGreater(norms[0], 1 - 1e-5)  # the bound is reached

  @parameterized.product(statistic=_STATISTICS, label=[-1, _CLASSES, 10**6])
  def test_a_record_of_no_class_counts_for_nothing(self, statistic, label):
    inputs, _ = _records()
    part = _one(statistic)(jnp.asarray(inputs[0]), jnp.int32(label))
    self.assertEqual(float(clipping.tree_norm(part)), 0)

  @parameterized.product(
    statistic=_STATISTICS,
    unit=['record', 'client'],
    value=[0.3, 1e30, np.nan],
  )
  def test_who_is_there_moves_the_sums_by_one_at_most(
    self, statistic, unit, value
  ):
    inputs, labels = _records()
    data = _dataset(inputs, labels)
    mine = np.asarray(data.order[:400])
    changed = inputs.copy()
    changed[mine[-1] if unit == 'record' else mine] = value
    less = _SIZES - [1, 0, 0] if unit == 'record' else _SIZES * [0, 1, 1]
    there = _dataset(changed, labels)
    without = blocks.subset(there, np.arange(3))
    object.__setattr__(without, 'sizes', jnp.asarray(less, jnp.int32))
    moved = jax.tree.map(
      jnp.subtract,
      _sums(statistic, data=there, unit=unit),
      _sums(statistic, data=without, unit=unit),
    )
    chex.assert_tree_all_finite(moved)
    norm = float(clipping.tree_norm(moved))
    self.assertLessEqual(norm, 1 + 1e-3)  # sums of a thousand, in float32
    if np.isfinite(value):
      self.assertGreater(norm, 0.1)

  @parameterized.parameters(*_STATISTICS)
  def test_every_client_adds_the_noise_that_is_charged(self, statistic):
    clean = _sums(statistic)
    for share in (1.0, 3**-0.5):
      noisy = [
        _sums(statistic, 2.0, key=jax.random.key(seed), share=share)
        for seed in range(30)
      ]
      errors = np.concatenate(
        [
          np.ravel(leaf)
          for sums in noisy
          for leaf in jax.tree.leaves(jax.tree.map(jnp.subtract, sums, clean))
        ]
      )
      expected = one_release.summed_stddev(2.0, 3, share)
      np.testing.assert_allclose(errors.std(), expected, rtol=0.1)


class SumsTest(parameterized.TestCase):
  @parameterized.parameters(*STRUCTURES)
  def test_sums_equal_those_of_numpy(self, structure):
    statistic = GaussianStatistic(_CLASSES, structure)
    inputs, labels = map(np.float64, _records())
    counts, first, second = statistic.restored(_sums(statistic))
    rows, columns = np.triu_indices(_SIZE)
    outer = np.zeros((_CLASSES, len(rows)))
    for label in range(_CLASSES):
      mine = inputs[labels == label]
      self.assertAlmostEqual(counts[label], len(mine), delta=1e-2)
      np.testing.assert_allclose(first[label], mine.sum(0), atol=1e-2)
      outer[label] = (mine.T @ mine)[rows, columns]
      if structure == 'diagonal':
        squares = (mine**2).sum(0)
        np.testing.assert_allclose(second[label], squares, atol=1e-2)
    if structure == 'pooled':
      np.testing.assert_allclose(second, outer.sum(0)[None], atol=1e-2)
    elif structure == 'by_class':
      np.testing.assert_allclose(second, outer, atol=1e-2)

  @parameterized.parameters(_STATISTICS[0], _STATISTICS[-1])
  def test_clients_that_come_in_parts_add_up_to_the_same_bits(self, statistic):
    data = _dataset(*_records())
    whole = _sums(statistic, 1.0, data=data)
    sums, rows = None, jnp.arange(3)
    for part in (rows[:1], rows[1:]):
      sums = _sums(
        statistic, 1.0, data=blocks.subset(data, part), rows=part, before=sums
      )
    chex.assert_trees_all_equal(sums, whole)

  def test_arguments_are_checked(self):
    with self.assertRaisesRegex(InputError, 'structure'):
      GaussianStatistic(3, 'banded')
    with self.assertRaisesRegex(InputError, 'num_features'):
      KernelStatistic(3, 7)
    with self.assertRaisesRegex(InputError, 'unit'):
      _sums(_STATISTICS[0], unit='none')
    with self.assertRaisesRegex(InputError, 'noise_multiplier'):
      _sums(_STATISTICS[0], -1.0)
    with self.assertRaisesRegex(InputError, 'rank <= 6'):
      gaussian_release.fit(
        _STATISTICS[0], _sums(_STATISTICS[0]), 0.0, rank=_SIZE + 1
      )


class FitTest(parameterized.TestCase):
  @parameterized.parameters(*STRUCTURES)
  def test_samples_have_the_means_and_covariances_of_the_records(
    self, structure
  ):
    statistic = GaussianStatistic(_CLASSES, structure)
    inputs, labels = _records()
    found = gaussian_release.fit(statistic, _sums(statistic), 0.0)
    np.testing.assert_array_equal(found.known, [True, True, False])
    asked = np.repeat(np.arange(2), 20_000)
    drawn = np.asarray(correlated_gaussians.sample(found, asked, _KEY))
    within = inputs - np.stack(
      [inputs[labels == label].mean(0) for label in range(2)]
    )[labels]  # fmt: skip
    for label in range(2):
      mine = drawn[asked == label]
      theirs = inputs[labels == label]
      np.testing.assert_allclose(mine.mean(0), theirs.mean(0), atol=0.02)
      of_class = within if structure == 'pooled' else within[labels == label]
      expected = np.cov(of_class.T, bias=True)
      if structure == 'diagonal':
        # Squares with a norm above 2 sqrt(F) are clipped: none is here.
        expected = np.diag(np.diag(expected))
      np.testing.assert_allclose(np.cov(mine.T), expected, atol=0.02)
      np.testing.assert_allclose(
        found.variances()[label], np.diag(expected), atol=0.02
      )

  def test_an_example_depends_on_its_number_and_class_alone(self):
    found = gaussian_release.fit(_STATISTICS[1], _sums(_STATISTICS[1]), 0.0)
    labels = np.arange(40) % 2
    drawn = correlated_gaussians.sample(found, labels, _KEY)
    fewer = correlated_gaussians.sample(found, labels[:3], _KEY)
    np.testing.assert_allclose(drawn[:3], fewer, rtol=1e-6)

  def test_eigenvalues_within_the_noise_become_their_mean(self):
    statistic, multiplier = _STATISTICS[0], 5.0
    stddev = one_release.summed_stddev(multiplier, 3)
    sums = _sums(statistic, multiplier)
    spectra = {}
    for name, options in (
      ('none', {'floor': False}), ('floor', {}), ('rank', {'rank': 2}),
    ):  # fmt: skip
      [factor] = gaussian_release.fit(
        statistic, sums, stddev, **options
      ).factors
      spectra[name] = np.sort(np.linalg.svd(factor)[1] ** 2)
    self.assertLess(len(np.unique(np.round(spectra['floor'], 4))), _SIZE)
    np.testing.assert_allclose(spectra['rank'][:4], spectra['rank'][0], 1e-3)
    np.testing.assert_allclose(spectra['rank'][4:], spectra['none'][4:], 1e-3)
    for values in spectra.values():
      self.assertGreater(values.min(), 0)

  @parameterized.parameters(*STRUCTURES)
  def test_what_is_lost_in_the_noise_is_unknown_and_n_0_i(self, structure):
    statistic = GaussianStatistic(_CLASSES, structure)
    sums = _sums(statistic, 1e4)
    found = gaussian_release.fit(
      statistic, sums, one_release.summed_stddev(1e4, 3)
    )
    self.assertFalse(np.any(found.known))
    np.testing.assert_array_equal(found.means, 0)
    np.testing.assert_allclose(found.variances(), 1.0)

  def test_mean_embeddings_are_those_of_the_records(self):
    statistic = _STATISTICS[-1]
    inputs, labels = _records()
    found = kernel_release.mean_embeddings(statistic, _sums(statistic), 0.0)
    np.testing.assert_array_equal(found.known, [True, True, False])
    features = np.asarray(statistic.features(jnp.asarray(inputs)))
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    for label in range(2):
      mine = features[labels == label]
      np.testing.assert_allclose(found.means[label], mine.mean(0), atol=1e-3)
    # Their products are about the kernel.
    wide = KernelStatistic(_CLASSES, 20_000, scales=(0.5,))
    left, right = wide.features(jnp.asarray(inputs[:2]))
    distance = np.sum((inputs[0] - inputs[1]) ** 2) / _SIZE
    self.assertAlmostEqual(left @ right, np.exp(-distance), delta=0.03)


class ImagesTest(absltest.TestCase):
  def test_real_images_are_classified_by_samples_under_noise(self):
    """MNIST in 7 x 7 pixels, epsilon 3 and 1, by the nearest Gaussian."""
    folder = os.environ.get('FEDJAX_GEN_DATA')
    if not folder:
      self.skipTest('FEDJAX_GEN_DATA names no folder with mnist/*.gz')
    inputs, labels = _small_images(pathlib.Path(folder) / 'mnist')
    sizes = np.full(10, 800, np.int32)
    order = np.arange(8000, dtype=np.int32)
    data = federated_dataset(
      inputs[:8000], labels[:8000],
      Partition(order, sizes, np.zeros_like(sizes), 'toy'),
    )  # fmt: skip
    statistic, reached = GaussianStatistic(10), {}
    for epsilon in (np.inf, 3.0, 1.0):
      multiplier = 0.0
      if np.isfinite(epsilon):
        multiplier = accounting.noise_multiplier(
          epsilon, 1e-5, accountant='rdp'
        )
      sums = _sums(statistic, multiplier, data=data)
      stddev = one_release.summed_stddev(multiplier, 10)
      found = gaussian_release.fit(statistic, sums, stddev)
      self.assertTrue(np.all(found.known))
      asked = np.arange(5000) % 10
      drawn = np.float64(correlated_gaussians.sample(found, asked, _KEY))
      onehot = np.eye(10)[asked]
      features = np.c_[drawn, np.ones(len(drawn))]
      weights = np.linalg.lstsq(features, onehot, rcond=None)[0]
      scores = np.c_[inputs[8000:], np.ones(2000)] @ weights
      reached[epsilon] = np.mean(scores.argmax(1) == labels[8000:])
    self.assertGreater(reached[np.inf], 0.75)
    self.assertGreater(reached[3.0], 0.70)
    self.assertGreater(reached[1.0], 0.60)


def _small_images(folder):
  """10,000 test images, standardised by themselves."""
  with gzip.open(folder / 't10k-images-idx3-ubyte.gz') as file:
    pixels = np.frombuffer(file.read()[16:], np.uint8)
  with gzip.open(folder / 't10k-labels-idx1-ubyte.gz') as file:
    labels = np.frombuffer(file.read()[8:], np.uint8).astype(np.int32)
  pixels = pixels.reshape(10_000, 7, 4, 7, 4).mean(axis=(2, 4))
  inputs = pixels.reshape(10_000, 49)
  inputs -= inputs.mean(axis=1, keepdims=True)
  inputs /= inputs.std(axis=1, keepdims=True)
  return inputs.astype(np.float32), labels


if __name__ == '__main__':
  absltest.main()
