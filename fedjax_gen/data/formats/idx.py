"""Reads the idx files of MNIST and its relatives, gzipped or plain.

Format (http://yann.lecun.com/exdb/mnist, "the IDX file format"): two zero
bytes, a type code, the number of dimensions, one big-endian uint32 per
dimension, then the values. Images are `[n, H, W]` and labels `[n]`, both bytes.
"""

import gzip
import math
import os
import pathlib
import re
import zlib

import numpy as np

from fedjax_gen.data.assemble import Column, Table, assemble
from fedjax_gen.data.examples import DataSource, Options
from fedjax_gen.errors import InputError

_UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b'\x1f\x8b'
# train-images-idx3-ubyte.gz, t10k-labels.idx1-ubyte, emnist-letters-test-...
_FILE_NAME = re.compile(
  r'(?P<prefix>.*?)(?P<split>train|t10k|test)-(?P<kind>images|labels)'
  r'[-.]idx[13]-ubyte(\.gz)?$'
)


def is_idx_folder(path: str | os.PathLike) -> bool:
  """Returns whether the folder holds at least one file named like idx."""
  return os.path.isdir(path) and any(map(_FILE_NAME.match, os.listdir(path)))


def read(
  path: str | os.PathLike,
  options: Options,
  *,
  name: str | None = None,
  prefix: str | None = None,
  class_names: tuple[str, ...] | None = None,
) -> DataSource:
  """Reads a folder of idx files.

  Without test files a test split is made. EMNIST's files hold every image
  transposed; files with a prefix that begins with `emnist` are turned upright.

  Args:
    path: The folder.
    options: Size and split wishes.
    name: Name of the source, the path if None.
    prefix: What file names begin with, `emnist-balanced-` for instance; None
      accepts any one prefix.
    class_names: Names in label order, the label values if None.

  Raises:
    InputError: A file is missing, corrupt or of another type; images and
      labels differ in number; the folder holds several data sets.
  """
  folder = pathlib.Path(path)
  files = _find(folder, prefix)
  if not any(split == 'train' for split, _ in files):
    raise InputError(
      f'{folder}: expected train-images and train-labels files, got none.'
    )
  return assemble(
    name or str(path),
    [
      _read_split(folder, files, split)
      for split in sorted({split for split, _ in files}, reverse=True)
    ],
    options,
    class_names=class_names,
    notes=[f'read from {path}'],
  )


def read_array(path: str | os.PathLike, rank: int) -> np.ndarray:
  """Reads one idx file of unsigned bytes.

  Args:
    path: The file, gzipped or plain, whatever its name says.
    rank: Dimensions to expect: 3 for images, 1 for labels.

  Returns:
    The uint8 array.

  Raises:
    InputError: The file cannot be read, is no idx file of unsigned bytes with
      `rank` dimensions, or holds fewer or more bytes than its header says.
  """
  header_size = 4 + 4 * rank
  try:
    with open(path, 'rb') as raw:
      packed = raw.read(2) == _GZIP_MAGIC
    with gzip.open(path) if packed else open(path, 'rb') as file:
      header = file.read(header_size)
      expected = bytes((0, 0, _UNSIGNED_BYTE, rank))
      if header[:4] != expected:
        raise InputError(
          f'{path}: expected an idx file of unsigned bytes with {rank} '
          f'dimension(s), which begins with {expected.hex()}, got '
          f'{header[:4].hex() or "an empty file"}.'
        )
      if len(header) < header_size:
        raise InputError(
          f'{path}: expected a header of {header_size} bytes, got '
          f'{len(header)}.'
        )
      shape = [int(extent) for extent in np.frombuffer(header[4:], '>u4')]
      body = file.read()
  except (OSError, EOFError, zlib.error) as error:
    raise InputError(f'{path}: cannot be read as idx file: {error}.') from error
  if len(body) != math.prod(shape):
    raise InputError(
      f'{path}: expected {math.prod(shape)} bytes for shape {shape}, got '
      f'{len(body)}.'
    )
  return np.frombuffer(body, np.uint8).reshape(shape)


def _find(
  path: pathlib.Path, prefix: str | None
) -> dict[tuple[str, str], pathlib.Path]:
  """Finds `{(split, kind): file}` for one data set in the folder."""
  found: dict[tuple[str, str], pathlib.Path] = {}
  prefixes = set()
  try:
    names = sorted(os.listdir(path))
  except OSError as error:
    raise InputError(f'{path}: cannot be listed: {error.strerror}.') from error
  for name in names:  # sorted: 'x' comes before, and wins over, 'x.gz'
    match = _FILE_NAME.match(name)
    if match and prefix in (None, match['prefix']):
      split = 'train' if match['split'] == 'train' else 'test'
      found.setdefault((split, match['kind']), path / name)
      prefixes.add(match['prefix'])
  if len(prefixes) > 1:
    raise InputError(
      f'{path}: expected the idx files of one data set, got several, named '
      f'{", ".join(f"{p}*" for p in sorted(prefixes))}; give each its folder.'
    )
  return found


def _read_split(
  folder: pathlib.Path, files: dict[tuple[str, str], pathlib.Path], split: str
) -> Table:
  """Reads the images and labels of one split and checks that they agree."""
  for kind in ('images', 'labels'):
    if (split, kind) not in files:
      raise InputError(
        f'{folder}: expected a file of {split} {kind}, got none.'
      )
  image_file, label_file = files[split, 'images'], files[split, 'labels']
  images = read_array(image_file, rank=3)
  labels = read_array(label_file, rank=1)
  if len(images) != len(labels):
    raise InputError(
      f'{label_file}: expected one label for each of the {len(images)} images '
      f'of {image_file.name}, got {len(labels)}.'
    )
  if image_file.name.startswith('emnist'):
    images = images.swapaxes(1, 2)
  return Table(Column(images, str(image_file)), Column(labels, str(label_file)))
