"""Histograms of the columns of a table, or the channels of a series.

They are what clients tell of the ranges of their numbers: a sum over records,
in cells that everyone knows, that can be released with Gaussian noise
(`one_release`). Cells of the first histogram lie between powers of two, so that
nobody need know a range; those of the next follow from what was released.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.types import Array

# Powers of two from a millionth to a trillion, four cells to each.
_LEAST, _MOST, _PER_OCTAVE = -20, 40, 4


@dataclasses.dataclass(frozen=True, eq=False)
class HistogramStatistic:
  """What is summed, in units of sensitivity; a `one_release.Statistic`.

  A record adds `1 / sqrt(D)` to one cell of each of D columns; of a series each
  time step has its part of that. A value that is missing or not finite adds
  nothing, one beyond the outermost edges counts in the outermost cell.

  Guarantees:
    Released: nothing by itself.
    Sensitivity: a record moves the result by a norm of 1 at most, whatever it
      holds.

  Attributes:
    places: of the D columns in the last axis of the records.
    edges: `[D, E]` of the cells of each, in rising order.

  Raises:
    InputError: there is no column, or edges do not fit.

  Example:
    >>> statistic = HistogramStatistic((0,), np.array([[0.0, 1.0, 2.0]]))
    >>> counts = statistic(jnp.array([[0.5], [9.0], [jnp.nan]]),
    ...                    jnp.zeros(3, int), jnp.array([True, True, True]))
    >>> counts.tolist()
    [[1.0, 1.0]]
  """

  places: tuple[int, ...]
  edges: np.ndarray

  def __post_init__(self):
    shape = np.shape(self.edges)
    if not self.places or len(shape) != 2 or shape[0] != len(self.places):
      raise InputError(
        f'Expected edges [D, E] for D={len(self.places)} columns, D > 0, got '
        f'shape {list(shape)}.'
      )
    if shape[1] < 2 or (np.diff(self.edges) < 0).any():
      raise InputError('Expected at least two edges in rising order.')

  def __call__(self, inputs: Array, labels: Array, mask: Array) -> Array:
    """`[D, E - 1]` counts over records `[n, ..., F]`, times `1 / sqrt(D)`."""
    del labels
    edges = jnp.asarray(self.edges, jnp.float32)
    values = inputs[..., np.asarray(self.places)]
    values = values.reshape(len(values), -1, len(self.places))
    share = 1 / (values.shape[1] * math.sqrt(len(self.places)))
    counts = jnp.isfinite(values) & mask[:, None, None]
    num_cells = edges.shape[1] - 1

    def of_column(edges, values, counts):
      cell = jnp.searchsorted(edges, values, side='right') - 1
      cell = jnp.clip(cell, 0, num_cells - 1)
      return jnp.zeros(num_cells).at[cell].add(counts * share)

    return jax.vmap(of_column)(
      edges,
      values.reshape(-1, len(self.places)).T,
      counts.reshape(-1, len(self.places)).T,
    )

  def restored(self, sums: Array) -> np.ndarray:
    """`[D, E - 1]` sums in units of records, noise or not."""
    return np.asarray(sums, np.float64) * math.sqrt(len(self.places))


def first_edges(low: float | None, high: float | None) -> np.ndarray:
  """Edges of the first histogram of a column: they depend on no record.

  Args:
    low: the least value if it is public; with `high` the cells are equal.
    high: likewise the greatest.
  """
  steps = np.arange(_LEAST * _PER_OCTAVE, _MOST * _PER_OCTAVE + 1)
  above = 2.0 ** (steps / _PER_OCTAVE)
  if low is not None and high is not None:
    return np.linspace(low, high, 2 * len(above))
  return np.concatenate([-above[::-1], above])


def refined_edges(
  edges: np.ndarray, counts: np.ndarray, num_cells: int
) -> np.ndarray:
  """`[num_cells + 1]` edges between which counts are about equal.

  Of a histogram that holds nothing they are equal steps, over the range of the
  edges if that is public, else from -1 to 1.
  """
  total = counts.sum()
  if total <= 0:
    is_range_known = edges[-1] < 2.0**_MOST
    low, high = (edges[0], edges[-1]) if is_range_known else (-1.0, 1.0)
    return np.linspace(low, high, num_cells + 1)
  held = np.flatnonzero(counts > 0)
  kept = slice(held[0], held[-1] + 2)
  shares = np.concatenate([[0], np.cumsum(counts)])[kept] / total
  # Cells that hold nothing get no edge but their own ends.
  return np.interp(np.linspace(0, 1, num_cells + 1), shares, edges[kept])
