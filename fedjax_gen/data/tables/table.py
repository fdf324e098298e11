"""Reads tables: csv or parquet files, one for all clients or one for each.

`python -m fedjax_gen.data.tables.table FILE.csv` prints the schema that is
found, to be corrected in a file (`schema`).
"""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import json
import math
import os
import pathlib
import re
import sys
from typing import Any

import numpy as np

from fedjax_gen.data import examples
from fedjax_gen.data.assemble import UNLABELLED
from fedjax_gen.data.examples import DataSource, Examples, Options
from fedjax_gen.data.tables import schema as schema_lib, series
from fedjax_gen.data.tables.schema import OTHER, Column, Schema
from fedjax_gen.errors import InputError

SUFFIXES = ('.csv', '.tsv', '.parquet')
_MOST_CATEGORIES = 50
_MOST_CLASSES = 1000
# Of a text column with more different values than this share of its rows the
# values are names, not categories.
_NAMES_SHARE = 0.5
# Where most values are numbers, one that is not is a mistake.
_NUMBERS_SHARE = 0.5
_OTHER_DATE = re.compile(r'\d{1,4}[./]\d{1,2}[./]\d{2,4}')
# With separators of thousands, a comma for the point, a currency or a percent.
_OTHER_NUMBER = re.compile(r'[-+$€£ ]*\d[\d.,\u00a0\u202f ]*[%$€£]?')


def is_table(path: str | os.PathLike, *, is_clients: bool = False) -> bool:
  """Whether a path is a table, or with `is_clients` a folder of tables.

  A folder in which there are other folders is one of pictures.
  """
  path = pathlib.Path(path)
  if not is_clients:
    return path.suffix.lower() in SUFFIXES and not path.is_dir()
  return bool(_files(path)) and not any(f.is_dir() for f in path.iterdir())


def read(
  path: str | os.PathLike, options: Options, *, name: str | None = None
) -> DataSource:
  """Reads a table, or with `options.window` series of windows.

  Args:
    path: a file, or a folder with a file for each client, named by the file.
    options: which column is what; corrections; how to hold out.
    name: of the source, the path if None.

  Returns:
    The source, not encoded: `[n, D]` float32 numbers in the user's units and
    codes of categories, NaN where a number is missing; or `[n, T, C]`.

  Raises:
    InputError: pandas is missing, the file cannot be read, or its columns do
      not fit. The message has the file, the line or column, and what was
      expected.
  """
  path = pathlib.Path(path)
  files = _files(path) or [path]
  frames, lines = zip(*[_frame(file) for file in files], strict=True)
  header = list(frames[0].columns)
  for file, frame in zip(files, frames, strict=True):
    if list(frame.columns) != header:
      extra = sorted(set(frame.columns) ^ set(header)) or list(frame.columns)
      raise InputError(
        f'{file}: expected the columns of {files[0].name}, in their order, '
        f'got a difference in {", ".join(extra[:5])}.'
      )
  by_file = path.is_dir()
  if by_file and options.client_column:
    raise InputError(
      f'{path}: expected no client_column where each client has a file, got '
      f'client_column={options.client_column!r}.'
    )
  cells = _Cells(
    [str(file) for file in files],
    np.concatenate([np.full(len(f), i) for i, f in enumerate(frames)]),
    np.concatenate(lines),
    {
      column: np.concatenate([f[column].to_numpy(object) for f in frames])
      for column in header
    },
  )
  return _source(name or str(path), cells, options, by_file)


@dataclasses.dataclass(frozen=True)
class _Cells:
  """All cells as text, None where missing, and where each row stands.

  Attributes:
    files: their names.
    file: `[n]` which one.
    line: `[n]` in it, where the row begins; the header is line 1.
    columns: by name `[n]` text.
  """

  files: Sequence[str]
  file: np.ndarray
  line: np.ndarray
  columns: dict[str, np.ndarray]

  def place(self, row: int) -> str:
    """File and line."""
    return f'{self.files[self.file[row]]}: line {self.line[row]}'


def _source(
  name: str, cells: _Cells, options: Options, by_file: bool
) -> DataSource:
  what = cells.files[0]
  names = list(cells.columns)
  users: np.ndarray | None = None
  user_names: tuple[str, ...] = ()
  if by_file:
    users = cells.file.astype(np.int32)
    user_names = tuple(pathlib.Path(file).stem for file in cells.files)
  elif options.client_column:
    users, user_names = _ids(cells, options.client_column, 'client')
  groups: np.ndarray | None = None
  group_names: tuple[str, ...] = ()
  if options.group_column:
    groups, group_names = _ids(cells, options.group_column, 'group')
  labels = np.zeros(len(cells.line), np.int32)
  class_names: tuple[str, ...] = UNLABELLED
  notes = []
  if options.label_column:
    labels, class_names = _ids(cells, options.label_column, 'label')
    if len(class_names) > _MOST_CLASSES:
      raise InputError(
        f'{what}: column {options.label_column!r}: expected at most '
        f'{_MOST_CLASSES} classes, got {len(class_names)} different values.'
      )
  corrections = (
    schema_lib.read(options.schema)
    if options.schema
    else schema_lib.Corrections()
  )
  for corrected in corrections.columns:
    schema_lib.known(names, corrected, str(options.schema))
  columns, values = [], []
  roles = (options.client_column, options.label_column)
  for column_name in names:
    if column_name in (*roles, options.group_column, options.person_column):
      continue
    column, numbers, note = _column(
      cells, column_name, corrections.of(column_name)
    )
    notes += [note] if note else []
    if column.kind != 'ignore':
      columns.append(column)
      values.append(numbers)
  if not columns:
    raise InputError(
      f'{what}: expected at least one column of numbers or categories next to '
      f'those of clients and labels, got {", ".join(names)}.'
    )
  raw = np.stack(values, axis=-1).astype(np.float32)
  schema = Schema('table', tuple(columns), '', *roles)
  part = Examples(raw, labels, users, groups)
  if options.window:
    found = series.from_rows(
      name, part, schema, options, class_names, user_names, notes
    )
    return dataclasses.replace(found, group_names=group_names)
  if options.label_column is None:
    notes.append('no label_column: all rows are of one class')
  if options.person_column:
    persons, person_names = _ids(cells, options.person_column, 'person')
    train, test, note = _split_by(persons, len(person_names), part, options)
  else:
    train, test, note = examples.split(part, options)
  return DataSource(
    name=name,
    train=train,
    test=test,
    class_names=tuple(class_names),
    user_names=user_names,
    group_names=group_names,
    notes=(*notes, summary(schema), note),
    schema=schema,
    names_clients=users is not None,
  )


def _split_by(
  persons: np.ndarray, number: int, part: Examples, options: Options
) -> tuple[Examples, Examples, str]:
  """Splits as `examples.split`, all rows of a person on one side."""
  _, first = np.unique(persons, return_index=True)
  ones = Examples(
    np.arange(number)[:, None],
    np.zeros(number, np.int32),
    None if part.users is None else part.users[first],
  )
  _, held, note = examples.split(ones, options)
  is_test = np.isin(persons, held.inputs[:, 0])
  return (
    examples.take(part, ~is_test),
    examples.take(part, is_test),
    f'{note.replace("examples", "persons")}: {is_test.sum()} rows',
  )


def summary(schema: Schema) -> str:
  """One sentence of what the columns are."""
  kinds: dict[str, list[str]] = {}
  for column in schema.columns:
    kinds.setdefault(column.kind, []).append(column.name)
  parts = [
    f'{len(found)} {kind} ({", ".join(found[:4])}{", ..." * (len(found) > 4)})'
    for kind, found in kinds.items()
  ]
  missing = sum(column.missing for column in schema.columns)
  more = f'; values are missing in {missing}' if missing else ''
  return f'columns found: {", ".join(parts)}{more}'


def _files(path: pathlib.Path) -> list[pathlib.Path]:
  """Tables in a folder, by name."""
  if not path.is_dir():
    return []
  return sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES)


def _frame(path: pathlib.Path) -> tuple[Any, np.ndarray]:
  """A file as a pandas frame of text, None where a cell is empty; its lines."""
  try:
    import pandas as pd  # noqa: PLC0415, an extra
  except ImportError as error:
    raise InputError(
      f'{path}: expected pandas to read tables: pip install '
      "'fedjax_gen[tables]'."
    ) from error
  try:
    if path.suffix.lower() == '.parquet':
      frame = pd.read_parquet(path).convert_dtypes()
      frame = frame.astype('string').astype(object)
      lines = np.arange(len(frame)) + 2
    else:
      separator, lines = _checked(path)
      frame = pd.read_csv(
        path, sep=separator, dtype=str, header=0, index_col=False,
        skipinitialspace=True, encoding='utf-8-sig',
      )  # fmt: skip
  except FileNotFoundError as error:
    raise InputError(f'{path}: expected a file, found none.') from error
  except UnicodeDecodeError as error:
    raise InputError(
      f'{path}: expected text in UTF-8, got byte {error.start} '
      f'({error.object[error.start]:#x}).'
    ) from error
  except InputError:
    raise
  # pandas and pyarrow raise many types on broken files.
  except Exception as error:
    first = str(error).strip().splitlines()[0]
    raise InputError(f'{path}: cannot be read as a table: {first}') from error
  if not len(frame):
    raise InputError(f'{path}: expected rows below the header, got none.')
  return frame.where(frame.notna(), None), lines


def _checked(path: pathlib.Path) -> tuple[str, np.ndarray]:
  """The separator of a csv file that has no mistake, and where rows begin.

  Raises:
    InputError: no header, columns without or with the same names, another
      delimiter, a row of another width, a NUL.
  """
  separator = '\t' if path.suffix.lower() == '.tsv' else ','
  with open(path, encoding='utf-8-sig', newline='') as file:
    rows = csv.reader(file, delimiter=separator, skipinitialspace=True)
    header = next(rows, None)
    if not header:
      raise InputError(f'{path}: expected a header in line 1, got no text.')
    if len(header) == 1:
      for other, word in ((';', 'a semicolon'), ('\t', 'a tab'), ('|', '|')):
        if other in header[0]:
          raise InputError(
            f'{path}: line 1: expected columns separated by {separator!r}, '
            f'got {word}: {header[0][:60]!r}.'
          )
    for place, name in enumerate(header, 1):
      if not name.strip():
        raise InputError(
          f'{path}: line 1: expected a name for column {place}, got none.'
        )
      if header.index(name) != place - 1:
        raise InputError(
          f'{path}: line 1: expected different names of columns, got {name!r} '
          f'in columns {header.index(name) + 1} and {place}.'
        )
    lines, line = [], rows.line_num + 1
    for row in rows:
      if row and len(row) != len(header):
        several = rows.line_num - line
        hint = f'; a quote in it ends in line {rows.line_num}' * bool(several)
        raise InputError(
          f'{path}: line {line}: expected {len(header)} columns as in the '
          f'header, got {len(row)}{hint}.'
        )
      if '\0' in ''.join(row):  # pandas would cut the cell there
        raise InputError(f'{path}: line {line}: expected text, got a NUL byte.')
      if row:  # pandas leaves out lines without any text
        lines.append(line)
      line = rows.line_num + 1
  return separator, np.array(lines, np.int64)


def _ids(
  cells: _Cells, column: str, role: str
) -> tuple[np.ndarray, tuple[str, ...]]:
  """Ids by the values of the column that names clients or classes."""
  schema_lib.known(
    list(cells.columns), column, f'{cells.files[0]}: {role}_column'
  )
  values = cells.columns[column]
  missing = np.array([value is None for value in values])
  if missing.any():
    raise InputError(
      f'{cells.place(int(missing.argmax()))}: expected a {role} in column '
      f'{column!r} of every row, got none in {missing.sum()} rows.'
    )
  distinct = sorted(set(values), key=_sort_key)
  codes = {value: code for code, value in enumerate(distinct)}
  return np.array([codes[v] for v in values], np.int32), tuple(distinct)


def _sort_key(text: str) -> tuple[bool, float, str]:
  """Numbers by value, before other text."""
  try:
    return False, float(text), text
  except ValueError:
    return True, 0.0, text


def _column(
  cells: _Cells, name: str, correction: Mapping[str, Any]
) -> tuple[Column, np.ndarray, str]:
  """A column, its values as numbers or codes, and what is to be said of it."""
  texts = cells.columns[name]
  missing = np.array([text is None for text in texts])
  kind = correction.get('kind')
  note = ''
  # Of a column that is known, values may be missing in all rows of a site.
  is_known = correction.get('missing') and (
    correction.get('categories') or kind in ('number', 'integer', 'date')
  )
  if missing.all() and kind != 'ignore' and not is_known:
    raise InputError(
      f'{cells.files[0]}: column {name!r}: expected values, got none in '
      f'{len(texts)} rows; kind "ignore" in a schema leaves it out.'
    )
  if kind is None:
    kind, note = _found_kind(texts, missing, name)
  column = schema_lib.corrected(
    [Column(name, kind, missing=bool(missing.any()))],
    {name: {**correction, 'kind': kind}},
    name,
  )[0]
  if missing.any() and not column.missing:
    raise InputError(
      f'{cells.place(int(missing.argmax()))}: expected a value in column '
      f'{name!r}, which the schema says is never missing.'
    )
  if kind == 'ignore':
    return column, np.zeros(len(texts)), note
  if kind == 'category':
    column, codes, more = _coded(cells, column, texts, missing)
    return column, codes, '; '.join(filter(None, (note, more)))
  return column, _numbers(cells, column, texts, missing), note


def _found_kind(
  texts: np.ndarray, missing: np.ndarray, name: str
) -> tuple[str, str]:
  """The kind that values look like, and what is to be said of it."""
  present = texts[~missing]
  distinct = set(present.tolist())
  numbers = {text: _number(text) for text in distinct}
  valid = {n for n in numbers.values() if n is not None}
  is_numeric = np.mean([numbers[t] is not None for t in present])
  if is_numeric > _NUMBERS_SHARE:
    if len(distinct) <= 2 and len(valid) == len(distinct):
      return 'category', ''
    is_whole = all(v == math.floor(v) for v in valid if math.isfinite(v))
    return ('integer' if is_whole else 'number'), ''
  if np.mean([_day(text) is not None for text in present]) > _NUMBERS_SHARE:
    return 'date', ''
  hint = ''
  for pattern, what, form in (
    (_OTHER_DATE, 'date', 'dates are written as 2024-05-31'),
    (_OTHER_NUMBER, 'number', 'numbers are written as 1234.5'),
  ):
    if np.mean([bool(pattern.fullmatch(text)) for text in present]) > (
      _NUMBERS_SHARE
    ):
      hint = (
        f'column {name!r}: {present[0]!r} looks like a {what} and is read as '
        f'text; {form}'
      )
      break
  if len(distinct) > max(_MOST_CATEGORIES, _NAMES_SHARE * len(present)):
    left_out = (
      f'column {name!r} left out: {len(distinct)} different texts in '
      f'{len(present)} rows; kind "category" in a schema keeps it'
    )
    return 'ignore', '; '.join(filter(None, (hint, left_out)))
  return 'category', hint


def _coded(
  cells: _Cells, column: Column, texts: np.ndarray, missing: np.ndarray
) -> tuple[Column, np.ndarray, str]:
  """Codes of categories; rare values share one where there are too many."""
  counts: dict[str, int] = {}
  for text in texts[~missing]:
    counts[text] = counts.get(text, 0) + 1
  note = ''
  if not column.categories:
    kept = sorted(counts, key=lambda text: (-counts[text], text))
    if len(kept) > _MOST_CATEGORIES:
      kept = [*kept[: _MOST_CATEGORIES - 1], OTHER]
      note = (
        f'column {column.name!r}: {len(counts) - len(kept) + 1} rare values of '
        f'{len(counts)} are one category, {OTHER}'
      )
    ordered = sorted(kept, key=_sort_key)
    column = dataclasses.replace(column, categories=tuple(ordered))
  codes = {text: code for code, text in enumerate(column.categories)}
  rest = codes.get(OTHER)
  if rest is None and (unknown := [t for t in counts if t not in codes]):
    row = int(np.argmax(texts == unknown[0]))
    raise InputError(
      f'{cells.place(row)}: expected column {column.name!r} to be one of '
      f'{", ".join(column.categories[:10])}, the categories of the schema, got '
      f'{unknown[0]!r}; a category {OTHER!r} takes all others.'
    )
  values = [
    len(column.categories) if text is None else codes.get(text, rest)
    for text in texts
  ]
  return column, np.array(values, np.float32), note


def _numbers(
  cells: _Cells, column: Column, texts: np.ndarray, missing: np.ndarray
) -> np.ndarray:
  """Numbers of a column, NaN where missing.

  Raises:
    InputError: a value that is none, infinite, no whole number where these are
      expected, or out of the schema's bounds.
  """
  parse, what = {
    'number': (_number, 'a number'),
    'integer': (_number, 'a whole number'),
    'date': (_day, 'a date such as 2024-05-31'),
  }[column.kind]
  values = np.full(len(texts), np.nan)
  for row in np.flatnonzero(~missing).tolist():
    value = parse(texts[row])
    if (
      value is None
      or not math.isfinite(value)
      or (column.kind == 'integer' and value != math.floor(value))
    ):
      raise InputError(
        f'{cells.place(row)}: expected {what} in column {column.name!r}, got '
        f'{texts[row]!r}; another kind in a schema reads it as such.'
      )
    low = -math.inf if column.low is None else column.low
    high = math.inf if column.high is None else column.high
    if not low <= value <= high:
      raise InputError(
        f'{cells.place(row)}: expected {low:g} to {high:g} in column '
        f'{column.name!r}, as the schema has it, got {texts[row]!r}.'
      )
    values[row] = value
  return values


def _number(text: str) -> float | None:
  try:
    return float(text)
  except ValueError:
    return None


def _day(text: str) -> float | None:
  """Days since 1970-01-01 of an ISO date; times of day are cut off."""
  if len(text) < 8 or not text[:4].isdecimal() or '-' not in text:
    return None
  try:
    day = np.datetime64(text.replace(' ', 'T'), 'D')
  except ValueError:
    return None
  return float(day.astype(np.int64))


if __name__ == '__main__':
  try:
    found = read(sys.argv[1], Options()).schema
  except (InputError, IndexError) as problem:
    sys.exit(f'{problem}')
  print(json.dumps({'columns': found.to_record()['columns']}, indent=1))  # type: ignore[union-attr]
