"""Clusters of clients: the true ones, named stably, as many as there are."""

from absl.testing import absltest, parameterized
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.federated.statistics import grouping
from fedjax_gen.federated.statistics.grouping import agreement, assign, discover

_CENTRES = 100 + 6 * np.random.default_rng(7).normal(size=(5, 6))


def _clients(sizes, seed=0, noise=0.4):
  """Statistics and true groups of clients in shuffled order."""
  rng = np.random.default_rng(seed)
  true = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
  statistics = _CENTRES[true] + noise * rng.normal(size=(len(true), 6))
  # Features of very different units.
  return statistics * 10.0 ** np.arange(-3, 3), true


class DiscoverTest(parameterized.TestCase):
  @parameterized.parameters(
    ([12],), ([40],), ([3, 3],), ([9, 3],), ([5, 8, 3],), ([4, 6, 3, 7, 5],)
  )
  def test_finds_groups_and_their_number(self, *sizes):
    [sizes] = sizes
    statistics, true = _clients(sizes)
    found = discover(statistics)
    self.assertEqual(found.num_groups, len(sizes))
    self.assertEqual(agreement(found.groups, true), (1.0, 1.0))
    again = discover(statistics, len(sizes))
    np.testing.assert_array_equal(again.groups, found.groups)

  def test_one_group_is_seldom_split(self):
    # Features that hang together are the hard case: in one dimension k-means
    # cuts anything into neat pieces.
    rng = np.random.default_rng(1)
    split = 0
    for _ in range(20):
      factor = rng.normal(size=(12, 1))
      statistics = factor + 0.1 * rng.normal(size=(12, 4))
      split += discover(statistics, max_groups=3).num_groups > 1
    self.assertLessEqual(split, 3)

  def test_shift_and_scale_standardise(self):
    statistics, _ = _clients([4, 6])
    statistics[:, 2] = 7.0  # all clients alike: not divided by zero
    found = discover(statistics, 2)
    points = (statistics - found.shift) / found.scale
    np.testing.assert_allclose(points.mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(points.std(axis=0), [1, 1, 0, 1, 1, 1])
    for group in range(2):
      np.testing.assert_allclose(
        found.centroids[group],
        points[found.groups == group].mean(axis=0),
        atol=1e-6,
      )

  def test_errors_tell_scatter_from_groups(self):
    rng = np.random.default_rng(2)
    true = np.arange(8) % 2
    # One feature tells the groups apart, by ten standard errors; nine scatter.
    statistics = rng.normal(size=(8, 10)) * 5.0
    statistics[:, 3] = 0.1 * true + 0.01 * rng.normal(size=8)
    errors = np.full((8, 10), 5.0)
    errors[:, 3] = 0.01
    found = discover(statistics, errors=errors)
    self.assertEqual(agreement(found.groups, true), (1.0, 1.0))
    np.testing.assert_allclose(found.scale, errors[0])
    blind = discover(statistics, 2)
    self.assertLess(agreement(blind.groups, true).accuracy, 1.0)

  def test_units_do_not_matter(self):
    statistics, _ = _clients([4, 6, 5], noise=0.8)
    other = statistics * np.array([1e4, 1, 1e-3, 5, 1, 1]) - 3.0
    np.testing.assert_array_equal(
      discover(statistics, 4).groups, discover(other, 4).groups
    )

  def test_groups_are_named_by_their_first_client(self):
    statistics, _ = _clients([5, 8, 3])
    groups = discover(statistics, 3).groups
    self.assertEqual(groups.dtype, np.int32)
    _, first = np.unique(groups, return_index=True)
    np.testing.assert_array_equal(first, np.sort(first))
    self.assertEqual(groups[0], 0)

  def test_the_order_of_clients_does_not_matter(self):
    statistics, _ = _clients([5, 8, 3])
    whole = discover(statistics, 3)
    order = np.random.default_rng(5).permutation(16)
    shuffled = discover(statistics[order], 3)
    self.assertEqual(
      agreement(shuffled.groups, whole.groups[order]), (1.0, 1.0)
    )
    np.testing.assert_array_equal(
      assign(shuffled, statistics[order]), shuffled.groups
    )

  def test_clients_without_examples_do_not_count(self):
    statistics, true = _clients([3, 6])
    without = discover(statistics, 2)
    rows = np.array([0, 4, 9, 9])
    padded = np.insert(statistics, rows, np.nan, axis=0)
    padded[0] = 1e9
    sizes = np.insert(np.full(9, 5), rows, 0)
    found = discover(padded, 2, num_examples=sizes)
    np.testing.assert_array_equal(found.groups[sizes > 0], without.groups)
    largest = without.groups[true == 1][0]
    np.testing.assert_array_equal(found.groups[sizes == 0], largest)
    for name in ('centroids', 'shift', 'scale'):
      np.testing.assert_array_equal(
        getattr(found, name), getattr(without, name)
      )

  @parameterized.parameters(1, 2, 3)
  def test_too_few_or_equal_clients_are_one_group(self, count):
    found = discover(np.ones((count, 2)))
    np.testing.assert_array_equal(found.groups, np.zeros(count))
    self.assertEqual(found.num_groups, 1)
    np.testing.assert_array_equal(assign(found, np.zeros((2, 2))), [0, 0])

  def test_two_points_held_by_many_are_two_groups(self):
    statistics = np.repeat([[0.0, 1.0], [1.0, 0.0]], 4, axis=0)
    self.assertEqual(discover(statistics).num_groups, 2)

  def test_a_large_federation_is_chosen_on_a_part(self):
    statistics, true = _clients([900, 600])
    found = discover(statistics, max_groups=2)
    self.assertEqual(agreement(found.groups, true), (1.0, 1.0))

  def test_newcomers_find_the_nearest_centroid(self):
    statistics, true = _clients([5, 8, 3])
    found = discover(statistics[:12], 3)
    np.testing.assert_array_equal(assign(found, statistics[:12]), found.groups)
    self.assertEqual(agreement(assign(found, statistics), true), (1.0, 1.0))

  def test_nearest_is_in_standardised_units(self):
    found = grouping.Grouping(
      groups=np.array([0, 1]),
      centroids=np.array([[-1.0, -1.0], [1.0, 1.0]]),
      shift=np.array([10.0, 0.0]),
      scale=np.array([100.0, 0.1]),
    )
    # Second client: far on the first axis in its units, but the second says
    # more; third: the other way round without the shift.
    newcomers = np.array([[-90.0, -0.1], [-20.0, 0.1], [15.0, 0.0]])
    np.testing.assert_array_equal(assign(found, newcomers), [0, 1, 1])

  @parameterized.parameters(
    ({'statistics': np.ones(3)}, r'statistics of shape \[N, F\], got \[3\]'),
    ({'statistics': np.ones((0, 3))}, r'got \[0, 3\]'),
    ({'num_groups': 5}, 'num_groups <= 4.*num_groups=5'),
    ({'num_groups': 0}, 'num_groups=0'),
    ({'num_groups': 4, 'num_examples': [1, 1, 0, 1]}, 'num_groups <= 3'),
    ({'max_groups': 0}, 'max_groups=0'),
    ({'seed': -1}, 'seed=-1'),
    ({'num_examples': [1, 2]}, r'num_examples of shape \[4\].*got \[2\]'),
    ({'num_examples': [0] * 4}, 'num_examples > 0'),
    ({'errors': np.ones((4, 1))}, r'\[4, 2\], got \[4, 1\]'),
    ({'errors': np.full((4, 2), np.nan)}, 'finite.* 4 of 4 clients'),
    (
      {'statistics': np.array([[0.0], [np.nan], [np.inf]])},
      'finite.* 2 of 3 clients',
    ),
  )
  def test_bad_arguments_are_refused(self, arguments, message):
    good = {'statistics': np.arange(8.0).reshape(4, 2)}
    with self.assertRaisesRegex(InputError, message):
      discover(**(good | arguments))

  @parameterized.parameters(
    (np.ones((2, 3)), r'\[M, 2\].*got \[2, 3\]'),
    (np.ones(2), r'got \[2\]'),
    (np.array([[0.0, np.nan]]), 'finite'),
  )
  def test_bad_newcomers_are_refused(self, statistics, message):
    found = discover(np.arange(8.0).reshape(4, 2), 2)
    with self.assertRaisesRegex(InputError, message):
      assign(found, statistics)


class AgreementTest(parameterized.TestCase):
  @parameterized.parameters(
    # Names do not matter.
    ([0, 0, 1, 1], [1, 1, 0, 0], 1.0, 1.0),
    # One of six is wrong. Pairs: 4 together in both, 7 found and 6 true of 15:
    # (4 - 2.8) / (6.5 - 2.8).
    ([0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1], 5 / 6, 1.2 / 3.7),
    # Too many groups: the split off client is wrong; too few: half are.
    ([0, 0, 1, 2], [0, 0, 1, 1], 0.75, (1 - 1 / 3) / (1.5 - 1 / 3)),
    ([0, 0, 0, 0], [0, 0, 1, 1], 0.5, 0.0),
    # One-to-one: greedy naming of the largest cell first gives 3 of 7.
    ([0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0, 0], 4 / 7, None),
  )
  def test_by_hand(self, found, true, accuracy, adjusted_rand_index):
    result = agreement(np.array(found), np.array(true))
    self.assertAlmostEqual(result.accuracy, accuracy)
    if adjusted_rand_index is not None:
      self.assertAlmostEqual(result.adjusted_rand_index, adjusted_rand_index)

  @parameterized.parameters(
    ([0, 1], [0], r'\[2\] and \[1\]'),
    ([], [], r'\[0\] and \[0\]'),
  )
  def test_bad_groups_are_refused(self, found, true, message):
    with self.assertRaisesRegex(InputError, message):
      agreement(np.array(found), np.array(true))


if __name__ == '__main__':
  absltest.main()
