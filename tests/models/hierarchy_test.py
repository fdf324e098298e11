"""Two levels of latents, and priors that stand elsewhere than at zero."""

import dataclasses
import functools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

from fedjax_gen.data.federated import Batch
from fedjax_gen.errors import InputError
from fedjax_gen.losses import gaussian
from fedjax_gen.models import elbo, networks, vae as vaes
from fedjax_gen.models.vae import DataSpec, VaeConfig
from tests.models.counting import num_parameters

_SPEC = DataSpec((3,), 2)
_BASE = VaeConfig(
  model='mlp',
  norm='none',
  latent_size=2,
  z2_size=3,
  hidden_size=4,
  likelihood_stddev=1.0,
)
_Z1_TOP = dataclasses.replace(_BASE, hierarchy='z1_top')
_Z2_TOP = dataclasses.replace(_BASE, hierarchy='z2_top')
_STANDARD = {'lower_prior': 'standard'}
_NUM_DRAWS = 20_000


@functools.cache
def _model(config):
  """The model, and variables that make all its Gaussians differ."""
  model = vaes.build_vae(config, _SPEC)
  variables = jax.jit(model.init)(jax.random.key(0))
  return model, jax.tree.map(lambda leaf: 1.3 * leaf, variables)


@functools.partial(jax.jit, static_argnums=0)
def _inferred(infer, variables, data, labels, key):
  return infer(variables, data, labels, key)[0]


def _infer(config, data=None, key=None, labels=None, prior=None):
  model, variables = _model(config)
  if prior is not None:
    variables = {**variables, 'prior': prior}
  data = _data() if data is None else data
  labels = jnp.zeros(len(data), jnp.int32) if labels is None else labels
  return _inferred(model.infer, variables, data, labels, key)


def _data(num=4):
  return jax.random.normal(jax.random.key(1), (num, 3))


@functools.cache
def _draws(config):
  """Inference of the same example over and over."""
  return jax.device_get(
    _infer(config, jnp.tile(_data(1), (_NUM_DRAWS, 1)), jax.random.key(2))
  )


def _log_prob(distribution, value):
  """The same density from elsewhere, `[B]`."""
  scale = np.exp(np.asarray(distribution.logvar, np.float64) / 2)
  return stats.norm.logpdf(value, distribution.mean, scale).sum(axis=-1)


class KlTest(parameterized.TestCase):
  def _assert_mean_is_zero(self, values):
    error = values.std() / len(values) ** 0.5
    self.assertLess(error, 0.1)  # or the test says nothing
    self.assertLess(abs(values.mean()), 5 * error + 1e-4)

  @parameterized.parameters(
    _Z1_TOP,
    _Z2_TOP,
    dataclasses.replace(_Z1_TOP, **_STANDARD),
    dataclasses.replace(_Z2_TOP, **_STANDARD),
  )
  def test_both_terms_are_the_expected_log_ratios(self, config):
    inferred = _draws(config)
    kl = jax.tree.map(np.asarray, inferred.kl)
    total = np.zeros(_NUM_DRAWS)
    for level, drawn in inferred.latents.items():
      log_ratio = _log_prob(inferred.posterior[level], drawn) - _log_prob(
        inferred.prior[level], drawn
      )
      self.assertGreater(log_ratio.mean(), 0.1)
      self._assert_mean_is_zero(kl[level] - log_ratio)
      total += log_ratio
    np.testing.assert_allclose(
      inferred.log_ratio(), -total, rtol=1e-4, atol=1e-4
    )

  @parameterized.parameters((_Z1_TOP, 'z1'), (_Z1_TOP, 'z2'), (_Z2_TOP, 'z2'))
  def test_given_the_draw_a_term_is_the_kl_of_its_level(self, config, level):
    inferred = _draws(config)
    kl = np.asarray(inferred.kl[level])
    rng = np.random.default_rng(0)
    for row in range(3):
      posterior, prior = (
        jax.tree.map(lambda leaf, row=row: leaf[row], side[level])
        for side in (inferred.posterior, inferred.prior)
      )
      scale = np.exp(posterior.logvar / 2)
      drawn = rng.normal(posterior.mean, scale, (_NUM_DRAWS, len(scale)))
      log_ratio = _log_prob(posterior, drawn) - _log_prob(prior, drawn)
      self._assert_mean_is_zero(log_ratio - kl[row])

  def test_the_loss_is_reconstruction_and_both_terms(self):
    model, variables = _model(_Z1_TOP)
    labels = jnp.zeros(4, jnp.int32)
    batch = Batch(_data(), labels, jnp.ones(4, bool))
    key = jax.random.key(3)
    loss, (_, metrics) = jax.jit(elbo.elbo_loss(model, 0.5))(
      variables, batch, key
    )
    inferred = _infer(_Z1_TOP, key=key)
    outputs, _ = model.decode(variables, inferred.latents, labels)
    kl = {f'kl_{k}': v.mean() for k, v in inferred.kl.items()}
    expected = {
      'reconstruction': -model.likelihood.log_prob(outputs, _data()).mean(),
      'kl': kl['kl_z1'] + kl['kl_z2'],
      **kl,
    }
    chex.assert_trees_all_close(metrics, expected, rtol=1e-4)
    np.testing.assert_allclose(
      loss, expected['reconstruction'] + 0.5 * expected['kl'], rtol=1e-4
    )


class BoundsTest(parameterized.TestCase):
  @parameterized.parameters(_Z1_TOP, _Z2_TOP)
  def test_the_importance_weighted_bound_is_the_higher(self, config):
    model, variables = _model(config)
    bounds = elbo.held_out_bounds(
      model,
      variables,
      np.tile(_data(4), (250, 1)),
      np.zeros(1000, np.int32),
      jax.random.key(0),
      importance_samples=8,
      batch_size=1000,
    )
    self.assertGreater(bounds['test_iw_bound_8'], bounds['test_elbo'] + 0.1)
    self.assertAlmostEqual(
      bounds['test_kl'], bounds['test_kl_z1'] + bounds['test_kl_z2'], places=4
    )
    self.assertAlmostEqual(
      bounds['test_elbo'],
      -bounds['test_reconstruction'] - bounds['test_kl'],
      places=4,
    )

  @parameterized.parameters(_Z1_TOP, _Z2_TOP)
  def test_one_importance_sample_is_the_elbo_in_expectation(self, config):
    model, variables = _model(config)
    num = 20_000
    bounds = elbo.held_out_bounds(
      model,
      variables,
      np.tile(_data(1), (num, 1)),
      np.zeros(num, np.int32),
      jax.random.key(0),
      importance_samples=1,
      max_importance_images=num,
      batch_size=num,
    )
    # Draws of a bound spread by some nats, a hundredth of which is left.
    self.assertAlmostEqual(
      bounds['test_iw_bound_1'], bounds['test_elbo'], delta=0.25
    )

  def test_reconstructions_come_with_the_means_of_both_levels(self):
    model, variables = _model(_Z2_TOP)
    labels = jnp.zeros(4, jnp.int32)
    means, reconstructed = elbo.reconstruct(model, variables, _data(), labels)
    latents = _infer(_Z2_TOP).latents
    chex.assert_trees_all_close(
      means, jnp.concatenate([latents['z1'], latents['z2']], 1), rtol=1e-5
    )
    self.assertEqual(means.shape, (4, 2 + 3))
    self.assertEqual(reconstructed.shape, (4, 3))


class AncestralTest(parameterized.TestCase):
  @parameterized.product(config=[_Z1_TOP, _Z2_TOP], conditional=[True, False])
  def test_levels_are_drawn_from_their_priors_from_the_top_down(
    self, config, conditional
  ):
    lower_prior = 'conditional' if conditional else 'standard'
    model, variables = _model(
      dataclasses.replace(config, lower_prior=lower_prior)
    )
    top, lower = ('z1', 'z2') if config is _Z1_TOP else ('z2', 'z1')
    self.assertEqual(model.top, top)
    self.assertEqual(model.has_transition, conditional)
    self.assertEqual('transition' in variables, conditional)
    size = model.latent_sizes[top]
    mean, logvar = jnp.arange(1.0, size + 1), jnp.linspace(-1.0, 1.0, size)
    prior = {'params': {top: {'mean': mean, 'logvar': logvar}}}
    labels = jnp.ones(_NUM_DRAWS, jnp.int32)
    drawn = jax.jit(model.ancestral)(
      {**variables, 'prior': prior}, labels, jax.random.key(4)
    )
    given = gaussian.standard(drawn[lower].shape)
    if conditional:
      transition = networks.Transition(model.latent_sizes[lower], 4)
      given = transition.apply(
        variables['transition'], drawn[top], jax.nn.one_hot(labels, 2), None
      )
      # Far from a constant, so that the upper level matters.
      self.assertGreater(given.mean.std(axis=0).max(), 0.1)
    noise = np.concatenate(
      [
        (drawn[top] - mean[None]) / jnp.exp(logvar[None] / 2),
        (drawn[lower] - given.mean) / jnp.exp(given.logvar / 2),
      ],
      axis=1,
    )
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=0.04)
    # No noise is used twice.
    np.testing.assert_allclose(np.cov(noise.T), np.eye(2 + 3), atol=0.05)

  @parameterized.parameters(_Z1_TOP, _Z2_TOP)
  def test_without_a_key_levels_are_the_means_given_the_one_above(self, config):
    model, variables = _model(config)
    lower = 'z2' if model.top == 'z1' else 'z1'
    prior = vaes.fixed_prior(
      {model.top: jnp.ones(model.latent_sizes[model.top])}
    )
    labels = jnp.zeros(2, jnp.int32)
    latents = model.ancestral({**variables, 'prior': prior}, labels, None)
    np.testing.assert_array_equal(latents[model.top], 1)
    given = networks.Transition(model.latent_sizes[lower], 4).apply(
      variables['transition'],
      latents[model.top],
      jax.nn.one_hot(labels, 2),
      None,
    )
    chex.assert_trees_all_close(latents[lower], given.mean, rtol=1e-5)

  @parameterized.parameters(_Z1_TOP, _Z2_TOP)
  def test_the_lower_prior_is_given_the_draw_of_the_upper_level(self, config):
    model, variables = _model(config)
    lower = 'z2' if model.top == 'z1' else 'z1'
    inferred = _infer(config, key=jax.random.key(0))
    given = networks.Transition(model.latent_sizes[lower], 4).apply(
      variables['transition'],
      inferred.latents[model.top],
      jax.nn.one_hot(jnp.zeros(4, jnp.int32), 2),
      None,
    )
    chex.assert_trees_all_close(inferred.prior[lower], given, rtol=1e-4)
    chex.assert_trees_all_equal(
      inferred.prior[model.top],
      gaussian.standard(inferred.latents[model.top].shape),
    )


class WhatIsSeenTest(parameterized.TestCase):
  @parameterized.parameters(
    (_Z1_TOP, {'z2'}),
    (dataclasses.replace(_Z1_TOP, decode_both=True), {'z1', 'z2'}),
    (_Z2_TOP, {'z1'}),
  )
  def test_the_decoder_sees_the_levels_next_to_the_data(self, config, seen):
    model, variables = _model(config)
    latents = {
      level: jnp.ones((2, size)) for level, size in model.latent_sizes.items()
    }
    labels = jnp.zeros(2, jnp.int32)
    for level in latents:
      other = {**latents, level: latents[level].at[1].set(3.0)}
      outputs, _ = model.decode(variables, other, labels)
      self.assertEqual(
        bool(jnp.allclose(outputs[0], outputs[1])), level not in seen
      )
    width = sum(model.latent_sizes[level] for level in seen)
    kernel = variables['decoder']['params']['Dense_0']['kernel']
    self.assertEqual(kernel.shape, (width + 2, 4))

  @parameterized.parameters((_Z1_TOP, True), (_Z2_TOP, False))
  def test_the_posterior_of_z2_sees_the_data_only_below_z1(self, config, sees):
    model, variables = _model(config)
    labels = jnp.zeros(4, jnp.int32)

    def posterior(variables):
      inferred = _inferred(model.infer, variables, _data(), labels, None)
      return inferred.posterior['z2'].mean

    def rows_differ(means):
      return not np.allclose(means, means[:1], atol=1e-5)

    self.assertTrue(rows_differ(posterior(variables)))
    # A z1 that knows nothing of the data.
    heads = jax.tree.map(
      jnp.zeros_like, variables['encoder']['params']['Heads_0']
    )
    params = {**variables['encoder']['params'], 'Heads_0': heads}
    blind = {**variables, 'encoder': {'params': params}}
    self.assertEqual(rows_differ(posterior(blind)), sees)

  @parameterized.parameters(_Z1_TOP, _Z2_TOP)
  def test_the_posterior_of_z2_sees_the_draw_of_z1(self, config):
    inferred = _draws(config)
    self.assertEqual(np.ptp(inferred.posterior['z1'].mean, axis=0).max(), 0)
    self.assertGreater(np.ptp(inferred.posterior['z2'].mean, axis=0).min(), 0.1)
    # The noise of z2 is not that of z1.
    noise = [
      (drawn - inferred.posterior[level].mean)
      / np.exp(inferred.posterior[level].logvar / 2)
      for level, drawn in inferred.latents.items()
    ]
    noise = np.concatenate(noise, axis=1)
    np.testing.assert_allclose(np.cov(noise.T), np.eye(5), atol=0.05)

  @parameterized.parameters(_Z1_TOP, _Z2_TOP)
  def test_labels_reach_encoder_decoder_and_transition(self, config):
    model, variables = _model(config)
    lower = 'z2' if model.top == 'z1' else 'z1'
    labels = jnp.array([0, 1])
    inferred = _infer(config, jnp.ones((2, 3)), labels=labels)
    latents = jax.tree.map(jnp.ones_like, inferred.latents)
    outputs, _ = model.decode(variables, latents, labels)
    means = model.ancestral(variables, labels, None)
    differ = {
      'z1': inferred.posterior['z1'].mean,
      'z2': inferred.posterior['z2'].mean,
      'x': outputs,
      'transition': means[lower],
    }
    for name, rows in differ.items():
      self.assertFalse(np.allclose(rows[0], rows[1]), name)


class MaskTest(parameterized.TestCase):
  @parameterized.parameters(_Z1_TOP, _Z2_TOP)
  def test_masked_out_rows_change_nothing(self, config):
    model, variables = _model(dataclasses.replace(config, norm='batch'))
    mask = jnp.array([True, True, True, False])
    labels = jnp.zeros(4, jnp.int32)
    loss_fn = jax.jit(jax.value_and_grad(elbo.elbo_loss(model), has_aux=True))
    clean, poisoned = (
      loss_fn(variables, Batch(inputs, labels, mask), jax.random.key(0))
      for inputs in (_data(), _data().at[3].set(50.0))
    )
    chex.assert_trees_all_close(clean, poisoned, rtol=1e-4, atol=1e-5)
    # Training refreshes the statistics, of encoder and decoder.
    (_, (refreshed, _)), _ = clean
    for name in ('encoder', 'decoder'):
      for before, after in zip(
        jax.tree.leaves(variables[name]['batch_stats']),
        jax.tree.leaves(refreshed[name]['batch_stats']),
        strict=True,
      ):
        self.assertFalse(np.allclose(before, after))


@functools.cache
def _gradient_fn(config):
  model, _ = _model(config)
  return jax.jit(jax.grad(lambda *args: elbo.elbo_loss(model)(*args)[0]))


class PriorTest(parameterized.TestCase):
  def _gradient(self, config, prior, key):
    _, variables = _model(config)
    batch = Batch(_data(), jnp.zeros(4, jnp.int32), jnp.ones(4, bool))
    return _gradient_fn(config)({**variables, 'prior': prior}, batch, key)

  @parameterized.parameters(
    (_BASE, 'z'),
    (_Z1_TOP, 'z1'),
    (_Z2_TOP, 'z2'),
    (dataclasses.replace(_Z1_TOP, **_STANDARD), 'z2'),
  )
  def test_the_prior_of_a_level_is_where_its_module_puts_it(
    self, config, level
  ):
    size = _model(config)[0].latent_sizes[level]
    means = {level: jnp.arange(1.0, size + 1)}
    learnable = vaes.learnable_prior(means)
    np.testing.assert_array_equal(learnable['params'][level]['logvar'], 0)
    for prior in (vaes.fixed_prior(means), learnable):
      inferred = _infer(config, prior=prior)
      expected = np.tile(means[level][None], (4, 1))
      np.testing.assert_array_equal(inferred.prior[level].mean, expected)
      np.testing.assert_array_equal(inferred.prior[level].logvar, 0)
      # The posterior has no part in it.
      chex.assert_trees_all_equal(inferred.posterior, _infer(config).posterior)

  @parameterized.parameters((_BASE, 'z'), (_Z1_TOP, 'z1'), (_Z2_TOP, 'z2'))
  def test_a_learnable_prior_follows_the_posterior(self, config, level):
    size = _model(config)[0].latent_sizes[level]
    mean, logvar = jnp.arange(1.0, size + 1), jnp.linspace(-1.0, 1.0, size)
    prior = {'params': {level: {'mean': mean, 'logvar': logvar}}}
    key = jax.random.key(5)
    gradient = self._gradient(config, prior, key)['prior']['params'][level]
    posterior = _infer(config, key=key, prior=prior).posterior[level]
    variance = np.exp(logvar)[None]
    distance = np.asarray(mean)[None] - posterior.mean
    np.testing.assert_allclose(
      gradient['mean'], (distance / variance).mean(axis=0), rtol=1e-3
    )
    spread = (np.exp(posterior.logvar) + distance**2) / variance
    np.testing.assert_allclose(
      gradient['logvar'], (1 - spread).mean(axis=0) / 2, rtol=1e-3, atol=1e-4
    )

  @parameterized.parameters((_BASE, 'z'), (_Z1_TOP, 'z1'), (_Z2_TOP, 'z2'))
  def test_a_fixed_prior_is_never_moved(self, config, level):
    size = _model(config)[0].latent_sizes[level]
    prior = vaes.fixed_prior({level: jnp.arange(1.0, size + 1)})
    gradient = self._gradient(config, prior, jax.random.key(5))
    chex.assert_trees_all_equal(
      gradient['prior'], jax.tree.map(jnp.zeros_like, prior)
    )
    self.assertGreater(optax.tree.norm(gradient['encoder']), 0)
    optimizer = optax.adam(0.1)
    updates, _ = optimizer.update(gradient, optimizer.init(gradient))
    moved = optax.apply_updates({**_model(config)[1], 'prior': prior}, updates)
    chex.assert_trees_all_equal(moved['prior'], prior)

  def test_only_what_is_learned_counts_as_a_parameter(self):
    means = {'z': jnp.ones(5)}
    fixed, learned = vaes.fixed_prior(means), vaes.learnable_prior(means)
    self.assertEqual(num_parameters({'prior': fixed}), 0)
    self.assertEqual(num_parameters({'prior': learned}), 10)

  def test_a_learned_log_variance_stays_in_range(self):
    far = {'mean': jnp.zeros(2), 'logvar': jnp.array([-99.0, 99.0])}
    prior = {'params': {'z': far}}
    inferred = _infer(_BASE, prior=prior)
    np.testing.assert_array_equal(
      inferred.prior['z'].logvar, np.tile([-10.0, 10.0], (4, 1))
    )


def _residual(config):
  return dataclasses.replace(config, posterior='residual')


class ResidualPosteriorTest(parameterized.TestCase):
  """Posteriors that are relative to the prior of a group."""

  @parameterized.product(
    case=[(_BASE, 'z'), (_Z1_TOP, 'z1'), (_Z2_TOP, 'z2')], learned=[True, False]
  )
  def test_a_level_is_what_the_encoder_says_relative_to_its_prior(
    self, case, learned
  ):
    config, level = case
    size = _model(config)[0].latent_sizes[level]
    mean, logvar = jnp.arange(1.0, size + 1), jnp.zeros(size)
    prior = vaes.fixed_prior({level: mean})
    if learned:
      logvar = jnp.linspace(-1.0, 1.0, size)
      prior = {'params': {level: {'mean': mean, 'logvar': logvar}}}
    plain = _infer(config, prior=prior)
    told = _infer(_residual(config), prior=prior)
    said = plain.posterior[level]
    expected = gaussian.Gaussian(
      said.mean + mean[None], said.logvar + logvar[None]
    )
    chex.assert_trees_all_close(told.posterior[level], expected, rtol=1e-5)
    chex.assert_trees_all_close(told.latents[level], expected.mean, rtol=1e-5)
    chex.assert_trees_all_equal(told.prior[level], plain.prior[level])
    # What it costs does not depend on where the group lives (NVAE, eq. 2).
    squared = said.mean**2 * np.exp(-logvar)[None]
    cost = np.exp(said.logvar) + squared - said.logvar - 1
    np.testing.assert_allclose(
      told.kl[level], cost.sum(axis=-1) / 2, rtol=1e-4, atol=1e-5
    )

  def test_a_draw_is_from_the_posterior_that_is_returned(self):
    prior = vaes.fixed_prior({'z': jnp.array([50.0, -50.0])})
    data = jnp.tile(_data(1), (_NUM_DRAWS, 1))
    inferred = _infer(_residual(_BASE), data, jax.random.key(2), prior=prior)
    posterior = inferred.posterior['z']
    noise = (inferred.latents['z'] - posterior.mean) / np.exp(
      posterior.logvar / 2
    )
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(noise.std(axis=0), 1, rtol=0.05)

  def test_z2_below_z1_is_relative_to_its_prior_given_the_draw_of_z1(self):
    prior = vaes.fixed_prior({'z1': jnp.array([3.0, -3.0])})
    model, variables = _model(_Z1_TOP)
    told = _infer(_residual(_Z1_TOP), key=jax.random.key(3), prior=prior)
    # Heads that say N(0, I): q(z2 | x, z1) is then p(z2 | z1).
    heads = jax.tree.map(
      jnp.zeros_like, variables['encoder']['params']['Heads_1']
    )
    params = {**variables['encoder']['params'], 'Heads_1': heads}
    silent = {**variables, 'encoder': {'params': params}, 'prior': prior}
    inferred = _inferred(
      vaes.build_vae(_residual(_Z1_TOP), _SPEC).infer,
      silent, _data(), jnp.zeros(4, jnp.int32), jax.random.key(3),
    )  # fmt: skip
    chex.assert_trees_all_close(
      inferred.posterior['z2'], inferred.prior['z2'], rtol=1e-5
    )
    np.testing.assert_allclose(inferred.kl['z2'], 0, atol=1e-5)
    chex.assert_trees_all_close(inferred.latents['z1'], told.latents['z1'])
    given = networks.Transition(model.latent_sizes['z2'], 4).apply(
      variables['transition'],
      told.latents['z1'],
      jax.nn.one_hot(jnp.zeros(4, jnp.int32), 2),
      None,
    )
    chex.assert_trees_all_close(told.prior['z2'], given, rtol=1e-4)

  def test_z1_below_z2_is_inferred_before_its_prior_is_known(self):
    prior = vaes.fixed_prior({'z2': jnp.full(3, 4.0)})
    told = _infer(_residual(_Z2_TOP), prior=prior)
    plain = _infer(_Z2_TOP, prior=prior)
    chex.assert_trees_all_equal(told.posterior['z1'], plain.posterior['z1'])

  @parameterized.parameters(_BASE, _Z1_TOP, _Z2_TOP)
  def test_without_priors_of_a_group_it_is_the_plain_one_bit_for_bit(
    self, config
  ):
    key = jax.random.key(4)
    chex.assert_trees_all_equal(
      _infer(_residual(config), key=key), _infer(config, key=key)
    )

  @parameterized.parameters(
    _BASE, _Z1_TOP, _Z2_TOP, dataclasses.replace(_Z2_TOP, **_STANDARD)
  )
  def test_the_bound_is_still_one(self, config):
    """E_q [log q - log p] is the sum of the KL terms."""
    level = _model(config)[0].top
    size = _model(config)[0].latent_sizes[level]
    inferred = jax.device_get(
      _infer(
        _residual(config),
        jnp.tile(_data(1), (_NUM_DRAWS, 1)),
        jax.random.key(2),
        prior=vaes.fixed_prior({level: jnp.full(size, 2.0)}),
      )
    )
    difference = sum(inferred.kl.values()) + np.asarray(inferred.log_ratio())
    error = difference.std() / _NUM_DRAWS**0.5
    self.assertLess(error, 0.1)
    self.assertLess(abs(difference.mean()), 5 * error + 1e-3)


class SizesTest(parameterized.TestCase):
  # Features 3, classes 2, hidden 4, z1 of 2 and z2 of 3 dimensions.
  @parameterized.parameters(
    (
      _Z1_TOP,
      {
        # trunk 5-4-4, heads of z1; (features, z1, class) 8-4, heads of z2
        'encoder': 24 + 20 + (4 * 4 + 4) + (8 * 4 + 4) + (4 * 6 + 6),
        # (z2, class) 5-4-4-3
        'decoder': 24 + 20 + 15,
        # (z1, class) 4-4-4, heads of z2
        'transition': 20 + 20 + (4 * 6 + 6),
      },
    ),
    (
      dataclasses.replace(_Z1_TOP, decode_both=True, **_STANDARD),
      {
        'encoder': 24 + 20 + (4 * 4 + 4) + (8 * 4 + 4) + (4 * 6 + 6),
        # (z1, z2, class) 7-4-4-3
        'decoder': 32 + 20 + 15,
      },
    ),
    (
      _Z2_TOP,
      {
        # (z1, class) 4-4 before the heads of z2
        'encoder': 24 + 20 + (4 * 4 + 4) + (4 * 4 + 4) + (4 * 6 + 6),
        # (z1, class) 4-4-4-3
        'decoder': 20 + 20 + 15,
        # (z2, class) 5-4-4, heads of z1
        'transition': 24 + 20 + (4 * 4 + 4),
      },
    ),
  )
  def test_numbers_of_parameters_by_hand(self, config, expected):
    _, variables = _model(config)
    self.assertEqual(
      {name: num_parameters({name: variables[name]}) for name in variables},
      expected,
    )

  def test_z2_has_twice_the_dimensions_of_z1_unless_told(self):
    config = VaeConfig(hierarchy='z1_top', latent_size=5)
    self.assertEqual(vaes.latent_sizes(config), {'z1': 5, 'z2': 10})
    config = dataclasses.replace(config, z2_size=3)
    self.assertEqual(vaes.latent_sizes(config), {'z1': 5, 'z2': 3})
    config = dataclasses.replace(config, hierarchy='none')
    self.assertEqual(vaes.latent_sizes(config), {'z': 5})

  @parameterized.parameters('conv', 'dugdale2023')
  def test_image_models_have_hierarchies_too(self, model):
    config = dataclasses.replace(_Z1_TOP, model=model)
    built = vaes.build_vae(config, DataSpec((8, 8, 1), 2))

    def round_trip(key):
      variables = built.init(key)
      data, labels = jnp.ones((1, 8, 8, 1)), jnp.zeros(1, jnp.int32)
      inferred, _ = built.infer(variables, data, labels, key)
      return inferred, built.decode(variables, inferred.latents, labels)[0]

    inferred, outputs = jax.eval_shape(round_trip, jax.random.key(0))
    chex.assert_shape([inferred.latents['z1'], *inferred.prior['z1']], (1, 2))
    chex.assert_shape([inferred.latents['z2'], *inferred.prior['z2']], (1, 3))
    self.assertEqual(outputs.shape, (1, 8, 8, 1))


class SettingsTest(parameterized.TestCase):
  @parameterized.parameters(
    ({'hierarchy': 'three'}, "hierarchy='three'"),
    ({'lower_prior': 'flat'}, "lower_prior='flat'"),
    ({'posterior': 'told'}, "posterior='told'"),
    ({'z2_size': -1}, 'z2_size=-1'),
    ({'latent_size': 0}, 'latent_size=0'),
    (
      {'hierarchy': 'z2_top', 'decode_both': True},
      "hierarchy=z1_top with decode_both, got hierarchy='z2_top'",
    ),
    (
      {'hierarchy': 'none', 'decode_both': True},
      "hierarchy=z1_top with decode_both, got hierarchy='none'",
    ),
  )
  def test_a_bad_setting_is_named_with_its_value(self, fields, message):
    with self.assertRaisesRegex(InputError, message):
      vaes.build_vae(dataclasses.replace(_Z1_TOP, **fields), _SPEC)


if __name__ == '__main__':
  absltest.main()
