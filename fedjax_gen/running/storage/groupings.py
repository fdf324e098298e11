"""Discovered groups as a file, with what is needed to place a newcomer."""

import os
import zipfile
import zlib

import numpy as np

from fedjax_gen import files
from fedjax_gen.errors import InputError
from fedjax_gen.federated.statistics.grouping import Grouping


def save_grouping(path: str | os.PathLike, grouping: Grouping) -> None:
  """Writes a grouping as an npz file, whole or not at all."""
  files.write_arrays(path, grouping._asdict())


def load_grouping(path: str | os.PathLike) -> Grouping:
  """Reads what `save_grouping` wrote.

  Raises:
    InputError: the file cannot be read as a grouping.
  """
  try:
    with np.load(path) as arrays:
      return Grouping(**{name: arrays[name] for name in Grouping._fields})
  except (
    OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile,
    zlib.error,
  ) as error:  # fmt: skip
    raise InputError(
      f'Expected {os.fspath(path)} to hold a grouping; it cannot be read: '
      f'{error}'
    ) from error
