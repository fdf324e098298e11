"""A variational autoencoder as a value of pure functions.

Where its three modules come from (server, group slice, hypernetwork, fleet) is
the whole difference between the algorithms; what they compute stands here.
"""

from collections.abc import Callable
import dataclasses
import math
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from fedjax_gen import validate
from fedjax_gen.errors import InputError
from fedjax_gen.losses import gaussian, likelihoods
from fedjax_gen.losses.gaussian import Gaussian
from fedjax_gen.losses.likelihoods import Likelihood
from fedjax_gen.models import networks
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


class Vae(NamedTuple):
  """Encoder, decoder and prior over variables `{'encoder', 'decoder'}`.

  Labels are `[B]` int32; an unconditional model ignores them. A `mask` `[B]`
  means training: batch statistics of the masked-in examples are used, and the
  module's variables come back with refreshed running statistics.

  Attributes:
    init: `key -> variables`.
    encode: `(variables, data, labels, mask) -> (q(z | x), encoder variables)`.
    decode: `(variables, latents, labels, mask) -> (outputs, decoder
      variables)`, outputs being the parameters of the likelihood.
    prior: `(variables, labels) -> p(z)`, `[B, Z]`.
    likelihood: p(x | z).
    latent_size: Z.
    conditional: whether labels are used.
  """

  init: Callable[[Key], Variables]
  encode: Callable[..., tuple[Gaussian, dict]]
  decode: Callable[..., tuple[Array, dict]]
  prior: Callable[[Variables, Array], Gaussian]
  likelihood: Likelihood
  latent_size: int
  conditional: bool


MODELS = ('conv', 'mlp', 'dugdale2023')


@dataclasses.dataclass(frozen=True)
class VaeConfig:
  """The model."""

  model: str = dataclasses.field(
    default='conv',
    metadata={
      'choices': MODELS,
      'help': 'Network: conv (strided), mlp, or dugdale2023, the published '
      'FedVAE model (11,087,731 parameters on 28x28)',
    },
  )
  latent_size: int = dataclasses.field(
    default=16, metadata={'help': 'Z, dimensions of the latent space'}
  )
  conditional: bool = dataclasses.field(
    default=True,
    metadata={'help': 'give encoder and decoder the class label'},
  )
  channels: tuple[int, ...] = dataclasses.field(
    default=(32, 64),
    metadata={'help': 'Channels of each stride-2 layer of model=conv'},
  )
  hidden_size: int = dataclasses.field(
    default=256, metadata={'help': 'width of the dense layers'}
  )
  norm: str = dataclasses.field(
    default='group',
    metadata={
      'choices': networks.NORMS,
      'help': 'Normalisation; the running statistics of batch are averaged '
      'with the module that holds them',
    },
  )
  likelihood: str = dataclasses.field(
    default='gaussian',
    metadata={
      'choices': ('bernoulli', 'gaussian', 'discretised_logistic'),
      'help': 'p(x | z)',
    },
  )
  likelihood_stddev: float = dataclasses.field(
    default=0.2,
    metadata={
      'help': 'standard deviation of the gaussian likelihood, in units of '
      'pixel values in [0, 1]: smaller is sharper and harder to sample'
    },
  )


def build_vae(config: VaeConfig, spec: DataSpec) -> Vae:
  """The VAE that a configuration asks for.

  Args:
    config: which networks, latent size, likelihood.
    spec: shape of the data and number of classes.

  Raises:
    InputError: a field is out of range or does not fit the data.
  """
  encoder, decoder, likelihood = _modules(config, spec)

  def condition(labels):
    if not config.conditional:
      return None
    return jax.nn.one_hot(labels, spec.num_classes)

  def init(key):
    encoder_key, decoder_key = jax.random.split(key)
    labels = condition(jnp.zeros(1, jnp.int32))
    data = jnp.zeros((1, *spec.shape))
    latents = jnp.zeros((1, config.latent_size))
    return {
      'encoder': encoder.init(encoder_key, data, labels, None),
      'decoder': decoder.init(decoder_key, latents, labels, None),
    }

  def encode(variables, data, labels, mask=None):
    (mean, logvar), encoder_variables = _apply(
      encoder, variables['encoder'], data, condition(labels), mask
    )
    return gaussian.clipped(mean, logvar), encoder_variables

  def decode(variables, latents, labels, mask=None):
    return _apply(
      decoder, variables['decoder'], latents, condition(labels), mask
    )

  def prior(variables, labels):
    del variables  # N(0, I) has no parameters
    return gaussian.standard((labels.shape[0], config.latent_size))

  return Vae(
    init,
    encode,
    decode,
    prior,
    likelihood,
    config.latent_size,
    config.conditional,
  )


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
    for leaf in jax.tree.leaves(module['params'])
  )


def _modules(
  config: VaeConfig, spec: DataSpec
) -> tuple[nn.Module, nn.Module, Likelihood]:
  """Encoder, decoder and likelihood, after checking the configuration."""
  validate.one_of(MODELS, model=config.model)
  validate.one_of(networks.NORMS, norm=config.norm)
  validate.positive_int(
    latent_size=config.latent_size,
    hidden_size=config.hidden_size,
    num_classes=spec.num_classes,
  )
  validate.positive(likelihood_stddev=config.likelihood_stddev)
  for features in config.channels:
    validate.positive_int(channels=features)
  likelihood = likelihoods.by_name(
    config.likelihood, stddev=config.likelihood_stddev, is_image=spec.is_image
  )
  shape = (*spec.shape[:-1], spec.shape[-1] * likelihood.outputs_per_value)
  if config.model == 'mlp':
    sizes = (config.hidden_size, config.hidden_size)
    return (
      networks.MlpEncoder(config.latent_size, sizes, config.norm),
      networks.MlpDecoder(shape, sizes, config.norm),
      likelihood,
    )
  if not spec.is_image:
    raise InputError(
      f"Expected model='mlp' for features of shape {spec.shape}, got "
      f'model={config.model!r}, which needs images.'
    )
  if config.model == 'conv':
    if not config.channels:
      raise InputError('Expected channels to name at least one layer, got ().')
    widths = (tuple(config.channels), config.hidden_size, config.norm)
    return (
      networks.ConvEncoder(config.latent_size, *widths),
      networks.ConvDecoder(shape, *widths),
      likelihood,
    )
  if config.norm == 'group':
    raise InputError(
      "Expected norm='batch' (as published) or 'none' for model=dugdale2023, "
      "got norm='group': it would fix the mean and contrast of every image."
    )
  if min(spec.shape[:2]) < 5:
    raise InputError(
      'Expected images of at least 5 x 5 pixels for model=dugdale2023, got '
      f'{spec.shape[0]} x {spec.shape[1]}.'
    )
  return (
    networks.DugdaleEncoder(config.latent_size, config.norm),
    networks.DugdaleDecoder(shape, config.norm),
    likelihood,
  )


def _apply(module, variables, inputs, condition, mask):
  """Applies a module; its variables come back, statistics refreshed."""
  if mask is None or 'batch_stats' not in variables:
    return module.apply(variables, inputs, condition, mask), variables
  outputs, refreshed = module.apply(
    variables, inputs, condition, mask, mutable=['batch_stats']
  )
  return outputs, {**variables, **refreshed}
