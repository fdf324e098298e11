"""Asking every client once, outside the rounds.

In `rounds` the server receives sums. Here THE SERVER SEES THE REPORT OF EVERY
CLIENT, by name: clustering clients needs that, and no secure summation can hide
it. Ask for as little as possible: a report of means and variances of a client's
examples tells what kind of examples it holds, how uniform they are and, if they
are few, nearly what each of them is. Nothing here adds noise. `collect_bytes`
says how much leaves a client.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np

from fedjax_gen import trees
from fedjax_gen.data.federated import ClientData, FederatedDataset
from fedjax_gen.errors import InputError
from fedjax_gen.federated import aggregates, rounds
from fedjax_gen.federated.algorithm import ClientInfo
from fedjax_gen.federated.execution.lanes import Work, map_clients
from fedjax_gen.federated.mapping import Mapping
from fedjax_gen.types import Array, Key, Tree

Report = Callable[[Tree, ClientInfo, ClientData, Key], Tree]
"""`(shared, info, data, key) -> tree`, written for one client."""


class _Member(NamedTuple):
  """One client that is asked."""

  info: ClientInfo
  key: Key


def collect(
  report: Report,
  shared: Tree,
  data: FederatedDataset,
  key: Key,
  *,
  rows: np.ndarray | None = None,
  mapping: Mapping = Mapping(),
) -> Tree:
  """The report of every client; the server sees all of them.

  Compiled once for each `report`, so build that once too. A block's work is
  alive at a time, and the reports of all.

  Args:
    report: what ONE client reports. A client without examples is asked too.
    shared: what every client reads, for instance the server's model.
    data: the clients.
    key: consumed. A client's own key depends on this and on its row in `data`,
      so that who else is asked changes nothing.
    rows: `[K]` clients to ask, all of them by default. To ask clients that
      were not there before, name their rows here rather than `data.select`
      them, which numbers clients anew.
    mapping: how clients are laid over time and devices.

  Returns:
    A tree with leaves `[K, ...]`, in the order of `rows`.
  """
  if rows is None:
    rows = np.arange(data.num_clients)
  rows = np.asarray(rows)
  in_range = (rows >= 0) & (rows < data.num_clients)
  if rows.ndim != 1 or rows.size == 0 or not in_range.all():
    raise InputError(
      f'Expected rows to be indices in [0, {data.num_clients}), got '
      f'rows={rows.tolist()}.'
    )
  asked = jnp.asarray(rows, jnp.int32)
  return _collect(
    report, mapping, *rounds.place((shared, data, key, asked), mapping)
  )


def collect_bytes(report: Report, shared: Tree, data: FederatedDataset) -> int:
  """Bytes that each client sends in `collect`; computes nothing.

  What goes down is `shared`, of `trees.num_bytes(shared)` bytes.
  """

  def first(shared, data, key):
    return _ask(report, shared, data, _members(data, jnp.int32(0), key))

  return trees.num_bytes(jax.eval_shape(first, shared, data, jax.random.key(0)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _collect(report, mapping, shared, data, key, rows):
  def run(shared_and_data, member):
    shared, data = shared_and_data
    return (), member.info, _ask(report, shared, data, member)

  def skip(shared_and_data, member):
    _, info, answer = jax.eval_shape(run, shared_and_data, member)
    del info  # shapes alone
    return (), member.info, trees.zeros_like(answer)

  members = jax.vmap(_members, (None, 0, None))(data, rows, key)
  _, answers = map_clients(
    mapping,
    aggregates.total(),
    Work(run, skip, lambda member: member.info.present, _absent),
    (shared, data),
    members,
  )
  if mapping.mesh is None:
    return answers
  return jax.lax.with_sharding_constraint(
    answers, NamedSharding(mapping.mesh, P())
  )


def _ask(
  report: Report, shared: Tree, data: FederatedDataset, member: _Member
) -> Tree:
  """What one client answers."""
  local_data = data.client(member.info.row)
  return report(shared, member.info, local_data, member.key)


def _members(data: FederatedDataset, row: Array, key: Key) -> _Member:
  size = data.sizes[row]
  info = ClientInfo(
    row=row,
    group=data.groups[row],
    num_examples=size,
    weight=size.astype(jnp.float32),
    present=jnp.ones((), bool),
  )
  return _Member(info, jax.random.fold_in(key, row))


def _absent(members: _Member) -> _Member:
  """The same members as padding; their answers are discarded."""
  absent: Array = jnp.zeros_like(members.info.present)
  return members._replace(info=members.info._replace(present=absent))
