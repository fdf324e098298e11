"""Reads pickles without running what is in them.

A pickle is a program that may call any function: `pickle.load` on a foreign
file runs foreign code. Here a pickle may name only what describes a NumPy
array, and even that is not called: records take its place, and the array is
made from them after type, shape and length were checked. Everything else must
be text, bytes, numbers, None, lists, tuples, sets or dictionaries.

`torch_file` reads pickles of tensors in the same way, with its own records.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import io
import math
import operator
import os
import pickle
from typing import IO, Any

import numpy as np

from fedjax_gen.errors import InputError


def load(path: str | os.PathLike) -> dict[str, Any]:
  """Reads one pickled dictionary, of Python 2 or 3.

  Returns:
    The values by name. Strings of Python 2 come as bytes; arrays come as
    records, which `byte_array` makes arrays.

  Raises:
    InputError: The file cannot be read, is no pickle of a dictionary with
      names for keys, or asks for anything except arrays of NumPy.
  """
  expected = 'a pickle of arrays, lists and text'
  with reading(path, expected), open(path, 'rb') as file:
    value = unpickled(io.BytesIO(file.read()), _STAND_INS)
  if not isinstance(value, dict):
    raise InputError(
      f'{path}: expected a pickled dictionary, got {type(value).__name__}.'
    )
  return {text(key, f'{path}: a key'): item for key, item in value.items()}


@contextlib.contextmanager
def reading(path: str | os.PathLike, expected: str) -> Iterator[None]:
  """Turns all that goes wrong with a file of pickles into an `InputError`.

  Args:
    path: The file, for messages.
    expected: What it should be, for the message on a pickle that asks for more
      than its stand-ins.

  Raises:
    InputError: The file cannot be read, or is broken, or was refused.
  """
  try:
    yield
  except InputError:
    raise
  except OSError as error:
    raise InputError(f'{path}: cannot be read: {error.strerror}.') from error
  except _Refused as error:
    raise InputError(
      f'{path}: expected {expected}, got one that asks for {error}, which may '
      'run code; it was not run.'
    ) from error
  # Broken pickles raise nearly anything, from EOFError to MemoryError.
  except Exception as error:
    raise InputError(
      f'{path}: cannot be read as a pickle: {type(error).__name__}: {error}.'
    ) from error


def unpickled(
  file: IO[bytes],
  stand_ins: Mapping[tuple[str, str], Any],
  persistent: Callable[[Any], Any] | None = None,
) -> Any:
  """Reads one pickle, to its end and no further; to be called in `reading`.

  Args:
    file: Open where the pickle begins.
    stand_ins: By module and name what a pickle may ask for, and what it gets.
      It calls what it gets with arguments of its own choice, and sets states.
    persistent: Makes an object of what stands for one that lies outside of the
      pickle; None refuses such pickles.
  """
  return _Unpickler(file, stand_ins, persistent).load()


def byte_array(value: Any, what: str) -> np.ndarray:
  """Makes the array that a record of `load` describes.

  Returns:
    The uint8 array, which cannot be written to.

  Raises:
    InputError: No record, of another type than uint8, or with fewer or more
      bytes than its shape needs.
  """
  if not isinstance(value, _Array):
    raise InputError(f'{what}: expected an array, got {_kind(value)}.')
  try:
    _, shape, dtype, is_fortran, data = value.state
    kind = text(dtype.args[0], what)
    shape = [operator.index(extent) for extent in shape]
    found = len(data) if isinstance(data, bytes) else _kind(data)
  except (AttributeError, IndexError, TypeError, ValueError) as error:
    raise InputError(f'{what}: expected a whole array: {error}.') from error
  if kind not in ('u1', '|u1', 'uint8'):
    raise InputError(f'{what}: expected unsigned bytes (u1), got {kind!r}.')
  if min(shape, default=0) < 0 or found != math.prod(shape):
    raise InputError(
      f'{what}: expected {math.prod(shape)} bytes for shape {shape}, got '
      f'{found}.'
    )
  return np.frombuffer(data, np.uint8).reshape(
    shape, order='F' if is_fortran else 'C'
  )


def whole_numbers(value: Any, what: str) -> np.ndarray:
  """`[n]` int64 from a list of `load`."""
  if not isinstance(value, list):
    raise InputError(f'{what}: expected a list, got {_kind(value)}.')
  for item in value:
    if type(item) is not int or abs(item) >= 2**31:
      raise InputError(
        f'{what}: expected whole numbers of 32 bits, got {_kind(item)} among '
        'them.'
      )
  return np.array(value, np.int64)


def text(value: Any, what: str) -> str:
  """A string from what `load` gives for one of Python 2 or 3."""
  if isinstance(value, bytes):
    return value.decode('utf-8', 'replace')
  if not isinstance(value, str):
    raise InputError(f'{what}: expected text, got {_kind(value)}.')
  return value


class _Refused(pickle.UnpicklingError):
  """A pickle asks for what is not on the list; the message is its name."""


class _Record:
  """Stands for an object of NumPy: keeps what it would be made of."""

  __slots__ = ('args', 'state')

  def __init__(self, *args: Any):
    self.args = args

  def __setstate__(self, state: Any) -> None:
    self.state = state


class _Array(_Record):
  """Stands for an array: its state is (version, shape, type, order, bytes)."""

  __slots__ = ()


class _Type(_Record):
  """Stands for a type of numbers: its first argument is the type's name."""

  __slots__ = ()


# Arrays as NumPy 1 and 2 pickle them, up to protocol 4.
_STAND_INS = {
  ('numpy.core.multiarray', '_reconstruct'): _Array,
  ('numpy._core.multiarray', '_reconstruct'): _Array,
  ('numpy', 'ndarray'): _Record,
  ('numpy', 'dtype'): _Type,
}


class _Unpickler(pickle.Unpickler):
  """Knows the stand-ins and nothing else."""

  def __init__(
    self,
    file: IO[bytes],
    stand_ins: Mapping[tuple[str, str], Any],
    persistent: Callable[[Any], Any] | None,
  ):
    super().__init__(file, encoding='bytes')
    self._stand_ins = stand_ins
    self._persistent = persistent

  def find_class(self, module: str, name: str) -> Any:
    """Is where every pickle gets every function and class from."""
    if (module, name) not in self._stand_ins:
      raise _Refused(f'{module}.{name}')
    return self._stand_ins[module, name]

  def persistent_load(self, pid: Any) -> Any:
    """Is where a pickle gets what lies outside of it from."""
    if self._persistent is None:
      raise pickle.UnpicklingError('it needs objects that lie outside of it')
    return self._persistent(pid)


def _kind(value: Any) -> str:
  """Names a type, and not a value that may be long or hostile."""
  return 'an array' if isinstance(value, _Array) else type(value).__name__
