"""Where data and states lie on the devices of a mapping.

Every device has a copy of what everyone reads: the server's state and the data
set. Devices share what clients keep: each holds the rows of N / D clients if
the number D of devices divides N. Otherwise a leaf is split along the first
other axis that D divides, so that a device holds a part of every client's row.
In both cases the arrays are `[N, ...]`; only their sharding says where they
lie.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np

from fedjax_gen.federated.algorithm import FederatedState
from fedjax_gen.federated.mapping import AXIS, Mapping
from fedjax_gen.types import Tree


def place(tree: Tree, mapping: Mapping) -> Tree:
  """Copies a tree to every device of a mapping; free if it lies there.

  A runner places what it is given. Place a data set once yourself, and
  repeated calls copy nothing. With a mesh over several processes, each of them
  calls this with the same tree.
  """
  if mapping.mesh is None:
    return tree
  everywhere = NamedSharding(mapping.mesh, P())
  return jax.tree.map(lambda leaf: _put(leaf, everywhere), tree)


def place_state(state: FederatedState, mapping: Mapping) -> FederatedState:
  """`place`, but what clients keep is split among the devices."""
  if mapping.mesh is None:
    return state
  shared, fleets = state._replace(fleets=()), state.fleets
  fleets = jax.tree.map(_put, fleets, split(fleets, mapping))
  return place(shared, mapping)._replace(fleets=fleets)


def replicated(mapping: Mapping) -> NamedSharding | None:
  """The sharding of what every device has; None without a mesh."""
  return None if mapping.mesh is None else NamedSharding(mapping.mesh, P())


def split(population: Tree, mapping: Mapping) -> Tree:
  """The shardings of what clients keep, leaves `[N, ...]`, on a mesh."""
  mesh = mapping.mesh
  assert mesh is not None

  def of_leaf(leaf):
    for axis, size in enumerate(leaf.shape):
      if size and size % mapping.num_devices == 0:
        return NamedSharding(mesh, P(*[None] * axis, AXIS))
    return NamedSharding(mesh, P())

  return jax.tree.map(of_leaf, population)


def state_shardings(state: FederatedState, mapping: Mapping) -> Any:
  """Of `place_state`, as `jax.jit` takes them; None without a mesh."""
  if mapping.mesh is None:
    return None
  everywhere: Any = replicated(mapping)
  return FederatedState(everywhere, everywhere, split(state.fleets, mapping))


def in_parts(population: Tree, mapping: Mapping, cohort_size: int) -> bool:
  """Whether a cohort's rows are put together of the parts that devices have.

  So it is where D does not divide N, unless all take part: then the devices
  have whole rows meanwhile, see `by_client`.
  """
  leaves = jax.tree.leaves(population)
  if not leaves:
    return False
  num_clients = len(leaves[0])
  return num_clients % mapping.num_devices != 0 and cohort_size < num_clients


def by_client(population: Tree, mapping: Mapping) -> Tree:
  """What clients keep, `[N, ...]`, with whole rows on every device.

  To be traced. Where D does not divide N, the devices exchange their parts, and
  the rows are as many as it divides: those beyond N are nobody's.
  """
  if mapping.mesh is None:
    return population
  devices = mapping.num_devices
  return jax.lax.with_sharding_constraint(
    jax.tree.map(lambda leaf: _padded(leaf, devices), population),
    NamedSharding(mapping.mesh, P(AXIS)),
  )


def whole(rows: Tree, population: Tree, mapping: Mapping) -> Tree:
  """Takes `by_client(population, mapping)` back to where that lay."""
  if mapping.mesh is None:
    return rows
  return jax.lax.with_sharding_constraint(
    jax.tree.map(lambda leaf, old: leaf[: len(old)], rows, population),
    split(population, mapping),
  )


def _padded(leaf: jax.Array, devices: int) -> jax.Array:
  missing = -len(leaf) % devices
  if not missing:
    return leaf
  return leaf[np.minimum(np.arange(len(leaf) + missing), len(leaf) - 1)]


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
  if sharding.is_fully_addressable:
    return jax.device_put(leaf, sharding)
  if isinstance(leaf, jax.Array):
    if leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
      return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      data = _put(jax.random.key_data(leaf), sharding)
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
  whole = np.asarray(leaf)
  return jax.make_array_from_callback(
    whole.shape, sharding, lambda index: whole[index]
  )
