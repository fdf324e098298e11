"""A variational autoencoder as a value of pure functions.

Where its modules come from (server, group slice, hypernetwork, fleet) is the
whole difference between the algorithms; what they compute stands here.

One level of latents, z, or two, z1 and z2. z1 is always inferred first, from
the data; either may be on top, that is, be drawn first when generating.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import NamedTuple

from flax import core, linen as nn
import jax
import jax.numpy as jnp

from fedjax_gen import fields, validate
from fedjax_gen.errors import InputError
from fedjax_gen.losses import gaussian, likelihoods
from fedjax_gen.losses.gaussian import Gaussian
from fedjax_gen.losses.likelihoods import Likelihood
from fedjax_gen.models import decoders, networks
from fedjax_gen.models.networks import Levels
from fedjax_gen.types import Array, Key, Variables


class DataSpec(NamedTuple):
  """The shape of the data a model is built for.

  Attributes:
    shape: of one example: (H, W, C) for images, (F,) for features.
    num_classes: C; labels lie in [0, C).
  """

  shape: tuple[int, ...]
  num_classes: int

  @property
  def is_image(self) -> bool:
    """Whether examples are images, with values in [0, 1]."""
    return len(self.shape) == 3


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


MODELS = ('conv', 'mlp', 'dugdale2023')
HIERARCHIES = ('none', 'z1_top', 'z2_top')


@dataclasses.dataclass(frozen=True)
class VaeConfig:
  """The model."""

  model: str = fields.option(
    'conv',
    'Network: conv (strided), mlp, or dugdale2023, the published '
    'FedVAE model (11,087,731 parameters on 28x28)',
    choices=MODELS,
  )
  decoder: str = fields.option(
    'same',
    'Decoder, if another than that of the model',
    choices=('same', *decoders.DECODERS),
  )
  latent_size: int = fields.option(
    16, 'Z, dimensions of the latent space; of z1 if two'
  )
  hierarchy: str = fields.option(
    'none',
    'Two levels of latents: z1_top generates z1, z2, x; z2_top z2, z1, x',
    choices=HIERARCHIES,
  )
  z2_size: int = fields.option(0, 'dimensions of z2; 0 for twice latent_size')
  lower_prior: str = fields.option(
    'conditional',
    'prior of the level that is not on top: given the upper level, '
    'or without regard to it',
    choices=('conditional', 'standard'),
  )
  decode_both: bool = fields.option(
    False, 'with z1_top: decode from both levels, z1 and z2 side by side'
  )
  conditional: bool = fields.option(
    True, 'give encoder and decoder the class label'
  )
  channels: tuple[int, ...] = fields.option(
    (32, 64), 'Channels of each stride-2 layer of model=conv'
  )
  hidden_size: int = fields.option(256, 'width of the dense layers')
  norm: str = fields.option(
    'group',
    'Normalisation; the running statistics of batch are averaged '
    'with the module that holds them',
    choices=networks.NORMS,
  )
  likelihood: str = fields.option(
    'gaussian',
    'p(x | z)',
    choices=('bernoulli', 'gaussian', 'discretised_logistic'),
  )
  likelihood_stddev: float = fields.option(
    0.2,
    'standard deviation of the gaussian likelihood, in units of '
    'pixel values in [0, 1]: smaller is sharper and harder to sample',
  )


def build_vae(config: VaeConfig, spec: DataSpec) -> Vae:
  """The VAE that a configuration asks for.

  Args:
    config: which networks, latent sizes, likelihood.
    spec: shape of the data and number of classes.

  Raises:
    InputError: a field is out of range or does not fit the data.
  """
  sizes = latent_sizes(config)
  modules, likelihood = _modules(config, spec)
  top = 'z2' if config.hierarchy == 'z2_top' else next(iter(sizes))
  lower = next((level for level in sizes if level != top), None)
  # The level that the data depend on is the lower one, or all that there is.
  decoded = list(sizes) if config.decode_both else [lower or top]

  def condition(labels):
    if not config.conditional:
      return None
    return jax.nn.one_hot(labels, spec.num_classes)

  def init(key):
    keys = jax.random.split(key)
    labels = condition(jnp.zeros(1, jnp.int32))
    data = jnp.zeros((1, *spec.shape))
    latents = {level: jnp.zeros((1, size)) for level, size in sizes.items()}
    joined = jnp.concatenate([latents[level] for level in decoded], axis=-1)
    variables = {
      'encoder': modules['encoder'].init(keys[0], data, labels, None, _draw()),
      'decoder': modules['decoder'].init(keys[1], joined, labels, None),
    }
    if 'transition' in modules:
      key = jax.random.fold_in(key, 2)
      variables['transition'] = modules['transition'].init(
        key, latents[top], labels, None
      )
    return variables

  def prior(variables, level, upper, labels):
    if level == lower and 'transition' in modules:
      return _apply(
        modules['transition'],
        variables['transition'],
        (upper, condition(labels), None),
      )[0]
    return _level_prior(variables, level, (labels.shape[0], sizes[level]))

  def infer(variables, data, labels, key, mask=None):
    (posterior, latents), encoder = _apply(
      modules['encoder'],
      variables['encoder'],
      (data, condition(labels), mask, _draw(key)),
    )
    priors = {
      level: prior(variables, level, latents[top], labels) for level in sizes
    }
    # Of z2_top, p(z1 | z2) is given a z2 that was itself drawn given z1.
    sampled = lower if top == 'z2' and 'transition' in modules else None
    kl = _kl(latents, posterior, priors, sampled)
    return Inference(latents, posterior, priors, kl), encoder

  def ancestral(variables, labels, key):
    draw = _draw(key)
    latents = {top: draw(0, prior(variables, top, None, labels))}
    if lower:
      given = prior(variables, lower, latents[top], labels)
      latents[lower] = draw(1, given)
    return latents

  def decode(variables, latents, labels, mask=None):
    joined = jnp.concatenate([latents[level] for level in decoded], axis=-1)
    return _apply(
      modules['decoder'],
      variables['decoder'],
      (joined, condition(labels), mask),
    )

  return Vae(
    init,
    infer,
    ancestral,
    decode,
    likelihood,
    core.FrozenDict(sizes),  # hashable: a model is a static argument
    config.conditional,
    top,
    'transition' in modules,
  )


def latent_sizes(config: VaeConfig) -> dict[str, int]:
  """Z by level, in the order of inference.

  Raises:
    InputError: a field is out of range or two exclude each other.
  """
  validate.one_of(HIERARCHIES, hierarchy=config.hierarchy)
  validate.one_of(('conditional', 'standard'), lower_prior=config.lower_prior)
  validate.positive_int(latent_size=config.latent_size)
  validate.non_negative_int(z2_size=config.z2_size)
  if config.decode_both and config.hierarchy != 'z1_top':
    raise InputError(
      'Expected hierarchy=z1_top with decode_both, got '
      f'hierarchy={config.hierarchy!r}.'
    )
  if config.hierarchy == 'none':
    return {'z': config.latent_size}
  return {
    'z1': config.latent_size,
    'z2': config.z2_size or 2 * config.latent_size,
  }


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


def num_parameters(variables: Variables) -> int:
  """Number of trainable values: the collections `params`, not statistics."""
  return sum(
    math.prod(leaf.shape)
    for module in variables.values()
    for leaf in jax.tree.leaves(module.get('params', {}))
  )


def _modules(
  config: VaeConfig, spec: DataSpec
) -> tuple[dict[str, nn.Module], Likelihood]:
  """Networks by module, and likelihood, after checking the configuration."""
  validate.one_of(MODELS, model=config.model)
  validate.one_of(networks.NORMS, norm=config.norm)
  validate.positive_int(
    hidden_size=config.hidden_size, num_classes=spec.num_classes
  )
  validate.positive(likelihood_stddev=config.likelihood_stddev)
  for features in config.channels:
    validate.positive_int(channels=features)
  likelihood = likelihoods.by_name(
    config.likelihood, stddev=config.likelihood_stddev, is_image=spec.is_image
  )
  shape = (*spec.shape[:-1], spec.shape[-1] * likelihood.outputs_per_value)
  widths = decoders.Widths(
    tuple(config.channels), config.hidden_size, config.norm
  )
  family = config.model if config.decoder == 'same' else config.decoder
  if config.model != 'mlp' and not spec.is_image:
    raise InputError(
      f"Expected model='mlp' for features of shape {spec.shape}, got "
      f'model={config.model!r}, which needs images.'
    )
  # Checks that channels and shape fit; the encoders ask for no less.
  decoders.build(config.model, shape, widths)
  modules = {
    'encoder': _encoder(config),
    'decoder': decoders.build(family, shape, widths),
  }
  if config.hierarchy != 'none' and config.lower_prior == 'conditional':
    lower = 'z2' if config.hierarchy == 'z1_top' else 'z1'
    modules['transition'] = networks.Transition(
      latent_sizes(config)[lower], config.hidden_size
    )
  return modules, likelihood


def _encoder(config: VaeConfig) -> nn.Module:
  width, norm = config.hidden_size, config.norm
  trunk = {
    'conv': networks.ConvTrunk(tuple(config.channels), width, norm),
    'mlp': networks.MlpTrunk((width, width), norm),
    'dugdale2023': networks.DugdaleTrunk(norm),
  }[config.model]
  first, *others = latent_sizes(config).values()
  if others:
    return networks.TwoLevelEncoder(
      trunk=trunk,
      latent_sizes=(first, others[0]),
      hidden_size=width,
      z2_sees_data=config.hierarchy == 'z1_top',
    )
  if config.model == 'dugdale2023':
    return networks.Encoder(
      trunk=trunk, latent_size=first, kernel_init=networks.torch_init
    )
  return networks.Encoder(trunk=trunk, latent_size=first)


def _draw(key: Key | None = None) -> networks.Draw:
  """Draws of a level from a Gaussian; without a key, its mean."""

  def draw(number, distribution):
    if key is None:
      return distribution.mean
    level_key = jax.random.fold_in(key, number) if number else key
    return gaussian.sample(level_key, distribution)

  return draw


def _kl(
  latents: dict[str, Array],
  posterior: Levels,
  prior: Levels,
  sampled: str | None,
) -> dict[str, Array]:
  """`[B]` KL term of each level.

  KL(q || p) in closed form, but for the level `sampled`, whose prior depends on
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
