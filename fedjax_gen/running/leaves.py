"""The leaves of a state by name: to describe, compare, hash and check them."""

from collections.abc import Iterable, Mapping
import hashlib
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np

_PIECE = 1 << 26  # bytes that a device has of others at a time


def named_leaves(tree: Any) -> dict[str, Any]:
  """Returns the leaves of `tree` by their path, in the tree's order.

  Example:
    >>> named_leaves({'encoder': {'bias': 1.0}, 'decoder': [2.0]})
    {'decoder/0': 2.0, 'encoder/bias': 1.0}
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in leaves
  }


def is_key(leaf: Any) -> bool:
  """Returns whether the leaf holds typed random keys, which have no bytes."""
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def abstract(state: Any) -> Any:
  """Returns the shapes of `state`, `jax.ShapeDtypeStruct`, to restore to.

  Leaves committed to devices of this process keep their sharding; the others
  stay free to be placed by whoever uses them.
  """
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape,
      leaf.dtype,
      sharding=leaf.sharding
      if leaf.committed and leaf.is_fully_addressable
      else None,
    ),
    state,
  )


def local(tree: Any) -> Any:
  """Returns the leaves as this process alone can use them.

  What is computed from them is computed once, not by every device, and without
  the other processes. Leaves that every device has are those of the first one;
  nothing is copied. Leaves that are split among devices come to the host, as
  NumPy's arrays. Of several processes all must call this with the same tree.
  """

  def own(leaf):
    if not isinstance(leaf, jax.Array) or len(leaf.sharding.device_set) == 1:
      return leaf
    if is_key(leaf):
      data = own(jax.random.key_data(leaf))
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    if leaf.is_fully_replicated:
      return leaf.addressable_data(0)
    return np.asarray(leaf) if leaf.is_fully_addressable else _gathered(leaf)

  return jax.tree.map(own, tree)


def from_writer(tree: Any, state: Any) -> Any:
  """Returns in every process, to the bit, the leaves that process 0 holds.

  As bytes: a sum of floats would turn -0 into 0.

  Args:
    tree: arrays of process 0; those of other processes are not read.
    state: of the same types and shapes in all processes; what is returned lies
      where this does.
  """

  def received(leaf, old):
    if is_key(old):
      data = received(*map(jax.random.key_data, (leaf, old)))
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(old))
    if not old.size:
      return old
    is_writer = jax.process_index() == 0
    found = _broadcast(
      np.asarray(leaf) if is_writer else np.zeros(old.shape, old.dtype)
    )
    if old.is_fully_addressable:
      return jnp.asarray(found)
    return jax.make_array_from_callback(
      old.shape, old.sharding, lambda index: found[index]
    )

  return jax.tree.map(received, tree, state)


def describe(leaf: Any) -> dict[str, Any]:
  """Returns the type and shape of a leaf, and the kind of a key, as JSON."""
  description = {'dtype': str(leaf.dtype), 'shape': list(leaf.shape)}
  if isinstance(leaf, jax.Array) and is_key(leaf):
    description['key_impl'] = str(jax.random.key_impl(leaf))
  return description


def first_difference(
  expected: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]
) -> str | None:
  """Returns in words the first leaf that is not as expected, or None.

  Args:
    expected: leaves by name, as of `named_leaves`.
    found: what `describe` returned for the leaves of another tree.
  """
  for name in dict.fromkeys([*expected, *found]):
    wanted = describe(expected[name]) if name in expected else None
    if _in_words(wanted) != _in_words(found.get(name)):
      return (
        f'expected {name} to be {_in_words(wanted)}, '
        f'found {_in_words(found.get(name))}'
      )
  return None


def params_digest(tree: Any) -> str:
  """Returns the SHA-256 of the leaves' paths, types, shapes and bytes.

  Two trees have the same digest exactly if they agree bit for bit, so the
  digest of a run's parameters says whether another run repeated it.

  Example:
    >>> params_digest({'bias': np.zeros(2)})[:12]
    '730998b9fcee'
  """
  digest = hashlib.sha256()
  for name, leaf in named_leaves(tree).items():
    leaf = jnp.asarray(leaf) if not hasattr(leaf, 'dtype') else leaf
    digest.update(f'{name}:{leaf.dtype}:{leaf.shape};'.encode())
    digest.update(_bytes(leaf))
  return digest.hexdigest()


def rows_digest(blocks: Iterable[Any]) -> np.ndarray:
  """A hash of trees that come in blocks of rows, as `[32]` uint8.

  The same however they are cut: two populations have the same exactly if they
  agree bit for bit.

  Args:
    blocks: trees of one structure, leaves `[k, ...]`.

  Example:
    >>> whole, halves = [np.arange(4.0)], [np.arange(2.0), np.arange(2.0, 4.0)]
    >>> np.array_equal(rows_digest(whole), rows_digest(halves))
    True
  """
  digests: dict[str, Any] = {}
  for block in blocks:
    for name, leaf in named_leaves(block).items():
      head = f'{name}:{leaf.dtype}:{leaf.shape[1:]};'
      digest = digests.setdefault(head, hashlib.sha256(head.encode()))
      digest.update(_bytes(leaf))
  joined = b''.join(digest.digest() for digest in digests.values())
  return np.frombuffer(hashlib.sha256(joined).digest(), np.uint8)


def first_non_finite(tree: Any) -> str | None:
  """Returns the path of the first leaf with a NaN or infinity, or None."""
  floats = {
    name: leaf
    for name, leaf in named_leaves(tree).items()
    if jnp.issubdtype(leaf.dtype, jnp.inexact)
  }
  arrays = list(floats.values())
  # Of several devices, each answers for what it has.
  shardings = (getattr(leaf, 'sharding', None) for leaf in arrays)
  meshes = (getattr(sharding, 'mesh', None) for sharding in shardings)
  mesh = next(filter(None, meshes), None)
  everywhere = mesh and NamedSharding(mesh, P())
  finite = np.asarray(jax.jit(_all_finite, out_shardings=everywhere)(arrays))
  return next((n for n, ok in zip(floats, finite, strict=True) if not ok), None)


def _broadcast(array: np.ndarray) -> np.ndarray:
  """Process 0's array in every process."""
  sent = np.frombuffer(array.tobytes(), np.uint8)
  pieces = [
    multihost_utils.broadcast_one_to_all(sent[start : start + _PIECE])
    for start in range(0, len(sent), _PIECE)
  ]
  return np.concatenate(pieces).view(array.dtype).reshape(array.shape)


def _gathered(leaf: jax.Array) -> np.ndarray:
  """An array that devices of several processes hold between them, whole."""
  sharding: Any = leaf.sharding
  mesh, spec = sharding.mesh, sharding.spec
  [(axis, name)] = [(i, name) for i, name in enumerate(spec) if name]
  shard = sharding.shard_shape(leaf.shape)
  shards = np.empty((mesh.size, *shard), leaf.dtype)
  rows = min(shard[0], max(1, shard[0] * _PIECE // leaf.nbytes))

  def all_rows(shard, start):
    part = jax.lax.dynamic_slice_in_dim(shard, start, rows)
    return jax.lax.all_gather(part, name)

  gather = jax.jit(
    jax.shard_map(
      all_rows,
      mesh=mesh,
      in_specs=(spec, P()),
      out_specs=P(),
      check_vma=False,
    )
  )
  for start in range(0, shard[0], rows):
    start = min(start, shard[0] - rows)  # the last piece is as long as others
    part = gather(leaf, np.int32(start)).addressable_data(0)
    shards[:, start : start + rows] = np.asarray(part)
  return np.concatenate(shards, axis=axis)


def _bytes(leaf: Any) -> memoryview:
  """The bytes of an array without a copy: it may be a file's, and large."""
  data = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
  return np.ascontiguousarray(data).reshape(-1).view(np.uint8).data


def _in_words(description: Mapping[str, Any] | None) -> str:
  if description is None:
    return 'none'
  return f'{description["dtype"]}{description["shape"]}'


def _all_finite(leaves: list[jax.Array]) -> jax.Array:
  # One program and one transfer, however many leaves there are.
  checks = [jnp.isfinite(leaf).all() for leaf in leaves]
  return jnp.stack(checks) if checks else jnp.zeros((0,), bool)
