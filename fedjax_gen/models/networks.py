"""Encoders, and what decoders share with them, as Flax modules.

All take `(inputs, condition, mask)`: the condition is a `[B, C]` one-hot label
or `None`; the mask is `[B]`, the examples that count in batch statistics while
training, or `None` when running statistics are to be used. An encoder is a
trunk, which `vae_config` chooses, with the heads of one or of two levels of
latents on top.
"""

from collections.abc import Callable, Sequence
import math

from flax import linen as nn
import jax.numpy as jnp

from fedjax_gen.losses import gaussian
from fedjax_gen.losses.gaussian import Gaussian
from fedjax_gen.models import layers
from fedjax_gen.types import Array

NORMS = ('group', 'batch', 'none')
# A series is an image of width 1: convolutions are those of images.
SERIES_WINDOW, SERIES_STRIDES = (4, 1), (2, 1)

Infer = Callable[[str, Gaussian, dict[str, Array]], tuple[Gaussian, Array]]
"""`(level, heads, latents before) -> (q, latents)` of one level.

The heads say what the network makes of the data. q is that, or that relative to
the level's prior; the latents are a draw from q, or its mean.
"""
Levels = dict[str, Gaussian]
"""A Gaussian for each level of latents, by name: z, or z1 and z2."""


class Norm(nn.Module):
  """Normalisation by name.

  GroupNorm keeps no statistics and is the default. BatchNorm's running
  statistics live in the collection `batch_stats`; they are averaged with the
  module that holds them.

  Attributes:
    kind: `'group'`, `'batch'` or `'none'`.
  """

  kind: str

  @nn.compact
  def __call__(self, inputs: Array, mask: Array | None) -> Array:
    """Normalises `[B, ..., C]`; the mask is `[B]`."""
    if self.kind == 'group':
      channels = inputs.shape[-1]
      # A narrow layer is one group: groups of a single feature are all zero.
      num_groups = math.gcd(8, channels) if channels >= 32 else 1
      return nn.GroupNorm(num_groups)(inputs)
    if self.kind == 'batch':
      if mask is not None:
        mask = mask.reshape(-1, *[1] * (inputs.ndim - 1))
      return nn.BatchNorm(use_running_average=mask is None, momentum=0.9)(
        inputs, mask=mask
      )
    return inputs


class ConvTrunk(nn.Module):
  """Stride-2 convolutions and one dense layer.

  A convolution that BatchNorm follows has no bias: its gradient would be
  rounding noise, which Adam blows up to full steps.
  """

  channels: Sequence[int] = (32, 64)
  hidden_size: int = 256
  norm: str = 'group'
  window: tuple[int, int] = (4, 4)
  strides: tuple[int, int] = (2, 2)

  @nn.compact
  def __call__(self, inputs, condition, mask):
    """Maps `[B, H, W, C]` to features `[B, hidden_size]`."""
    for features in self.channels:
      inputs = layers.Conv(
        features, self.window, self.strides, use_bias=self.norm != 'batch'
      )(inputs)
      inputs = nn.silu(Norm(self.norm)(inputs, mask))
    hidden = joined(inputs.reshape(inputs.shape[0], -1), condition)
    return nn.silu(nn.Dense(self.hidden_size)(hidden))


class SeriesTrunk(nn.Module):
  """Stride-2 convolutions in time and one dense layer, as `ConvTrunk`."""

  channels: Sequence[int] = (32, 64)
  hidden_size: int = 256
  norm: str = 'group'

  @nn.compact
  def __call__(self, inputs, condition, mask):
    """Maps `[B, T, F]` to features `[B, hidden_size]`."""
    return ConvTrunk(
      self.channels,
      self.hidden_size,
      self.norm,
      window=SERIES_WINDOW,
      strides=SERIES_STRIDES,
    )(inputs[:, :, None], condition, mask)


class MlpTrunk(nn.Module):
  """Dense layers; images are flattened."""

  hidden_sizes: Sequence[int] = (256, 256)
  norm: str = 'none'

  @nn.compact
  def __call__(self, inputs, condition, mask):
    """Maps `[B, ...]` to features `[B, F]`."""
    hidden = joined(inputs.reshape(inputs.shape[0], -1), condition)
    for size in self.hidden_sizes:
      hidden = nn.silu(Norm(self.norm)(nn.Dense(size)(hidden), mask))
    return hidden


# PyTorch's default, U(-1, 1) / sqrt(fan_in), in which the published FedVAE
# code was trained; biases, drawn likewise there, start at zero here.
torch_init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
# PyTorch keeps kernels of transposed convolutions as [in, out, k, k] and takes
# the second axis for its fan-in: out * k^2, which is `fan_out` of ours.
torch_transposed_init = nn.initializers.variance_scaling(
  1 / 3, 'fan_out', 'uniform'
)


class DugdaleTrunk(nn.Module):
  """Encoder of hugo-dugdale/federated_VAE (2023), layer for layer.

  Two 3 x 3 convolutions without padding (16, 32 channels), normalisation and
  LeakyReLU(0.01); with heads for 200 latents and its decoder 11,087,731
  parameters on 28 x 28 images.
  """

  norm: str = 'batch'

  @nn.compact
  def __call__(self, inputs, condition, mask):
    """Maps `[B, H, W, C]` to features `[B, F]`."""
    for features in (16, 32):
      inputs = layers.Conv(
        features, (3, 3), (1, 1), 'VALID', kernel_init=torch_init
      )(inputs)
      inputs = nn.leaky_relu(Norm(self.norm)(inputs, mask), 0.01)
    return joined(inputs.reshape(inputs.shape[0], -1), condition)


class Heads(nn.Module):
  """Mean and log-variance of a Gaussian, from one matrix cut in two."""

  latent_size: int
  kernel_init: nn.initializers.Initializer = nn.linear.default_kernel_init

  @nn.compact
  def __call__(self, features: Array) -> Gaussian:
    """Maps `[B, F]` to a Gaussian of `[B, Z]`, log-variances clipped."""
    both = nn.Dense(2 * self.latent_size, kernel_init=self.kernel_init)(
      features
    )
    return gaussian.clipped(*jnp.split(both, 2, axis=-1))


class Encoder(nn.Module):
  """q(z | x)."""

  trunk: nn.Module
  latent_size: int
  kernel_init: nn.initializers.Initializer = nn.linear.default_kernel_init

  @nn.compact
  def __call__(
    self, inputs, condition, mask, infer: Infer
  ) -> tuple[Levels, dict[str, Array]]:
    """Posterior of `[B, ...]` data and the latents drawn, by level."""
    features = self.trunk(inputs, condition, mask)
    heads = Heads(self.latent_size, self.kernel_init)(features)
    posterior, z = infer('z', heads, {})
    return {'z': posterior}, {'z': z}


class TwoLevelEncoder(nn.Module):
  """q(z1 | x) and q(z2 | x, z1), or q(z2 | z1) where z2 is on top.

  Attributes:
    trunk: features of the data.
    latent_sizes: Z of z1 and of z2.
    hidden_size: width of the layer before the heads of z2.
    z2_sees_data: whether q(z2 | .) is given the features of the data.
  """

  trunk: nn.Module
  latent_sizes: tuple[int, int]
  hidden_size: int
  z2_sees_data: bool

  @nn.compact
  def __call__(
    self, inputs, condition, mask, infer: Infer
  ) -> tuple[Levels, dict[str, Array]]:
    """Posterior of `[B, ...]` data and the latents drawn, by level."""
    features = self.trunk(inputs, condition, mask)
    first, z1 = infer('z1', Heads(self.latent_sizes[0])(features), {})
    seen = joined(features, z1) if self.z2_sees_data else z1
    hidden = nn.silu(nn.Dense(self.hidden_size)(joined(seen, condition)))
    heads = Heads(self.latent_sizes[1])(hidden)
    second, z2 = infer('z2', heads, {'z1': z1})
    return {'z1': first, 'z2': second}, {'z1': z1, 'z2': z2}


class Transition(nn.Module):
  """The prior of the lower level given the upper one, p(z2 | z1) or p(z1 | z2).

  Attributes:
    latent_size: Z of the lower level.
    hidden_size: width of its two dense layers.
  """

  latent_size: int
  hidden_size: int

  @nn.compact
  def __call__(self, upper, condition, mask) -> Gaussian:
    """Maps latents `[B, Z']` to a Gaussian of `[B, Z]`."""
    del mask  # no normalisation
    hidden = joined(upper, condition)
    for _ in range(2):
      hidden = nn.silu(nn.Dense(self.hidden_size)(hidden))
    return Heads(self.latent_size)(hidden)


def joined(inputs: Array, condition: Array | None) -> Array:
  """Appends the condition to the features."""
  if condition is None:
    return inputs
  return jnp.concatenate([inputs, condition], axis=-1)
