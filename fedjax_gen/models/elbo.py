"""The evidence lower bound: the training loss, and bounds on held-out data."""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import fields, trees, validate
from fedjax_gen.models.generator import Family, Generator
from fedjax_gen.models.vae import (
  DataSpec,
  Vae,
  VaeConfig,
  build_vae,
  to_pixels,
  to_unit,
)
from fedjax_gen.types import Array, Key, LossFn, Variables

_DRAW = 1  # folded into the key of an example, which latents are split from


@dataclasses.dataclass(frozen=True)
class ElboConfig(fields.Configuration):
  """What a VAE's training descends."""

  beta: float = fields.non_negative(1.0, 'weight of the KL term')


class Terms(NamedTuple):
  """The two terms of the negative ELBO, nats per example.

  Attributes:
    reconstruction: `[B]` -log p(x | z) at one posterior sample.
    kl: `[B]` the KL term of each level of latents, see `vae.Inference`.
  """

  reconstruction: Array
  kl: dict[str, Array]


def elbo_loss(vae: Vae, beta: float | Array = 1.0) -> LossFn:
  """The loss of beta-VAE training: -E log p(x | z) + beta KL(q || p).

  Sums over pixels and latent dimensions, mean over the batch's unmasked
  examples. beta = 1 is the negative ELBO (Kingma & Welling, 2014, eq. 3); of
  two levels both KL terms count.

  Args:
    vae: the model.
    beta: weight of the KL term; an array may change from round to round.
  """
  if not isinstance(beta, jax.Array):
    validate.non_negative(beta=beta)

  def loss_fn(variables, batch, key):
    data = to_unit(batch.inputs)
    terms, refreshed = _terms(
      vae, variables, data, batch.labels, key, batch.mask
    )
    reconstruction, *levels = (
      trees.masked_mean(term, batch.mask)
      for term in (terms.reconstruction, *terms.kl.values())
    )
    kl = functools.reduce(jnp.add, levels)
    metrics = {'reconstruction': reconstruction, 'kl': kl}
    if len(levels) > 1:
      metrics |= {
        f'kl_{level}': value
        for level, value in zip(terms.kl, levels, strict=True)
      }
    return reconstruction + beta * kl, (refreshed, metrics)

  return loss_fn


def of_vae(vae: Vae, beta: float = 1.0) -> Generator:
  """A VAE as a generator: latents from the prior, decoded.

  Args:
    vae: the model.
    beta: weight of the KL term in training.

  Raises:
    InputError: `beta` is negative.
  """

  def bounds(variables, inputs, labels, key, importance_samples=0):
    return held_out_bounds(
      vae,
      variables,
      inputs,
      labels,
      key,
      importance_samples=importance_samples,
    )

  return Generator(
    init=vae.init,
    loss=elbo_loss(vae, beta),
    sample=lambda variables, labels, key: generate(
      vae, variables, jnp.asarray(labels), key
    ),
    conditional=vae.conditional,
    bounds=bounds,
    reconstruct=lambda variables, inputs, labels: reconstruct(
      vae, variables, jnp.asarray(inputs), jnp.asarray(labels)
    ),
    best='test_elbo',
    model=vae,
  )


def _build(config: VaeConfig, training: ElboConfig, spec: DataSpec):
  return of_vae(build_vae(config, spec), training.beta)


FAMILY = Family((VaeConfig,), (ElboConfig,), _build, 'variational autoencoder')


def held_out_bounds(
  vae: Vae,
  variables: Variables,
  inputs: np.ndarray,
  labels: np.ndarray,
  key: Key,
  *,
  importance_samples: int = 0,
  max_importance_images: int = 1000,
  batch_size: int = 100,
) -> dict[str, float]:
  """ELBO and importance-weighted bound on held-out data, nats per image.

  Args:
    vae: the model.
    variables: its variables; running statistics are used.
    inputs: `[n, ...]` as stored.
    labels: `[n]`.
    key: consumed.
    importance_samples: S of the importance-weighted bound (Burda et al.,
      2016, eq. 8); 0 leaves it out.
    max_importance_images: it is computed on the first so many images, since
      it decodes each S times.
    batch_size: examples computed at once.

  Returns:
    `test_elbo`, `test_reconstruction` (-log p(x | z)), `test_kl` and, if asked
    for, `test_iw_bound_<S>`. Bounds are higher is better.
  """
  validate.non_negative_int(importance_samples=importance_samples)
  validate.positive_int(
    max_importance_images=max_importance_images, batch_size=batch_size
  )
  elbo_key, bound_key = jax.random.split(key)
  data = (jnp.asarray(inputs), jnp.asarray(labels))
  terms = _elbo_terms(vae, batch_size, variables, data, elbo_key)
  reconstruction = float(terms.reconstruction.mean())
  levels = {level: float(values.mean()) for level, values in terms.kl.items()}
  kl = sum(levels.values())
  bounds = {
    'test_elbo': -(reconstruction + kl),
    'test_reconstruction': reconstruction,
    'test_kl': kl,
  }
  if len(levels) > 1:
    bounds |= {f'test_kl_{level}': value for level, value in levels.items()}
  if importance_samples:
    few = jax.tree.map(lambda a: a[:max_importance_images], data)
    values = _iw_bounds(
      vae, importance_samples, batch_size, variables, few, bound_key
    )
    bounds[f'test_iw_bound_{importance_samples}'] = float(values.mean())
  return bounds


@functools.partial(jax.jit, static_argnums=(0, 1))
def _elbo_terms(vae, batch_size, variables, data, key) -> Terms:
  """Terms of every example, `[n]`."""

  def one(example):
    (inputs, labels), index = example
    x, y = to_unit(inputs)[None], labels[None]
    terms, _ = _terms(vae, variables, x, y, jax.random.fold_in(key, index))
    return jax.tree.map(lambda a: a[0], terms)

  index = jnp.arange(data[1].shape[0])
  return jax.lax.map(one, (data, index), batch_size=batch_size)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _iw_bounds(vae, samples, batch_size, variables, data, key) -> Array:
  """Log 1/S sum_s p(x, z_s) / q(z_s | x) of every example, `[n]`."""

  def one(example):
    (inputs, labels), index = example
    x, y = to_unit(inputs)[None], labels[None]

    def log_weight(sample_key):
      inferred, _ = vae.infer(variables, x, y, sample_key)
      outputs, _ = vae.decode(variables, inferred.latents, y)
      return (vae.likelihood.log_prob(outputs, x) + inferred.log_ratio())[0]

    keys = jax.random.split(jax.random.fold_in(key, index), samples)
    log_weights = jax.vmap(log_weight)(keys)
    return jax.nn.logsumexp(log_weights) - math.log(samples)

  index = jnp.arange(data[1].shape[0])
  few = max(1, batch_size // samples)
  return jax.lax.map(one, (data, index), batch_size=few)


def generate(
  vae: Vae,
  variables: Variables,
  labels: Array,
  key: Key,
  *,
  batch_size: int = 500,
) -> np.ndarray:
  """Samples from the prior, decoded: p(x | z) at its mean.

  Of series and tables flags and categories are drawn, and so are the numbers
  of tables (`likelihoods.mixed`).

  Args:
    vae: the model.
    variables: its variables.
    labels: `[n]` class of each sample; an unconditional model ignores them.
    key: consumed. Sample i depends on the key and i alone.
    batch_size: samples decoded at once.

  Returns:
    `[n, H, W, C]` uint8 images, or float32 examples in the form of the data.
  """
  return np.asarray(_generate(vae, batch_size, variables, labels, key))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generate(vae, batch_size, variables, labels, key):
  def one(example):
    label, index = example
    example_key = jax.random.fold_in(key, index)
    latents = vae.ancestral(variables, label[None], example_key)
    return generated(vae, variables, latents, label[None], example_key)[0]

  index = jnp.arange(labels.shape[0])
  return jax.lax.map(one, (labels, index), batch_size=batch_size)


@functools.partial(jax.jit, static_argnums=0)
def reconstruct(
  vae: Vae, variables: Variables, inputs: Array, labels: Array
) -> tuple[Array, Array]:
  """Posterior means and what they decode to.

  Args:
    vae: the model.
    variables: its variables.
    inputs: `[B, ...]` as stored.
    labels: `[B]`.

  Returns:
    Latent means `[B, Z]`, those of two levels side by side, and
    reconstructions in the form of `inputs`.
  """
  inferred, _ = vae.infer(variables, to_unit(inputs), labels, None)
  means = jnp.concatenate(list(inferred.latents.values()), axis=-1)
  return means, _decoded(vae, variables, inferred.latents, labels)


def generated(
  vae: Vae,
  variables: Variables,
  latents: dict[str, Array],
  labels: Array,
  key: Key,
) -> Array:
  """Latents decoded, in stored form, with draws where `generate` has them.

  Args:
    vae: the model.
    variables: its variables.
    latents: `[B, Z]` by level.
    labels: `[B]`.
    key: of the examples; may be the one that the latents were drawn with.
  """
  if vae.likelihood.generated is None:
    return _decoded(vae, variables, latents, labels)
  outputs, _ = vae.decode(variables, latents, labels)
  return vae.likelihood.generated(jax.random.fold_in(key, _DRAW), outputs)


def _decoded(vae, variables, latents, labels):
  """Mean of p(x | z), in stored form: pixels for images."""
  outputs, _ = vae.decode(variables, latents, labels)
  mean = vae.likelihood.mean(outputs)
  return to_pixels(mean) if vae.kind.is_bounded else mean


def _terms(vae, variables, data, labels, key, mask=None):
  """Terms `[B]` at one draw, and the variables with refreshed statistics."""
  inferred, encoder = vae.infer(variables, data, labels, key, mask)
  outputs, decoder = vae.decode(variables, inferred.latents, labels, mask)
  terms = Terms(-vae.likelihood.log_prob(outputs, data), inferred.kl)
  return terms, {**variables, 'encoder': encoder, 'decoder': decoder}
