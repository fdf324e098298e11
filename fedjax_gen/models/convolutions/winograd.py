"""Correlations with 3 x 3 windows, by 16 multiplications in place of 36.

Outputs are computed in tiles of 2 x 2, each of the 4 x 4 inputs that it sees.
Sums and differences take both the tile of inputs and the kernel to 16 numbers,
which are multiplied one by one, and sums and differences of the products are
the outputs (Lavin and Gray, "Fast algorithms for convolutional neural
networks", CVPR 2016, section 4.1, F(2 x 2, 3 x 3)):

    outputs = A [(G kernel G') * (B inputs B')] A'

Over channels a multiplication is a matrix product. What the 16 products read
and write is half of the patches that they replace, or less. All is linear in
inputs and in kernel, and so the gradients are the same sums, transposed: exact,
but for rounding.

A *grid* is a list of lists of arrays `[B, tiles down, tiles across, channels]`,
one for each place in a tile. Arrays of their own and not one with two more
axes: each is written by one loop over whole rows of channels, and read by one
product.
"""

from collections.abc import Callable, Sequence
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.models.convolutions.patches import Pair, contract, pad_or_cut

_Grid = Sequence[Sequence[jax.Array]]
_Matrix = Sequence[Sequence[float]]

_LEAST_CHANNELS, _LEAST_FILTERS = 16, 512  # of I and of O; I x O
_LEAST_WORK = 1 << 28  # operations of a direct correlation; 1 ms of a fast core

_TILE, _WINDOW = 2, 3
_INPUTS = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # B
_KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))  # G
_OUTPUTS = ((1, 1, 1, 0), (0, 1, -1, -1))  # A


def suits(
  kernel_shape: Sequence[int], strides: Pair, batch: int, size: Sequence[int]
) -> bool:
  """Whether a correlation is better computed here than of patches.

  On CPU, for wide and large layers. Narrow ones lose by the sums what the
  products save, and small ones do not pay for the compiling of so many
  operations. Accelerators multiply with few digits unless told otherwise, and
  differences would cost them more.

  Args:
    kernel_shape: h, w, I, O.
    strides: step along height and width.
    batch: B.
    size: H', W', outputs of the correlation.
  """
  *window, num_in, num_out = kernel_shape
  work = 2 * batch * math.prod(size) * math.prod(kernel_shape)
  return (
    tuple(window) == (_WINDOW, _WINDOW)
    and tuple(strides) == (1, 1)
    and min(num_in, num_out) >= _LEAST_CHANNELS
    and num_in * num_out >= _LEAST_FILTERS
    and work >= _LEAST_WORK
    and jax.default_backend() == 'cpu'
  )


def correlate(
  inputs: jax.Array, kernel: jax.Array, low: Pair, size: Pair
) -> jax.Array:
  """`correlation.correlate` with a kernel `[3, 3, I, O]` and stride 1."""
  products = _each(
    jnp.matmul, _of_inputs(inputs, low, size), _of_kernel(kernel)
  )
  outputs = _woven(_both_ways(_OUTPUTS, products))
  return pad_or_cut(outputs, (0, 0), size)


def spread(
  inputs: jax.Array, kernel: jax.Array, low: Pair, size: Pair
) -> jax.Array:
  """`correlation.spread` with a kernel `[3, 3, I, O]` and stride 1."""
  products = _each(
    lambda values, weights: values @ weights.T,
    _of_outputs(inputs),
    _of_kernel(kernel),
  )
  grid = _both_ways(_transposed(_INPUTS), products)
  outputs = _woven(_overlapping(grid))
  return pad_or_cut(outputs, [-before for before in low], size)


def kernel_gradient(
  inputs: jax.Array, gradient: jax.Array, low: Pair
) -> jax.Array:
  """Gradient of `correlate` in its kernel.

  Args:
    inputs: `[B, H, W, I]`.
    gradient: of the outputs, `[B, H', W', O]`.
    low: as in `correlate`.

  Returns:
    `[3, 3, I, O]`.
  """
  products = _each(
    contract,
    _of_inputs(inputs, low, gradient.shape[1:3]),
    _of_outputs(gradient),
  )
  grid = _both_ways(_transposed(_KERNEL), products)
  return jnp.stack([jnp.stack(row) for row in grid])


def _of_inputs(inputs: jax.Array, low: Pair, size: Sequence[int]) -> _Grid:
  """4 x 4: the inputs that the tiles of so many outputs see, transformed."""
  tiles = [-(-extent // _TILE) for extent in size]
  inputs = pad_or_cut(inputs, low, [_TILE * (count + 1) for count in tiles])
  places = _places(inputs)
  down, across = tiles
  seen = [
    [
      places[i % _TILE][j % _TILE][
        :, i // _TILE : i // _TILE + down, j // _TILE : j // _TILE + across
      ]
      for j in range(len(_INPUTS))
    ]
    for i in range(len(_INPUTS))
  ]
  return _both_ways(_INPUTS, seen)


def _of_outputs(outputs: jax.Array) -> _Grid:
  """4 x 4: what the tiles of outputs are to the products, transposed."""
  sizes = [-(-extent // _TILE) * _TILE for extent in outputs.shape[1:3]]
  places = _places(pad_or_cut(outputs, (0, 0), sizes))
  return _both_ways(_transposed(_OUTPUTS), places)


def _of_kernel(kernel: jax.Array) -> _Grid:
  """4 x 4 matrices `[I, O]` of a kernel `[3, 3, I, O]`."""
  places = [[kernel[i, j] for j in range(_WINDOW)] for i in range(_WINDOW)]
  return _both_ways(_KERNEL, places)


def _places(images: jax.Array) -> _Grid:
  """2 x 2: every second row and column."""
  batch, height, width, channels = images.shape
  cells = images.reshape(
    batch, height // _TILE, _TILE, width // _TILE, _TILE, channels
  )
  return [[cells[:, :, i, :, j] for j in range(_TILE)] for i in range(_TILE)]


def _woven(places: _Grid) -> jax.Array:
  """Images of their `_places`."""
  batch, down, across, channels = places[0][0].shape
  cells = jnp.zeros(
    (batch, down, _TILE, across, _TILE, channels), places[0][0].dtype
  )
  # Written one by one. Of a stack the compiler would make one loop that asks
  # for each number which of the arrays it comes from.
  for i, j in np.ndindex(_TILE, _TILE):
    cells = cells.at[:, :, i, :, j].set(places[i][j])
  return cells.reshape(batch, down * _TILE, across * _TILE, channels)


def _overlapping(grid: _Grid) -> _Grid:
  """2 x 2 places of 4 x 4 windows that begin at every second place, added."""

  def padded(i, j):
    down, across = i // _TILE, j // _TILE
    padding = ((0, 0), (down, 1 - down), (across, 1 - across), (0, 0))
    return jnp.pad(grid[i][j], padding)

  return [
    [
      padded(i, j) + padded(i + 2, j) + padded(i, j + 2) + padded(i + 2, j + 2)
      for j in range(_TILE)
    ]
    for i in range(_TILE)
  ]


def _both_ways(matrix: _Matrix, grid: _Grid) -> _Grid:
  """`matrix @ grid @ matrix.T`."""
  rows = [_sums(matrix, row) for row in grid]
  return _transposed([_sums(matrix, column) for column in _transposed(rows)])


def _sums(matrix: _Matrix, parts: Sequence[jax.Array]) -> list[jax.Array]:
  """`matrix @ parts`, where most entries are zeros and ones."""

  def row_sum(row):
    terms = [
      part if factor == 1 else factor * part
      for factor, part in zip(row, parts, strict=True)
      if factor
    ]
    return functools.reduce(jnp.add, terms)

  return [row_sum(row) for row in matrix]


def _each(
  function: Callable[..., jax.Array], left: _Grid, right: _Grid
) -> _Grid:
  return [
    [function(*pair) for pair in zip(*rows, strict=True)]
    for rows in zip(left, right, strict=True)
  ]


def _transposed(grid):
  return list(zip(*grid, strict=True))
