"""Correlations as patches times a matrix.

`patches` of the inputs, a row for each output, are copied and multiplied with
the kernel; or, where that moves less, the inputs are multiplied first and the
products added up.
"""

from collections.abc import Sequence
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

Pair = tuple[int, int]


def correlate(
  inputs: jax.Array, kernel: jax.Array, strides: Pair, low: Pair, size: Pair
) -> jax.Array:
  """`correlation.correlate`, without its gradients."""
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


def kernel_gradient(
  inputs: jax.Array, gradient: jax.Array, window: Pair, strides: Pair, low: Pair
) -> jax.Array:
  """Gradient of `correlate` in its kernel.

  Args:
    inputs: `[B, H, W, I]`.
    gradient: of the outputs, `[B, H', W', O]`.
    window: h, w.
    strides: step along height and width.
    low: as in `correlate`.

  Returns:
    `[h, w, I, O]`.
  """
  num_in, num_out = inputs.shape[-1], gradient.shape[-1]
  # Patches of the inputs with the gradient or, with stride 1, of the gradient
  # with the inputs: the smaller of the two.
  if strides != (1, 1) or num_in <= num_out:
    seen = patches(inputs, window, strides, low, gradient.shape[1:3])
    return contract(seen, gradient).reshape(*window, num_in, num_out)
  back = (window[0] - 1 - low[0], window[1] - 1 - low[1])
  seen = patches(gradient, window, strides, back, inputs.shape[1:3])
  to_kernel = contract(inputs, seen).reshape(num_in, *window, num_out)
  return to_kernel[:, ::-1, ::-1].transpose(1, 2, 0, 3)


def patches(
  inputs: jax.Array,
  window: Pair,
  strides: Pair,
  low: Pair,
  size: Sequence[int],
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


def contract(left: jax.Array, right: jax.Array) -> jax.Array:
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
