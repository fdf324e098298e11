"""Messages as bytes: a header of JSON, then arrays, and no code.

    8 bytes    what this is, and the version of the format
    4 bytes    length of the header, little-endian
    header     a JSON object; `arrays` in it lists names, types and shapes
    the rest   the arrays' bytes, in that order, little-endian

Nothing is unpickled: whoever receives a message reads numbers.
"""

from collections.abc import Mapping
import hashlib
import json
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.running import leaves
from fedjax_gen.types import Tree

_MAGIC = b'fedjaxg1'
_ARRAYS = 'arrays'
_MOST_DIMENSIONS = 16


class Packet(NamedTuple):
  """What is sent."""

  header: Mapping[str, Any]
  arrays: Mapping[str, np.ndarray] = {}

  def to_bytes(self) -> bytes:
    """The message."""
    arrays = {
      name: np.ascontiguousarray(array) for name, array in self.arrays.items()
    }
    listed = [
      [name, array.dtype.name, list(np.shape(self.arrays[name]))]
      for name, array in arrays.items()
    ]
    header = json.dumps({**self.header, _ARRAYS: listed}).encode()
    parts = [_MAGIC, len(header).to_bytes(4, 'little'), header]
    return b''.join(parts + [_bytes(array) for array in arrays.values()])

  @staticmethod
  def from_bytes(message: bytes) -> 'Packet':
    """What `to_bytes` gave; arrays share the memory of the message.

    Raises:
      InputError: the message is not one, or is cut.
    """
    try:
      if message[:8] != _MAGIC:
        raise ValueError('another format')
      start = 12 + int.from_bytes(message[8:12], 'little')
      header = json.loads(message[12:start])
      arrays = {}
      for name, type_name, shape in header.pop(_ARRAYS):
        dtype = jnp.dtype(type_name)
        if (
          dtype.hasobject
          or len(shape) > _MOST_DIMENSIONS
          or min(shape, default=0) < 0
        ):
          raise ValueError(f'{name} is {type_name}{shape}')
        end = start + math.prod(shape) * dtype.itemsize
        if end > len(message):
          raise ValueError(f'{name} is cut')
        flat = np.frombuffer(memoryview(message)[start:end], dtype)
        arrays[name] = flat.reshape(shape)
        start = end
      if start != len(message):
        raise ValueError(f'{len(message) - start} bytes too many')
      return Packet(header, arrays)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise InputError(
        f'Expected a message of fedjax_gen, got {len(message)} bytes that are '
        f'none: {error}.'
      ) from error


def digest(message: bytes) -> str:
  """The SHA-256 of a message, by which a repeated one is known."""
  return hashlib.sha256(message).hexdigest()


def to_arrays(tree: Tree) -> dict[str, np.ndarray]:
  """The leaves of a tree by name, on the host."""
  named = leaves.named_leaves(tree)
  return {name: np.asarray(leaf) for name, leaf in named.items()}


def to_tree(arrays: Mapping[str, np.ndarray], target: Tree) -> Tree:
  """Arrays in the structure of `target`, which says what they must be.

  Args:
    arrays: by name, as of `to_arrays`.
    target: arrays, or `jax.ShapeDtypeStruct`.

  Raises:
    InputError: an array is missing, is too much, or of another type or shape.
  """
  found = {name: leaves.describe(array) for name, array in arrays.items()}
  wanted = leaves.named_leaves(target)
  if difference := leaves.first_difference(wanted, found):
    raise InputError(f'Expected another message: {difference}.')
  built = [arrays[name] for name in wanted]
  return jax.tree.unflatten(jax.tree.structure(target), built)


def first_non_finite(arrays: Mapping[str, np.ndarray]) -> str | None:
  """Name of the first array that holds a NaN or an infinity, or None."""
  for name, array in arrays.items():
    is_float = jnp.issubdtype(array.dtype, jnp.inexact)
    if is_float and not np.isfinite(array.astype(np.float64)).all():
      return name
  return None


def _bytes(array: np.ndarray) -> bytes:
  if array.dtype.byteorder == '>':
    array = array.astype(array.dtype.newbyteorder('<'))
  return array.tobytes()
