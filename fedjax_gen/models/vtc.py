"""VTC, the variational transposed-convolution generator of FedVTC.

A decoder from features to images: psi maps a vector of the size of a client's
features to an image in [-1, 1]. Its layers are not published. Ours follow
DCGAN (Radford et al., 2016), as the one public re-implementation does
(gvquang25/FedVTC, not the authors'): a dense layer to a small grid, then
transposed convolutions that double it, with GroupNorm and LeakyReLU(0.2), tanh
at the end.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import NamedTuple

from flax import linen as nn
import jax.numpy as jnp

from fedjax_gen import fields, validate
from fedjax_gen.errors import InputError
from fedjax_gen.models import layers
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.types import Array, Key, Variables

# Of the grid and after each doubling but the last, by the number of doublings.
# For 28 pixels those of gvquang25/FedVTC, for 32 and 64 a DCGAN's.
_CHANNELS = {
  1: (64,),
  2: (64, 32),
  3: (256, 128, 64),
  4: (256, 128, 64, 32),
}


@dataclasses.dataclass(frozen=True)
class VtcConfig(fields.Configuration):
  """The generator."""

  vtc_channels: tuple[int, ...] = fields.option(
    (),
    'Channels of the first grid and after each doubling but the '
    'last. Default: 64,32 at 28 pixels, 256,128,64 at 32, 256,128,64,32 at '
    '64, times vtc_width',
    check=validate.each(validate.positive_int),
  )
  vtc_width: float = fields.positive(1.0, 'Multiplies the default channels')


class Vtc(NamedTuple):
  """The generator as pure functions.

  Attributes:
    init: `key -> variables`.
    decode: `(variables, latents [B, F]) -> images [B, H, W, C]` in [-1, 1].
  """

  init: Callable[[Key], Variables]
  decode: Callable[[Variables, Array], Array]


class Network(nn.Module):
  """The layers of a VTC.

  Attributes:
    image_shape: (H, W, C).
    channels: of the first grid and after each doubling but the last.
  """

  image_shape: Sequence[int]
  channels: Sequence[int]

  @nn.compact
  def __call__(self, latents: Array) -> Array:
    """Maps `[B, F]` to images `[B, H, W, C]` in [-1, 1]."""
    height, width, outputs = self.image_shape
    factor = 2 ** len(self.channels)
    grid = (-(-height // factor), -(-width // factor), self.channels[0])
    hidden = nn.Dense(math.prod(grid))(latents).reshape(-1, *grid)
    for features in (*self.channels[1:], outputs):
      groups = math.gcd(8, hidden.shape[-1])
      hidden = nn.leaky_relu(nn.GroupNorm(groups)(hidden), 0.2)
      hidden = layers.ConvTranspose(features, use_bias=False)(hidden)
    # Sizes that are no multiple of the grid lose what is beyond the border.
    return jnp.tanh(hidden[:, :height, :width])


def build_vtc(config: VtcConfig, feature_size: int, spec: DataSpec) -> Vtc:
  """The generator of images of a shape from features of a size.

  Raises:
    InputError: the data are no images, or too small to be doubled to as often
      as there are channels.
  """
  if not spec.is_image:
    raise InputError(
      f'Expected images of shape (H, W, C), got data of shape {spec.shape}.'
    )
  size = min(spec.shape[:2])
  channels = config.vtc_channels or _default_channels(size, config.vtc_width)
  if 2 ** len(channels) > size:
    raise InputError(
      f'Expected at most {int(math.log2(size))} vtc_channels for images of '
      f'{size} pixels, each a doubling, got {len(channels)}.'
    )
  module = Network(spec.shape, channels)

  def init(key):
    return module.init(key, jnp.zeros((1, feature_size)))['params']

  def decode(variables, latents):
    return module.apply({'params': variables}, latents)

  return Vtc(init, decode)


def total_variation(images: Array) -> Array:
  """`[B]` mean absolute difference of neighbouring pixels of `[B, H, W, C]`."""
  down = jnp.abs(images[:, 1:] - images[:, :-1]).mean(axis=(1, 2, 3))
  right = jnp.abs(images[:, :, 1:] - images[:, :, :-1]).mean(axis=(1, 2, 3))
  return down + right


def _default_channels(size: int, width: float) -> tuple[int, ...]:
  """Doublings from a grid of 4 to 7 cells."""
  doublings = min(max(int(math.log2(max(size, 4) / 4)), 1), 4)
  return tuple(
    max(8, 8 * round(channels * width / 8)) for channels in _CHANNELS[doublings]
  )
