"""Correlation with per-client filters, as matrix products.

Mapping a `lax` convolution over clients turns it into a grouped convolution,
and inside a loop XLA:CPU runs its gradients 10 to 50 times too slowly
(https://github.com/jax-ml/jax/issues/12868). The same sums written as products
have neither problem: over clients they are batched matrix products, forward
and backward.

Two linear maps and their gradients: `correlate`, and `spread`, its transpose in
the inputs. The gradients are written out and not left to autodiff, which would
add the gradient of patches up window by window and contract it in the order
that is slow on CPU: the gradient of the inputs is the other map. How the
products are made is chosen here, by shape: of `patches`, or as `winograd` has
it.
"""

import functools

import jax
import jax.numpy as jnp

from fedjax_gen.models.convolutions import patches, winograd
from fedjax_gen.models.convolutions.patches import Pair, pad_or_cut


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def correlate(
  inputs: jax.Array, kernel: jax.Array, strides: Pair, low: Pair, size: Pair
) -> jax.Array:
  """Correlates images with a kernel; beyond the images lie zeros.

  `out[i, j] = sum_ab inputs[s * i + a - low, t * j + b - low] @ kernel[a, b]`
  for strides (s, t).

  Args:
    inputs: `[B, H, W, I]`.
    kernel: `[h, w, I, O]`.
    strides: step along height and width.
    low: zeros before the first row and column; below zero, rows cut off.
    size: H', W', outputs to compute.

  Returns:
    `[B, H', W', O]`.
  """
  if winograd.suits(kernel.shape, strides, inputs.shape[0], size):
    return winograd.correlate(inputs, kernel, low, size)
  return patches.correlate(inputs, kernel, strides, low, size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def spread(
  inputs: jax.Array, kernel: jax.Array, strides: Pair, low: Pair, size: Pair
) -> jax.Array:
  """The transpose of `correlate` in its inputs, with the same kernel.

  `out[s * i + a - low, t * j + b - low] += inputs[i, j] @ kernel[a, b].T`.

  Args:
    inputs: `[B, H', W', O]`.
    kernel: `[h, w, I, O]`.
    strides: step along height and width.
    low: outputs cut off before the first row and column.
    size: H, W, outputs to compute.

  Returns:
    `[B, H, W, I]`.
  """
  if winograd.suits(kernel.shape, strides, inputs.shape[0], inputs.shape[1:3]):
    return winograd.spread(inputs, kernel, low, size)
  # In sub-pixel form: the s x t outputs of a cell are channels of a
  # correlation of stride 1, with a kernel that runs backwards. Where there is
  # no stride the cells are the outputs, and none is computed to be cut off.
  cells, cut = [], []
  for extent, before, stride in zip(size, low, strides, strict=True):
    first = before // stride
    cells.append(-(-(before + extent) // stride) - first)
    cut.append(first)
  blocked = _blocked(kernel, strides)
  back = (blocked.shape[0] - 1 - cut[0], blocked.shape[1] - 1 - cut[1])
  outputs = correlate(
    inputs, blocked[::-1, ::-1].swapaxes(2, 3), (1, 1), back, tuple(cells)
  )
  outputs = _depth_to_space(outputs, strides)
  rest = [c * s - b for c, s, b in zip(cut, strides, low, strict=True)]
  return pad_or_cut(outputs, rest, size)


def _kernel_gradient(inputs, gradient, window, strides, low):
  """Gradient of `correlate` in its kernel, `[h, w, I, O]`."""
  shape = (*window, inputs.shape[-1], gradient.shape[-1])
  batch, *size = gradient.shape[:3]
  if winograd.suits(shape, strides, batch, size):
    return winograd.kernel_gradient(inputs, gradient, low)
  return patches.kernel_gradient(inputs, gradient, window, strides, low)


def _correlate_backward(strides, low, size, saved, gradient):
  inputs, kernel = saved
  del size  # that of the gradient
  window = kernel.shape[:2]
  return (
    spread(gradient, kernel, strides, low, inputs.shape[1:3]),
    _kernel_gradient(inputs, gradient, window, strides, low),
  )


def _spread_backward(strides, low, size, saved, gradient):
  inputs, kernel = saved
  del size  # that of the gradient
  window = kernel.shape[:2]
  return (
    correlate(gradient, kernel, strides, low, inputs.shape[1:3]),
    _kernel_gradient(gradient, inputs, window, strides, low),
  )


def _saving_operands(function):
  def forward(inputs, kernel, strides, low, size):
    return function(inputs, kernel, strides, low, size), (inputs, kernel)

  return forward


correlate.defvjp(_saving_operands(correlate), _correlate_backward)
spread.defvjp(_saving_operands(spread), _spread_backward)


def _blocked(kernel: jax.Array, strides: Pair) -> jax.Array:
  """`[h, w, I, O]` as `[h/s, w/t, s * t * I, O]`, filled up with zeros."""
  (h, w, num_in, num_out), (sh, sw) = kernel.shape, strides
  bh, bw = -(-h // sh), -(-w // sw)
  kernel = jnp.pad(kernel, ((0, bh * sh - h), (0, bw * sw - w), (0, 0), (0, 0)))
  kernel = kernel.reshape(bh, sh, bw, sw, num_in, num_out).swapaxes(1, 2)
  return kernel.reshape(bh, bw, sh * sw * num_in, num_out)


def _depth_to_space(inputs: jax.Array, factor: Pair) -> jax.Array:
  """`[B, H, W, h * w * C]` to `[B, H * h, W * w, C]` for `factor` (h, w)."""
  if factor == (1, 1):
    return inputs
  batch, height, width, depth = inputs.shape
  h, w = factor
  blocks = inputs.reshape(batch, height, width, h, w, depth // (h * w))
  return blocks.swapaxes(2, 3).reshape(
    batch, height * h, width * w, depth // (h * w)
  )
