"""Attacks find what can be found, and the audit tells it from what cannot."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation.attacks import inversion, inversion_audit
from fedjax_gen.models.classification.classifiers import to_pixels, to_signed

_SHAPE = (8, 8, 1)


def _decode(generator, latents):
  """A perfect decoder of features that are the pixels themselves."""
  del generator  # it has no variables
  return latents.reshape(-1, *_SHAPE)


@functools.cache
def _latent_search():
  return inversion.latent_search(
    lambda scale, images: scale * images.reshape(-1, 64),
    lambda generator, latents: jnp.tanh(_decode(generator, latents)),
    num_starts=2,
  )


def _signed(inputs):
  return to_signed(jnp.asarray(inputs)).reshape(len(inputs), 64)


def _attacked(digits, num_records, num_means):
  """Decoded means of disjoint records of one class, and of held-out ones."""
  found = []
  for number in range(num_means):
    label = number % 10
    rows = np.flatnonzero(digits.train_labels == label)
    start = number // 10 * num_records
    records = digits.train_inputs[rows[start : start + num_records]]
    held_out = digits.test_inputs[digits.test_labels == label]
    mean = _signed(records).mean(axis=0, keepdims=True)
    images = inversion.decode_statistics(
      _decode, (), mean, jnp.ones([1, 64]), jax.random.key(0), num_images=1
    )
    found.append((np.asarray(images[0]), records, held_out))
  return found


def test_one_record_is_given_away_and_the_mean_of_many_is_not(digits):
  comparisons = [
    inversion_audit.compare(*attacked, seed=seed)
    for num_records in (1, 30)
    for seed, attacked in enumerate(_attacked(digits, num_records, 20))
  ]
  metrics = inversion_audit.leakage_metrics(comparisons)
  assert metrics['inversion_psnr/1_record'] == inversion_audit.MAX_PSNR
  np.testing.assert_allclose(metrics['inversion_ssim/1_record'], 1, atol=1e-6)
  assert metrics['inversion_psnr_gain/1_record'] > 40
  assert metrics['inversion_ssim_gain/1_record'] > 0.3
  many = metrics['inversion_psnr_gain/over_20_records']
  assert abs(many) < 1
  assert metrics['inversion_means/over_20_records'] == 20
  assert not any('/2_to_5' in name or '/6_to_20' in name for name in metrics)


def test_what_knows_no_record_gains_nothing_in_equal_pools_only(digits):
  """Held-out images as reconstructions: of pools of one size neither wins."""
  fair, unequal = [], []
  for label in range(10):
    train = digits.train_inputs[digits.train_labels == label]
    others, records, held_out = train[:8], train[8:88], train[88:98]
    comparison = inversion_audit.compare(others, records, held_out, seed=label)
    assert (comparison.num_records, comparison.pool_size) == (80, 10)
    fair.append(comparison)
    psnr, ssim = inversion_audit.best_match(others, records)
    unequal.append(comparison._replace(psnr_train=psnr, ssim_train=ssim))
  for name in ('psnr', 'ssim'):
    for comparisons, is_fair in ((fair, True), (unequal, False)):
      metrics = inversion_audit.leakage_metrics(comparisons, prefix='p')
      gain = metrics[f'p_{name}_gain/over_20_records']
      error = metrics[f'p_{name}_gain_stderr/over_20_records']
      if is_fair:
        assert abs(gain) < 2.5 * error
      else:
        assert gain > 5 * error


def test_summary_is_that_counted_by_hand():
  def comparison(num_records, train, held_out):
    train, held_out = np.array(train), np.array(held_out)
    return inversion_audit.Comparison(
      num_records, 1, train, held_out, train / 100, held_out / 100
    )

  metrics = inversion_audit.leakage_metrics(
    [
      comparison(2, [10.0, 20.0], [9.0, 9.0]),  # 6 more, in the mean
      comparison(5, [12.0], [10.0]),
      comparison(6, [9.0], [10.0]),
    ]
  )
  expected = {
    'inversion_means/2_to_5_records': 2,
    'inversion_psnr/2_to_5_records': 13.5,
    'inversion_psnr_gain/2_to_5_records': 4,
    'inversion_psnr_gain_stderr/2_to_5_records': 2,
    'inversion_ssim/2_to_5_records': 0.135,
    'inversion_ssim_gain/2_to_5_records': 0.04,
    'inversion_ssim_gain_stderr/2_to_5_records': 0.02,
    'inversion_means/6_to_20_records': 1,
    'inversion_psnr/6_to_20_records': 9,
    'inversion_psnr_gain/6_to_20_records': -1,
    'inversion_ssim/6_to_20_records': 0.09,
    'inversion_ssim_gain/6_to_20_records': -0.01,
  }
  assert metrics.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, err_msg=name)


def test_best_match_is_the_best_of_the_pool_by_each_measure():
  rng = np.random.default_rng(0)
  pool = rng.integers(0, 256, [5, 12, 6, 3], np.uint8)
  inputs = np.clip(pool[[3, 1]].astype(int) + 3, 0, 255).astype(np.uint8)
  psnr, ssim = inversion_audit.best_match(inputs, pool)
  errors = (inputs[:, None].astype(float) - pool[None]) / 255
  expected = -10 * np.log10((errors**2).mean(axis=(2, 3, 4)).min(axis=1))
  np.testing.assert_allclose(psnr, expected, rtol=1e-5)
  assert np.all((ssim > 0.95) & (ssim < 1))
  # One that is alike in structure, another in brightness.
  flat = np.full_like(pool[:1], pool[0].mean())
  dimmed = (pool[:1] // 4).astype(np.uint8)
  alone = inversion_audit.best_match(pool[:1], dimmed)
  both = inversion_audit.best_match(pool[:1], np.concatenate([dimmed, flat]))
  assert both[0] > alone[0]
  # Pools of other sizes are other programs, which round otherwise.
  np.testing.assert_allclose(both[1], alone[1], rtol=1e-5)


def test_the_first_image_is_that_of_the_mean_and_the_others_spread():
  means = jnp.stack([jnp.full(64, 0.5), jnp.zeros(64)])
  images = inversion.decode_statistics(
    _decode, (), means, jnp.full([1, 64], 0.1), jax.random.key(1), num_images=9
  )
  assert images.shape == (2, 9, *_SHAPE) and images.dtype == jnp.uint8
  np.testing.assert_array_equal(images[:, 0], to_pixels(_decode((), means)))
  spread = np.asarray(images[:, 1:], float).std(axis=1) / 127.5
  np.testing.assert_allclose(spread.mean(), 0.1, atol=0.01)


def test_a_latent_is_found_that_the_mean_itself_is_not(digits):
  records = digits.train_inputs[:3]
  # Grey enough for tanh, and features of another scale than latents.
  wanted = 0.9 * _signed(records)
  scale = jnp.float32(3.0)
  means = scale * wanted
  stddevs = jnp.ones([1, 64])
  found = _latent_search()(scale, (), means, stddevs, jax.random.key(0))
  decoded = jnp.tanh(means)
  at_first = jnp.sum((scale * decoded - means) ** 2) / jnp.sum(means**2)
  assert np.all(found.mismatches < 1e-3 * at_first)
  difference = found.images.reshape(3, 64) - to_pixels(wanted).astype(float)
  assert np.abs(difference).max() <= 2
  # Without a deviation to move by, the mean is all that is decoded.
  fixed = _latent_search()(scale, (), means, 0 * stddevs, jax.random.key(0))
  np.testing.assert_array_equal(fixed.images.reshape(3, 64), to_pixels(decoded))


def test_unusable_arguments_are_refused_by_name(digits):
  inputs, key = digits.test_inputs[:2], jax.random.key(0)
  for call, message in (
    (
      lambda: inversion_audit.best_match(inputs, inputs[:, 1:]),
      'images of one shape',
    ),
    (
      lambda: inversion_audit.compare(inputs, inputs[:0], inputs),
      'records to be uint8 images',
    ),
    (
      lambda: inversion_audit.compare(inputs, inputs, inputs, max_pool=0),
      'max_pool',
    ),
    (
      lambda: inversion.decode_statistics(
        _decode, (), jnp.ones([1, 64]), jnp.ones([1, 64]), key, num_images=0
      ),
      'num_images',
    ),
    (lambda: inversion.latent_search(None, _decode, num_steps=0), 'steps'),
    (
      lambda: inversion.latent_search(None, _decode, learning_rate=0.0),
      'learning_rate',
    ),
  ):
    with pytest.raises(InputError, match=message):
      call()
