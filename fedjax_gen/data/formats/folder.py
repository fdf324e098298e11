"""Reads folders of picture files, messy ones too."""

from collections.abc import Sequence
import os
import pathlib
from typing import NamedTuple

import numpy as np

from fedjax_gen.data import images
from fedjax_gen.data.assemble import Column, Table, assemble
from fedjax_gen.data.examples import DataSource, Options
from fedjax_gen.data.formats import walk
from fedjax_gen.data.tables import columns
from fedjax_gen.errors import InputError

_KINDS = {'users': 'clients', 'groups': 'groups'}
_MAX_NAMED = 4  # skipped files that a note names before it only counts


class _Picture(NamedTuple):
  """A file with the header of a picture."""

  entry: walk.Entry
  size: tuple[int, int]
  channels: int


def read(
  path: str | os.PathLike,
  options: Options,
  *,
  owner_kind: str | None = None,
  name: str | None = None,
  channels: int | None = None,
) -> DataSource:
  """Reads a folder of pictures.

  The tree is `CLASS/*`, or with `owner_kind` `OWNER/*` or `OWNER/CLASS/*`;
  any of them may stand under `train` and `test` (or `val`), else a test split
  is made. Pictures in folders below CLASS count for it. A tree like Tiny
  ImageNet's (`val/val_annotations.txt`) is understood; its unlabelled `test` is
  not used.

  Classes of one name are one class, whatever client or group they lie in.
  Pictures right in a group's folder are of a class named like the group;
  pictures right in a client's folder have no class.

  Files that are no pictures, are broken or lie outside these folders are
  skipped and noted. The others come in sorted order, brought to one size and,
  if any has colour or `channels` is 3, to RGB.

  Args:
    path: The root.
    options: Size and split wishes.
    owner_kind: What first-level folders are: None for classes, 'users' for
      clients, 'groups' for kinds of images.
    name: Name of the source, the path if None.
    channels: 1 for grey, 3 for RGB; None for RGB if any picture has colour.

  Raises:
    InputError: The folder cannot be read or holds no picture; some clients
      have class folders and others have not; there are pictures but no folders
      of clients or groups.
  """
  root = pathlib.Path(path)
  trees, notes = walk.splits(root, owner_kind)
  skipped: dict[pathlib.Path, str] = {}
  found = _at_home([_probe(entries, skipped) for entries in trees], skipped)
  pictures = [picture for split in found for picture in split]
  if not all(found):
    raise _no_pictures(root, trees, found, skipped)
  if owner_kind and not any(picture.entry.owner for picture in pictures):
    raise InputError(
      f'{root}: expected a folder for each of the {_KINDS[owner_kind]}, with '
      f'pictures in it, got {_relative(pictures[0].entry.path, root)} and no '
      'pictures in folders.'
    )
  size, size_note = images.common_size(
    [picture.size for picture in pictures], options.image_size
  )
  depths = {picture.channels for picture in pictures}
  channels = channels or max(depths)
  if len(depths) > 1 and channels == 3:
    notes.append('grey images among RGB ones: all brought to RGB')
  decoded = [_decode(split, size, channels, skipped) for split in found]
  if not all(len(entries) for entries, _ in decoded):
    raise _no_pictures(root, trees, [e for e, _ in decoded], skipped)
  notes += [size_note] if size_note else []
  notes += _skip_notes(root, skipped)
  notes += _left_out_notes(trees, [entries for entries, _ in decoded])
  return _to_source(root, decoded, options, owner_kind, name, notes)


def _probe(
  entries: Sequence[walk.Entry], skipped: dict[pathlib.Path, str]
) -> list[_Picture]:
  """Reads the headers, so that sizes are known before any array is made."""
  pictures = []
  for entry in entries:
    try:
      pictures.append(_Picture(entry, *images.probe(entry.path)))
    except images.BadImage as error:
      skipped[entry.path] = str(error)
  return pictures


def _at_home(
  splits: list[list[_Picture]], skipped: dict[pathlib.Path, str]
) -> list[list[_Picture]]:
  """Drops pictures in no folder, unless none is in one."""
  if not any(p.entry.owner or p.entry.label for s in splits for p in s):
    return splits
  kept = []
  for split in splits:
    kept.append([p for p in split if p.entry.owner or p.entry.label])
    for picture in split:
      if not (picture.entry.owner or picture.entry.label):
        skipped[picture.entry.path] = 'in none of the folders'
  return kept


def _decode(
  pictures: Sequence[_Picture],
  size: tuple[int, int],
  channels: int,
  skipped: dict[pathlib.Path, str],
) -> tuple[list[walk.Entry], np.ndarray]:
  """Decodes into one `[n, H, W, C]` array, leaving out what is broken."""
  width, height = size
  array = np.empty((len(pictures), height, width, channels), np.uint8)
  entries: list[walk.Entry] = []
  for picture in pictures:
    try:
      image = images.open_image(picture.entry.path)
    except images.BadImage as error:
      skipped[picture.entry.path] = str(error)
      continue
    array[len(entries)] = images.to_array(image, size, channels)
    entries.append(picture.entry)
  return entries, array[: len(entries)]


def _to_source(
  root: pathlib.Path,
  splits: Sequence[tuple[list[walk.Entry], np.ndarray]],
  options: Options,
  owner_kind: str | None,
  name: str | None,
  notes: list[str],
) -> DataSource:
  """Numbers the folder names and assembles the source."""
  what = str(root)
  labels, class_names = columns.ids(
    [np.array([e.label for e in entries]) for entries, _ in splits]
  )
  if '' in class_names and len(class_names) > 1:
    entry = next(e for entries, _ in splits for e in entries if not e.label)
    raise InputError(
      f'{root}: expected class folders in every client folder or in none, '
      f'got {_relative(entry.path, root)} next to class folders.'
    )
  tables = []
  for (entries, inputs), numbers in zip(splits, labels, strict=True):
    optional = {}
    if class_names != ('',):
      optional['labels'] = Column(numbers, what)
    if owner_kind:
      owners = np.array([entry.owner for entry in entries])
      optional[owner_kind] = Column(owners, what)
    tables.append(Table(Column(inputs, what), **optional))
  return assemble(
    name or what, tables, options, class_names=class_names, notes=notes
  )


def _no_pictures(
  root: pathlib.Path,
  trees: Sequence[Sequence[walk.Entry]],
  found: Sequence[Sequence],
  skipped: dict[pathlib.Path, str],
) -> InputError:
  """Says in which split there was nothing to read, and what there was."""
  split = ''
  if len(trees) == 2:
    split = ' train' if not len(found[0]) else ' test'
  reasons = '; '.join(_skip_notes(root, skipped)) or 'it has no files'
  return InputError(
    f'{root}: expected{split} pictures (PNG, JPEG, ...) in folders, got none: '
    f'{reasons}.'
  )


def _skip_notes(
  root: pathlib.Path, skipped: dict[pathlib.Path, str]
) -> list[str]:
  """Names the first few skipped files and counts the rest."""
  if not skipped:
    return []
  named = [
    f'{_relative(path, root)} ({reason})'
    for path, reason in list(skipped.items())[:_MAX_NAMED]
  ]
  more = len(skipped) - len(named)
  end = f' and {more} more' if more else ''
  files = '1 file' if len(skipped) == 1 else f'{len(skipped)} files'
  return [f'{files} skipped: {", ".join(named)}{end}']


def _left_out_notes(
  trees: Sequence[Sequence[walk.Entry]], kept: Sequence[Sequence[walk.Entry]]
) -> list[str]:
  """Names the clients, groups and classes without a single picture."""
  notes = []
  for what in ('owner', 'label'):
    names, left = (
      {getattr(entry, what) for entries in splits for entry in entries}
      for splits in (trees, kept)
    )
    if lost := sorted(names - left - {''}):
      notes.append(f'folders without any picture left out: {", ".join(lost)}')
  return notes


def _relative(path: pathlib.Path, root: pathlib.Path) -> str:
  """Returns the path below the root, fit for printing."""
  return walk.printable(str(path.relative_to(root)))
