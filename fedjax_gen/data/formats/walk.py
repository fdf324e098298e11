"""Where pictures lie: folder trees to lists of files with client and class."""

from collections.abc import Iterator
import os
import pathlib
from typing import NamedTuple

from fedjax_gen.errors import InputError

_TRAIN_FOLDERS = ('train', 'training')
_TEST_FOLDERS = ('test', 'testing', 'val', 'valid', 'validation')
_ANNOTATIONS = 'val_annotations.txt'  # Tiny ImageNet: file name, class, box
_BOXES = '_boxes.txt'  # of Tiny ImageNet too, one in each class folder
_JUNK = ('__MACOSX', 'Thumbs.db', 'desktop.ini')


class Entry(NamedTuple):
  """One file that may be a picture, and where its place in the tree puts it.

  Attributes:
    path: The file.
    owner: Client or group folder, '' where there is none.
    label: Class folder, '' where there is none.
  """

  path: pathlib.Path
  owner: str
  label: str


def splits(
  root: pathlib.Path, owner_kind: str | None
) -> tuple[list[list[Entry]], list[str]]:
  """Lists the files of train and test, or of the one tree there is.

  Args:
    root: The folder; its layouts are those of `folder.read`.
    owner_kind: None, 'users' or 'groups'.

  Returns:
    One or two lists of entries, in sorted order, and notes.

  Raises:
    InputError: A folder or the annotation file cannot be read.
  """
  folders, _ = _children(root)
  by_name = {folder.name.lower(): folder for folder in folders}
  train = next((by_name[n] for n in _TRAIN_FOLDERS if n in by_name), None)
  tests = [by_name[n] for n in _TEST_FOLDERS if n in by_name]
  if train is None or not tests:
    return [list(_entries(root, owner_kind))], []
  annotated = [f for f in tests if (f / _ANNOTATIONS).is_file()]
  test = (annotated or tests)[0]
  unused = [f.name for f in folders if f not in (train, test)]
  notes = []
  if unused:
    notes.append(
      f'{train.name} and {test.name} are the splits; not used: '
      f'{", ".join(map(printable, unused))}'
    )
  entries = list(_entries(train, owner_kind))
  if not annotated:
    return [entries, list(_entries(test, owner_kind))], notes
  entries = [e for e in entries if not e.path.name.endswith(_BOXES)]
  return [entries, list(_annotated(test))], notes


def printable(name: str) -> str:
  """Escapes what no terminal can show: bytes of a name that are no UTF-8."""
  return name.encode('utf-8', 'backslashreplace').decode()


def _entries(root: pathlib.Path, owner_kind: str | None) -> Iterator[Entry]:
  """Yields every file below `root` with the owner and class it lies under."""
  folders, files = _children(root)
  for file in files:
    yield Entry(file, '', '')
  for folder in folders:
    outer = printable(folder.name)
    if owner_kind is None:
      yield from (Entry(file, '', outer) for file in _files_below(folder))
      continue
    class_folders, loose = _children(folder)
    label = outer if owner_kind == 'groups' else ''
    yield from (Entry(file, outer, label) for file in loose)
    for class_folder in class_folders:
      inner = printable(class_folder.name)
      for file in _files_below(class_folder):
        yield Entry(file, outer, inner)


def _annotated(folder: pathlib.Path) -> Iterator[Entry]:
  """Yields the files that Tiny ImageNet's annotation file lists."""
  file = folder / _ANNOTATIONS
  try:
    lines = file.read_text('utf-8', 'replace').splitlines()
  except OSError as error:
    raise InputError(f'{file}: cannot be read: {error.strerror}.') from error
  for number, line in enumerate(lines, start=1):
    fields = line.split('\t')
    if len(fields) < 2:
      raise InputError(
        f'{file}: expected a file name, a tab and a class in line {number}, '
        f'got {line!r}.'
      )
    yield Entry(folder / 'images' / fields[0], '', fields[1])


def _files_below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields all files below `folder`; links to folders are not followed."""
  folders, files = _children(folder)
  yield from files
  for inner in folders:
    if not inner.is_symlink():  # a link may lead back up
      yield from _files_below(inner)


def _children(
  folder: pathlib.Path,
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
  """Lists folders and files, sorted, without hidden and system ones."""
  try:
    names = sorted(os.listdir(folder))
  except OSError as error:
    raise InputError(
      f'{folder}: cannot be listed: {error.strerror}.'
    ) from error
  children = [
    folder / name
    for name in names
    if not name.startswith('.') and name not in _JUNK
  ]
  folders = [c for c in children if c.is_dir() and not _leads_up(c)]
  files = [child for child in children if not child.is_dir()]
  return folders, files


def _leads_up(folder: pathlib.Path) -> bool:
  """Returns whether the folder is a link to one that it lies in."""
  return folder.is_symlink() and (
    folder.parent.resolve().is_relative_to(folder.resolve())
  )
