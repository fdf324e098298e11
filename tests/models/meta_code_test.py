"""Codes fitted to moments find what made them; mixtures are what they say."""

import dataclasses
import functools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.models.hyper import hypernetwork, meta_code
from fedjax_gen.models.hyper.hypernetwork import HyperVaeConfig
from fedjax_gen.models.hyper.meta_code import ClassMoments, MetaConfig
from fedjax_gen.models.vae import DataSpec

_SPEC = DataSpec((5,), 3)
_TINY = HyperVaeConfig(
  latent_size=2, hidden_sizes=(6,), code_size=3, hyper_size=8
)
_CONFIG = MetaConfig(meta_samples=64, meta_steps=150, meta_learning_rate=0.05)
_CODES = jnp.array([[1.0, -0.5, 0.8], [-1.0, 1.0, 0.2]])
_LABELS = jnp.tile(jnp.arange(3), 4)


@functools.cache
def _trained(**fields):
  """A model with nothing left at zero, filled by NumPy."""
  model = hypernetwork.build_hyper_vae(
    dataclasses.replace(_TINY, **fields), _SPEC
  )
  rng = np.random.default_rng(0)
  hyper = jax.tree.map(
    lambda leaf: jnp.asarray(0.6 * rng.standard_normal(leaf.shape), 'f4'),
    jax.eval_shape(model.init, jax.random.key(0)),
  )
  return model, hyper


@functools.cache
def _moments_of_first_code():
  """With latents other than those that a fit will use."""
  model, hyper = _trained()
  personal = model.personalise(hyper, _CODES[0])
  return meta_code.generated_moments(
    model, hyper, personal, jax.random.key(7), 5000
  )


def _mixture(model, hyper, codes=_CODES, weights=(0.5, 0.5), **options):
  return meta_code.generate_mixture(
    model,
    hyper,
    codes,
    jnp.asarray(weights),
    options.pop('labels', _LABELS),
    jax.random.key(3),
    **options,
  )


class MomentsTest(absltest.TestCase):
  def test_moments_are_those_of_generated_embeddings(self):
    model, hyper = _trained()
    moments = _moments_of_first_code()
    np.testing.assert_array_equal(moments.counts, np.full(3, 5000.0))
    personal = model.personalise(hyper, _CODES[0])
    for label in range(3):
      labels = jnp.full(5000, label)
      rows = hypernetwork.generate(
        model, hyper, personal, labels, jax.random.key(1)
      )
      stddev = np.std(rows, axis=0)
      np.testing.assert_allclose(
        moments.means[label], rows.mean(axis=0), atol=0.1 * stddev.max()
      )
      np.testing.assert_allclose(moments.variances[label], stddev**2, rtol=0.15)


class FitTest(parameterized.TestCase):
  def test_a_code_is_found_that_has_the_class_means_given(self):
    model, hyper = _trained()
    target = _moments_of_first_code()
    code, losses = meta_code.fit_code(
      model, hyper, target, jax.random.key(0), _CONFIG
    )
    self.assertEqual((code.shape, losses.shape), ((3,), (150,)))
    self.assertLess(losses[-1], 0.1 * losses[0])
    found = meta_code.generated_moments(
      model, hyper, model.personalise(hyper, code), jax.random.key(7), 5000
    )
    start = meta_code.generated_moments(
      model,
      hyper,
      model.personalise(hyper, jnp.zeros(3)),
      jax.random.key(7),
      5000,
    )
    error, before = (
      np.linalg.norm(moments.means - target.means) for moments in (found, start)
    )
    self.assertLess(error, 0.25 * before)

  def test_the_first_loss_is_the_printed_sum_at_a_code_of_zero(self):
    model, hyper = _trained()
    target = _moments_of_first_code()
    config = dataclasses.replace(_CONFIG, meta_steps=1, meta_beta=0.3)
    _, losses = meta_code.fit_code(
      model, hyper, target, jax.random.key(4), config
    )
    ours = meta_code.generated_moments(
      model,
      hyper,
      model.personalise(hyper, jnp.zeros(3)),
      jax.random.key(4),
      64,
    )
    expected = np.sum((ours.means - target.means) ** 2) + 0.3 * np.sum(
      (ours.variances - target.variances) ** 2
    )
    np.testing.assert_allclose(losses, [expected], rtol=1e-4)

  def test_classes_without_a_count_do_not_count_whatever_they_hold(self):
    model, hyper = _trained()
    target = _moments_of_first_code()

    def fit(row, count):
      altered = ClassMoments(
        target.counts.at[1].set(count),
        target.means.at[1].set(row),
        target.variances.at[1].set(row),
      )
      return meta_code.fit_code(
        model, hyper, altered, jax.random.key(0), _CONFIG
      )

    expected = fit(0.0, 0.0)
    chex.assert_trees_all_equal(fit(jnp.nan, -2.5), expected)
    self.assertGreater(jnp.abs(fit(0.0, 1.0)[0] - expected[0]).max(), 1e-3)

  def test_codes_stay_in_the_ball(self):
    # The same heads, asked for moments that are far away.
    model, hyper = _trained(code_radius=0.2)
    moments = _moments_of_first_code()
    far = moments._replace(means=10 * moments.means)
    code, _ = meta_code.fit_code(model, hyper, far, jax.random.key(0), _CONFIG)
    np.testing.assert_allclose(np.linalg.norm(code), 0.2 * 3**0.5, rtol=1e-3)

  @parameterized.parameters(
    ({'meta_beta': -0.1}, 'got meta_beta=-0.1'),
    ({'meta_samples': 0}, 'got meta_samples=0'),
    ({'meta_steps': 0}, 'got meta_steps=0'),
    ({'meta_learning_rate': 0.0}, 'got meta_learning_rate=0.0'),
  )
  def test_a_field_out_of_range_is_named(self, fields, message):
    with self.assertRaisesRegex(InputError, message):
      dataclasses.replace(_CONFIG, **fields)

  @parameterized.parameters(
    ('counts', r'counts of shape \(3,\)'),
    ('means', r'means of shape \(3, 5\)'),
    ('variances', r'variances of shape \(3, 5\)'),
  )
  def test_moments_of_other_data_are_refused(self, name, message):
    model, hyper = _trained()
    moments = ClassMoments(jnp.ones(3), jnp.ones((3, 5)), jnp.ones((3, 5)))
    bad = moments._replace(**{name: jnp.ones((2, 5))})
    with self.assertRaisesRegex(InputError, message):
      meta_code.fit_code(model, hyper, bad, jax.random.key(0))

  def test_a_model_without_codes_is_refused(self):
    model, hyper = _trained(head='constant', prior='standard')
    moments = ClassMoments(jnp.ones(3), jnp.ones((3, 5)), jnp.ones((3, 5)))
    with self.assertRaisesRegex(InputError, "head='constant'"):
      meta_code.fit_code(model, hyper, moments, jax.random.key(0))


class MixtureTest(parameterized.TestCase):
  @parameterized.parameters(
    ('params', 'row_scaled', True),
    ('samples', 'row_scaled', True),
    ('params', 'full', False),
    ('samples', 'full', False),
    ('samples', 'constant', False),
  )
  def test_a_mixture_of_one_code_is_that_code(self, mix, head, draw):
    model, hyper = _trained(head=head)
    personal = model.personalise(hyper, _CODES[0])
    expected = hypernetwork.generate(
      model, hyper, personal, _LABELS, jax.random.key(3), draw=draw
    )
    # Weights are proportions: 2.5 of one code is all of it.
    mixed = _mixture(model, hyper, _CODES[:1], (2.5,), mix=mix, draw=draw)
    np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-5)

  def test_mixed_parameters_are_the_weighted_means(self):
    model, hyper = _trained()
    mixed = meta_code.mixed_personal(
      model, hyper, _CODES, jnp.array([3.0, 1.0])
    )
    one, other = (model.personalise(hyper, code) for code in _CODES)
    chex.assert_trees_all_close(
      mixed,
      jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, one, other),
      rtol=1e-5,
      atol=1e-6,
    )

  def test_a_mixture_of_samples_has_each_from_one_code_by_its_weight(self):
    model, hyper = _trained()
    labels = jnp.zeros(1500, jnp.int32)
    mixed = _mixture(
      model, hyper, weights=(0.2, 0.8), labels=labels, mix='samples'
    )
    errors = [
      np.abs(
        mixed
        - hypernetwork.generate(
          model,
          hyper,
          model.personalise(hyper, code),
          labels,
          jax.random.key(3),
        )
      ).max(axis=1)
      for code in _CODES
    ]
    from_first, from_second = (error < 1e-4 for error in errors)
    np.testing.assert_array_equal(from_first ^ from_second, np.ones(1500, bool))
    # Standard deviation 0.01.
    self.assertLess(abs(from_first.mean() - 0.2), 0.04)

  def test_parameters_and_samples_make_different_mixtures(self):
    model, hyper = _trained()
    params = _mixture(model, hyper)
    samples = _mixture(model, hyper, mix='samples')
    self.assertGreater(np.abs(params - samples).max(axis=1).min(), 1e-3)

  @parameterized.parameters(*meta_code.MIXES)
  def test_a_code_of_weight_zero_is_left_out(self, mix):
    model, hyper = _trained()
    np.testing.assert_allclose(
      _mixture(model, hyper, weights=(1.0, 0.0), mix=mix),
      _mixture(model, hyper, _CODES[:1], (1.0,), mix=mix),
      rtol=1e-5,
      atol=1e-5,
    )

  @parameterized.parameters(*meta_code.MIXES)
  def test_standard_latents_disregard_the_prior(self, mix):
    model, hyper = _trained()
    learned = _mixture(model, hyper, mix=mix)
    standard = _mixture(model, hyper, mix=mix, latent='standard')
    self.assertGreater(np.abs(learned - standard).max(), 1e-2)
    zeros = jax.tree.map(jnp.zeros_like, hyper['prior_head'])
    flat = {**hyper, 'prior_head': zeros}
    np.testing.assert_allclose(
      _mixture(model, flat, mix=mix), standard, rtol=1e-5, atol=1e-5
    )

  @parameterized.parameters(*meta_code.MIXES)
  def test_a_model_without_codes_takes_any(self, mix):
    model, hyper = _trained(head='constant', prior='standard')
    self.assertEqual(_mixture(model, hyper, mix=mix).shape, (12, 5))

  @parameterized.parameters(
    ({'mix': 'mean'}, "got mix='mean'"),
    ({'latent': 'posterior'}, "got latent='posterior'"),
    ({'weights': (1.0,)}, 'Expected weights of 2 codes'),
    ({'weights': (1.5, -0.5)}, 'none below 0'),
    ({'weights': (0.0, 0.0)}, 'some above'),
    ({'weights': (float('nan'), 1.0)}, 'weights='),
  )
  def test_mistakes_are_named(self, options, message):
    model, hyper = _trained()
    with self.assertRaisesRegex(InputError, message):
      _mixture(model, hyper, **options)

  def test_interpolation_is_a_straight_line_with_both_ends(self):
    codes = meta_code.interpolated(_CODES[0], _CODES[1], 5)
    self.assertEqual(codes.shape, (5, 3))
    chex.assert_trees_all_close(codes[jnp.array([0, 4])], _CODES)
    chex.assert_trees_all_close(codes[2], _CODES.mean(axis=0), atol=1e-6)


if __name__ == '__main__':
  absltest.main()
