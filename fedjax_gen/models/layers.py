"""Convolutions that stay fast when every client has its own weights.

How a convolution is computed is chosen here and in `correlation`, once for all
models: a model says `Conv` and does not know it.
"""

from collections.abc import Callable, Sequence
import functools

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
import numpy as np

from fedjax_gen import validate
from fedjax_gen.models.convolutions.correlation import correlate, spread
from fedjax_gen.models.convolutions.patches import pad_or_cut
from fedjax_gen.types import LAYER


def conv(
  inputs: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int] = (1, 1),
  padding: str = 'SAME',
) -> jax.Array:
  """Two-dimensional convolution.

  Equal to `jax.lax.conv_general_dilated` with NHWC inputs and an HWIO kernel.

  Args:
    inputs: `[B, H, W, I]`.
    kernel: `[h, w, I, O]`.
    strides: step along height and width.
    padding: `'SAME'` (output `ceil(H / stride)`) or `'VALID'`.

  Returns:
    `[B, H', W', O]`.
  """
  validate.one_of(('SAME', 'VALID'), padding=padding)
  sizes, low = [], []
  for size, window, stride in zip(
    inputs.shape[1:3], kernel.shape[:2], strides, strict=True
  ):
    if padding == 'SAME':
      out, before = _same(size, window, stride)
    else:
      out, before = (size - window) // stride + 1, 0
    sizes.append(out)
    low.append(before)
  outputs = correlate(inputs, kernel, tuple(strides), tuple(low), tuple(sizes))
  return checkpoint_name(outputs, LAYER)


def conv_transpose(
  inputs: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int] = (1, 1),
  padding: str = 'SAME',
) -> jax.Array:
  """Two-dimensional transposed convolution, in sub-pixel form.

  The linear transpose of `conv` with the same kernel, up to the order of its
  last two axes: input cell i adds `kernel[a] * input` to output cell
  `stride * i + a`, less what the padding cuts off. This is PyTorch's
  `ConvTranspose2d`. The outputs of a stride x stride block are computed as
  channels of one cell.

  Args:
    inputs: `[B, H, W, I]`.
    kernel: `[h, w, I, O]`.
    strides: step along height and width.
    padding: `'SAME'` (output `H * stride`) or `'VALID'` (the full
      `(H - 1) * stride + h`).

  Returns:
    `[B, H', W', O]`.
  """
  validate.one_of(('SAME', 'VALID'), padding=padding)
  (window_h, window_w), (height, width) = kernel.shape[:2], inputs.shape[1:3]
  full = ((height - 1) * strides[0] + window_h,
          (width - 1) * strides[1] + window_w)  # fmt: skip
  wanted = full
  if padding == 'SAME':
    wanted = (height * strides[0], width * strides[1])
  low = tuple(max(f - w, 0) // 2 for f, w in zip(full, wanted, strict=True))
  outputs = spread(inputs, kernel.swapaxes(2, 3), tuple(strides), low, wanted)
  return checkpoint_name(outputs, LAYER)


def depthwise_conv(
  inputs: jax.Array, kernel: jax.Array, strides: Sequence[int] = (1, 1)
) -> jax.Array:
  """A filter for each channel, padding SAME, as a sum over shifted images.

  Equal to `jax.lax.conv_general_dilated` with `feature_group_count=C`: its
  groups would be C times the number of mapped clients.

  Args:
    inputs: `[B, H, W, C]`.
    kernel: `[h, w, C]`.
    strides: step along height and width.

  Returns:
    `[B, ceil(H / stride), ceil(W / stride), C]`.
  """
  window = kernel.shape[:2]
  sizes, low = zip(*map(_same, inputs.shape[1:3], window, strides), strict=True)
  reach = [
    (out - 1) * stride + extent
    for out, stride, extent in zip(sizes, strides, window, strict=True)
  ]
  padded = pad_or_cut(inputs, low, reach)
  outputs = jnp.zeros((), inputs.dtype)
  for i in range(kernel.shape[0]):
    for j in range(kernel.shape[1]):
      seen = padded[
        :,
        i : i + (sizes[0] - 1) * strides[0] + 1 : strides[0],
        j : j + (sizes[1] - 1) * strides[1] + 1 : strides[1],
      ]
      outputs = outputs + seen * kernel[i, j][None, None, None]
  return checkpoint_name(outputs, LAYER)


def _same(size: int, window: int, stride: int) -> tuple[int, int]:
  """Outputs along an axis with padding SAME, and the zeros before it."""
  out = -(-size // stride)
  return out, max((out - 1) * stride + window - size, 0) // 2


def max_pool(inputs: jax.Array, factor: int = 2) -> jax.Array:
  """The largest of each `factor` x `factor` cell of `[B, H, W, C]`.

  Rows and columns beyond the last whole cell are dropped, as in PyTorch. Where
  several numbers of a cell are the largest they share the gradient.
  """
  batch, height, width, channels = inputs.shape
  rows, columns = height // factor, width // factor
  cells = inputs[:, : rows * factor, : columns * factor].reshape(
    batch, rows, factor, columns, factor, channels
  )
  return _largest(cells)


@jax.custom_jvp
def _largest(cells: jax.Array) -> jax.Array:
  """Maxima over axes 2 and 4 of `[B, R, f, C, f, channels]`."""
  return _over_cell(jnp.maximum, cells)


@_largest.defjvp
def _largest_jvp(primals, tangents):
  # Written out, the gradient is one pass over the cells. Autodiff's pads the
  # gradient of each of the maxima to the size of all.
  (cells,), (change,) = primals, tangents
  largest = _largest(cells)
  chosen = cells == largest[:, :, None, :, None]
  count = _over_cell(jnp.add, chosen.astype(cells.dtype))
  return largest, jnp.where(chosen, change, 0).sum((2, 4)) / count


def _over_cell(
  function: Callable[[jax.Array, jax.Array], jax.Array], cells: jax.Array
) -> jax.Array:
  """Reduces axes 2 and 4, by pairs: a reduction is slow in a loop on CPU."""
  return functools.reduce(
    function,
    [
      cells[:, :, i, :, j]
      for i, j in np.ndindex(cells.shape[2], cells.shape[4])
    ],
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
  """One filter a channel, without a bias; see `depthwise_conv`."""

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
