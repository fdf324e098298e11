"""Reads files of tensors that PyTorch saved, without PyTorch.

Such a file is a pickle of names and tensors, followed by the numbers of the
tensors. `safe_pickle` reads the pickle and runs nothing that is in it.

Formats, both of `torch.save`:

- since PyTorch 1.6 a zip file: `NAME/data.pkl` is the pickle, `NAME/data/KEY`
  the numbers of a storage.
- before that, five pickles in a row (a magic number, the version, the sizes of
  the machine's types, the tensors, the keys of the storages in order), then for
  each storage its length in 8 bytes and its numbers.
"""

import math
import os
import struct
from typing import IO, Any, NamedTuple
import zipfile

import numpy as np

from fedjax_gen.data.formats import safe_pickle
from fedjax_gen.errors import InputError

_MAGIC = 0x1950A86A20F9469CFC6C  # of files before PyTorch 1.6
_PROTOCOL = 1001
_EXPECTED = 'a PyTorch file of named tensors'


def load(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the tensors of a state dict that `torch.save` has written.

  Returns:
    The arrays by name, each with memory of its own.

  Raises:
    InputError: The file cannot be read, is cut or of another format, asks for
      anything except tensors, or holds other values than tensors by name. The
      message names the file, and the tensor where there is one to name.
  """
  storages = _Storages()
  with safe_pickle.reading(path, _EXPECTED), open(path, 'rb') as file:
    is_zip = zipfile.is_zipfile(file)
    file.seek(0)
    tensors = (_read_zip if is_zip else _read_legacy)(file, path, storages)
  if not isinstance(tensors, dict):
    raise InputError(
      f'{path}: expected {_EXPECTED}, got {type(tensors).__name__}.'
    )
  arrays = {}
  for key, value in tensors.items():
    name = safe_pickle.text(key, f'{path}: a name')
    arrays[name] = _array(value, storages, f'{path}: {name!r}')
  return arrays


class _StorageType(NamedTuple):
  """Stands for the class of a storage."""

  dtype: np.dtype


class _Storage(NamedTuple):
  """Stands for a storage: the numbers are found under its key."""

  key: str
  dtype: np.dtype
  size: int  # numbers, not bytes


class _Tensor:
  """Stands for a tensor: keeps what it would be made of."""

  __slots__ = ('args',)

  def __init__(self, *args: Any):
    self.args = args


class _Names(dict):
  """Stands for an ordered dictionary; what else was set on it is dropped."""

  def __setstate__(self, state: Any) -> None:
    del state  # versions of modules


_STAND_INS = {
  ('collections', 'OrderedDict'): _Names,
  ('torch._utils', '_rebuild_tensor_v2'): _Tensor,
} | {
  ('torch', f'{name}Storage'): _StorageType(np.dtype(dtype))
  for name, dtype in {
    'Double': '<f8',
    'Float': '<f4',
    'Half': '<f2',
    'Long': '<i8',
    'Int': '<i4',
    'Short': '<i2',
    'Char': 'i1',
    'Byte': 'u1',
    'Bool': '?',
  }.items()
}


class _Storages(dict[str, np.ndarray]):
  """The numbers by key; before they are read, what the pickle says of them."""

  def __init__(self):
    self.promised: dict[str, _Storage] = {}

  def promise(self, pid: Any) -> _Storage:
    """Notes a storage that the pickle refers to."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != 'storage':
      raise ValueError('a reference that is none to a storage')
    _, kind, key, _, size, *views = pid
    if not isinstance(kind, _StorageType):
      raise ValueError('a storage of no known type of numbers')
    if type(size) is not int or size < 0 or any(v is not None for v in views):
      raise ValueError('a storage without a size, or a view of another')
    storage = _Storage(safe_pickle.text(key, 'a key'), kind.dtype, size)
    if self.promised.setdefault(storage.key, storage) != storage:
      raise ValueError(f'two storages under one key, {storage.key!r}')
    return storage

  def keep(self, key: str, data: bytes) -> None:
    """Takes the bytes of a storage.

    Raises:
      ValueError: They are fewer or more than the pickle says.
    """
    storage = self.promised[key]
    wanted = storage.size * storage.dtype.itemsize
    if len(data) != wanted:
      raise ValueError(
        f'{len(data)} bytes of storage {key!r}, expected {wanted}'
      )
    self[key] = np.frombuffer(data, storage.dtype)


def _read_zip(
  file: IO[bytes], path: str | os.PathLike, storages: _Storages
) -> Any:
  """Reads the form since PyTorch 1.6; gives what `data.pkl` holds."""
  with zipfile.ZipFile(file) as archive:
    entries = {entry.filename: entry for entry in archive.infolist()}
    (pickled, *_) = [n for n in entries if n.endswith('/data.pkl')] or ['']
    if not pickled:
      raise InputError(
        f'{path}: expected {_EXPECTED}, got a zip file without data.pkl.'
      )
    folder = pickled.removesuffix('data.pkl')
    order = f'{folder}byteorder'
    if order in entries and archive.read(order) != b'little':
      raise InputError(f'{path}: expected numbers with the low byte first.')
    with archive.open(pickled) as data:
      tensors = safe_pickle.unpickled(data, _STAND_INS, storages.promise)
    for key in storages.promised:
      entry = entries.get(f'{folder}data/{key}')
      if entry is None:
        raise ValueError(f'no numbers of storage {key!r}')
      # As PyTorch writes them: what is packed could be far larger than a file.
      if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError('a storage that is compressed')
      storages.keep(key, archive.read(entry))
  return tensors


def _read_legacy(
  file: IO[bytes], path: str | os.PathLike, storages: _Storages
) -> Any:
  """Reads the form before PyTorch 1.6; gives what the fourth pickle holds."""
  try:
    magic = safe_pickle.unpickled(file, {})
  except Exception:  # of any type, where the file is no pickle
    magic = None
  if magic != _MAGIC:
    raise InputError(f'{path}: expected {_EXPECTED}, got another kind of file.')
  version, machine = (safe_pickle.unpickled(file, {}) for _ in range(2))
  if version != _PROTOCOL or machine.get('little_endian') is not True:
    raise InputError(
      f'{path}: expected a PyTorch file of version {_PROTOCOL} with the low '
      f'byte first, got version {version!r} and {machine!r}.'
    )
  tensors = safe_pickle.unpickled(file, _STAND_INS, storages.promise)
  for key in safe_pickle.unpickled(file, {}):
    name = safe_pickle.text(key, 'a key')
    (size,) = struct.unpack('<q', file.read(8))
    if name not in storages.promised or storages.promised[name].size != size:
      raise ValueError(f'{size} numbers of storage {name!r} that no tensor has')
    itemsize = storages.promised[name].dtype.itemsize
    storages.keep(name, file.read(size * itemsize))
  return tensors


def _array(value: Any, storages: _Storages, what: str) -> np.ndarray:
  """Makes the array that a record describes, with memory of its own."""
  if not isinstance(value, _Tensor):
    raise InputError(f'{what}: expected a tensor, got {type(value).__name__}.')
  try:
    storage, offset, shape, strides = value.args[:4]
    numbers = storages[storage.key]
    spans = list(zip(shape, strides, strict=True))
    entries = [offset, *shape, *strides]
    if any(type(entry) is not int or entry < 0 for entry in entries):
      raise ValueError('a size, step or offset that is no whole number >= 0')
    size = math.prod(shape)
    end = offset + sum((extent - 1) * step for extent, step in spans) + 1
    # A tensor that repeats its numbers (step 0) may be larger than memory.
    if size and max(end, size) > len(numbers):
      raise ValueError(
        f'shape {list(shape)} with steps {list(strides)} from number {offset} '
        f'leaves its {len(numbers)} numbers'
      )
    if not size:
      return np.empty(shape, numbers.dtype)
    return np.lib.stride_tricks.as_strided(
      numbers[offset:], shape, [step * numbers.itemsize for step in strides]
    ).copy()
  # The last two: more axes or longer ones than NumPy has.
  except (
    AttributeError, KeyError, TypeError, ValueError, OverflowError, MemoryError,
  ) as error:  # fmt: skip
    raise InputError(f'{what}: expected a whole tensor: {error}.') from error
