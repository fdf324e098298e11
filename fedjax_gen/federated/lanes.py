"""Runs a cohort: lanes x blocks x clients, as a `Mapping` lays it out.

A block is mapped at once (`vmap`), the blocks of a lane follow each other
(`scan`, adding up sums, so that one block's messages are alive at a time), and
lanes are what devices share (`shard_map`).
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from fedjax_gen import trees
from fedjax_gen.federated.aggregates import Aggregate
from fedjax_gen.federated.mapping import AXIS, Mapping
from fedjax_gen.types import Array, Tree


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
