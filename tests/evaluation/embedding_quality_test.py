import itertools

from absl.testing import absltest, parameterized
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation.embeddings import embedding_quality


def _draw(labels, seed, shift=0.0, scale=1.0):
  """Embeddings whose class means are apart, on a scale of their own."""
  rng = np.random.default_rng(seed)
  noise = rng.normal(size=[len(labels), 6])
  return (noise * scale + shift) + 4.0 * np.eye(6)[labels % 6]


class QualityTest(parameterized.TestCase):
  def test_equal_sets_are_at_no_distance_whatever_their_order(self):
    labels = np.arange(40) % 4
    inputs = _draw(labels, seed=0)
    order = np.random.default_rng(1).permutation(40)
    found = embedding_quality.quality(
      inputs, labels, inputs[order], labels[order], seed=0
    )
    self.assertEqual(
      set(found),
      {
        'mmd',
        'wasserstein',
        'class_mmd',
        'class_wasserstein',
        'class_mean_error',
        'class_stddev_error',
      },
    )
    np.testing.assert_allclose(list(found.values()), 0, atol=1e-6)

  def test_errors_of_moments_are_those_of_each_class_in_units_of_spread(self):
    labels = np.repeat(np.arange(3), [700, 30, 20])
    inputs = _draw(labels, seed=0)
    # Class 0 is moved, class 1 stretched about its mean, class 2 left out.
    changed = inputs.copy()
    changed[labels == 0] += 0.3
    mean = inputs[labels == 1].mean(axis=0)
    changed[labels == 1] = mean + 2 * (inputs[labels == 1] - mean)
    kept = labels < 2
    found = embedding_quality.quality(
      100 * inputs + 5, labels, 100 * changed[kept] + 5, labels[kept], seed=0
    )
    spread = np.sqrt(inputs.var(axis=0).mean())
    stddev = inputs[labels == 1].std(axis=0)
    self.assertAlmostEqual(found['class_mean_error'], 0.3 / spread / 2)
    self.assertAlmostEqual(
      found['class_stddev_error'], np.sqrt(np.mean(stddev**2)) / spread / 2
    )

  def test_distances_grow_with_a_shift_and_see_swapped_labels(self):
    labels = np.arange(600) % 3  # more than are compared
    real, real_labels = _draw(labels, seed=0), labels
    alike = _draw(labels, seed=1)

    def measured(inputs, labels):
      return embedding_quality.quality(
        real, real_labels, inputs, labels, seed=0
      )

    floor = measured(alike, labels)
    near, far = measured(alike + 0.5, labels), measured(alike + 2, labels)
    for name in floor:
      if name != 'class_stddev_error':  # which a shift does not change
        self.assertLess(1.2 * floor[name], near[name], name)
        self.assertLess(1.5 * near[name], far[name], name)
    swapped = measured(alike, (labels + 1) % 3)
    np.testing.assert_allclose(swapped['mmd'], floor['mmd'])
    np.testing.assert_allclose(swapped['wasserstein'], floor['wasserstein'])
    self.assertGreater(swapped['class_mmd'], 10 * floor['class_mmd'])
    self.assertGreater(swapped['class_mean_error'], 1)
    narrow = measured(_draw(labels, seed=1, scale=0.5), labels)
    self.assertGreater(
      narrow['class_stddev_error'], 5 * floor['class_stddev_error']
    )

  def test_mmd_is_that_of_all_pairs_for_classes_of_any_size(self):
    rng = np.random.default_rng(0)
    real = rng.normal(size=[7, 2])
    real = (real - real.mean(axis=0)) / np.sqrt(real.var(axis=0).mean())
    generated = real @ [[0.0, 1.0], [2.0, 0.0]] + 1

    def kernel(left, right):
      gaps = np.sum((left[:, None] - right[None]) ** 2, axis=-1)
      scales = (0.25, 0.5, 1.0, 2.0, 4.0)
      return np.mean([np.exp(-gaps / (4 * s)) for s in scales])

    expected = kernel(real, real) + kernel(generated, generated)
    expected -= 2 * kernel(real, generated)
    labels = np.zeros(7, int)
    found = embedding_quality.quality(real, labels, generated, labels, seed=0)
    np.testing.assert_allclose(found['mmd'], expected, rtol=1e-5)
    np.testing.assert_allclose(found['class_mmd'], expected, rtol=1e-5)

  def test_without_a_class_of_two_on_both_sides_classes_are_left_out(self):
    inputs = _draw(np.arange(4), seed=0)
    found = embedding_quality.quality(
      inputs, np.array([0, 0, 1, 1]), inputs, np.array([2, 2, 1, 3]), seed=0
    )
    self.assertEqual(set(found), {'mmd', 'wasserstein'})

  def test_wasserstein_distance_is_that_of_the_best_pairing(self):
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=[2, 5, 3])
    expected = min(
      np.mean(np.sum((left - right[list(order)]) ** 2, axis=1))
      for order in itertools.permutations(range(5))
    )
    np.testing.assert_allclose(
      embedding_quality.wasserstein(left, right), expected**0.5
    )
    labels = np.zeros(5, int)
    found = embedding_quality.quality(left, labels, right, labels, seed=0)
    spread = np.sqrt(left.var(axis=0).mean())
    np.testing.assert_allclose(
      found['wasserstein'], np.sqrt(expected / 3) / spread
    )

  def test_unusable_arguments_are_refused_by_name(self):
    labels = np.arange(4)
    inputs = _draw(labels, seed=0)
    good = (inputs, labels, inputs, labels, 0)
    for position, value, message in (
      (0, inputs * np.nan, 'real_inputs to be finite'),
      (1, labels[:2], 'real_labels to be 4'),
      (2, inputs[:, :2], 'equally many features'),
      (3, labels - 1, 'generated_labels in'),
      (4, -1, 'seed'),
    ):
      arguments = list(good)
      arguments[position] = value
      with self.assertRaisesRegex(InputError, message):
        embedding_quality.quality(*arguments)
    with self.assertRaisesRegex(InputError, 'equally many examples'):
      embedding_quality.wasserstein(inputs, inputs[:2])


if __name__ == '__main__':
  absltest.main()
