"""Reads series: recordings of several channels, cut into windows.

A window lies within one recording, and a recording belongs to one client and
one class. Of each recording the first part is for training and the last is held
out, and both are cut by themselves, so that no time step is in both and windows
may overlap.
"""

from collections.abc import Sequence
import dataclasses
import os

import numpy as np

from fedjax_gen.data import examples
from fedjax_gen.data.assemble import UNLABELLED
from fedjax_gen.data.examples import DataSource, Examples, Options
from fedjax_gen.data.formats import npz
from fedjax_gen.data.tables import columns
from fedjax_gen.data.tables.schema import Column, Schema
from fedjax_gen.errors import InputError

_NAMES = {
  'labels': ('y', 'labels'),
  'users': ('users', 'client_ids', 'subjects'),
  'groups': ('groups',),
  'lengths': ('lengths',),
  'channels': ('channels',),
  'classes': ('classes',),
}
_INPUTS = ('x', 'series', 'inputs')


@dataclasses.dataclass(frozen=True)
class Recordings:
  """Recordings as they were found, before any window.

  Attributes:
    values: of each `[T, C]`, NaN where nothing was observed; T may differ.
    labels: `[n]` class of each.
    users: `[n]` client of each, None if nobody knows.
    groups: `[n]` group of each, likewise.
    channels: names.
    class_names: one for each label.
    user_names: one for each client.
  """

  values: Sequence[np.ndarray]
  labels: np.ndarray
  users: np.ndarray | None
  channels: tuple[str, ...]
  class_names: tuple[str, ...] = UNLABELLED
  user_names: tuple[str, ...] = ()
  groups: np.ndarray | None = None
  group_names: tuple[str, ...] = ()


def read(
  path: str | os.PathLike, options: Options, *, name: str | None = None
) -> DataSource:
  """Reads an npz file of recordings `x [n, T, C]`.

  Optional arrays: `y` or `labels` `[n]`, `users` (or `client_ids`, `subjects`)
  and `groups` `[n]` numbers or text, `lengths` `[n]` steps of each recording,
  the rest being padding, `channels` `[C]` and `classes` names. NaN is a missing
  value.

  Raises:
    InputError: the file is no npz file, or an array does not fit. The message
      names the array.
  """
  found = npz.array_names(path)
  inputs = next((key for key in _INPUTS if key in found), None)
  if inputs is None:
    raise InputError(
      f'{path}: expected an array x of series [n, T, C], got '
      f'{", ".join(found) or "an empty file"}.'
    )
  wanted = [key for keys in _NAMES.values() for key in keys]
  arrays = npz.load_arrays(path, [inputs, *(k for k in wanted if k in found)])
  picked = {
    role: next((key, arrays[key]) for key in keys if key in arrays)
    for role, keys in _NAMES.items()
    if set(keys) & set(arrays)
  }
  what = f'{path}: array {inputs!r}'
  values = arrays[inputs]
  if values.dtype.kind not in 'buif':
    raise InputError(f'{what}: expected real numbers, got {values.dtype}.')
  if values.ndim != 3 or 0 in values.shape:
    raise InputError(
      f'{what}: expected series [n, T, C] with at least one of each, got shape '
      f'{list(values.shape)}.'
    )
  values = values.astype(np.float32)
  if np.isinf(values).any():
    row, step, channel = np.argwhere(np.isinf(values))[0]
    raise InputError(
      f'{what}: expected finite values, or NaN where one is missing, got an '
      f'infinite one in recording {row}, step {step}, channel {channel}.'
    )
  number, steps, size = values.shape
  for role in ('labels', 'users', 'groups', 'lengths'):
    key, array = picked.get(role, ('', None))
    if array is not None and array.shape != (number,):
      raise InputError(
        f'{path}: array {key!r}: expected one value for each of {number} '
        f'recordings, got shape {list(array.shape)}.'
      )
  names = _text(path, picked.get('channels'), size) or tuple(
    f'channel {channel}' for channel in range(size)
  )
  labels = np.zeros(number, np.int32)
  class_names: tuple[str, ...] = UNLABELLED
  if 'labels' in picked:
    key, array = picked['labels']
    classes = _text(path, picked.get('classes'), None)
    if array.dtype.kind in 'US':
      [labels], class_names = columns.ids([array.astype(str)])
    else:
      [labels], class_names, _ = columns.labels(
        [(f'{path}: array {key!r}', array, number)], classes
      )
  owners: dict[str, tuple[np.ndarray | None, tuple[str, ...]]] = {}
  for role in ('users', 'groups'):
    owners[role] = None, ()
    if role in picked:
      key, array = picked[role]
      columns.finite(array, f'{path}: array {key!r}')
      [ids], found_names = columns.ids([array])
      owners[role] = ids, found_names
  lengths = np.full(number, steps)
  if 'lengths' in picked:
    key, array = picked['lengths']
    lengths = columns.whole_numbers(array, f'{path}: array {key!r}', number)
    if not ((lengths > 0) & (lengths <= steps)).all():
      row = int(np.argmax((lengths <= 0) | (lengths > steps)))
      raise InputError(
        f'{path}: array {key!r}: expected lengths from 1 to {steps}, got '
        f'{lengths[row]} in recording {row}.'
      )
  recordings = Recordings(
    [series[:length] for series, length in zip(values, lengths, strict=True)],
    labels,
    owners['users'][0],
    names,
    tuple(class_names),
    owners['users'][1],
    *owners['groups'],
  )
  return from_recordings(name or str(path), recordings, options)


def from_rows(
  name: str,
  rows: Examples,
  schema: Schema,
  options: Options,
  class_names: Sequence[str],
  user_names: tuple[str, ...],
  notes: Sequence[str] = (),
) -> DataSource:
  """Series of a table in which every row is a time step.

  A recording is a run of rows of one client, one class and one group, in their
  order.

  Raises:
    InputError: a column is no number; as `from_recordings`.
  """
  for column in schema.columns:
    if not column.is_number:
      raise InputError(
        f'{name}: column {column.name!r}: expected numbers as channels of a '
        f'series, got kind {column.kind!r}; kind "ignore" in a schema leaves '
        'it out.'
      )
  keys = [k for k in (rows.labels, rows.users, rows.groups) if k is not None]
  change = np.any([np.diff(key) != 0 for key in keys], axis=0)
  starts = np.concatenate([[0], np.flatnonzero(change) + 1])
  recordings = Recordings(
    np.split(rows.inputs, starts[1:]),
    rows.labels[starts],
    None if rows.users is None else rows.users[starts],
    tuple(column.name for column in schema.columns),
    tuple(class_names),
    user_names,
    None if rows.groups is None else rows.groups[starts],
  )
  source = from_recordings(name, recordings, options)
  assert source.schema is not None
  found = dataclasses.replace(
    source.schema,
    columns=tuple(
      dataclasses.replace(column, missing=own.missing)
      for column, own in zip(schema.columns, source.schema.columns, strict=True)
    ),
    client_column=schema.client_column,
    label_column=schema.label_column,
  )
  return dataclasses.replace(
    source, schema=found, notes=(*notes, *source.notes)
  )


def from_recordings(
  name: str, recordings: Recordings, options: Options
) -> DataSource:
  """Cuts recordings into windows, some of them held out.

  Without a window each recording is one example, and whole recordings are held
  out. A recording shorter than a window is one example, its end missing. Of a
  longer one the rest after the last whole window is left out.

  Raises:
    InputError: no recording is as long as a window, or fewer than two windows.
  """
  sizes = np.array([len(series) for series in recordings.values])
  window = options.window or int(sizes.max())
  if sizes.max() < window:
    raise InputError(
      f'{name}: expected a window of at most {sizes.max()} steps, those of the '
      f'longest recording, got window={window}.'
    )
  stride = options.stride or window
  parts: list[list[tuple[int, np.ndarray]]] = [[], []]
  for number, series in enumerate(recordings.values):
    # Both parts must hold a window; else the recording is held out as a whole,
    # or not.
    cut = len(series)
    if options.window:
      cut = round(len(series) * (1 - options.test_fraction))
    if not window <= cut <= len(series) - window:
      cut = len(series)
    for part, piece in zip(parts, (series[:cut], series[cut:]), strict=True):
      part += [(number, w) for w in _windows(piece, window, stride)]
  train, test = (_examples(part, recordings, window) for part in parts)
  notes = [
    f'{len(recordings.values)} recordings of {sizes.min()} to {sizes.max()} '
    f'steps cut into windows of {window}, one every {stride} steps'
  ]
  if not len(test.labels):
    if stride < window and any(sizes > window):
      raise InputError(
        f'{name}: expected recordings in which {window} steps can be held out '
        f'next to {window} for training, or stride >= window, so that no step '
        f'is in both; got recordings of at most {sizes.max()} steps, '
        f'stride={stride}.'
      )
    train, test, note = examples.split(train, options)
    notes.append(note)
  else:
    notes.append(
      f'the last {options.test_fraction:g} of each recording is held out'
    )
  schema = _schema(recordings.channels, train.inputs, test.inputs)
  if schema.mask:
    missing = np.isnan(train.inputs).mean()
    notes.append(f'{missing:.2%} of all values are missing')
  return DataSource(
    name=name,
    train=train,
    test=test,
    class_names=recordings.class_names,
    user_names=recordings.user_names,
    group_names=recordings.group_names,
    notes=tuple(notes),
    schema=schema,
    names_clients=recordings.users is not None,
  )


def _windows(series: np.ndarray, window: int, stride: int) -> list[np.ndarray]:
  """Windows of one recording; a short one is one window."""
  if not len(series):
    return []
  if len(series) <= window:
    rest = np.full((window - len(series), series.shape[1]), np.nan, np.float32)
    return [np.concatenate([series, rest])]
  starts = range(0, len(series) - window + 1, stride)
  return [series[start : start + window] for start in starts]


def _examples(
  part: Sequence[tuple[int, np.ndarray]], recordings: Recordings, window: int
) -> Examples:
  owners = np.array([number for number, _ in part], int)
  shape = (0, window, len(recordings.channels))
  inputs = np.stack([w for _, w in part]) if part else np.zeros(shape)
  return Examples(
    inputs.astype(np.float32),
    recordings.labels[owners].astype(np.int32),
    None if recordings.users is None else recordings.users[owners],
    None if recordings.groups is None else recordings.groups[owners],
  )


def _schema(
  channels: tuple[str, ...], train: np.ndarray, test: np.ndarray
) -> Schema:
  """Channels, and where values are missing."""
  missing = np.concatenate([np.isnan(train), np.isnan(test)])
  mask = ''
  if missing.any():
    by_step = (missing == missing[..., :1]).all()
    mask = 'step' if by_step else 'channel'
  return Schema(
    'series',
    tuple(
      Column(name, missing=bool(missing[..., channel].any()))
      for channel, name in enumerate(channels)
    ),
    mask,
  )


def _text(
  path: str | os.PathLike,
  found: tuple[str, np.ndarray] | None,
  size: int | None,
) -> tuple[str, ...] | None:
  """Names in an array, None if there is none."""
  if found is None:
    return None
  key, array = found
  names = npz.class_names(path, {'classes': array})
  assert names is not None
  if size is not None and len(names) != size:
    raise InputError(
      f'{path}: array {key!r}: expected {size} names, one for each channel, '
      f'got {len(names)}.'
    )
  return names
