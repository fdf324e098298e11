"""How the clients of a cohort are laid over time and devices.

The numbers are the same to float tolerance whichever mapping is chosen; with
`reproducible=True` they are the same to the last bit for every number of
devices. Clients are laid out as lanes x blocks x clients of a block: a block
is mapped at once (`vmap`), the blocks of a lane follow each other (`scan`,
adding up sums, so that one block's messages are alive at a time), and lanes
are what devices share.
"""

from collections.abc import Callable
import dataclasses
import functools
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec as P

from fedjax_gen import trees, validate
from fedjax_gen.errors import InputError
from fedjax_gen.federated.aggregates import Aggregate
from fedjax_gen.types import Array, Tree

AXIS = 'clients'
"""Name of the mesh axis that clients are spread over."""


@dataclasses.dataclass(frozen=True)
class Mapping:
  """Where and when each client of a cohort is computed.

  Attributes:
    block_size: clients computed at once. 1 is one after the other, `'all'`
      the whole cohort. `'auto'` is 1 on CPU, where mapping clients brings no
      speed and costs memory, and `'all'` on accelerators.
    mesh: devices to share the cohort, a mesh with the axis `'clients'` (see
      `clients_mesh`); one device if `None`.
    reproducible: whether sums are taken in an order that does not depend on
      the number of devices. Costs one gather of `num_lanes` sums in place of
      a `psum`; needs a whole `block_size`.
    num_lanes: how many partial sums the reproducible order has. The number of
      devices must divide it, and changing it changes the last bits.

  Raises:
    InputError: a field is out of range or two of them exclude each other.
  """

  block_size: int | str = 'auto'
  mesh: Mesh | None = None
  reproducible: bool = False
  num_lanes: int = 8

  def __post_init__(self):
    if isinstance(self.block_size, str):
      validate.one_of(('auto', 'all'), block_size=self.block_size)
    else:
      validate.positive_int(block_size=self.block_size)
    validate.positive_int(num_lanes=self.num_lanes)
    if self.mesh is not None and self.mesh.axis_names != (AXIS,):
      raise InputError(
        f"Expected mesh to have the one axis '{AXIS}', got "
        f'{self.mesh.axis_names}.'
      )
    if self.reproducible and self.num_lanes % self.num_devices:
      raise InputError(
        'Expected num_lanes to be a multiple of the number of devices, got '
        f'num_lanes={self.num_lanes} and {self.num_devices} devices.'
      )
    if self.reproducible and self.block_size == 'all':
      raise InputError(
        "Expected a whole block_size with reproducible=True, got 'all': the "
        'block would depend on the number of devices.'
      )

  @property
  def num_devices(self) -> int:
    """Devices that share a cohort."""
    return 1 if self.mesh is None else self.mesh.size

  def layout(self, num_clients: int) -> tuple[int, int, int]:
    """(lanes, blocks of a lane, clients of a block) for a cohort."""
    lanes = self.num_lanes if self.reproducible else self.num_devices
    if isinstance(self.block_size, int):
      block = self.block_size
    elif self.block_size == 'auto' and (
      self.reproducible or jax.default_backend() == 'cpu'
    ):
      block = 1
    else:
      block = -(-num_clients // lanes)
    # No larger than a lane's share, or some devices would only pad; and all
    # blocks alike, or the last would. Reproducible lanes are a fixed number,
    # so this does not depend on the devices.
    block = min(block, -(-num_clients // lanes))
    blocks = -(-num_clients // (lanes * block))
    block = -(-num_clients // (lanes * blocks))
    if self.reproducible:
      # Lanes that would hold padding alone are not computed, unless a device
      # would be idle anyway. Their sums would be zero: the bits agree.
      needed = -(-num_clients // (blocks * block))
      lanes = min(lanes, -(-needed // self.num_devices) * self.num_devices)
    return lanes, blocks, block


def clients_mesh(num_devices: int | None = None) -> Mesh:
  """A mesh of the first `num_devices` devices (all by default).

  Raises:
    InputError: there are fewer devices than that.
  """
  available = len(jax.devices())
  count = available if num_devices is None else num_devices
  validate.positive_int(num_devices=count)
  if count > available:
    raise InputError(
      f'Expected num_devices <= {available}, the devices there are, got '
      f"num_devices={count}. On CPU jax.config.update('jax_num_cpu_devices', "
      f'{count}) makes so many, before the first use of one.'
    )
  return jax.make_mesh(
    (count,),
    (AXIS,),
    axis_types=(jax.sharding.AxisType.Auto,),
    devices=jax.devices()[:count],
  )


def default_cpu_devices() -> int:
  """How many devices a CPU had best be: one for each core, as a power of two.

  Clients side by side scale with the cores, the matrix products of one client
  do not. No more than the 8 lanes of `Mapping.reproducible`, which they divide.
  """
  if hasattr(os, 'sched_getaffinity'):
    cores = len(os.sched_getaffinity(0))
  else:
    cores = os.cpu_count() or 1
  return 1 << min(cores.bit_length() - 1, 3)


class Work(NamedTuple):
  """What the members of a cohort do, written for ONE member.

  Attributes:
    run: `(shared, member) -> (message, info, output)`; for `map_population`
      `(shared, member, kept) -> (message, info, kept, output)`.
    skip: the same for a member that is absent, without the work; what it
      kept comes back as it was.
    is_present: `member -> bool`.
    absent: `members -> members` that count for nothing, whose results are
      thrown away; they pad the cohort to whole blocks.
  """

  run: Callable[..., tuple]
  skip: Callable[..., tuple]
  is_present: Callable[[Tree], jax.Array]
  absent: Callable[[Tree], Tree]


def map_clients(
  mapping: Mapping,
  aggregate: Aggregate,
  work: Work,
  shared: Tree,
  members: Tree,
) -> tuple[Tree, Tree]:
  """Runs every member of a cohort and sums their messages.

  Args:
    mapping: how to lay the members over time and devices.
    aggregate: its `partial` turns the messages of a block into sums.
    work: what ONE member does.
    shared: what all members read (server state, data set).
    members: leaves `[K, ...]`.

  Returns:
    `(sums, outputs)`; outputs have leaves `[K, ...]` in the members' order.
  """

  def keeping_nothing(function):
    def call(shared, member, kept):
      message, info, output = function(shared, member)
      return message, info, kept, output

    return call

  work = work._replace(
    run=keeping_nothing(work.run), skip=keeping_nothing(work.skip)
  )
  rows = jnp.arange(jax.tree.leaves(members)[0].shape[0])
  sums, _, outputs = map_population(
    mapping, aggregate, work, shared, members, rows, ()
  )
  return sums, outputs


def map_population(
  mapping: Mapping,
  aggregate: Aggregate,
  work: Work,
  shared: Tree,
  members: Tree,
  rows: Array,
  population: Tree,
) -> tuple[Tree, Tree, Tree]:
  """`map_clients` for members that keep something between cohorts.

  What clients keep is carried through the blocks, each of which reads the rows
  of its members and writes them back. A compiled program to which the
  population was donated updates it in place, and besides it one block's rows
  are alive. With a mesh it is not so: every device holds the population, takes
  out the rows of its lanes, works on them in place, and all devices' rows are
  gathered and written back at the end.

  Args:
    mapping: how to lay the members over time and devices.
    aggregate: its `partial` turns the messages of a block into sums.
    work: what ONE member does.
    shared: what all members read (server state, data set).
    members: leaves `[K, ...]`.
    rows: `[K]` distinct rows of the population, one for each member.
    population: what clients keep, leaves `[N, ...]`.

  Returns:
    `(sums, population, outputs)`; the population with the members' rows
    replaced, outputs as from `map_clients`.
  """
  num_members = rows.shape[0]
  lanes, blocks, block = mapping.layout(num_members)
  size = lanes * blocks * block
  members = _padded(members, num_members, size, work.absent)
  # Padding copies a member, whose row it must not write: its own row lies
  # beyond the population, and writes there are dropped.
  beyond = jnp.iinfo(rows.dtype).max
  rows = jnp.pad(rows, (0, size - num_members), constant_values=beyond)

  def run_block(shared, population, members, rows):
    kept = _read(population, rows)
    if block == 1:
      # Not mapped: products with a client axis of one are slower on CPU, and
      # only here can an absent client's work be left out.
      member, own = trees.take((members, kept), 0)
      # Where everyone is present the compiler would drop the condition, and
      # without it read the row again after it was overwritten, for which it
      # copies the whole population. Of rows it knows nothing.
      is_present = work.is_present(member) & (rows[0] < beyond)
      alone = jax.lax.cond(is_present, work.run, work.skip, shared, member, own)
      done = jax.tree.map(lambda leaf: leaf[None], alone)
    else:
      done = jax.vmap(work.run, (None, 0, 0))(shared, members, kept)
    messages, infos, kept, outputs = done
    population = trees.put(population, rows, kept)
    return aggregate.partial(messages, infos), population, outputs

  def run_lane(shared, population, lane):
    def step(carry, members_and_rows):
      sums, population = carry
      more, population, outputs = run_block(
        shared, population, *members_and_rows
      )
      return (trees.add(sums, more), population), outputs

    first = trees.take(lane, 0)
    sums, _, _ = jax.eval_shape(run_block, shared, population, *first)
    carry = (trees.zeros_like(sums), population)
    (sums, population), outputs = jax.lax.scan(step, carry, lane)
    return population, (sums, outputs)

  def run_lanes(shared, population, layout):
    """All lanes of one device; sums are those of the whole cohort."""
    if not mapping.reproducible:
      population, (sums, outputs) = run_lane(
        shared, population, trees.take(layout, 0)
      )
      if mapping.mesh is not None:
        sums = jax.lax.psum(sums, AXIS)
      return sums, population, jax.tree.map(lambda leaf: leaf[None], outputs)
    population, (sums, outputs) = jax.lax.scan(
      functools.partial(run_lane, shared), population, layout
    )
    if mapping.mesh is not None:
      sums = jax.lax.all_gather(sums, AXIS, tiled=True)
    by_lane = [jax.tree.map(lambda a, i=i: a[i], sums) for i in range(lanes)]
    return functools.reduce(trees.add, by_lane), population, outputs

  def laid_out(tree):
    return jax.tree.map(
      lambda leaf: leaf.reshape(lanes, blocks, block, *leaf.shape[1:]), tree
    )

  if mapping.mesh is None:
    sums, population, outputs = run_lanes(
      shared, population, laid_out((members, rows))
    )
  else:
    # shard_map and not a sharded vmap: the partitioner would gather the
    # operands of mapped convolutions and compute every client on every device
    # (https://github.com/openxla/xla/issues/47945).
    spread = jax.shard_map(
      run_lanes,
      mesh=mapping.mesh,
      in_specs=(P(), P(AXIS), P(AXIS)),
      out_specs=(P(), P(AXIS), P(AXIS)),
      check_vma=False,
    )
    # A device's rows are a population of its own, numbered from zero.
    slots = jnp.arange(size) % (size // mapping.num_devices)
    sums, kept, outputs = spread(
      shared, _read(population, rows), laid_out((members, slots))
    )
    population = trees.put(population, rows, kept)
  outputs = jax.tree.map(
    lambda leaf: leaf.reshape(-1, *leaf.shape[3:])[:num_members], outputs
  )
  return sums, population, outputs


def _read(population, rows):
  """Rows of the population; beyond it, its last one."""
  if len(rows) == 1:
    # A slice, in place of a gather of one.
    return jax.tree.map(
      lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, rows[0], 1), population
    )
  return jax.tree.map(lambda leaf: leaf.at[rows].get(mode='clip'), population)


def _padded(members, num_members, size, absent):
  """Members up to `size`, the added ones absent copies of the last."""
  if size == num_members:
    return members
  slots = jnp.arange(size)
  members = trees.take(members, jnp.minimum(slots, num_members - 1))
  return trees.where(slots < num_members, members, absent(members))
