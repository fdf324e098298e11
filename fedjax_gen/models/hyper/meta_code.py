"""Synthetic client codes: fitting, mixing, interpolation.

After training, FedHypeVAE (see `fedjax_gen.models.hyper.hypernetwork`) looks
for a neutral code that generates embeddings with the class moments that
clients released (eq. 11), and mixes codes (eq. 13). All of it is
post-processing of what was released: no client is asked again.

Published: eq. 11, the squared errors of class means and, times beta, of class
covariances; eq. 13, the mean of the decoders' and priors' parameters; latents
drawn from N(0, I) when generating (eq. 12), although priors were learned.

Ours, the paper being silent: variances in place of covariances, F numbers of a
class and not F^2, which the noise on them would drown; the generated embedding
is the decoder's mean, at draws that stay the same from step to step; Adam from
a code of zero; latents drawn from the learned prior; and a mixture of samples,
since averaged parameters make no mixture of distributions.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen import fields, trees, validate
from fedjax_gen.errors import InputError
from fedjax_gen.losses import gaussian
from fedjax_gen.models.hyper import hypernetwork
from fedjax_gen.models.hyper.hypernetwork import HyperVae, Personal
from fedjax_gen.types import Array, Key

MIXES = ('params', 'samples')
LATENTS = ('prior', 'standard')


class ClassMoments(NamedTuple):
  """What is known of each class of embeddings.

  Attributes:
    counts: `[C]` examples; a class with a count of zero or less (it may be
      noisy) is unknown.
    means: `[C, F]`.
    variances: `[C, F]` of each feature.
  """

  counts: Array
  means: Array
  variances: Array


@dataclasses.dataclass(frozen=True)
class MetaConfig(fields.Configuration):
  """How a code is fitted to class moments."""

  meta_beta: float = fields.non_negative(
    0.1, 'weight of the variances, next to the means of classes'
  )
  meta_samples: int = fields.positive_int(
    256, 'latents of a class that moments are computed over'
  )
  meta_steps: int = fields.positive_int(500, 'steps of Adam on the code')
  meta_learning_rate: float = fields.positive(1e-2, 'of the Adam on the code')


def fit_code(
  model: HyperVae,
  hyper: dict[str, Any],
  moments: ClassMoments,
  key: Key,
  config: MetaConfig | None = None,
) -> tuple[Array, Array]:
  """The code that generates classes with the given moments (eq. 11).

  Descends, over the classes that are known, the sum of `|m_y - mean_y|^2 +
  beta |s_y - variance_y|^2`, m_y and s_y being the moments of the decoder's
  means. Both are sums over features, as printed: beta weighs variances, in
  units of the embeddings to the fourth power, against squares. A variance of
  the decoder's means lacks that of the likelihood.

  Args:
    model: the model.
    hyper: what all share; it stays as it is.
    moments: of each class.
    key: consumed, of the latents.
    config: the defaults if None.

  Returns:
    The code `[V]`, inside the ball, and the loss before each step, `[steps]`.

  Raises:
    InputError: the moments are not those of the model's data, or nothing of
      the model depends on a code.
  """
  config = config or MetaConfig()
  _expect_code(model)
  expected = (model.spec.num_classes, *model.spec.shape)
  for name in ('means', 'variances'):
    shape = jnp.shape(getattr(moments, name))
    if shape != expected:
      raise InputError(
        f'Expected {name} of shape {expected}, one row a class, got {shape}.'
      )
  if jnp.shape(moments.counts) != expected[:1]:
    raise InputError(
      f'Expected counts of shape {expected[:1]}, one a class, got '
      f'{jnp.shape(moments.counts)}.'
    )
  moments = ClassMoments(*map(jnp.asarray, moments))
  return _fit_code(model, config, hyper, moments, key)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _fit_code(model, config, hyper, moments, key):
  optimizer = optax.adam(config.meta_learning_rate)
  known = moments.counts > 0
  # What is unknown may be anything, NaN too.
  targets = trees.where(known, moments, trees.zeros_like(moments))

  def loss_fn(code):
    personal = model.personalise(hyper, code)
    # The same key, and so the same noise, at every step.
    ours = generated_moments(model, hyper, personal, key, config.meta_samples)
    errors = jnp.sum((ours.means - targets.means) ** 2, axis=-1)
    errors += config.meta_beta * jnp.sum(
      (ours.variances - targets.variances) ** 2, axis=-1
    )
    return jnp.sum(jnp.where(known, errors, 0.0))

  def step(carry, _):
    code, optimizer_state = carry
    loss, gradient = jax.value_and_grad(loss_fn)(code)
    updates, optimizer_state = optimizer.update(gradient, optimizer_state, code)
    code = model.project({'code': optax.apply_updates(code, updates)})['code']
    return (code, optimizer_state), loss

  code = jnp.zeros(model.config.code_size)
  (code, _), losses = jax.lax.scan(
    step, (code, optimizer.init(code)), length=config.meta_steps
  )
  return code, losses


@functools.partial(jax.jit, static_argnums=(0, 4))
def generated_moments(
  model: HyperVae,
  hyper: dict[str, Any],
  personal: Personal,
  key: Key,
  num_samples: int,
) -> ClassMoments:
  """Moments of the decoder's means over a client's prior.

  Args:
    model: the model.
    hyper: what all share.
    personal: the client's decoder and prior.
    key: consumed.
    num_samples: latents of a class, S.

  Returns:
    Counts are S each; variances are means of squared deviations.
  """

  def of_class(label, class_key):
    labels = jnp.full(num_samples, label)
    latents = hypernetwork.sample_latents(personal, labels, class_key)
    means = model.decode(hyper, personal, latents, labels)
    return means.mean(axis=0), means.var(axis=0)

  num_classes = model.spec.num_classes
  keys = jax.random.split(key, num_classes)
  means, variances = jax.vmap(of_class)(jnp.arange(num_classes), keys)
  counts = jnp.full(num_classes, float(num_samples))
  return ClassMoments(counts, means, variances)


def mixed_personal(
  model: HyperVae, hyper: dict[str, Any], codes: Array, weights: Array
) -> Personal:
  """The weighted mean of the decoders and priors of several codes (eq. 13).

  Of priors, means and log standard deviations are averaged, the parameters as
  the paper writes them.

  Args:
    model: the model.
    hyper: what all share.
    codes: `[K, V]`.
    weights: `[K]`; only their proportions count.
  """
  personals = _personals(model, hyper, codes)
  return trees.weighted_sum(personals, weights / jnp.sum(weights))


def generate_mixture(
  model: HyperVae,
  hyper: dict[str, Any],
  codes: Array,
  weights: Array,
  labels: Array,
  key: Key,
  mix: str = 'params',
  latent: str = 'prior',
  *,
  draw: bool = False,
) -> Array:
  """Embeddings from several codes.

  Args:
    model: the model.
    hyper: what all share.
    codes: `[K, V]`; of a model in which nothing depends on codes, anything of
      K rows.
    weights: `[K]`; only their proportions count; with mix='samples' also
      `[C, K]`, others for each class.
    labels: `[n]` class of each embedding.
    key: consumed. Embedding i depends on the key and i alone.
    mix: `'params'`, the mean of the codes' parameters, as published, or
      `'samples'`, a true mixture, in which every embedding is of one code,
      drawn by its weight. Of one code they are the same.
    latent: `'prior'`, from the generated prior, or `'standard'`, from N(0, I),
      as printed in eq. 12.
    draw: draws of the likelihood, in place of its means.

  Returns:
    `[n, F]`.

  Raises:
    InputError: `mix` or `latent` is unknown, or there is not one weight a code,
      none below zero and some above, in each class if classes differ.
  """
  validate.one_of(MIXES, mix=mix)
  validate.one_of(LATENTS, latent=latent)
  codes, given = jnp.asarray(codes), np.asarray(weights)
  shapes: tuple[tuple[int, ...], ...] = (codes.shape[:1],)
  if mix == 'samples':
    shapes += ((model.spec.num_classes, len(codes)),)
  proper = given.shape in shapes and np.all(given >= 0)
  totals = given.sum(axis=-1)
  if not proper or not np.all((totals > 0) & np.isfinite(totals)):
    raise InputError(
      f'Expected weights of {len(codes)} codes, none below 0 and some above, '
      f'got weights={given.tolist()}.'
    )
  return _generate_mixture(
    model,
    (mix, latent, draw),
    hyper,
    codes,
    jnp.asarray(given, jnp.float32),
    jnp.asarray(labels),
    key,
  )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generate_mixture(model, options, hyper, codes, weights, labels, key):
  mix, latent, draw = options
  if mix == 'params':
    weights = weights / jnp.sum(weights)
    mixed = mixed_personal(model, hyper, codes, weights)
    personals = jax.tree.map(lambda leaf: leaf[None], mixed)
  else:
    personals = _personals(model, hyper, codes)
  if latent == 'standard':
    shape = personals.prior.mean.shape
    personals = personals._replace(prior=gaussian.standard(shape))

  def one(example):
    label, index = example
    example_key = jax.random.fold_in(key, index)
    which: Array | int = 0
    if mix == 'samples':
      # 0 and 1 are of the latents and of the likelihood.
      code_key = jax.random.fold_in(example_key, 2)
      mine = weights[label] if weights.ndim == 2 else weights
      which = jax.random.categorical(code_key, jnp.log(mine))
    return hypernetwork.generate_one(
      model,
      hyper,
      trees.take(personals, which),
      label,
      example_key,
      draw=draw,
    )

  # Of head=full, each embedding of a block has all weights of a decoder.
  whole = mix == 'samples' and model.config.head == 'full'
  index = jnp.arange(labels.shape[0])
  return jax.lax.map(one, (labels, index), batch_size=32 if whole else 500)


def interpolated(code_a: Array, code_b: Array, num: int) -> Array:
  """`[num, V]` codes on the straight line from one to the other, both ends."""
  validate.positive_int(num=num)
  return jnp.linspace(code_a, code_b, num)


def _personals(
  model: HyperVae, hyper: dict[str, Any], codes: Array
) -> Personal:
  """The decoders and priors of codes `[K, V]`, stacked."""
  return jax.vmap(
    functools.partial(model.personalise, hyper), axis_size=len(codes)
  )(codes)


def _expect_code(model: HyperVae) -> None:
  if not model.config.uses_code:
    raise InputError(
      'Expected a model in which something depends on a code, got '
      f'head={model.config.head!r} and prior={model.config.prior!r}.'
    )
