"""A coordinator: the server of a federation, which never sees data.

It computes what each site is sent, checks what comes back, adds it in the order
of the sites and lets the server program move, as `federated.execution.round`
does in one process. No transport: `roster.Transport` carries bytes, and may
lose, delay, repeat or reorder them. Sites give the same reply to a repeated
message, so that asking again is always safe, and a coordinator that was killed
asks again.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees, validate
from fedjax_gen.deployment import (
  agreement,
  collecting,
  masked_sum,
  securing as securing_lib,
  wire,
)
from fedjax_gen.deployment.agreement import Node
from fedjax_gen.deployment.collecting import Collector
from fedjax_gen.deployment.securing import Securing
from fedjax_gen.deployment.wire import Packet
from fedjax_gen.errors import InputError
from fedjax_gen.federated import sampling
from fedjax_gen.federated.algorithm import (
  Algorithm,
  ClientProgram,
  FederatedState,
)
from fedjax_gen.federated.execution import cohorts, init as init_lib
from fedjax_gen.federated.execution.round import RoundMetrics
from fedjax_gen.types import Key, Metrics, Tree

_Metrics = Mapping[int, Mapping[str, float]]  # by member


class Coordinator:
  """Rounds of one method over the members of a roster."""

  def __init__(
    self,
    method: str,
    algorithm: Algorithm,
    collector: Collector,
    messages: Sequence[Tree],
    *,
    keys: cohorts.RunKeys,
    folder: str | os.PathLike,
    least: int = 0,
    securing: Securing | None = None,
  ):
    """Prepares; nobody is asked.

    Args:
      method: its name, as sites know it.
      algorithm: the same value as sites have.
      collector: asks the members of its roster.
      messages: shapes of the message of each fleet, as of `traffic.exchanged`.
      keys: of the run: `own` is the server's, `shared` is told to the sites.
      folder: where secure sums under way are written down.
      least: sites that make a round, of all fleets together; 0 for two thirds.
      securing: to sum securely; None for messages that the coordinator sees.

    Raises:
      InputError: a fleet has no site, `least` exceeds the sites, or the method
        needs single messages and is to be secured.
    """
    members = collector.roster.members
    self.algorithm, self._method = algorithm, method
    self._collector, self._messages = collector, messages
    self._keys, self._folder = keys, pathlib.Path(folder)
    self._securing = securing
    self._fleets = [
      [i for i, member in enumerate(members) if member.node.fleet == fleet]
      for fleet in range(len(algorithm.fleets))
    ]
    if not all(self._fleets):
      raise InputError(
        f'Expected a site for each of {len(self._fleets)} fleets, got '
        f'{[len(fleet) for fleet in self._fleets]} of {method}.'
      )
    reveals = algorithm.server.aggregate.reveals
    if securing and reveals:
      raise InputError(
        f'Expected a method that needs sums alone, got {method!r} '
        f'({reveals}): a secure sum hides nothing there.'
      )
    validate.non_negative_int(least=least)
    self._least = least or masked_sum.usual_threshold(len(members))
    if len(members) < self._least and (least or securing):
      raise InputError(
        f'Expected at most {len(members)} sites to make a round, got '
        f'least={self._least}.'
      )
    self._least = min(self._least, len(members))
    if securing:
      for (_, group), few in self._cells.items():
        if len(few) < 2:
          raise InputError(
            f'Expected two sites or more in each sum of {method}, got '
            f'{members[few[0]].name!r} alone in group {group}: a secure sum '
            'would be its message.'
          )

  def init(self, key: Key) -> FederatedState:
    """The state before the first round; what sites keep is theirs."""
    server_key, *_ = init_lib.init_keys(key, len(self._fleets))
    server = jax.jit(self.algorithm.server.init)(server_key)
    return FederatedState(
      jnp.zeros((), jnp.int32), server, tuple(() for _ in self._fleets)
    )

  def round(self, state: FederatedState) -> tuple[FederatedState, RoundMetrics]:
    """One round; metrics with a leading axis of one, as many rounds have.

    Raises:
      TooFewError: not enough sites answered.
    """
    number = int(state.round)
    server_key, _, _ = cohorts.round_keys(
      self._keys.own, state.round, len(self._fleets)
    )
    requests = self._requests(state.server, number)
    ask = self._plain if self._securing is None else self._secured
    sums, found = ask(requests)
    server, metrics = _finisher(self.algorithm)(state.server, sums, server_key)
    self._collector.note(
      {
        'kind': 'round',
        'round': number + 1,
        'node': ', '.join(map(self._collector.name, sorted(found))),
      }
    )
    state = FederatedState(state.round + 1, server, state.fleets)
    return state, self._metrics(metrics, found)

  def done(self, state: FederatedState) -> None:
    """The state is saved: what was written down of its rounds can go."""
    for folder in self._folder.glob('*') if self._folder.exists() else ():
      if int(folder.name) < int(state.round):
        securing_lib.forget(folder)

  def _requests(self, server: Tree, number: int) -> dict[int, Packet]:
    shared = jax.random.fold_in(self._keys.shared, number)
    words = np.asarray(jax.random.key_data(shared)).tolist()
    requests = {}
    for i, member in enumerate(self._collector.roster.members):
      node = member.node
      view = _viewer(self.algorithm.fleets[node.fleet])(server, node.info())
      header = {
        'kind': 'train',
        'run': self._collector.roster.run,
        'method': self._method,
        'round': number,
        'fleet': node.fleet,
        'row': node.row,
        'shared': words,
      }
      requests[i] = collecting.request(header, arrays=wire.to_arrays(view))
    return requests

  def _plain(self, requests: Mapping[int, Packet]) -> tuple[list, _Metrics]:
    """Sums of messages that are seen here, and metrics that came along."""

    def read(i, packet):
      fleet = self._collector.roster.members[i].node.fleet
      message = wire.to_tree(packet.arrays, self._messages[fleet])
      if name := wire.first_non_finite(packet.arrays):
        raise InputError(f'Expected finite numbers, got others in {name}.')
      return message, packet.header.get('metrics')

    most = max(trees.num_bytes(message) for message in self._messages)
    replies = self._collector.collect(
      requests, read, least=self._least, most_bytes=most
    )
    sums = [
      self._added(fleet, {i: m for i, (m, _) in replies.items()})
      for fleet in range(len(self._fleets))
    ]
    return sums, {i: _numbers(found) for i, (_, found) in replies.items()}

  def _added(self, fleet: int, messages: Mapping[int, Tree]) -> Tree:
    """Sums of a fleet, added site after site in the order of rows."""
    total = trees.zeros_like(self._sums[fleet])
    for i in self._fleets[fleet]:
      info = self._collector.roster.members[i].node.info(present=i in messages)
      absent = trees.zeros_like(self._messages[fleet])
      total = _adder(self.algorithm)(total, messages.get(i, absent), info)
    return total

  def _secured(self, requests: Mapping[int, Packet]) -> tuple[list, _Metrics]:
    """Sums that nobody sees the parts of, and metrics that came along."""
    assert self._securing is not None
    sums = [trees.zeros_like(shapes) for shapes in self._sums]
    metrics: dict[int, Mapping[str, float]] = {}
    number = next(iter(requests.values())).header['round']
    may_miss = len(requests) - self._least
    for (fleet, group), members in self._cells.items():
      shapes = self._sums[fleet]
      result = securing_lib.summed(
        self._collector,
        self._securing,
        members,
        requests,
        sum(leaf.size for leaf in jax.tree.leaves(shapes)),
        self._folder / str(number) / f'{fleet}-{group}',
        least=len(members) - may_miss,
      )
      if result.total is None:
        continue
      sums[fleet] = trees.add(sums[fleet], _shaped(result.total, shapes))
      metrics |= {i: _numbers(found) for i, found in result.metrics.items()}
    return sums, metrics

  @functools.cached_property
  def _cells(self) -> dict[tuple[int, int], list[int]]:
    """Members of each secure sum, by fleet and group.

    A sum of its own for each group, where groups are summed apart: in one of
    all, a group of which one site is left would be that site's message.
    """
    cells: dict[tuple[int, int], list[int]] = {}
    for fleet, members in enumerate(self._fleets):
      for i in members:
        group = self._collector.roster.members[i].node.group
        if not self._knows_groups(fleet, group):
          group = 0
        cells.setdefault((fleet, group), []).append(i)
    return cells

  def _knows_groups(self, fleet: int, group: int) -> bool:
    """Whether sums of a message differ between this group and the first."""
    ones = jax.tree.map(
      lambda leaf: jnp.ones(leaf.shape, leaf.dtype), self._messages[fleet]
    )
    found = [
      jax.tree.leaves(
        agreement.sums(self.algorithm, ones, Node(fleet, 0, g, 1).info())
      )
      for g in (0, group)
    ]
    return any((a != b).any() for a, b in zip(*found, strict=True))

  def _metrics(self, server: Metrics, found: _Metrics) -> RoundMetrics:
    clients, fleet_cohorts = [], []
    for members in self._fleets:
      nodes = [self._collector.roster.members[i].node for i in members]
      present = np.array([i in found for i in members])
      weight = [node.num_examples for node in nodes]
      fleet_cohorts.append(
        sampling.Cohort(
          jnp.array([[node.row for node in nodes]], jnp.int32),
          jnp.asarray(present[None]),
          jnp.asarray(np.array([weight], np.float32) * present),
        )
      )
      told = [set(found[i]) for i in members if i in found]
      names = set.intersection(*told) if told else set()
      clients.append(
        {
          name: jnp.array(
            [[found[i][name] if i in found else 0.0 for i in members]]
          )
          for name in sorted(names)
        }
      )
    server = {name: value[None] for name, value in server.items()}
    return RoundMetrics(server, tuple(clients), tuple(fleet_cohorts))

  @functools.cached_property
  def _sums(self) -> list[Tree]:
    """Shapes of the sums of each fleet."""
    members = self._collector.roster.members
    return [
      jax.eval_shape(
        functools.partial(agreement.sums, self.algorithm),
        message,
        members[fleet[0]].node.info(),
      )
      for fleet, message in zip(self._fleets, self._messages, strict=True)
    ]


# Compiled once for an algorithm, whichever coordinator leads it.


@functools.cache
def _viewer(program: ClientProgram) -> Callable:
  return jax.jit(program.view)


@functools.cache
def _adder(algorithm: Algorithm) -> Callable:
  @jax.jit
  def add(total, message, info):
    return trees.add(total, agreement.sums(algorithm, message, info))

  return add


@functools.cache
def _finisher(algorithm: Algorithm) -> Callable:
  aggregate = algorithm.server.aggregate

  @jax.jit
  def finish(server, sums, key):
    merged = functools.reduce(aggregate.merge, sums)
    return algorithm.server.update(server, aggregate.finish(merged), key)

  return finish


def _shaped(row: np.ndarray, shapes: Tree) -> Tree:
  """Numbers in one row as the tree that `site.flat` made them of."""
  built, start = [], 0
  leaves, structure = jax.tree.flatten(shapes)
  for leaf in leaves:
    part = row[start : start + leaf.size].reshape(leaf.shape)
    start += leaf.size
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
      part = np.rint(part)
    built.append(part.astype(leaf.dtype))
  return jax.tree.unflatten(structure, built)


def _numbers(found: object) -> dict[str, float]:
  """Metrics as a site may send them: names and finite numbers."""
  if not isinstance(found, dict):
    return {}
  return {
    str(name): float(value)
    for name, value in found.items()
    if isinstance(value, (int, float)) and np.isfinite(value)
  }
