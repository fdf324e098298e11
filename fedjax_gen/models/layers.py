"""Convolutions that stay fast when every client has its own weights.

Mapping a `lax` convolution over clients turns it into a grouped convolution,
and inside a loop XLA:CPU runs its gradients 10 to 50 times too slowly
(https://github.com/jax-ml/jax/issues/12868). The same sums written as patches
times a matrix have neither problem: over clients they are one batched matrix
product, forward and backward. This module is the one place where that choice
lives; a model says `Conv` and does not know it.

A stride s is taken out first: space-to-depth makes a k x k convolution of
stride s a (k/s) x (k/s) one of stride 1, so that a 4 x 4 stride-2 layer copies
4 contiguous slices and not 16 strided ones.
"""

from collections.abc import Sequence
import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from fedjax_gen import validate


def conv(
  inputs: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int] = (1, 1),
  padding: str = 'SAME',
) -> jax.Array:
  """Two-dimensional convolution, as patches times a matrix.

  Equal to `jax.lax.conv_general_dilated` with NHWC inputs and an HWIO kernel.

  Args:
    inputs: `[B, H, W, I]`.
    kernel: `[h, w, I, O]`.
    strides: step along height and width.
    padding: `'SAME'` (output `ceil(H / stride)`) or `'VALID'`.

  Returns:
    `[B, H', W', O]`.

  Raises:
    InputError: `padding` is neither of the two.
  """
  validate.one_of(('SAME', 'VALID'), padding=padding)
  sizes, low = [], []
  for size, window, stride in zip(
    inputs.shape[1:3], kernel.shape[:2], strides, strict=True
  ):
    if padding == 'SAME':
      out = -(-size // stride)
      low.append(max((out - 1) * stride + window - size, 0) // 2)
    else:
      out = (size - window) // stride + 1
      low.append(0)
    sizes.append(out)
  blocks = [-(-k // s) for k, s in zip(kernel.shape[:2], strides, strict=True)]
  # After space-to-depth the window is `blocks` wide, so this many input cells
  # are looked at; what lies beyond the image is zero, what no window sees is
  # cut off.
  seen = [
    (o + b - 1) * s for o, b, s in zip(sizes, blocks, strides, strict=True)
  ]
  inputs = _pad_or_cut(inputs, low, seen)
  inputs = space_to_depth(inputs, strides)
  patches = [
    inputs[:, i : i + sizes[0], j : j + sizes[1]]
    for i in range(blocks[0])
    for j in range(blocks[1])
  ]
  return jnp.concatenate(patches, axis=-1) @ _block_kernel(kernel, strides)


def conv_transpose(
  inputs: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int] = (1, 1),
  padding: str = 'SAME',
) -> jax.Array:
  """Two-dimensional transposed convolution: a matrix, then overlap-add.

  The linear transpose of `conv` with the same kernel, up to the order of its
  last two axes: input cell i adds `kernel[a] * input` to output cell
  `stride * i + a`, less what the padding cuts off. This is PyTorch's
  `ConvTranspose2d`.

  Args:
    inputs: `[B, H, W, I]`.
    kernel: `[h, w, I, O]`.
    strides: step along height and width.
    padding: `'SAME'` (output `H * stride`) or `'VALID'` (the full
      `(H - 1) * stride + h`).

  Returns:
    `[B, H', W', O]`.

  Raises:
    InputError: `padding` is neither of the two.
  """
  validate.one_of(('SAME', 'VALID'), padding=padding)
  (window_h, window_w, num_in, num_out), (height, width) = (
    kernel.shape,
    inputs.shape[1:3],
  )
  blocks = [-(-k // s) for k, s in zip(kernel.shape[:2], strides, strict=True)]
  # [I, h/s, w/s, s * s * O]: one matrix product gives, for every input cell,
  # the blocks of output cells it touches.
  matrix = _block_kernel(kernel.swapaxes(2, 3), strides)
  matrix = matrix.reshape(*blocks, math.prod(strides) * num_out, num_in)
  cells = jnp.einsum('bhwi,yxoi->yxbhwo', inputs, matrix)
  out = jnp.zeros((), inputs.dtype)
  for i in range(blocks[0]):
    for j in range(blocks[1]):
      shift = ((0, 0), (i, blocks[0] - 1 - i), (j, blocks[1] - 1 - j), (0, 0))
      out = out + jnp.pad(cells[i, j], shift)
  out = depth_to_space(out, strides)
  full = ((height - 1) * strides[0] + window_h,
          (width - 1) * strides[1] + window_w)  # fmt: skip
  if padding == 'VALID':
    return _pad_or_cut(out, (0, 0), full)
  wanted = (height * strides[0], width * strides[1])
  low = [-(max(f - w, 0) // 2) for f, w in zip(full, wanted, strict=True)]
  return _pad_or_cut(out, low, wanted)


def depthwise_conv(
  inputs: jax.Array, kernel: jax.Array, strides: Sequence[int] = (1, 1)
) -> jax.Array:
  """A filter for each channel, padding SAME, as a sum over shifted images.

  Equal to `jax.lax.conv_general_dilated` with `feature_group_count=C`, whose
  groups would be C times the number of mapped clients.

  Args:
    inputs: `[B, H, W, C]`.
    kernel: `[h, w, C]`.
    strides: step along height and width.

  Returns:
    `[B, ceil(H / stride), ceil(W / stride), C]`.
  """
  sizes, low = [], []
  for size, window, stride in zip(
    inputs.shape[1:3], kernel.shape[:2], strides, strict=True
  ):
    out = -(-size // stride)
    low.append(max((out - 1) * stride + window - size, 0) // 2)
    sizes.append(out)
  reach = [
    (out - 1) * stride + window
    for out, stride, window in zip(sizes, strides, kernel.shape, strict=False)
  ]
  padded = _pad_or_cut(inputs, low, reach)
  outputs = jnp.zeros((), inputs.dtype)
  for i in range(kernel.shape[0]):
    for j in range(kernel.shape[1]):
      seen = padded[
        :,
        i : i + (sizes[0] - 1) * strides[0] + 1 : strides[0],
        j : j + (sizes[1] - 1) * strides[1] + 1 : strides[1],
      ]
      outputs = outputs + seen * kernel[i, j][None, None, None]
  return outputs


def max_pool(inputs: jax.Array, factor: int = 2) -> jax.Array:
  """The largest of each `factor` x `factor` cell of `[B, H, W, C]`.

  Rows and columns beyond the last whole cell are dropped, as in PyTorch. A
  maximum over an axis of its own: the gradient of a window reduction is slow
  inside a loop on CPU.
  """
  batch, height, width, channels = inputs.shape
  rows, columns = height // factor, width // factor
  cells = inputs[:, : rows * factor, : columns * factor].reshape(
    batch, rows, factor, columns, factor, channels
  )
  return cells.max(axis=(2, 4))


def space_to_depth(inputs: jax.Array, factor: Sequence[int]) -> jax.Array:
  """`[B, H * h, W * w, C]` to `[B, H, W, h * w * C]` for `factor` (h, w)."""
  if tuple(factor) == (1, 1):
    return inputs
  batch, height, width, channels = inputs.shape
  h, w = factor
  blocks = inputs.reshape(batch, height // h, h, width // w, w, channels)
  return blocks.swapaxes(2, 3).reshape(
    batch, height // h, width // w, h * w * channels
  )


def depth_to_space(inputs: jax.Array, factor: Sequence[int]) -> jax.Array:
  """The inverse of `space_to_depth`."""
  if tuple(factor) == (1, 1):
    return inputs
  batch, height, width, depth = inputs.shape
  h, w = factor
  blocks = inputs.reshape(batch, height, width, h, w, depth // (h * w))
  return blocks.swapaxes(2, 3).reshape(
    batch, height * h, width * w, depth // (h * w)
  )


class Conv(nn.Module):
  """Convolution layer with Flax's parameter names, shapes and defaults.

  Attributes:
    features: number of output channels.
    kernel_size: height and width of the window.
    strides: step along height and width.
    padding: `'SAME'` or `'VALID'`, as in `conv`.
    use_bias: whether a `[features]` bias is added.
    kernel_init: initialiser of the `[h, w, I, O]` kernel.
  """

  features: int
  kernel_size: tuple[int, int] = (4, 4)
  strides: tuple[int, int] = (2, 2)
  padding: str = 'SAME'
  use_bias: bool = True
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps `[B, H, W, I]` to `[B, H', W', features]`."""
    kernel = self.param(
      'kernel',
      self.kernel_init,
      (*self.kernel_size, inputs.shape[-1], self.features),
    )
    outputs = conv(inputs, kernel, self.strides, self.padding)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros_init(), (self.features,))
      outputs = outputs + bias[None, None, None]
    return outputs


class DepthwiseConv(nn.Module):
  """One filter a channel, without a bias; see `depthwise_conv`.

  Attributes:
    kernel_size: height and width of the window.
    strides: step along height and width.
  """

  kernel_size: tuple[int, int] = (3, 3)
  strides: tuple[int, int] = (1, 1)

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, H', W', C]`."""
    kernel = self.param(
      'kernel',
      # The fan-in of an output is its own window.
      nn.initializers.variance_scaling(
        1.0, 'fan_in', 'truncated_normal', batch_axis=(2,)
      ),
      (*self.kernel_size, inputs.shape[-1]),
    )
    return depthwise_conv(inputs, kernel, self.strides)


class ConvTranspose(nn.Module):
  """Transposed convolution layer; attributes as in `Conv`."""

  features: int
  kernel_size: tuple[int, int] = (4, 4)
  strides: tuple[int, int] = (2, 2)
  padding: str = 'SAME'
  use_bias: bool = True
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps `[B, H, W, I]` to `[B, H', W', features]`."""
    kernel = self.param(
      'kernel',
      self.kernel_init,
      (*self.kernel_size, inputs.shape[-1], self.features),
    )
    outputs = conv_transpose(inputs, kernel, self.strides, self.padding)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros_init(), (self.features,))
      outputs = outputs + bias[None, None, None]
    return outputs


def _block_kernel(kernel: jax.Array, strides: Sequence[int]) -> jax.Array:
  """`[h, w, I, O]` as the matrix that meets space-to-depth patches."""
  (h, w, num_in, num_out), (sh, sw) = kernel.shape, strides
  bh, bw = -(-h // sh), -(-w // sw)
  kernel = jnp.pad(kernel, ((0, bh * sh - h), (0, bw * sw - w), (0, 0), (0, 0)))
  kernel = kernel.reshape(bh, sh, bw, sw, num_in, num_out).swapaxes(1, 2)
  return kernel.reshape(bh * bw * sh * sw * num_in, num_out)


def _pad_or_cut(
  inputs: jax.Array, low: Sequence[int], sizes: Sequence[int]
) -> jax.Array:
  """Puts `low` zeros before each axis (cuts if negative), then fits `sizes`."""
  spatial = [
    (before, size - before - extent, 0)
    for before, size, extent in zip(low, sizes, inputs.shape[1:3], strict=True)
  ]
  if all(entry == (0, 0, 0) for entry in spatial):
    return inputs
  zero = jnp.zeros((), inputs.dtype)
  return jax.lax.pad(inputs, zero, [(0, 0, 0), *spatial, (0, 0, 0)])
