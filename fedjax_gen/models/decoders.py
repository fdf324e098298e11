"""Decoders: from latents to the parameters of p(x | z), and their registry.

All take `(latents, condition, mask)` like the networks of `networks`. A new
family is a module here and a row of `DECODERS`; flags, checks and every
algorithm follow.
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import NamedTuple

from flax import linen as nn
import jax.numpy as jnp

from fedjax_gen import kinds, validate
from fedjax_gen.errors import InputError
from fedjax_gen.kinds import Kind
from fedjax_gen.models import layers, networks
from fedjax_gen.types import Array


class ConvDecoder(nn.Module):
  """The mirror of `networks.ConvTrunk`: two dense layers, then doublings."""

  image_shape: Sequence[int]
  channels: Sequence[int] = (32, 64)
  hidden_size: int = 256
  norm: str = 'group'
  window: tuple[int, int] = (4, 4)
  strides: tuple[int, int] = (2, 2)

  @nn.compact
  def __call__(self, latents, condition, mask):
    """Maps `[B, Z]` to outputs `[B, H, W, outputs per pixel]`."""
    height, width, outputs = self.image_shape
    hidden = _base_grid(self, networks.joined(latents, condition), self.strides)
    widths = [*reversed(self.channels[:-1]), outputs]
    for i, features in enumerate(widths):
      last = i == len(widths) - 1
      hidden = nn.silu(networks.Norm(self.norm)(hidden, mask))
      hidden = layers.ConvTranspose(
        features,
        self.window,
        self.strides,
        use_bias=last or self.norm != 'batch',
      )(hidden)
    return hidden[:, :height, :width]


class SeriesDecoder(nn.Module):
  """The mirror of `networks.SeriesTrunk`: `ConvDecoder` in time."""

  series_shape: tuple[int, int]
  channels: Sequence[int] = (32, 64)
  hidden_size: int = 256
  norm: str = 'group'

  @nn.compact
  def __call__(self, latents, condition, mask):
    """Maps `[B, Z]` to outputs `[B, T, outputs per step]`."""
    steps, outputs = self.series_shape
    return ConvDecoder(
      (steps, 1, outputs),
      self.channels,
      self.hidden_size,
      self.norm,
      window=networks.SERIES_WINDOW,
      strides=networks.SERIES_STRIDES,
    )(latents, condition, mask)[:, :, 0]


class LearnedScales(nn.Module):
  """A decoder, and the log-scales of its Gaussian outputs.

  They depend on no latent: one parameter for each column or channel, appended
  to the outputs.
  """

  decoder: nn.Module
  num_scales: int

  @nn.compact
  def __call__(self, latents, condition, mask):
    """Maps `[B, Z]` to outputs `[B, ..., F + S]`."""
    outputs = self.decoder(latents, condition, mask)
    scales = self.param(
      'log_scales', nn.initializers.zeros_init(), (self.num_scales,)
    )
    scales = jnp.broadcast_to(scales, (*outputs.shape[:-1], self.num_scales))
    return jnp.concatenate([outputs, scales], axis=-1)


class ResizeDecoder(nn.Module):
  """`ConvDecoder` with "resize-convolutions" for transposed ones.

  Every doubling repeats each pixel twice along height and width and convolves
  the result, 3 x 3 at stride 1, so that all pixels are made alike: what
  transposed convolutions do by turns shows as a checkerboard (Odena et al.,
  "Deconvolution and Checkerboard Artifacts", 2016).
  """

  image_shape: Sequence[int]
  channels: Sequence[int] = (32, 64)
  hidden_size: int = 256
  norm: str = 'group'

  @nn.compact
  def __call__(self, latents, condition, mask):
    """Maps `[B, Z]` to outputs `[B, H, W, outputs per pixel]`."""
    height, width, outputs = self.image_shape
    hidden = _base_grid(self, networks.joined(latents, condition))
    widths = [*reversed(self.channels[:-1]), outputs]
    for i, features in enumerate(widths):
      last = i == len(widths) - 1
      hidden = nn.silu(networks.Norm(self.norm)(hidden, mask))
      hidden = layers.Conv(
        features, (3, 3), (1, 1), use_bias=last or self.norm != 'batch'
      )(_doubled(hidden))
    return hidden[:, :height, :width]


class ResidualDecoder(nn.Module):
  """Two dense layers, then residual blocks that double the image.

  A block adds two paths: a 1 x 1 convolution of what comes in, and two 3 x 3
  convolutions, each after normalisation and activation. A last 3 x 3
  convolution gives the outputs. The blocks are those of residual image
  generators in general; no publication's widths are claimed.

  Attributes:
    image_shape: (height, width, outputs per pixel).
    channels: as the encoder's; used from the last to the first, which the last
      block has too.
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
    hidden = _base_grid(self, networks.joined(latents, condition))
    for features in (*reversed(self.channels[:-1]), self.channels[0]):
      # A constant that any block adds reaches the last normalisation as a
      # constant; BatchNorm would take it away.
      conv = functools.partial(
        layers.Conv, features, strides=(1, 1), use_bias=self.norm != 'batch'
      )
      branch = nn.silu(networks.Norm(self.norm)(hidden, mask))
      branch = conv(kernel_size=(3, 3))(_doubled(branch))
      branch = nn.silu(networks.Norm(self.norm)(branch, mask))
      branch = conv(kernel_size=(3, 3))(branch)
      # Doubled after the convolution: the same, from a quarter of the pixels.
      # The branch's bias is the shortcut's too.
      shortcut = conv(kernel_size=(1, 1), use_bias=False)(hidden)
      hidden = _doubled(shortcut) + branch
    hidden = nn.silu(networks.Norm(self.norm)(hidden, mask))
    hidden = layers.Conv(outputs, (3, 3), (1, 1))(hidden)
    return hidden[:, :height, :width]


class MlpDecoder(nn.Module):
  """Dense layers from the latent to every output."""

  data_shape: tuple[int, ...]
  hidden_sizes: Sequence[int] = (256, 256)
  norm: str = 'none'

  @nn.compact
  def __call__(self, latents, condition, mask):
    """Maps `[B, Z]` to outputs `[B, ...]`."""
    hidden = networks.joined(latents, condition)
    for size in self.hidden_sizes:
      hidden = nn.silu(networks.Norm(self.norm)(nn.Dense(size)(hidden), mask))
    outputs = nn.Dense(math.prod(self.data_shape))(hidden)
    return outputs.reshape(-1, *self.data_shape)


class DugdaleDecoder(nn.Module):
  """Decoder of hugo-dugdale/federated_VAE (2023), layer for layer.

  The normalisation of the output logits is in the published code.
  """

  image_shape: Sequence[int]
  norm: str = 'batch'

  @nn.compact
  def __call__(self, latents, condition, mask):
    """Maps `[B, Z]` to outputs `[B, H, W, outputs per pixel]`."""
    height, width, outputs = self.image_shape
    base = (height - 4, width - 4, 32)
    hidden = nn.Dense(math.prod(base), kernel_init=networks.torch_init)(
      networks.joined(latents, condition)
    )
    hidden = hidden.reshape(-1, *base)
    for features, activation in ((16, _leaky), (outputs, _identity)):
      hidden = layers.ConvTranspose(
        features,
        (3, 3),
        (1, 1),
        'VALID',
        kernel_init=networks.torch_transposed_init,
      )(hidden)
      hidden = activation(networks.Norm(self.norm)(hidden, mask))
    return hidden


class Widths(NamedTuple):
  """What a decoder of any family is sized by.

  Attributes:
    channels: channels of each doubling, as the encoder's; families without
      doublings ignore them.
    hidden_size: width of the dense layers.
    norm: one of `networks.NORMS`.
  """

  channels: tuple[int, ...]
  hidden_size: int
  norm: str


def build(
  name: str,
  shape: tuple[int, ...],
  widths: Widths,
  kind: Kind | None = None,
) -> nn.Module:
  """The decoder of a family, called as `(latents, condition, mask)`.

  Args:
    name: the family, a key of `DECODERS`.
    shape: of one example's outputs: (H, W, outputs per pixel) for images, (F,)
      for features.
    widths: channels, dense width and normalisation.
    kind: of the data; by default that of the shape.

  Returns:
    A module that maps latents `[B, Z]` to outputs `[B, *shape]`.

  Raises:
    InputError: the family is unknown, a width is out of range, or the family
      does not fit the shape or the widths.

  Example:
    >>> build('unet', (28, 28, 1), Widths((32, 64), 256, 'group'))
    Traceback (most recent call last):
    ...
    fedjax_gen.errors.InputError: Expected decoder to be one of conv, resize, \
residual, mlp, dugdale2023, got decoder='unet'.
  """
  validate.one_of(DECODERS, decoder=name)
  validate.one_of(networks.NORMS, norm=widths.norm)
  validate.positive_int(hidden_size=widths.hidden_size)
  for features in widths.channels:
    validate.positive_int(channels=features)
  if kind is not None and kind.trunk == 'series' and name == 'conv':
    _check_channels(widths)
    steps, outputs = shape
    return SeriesDecoder((steps, outputs), *widths)
  return DECODERS[name](shape, widths)


def _check_channels(widths: Widths) -> None:
  if not widths.channels:
    raise InputError('Expected channels to name at least one layer, got ().')


def _doubling(
  name: str, module: Callable[..., nn.Module]
) -> Callable[[tuple[int, ...], Widths], nn.Module]:
  """The builder of a family of doublings, called `name` in messages."""

  def builder(shape: tuple[int, ...], widths: Widths) -> nn.Module:
    _check_image(name, shape)
    _check_channels(widths)
    return module(
      tuple(shape), tuple(widths.channels), widths.hidden_size, widths.norm
    )

  return builder


def _mlp(shape: tuple[int, ...], widths: Widths) -> nn.Module:
  sizes = (widths.hidden_size, widths.hidden_size)
  return MlpDecoder(tuple(shape), sizes, widths.norm)


def _dugdale2023(shape: tuple[int, ...], widths: Widths) -> nn.Module:
  _check_image('dugdale2023', shape)
  if widths.norm == 'group':
    raise InputError(
      "Expected norm='batch' (as published) or 'none' for "
      "decoder='dugdale2023', got norm='group': it would fix the mean and "
      'contrast of every image.'
    )
  if min(shape[:2]) < 5:
    raise InputError(
      "Expected images of at least 5 x 5 pixels for decoder='dugdale2023', "
      f'got {shape[0]} x {shape[1]}.'
    )
  return DugdaleDecoder(tuple(shape), widths.norm)


DECODERS: dict[str, Callable[[tuple[int, ...], Widths], nn.Module]] = {
  'conv': _doubling('conv', ConvDecoder),
  'resize': _doubling('resize', ResizeDecoder),
  'residual': _doubling('residual', ResidualDecoder),
  'mlp': _mlp,
  'dugdale2023': _dugdale2023,
}


def _check_image(name: str, shape: tuple[int, ...]) -> None:
  if len(shape) != kinds.KINDS['image'].num_axes:
    raise InputError(
      f"Expected decoder='mlp' for features of shape {tuple(shape)}, got "
      f'decoder={name!r}, which needs images.'
    )


def _base_grid(
  decoder: ConvDecoder | ResizeDecoder | ResidualDecoder,
  hidden: Array,
  strides: tuple[int, int] = (2, 2),
) -> Array:
  """Two dense layers to the grid `[B, h, w, C]` that the doublings start from.

  Sizes are rounded up, and cut after the last doubling, so that any image size
  will do. Called in the decoder's `__call__`, to which the layers belong.
  """
  height, width, _ = decoder.image_shape
  down, right = (stride ** len(decoder.channels) for stride in strides)
  base = (-(-height // down), -(-width // right), decoder.channels[-1])
  hidden = nn.silu(nn.Dense(decoder.hidden_size)(hidden))
  return nn.Dense(math.prod(base))(hidden).reshape(-1, *base)


def _doubled(inputs: Array) -> Array:
  """Nearest-neighbour upsampling, `[B, H, W, C]` to `[B, 2 H, 2 W, C]`."""
  return jnp.repeat(jnp.repeat(inputs, 2, axis=1), 2, axis=2)


def _leaky(inputs: Array) -> Array:
  return nn.leaky_relu(inputs, 0.01)


def _identity(inputs: Array) -> Array:
  return inputs
