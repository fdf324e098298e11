"""Bounds against a model whose marginal likelihood is known in closed form.

x = W z + b + stddev * noise with z ~ N(0, I). The columns of W are orthogonal,
so that the exact posterior is a diagonal Gaussian and a `Vae` can have it.
"""

from absl.testing import absltest, parameterized
import chex
from flax import core
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from fedjax_gen import kinds
from fedjax_gen.data.federated import Batch
from fedjax_gen.errors import InputError
from fedjax_gen.losses import gaussian, likelihoods
from fedjax_gen.losses.gaussian import Gaussian
from fedjax_gen.models import elbo, vae
from fedjax_gen.models.vae import DataSpec, Inference, Vae, VaeConfig

_W = np.array([[1.0, 1.0], [1.0, -1.0], [0.0, 1.0]], np.float32)
_BIAS = np.array([0.5, -0.2, 0.1], np.float32)
_STDDEV = 0.7
_PRECISION = 1 + (_W**2).sum(axis=0) / _STDDEV**2
_MARGINAL = stats.multivariate_normal(_BIAS, _W @ _W.T + _STDDEV**2 * np.eye(3))
_EXACT = {'encoder': {'shift': np.float32(0.0)}, 'decoder': {}}
_SHIFTED = {'encoder': {'shift': np.float32(0.5)}, 'decoder': {}}
# KL(shifted posterior || exact posterior): every mean is off by the shift.
_GAP = 0.5 * float((0.5**2 * _PRECISION).sum())


def _posterior(variables, data):
  mean = (data - _BIAS[None]) @ _W / _STDDEV**2 / _PRECISION[None]
  logvar = jnp.broadcast_to(-jnp.log(_PRECISION), mean.shape)
  return Gaussian(mean + variables['encoder']['shift'], logvar)


def _drawn(key, distribution):
  return (
    distribution.mean if key is None else gaussian.sample(key, distribution)
  )


def _infer(variables, data, labels, key, mask=None):
  del labels, mask  # unconditional and without statistics
  posterior = _posterior(variables, data)
  prior = gaussian.standard(posterior.mean.shape)
  inferred = Inference(
    {'z': _drawn(key, posterior)},
    {'z': posterior},
    {'z': prior},
    {'z': gaussian.kl(posterior, prior)},
  )
  return inferred, variables['encoder']


def _ancestral(variables, labels, key):
  del variables  # N(0, I) has no parameters
  return {'z': _drawn(key, gaussian.standard((labels.shape[0], 2)))}


def _decode(variables, latents, labels, mask=None):
  del labels, mask  # unconditional and without statistics
  return latents['z'] @ _W.T + _BIAS[None], variables['decoder']


_LINEAR = Vae(
  init=lambda key: _EXACT,
  infer=_infer,
  ancestral=_ancestral,
  decode=_decode,
  likelihood=likelihoods.gaussian(_STDDEV, bounded=False),
  latent_sizes=core.FrozenDict({'z': 2}),
  conditional=False,
  kind=kinds.KINDS['features'],
)


def _data(num):
  """`[num, 3]` draws of the marginal, and labels nobody needs."""
  draws = _MARGINAL.rvs(num, random_state=0).astype(np.float32)
  return draws.reshape(num, 3), np.zeros(num, np.int32)


def _bounds(variables, num, samples=0, **options):
  inputs, labels = _data(num)
  bounds = elbo.held_out_bounds(
    _LINEAR,
    variables,
    inputs,
    labels,
    jax.random.key(1),
    importance_samples=samples,
    **options,
  )
  return bounds, float(_MARGINAL.logpdf(inputs).mean())


class HeldOutBoundsTest(parameterized.TestCase):
  @parameterized.parameters((_EXACT, 0.0), (_SHIFTED, _GAP))
  def test_elbo_is_the_log_marginal_less_the_error_of_the_posterior(
    self, variables, gap
  ):
    bounds, log_marginal = _bounds(variables, 20_000, batch_size=20_000)
    self.assertAlmostEqual(bounds['test_elbo'], log_marginal - gap, delta=0.04)
    self.assertGreater(_GAP, 1)
    self.assertAlmostEqual(
      bounds['test_elbo'],
      -bounds['test_reconstruction'] - bounds['test_kl'],
      places=5,
    )

  @parameterized.parameters(1, 10)
  def test_importance_bound_of_the_exact_posterior_is_the_log_marginal(
    self, samples
  ):
    # Every weight is p(x), so one sample already gives the exact number.
    bounds, log_marginal = _bounds(_EXACT, 5, samples)
    self.assertAlmostEqual(
      bounds[f'test_iw_bound_{samples}'], log_marginal, places=4
    )

  def test_a_wrong_posteriors_bound_rises_with_samples_to_the_marginal(self):
    bounds, log_marginal = {}, 0.0
    for samples in (1, 4, 32):
      found, log_marginal = _bounds(
        _SHIFTED, 2000, samples, batch_size=2000, max_importance_images=2000
      )
      bounds |= found
    rising = [
      bounds['test_elbo'] + 0.2,
      bounds['test_iw_bound_4'],
      bounds['test_iw_bound_32'],
      log_marginal,
    ]
    self.assertEqual(rising, sorted(rising))
    self.assertGreater(rising[2], rising[1] + 0.2)
    # With one sample it is the ELBO again, in expectation.
    self.assertAlmostEqual(
      bounds['test_iw_bound_1'], log_marginal - _GAP, delta=0.2
    )

  @parameterized.parameters(1, 3)
  def test_values_do_not_depend_on_the_batch_size(self, batch_size):
    whole, _ = _bounds(_SHIFTED, 10, 3, batch_size=100)
    parts, _ = _bounds(_SHIFTED, 10, 3, batch_size=batch_size)
    for name, value in whole.items():
      self.assertAlmostEqual(value, parts[name], places=5)

  def test_importance_bound_stops_at_the_number_of_images_asked_for(self):
    few, _ = _bounds(_SHIFTED, 10, 4, max_importance_images=3)
    inputs, labels = _data(10)
    inputs[3:] = 1e3
    poisoned = elbo.held_out_bounds(
      _LINEAR,
      _SHIFTED,
      inputs,
      labels,
      jax.random.key(1),
      importance_samples=4,
      max_importance_images=3,
    )
    self.assertEqual(few['test_iw_bound_4'], poisoned['test_iw_bound_4'])
    self.assertLess(poisoned['test_elbo'], few['test_elbo'] - 1e3)

  @parameterized.parameters(
    {'importance_samples': -1},
    {'max_importance_images': 0},
    {'batch_size': 0},
  )
  def test_refuses_numbers_out_of_range(self, **option):
    ((name, value),) = option.items()
    with self.assertRaisesRegex(InputError, f'{name}={value}'):
      elbo.held_out_bounds(
        _LINEAR, _EXACT, *_data(2), jax.random.key(0), **option
      )


class LossTest(parameterized.TestCase):
  def _loss(self, mask, beta=1.0, inputs=None):
    data, labels = _data(4)
    data = jnp.asarray(data if inputs is None else inputs)
    batch = Batch(data, jnp.asarray(labels), jnp.array(mask))
    loss_fn = jax.jit(elbo.elbo_loss(_LINEAR, beta))
    return loss_fn(_SHIFTED, batch, jax.random.key(0))

  def test_masked_rows_do_not_count(self):
    mask = [True, False, True, False]
    inputs, _ = _data(4)
    poisoned = inputs.copy()
    poisoned[[1, 3]] = np.nan
    loss, (_, metrics) = self._loss(mask)
    same_loss, (_, same_metrics) = self._loss(mask, inputs=poisoned)
    chex.assert_trees_all_equal((loss, metrics), (same_loss, same_metrics))
    posterior = _posterior(_SHIFTED, inputs)
    kl = gaussian.kl(posterior, gaussian.standard((4, 2)))
    self.assertAlmostEqual(
      float(metrics['kl']), float(kl[0] + kl[2]) / 2, places=5
    )
    self.assertNotAlmostEqual(float(metrics['kl']), float(kl.mean()), places=2)

  def test_a_batch_without_rows_costs_nothing(self):
    loss, _ = self._loss([False] * 4)
    self.assertEqual(loss, 0)

  @parameterized.parameters(0.0, 1.0, 5.0)
  def test_beta_scales_the_kl_alone(self, beta):
    loss, (_, metrics) = self._loss([True] * 4, beta)
    _, (_, plain) = self._loss([True] * 4)
    chex.assert_trees_all_equal(metrics, plain)
    self.assertAlmostEqual(
      float(loss),
      float(plain['reconstruction'] + beta * plain['kl']),
      places=4,
    )

  def test_loss_is_the_negative_elbo_in_expectation(self):
    inputs, labels = _data(20_000)
    batch = Batch(
      jnp.asarray(inputs), jnp.asarray(labels), jnp.ones(20_000, bool)
    )
    loss_fn = jax.jit(elbo.elbo_loss(_LINEAR))
    loss, _ = loss_fn(_EXACT, batch, jax.random.key(0))
    self.assertAlmostEqual(
      float(loss), -_MARGINAL.logpdf(inputs).mean(), delta=0.04
    )

  def test_refreshed_statistics_come_back_and_parameters_as_they_were(self):
    config = VaeConfig(model='mlp', latent_size=2, hidden_size=4, norm='batch')
    model = vae.build_vae(config, DataSpec((2, 2, 1), 2))
    variables = jax.jit(model.init)(jax.random.key(0))
    inputs = jnp.arange(16, dtype=jnp.uint8).reshape(4, 2, 2, 1) * 16
    batch = Batch(inputs, jnp.zeros(4, jnp.int32), jnp.ones(4, bool))
    loss_fn = jax.jit(elbo.elbo_loss(model))
    _, (refreshed, _) = loss_fn(variables, batch, jax.random.key(1))
    for name in ('encoder', 'decoder'):
      old, new = variables[name], refreshed[name]
      chex.assert_trees_all_equal(old['params'], new['params'])
      moved = jax.tree.map(
        lambda a, b: bool((a != b).any()),
        old['batch_stats'],
        new['batch_stats'],
      )
      self.assertTrue(all(jax.tree.leaves(moved)), moved)

  def test_beta_may_be_an_array(self):
    inputs, labels = _data(4)
    batch = Batch(jnp.asarray(inputs), jnp.asarray(labels), jnp.ones(4, bool))

    @jax.jit
    def run(beta):
      return elbo.elbo_loss(_LINEAR, beta)(_SHIFTED, batch, jax.random.key(0))

    for beta in (0.0, 2.5):
      chex.assert_trees_all_close(
        run(jnp.float32(beta)), self._loss([True] * 4, beta), rtol=1e-6
      )

  def test_refuses_a_negative_beta(self):
    with self.assertRaisesRegex(InputError, 'beta=-1'):
      elbo.elbo_loss(_LINEAR, -1)


class GenerateTest(parameterized.TestCase):
  def _images(self, labels, seed=1, **options):
    config = VaeConfig(model='mlp', latent_size=2, hidden_size=16)
    model = vae.build_vae(config, DataSpec((3, 3, 1), 2))
    variables = jax.jit(model.init)(jax.random.key(0))
    # Strong weights, so that samples are not all middle grey.
    variables = jax.tree.map(lambda leaf: 2 * leaf, variables)
    key = jax.random.key(seed)
    return elbo.generate(
      model, variables, np.array(labels), key, **options
    ).astype(int)

  def test_sample_i_depends_on_the_key_and_i_alone(self):
    seven = self._images([0] * 7)
    three = self._images([0] * 3)
    # One level of rounding apart at most, whatever the batches are.
    np.testing.assert_allclose(three, seven[:3], atol=1)
    for batch_size in (1, 2, 7):
      parts = self._images([0] * 7, batch_size=batch_size)
      np.testing.assert_allclose(parts, seven, atol=1)
    # Samples differ from each other and from those of another key.
    self.assertGreater(abs(seven[0] - seven[1]).max(), 5)
    self.assertGreater(abs(self._images([0] * 7, 2) - seven).max(), 5)

  def test_a_label_changes_its_own_sample_only(self):
    first, second = self._images([0, 0]), self._images([0, 1])
    np.testing.assert_allclose(first[0], second[0], atol=1)
    self.assertGreater(abs(first[1] - second[1]).max(), 5)

  def test_images_are_uint8_and_features_float32(self):
    config = VaeConfig(model='mlp', latent_size=2, hidden_size=4)
    model = vae.build_vae(config, DataSpec((3, 2, 1), 2))
    variables = jax.jit(model.init)(jax.random.key(0))
    labels = np.zeros(2, np.int32)
    images = elbo.generate(model, variables, labels, jax.random.key(0))
    self.assertIsInstance(images, np.ndarray)
    self.assertEqual((images.shape, images.dtype), ((2, 3, 2, 1), np.uint8))
    features = elbo.generate(_LINEAR, _EXACT, labels, jax.random.key(0))
    self.assertEqual((features.shape, features.dtype), ((2, 3), np.float32))

  def test_features_are_the_decoded_prior(self):
    labels = np.zeros(20_000, np.int32)
    features = elbo.generate(
      _LINEAR, _EXACT, labels, jax.random.key(0), batch_size=20_000
    )
    np.testing.assert_allclose(features.mean(axis=0), _BIAS, atol=0.05)
    # Means of p(x | z): without the noise of x.
    np.testing.assert_allclose(np.cov(features.T), _W @ _W.T, atol=0.1)

  def test_reconstructions_are_the_decoded_posterior_means(self):
    inputs, labels = _data(3)
    means, reconstructed = elbo.reconstruct(_LINEAR, _EXACT, inputs, labels)
    posterior = _posterior(_EXACT, inputs)
    chex.assert_trees_all_close(means, posterior.mean, rtol=1e-5)
    np.testing.assert_allclose(
      reconstructed, posterior.mean @ _W.T + _BIAS[None], rtol=1e-4, atol=1e-5
    )


if __name__ == '__main__':
  absltest.main()
