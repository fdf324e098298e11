"""Runs a cohort: lanes x blocks x clients, as a `Mapping` lays it out.

A block is mapped at once (`vmap`), the blocks of a lane follow each other
(`scan`, adding up sums, so that one block's messages are alive at a time), and
lanes are what devices share (`shard_map`).
"""

from collections.abc import Callable
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from fedjax_gen import trees
from fedjax_gen.federated.aggregates import Aggregate
from fedjax_gen.federated.execution import exchange, placement
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
    absent: `members -> members` that count for nothing; their results are
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
  rows = np.arange(jax.tree.leaves(members)[0].shape[0])
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
  rows: Array | np.ndarray,
  population: Tree,
) -> tuple[Tree, Tree, Tree]:
  """`map_clients` for members that keep something between cohorts.

  What clients keep is carried through the blocks: each reads the rows of its
  members and writes them back. A compiled program to which the
  population was donated updates it in place, and besides it one block's rows
  are alive. With a mesh devices hold the population between them, and rows go
  to the device that needs them and back (`exchange`). Where rows are known to
  lie where they are needed, none goes, and all is done in place; otherwise a
  device holds those of its members besides.

  Args:
    mapping: how to lay the members over time and devices.
    aggregate: its `partial` turns the messages of a block into sums.
    work: what ONE member does.
    shared: what all members read (server state, data set).
    members: leaves `[K, ...]`.
    rows: `[K]` distinct rows of the population, one for each member; NumPy's
      where they are known before the program runs.
    population: what clients keep, leaves `[N, ...]`.

  Returns:
    `(sums, population, outputs)`; the population with the members' rows
    replaced, outputs as from `map_clients`.
  """
  num_members = rows.shape[0]
  layout = mapping.layout(num_members)
  members = _padded(members, num_members, math.prod(layout), work.absent)
  rows = _padded_rows(rows, math.prod(layout))
  run = functools.partial(_run_lanes, mapping, aggregate, work)
  slots = _Slots(layout, members, rows, num_members)
  if mapping.mesh is None:
    sums, population, outputs = run(shared, population, slots.with_rows(rows))
  else:
    sums, population, outputs = _run_devices(
      mapping, run, work, shared, population, slots
    )
  outputs = jax.tree.map(
    lambda leaf: leaf.reshape(-1, *leaf.shape[3:])[:num_members], outputs
  )
  return sums, population, outputs


class _Slots(NamedTuple):
  """Members and their rows, as a layout places them; padding is at the end."""

  layout: tuple[int, ...]
  members: Tree
  rows: Array | np.ndarray
  num_members: int

  def with_rows(self, rows):
    """By lane and block, with rows of another numbering."""
    return jax.tree.map(
      lambda leaf: leaf.reshape(*self.layout, *leaf.shape[1:]),
      (self.members, rows),
    )


def _run_devices(mapping, run, work, shared, population, slots):
  """The lanes of all devices, which hold the population between them."""
  on_devices = functools.partial(_on_devices, mapping, slots, shared)
  rows = slots.rows
  # What a device is given of others' is a population of its own.
  given = jnp.arange(len(rows)) % (len(rows) // mapping.num_devices)
  if placement.in_parts(population, mapping, slots.num_members):
    constrained = functools.partial(
      jax.lax.with_sharding_constraint,
      shardings=placement.split(population, mapping),
    )
    needed = constrained(_read(population, rows))
    sums, needed, outputs = on_devices(run, needed, given)
    population = trees.put(population, rows, constrained(needed))
    return sums, constrained(population), outputs
  held = placement.by_client(population, mapping)
  if (own := _rows_at_home(mapping, held, rows)) is not None:
    sums, held, outputs = on_devices(run, held, own)
  else:
    # Of the absent nothing is needed.
    is_present = jax.vmap(work.is_present)(slots.members)
    rows = jnp.where(is_present, rows, _beyond(rows))
    exchanging = functools.partial(_run_exchanging, mapping.num_devices, run)
    sums, held, outputs = on_devices(exchanging, held, given, rows)
  return sums, placement.whole(held, population, mapping), outputs


def _on_devices(
  mapping, slots, shared, function, population, rows, *everywhere
):
  """A function of the lanes of one device, `_run_lanes` or like it, on all."""
  # shard_map and not a sharded vmap: the partitioner would gather the operands
  # of mapped convolutions and compute every client on every device
  # (https://github.com/openxla/xla/issues/47945).
  return jax.shard_map(
    function,
    mesh=mapping.mesh,
    in_specs=(P(), P(AXIS), P(AXIS), *[P() for _ in everywhere]),
    out_specs=(P(), P(AXIS), P(AXIS)),
    check_vma=False,
  )(shared, population, slots.with_rows(rows), *everywhere)


def _run_exchanging(num_devices, run, shared, population, lanes, rows):
  """The lanes of one device, once the rows that it needs have come."""
  num_clients = num_devices * jax.tree.leaves(population)[0].shape[0]
  plan = exchange.plan(rows, num_devices, num_clients)
  needed = exchange.fetch(plan, population)
  sums, needed, outputs = run(shared, needed, lanes)
  return sums, exchange.give_back(plan, population, needed), outputs


def _rows_at_home(mapping, population, rows):
  """Rows as each device numbers its own, if none has to move; else None."""
  leaves = jax.tree.leaves(population)
  if mapping.num_devices == 1 or not leaves:
    return rows
  return exchange.at_home(rows, mapping.num_devices, leaves[0].shape[0])


def _run_lanes(mapping, aggregate, work, shared, population, lanes):
  """All lanes of one device; sums are those of the whole cohort."""
  run_lane = functools.partial(_run_lane, aggregate, work, shared)
  if not mapping.reproducible:
    population, (sums, outputs) = run_lane(population, trees.take(lanes, 0))
    if mapping.mesh is not None:
      sums = jax.lax.psum(sums, AXIS)
    return sums, population, jax.tree.map(lambda leaf: leaf[None], outputs)
  population, (sums, outputs) = jax.lax.scan(run_lane, population, lanes)
  if mapping.mesh is not None:
    sums = jax.lax.all_gather(sums, AXIS, tiled=True)
  num_lanes = len(jax.tree.leaves(lanes)[0]) * mapping.num_devices
  by_lane = [jax.tree.map(lambda a, i=i: a[i], sums) for i in range(num_lanes)]
  return functools.reduce(trees.add, by_lane), population, outputs


def _run_lane(aggregate, work, shared, population, lane):
  """The blocks of one lane, one after the other."""

  def step(carry, block):
    sums, population = carry
    more, population, outputs = _run_block(
      aggregate, work, shared, population, *block
    )
    return (trees.add(sums, more), population), outputs

  sums, _, _ = jax.eval_shape(
    functools.partial(_run_block, aggregate, work),
    *(shared, population, *trees.take(lane, 0)),
  )
  carry = (trees.zeros_like(sums), population)
  (sums, population), outputs = jax.lax.scan(step, carry, lane)
  return population, (sums, outputs)


def _run_block(aggregate, work, shared, population, members, rows):
  """The clients of one block at once: sums, population, outputs."""
  kept = _read(population, rows)
  if len(rows) == 1:
    # Not mapped: products with a client axis of one are slower on CPU, and
    # only here can an absent client's work be left out.
    member, own = trees.take((members, kept), 0)
    # Where everyone is present the compiler would drop the condition, and
    # without it read the row again after it was overwritten, for which it
    # copies the whole population. Of rows it knows nothing.
    is_present = work.is_present(member) & (rows[0] < _beyond(rows))
    alone = jax.lax.cond(is_present, work.run, work.skip, shared, member, own)
    done = jax.tree.map(lambda leaf: leaf[None], alone)
  else:
    done = jax.vmap(work.run, (None, 0, 0))(shared, members, kept)
  messages, infos, kept, outputs = done
  population = trees.put(population, rows, kept)
  return aggregate.partial(messages, infos), population, outputs


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
  slots = np.arange(size)
  members = trees.take(members, np.minimum(slots, num_members - 1))
  return trees.where(slots < num_members, members, absent(members))


def _padded_rows(rows, size):
  """Rows up to `size`, the added ones beyond any population.

  Padding copies a member and must not write its row: writes beyond the
  population are dropped.
  """
  pad = np.pad if isinstance(rows, np.ndarray) else jnp.pad
  return pad(rows, (0, size - len(rows)), constant_values=_beyond(rows))


def _beyond(rows):
  return np.iinfo(rows.dtype).max
