"""Velocity networks of flows: v(x, t, c), in the shape of x, as Flax modules.

All take `(inputs, times, condition)`: points on the way `[B, ...]`, times `[B]`
in [0, 1], and a condition `[B, F]`, for instance a one-hot label or a given
latent, or None. Time and condition become one embedding, which shifts and
scales what every block normalises (FiLM: Perez et al., 2018; AdaLN-Zero:
Peebles and Xie, "Scalable diffusion models with transformers", 2023). The last
layer begins at zero, so that training begins with the velocity zero.

For weights of each client the networks are matrix products alone, convolutions
being patches times a matrix (`layers`).
"""

from collections.abc import Sequence
import math

from flax import linen as nn
import jax.numpy as jnp

from fedjax_gen.models import layers, networks
from fedjax_gen.types import Array

# Of Fourier features of time; the slowest wave is one period of [0, 1] in four.
_NUM_WAVES = 16
_ZERO = nn.initializers.zeros_init()


class Embedding(nn.Module):
  """Time and condition as one vector.

  Attributes:
    size: of the vector.
  """

  size: int

  @nn.compact
  def __call__(self, times: Array, condition: Array | None) -> Array:
    """Maps `[B]` times and a `[B, F]` condition to `[B, size]`."""
    waves = jnp.pi / 2 * 2.0 ** (jnp.arange(_NUM_WAVES) / 2)
    angles = times[:, None] * waves[None]
    features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    hidden = nn.Dense(self.size)(features)
    if condition is not None:
      hidden = hidden + nn.Dense(self.size, use_bias=False)(condition)
    return nn.silu(nn.Dense(self.size)(nn.silu(hidden)))


class Modulated(nn.Module):
  """LayerNorm, shifted and scaled by the embedding; and a gate.

  Attributes:
    size: F of what is normalised.
  """

  size: int

  @nn.compact
  def __call__(self, inputs: Array, embedding: Array) -> tuple[Array, Array]:
    """Maps `[B, ..., F]` and `[B, E]` to modulated inputs and their gate."""
    made = nn.Dense(3 * self.size, kernel_init=_ZERO)(embedding)
    made = made.reshape(-1, *[1] * (inputs.ndim - 2), 3 * self.size)
    shift, scale, gate = jnp.split(made, 3, axis=-1)
    normal = nn.LayerNorm(use_bias=False, use_scale=False)(inputs)
    # A gate of one where DiT's is zero: the last layer is zero already.
    return normal * (1 + scale) + shift, 1 + gate


class Mlp(nn.Module):
  """Residual dense blocks, for vectors.

  The network by which Li et al. ("Autoregressive image generation without
  vector quantization", 2024) diffuse single tokens.

  Attributes:
    width: of the blocks.
    blocks: how many.
  """

  width: int
  blocks: int

  @nn.compact
  def __call__(self, inputs, times, condition):
    """Maps `[B, Z]` points to velocities `[B, Z]`."""
    embedding = Embedding(max(self.width // 2, 1))(times, condition)
    hidden = nn.Dense(self.width)(inputs)
    for _ in range(self.blocks):
      normal, gate = Modulated(self.width)(hidden, embedding)
      inner = nn.Dense(self.width)(nn.silu(nn.Dense(self.width)(normal)))
      hidden = hidden + gate * inner
    hidden, _ = Modulated(self.width)(hidden, embedding)
    return nn.Dense(inputs.shape[-1], kernel_init=_ZERO)(hidden)


class Transformer(nn.Module):
  """Attention over patches of an image, or over pieces of a vector (DiT).

  Attributes:
    width: of a token, a multiple of `heads`.
    blocks: how many.
    patch: side of a patch, or values in a piece of a vector; what does not
      fill the last is padded with zeros.
    heads: of the attention.
  """

  width: int
  blocks: int
  patch: int
  heads: int = 4

  @nn.compact
  def __call__(self, inputs, times, condition):
    """Maps `[B, H, W, C]` or `[B, Z]` points to velocities."""
    embedding = Embedding(max(self.width // 2, 1))(times, condition)
    cells = _cells(inputs, self.patch)
    batch, size = cells.shape[0], cells.shape[-1]
    tokens = nn.Dense(self.width)(cells.reshape(batch, -1, size))
    positions = self.param(
      'positions', nn.initializers.normal(0.02), tokens.shape[1:]
    )
    tokens = tokens + positions[None]
    for _ in range(self.blocks):
      normal, gate = Modulated(self.width)(tokens, embedding)
      attended = nn.MultiHeadDotProductAttention(self.heads)(normal)
      tokens = tokens + gate * attended
      normal, gate = Modulated(self.width)(tokens, embedding)
      inner = nn.Dense(self.width)(nn.silu(nn.Dense(2 * self.width)(normal)))
      tokens = tokens + gate * inner
    tokens, _ = Modulated(self.width)(tokens, embedding)
    made = nn.Dense(size, kernel_init=_ZERO)(tokens)
    return _image(made.reshape(cells.shape), inputs.shape, self.patch)


class UNet(nn.Module):
  """Convolutions that go down and up again, with what lies between kept.

  Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", 2020, cut down:
  one residual block at each size on either way, no attention.

  Attributes:
    channels: at each size, from the image's down; each further one halves it.
  """

  channels: Sequence[int]

  @nn.compact
  def __call__(self, inputs, times, condition):
    """Maps `[B, H, W, C]` points to velocities."""
    embedding = Embedding(2 * self.channels[0])(times, condition)
    hidden = _conv3(self.channels[0])(inputs)
    kept = []
    for i, features in enumerate(self.channels):
      if i > 0:
        hidden = layers.Conv(features)(hidden)
      hidden = Residual(features)(hidden, embedding)
      kept.append(hidden)
    for i in reversed(range(len(self.channels))):
      hidden = jnp.concatenate([hidden, kept[i]], axis=-1)
      hidden = Residual(self.channels[i])(hidden, embedding)
      if i > 0:
        height, width = kept[i - 1].shape[1:3]
        hidden = layers.ConvTranspose(self.channels[i - 1])(hidden)
        hidden = hidden[:, :height, :width]
    hidden = nn.silu(networks.Norm('group')(hidden, None))
    return layers.Conv(inputs.shape[-1], (3, 3), (1, 1), kernel_init=_ZERO)(
      hidden
    )


class Residual(nn.Module):
  """Two convolutions around a shift and scale by the embedding.

  Attributes:
    features: C' of the outputs.
  """

  features: int

  @nn.compact
  def __call__(self, inputs: Array, embedding: Array) -> Array:
    """Maps `[B, H, W, C]` to `[B, H, W, C']`."""
    hidden = nn.silu(networks.Norm('group')(inputs, None))
    hidden = _conv3(self.features)(hidden)
    made = nn.Dense(2 * self.features)(embedding)[:, None, None]
    shift, scale = jnp.split(made, 2, axis=-1)
    hidden = networks.Norm('group')(hidden, None) * (1 + scale) + shift
    hidden = _conv3(self.features)(nn.silu(hidden))
    if inputs.shape[-1] != self.features:
      inputs = nn.Dense(self.features)(inputs)
    return inputs + hidden


def _conv3(features: int) -> nn.Module:
  return layers.Conv(features, (3, 3), (1, 1))


def _cells(inputs: Array, patch: int) -> Array:
  """`[B, rows, columns, patch * patch * C]`, of a vector `[B, n, patch]`."""
  if inputs.ndim == 2:
    pieces = math.ceil(inputs.shape[1] / patch)
    missing = pieces * patch - inputs.shape[1]
    return jnp.pad(inputs, ((0, 0), (0, missing))).reshape(-1, pieces, patch)
  batch, height, width, channels = inputs.shape
  rows, columns = math.ceil(height / patch), math.ceil(width / patch)
  below, right = rows * patch - height, columns * patch - width
  padded = jnp.pad(inputs, ((0, 0), (0, below), (0, right), (0, 0)))
  cells = padded.reshape(batch, rows, patch, columns, patch, channels)
  return cells.swapaxes(2, 3).reshape(batch, rows, columns, -1)


def _image(cells: Array, shape: Sequence[int], patch: int) -> Array:
  """The inverse of `_cells`, for inputs of that shape."""
  if len(shape) == 2:
    return cells.reshape(cells.shape[0], -1)[:, : shape[1]]
  batch, rows, columns, _ = cells.shape
  split = cells.reshape(batch, rows, columns, patch, patch, shape[-1])
  image = split.swapaxes(2, 3).reshape(batch, rows * patch, -1, shape[-1])
  return image[:, : shape[1], : shape[2]]
