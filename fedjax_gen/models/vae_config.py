"""What a VAE is asked to be, and the networks that make it so."""

import collections
import dataclasses
from typing import Any

from flax import linen as nn

from fedjax_gen import fields, validate
from fedjax_gen.errors import InputError
from fedjax_gen.kinds import DataSpec, Kind
from fedjax_gen.losses import likelihoods
from fedjax_gen.losses.likelihoods import Likelihood
from fedjax_gen.models import decoders, networks

__all__ = ['DataSpec', 'VaeConfig', 'build_modules', 'latent_sizes']

MODELS = ('auto', 'conv', 'mlp', 'dugdale2023')
HIERARCHIES = ('none', 'z1_top', 'z2_top')
POSTERIORS = ('plain', 'residual')


@dataclasses.dataclass(frozen=True)
class VaeConfig(fields.Configuration):
  """The model."""

  model: str = fields.option(
    'auto',
    'Network: conv (strided, of series in one dimension), mlp, or '
    'dugdale2023, the published FedVAE model (11,087,731 parameters on '
    '28x28); auto: conv for images and series, mlp for features and tables',
    choices=MODELS,
  )
  decoder: str = fields.option(
    'same',
    'Decoder, if it is not the one of the model',
    # As they are when it is asked: families may be added.
    choices=collections.ChainMap[str, Any](decoders.DECODERS, {'same': None}),
  )
  latent_size: int = fields.positive_int(
    16, 'Z, dimensions of the latent space; of z1 if two'
  )
  hierarchy: str = fields.option(
    'none',
    'Two levels of latents: z1_top generates z1, z2, x; z2_top z2, z1, x',
    choices=HIERARCHIES,
  )
  z2_size: int = fields.non_negative_int(
    0, 'dimensions of z2; 0 for twice latent_size'
  )
  lower_prior: str = fields.option(
    'conditional',
    'prior of the lower level: given the upper level, or independent of it',
    choices=('conditional', 'standard'),
  )
  decode_both: bool = fields.option(
    False, 'with z1_top: decode from both levels, z1 and z2 side by side'
  )
  conditional: bool = fields.option(
    True, 'give encoder and decoder the class label'
  )
  channels: tuple[int, ...] = fields.option(
    (32, 64),
    'Channels of each stride-2 layer of model=conv',
    check=validate.each(validate.positive_int),
  )
  hidden_size: int = fields.positive_int(256, 'width of the dense layers')
  norm: str = fields.option(
    'group',
    'Normalisation; the running statistics of batch are averaged '
    'with the module that holds them',
    choices=networks.NORMS,
  )
  posterior: str = fields.option(
    'plain',
    'q(z | x): the output of the encoder as it is, or, where groups have '
    'priors, relative to the prior of the client’s group',
    choices=POSTERIORS,
  )
  likelihood: str = fields.option(
    'auto',
    'p(x | z); mixed: for each column of a table or channel of a series its '
    'own, a Gaussian with a learned scale or categories; auto: mixed for '
    'tables and series, else gaussian',
    choices=('auto', *likelihoods.NAMES),
  )
  likelihood_stddev: float = fields.positive(
    0.2,
    'standard deviation of the gaussian likelihood, in units of '
    'pixel values in [0, 1]: smaller is sharper and harder to sample',
  )


def latent_sizes(config: VaeConfig) -> dict[str, int]:
  """Z by level, in the order of inference.

  Raises:
    InputError: a field is out of range or two exclude each other.
  """
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


def build_modules(
  config: VaeConfig, spec: DataSpec
) -> tuple[dict[str, nn.Module], Likelihood]:
  """Networks by module, and likelihood, after checking the configuration."""
  sizes = latent_sizes(config)
  validate.positive_int(num_classes=spec.num_classes)
  kind = spec.kind
  model = kind.models[0] if config.model == 'auto' else config.model
  likelihood = likelihoods.by_name(
    kind.likelihoods[0] if config.likelihood == 'auto' else config.likelihood,
    stddev=config.likelihood_stddev,
    spec=spec,
  )
  shape = (*spec.shape[:-1], spec.shape[-1] * likelihood.outputs_per_value)
  widths = decoders.Widths(
    tuple(config.channels), config.hidden_size, config.norm
  )
  family = model if config.decoder == 'same' else config.decoder
  if model not in kind.models:
    fitting = ' or '.join(map(repr, kind.models))
    raise InputError(
      f'Expected model={fitting} for {kind.name} of shape {spec.shape}, got '
      f'model={model!r}.'
    )
  # Checks that channels and shape fit; the encoders ask for no less.
  decoders.build(model, shape, widths, kind)
  decoder = decoders.build(family, shape, widths, kind)
  if likelihood.num_scales:
    decoder = decoders.LearnedScales(decoder, likelihood.num_scales)
  modules = {
    'encoder': _encoder(config, sizes, model, kind),
    'decoder': decoder,
  }
  if config.hierarchy != 'none' and config.lower_prior == 'conditional':
    lower = 'z2' if config.hierarchy == 'z1_top' else 'z1'
    modules['transition'] = networks.Transition(
      sizes[lower], config.hidden_size
    )
  return modules, likelihood


def _encoder(
  config: VaeConfig, sizes: dict[str, int], model: str, kind: Kind
) -> nn.Module:
  width, norm = config.hidden_size, config.norm
  conv = networks.SeriesTrunk if kind.trunk == 'series' else networks.ConvTrunk
  trunk = {
    'conv': conv(tuple(config.channels), width, norm),
    'mlp': networks.MlpTrunk((width, width), norm),
    'dugdale2023': networks.DugdaleTrunk(norm),
  }[model]
  first, *others = sizes.values()
  if others:
    return networks.TwoLevelEncoder(
      trunk=trunk,
      latent_sizes=(first, others[0]),
      hidden_size=width,
      z2_sees_data=config.hierarchy == 'z1_top',
    )
  if model == 'dugdale2023':
    return networks.Encoder(
      trunk=trunk, latent_size=first, kernel_init=networks.torch_init
    )
  return networks.Encoder(trunk=trunk, latent_size=first)
