"""Prior means of groups: what each strategy promises, and the distances."""

import itertools

from absl.testing import absltest, parameterized
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.models import priors

_ALL = list(priors.STRATEGIES)
_APART = [name for name in _ALL if name != 'identical']


def _pairs(means):
  distances = priors.pairwise_distances(means)
  return distances[np.triu_indices(len(means), 1)]


class StrategiesTest(parameterized.TestCase):
  @parameterized.product(name=_ALL, num_groups=[1, 2, 5], size=[10, 17])
  def test_means_are_finite_float32_and_scale_with_the_scale(
    self, name, num_groups, size
  ):
    means = priors.group_means(name, num_groups, size, scale=1.0, seed=3)
    self.assertEqual(means.shape, (num_groups, size))
    self.assertEqual(means.dtype, np.float32)
    self.assertTrue(np.isfinite(means).all())
    twice = priors.group_means(name, num_groups, size, scale=2.0, seed=3)
    np.testing.assert_array_equal(twice, 2 * means)
    none = priors.group_means(name, num_groups, size, scale=0.0, seed=3)
    np.testing.assert_array_equal(none, np.zeros_like(means))

  @parameterized.product(name=_APART, num_groups=[2, 3, 5, 8])
  def test_no_two_groups_share_a_mean(self, name, num_groups):
    for size in range(2 * num_groups, 2 * num_groups + 9):
      means = priors.group_means(name, num_groups, size)
      self.assertGreater(_pairs(means).min(), 0.1)

  @parameterized.parameters(*_ALL)
  def test_one_group_with_one_dimension_is_allowed(self, name):
    means = priors.group_means(name, 1, 1, distance=5.0)
    np.testing.assert_array_equal(means, priors.group_means(name, 1, 1))

  def test_identical_is_the_standard_prior(self):
    np.testing.assert_array_equal(
      priors.group_means('identical', 3, 4, scale=7.0), np.zeros((3, 4))
    )

  @parameterized.parameters((2, 8), (3, 8), (5, 5), (5, 17))
  def test_one_hot_supports_are_disjoint_and_cover_all_dimensions(
    self, num_groups, size
  ):
    means = priors.group_means('one_hot', num_groups, size, scale=3.0)
    np.testing.assert_array_equal((means != 0).sum(axis=0), np.ones(size))
    np.testing.assert_array_equal(means.sum(axis=0), np.full(size, 3.0))
    widths = (means != 0).sum(axis=1)
    self.assertIn(widths.min(), (size // num_groups,))
    self.assertLessEqual(np.ptp(widths), 1)
    # Blocks lie in the order of the groups.
    self.assertTrue((np.diff(means.argmax(axis=1)) > 0).all())

  def test_one_hot_is_as_far_apart_as_its_blocks_are_long(self):
    distances = _pairs(priors.group_means('one_hot', 4, 12, scale=2.0))
    np.testing.assert_allclose(distances, 2 * np.sqrt(2 * 12 / 4), rtol=1e-6)

  def test_one_hot_single_is_the_identity_at_distance_root_two(self):
    means = priors.group_means('one_hot_single', 3, 5, scale=2.0)
    np.testing.assert_array_equal(means, 2 * np.eye(3, 5))
    np.testing.assert_allclose(_pairs(means), 2 * np.sqrt(2), rtol=1e-6)

  def test_symmetrical_of_two_is_plus_and_minus(self):
    means = priors.group_means('symmetrical', 2, 3, scale=1.5)
    np.testing.assert_array_equal(means, [[1.5] * 3, [-1.5] * 3])

  @parameterized.parameters(*range(1, 9))
  def test_symmetrical_adds_up_to_zero_in_even_steps(self, num_groups):
    means = priors.group_means('symmetrical', num_groups, 4, scale=3.0)
    # Exactly: each row has its mirror image.
    np.testing.assert_array_equal(means, -means[::-1])
    self.assertEqual((means == 0).all(axis=1).sum(), num_groups % 2)
    if num_groups > 1:
      steps = np.diff(means, axis=0)
      np.testing.assert_allclose(steps, -6 / (num_groups - 1), rtol=1e-5)
      distances = priors.pairwise_distances(means).diagonal(1)
      expected = 2 * 3 * np.sqrt(4) / (num_groups - 1)
      np.testing.assert_allclose(distances, expected, rtol=1e-5)

  def test_random_depends_on_the_seed_alone(self):
    first = priors.group_means('random', 4, 500, scale=2.0, seed=5)
    np.random.seed(0)  # noqa: NPY002, the global state must play no part
    again = priors.group_means('random', 4, 500, scale=2.0, seed=5)
    np.testing.assert_array_equal(first, again)
    other = priors.group_means('random', 4, 500, scale=2.0, seed=6)
    self.assertFalse((first == other).any())
    np.testing.assert_allclose(first.std(), 2.0, rtol=0.1)
    np.testing.assert_allclose(_pairs(first), 2 * np.sqrt(1000), rtol=0.15)

  def test_random_draws_are_those_of_every_machine(self):
    means = priors.group_means('random', 1, 3, seed=0)
    np.testing.assert_allclose(
      means[0], [0.12573022, -0.13210486, 0.64042264], rtol=1e-6
    )

  @parameterized.parameters((5, 11), (5, 16), (3, 64))
  def test_waves_are_orthogonal_and_equally_far_apart(self, num_groups, size):
    means = priors.group_means('wave', num_groups, size, scale=2.0)
    means = means.astype(np.float64)
    expected = np.eye(num_groups) * 4 * size / 2
    np.testing.assert_allclose(means @ means.T, expected, atol=1e-4)
    np.testing.assert_allclose(_pairs(means), 2 * np.sqrt(size), rtol=1e-5)

  def test_waves_follow_the_formula(self):
    means = priors.group_means('wave', 2, 7, scale=3.0)
    for group, dimension in itertools.product(range(2), range(7)):
      turns = (group + 1) * (dimension + 0.5) / 7
      np.testing.assert_allclose(
        means[group, dimension], 3 * np.sin(2 * np.pi * turns), atol=1e-6
      )

  @parameterized.parameters((3, 8), (4, 9), (8, 16))
  def test_square_waves_are_the_signs_of_waves(self, num_groups, size):
    waves = priors.group_means('wave', num_groups, size)
    squares = priors.group_means('square_wave', num_groups, size, scale=2.0)
    signs = np.where(abs(waves) < 1e-6, 0, np.sign(waves))
    np.testing.assert_array_equal(squares, 2 * signs)


class DistanceTest(parameterized.TestCase):
  @parameterized.product(name=_APART, num_groups=[2, 5])
  def test_mean_distance_is_the_one_asked_for_whatever_the_scale(
    self, name, num_groups
  ):
    plain = priors.group_means(name, num_groups, 16, seed=1)
    means = priors.group_means(name, num_groups, 16, distance=4.5, seed=1)
    self.assertEqual(means.dtype, np.float32)
    np.testing.assert_allclose(_pairs(means).mean(), 4.5, rtol=1e-5)
    # The layout is kept.
    factor = np.linalg.norm(means) / np.linalg.norm(plain)
    np.testing.assert_allclose(means, factor * plain, rtol=1e-5)
    for scale in (0.0, 3.0):
      other = priors.group_means(
        name, num_groups, 16, scale=scale, distance=4.5, seed=1
      )
      np.testing.assert_array_equal(other, means)

  def test_a_single_group_has_no_distance_and_keeps_its_scale(self):
    means = priors.group_means('one_hot', 1, 3, scale=2.0, distance=9.0)
    np.testing.assert_array_equal(means, [[2.0, 2.0, 2.0]])

  def test_pairwise_distances_are_euclidean(self):
    means = np.array([[0, 0], [3, 4], [0, 1]], np.float32)
    expected = [[0, 5, 1], [5, 0, np.sqrt(18)], [1, np.sqrt(18), 0]]
    np.testing.assert_allclose(priors.pairwise_distances(means), expected)


class ChecksTest(parameterized.TestCase):
  @parameterized.parameters(
    ({'strategy': 'learnable'}, "identical, .*got strategy='learnable'"),
    ({'num_groups': 0}, 'num_groups=0'),
    ({'num_groups': 2.0}, 'num_groups=2.0'),
    ({'size': 0}, 'size=0'),
    ({'scale': -1.0}, 'scale=-1.0'),
    ({'scale': float('nan')}, 'scale=nan'),
    ({'distance': -1.0}, 'distance=-1.0'),
    ({'seed': -1}, 'seed=-1'),
    (
      {'strategy': 'identical', 'distance': 2.0},
      "distance=0 for strategy='identical'.*got distance=2.0",
    ),
  )
  def test_a_bad_argument_is_named_with_its_value(self, fields, message):
    arguments = {'strategy': 'wave', 'num_groups': 2, 'size': 4, **fields}
    with self.assertRaisesRegex(InputError, message):
      priors.group_means(**arguments)

  @parameterized.parameters(
    ('one_hot', 3), ('one_hot_single', 3), ('wave', 6), ('square_wave', 6)
  )
  def test_too_few_dimensions_are_refused(self, name, least):
    priors.group_means(name, 3, least)
    message = f"size >= {least} for strategy='{name}'.*got size={least - 1}"
    with self.assertRaisesRegex(InputError, message):
      priors.group_means(name, 3, least - 1)


if __name__ == '__main__':
  absltest.main()
