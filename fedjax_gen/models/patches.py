"""Correlation with per-client filters, as matrix products with patches.

Mapping a `lax` convolution over clients turns it into a grouped convolution,
and inside a loop XLA:CPU runs its gradients 10 to 50 times too slowly
(https://github.com/jax-ml/jax/issues/12868). The same sums written as patches
times a matrix have neither problem: over clients they are one batched matrix
product, forward and backward.

Two linear maps and their gradients: `correlate`, and `spread`, its transpose in
the inputs. The gradients are written out and not left to autodiff, which would
add the gradient of patches up window by window and contract it in the order
that is slow on CPU: the gradient of the inputs is the other map, and that of
the kernel a product of the patches that one of the two needs anyway.
"""

from collections.abc import Sequence
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

Pair = tuple[int, int]


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
  height, width, num_in, num_out = kernel.shape
  cells = inputs.shape[1] * inputs.shape[2]
  # Windows are copied before the product, or, with stride 1, added up after
  # it: whichever moves fewer numbers. An addition is about twice a copy.
  if strides != (1, 1) or math.prod(size) * num_in <= 2 * cells * num_out:
    seen = patches(inputs, (height, width), strides, low, size)
    return seen @ kernel.reshape(-1, num_out)
  columns = kernel.transpose(2, 0, 1, 3).reshape(num_in, -1)
  products = pad_or_cut(
    inputs @ columns, low, (size[0] + height - 1, size[1] + width - 1)
  )
  windows = [
    products[
      :, a : a + size[0], b : b + size[1], i * num_out : (i + 1) * num_out
    ]
    for i, (a, b) in enumerate(np.ndindex(height, width))
  ]
  return functools.reduce(jnp.add, windows)


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
  # In sub-pixel form: the s x t outputs of a cell are channels of a
  # correlation of stride 1, whose kernel runs backwards. Where there is no
  # stride the cells are the outputs, and none is computed to be cut off.
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


def _correlate_backward(strides, low, size, saved, gradient):
  inputs, kernel = saved
  extent, window = inputs.shape[1:3], kernel.shape[:2]
  to_inputs = spread(gradient, kernel, strides, low, extent)
  # Patches of the inputs with the gradient or, with stride 1, of the gradient
  # with the inputs: the smaller of the two.
  if strides != (1, 1) or kernel.shape[2] <= kernel.shape[3]:
    seen = patches(inputs, window, strides, low, size)
    return to_inputs, _contract(seen, gradient).reshape(kernel.shape)
  back = (window[0] - 1 - low[0], window[1] - 1 - low[1])
  seen = patches(gradient, window, strides, back, extent)
  to_kernel = _contract(inputs, seen).reshape(kernel.shape[2], *window, -1)
  return to_inputs, to_kernel[:, ::-1, ::-1].transpose(1, 2, 0, 3)


def _spread_backward(strides, low, size, saved, gradient):
  inputs, kernel = saved
  del size  # that of the gradient
  window, cells = kernel.shape[:2], inputs.shape[1:3]
  to_inputs = correlate(gradient, kernel, strides, low, cells)
  seen = patches(gradient, window, strides, low, cells)
  return to_inputs, _contract(seen, inputs).reshape(kernel.shape)


def _saving_operands(function):
  def forward(inputs, kernel, strides, low, size):
    return function(inputs, kernel, strides, low, size), (inputs, kernel)

  return forward


correlate.defvjp(_saving_operands(correlate), _correlate_backward)
spread.defvjp(_saving_operands(spread), _spread_backward)


def patches(
  inputs: jax.Array, window: Pair, strides: Pair, low: Pair, size: Pair
) -> jax.Array:
  """The window that each output sees, `[B, H', W', h * w * I]`.

  In two steps, along the width and then along the height: what the second
  copies are whole rows, and a stride is only another shape, so that no step
  picks single numbers.

  Args:
    inputs: `[B, H, W, I]`.
    window: h, w.
    strides: step along height and width.
    low: zeros before the first row and column; below zero, rows cut off.
    size: H', W'.
  """
  (height, width), (down, right) = window, strides
  reach = [
    (out - 1) + -(-extent // stride)
    for out, extent, stride in zip(size, window, strides, strict=True)
  ]
  inputs = pad_or_cut(inputs, low, (reach[0] * down, reach[1] * right))
  batch, channels = inputs.shape[0], inputs.shape[-1]
  cells = inputs.reshape(batch, reach[0], down, reach[1], right * channels)
  wide = _joined(
    [
      cells[:, :, :, b // right : b // right + size[1],
            : min(right, width - b) * channels]
      for b in range(0, width, right)
    ]
  )  # fmt: skip
  return _joined(
    [wide[:, a // down : a // down + size[0], a % down] for a in range(height)]
  )


def _joined(parts: list[jax.Array]) -> jax.Array:
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts, -1)


def _contract(left: jax.Array, right: jax.Array) -> jax.Array:
  """Sum over examples and cells of outer products: `[..., M], [..., N]`.

  A contraction over the first axis of both is up to three times slower on CPU
  if the wider operand is on the left.
  """
  left = left.reshape(-1, left.shape[-1])
  right = right.reshape(-1, right.shape[-1])
  if left.shape[1] <= right.shape[1]:
    return left.T @ right
  # Behind a barrier, or the compiler would turn the product round again.
  return jax.lax.optimization_barrier(right.T @ left).T


def _blocked(kernel: jax.Array, strides: Pair) -> jax.Array:
  """`[h, w, I, O]` as `[h/s, w/t, s * t * I, O]`, zeros where s or t is cut."""
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


def pad_or_cut(
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
