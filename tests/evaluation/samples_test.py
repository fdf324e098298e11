import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import samples
from fedjax_gen.evaluation.networks import features


def test_real_images_beat_blurred_ones_which_beat_noise(digits, extractor):
  real = digits.test_inputs
  rows = digits.train_inputs[:360]
  pairs = digits.train_inputs[360:720]
  blurred = ((rows.astype(int) + pairs) // 2).astype(np.uint8)
  noise = np.random.default_rng(0).permutation(rows.ravel()).reshape(rows.shape)
  best, middle, worst = (
    samples.evaluate_samples(extractor, real, generated)
    for generated in (rows, blurred, noise)
  )
  for metric in ('fid', 'kid'):
    name = f'{metric}_digits_classifier'
    assert best[name] < middle[name] < worst[name], name
  for metric in ('precision', 'recall', 'coverage', 'inception_score'):
    name = f'{metric}_digits_classifier'
    assert best[name] > worst[name], name
  assert best['precision_digits_classifier'] > 0.9
  assert best['inception_score_digits_classifier'] > 8


def test_metric_names_carry_the_extractor_and_values_are_finite(
  digits, extractor
):
  collapsed = np.repeat(digits.train_inputs[:1], 25, axis=0)
  metrics = samples.evaluate_samples(extractor, digits.test_inputs, collapsed)
  assert set(metrics) == {'num_real', 'num_generated'} | {
    f'{metric}_digits_classifier'
    for metric in (
      'fid',
      'kid',
      'kid_stddev',
      'precision',
      'recall',
      'density',
      'coverage',
      'inception_score',
      'inception_score_stddev',
    )
  }
  assert all(type(value) is float for value in metrics.values())
  assert np.all(np.isfinite(list(metrics.values())))
  assert (metrics['num_real'], metrics['num_generated']) == (360, 25)
  assert metrics['recall_digits_classifier'] == 0


def _means_of_squares(side):
  """An extractor without a network: means of squares of so many pixels."""

  def means(inputs):
    num, height, width, _ = inputs.shape
    squares = inputs.reshape(num, height // side, side, width // side, side)
    return squares.mean(axis=(2, 4)).reshape(num, -1).astype(np.float32) / 255

  return features.FeatureExtractor('means', means, None, 'Means of pixels.')


def test_extractor_without_probabilities_has_no_inception_score(digits):
  metrics = samples.evaluate_samples(
    _means_of_squares(2), digits.test_inputs, digits.train_inputs[:50]
  )
  assert 'fid_means' in metrics
  assert not any('inception' in name for name in metrics)


def test_equal_seeds_give_equal_metrics(digits, extractor):
  compared = [
    samples.evaluate_samples(
      extractor, digits.test_inputs, digits.train_inputs[:400], seed=seed
    )
    for seed in (3, 3, 4)
  ]
  assert compared[0] == compared[1] != compared[2]


def test_real_mnist_has_a_small_distance_to_itself(mnist_test_inputs):
  made = _means_of_squares(4)
  halves = mnist_test_inputs[1000:1500], mnist_test_inputs[1500:2000]
  alike = samples.evaluate_samples(made, *halves)
  inverted = samples.evaluate_samples(made, halves[0], 255 - halves[1])
  assert alike['fid_means'] < inverted['fid_means'] / 20
  assert alike['coverage_means'] > 0.8


def test_too_few_or_unlike_images_are_refused(digits, extractor):
  few = digits.train_inputs[: samples.MIN_SAMPLES - 1]
  with pytest.raises(InputError, match='10 images in generated_inputs, got 9'):
    samples.evaluate_samples(extractor, digits.test_inputs, few)
  with pytest.raises(InputError, match='10 images in real_inputs, got 9'):
    samples.evaluate_samples(extractor, few, digits.test_inputs)
  enough = digits.train_inputs[: samples.MIN_SAMPLES]
  assert samples.evaluate_samples(extractor, enough, enough)
  with pytest.raises(InputError, match='one shape'):
    samples.evaluate_samples(extractor, enough, enough[:, :, :4])
