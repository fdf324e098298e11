"""Files that are never half written, and JSON that is never half valid."""

from collections.abc import Iterator, Mapping
import contextlib
import errno
import json
import math
import os
import pathlib
import shutil
from typing import Any

from fedjax_gen import files
from fedjax_gen.running.stopping import DivergedError


class DiskFullError(Exception):
  """The disk is full; the message names what could not be written."""


@contextlib.contextmanager
def full_disk_named(path: object) -> Iterator[None]:
  """Turns a "no space left" error of the block into one that names `path`.

  Raises:
    DiskFullError: the disk, or the user's quota on it, is full.
  """
  try:
    yield
  except Exception as error:
    # TensorStore reports a full disk as a ValueError, in words only.
    is_full = getattr(error, 'errno', None) in (errno.ENOSPC, errno.EDQUOT)
    if is_full or os.strerror(errno.ENOSPC) in str(error):
      raise _disk_full(path) from error
    raise


def check_room(path: str | os.PathLike, num_bytes: int) -> None:
  """Raises `DiskFullError` unless the disk has room for a new file.

  For writers that fail badly half way; `full_disk_named` is for all others.
  """
  if shutil.disk_usage(pathlib.Path(path).parent).free < num_bytes:
    raise _disk_full(path)


def write_atomically(path: str | os.PathLike, text: str) -> None:
  """Replaces the file at `path` by `text`, wholly or not at all.

  Raises:
    DiskFullError: the disk is full; the old file, if any, is as it was.
  """
  with full_disk_named(path), files.replacing(path) as unfinished:
    unfinished.write_text(text, encoding='utf-8')


def read_json(path: str | os.PathLike) -> dict[str, Any] | None:
  """Returns the JSON object in a file, or None if there is none."""
  try:
    value = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
  except (FileNotFoundError, ValueError):
    return None
  return value if isinstance(value, dict) else None


def to_json(value: Any, indent: int | None = None) -> str:
  """Returns `value` as JSON; NumPy and JAX numbers and arrays are welcome.

  Raises:
    DivergedError: a number is NaN or infinite, which JSON has no word for.

  Example:
    >>> to_json({'federated': {'test_elbo': -101.5}})
    '{"federated": {"test_elbo": -101.5}}'
    >>> to_json({'federated': {'test_elbo': float('nan')}})
    Traceback (most recent call last):
    ...
    fedjax_gen.running.stopping.DivergedError: federated.test_elbo is nan, \
not a finite number.
  """
  value = json.loads(json.dumps(value, default=_plain))
  for name, number in _floats(value):
    if not math.isfinite(number):
      raise DivergedError(f'{name} is {number}, not a finite number.')
  return json.dumps(value, allow_nan=False, indent=indent)


def _disk_full(path: object) -> DiskFullError:
  return DiskFullError(
    f'No space left on the disk while writing {path}. What was saved '
    'before is intact: free some space and run the same command again.'
  )


def _plain(value: Any) -> Any:
  if hasattr(value, 'tolist'):
    return value.tolist()
  raise TypeError(f'Expected a JSON value, got {value!r}.')


def _floats(value: Any, *names: str) -> Iterator[tuple[str, float]]:
  if isinstance(value, Mapping):
    for name, item in value.items():
      yield from _floats(item, *names, name)
  elif isinstance(value, list):
    for item in value:
      yield from _floats(item, *names)
  elif isinstance(value, float):
    yield '.'.join(names), value
