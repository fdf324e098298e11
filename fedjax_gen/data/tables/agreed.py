"""Columns and scales that were agreed on before, in a file.

A coordinator writes the file of its own examples, and each site reads its
examples by it. They are public: nothing of a site's data is read for them.
"""

import dataclasses
import json
import os

import numpy as np

from fedjax_gen.data.examples import DataSource
from fedjax_gen.data.tables import codec as codec_lib, schema as schema_lib
from fedjax_gen.data.tables.codec import Codec
from fedjax_gen.errors import InputError


def read(path: str | os.PathLike) -> Codec:
  """The codec in a file, the JSON of `Codec.to_record`.

  Raises:
    InputError: there is none, with the file and what was expected.
  """
  try:
    with open(path, encoding='utf-8') as file:
      codec = codec_lib.from_record(json.load(file))
  except OSError as error:
    raise InputError(f'{path}: {error.strerror}.') from error
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise InputError(
      f'{path}: expected columns and scales as a coordinator writes them, got '
      f'{type(error).__name__}: {error}.'
    ) from error
  for place, knots in zip(
    codec_lib.number_places(codec.schema), codec.knots, strict=True
  ):
    if knots.ndim != 2 or len(knots) != 2 or not _is_map(knots):
      raise InputError(
        f'{path}: column {codec.schema.columns[place].name!r}: expected finite '
        f'knots [2, K] that do not fall, got {str(knots.tolist())[:60]}.'
      )
  return codec


def encoded(source: DataSource, codec: Codec) -> DataSource:
  """A source encoded with a codec that is known."""
  train, test = (
    part._replace(inputs=codec.encode(part.inputs))
    for part in (source.train, source.test)
  )
  return dataclasses.replace(
    source, train=train, test=test, schema=codec.schema, codec=codec
  )


def fitted(
  source: DataSource, codec: Codec, what: str | os.PathLike
) -> DataSource:
  """Encodes a source by a codec of other examples.

  Args:
    source: as it was read, a table by the schema of the codec.
    codec: agreed on.
    what: its file, for messages.

  Returns:
    The source with the columns of the codec, in their order.

  Raises:
    InputError: the source is of another kind, or lacks a column, or a column
      is another than that of the codec.
  """
  found, wanted = source.schema, codec.schema
  if found is None or found.kind != wanted.kind:
    raise InputError(
      f'{what}: expected a {wanted.kind}, got the {source.kind.name} of '
      f'{source.name}.'
    )
  names = [column.name for column in found.columns]
  places = []
  for column in wanted.columns:
    schema_lib.known(names, column.name, f'{source.name}, by {what}')
    own = found.columns[names.index(column.name)]
    if (own.kind, own.categories) != (column.kind, column.categories):
      raise InputError(
        f'{source.name}: column {column.name!r}: expected {_said(column)}, as '
        f'in {what}, got {_said(own)}.'
      )
    if own.missing and not (column.missing or wanted.mask):
      raise InputError(
        f'{source.name}: column {column.name!r}: expected no missing values, '
        f'as in {what}, got some.'
      )
    places.append(names.index(column.name))
  if found.mask == 'channel' and wanted.mask == 'step':
    raise InputError(
      f'{source.name}: expected values to be missing in all channels of a step '
      f'at once, as in {what}, got some that are missing in one.'
    )
  train, test = (
    part._replace(inputs=part.inputs[..., places])
    for part in (source.train, source.test)
  )
  return encoded(dataclasses.replace(source, train=train, test=test), codec)


def _is_map(knots: np.ndarray) -> bool:
  rises = (np.diff(knots) >= 0).all() and (knots[:, -1] > knots[:, 0]).all()
  return bool(np.isfinite(knots).all() and rises)


def _said(column: schema_lib.Column) -> str:
  categories = f' of {len(column.categories)}' * (column.kind == 'category')
  return f'kind {column.kind!r}{categories}'
