"""Reads npz files of images or features, never with pickle."""

from collections.abc import Iterator, Sequence
import contextlib
import os
import zipfile

import numpy as np

from fedjax_gen.data.assemble import Column, Table, assemble
from fedjax_gen.data.examples import DataSource, Options
from fedjax_gen.errors import InputError

# Names that a column may have, for data with and without a test split of its
# own; `{}` stands for train or test. The first one present is taken. The
# *_images form is MedMNIST's, the x_* form Keras's.
_SPLIT_NAMES = {
  'inputs': ('x_{}', '{}_images'),
  'labels': ('y_{}', '{}_labels'),
  'users': ('users_{}', 'client_ids_{}'),
  'groups': ('groups_{}', 'domain_{}', 'groups', 'domain'),
}
_POOLED_NAMES = {
  'inputs': ('inputs', 'images', 'features', 'embeddings', 'x'),
  'labels': ('labels', 'y'),
  'users': ('users', 'client_ids'),
  'groups': ('groups', 'domain'),
}
KNOWN = {'classes'}.union(
  form.format(split)
  for table in (_SPLIT_NAMES, _POOLED_NAMES)
  for forms in table.values()
  for form in forms
  for split in ('train', 'test')
)
"""All names of arrays that mean something."""
_LAYOUTS = (
  'x_train, y_train, x_test, y_test; train_images, train_labels, '
  'test_images, test_labels; or one of inputs, images, features, embeddings, '
  'x with labels or y'
)


def read(
  path: str | os.PathLike, options: Options, *, name: str | None = None
) -> DataSource:
  """Reads one npz file.

  Layouts: `x_train, y_train, x_test, y_test` (Keras); `train_images,
  train_labels, test_images, test_labels` (MedMNIST); or one array named
  `inputs`, `images`, `features`, `embeddings` or `x` with `labels` or `y`, from
  which a test split is made. Optional in each: `users` or `client_ids`
  (`users_train`, `users_test` with a split), `groups` or `domain` likewise,
  `classes` with the class names. A validation split is left out, and noted.

  Raises:
    InputError: The file is no npz file or is corrupt; none of the layouts; an
      array holds Python objects, NaN, or values out of range; lengths or
      shapes differ. The message names the array.
  """
  names = array_names(path)
  # Only what is asked for: files often carry other arrays, pickled ones too.
  arrays = load_arrays(path, [name for name in names if name in KNOWN])
  return source(path, arrays, options, name=name, others=names)


def source(
  path: str | os.PathLike,
  arrays: dict[str, np.ndarray],
  options: Options,
  *,
  name: str | None = None,
  others: Sequence[str] = (),
) -> DataSource:
  """Puts a source together from arrays by name; see `read`.

  Args:
    path: Where they come from, for messages.
    arrays: Those of `KNOWN` names.
    options: Size and split wishes.
    name: Name of the source, the path if None.
    others: Names of all that was there, read or not.
  """
  names = list(others or arrays)
  split_tables = [
    _table(path, arrays, _SPLIT_NAMES, split) for split in ('train', 'test')
  ]
  tables = [table for table in split_tables if table]
  if split_tables[0] is None:
    tables = [t for t in [_table(path, arrays, _POOLED_NAMES)] if t]
  if not tables:
    raise InputError(
      f'{path}: expected arrays named {_LAYOUTS}; got '
      f'{", ".join(names) or "an empty file"}.'
    )
  notes = []
  unused = [name for name in names if 'val' in name.split('_')]
  if unused:
    notes.append(f'validation split not used: {", ".join(unused)}')
  return assemble(
    name or str(path),
    tables,
    options,
    class_names=class_names(path, arrays),
    notes=notes,
  )


def array_names(path: str | os.PathLike) -> list[str]:
  """Lists the arrays of an npz file without reading them.

  Raises:
    InputError: The file is missing, foreign or corrupt.
  """
  with _opened(path) as file:
    return list(file.files)


def load_arrays(
  path: str | os.PathLike, names: Sequence[str]
) -> dict[str, np.ndarray]:
  """Reads arrays of an npz file; names that it lacks are left out.

  Raises:
    InputError: The file is missing, foreign or corrupt; an array of `names`
      needs pickle.
  """
  arrays = {}
  with _opened(path) as file:
    for name in names:
      if name in file.files:
        try:
          arrays[name] = file[name]
        except Exception as error:  # as in _opened
          raise _unreadable(path, f'array {name!r}', error) from error
  return arrays


def class_names(
  path: str | os.PathLike, arrays: dict[str, np.ndarray]
) -> tuple[str, ...] | None:
  """The names in the array `classes`, None if there is no such array."""
  if 'classes' not in arrays:
    return None
  names = arrays['classes']
  if names.ndim != 1 or not len(names):
    raise InputError(
      f"{path}: array 'classes': expected a list of names, got shape "
      f'{list(names.shape)}.'
    )
  if names.dtype.kind == 'S':
    names = np.char.decode(names, 'utf-8', 'replace')
  return tuple(str(name) for name in names)


def _table(
  path: str | os.PathLike,
  arrays: dict[str, np.ndarray],
  names: dict[str, tuple[str, ...]],
  split: str = '',
) -> Table | None:
  """Picks the columns of one split by their names; None without inputs."""
  picked = {}
  for kind, forms in names.items():
    present = [form.format(split) for form in forms]
    key = next((key for key in present if key in arrays), None)
    if key is not None:
      picked[kind] = Column(arrays[key], f'{path}: array {key!r}')
  return Table(**picked) if 'inputs' in picked else None


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[np.lib.npyio.NpzFile]:
  """Opens an npz file; any fault is an `InputError`."""
  try:
    with open(path, 'rb') as raw:
      # NumPy takes a file that is no zip file for a pickle, and says so.
      if not zipfile.is_zipfile(raw):
        raise InputError(
          f'{path}: expected an npz file, got another kind of file; of idx '
          'files and pictures, give the folder.'
        )
      raw.seek(0)
      with np.load(raw, allow_pickle=False) as file:
        yield file
  except InputError:
    raise
  # NumPy and zipfile raise many types on broken bytes, from SyntaxError for a
  # bad header to MemoryError for an absurd shape.
  except Exception as error:
    raise _unreadable(path, 'file', error) from error


def _unreadable(
  path: str | os.PathLike, what: str, error: Exception
) -> InputError:
  """Says what could not be read, and why."""
  if 'allow_pickle' in str(error):
    reason = 'it holds Python objects, which need pickle'
  else:
    reason = getattr(error, 'strerror', None) or str(error)
  return InputError(
    f'{path}: {what} cannot be read as npz: {reason or type(error).__name__}.'
  )
