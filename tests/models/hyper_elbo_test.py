"""The cost of a record against NumPy, and what it does not read."""

import functools
import itertools
import math

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.models.hyper import hyper_elbo
from fedjax_gen.models.hyper.hyper_elbo import Weights
from fedjax_gen.models.hyper.hypernetwork import (
  HyperVaeConfig,
  build_hyper_vae,
  sample_latents,
)
from fedjax_gen.models.vae import DataSpec

_SPEC = DataSpec((4,), 3)
_STDDEV = 0.7
_MODEL = build_hyper_vae(
  HyperVaeConfig(
    latent_size=2,
    hidden_sizes=(5,),
    code_size=3,
    hyper_size=4,
    likelihood_stddev=_STDDEV,
  ),
  _SPEC,
)
_RECORD = np.array([0.3, -1.2, 0.8, 2.0], np.float32)
_KEY = jax.random.key(5)


@functools.cache
def _start():
  """Shared and own variables with nothing at zero; the client's decoder."""
  shapes = jax.eval_shape(
    lambda key: (_MODEL.init(key), _MODEL.init_client(key)), _KEY
  )
  rng = np.random.default_rng(0)
  hyper, own = jax.tree.map(
    lambda leaf: jnp.asarray(0.5 * rng.standard_normal(leaf.shape), 'f4'),
    shapes,
  )
  return hyper, own, _MODEL.personalise(hyper, own['code'])


@functools.cache
def _loss_fn(weights):
  hyper, own, personal = _start()
  return jax.jit(
    lambda inputs, label, key: hyper_elbo.record_loss(
      _MODEL, weights, hyper, personal, own['encoder'], inputs, label, key
    )
  )


def _loss(label=1, key=_KEY, record=_RECORD, **weights):
  return _loss_fn(Weights(**weights))(record, jnp.int32(label), key)


def _dense(variables, inputs):
  """A layer after the other, ReLU between, in float64."""
  for index in range(len(variables['params'])):
    layer = variables['params'][f'Dense_{index}']
    inputs = np.maximum(inputs, 0) if index else inputs
    inputs = inputs @ np.float64(layer['kernel']) + np.float64(layer['bias'])
  return inputs


def _decoded(latents, label):
  """`[F]` by scaled and shifted rows of the base weights, in float64."""
  hyper, _, personal = _start()
  values = np.concatenate([np.float64(latents), np.eye(3)[label]])
  for index, own in enumerate(personal.decoder):
    layer = hyper['base']['params'][f'Dense_{index}']
    values = np.maximum(values, 0) if index else values
    values = values @ (np.float64(layer['kernel']) * np.float64(own['scale']))
    values = values + np.float64(layer['bias']) + np.float64(own['shift'])
  return values


def _kernel(left, right):
  squared = np.sum((left - right) ** 2) / len(left)
  return np.mean([
    np.exp(-squared / (2 * scale)) for scale in (0.25, 0.5, 1, 2, 4)
  ])  # fmt: skip


class RecordLossTest(parameterized.TestCase):
  @parameterized.parameters(0, 2)
  def test_terms_agree_with_their_formulas(self, label):
    _, own, personal = _start()
    loss, metrics = _loss(label, beta=0.3)
    mean, logvar = np.split(
      _dense(own['encoder'], np.r_[_RECORD, np.eye(3)[label]]), 2
    )
    # The posterior's own draw; only the noise is JAX's.
    noise = jax.random.normal(jax.random.split(_KEY, 3)[0], (1, 2))[0]
    latents = mean + np.exp(logvar / 2) * np.float64(noise)
    residual = _RECORD - _decoded(latents, label)
    reconstruction = 0.5 * np.sum(
      residual**2 / _STDDEV**2 + np.log(2 * math.pi * _STDDEV**2)
    )
    prior_mean, prior_logvar = (np.float64(p[label]) for p in personal.prior)
    kl = 0.5 * np.sum(
      prior_logvar
      - logvar
      + (np.exp(logvar) + (mean - prior_mean) ** 2) / np.exp(prior_logvar)
      - 1
    )
    self.assertGreater(kl, 0.1)
    self.assertGreater(np.abs(prior_mean).max(), 0.01)  # no standard prior
    np.testing.assert_allclose(
      metrics['reconstruction'], reconstruction, rtol=1e-4
    )
    np.testing.assert_allclose(metrics['kl'], kl, rtol=1e-4)
    np.testing.assert_allclose(loss, reconstruction + 0.3 * kl, rtol=1e-4)
    self.assertEqual(set(metrics), {'loss', 'reconstruction', 'kl'})

  @parameterized.parameters(True, False)
  def test_mmd_compares_with_draws_of_the_prior(self, conditional):
    _, _, personal = _start()
    terms = {'mmd_samples': 4, 'mmd_conditional': conditional}
    without, plain = _loss(beta=0.3, mmd=0.0, **terms)
    loss, metrics = _loss(beta=0.3, mmd=2.5, **terms)
    self.assertNotIn('mmd', plain)
    # The term does not change what the others draw.
    np.testing.assert_allclose(loss, without + 2.5 * metrics['mmd'], rtol=1e-5)
    _, label_key, draw_key = jax.random.split(_KEY, 3)
    labels = jnp.full(4, 1)
    if not conditional:
      labels = jax.random.randint(label_key, (4,), 0, 3)
      self.assertGreater(len(set(labels.tolist())), 1)
    latents = sample_latents(personal, labels, draw_key)
    generated = [
      _decoded(z, y) for z, y in zip(latents, labels.tolist(), strict=True)
    ]
    among = np.mean(
      [_kernel(a, b) for a, b in itertools.permutations(generated, 2)]
    )
    across = np.mean([_kernel(_RECORD, a) for a in generated])
    np.testing.assert_allclose(metrics['mmd'], among - 2 * across, rtol=1e-4)

  def test_generated_examples_do_not_depend_on_the_record(self):
    # Else the mean over records would not have the gradient of the MMD. A
    # record far from everything leaves the generated pairs alone.
    for far in (1e3, 2e3):
      _, metrics = _loss(record=jnp.full(4, far), mmd=1.0)
      _, other = _loss(record=jnp.full(4, -far), mmd=1.0)
      self.assertEqual(metrics['mmd'], other['mmd'])
      self.assertGreater(metrics['mmd'], 0.0)

  def test_it_is_differentiable_in_all_that_is_trained(self):
    hyper, own, _ = _start()

    def loss(hyper, own):
      return hyper_elbo.record_loss(
        _MODEL, Weights(mmd=1.0), hyper,
        _MODEL.personalise(hyper, own['code']), own['encoder'],
        jnp.asarray(_RECORD), jnp.int32(1), _KEY,
      )[0]  # fmt: skip

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(hyper, own)
    chex.assert_tree_all_finite(gradients)
    for leaf in jax.tree.leaves(gradients):
      self.assertGreater(float(jnp.abs(leaf).max()), 0)


if __name__ == '__main__':
  absltest.main()
