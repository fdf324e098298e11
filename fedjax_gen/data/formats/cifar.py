"""Reads CIFAR-10 and CIFAR-100 from their original archives, unpacked.

Formats (https://www.cs.toronto.edu/~kriz/cifar.html): an image is 3,072 bytes,
32 x 32 red, then green, then blue. In the binary version a row begins with the
label; for CIFAR-100 with the coarse label and then the fine one, which is used.
The Python version is pickles of such rows; `safe_pickle` reads them and runs
nothing that is in them.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from fedjax_gen.data.assemble import Column, Table, assemble
from fedjax_gen.data.examples import DataSource, Options
from fedjax_gen.data.formats import safe_pickle
from fedjax_gen.errors import InputError

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


class _Archive(NamedTuple):
  """One version of one set.

  Attributes:
    folder: What the archive unpacks to.
    train: Files of the train split, in order.
    test: File of the test split.
    meta: File with the class names.
    keys: Where the Python version has labels and class names; None for the
      binary version.
    label_bytes: Bytes in front of an image in the binary version; the last
      one is the label.
  """

  folder: str
  train: tuple[str, ...]
  test: str
  meta: str
  keys: tuple[str, str] | None = None
  label_bytes: int = 0


_BATCHES = tuple(f'data_batch_{number}' for number in range(1, 6))
# The binary versions first: they need no pickle.
_ARCHIVES = {
  'cifar10': (
    _Archive(
      'cifar-10-batches-bin',
      tuple(f'{batch}.bin' for batch in _BATCHES),
      'test_batch.bin',
      'batches.meta.txt',
      label_bytes=1,
    ),
    _Archive(
      'cifar-10-batches-py',
      _BATCHES,
      'test_batch',
      'batches.meta',
      keys=('labels', 'label_names'),
    ),
  ),
  'cifar100': (
    _Archive(
      'cifar-100-binary',
      ('train.bin',),
      'test.bin',
      'fine_label_names.txt',
      label_bytes=2,
    ),
    _Archive(
      'cifar-100-python',
      ('train',),
      'test',
      'meta',
      keys=('fine_labels', 'fine_label_names'),
    ),
  ),
}


def find(name: str, options: Options) -> pathlib.Path | None:
  """Returns the unpacked archive of `name` in a data folder, or None.

  A data folder may also be that archive itself.

  Args:
    name: 'cifar10' or 'cifar100'.
    options: The data folders.
  """
  for base in map(pathlib.Path, options.data_dirs):
    for archive in _ARCHIVES[name]:
      for place in (base / archive.folder, base):
        if _is(archive, place):
          return place
  return None


def is_folder(path: str) -> bool:
  """Returns whether the folder is an unpacked archive of either set."""
  return _known(pathlib.Path(path)) is not None


def read(path: str, options: Options, *, name: str | None = None) -> DataSource:
  """Reads one folder that an archive unpacks to.

  Args:
    path: The folder; its files tell which of the four it is.
    options: Size and split wishes.
    name: Name of the source, the path if None.

  Raises:
    InputError: A file is missing or broken, or is a pickle that asks for more
      than arrays.
  """
  folder = pathlib.Path(path)
  archive = _known(folder)
  if archive is None:
    raise InputError(
      f'{folder}: expected the files of {" or ".join(_folders())}, such as '
      'test_batch.bin and batches.meta.txt.'
    )
  for file in (*archive.train, archive.test, archive.meta):
    if not (folder / file).is_file():
      raise InputError(f'{folder}: expected the file {file}, got none.')
  read_some = _read_binary if archive.keys is None else _read_pickles
  return assemble(
    name or str(path),
    [
      read_some(folder, files, archive)
      for files in (archive.train, (archive.test,))
    ],
    options,
    class_names=_class_names(folder / archive.meta, archive),
    notes=[f'read from {path}'],
  )


def _folders() -> list[str]:
  return [a.folder for archives in _ARCHIVES.values() for a in archives]


def _known(folder: pathlib.Path) -> _Archive | None:
  """Finds the archive that the folder comes from."""
  known = (a for archives in _ARCHIVES.values() for a in archives)
  return next((archive for archive in known if _is(archive, folder)), None)


def _is(archive: _Archive, folder: pathlib.Path) -> bool:
  """Returns whether the folder has the archive's name or its files.

  Names as plain as `train` and `test` are those of other folders too, in which
  they are folders.
  """
  if folder.name == archive.folder and folder.is_dir():
    return True
  return all((folder / f).is_file() for f in (archive.test, archive.meta))


def _read_binary(
  folder: pathlib.Path, files: tuple[str, ...], archive: _Archive
) -> Table:
  """Reads rows of label and image."""
  width = archive.label_bytes + _PIXELS
  parts = []
  for file in files:
    path = folder / file
    try:
      data = np.fromfile(path, np.uint8)
    except OSError as error:
      raise InputError(f'{path}: cannot be read: {error.strerror}.') from error
    if not data.size or data.size % width:
      raise InputError(
        f'{path}: expected rows of {width} bytes, got {data.size} bytes.'
      )
    parts.append(data.reshape(-1, width))
  rows = np.concatenate(parts)
  return _table(
    rows[:, archive.label_bytes :],
    rows[:, archive.label_bytes - 1],
    f'{folder}: {", ".join(files)}',
  )


def _read_pickles(
  folder: pathlib.Path, files: tuple[str, ...], archive: _Archive
) -> Table:
  """Reads pickled dictionaries with `data` and a list of labels."""
  assert archive.keys is not None
  pixels, labels = [], []
  for file in files:
    path = folder / file
    found = _unpickled(path, ('data', archive.keys[0]), archive)
    data = safe_pickle.byte_array(found['data'], f'{path}: data')
    numbers = safe_pickle.whole_numbers(
      found[archive.keys[0]], f'{path}: {archive.keys[0]}'
    )
    if data.shape != (len(numbers), _PIXELS):
      raise InputError(
        f'{path}: expected {_PIXELS} bytes for each of {len(numbers)} labels, '
        f'[{len(numbers)}, {_PIXELS}], got shape {list(data.shape)}.'
      )
    pixels.append(data)
    labels.append(numbers)
  return _table(
    np.concatenate(pixels),
    np.concatenate(labels),
    f'{folder}: {", ".join(files)}',
  )


def _table(pixels: np.ndarray, labels: np.ndarray, what: str) -> Table:
  """Brings rows of red, green and blue to images `[n, 32, 32, 3]`."""
  images = np.moveaxis(pixels.reshape(-1, *_SHAPE), 1, -1)
  return Table(Column(images, what), Column(labels, what))


def _class_names(path: pathlib.Path, archive: _Archive) -> tuple[str, ...]:
  """Reads the names in label order."""
  if archive.keys is None:
    try:
      lines = path.read_text('utf-8', 'replace').splitlines()
    except OSError as error:
      raise InputError(f'{path}: cannot be read: {error.strerror}.') from error
    return tuple(line.strip() for line in lines if line.strip())
  names = _unpickled(path, archive.keys[1:], archive)[archive.keys[1]]
  what = f'{path}: {archive.keys[1]}'
  if not isinstance(names, list):
    raise InputError(f'{what}: expected a list of names.')
  return tuple(safe_pickle.text(class_name, what) for class_name in names)


def _unpickled(
  path: pathlib.Path, keys: tuple[str, ...], archive: _Archive
) -> dict:
  """Reads a pickled dictionary that has `keys`; names the way round it."""
  try:
    found = safe_pickle.load(path)
  except InputError as error:
    binary = next(
      archives[0].folder
      for archives in _ARCHIVES.values()
      if archive in archives
    )
    raise InputError(
      f'{error} The binary version ({binary}) needs no pickle.'
    ) from error
  for key in keys:
    if key not in found:
      raise InputError(
        f'{path}: expected {key!r} in it, got {", ".join(map(repr, found))}.'
      )
  return found
