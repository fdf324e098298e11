"""From the columns of a table to what a model sees, and back.

A number goes through a monotone map to a scale on which models are at ease:
of tables that of its quantiles, so that it becomes about N(0, 1) however skewed
it was; of series one mean and one standard deviation for a channel. Which map
is not read off the records but agreed (`encoding.agree`). A category becomes a
one-hot vector, what is missing a flag, or a category of its own.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from fedjax_gen.data.tables import schema as schema_lib
from fedjax_gen.data.tables.schema import Schema
from fedjax_gen.errors import InputError
from fedjax_gen.kinds import Block

_EPOCH = np.datetime64('1970-01-01', 'D')


@dataclasses.dataclass(frozen=True, eq=False)
class Codec:
  """How examples of a schema are encoded.

  Attributes:
    schema: of the examples.
    knots: for each number column `[2, K]`, values in rising order and what
      they become; between knots the map is linear. Outside it goes on, for
      series, or stays, for tables.

  Raises:
    InputError: there are not knots for each number.

  Example:
    >>> columns = (schema_lib.Column('age', 'integer', missing=True),
    ...            schema_lib.Column('sex', 'category', ('f', 'm')))
    >>> codec = Codec(Schema('table', columns),
    ...               (np.array([[20.0, 60.0], [-1.0, 1.0]]),))
    >>> encoded = codec.encode(np.array([[40.0, 1], [np.nan, 0]], np.float32))
    >>> encoded.tolist()
    [[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]]
    >>> codec.decode(encoded).tolist()
    [[40.0, 1.0], [nan, 0.0]]
  """

  schema: Schema
  knots: tuple[np.ndarray, ...]

  def __post_init__(self):
    if len(self.knots) != len(number_places(self.schema)):
      raise InputError(
        f'Expected knots for {len(number_places(self.schema))} number columns, '
        f'got {len(self.knots)}.'
      )

  @functools.cached_property
  def layout(self) -> tuple[Block, ...]:
    """Blocks of the last axis of encoded examples."""
    return layout_of(self.schema)

  def encode(self, raw: np.ndarray) -> np.ndarray:
    """`[n, ..., D]` values of the schema, NaN where missing, as models see it.

    Returns:
      `[n, ..., F]` float32, all finite.
    """
    numbers = dict(zip(number_places(self.schema), self.knots, strict=True))
    parts: list[np.ndarray] = []
    for place, column in enumerate(self.schema.columns):
      values = raw[..., place]
      if column.is_number:
        parts.append(self._mapped(values, *numbers[place])[..., None])
        if column.missing and not self._is_series:
          parts.append(np.isfinite(values)[..., None])
      else:
        size = num_categories(column)
        parts.append(values[..., None] == np.arange(size))
    if self.schema.mask:
      observed = np.isfinite(raw)
      if self.schema.mask == 'step':
        observed = observed.any(axis=-1, keepdims=True)
      parts.append(observed)
    return np.concatenate(parts, axis=-1, dtype=np.float32)

  def decode(self, encoded: np.ndarray) -> np.ndarray:
    """The inverse of `encode`, in the units of the schema.

    Integers and dates are rounded, numbers kept within public bounds.

    Returns:
      `[n, ..., D]` float64, codes of categories, NaN where missing.
    """
    numbers = dict(zip(number_places(self.schema), self.knots, strict=True))
    parts, start = [], 0
    for place, column in enumerate(self.schema.columns):
      if column.is_number:
        values = self._restored(encoded[..., start], *numbers[place])
        if column.kind in ('integer', 'date'):
          values = np.rint(values)
        values = np.clip(values, column.low, column.high)
        start += 1
        if column.missing and not self._is_series:
          values = np.where(encoded[..., start] > 0.5, values, np.nan)
          start += 1
      else:
        size = num_categories(column)
        values = encoded[..., start : start + size].argmax(axis=-1)
        start += size
      parts.append(np.asarray(values, np.float64))
    raw = np.stack(parts, axis=-1)
    if self.schema.mask:
      raw = np.where(encoded[..., start:] > 0.5, raw, np.nan)
    return raw

  def columns(self, raw: np.ndarray) -> dict[str, np.ndarray]:
    """Decoded rows of a table, or steps of series, as columns by name.

    Numbers are floats, whole numbers integers, dates and categories text. What
    is missing is NaN, or `''` in columns of text and of whole numbers. Of
    series
    `example` and `step` come first.
    """
    found = {
      column.name: _as_written(column, raw[..., place].reshape(-1))
      for place, column in enumerate(self.schema.columns)
    }
    if not self._is_series:
      return found
    number, steps, _ = raw.shape
    places = {
      'example': np.repeat(np.arange(number), steps),
      'step': np.tile(np.arange(steps), number),
    }
    return places | found

  def to_record(self) -> dict[str, Any]:
    """As JSON has it; see `from_record`."""
    knots = [np.asarray(pair, np.float64).tolist() for pair in self.knots]
    return {'schema': self.schema.to_record(), 'knots': knots}

  @property
  def _is_series(self) -> bool:
    return self.schema.kind == 'series'

  def _mapped(self, values, at, to):
    """Values through the map; 0 where they are missing."""
    if self._is_series:
      mapped = to[0] + (values - at[0]) * (to[-1] - to[0]) / (at[-1] - at[0])
    else:
      mapped = np.interp(values, at, to)
    return np.where(np.isfinite(values), mapped, 0.0)

  def _restored(self, values, at, to):
    if self._is_series:
      return at[0] + (values - to[0]) * (at[-1] - at[0]) / (to[-1] - to[0])
    return np.interp(values, to, at)


def from_record(record: Mapping[str, Any]) -> Codec:
  """What `Codec.to_record` gave."""
  return Codec(
    schema_lib.from_record(record['schema']),
    tuple(np.asarray(pair, np.float64) for pair in record['knots']),
  )


def number_places(schema: Schema) -> list[int]:
  """Indices of the columns that are numbers."""
  return [i for i, column in enumerate(schema.columns) if column.is_number]


def num_categories(column: schema_lib.Column) -> int:
  """Codes that a category has, that of missing values included."""
  return len(column.categories) + column.missing


def layout_of(schema: Schema) -> tuple[Block, ...]:
  """Blocks of the last axis of encoded examples of a schema."""
  blocks: list[Block] = []
  if schema.kind == 'series':
    size = len(schema.columns)
    by_channel = schema.mask == 'channel'
    for channel in range(size):
      flag = size + channel * by_channel if schema.mask else -1
      blocks.append(Block('number', flag=flag))
    flags = {'': 0, 'step': 1, 'channel': size}[schema.mask]
    return (*blocks, *[Block('flag')] * flags)
  start = 0
  for column in schema.columns:
    if not column.is_number:
      blocks.append(Block('category', num_categories(column)))
    elif column.missing:
      blocks += [Block('number', flag=start + 1), Block('flag')]
    else:
      blocks.append(Block('number'))
    start = sum(block.size for block in blocks)
  return tuple(blocks)


def quantile_knots(edges: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """`[2, K]` knots that map values to about N(0, 1), from a histogram.

  Args:
    edges: `[E]` of cells, in rising order.
    counts: `[E - 1]`, not negative.
  """
  from scipy import special  # noqa: PLC0415, slow to import

  held = np.flatnonzero(counts > 0)
  total = counts.sum()
  if not held.size:
    return np.array([[edges[0], edges[-1]], [-1.0, 1.0]])
  low, high = held[0], held[-1] + 1
  shares = np.concatenate([[0], np.cumsum(counts)])[low : high + 1] / total
  least = max(0.5 / (total + 1), 1e-4)
  scores = special.ndtri(np.clip(shares, least, 1 - least))
  # Cells that hold nothing have no width; their ends must still differ.
  scores = scores + 1e-6 * np.arange(len(scores))
  return np.stack([edges[low : high + 1], scores])


def affine_knots(edges: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """`[2, 2]` knots of mean 0 and standard deviation 1, from a histogram."""
  total = counts.sum()
  centres = (edges[1:] + edges[:-1]) / 2
  mean = (counts @ centres) / total if total > 0 else 0.0
  variance = counts @ (centres - mean) ** 2 / total if total > 0 else 0.0
  stddev = np.sqrt(variance) or 1.0
  return np.array([[mean - stddev, mean + stddev], [-1.0, 1.0]])


def _as_written(column: schema_lib.Column, values: np.ndarray) -> np.ndarray:
  """Values of one column in the form of the user's file."""
  observed = np.isfinite(values)
  if column.kind == 'category':
    names = np.array([*column.categories, ''], object)
    return names[values.astype(int)]
  if column.kind == 'number':
    return values.astype(np.float32)
  whole = np.where(observed, values, 0).astype(np.int64)
  text: Sequence[Any] = whole.tolist()
  if column.kind == 'date':
    text = (_EPOCH + whole.astype('timedelta64[D]')).astype(str).tolist()
  written = np.array(text, object)
  written[~observed] = ''
  return written
