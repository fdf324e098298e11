"""Files that are either whole or not there."""

from collections.abc import Iterator, Mapping
import contextlib
import csv
import os
from pathlib import Path
import secrets
from typing import Any

import numpy as np


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
  """Gives a temporary path that takes the place of `path` on success.

  A reader never sees half a file, and a failure (or a kill) leaves the former
  file as it was. Missing parent folders are made.

  Args:
    path: the file to write. The temporary one lies next to it, because only
      within one file system a rename is atomic, and has the same suffix,
      because some writers choose the format by it.

  Yields:
    the path to write to; nothing is there yet.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   with replacing(Path(folder, 'new', 'a.txt')) as temporary:
    ...     _ = temporary.write_text('all of it')
    ...   Path(folder, 'new', 'a.txt').read_text()
    'all of it'
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  token = secrets.token_hex(4)
  temporary = path.with_name(f'.{path.stem}-{token}{path.suffix}')
  try:
    yield temporary
    with temporary.open('rb') as file:
      # Else a power cut could leave the new name with old or no contents.
      os.fsync(file.fileno())
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def write_arrays(path: str | os.PathLike, arrays: Mapping[str, Any]) -> None:
  """Writes named arrays as a compressed npz file, whatever the path ends in."""
  # An open file, for NumPy would append its ending to a path without it.
  with replacing(path) as unfinished, unfinished.open('wb') as file:
    np.savez_compressed(file, **arrays)


def write_columns(
  path: str | os.PathLike, columns: Mapping[str, np.ndarray]
) -> None:
  """Writes columns of one length as a csv file; NaN is an empty cell."""
  with (
    replacing(path) as unfinished,
    unfinished.open('w', encoding='utf-8', newline='') as file,
  ):
    writer = csv.writer(file)
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
      # A float that is not itself is NaN.
      writer.writerow(['' if value != value else value for value in row])
