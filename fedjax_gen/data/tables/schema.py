"""What the columns of a table, or the channels of a series, are.

A schema is found by reading (`infer` in `table`), shown as JSON, and corrected
in a small file that names only what is to be changed:

    {"columns": {"zip": {"kind": "category"}, "id": {"kind": "ignore"},
                 "age": {"kind": "integer", "low": 0, "high": 120}}}

The same in TOML begins with `[columns.zip]`. A schema is public: under
differential privacy it should be written by hand or agreed, since kinds, names
of categories and ranges that were found come from the records themselves.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import difflib
import json
import math
import os
import tomllib
from typing import Any, NamedTuple

from fedjax_gen.errors import InputError

KINDS = ('number', 'integer', 'date', 'category', 'ignore')
MISSING = '(missing)'
"""The category of values that are missing."""
OTHER = '(other)'
"""The category of all values that the schema does not name."""


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of a table or a channel of a series.

  Attributes:
    name: in the user's file.
    kind: one of `KINDS`. A date is stored as days since 1970-01-01.
    categories: the values of a category, in the order of their codes.
    missing: whether values may be missing; a category then has `MISSING` last.
    low: of a number, the least possible value, if it is public.
    high: likewise the greatest.
  """

  name: str
  kind: str = 'number'
  categories: tuple[str, ...] = ()
  missing: bool = False
  low: float | None = None
  high: float | None = None

  @property
  def is_number(self) -> bool:
    """Whether values are numbers, and not categories."""
    return self.kind in ('number', 'integer', 'date')


@dataclasses.dataclass(frozen=True)
class Schema:
  """The columns of a table or the channels of a series.

  Attributes:
    kind: `table` or `series`.
    columns: in order; none of them is ignored.
    mask: of a series, where values may be missing: `''` nowhere, `step` in all
      channels of a time step at once (as after the end of a recording),
      `channel` in any.
    client_column: that named the client; not among `columns`.
    label_column: that held the class; not among `columns`.
  """

  kind: str
  columns: tuple[Column, ...]
  mask: str = ''
  client_column: str | None = None
  label_column: str | None = None

  def to_record(self) -> dict[str, Any]:
    """As JSON has it; see `from_record`."""
    columns = {
      column.name: {
        field: value
        for field, value in dataclasses.asdict(column).items()
        if field != 'name' and value not in (None, ()) and value is not False
      }
      for column in self.columns
    }
    return {**dataclasses.asdict(self), 'columns': columns}


def from_record(record: Mapping[str, Any]) -> Schema:
  """What `Schema.to_record` gave, for instance from a saved model."""
  columns = tuple(
    Column(
      name, **(fields | {'categories': tuple(fields.get('categories', ()))})
    )
    for name, fields in record['columns'].items()
  )
  return Schema(**{**record, 'columns': columns})


class Corrections(NamedTuple):
  """What a file says of columns.

  Attributes:
    columns: by the column's name the fields of `Column` to set.
    others: the same for each column that is not named.
  """

  columns: Mapping[str, Mapping[str, Any]] = {}
  others: Mapping[str, Any] = {}

  def of(self, name: str) -> Mapping[str, Any]:
    """Fields to set of a column."""
    return self.columns.get(name, self.others)


def read(path: str | os.PathLike) -> Corrections:
  """Reads a file of corrections, or one of columns and scales.

  The latter (`agreed.read`) names all columns there are: others are ignored.

  Raises:
    InputError: the file cannot be read, is no JSON or TOML, or has a field or
      a value that no column has. The message names the file and the place.
  """
  try:
    with open(path, encoding='utf-8') as file:
      text = file.read()
    is_toml = str(path).endswith('.toml')
    found = (
      tomllib.loads(text)
      if is_toml
      else json.loads(text, object_pairs_hook=_distinct)
    )
  except OSError as error:
    raise InputError(f'{path}: {error.strerror}.') from error
  except UnicodeDecodeError as error:
    raise InputError(f'{path}: expected text in UTF-8, got {error}.') from error
  except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
    language = 'TOML' if is_toml else 'JSON'
    raise InputError(f'{path}: expected {language}, got {error}.') from error
  except ValueError as error:
    raise InputError(f'{path}: {error}') from error
  is_all = isinstance(found, dict) and isinstance(found.get('schema'), dict)
  if is_all:
    found = found['schema']
  columns = found.get('columns') if isinstance(found, dict) else None
  if not isinstance(columns, dict):
    raise InputError(
      f'{path}: expected {{"columns": {{NAME: {{"kind": ...}}}}}}, got '
      f'{text[:60]!r}.'
    )
  for name, fields in columns.items():
    _check(f'{path}: column {name!r}', fields)
  if not is_all:
    return Corrections(columns)
  return Corrections(
    {name: {'missing': False, **fields} for name, fields in columns.items()},
    {'kind': 'ignore'},
  )


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """An object of JSON, which may not name a field twice."""
  names = [name for name, _ in pairs]
  if twice := [name for name in names if names.count(name) > 1]:
    raise ValueError(f'expected {twice[0]!r} once, got it twice.')
  return dict(pairs)


def corrected(
  found: Sequence[Column],
  corrections: Mapping[str, Mapping[str, Any]],
  what: str,
) -> list[Column]:
  """Columns with the fields that a file sets.

  Args:
    found: columns of the data.
    corrections: of `read`.
    what: the file of corrections, for messages.

  Raises:
    InputError: a correction is of no column.
  """
  names = [column.name for column in found]
  for name in corrections:
    known(names, name, what)
  return [
    dataclasses.replace(
      column,
      **_fields(corrections.get(column.name, {})),
    )
    for column in found
  ]


def _fields(correction: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of a column as JSON has them, as `Column` takes them."""
  return {
    field: tuple(map(str, value)) if field == 'categories' else value
    for field, value in correction.items()
  }


def known(names: Sequence[str], name: str, what: str) -> None:
  """Raises `InputError` unless a column is among names; with a near one."""
  if name not in names:
    near = difflib.get_close_matches(name, names, n=1)
    hint = f'; did you mean {near[0]!r}?' if near else '.'
    shown = ', '.join(names[:20]) + (', ...' if len(names) > 20 else '')
    raise InputError(
      f'{what}: expected a column among {shown}, got {name!r}{hint}'
    )


def _check(what: str, fields: Any) -> None:
  """Raises `InputError` unless fields are those of a column, and fit."""
  allowed = ('kind', 'categories', 'missing', 'low', 'high')
  if not isinstance(fields, dict):
    raise InputError(f'{what}: expected fields such as "kind", got {fields!r}.')
  for name in fields:
    if name not in allowed:
      raise InputError(
        f'{what}: expected fields among {", ".join(allowed)}, got {name!r}.'
      )
  if fields.get('kind', 'number') not in KINDS:
    raise InputError(
      f'{what}: expected kind to be one of {", ".join(KINDS)}, got '
      f'{fields["kind"]!r}.'
    )
  categories = fields.get('categories', [])
  if not isinstance(categories, list) or len(set(map(str, categories))) < len(
    categories
  ):
    raise InputError(
      f'{what}: expected categories to be a list of different values, got '
      f'{categories!r}.'
    )
  bounds = [fields.get('low'), fields.get('high')]
  for bound in bounds:
    is_number = isinstance(bound, int | float) and math.isfinite(bound)
    if bound is not None and (isinstance(bound, bool) or not is_number):
      raise InputError(
        f'{what}: expected low and high to be numbers, got {bound!r}.'
      )
  low, high = bounds
  if low is not None and high is not None and low >= high:
    raise InputError(f'{what}: expected low < high, got {low} and {high}.')
