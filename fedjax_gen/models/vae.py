"""A variational autoencoder as a value of pure functions.

Where its modules come from (server, group slice, hypernetwork, fleet) is the
whole difference between the algorithms; what they compute stands here.

One level of latents, z, or two, z1 and z2. z1 is always inferred first, from
the data; either may be on top, that is, be drawn first when generating.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

from flax import core, linen as nn
import jax
import jax.numpy as jnp

from fedjax_gen.kinds import KINDS, Kind
from fedjax_gen.losses import gaussian
from fedjax_gen.losses.gaussian import Gaussian
from fedjax_gen.losses.likelihoods import Likelihood
from fedjax_gen.models.networks import Levels
from fedjax_gen.models.vae_config import (
  DataSpec,
  VaeConfig,
  build_modules,
  latent_sizes,
)
from fedjax_gen.types import Array, Key, Variables

__all__ = [
  'DataSpec',
  'Inference',
  'Vae',
  'VaeConfig',
  'build_vae',
  'fixed_prior',
  'learnable_prior',
  'to_pixels',
  'to_unit',
]


class Inference(NamedTuple):
  """What the encoder makes of a batch; each by level, `'z'` or `'z1'`, `'z2'`.

  Attributes:
    latents: `[B, Z]` draws from the posterior, or its means.
    posterior: q of each level given the data and the levels drawn before.
    prior: p of each level given the level above it.
    kl: `[B]` the KL term of each level at these draws, in nats; its mean over
      draws is E_q [log q - log p], the term of the ELBO. See `_kl`.
  """

  latents: dict[str, Array]
  posterior: dict[str, Gaussian]
  prior: dict[str, Gaussian]
  kl: dict[str, Array]

  def log_ratio(self) -> Array:
    """`[B]` log p(latents) - log q(latents | x), in nats."""
    ratios = (
      gaussian.log_prob(self.prior[level], drawn)
      - gaussian.log_prob(self.posterior[level], drawn)
      for level, drawn in self.latents.items()
    )
    return functools.reduce(jnp.add, ratios)


class Vae(NamedTuple):
  """Encoder, decoder and prior over variables by module.

  Modules are `'encoder'`, `'decoder'` and, with two levels, `'transition'`,
  the prior of the lower level given the upper one. A further module
  `'prior'`, from `fixed_prior` or `learnable_prior`, puts the prior of a level
  elsewhere than N(0, I); `init` does not make it.

  Labels are `[B]` int32; an unconditional model ignores them. A `mask` `[B]`
  means training: batch statistics of the masked-in examples are used, and the
  module's variables come back with refreshed running statistics.

  Attributes:
    init: `key -> variables`.
    infer: `(variables, data, labels, key, mask) -> (inference, encoder
      variables)`; without a key (None), means take the place of draws.
    ancestral: `(variables, labels, key) -> latents` by level, drawn from the
      prior from the top down; without a key its means.
    decode: `(variables, latents, labels, mask) -> (outputs, decoder
      variables)`, latents by level, outputs being the parameters of the
      likelihood.
    likelihood: p(x | z).
    latent_sizes: Z by level, in the order of inference.
    conditional: whether labels are used.
    top: the level drawn first when generating.
    has_transition: whether the other level's prior depends on the top one.
    kind: of the data.
  """

  init: Callable[[Key], Variables]
  infer: Callable[..., tuple[Inference, dict]]
  ancestral: Callable[[Variables, Array, Key | None], dict[str, Array]]
  decode: Callable[..., tuple[Array, dict]]
  likelihood: Likelihood
  latent_sizes: core.FrozenDict[str, int]
  conditional: bool
  top: str = 'z'
  has_transition: bool = False
  kind: Kind = KINDS['image']


def build_vae(config: VaeConfig, spec: DataSpec) -> Vae:
  """The VAE that a configuration asks for."""
  sizes = latent_sizes(config)
  modules, likelihood = build_modules(config, spec)
  top = 'z2' if config.hierarchy == 'z2_top' else next(iter(sizes))
  lower = next((level for level in sizes if level != top), None)
  # The level that the data depend on is the lower one, or all that there is.
  decoded = tuple(sizes) if config.decode_both else (lower or top,)
  built = _Built(
    modules,
    sizes,
    top,
    lower,
    decoded,
    spec,
    config.conditional,
    config.posterior == 'residual',
  )
  return Vae(
    built.init,
    built.infer,
    built.ancestral,
    built.decode,
    likelihood,
    core.FrozenDict(sizes),  # hashable: a model is a static argument
    config.conditional,
    top,
    'transition' in modules,
    spec.kind,
  )


class _Built(NamedTuple):
  """The functions of a `Vae`.

  Attributes:
    modules: `'encoder'`, `'decoder'`, and `'transition'` where there is one.
    sizes: Z by level, in the order of inference.
    top: the level drawn first when generating.
    lower: the other level; None if there is none.
    decoded: the levels that the decoder is given.
    spec: of the data.
    conditional: whether labels are used.
    is_residual: whether posteriors are relative to priors, see `_inferred`.
  """

  modules: dict[str, nn.Module]
  sizes: dict[str, int]
  top: str
  lower: str | None
  decoded: tuple[str, ...]
  spec: DataSpec
  conditional: bool
  is_residual: bool

  def init(self, key):
    keys = jax.random.split(key)
    labels = self._condition(jnp.zeros(1, jnp.int32))
    data = jnp.zeros((1, *self.spec.shape))
    latents = {
      level: jnp.zeros((1, size)) for level, size in self.sizes.items()
    }
    encoder, decoder = self.modules['encoder'], self.modules['decoder']
    variables = {
      'encoder': encoder.init(keys[0], data, labels, None, _as_said),
      'decoder': decoder.init(keys[1], self._joined(latents), labels, None),
    }
    if 'transition' in self.modules:
      key = jax.random.fold_in(key, 2)
      variables['transition'] = self.modules['transition'].init(
        key, latents[self.top], labels, None
      )
    return variables

  def infer(self, variables, data, labels, key, mask=None):
    (posterior, latents), encoder = _apply(
      self.modules['encoder'],
      variables['encoder'],
      (
        data,
        self._condition(labels),
        mask,
        functools.partial(self._inferred, variables, labels, _draw(key)),
      ),
    )
    priors = {
      level: self._prior(variables, level, latents[self.top], labels)
      for level in self.sizes
    }
    # Of z2_top, p(z1 | z2) is given a z2 that was itself drawn given z1.
    is_sampled = self.top == 'z2' and 'transition' in self.modules
    kl = _kl(latents, posterior, priors, self.lower if is_sampled else None)
    return Inference(latents, posterior, priors, kl), encoder

  def ancestral(self, variables, labels, key):
    draw = _draw(key)
    latents = {
      self.top: draw(0, self._prior(variables, self.top, None, labels))
    }
    if self.lower:
      given = self._prior(variables, self.lower, latents[self.top], labels)
      latents[self.lower] = draw(1, given)
    return latents

  def decode(self, variables, latents, labels, mask=None):
    return _apply(
      self.modules['decoder'],
      variables['decoder'],
      (self._joined(latents), self._condition(labels), mask),
    )

  def _inferred(self, variables, labels, draw, level, heads, before):
    """The posterior of a level and latents, from what the heads say of it.

    A residual posterior is relative to the level's prior where the model has
    priors of a group, so that the encoder need not find out which group it is.
    So is that of a lower level, if the level that its prior is given is known
    by then: with z1 on top. Without priors of a group it is the plain one.
    """
    posterior = heads
    if self.is_residual and 'prior' in variables:
      is_given = level == self.lower and 'transition' in self.modules
      if not is_given or self.top in before:
        prior = self._prior(variables, level, before.get(self.top), labels)
        posterior = gaussian.relative(heads, prior)
    return posterior, draw(list(self.sizes).index(level), posterior)

  def _condition(self, labels):
    """What networks are given of labels."""
    if not self.conditional:
      return None
    return jax.nn.one_hot(labels, self.spec.num_classes)

  def _joined(self, latents):
    """Latents as the decoder is given them."""
    return jnp.concatenate([latents[level] for level in self.decoded], axis=-1)

  def _prior(self, variables, level, upper, labels):
    """The prior of a level, given the upper one where there is a transition."""
    if level == self.lower and 'transition' in self.modules:
      return _apply(
        self.modules['transition'],
        variables['transition'],
        (upper, self._condition(labels), None),
      )[0]
    shape = (labels.shape[0], self.sizes[level])
    return _level_prior(variables, level, shape)


def fixed_prior(means: dict[str, Array]) -> dict:
  """A `'prior'` module: N(mean, I) at the levels named, never trained.

  Args:
    means: `[Z]` by level.
  """
  return {'constants': {level: {'mean': m} for level, m in means.items()}}


def learnable_prior(means: dict[str, Array]) -> dict:
  """A `'prior'` module: N(mean, exp(logvar)) at the levels named, trained.

  Args:
    means: `[Z]` by level, where to start; log-variances start at zero.
  """
  return {
    'params': {
      level: {'mean': mean, 'logvar': jnp.zeros_like(mean)}
      for level, mean in means.items()
    }
  }


def to_unit(inputs: Array) -> Array:
  """Stored examples as the model sees them: uint8 images become [0, 1]."""
  if inputs.dtype == jnp.uint8:
    return inputs.astype(jnp.float32) / 255.0
  return inputs


def to_pixels(data: Array) -> Array:
  """The inverse of `to_unit` for images: [0, 1] becomes uint8."""
  return jnp.round(jnp.clip(data, 0, 1) * 255.0).astype(jnp.uint8)


def _draw(key: Key | None) -> Callable[[int, Gaussian], Array]:
  """Draws of a level from a Gaussian; without a key, its mean."""

  def draw(number, distribution):
    if key is None:
      return distribution.mean
    level_key = jax.random.fold_in(key, number) if number else key
    return gaussian.sample(level_key, distribution)

  return draw


def _as_said(level, heads, before):
  """The posterior that the heads say, and its mean."""
  del level, before
  return heads, heads.mean


def _kl(
  latents: dict[str, Array],
  posterior: Levels,
  prior: Levels,
  sampled: str | None,
) -> dict[str, Array]:
  """`[B]` KL term of each level.

  KL(q || p) in closed form, but for the level `sampled`: its prior depends on
  a draw that depends on its own: there KL(q || p) at that draw is not what log
  q - log p is on average, which is estimated at the draw.
  """
  return {
    level: gaussian.log_prob(posterior[level], drawn)
    - gaussian.log_prob(prior[level], drawn)
    if level == sampled
    else gaussian.kl(posterior[level], prior[level])
    for level, drawn in latents.items()
  }


def _level_prior(
  variables: Variables, level: str, shape: tuple[int, ...]
) -> Gaussian:
  """The unconditional prior of a level; N(0, I) unless a module says more."""
  module = variables.get('prior', {})
  if level in module.get('params', {}):
    own = module['params'][level]
    return gaussian.clipped(
      *(jnp.broadcast_to(own[name], shape) for name in ('mean', 'logvar'))
    )
  if level in module.get('constants', {}):
    # Part of the variables, so that a model is whole, and never trained.
    mean = jax.lax.stop_gradient(module['constants'][level]['mean'])
    return Gaussian(jnp.broadcast_to(mean, shape), jnp.zeros(shape))
  return gaussian.standard(shape)


def _apply(module, variables, arguments):
  """Applies a module; its variables come back, statistics refreshed."""
  mask = arguments[2]
  if mask is None or 'batch_stats' not in variables:
    return module.apply(variables, *arguments), variables
  outputs, refreshed = module.apply(
    variables, *arguments, mutable=['batch_stats']
  )
  return outputs, {**variables, **refreshed}
