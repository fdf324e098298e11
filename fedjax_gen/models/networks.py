"""Encoders and decoders, as Flax modules of one example's shape.

All take `(inputs, condition, mask)`: the condition is a `[B, C]` one-hot label
or `None`; the mask is `[B]`, the examples that count in batch statistics while
training, or `None` when running statistics are to be used.
"""

from collections.abc import Sequence
import math

from flax import linen as nn
import jax.numpy as jnp

from fedjax_gen.models import layers
from fedjax_gen.types import Array

NORMS = ('group', 'batch', 'none')


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


class ConvEncoder(nn.Module):
  """Stride-2 convolutions, one dense layer, two linear heads.

  A convolution that BatchNorm follows has no bias: its gradient would be
  rounding noise, which Adam blows up to full steps.

  Attributes:
    latent_size: Z.
    channels: output channels of each convolution; each halves the image.
    hidden_size: width of the dense layer.
    norm: normalisation after each convolution.
  """

  latent_size: int
  channels: Sequence[int] = (32, 64)
  hidden_size: int = 256
  norm: str = 'group'

  @nn.compact
  def __call__(self, inputs, condition, mask):
    """Maps `[B, H, W, C]` to mean and log-variance, `[B, Z]` each."""
    for features in self.channels:
      inputs = layers.Conv(features, use_bias=self.norm != 'batch')(inputs)
      inputs = nn.silu(Norm(self.norm)(inputs, mask))
    hidden = _joined(inputs.reshape(inputs.shape[0], -1), condition)
    hidden = nn.silu(nn.Dense(self.hidden_size)(hidden))
    return _heads(hidden, self.latent_size)


class ConvDecoder(nn.Module):
  """The mirror of `ConvEncoder`: two dense layers, then doublings.

  Attributes:
    image_shape: (height, width, outputs per pixel).
    channels: as the encoder's; used from the last to the first.
    hidden_size: width of the first dense layer.
    norm: normalisation before each activation.
  """

  image_shape: Sequence[int]
  channels: Sequence[int] = (32, 64)
  hidden_size: int = 256
  norm: str = 'group'

  @nn.compact
  def __call__(self, latents, condition, mask):
    """Maps `[B, Z]` to outputs `[B, H, W, outputs per pixel]`."""
    height, width, outputs = self.image_shape
    scale = 2 ** len(self.channels)
    # Rounded up and cut at the end, so that any image size will do.
    base = (-(-height // scale), -(-width // scale), self.channels[-1])
    hidden = _joined(latents, condition)
    hidden = nn.silu(nn.Dense(self.hidden_size)(hidden))
    hidden = nn.Dense(math.prod(base))(hidden).reshape(-1, *base)
    widths = [*reversed(self.channels[:-1]), outputs]
    for i, features in enumerate(widths):
      last = i == len(widths) - 1
      hidden = nn.silu(Norm(self.norm)(hidden, mask))
      hidden = layers.ConvTranspose(
        features, use_bias=last or self.norm != 'batch'
      )(hidden)
    return hidden[:, :height, :width]


class MlpEncoder(nn.Module):
  """Dense layers and two linear heads; images are flattened.

  Attributes:
    latent_size: Z.
    hidden_sizes: widths of the dense layers.
    norm: normalisation before each activation.
  """

  latent_size: int
  hidden_sizes: Sequence[int] = (256, 256)
  norm: str = 'none'

  @nn.compact
  def __call__(self, inputs, condition, mask):
    """Maps `[B, ...]` to mean and log-variance, `[B, Z]` each."""
    hidden = _joined(inputs.reshape(inputs.shape[0], -1), condition)
    for size in self.hidden_sizes:
      hidden = nn.silu(Norm(self.norm)(nn.Dense(size)(hidden), mask))
    return _heads(hidden, self.latent_size)


class MlpDecoder(nn.Module):
  """Dense layers from the latent to every output.

  Attributes:
    data_shape: shape of one example's outputs.
    hidden_sizes: widths of the dense layers.
    norm: normalisation before each activation.
  """

  data_shape: tuple[int, ...]
  hidden_sizes: Sequence[int] = (256, 256)
  norm: str = 'none'

  @nn.compact
  def __call__(self, latents, condition, mask):
    """Maps `[B, Z]` to outputs `[B, ...]`."""
    hidden = _joined(latents, condition)
    for size in self.hidden_sizes:
      hidden = nn.silu(Norm(self.norm)(nn.Dense(size)(hidden), mask))
    outputs = nn.Dense(math.prod(self.data_shape))(hidden)
    return outputs.reshape(-1, *self.data_shape)


# PyTorch's default, U(-1, 1) / sqrt(fan_in), in which the published FedVAE
# code was trained; biases, drawn likewise there, start at zero here.
_torch_init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class DugdaleEncoder(nn.Module):
  """Encoder of hugo-dugdale/federated_VAE (2023), layer for layer.

  Two 3 x 3 convolutions without padding (16, 32 channels), normalisation and
  LeakyReLU(0.01); with its decoder 11,087,731 parameters on 28 x 28 images.

  Attributes:
    latent_size: 200 in the published code.
    norm: batch in the published code.
  """

  latent_size: int = 200
  norm: str = 'batch'

  @nn.compact
  def __call__(self, inputs, condition, mask):
    """Maps `[B, H, W, C]` to mean and log-variance, `[B, Z]` each."""
    for features in (16, 32):
      inputs = layers.Conv(
        features, (3, 3), (1, 1), 'VALID', kernel_init=_torch_init
      )(inputs)
      inputs = nn.leaky_relu(Norm(self.norm)(inputs, mask), 0.01)
    hidden = _joined(inputs.reshape(inputs.shape[0], -1), condition)
    return _heads(hidden, self.latent_size, _torch_init)


class DugdaleDecoder(nn.Module):
  """Decoder of hugo-dugdale/federated_VAE (2023), layer for layer.

  The normalisation of the output logits is in the published code.

  Attributes:
    image_shape: (height, width, outputs per pixel).
    norm: batch in the published code.
  """

  image_shape: Sequence[int]
  norm: str = 'batch'

  @nn.compact
  def __call__(self, latents, condition, mask):
    """Maps `[B, Z]` to outputs `[B, H, W, outputs per pixel]`."""
    height, width, outputs = self.image_shape
    base = (height - 4, width - 4, 32)
    hidden = nn.Dense(math.prod(base), kernel_init=_torch_init)(
      _joined(latents, condition)
    )
    hidden = hidden.reshape(-1, *base)
    for features, activation in ((16, _leaky), (outputs, _identity)):
      hidden = layers.ConvTranspose(
        features, (3, 3), (1, 1), 'VALID', kernel_init=_torch_init
      )(hidden)
      hidden = activation(Norm(self.norm)(hidden, mask))
    return hidden


def _leaky(inputs: Array) -> Array:
  return nn.leaky_relu(inputs, 0.01)


def _identity(inputs: Array) -> Array:
  return inputs


def _joined(inputs: Array, condition: Array | None) -> Array:
  """Appends the condition to the features."""
  if condition is None:
    return inputs
  return jnp.concatenate([inputs, condition], axis=-1)


def _heads(
  hidden: Array,
  latent_size: int,
  init: nn.initializers.Initializer = nn.linear.default_kernel_init,
) -> tuple[Array, Array]:
  """Mean and log-variance from one matrix, cut in two."""
  both = nn.Dense(2 * latent_size, kernel_init=init)(hidden)
  mean, logvar = jnp.split(both, 2, axis=-1)
  return mean, logvar
