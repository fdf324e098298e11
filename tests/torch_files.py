"""Writes files as PyTorch writes them, without PyTorch."""

import pickle
import struct
import zipfile

import numpy as np

_STORAGES = {
  '<f8': 'Double', '<f4': 'Float', '<f2': 'Half', '<i8': 'Long', '<i4': 'Int',
  '<i2': 'Short', '|i1': 'Char', '|u1': 'Byte', '|b1': 'Bool',
}  # fmt: skip
MAGIC = 0x1950A86A20F9469CFC6C


def text(value):
  return b'X' + struct.pack('<I', len(value)) + value.encode()


def numbers(*values):
  return b'(' + b''.join(b'I%d\n' % value for value in values) + b't'


def steps(shape):
  """Of a tensor whose last axis runs fastest."""
  return [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]


def storage(key, size, kind='Float', view=b'N'):
  """The reference to a storage."""
  asked = f'ctorch\n{kind}Storage\n'.encode()
  head = text('storage') + asked + text(key) + text('cpu')
  return b'(' + head + b'I%d\n' % size + view + b'tQ'


def tensor(reference, shape, strides=None, offset=0):
  """The record of a tensor."""
  strides = steps(shape) if strides is None else strides
  return (
    b'ctorch._utils\n_rebuild_tensor_v2\n('
    + reference
    + b'I%d\n' % offset
    + numbers(*shape)
    + numbers(*strides)
    + b'I00\nccollections\nOrderedDict\n)RtR'
  )


def state_dict(items):
  """The pickle of tensors by name, with versions of modules beside it."""
  entries = b''.join(text(name) + value for name, value in items.items())
  versions = b'}' + text('_metadata') + b'}sb'
  return (
    b'\x80\x02ccollections\nOrderedDict\n)R(' + entries + b'u' + versions + b'.'
  )


def machine(little_endian=True):
  return {'protocol_version': 1001, 'little_endian': little_endian}


def legacy(state, storages, magic=MAGIC, version=1001, little_endian=True):
  """A file as before PyTorch 1.6, of a pickle and arrays by key."""
  heads = (magic, version, machine(little_endian))
  parts = [pickle.dumps(head, 2) for head in heads]
  parts += [state, pickle.dumps(list(storages), 2)]
  for array in storages.values():
    parts += [struct.pack('<q', array.size), array.tobytes()]
  return b''.join(parts)


def write_zip(
  path, state, storages, order=b'little', packing=zipfile.ZIP_STORED
):
  """A file as since PyTorch 1.6."""
  with zipfile.ZipFile(path, 'w', packing) as archive:
    archive.writestr('net/data.pkl', state)
    archive.writestr('net/byteorder', order)
    for key, array in storages.items():
      archive.writestr(f'net/data/{key}', array.tobytes())


def parts(arrays):
  """The pickle and the storages of arrays by name."""
  storages = {f'1{index}': array for index, array in enumerate(arrays.values())}
  items = {
    name: tensor(
      storage(key, array.size, _STORAGES[array.dtype.str]), array.shape
    )
    for (name, array), key in zip(arrays.items(), storages, strict=True)
  }
  return state_dict(items), storages


def write_legacy(path, arrays):
  """Arrays by name, as before PyTorch 1.6."""
  path.write_bytes(legacy(*parts(arrays)))
