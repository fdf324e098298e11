"""Reads Tiny ImageNet from its original archive, unpacked.

The archive (http://cs231n.stanford.edu/tiny-imagenet-200.zip; Le and Yang,
"Tiny ImageNet visual recognition challenge", 2015) holds 64 x 64 JPEG files:
`train/WNID/images/*`, `val/images/*` with classes in `val/val_annotations.txt`,
and a `test` without labels. `wnids.txt` lists the 200 classes, `words.txt` has
the words for all that ImageNet has.
"""

from collections import Counter
from collections.abc import Sequence
import dataclasses
import os
import pathlib

import numpy as np

from fedjax_gen.data import examples
from fedjax_gen.data.examples import DataSource, Options
from fedjax_gen.data.formats import folder
from fedjax_gen.errors import InputError

_SIZE = 64
_FOLDERS = ('tiny-imagenet-200', 'tiny_imagenet')
_CLASSES = 'wnids.txt'
_WORDS = 'words.txt'
_PARTS = (_CLASSES, 'train', 'val/val_annotations.txt')


def is_folder(path: str | os.PathLike) -> bool:
  """Returns whether the folder has the files of the original archive."""
  return not _missing(pathlib.Path(path))


def find(options: Options) -> pathlib.Path:
  """Returns the unpacked archive in a data folder, or that folder itself.

  Raises:
    InputError: There is none, or what is named like it lacks a part of it.
  """
  for base in map(pathlib.Path, options.data_dirs):
    for place in (*(base / name for name in _FOLDERS), base):
      if is_folder(place):
        return place
      if place != base and place.is_dir():
        raise InputError(
          f'{place}: expected {", ".join(_PARTS)} of the original archive, '
          f'missing {", ".join(_missing(place))}.'
        )
  places = ' or '.join(options.data_dirs) or 'no folder'
  raise InputError(
    f'Expected the folder {_FOLDERS[0]}, as the original archive unpacks, in '
    f'data_dir or the folder that {examples.DATA_DIR_VARIABLE} names, looked '
    f'in {places}; TensorFlow Datasets does not have Tiny ImageNet.'
  )


def read(
  path: str | os.PathLike, options: Options, *, name: str | None = None
) -> DataSource:
  """Reads the unpacked archive; `val` is the test split.

  Images are RGB, 64 x 64 if no other size is asked for. Classes are those that
  have pictures, in the order of their WordNet ids, and named by their first
  word (with the id where two classes share it).
  """
  root = pathlib.Path(path)
  if options.image_size is None:
    options = dataclasses.replace(options, image_size=_SIZE)
  source = folder.read(root, options, name=name or str(path), channels=3)
  return dataclasses.replace(
    source,
    class_names=_class_names(root, source.class_names),
    notes=(*source.notes, *_gaps(root, source)),
  )


def _missing(root: pathlib.Path) -> list[str]:
  return [part for part in _PARTS if not (root / part).exists()]


def _class_names(root: pathlib.Path, wnids: Sequence[str]) -> tuple[str, ...]:
  """Returns a name for each WordNet id, the id where there is no word."""
  words = dict(
    line.split('\t', 1) for line in _lines(root / _WORDS) if '\t' in line
  )
  first = [words.get(wnid, wnid).split(',')[0].strip() for wnid in wnids]
  uses = Counter(first)
  return tuple(
    word if uses[word] == 1 else f'{word} ({wnid})'
    for word, wnid in zip(first, wnids, strict=True)
  )


def _gaps(root: pathlib.Path, source: DataSource) -> list[str]:
  """Says if there are not the classes that the archive lists: half unpacked."""
  listed = {line.strip() for line in _lines(root / _CLASSES)} - {''}
  trained = {source.class_names[c] for c in np.unique(source.train.labels)}
  notes = []
  if lacking := len(listed - trained):
    notes.append(
      f'{lacking} of the {len(listed)} classes in {_CLASSES} have no train '
      'picture'
    )
  if foreign := sorted(set(source.class_names) - listed):
    notes.append(
      f'{len(foreign)} classes are not in {_CLASSES}, the first is {foreign[0]}'
    )
  return notes


def _lines(file: pathlib.Path) -> list[str]:
  """Reads the lines of a text file, none if it is not there."""
  try:
    return file.read_text('utf-8', 'replace').splitlines()
  except FileNotFoundError:
    return []
  except OSError as error:
    raise InputError(f'{file}: cannot be read: {error.strerror}.') from error
