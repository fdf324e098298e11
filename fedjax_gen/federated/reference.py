"""Rounds as a script would run them: a plain Python loop over clients.

The engine maps clients over blocks, lanes and devices inside one compiled
program. This loop does the same work as papers write it down: for each client
one call of a compiled step, one after the other. It is what the engine must
agree with (`tests/algorithms/contract_test.py`, for every algorithm), what its
speed is compared with (`benchmarks`), and the shortest way to see what a round
is:

    for each client that takes part:
      message = client update(view of the server's state, own state, own data)
      sums = sums + partial(message)
    server = server update(server, finish(sums))

Keys are derived as the engine derives them, so both draw the same cohorts,
batches and noise.
"""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_gen import trees, validate
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.federated import sampling
from fedjax_gen.federated.aggregates import Aggregate
from fedjax_gen.federated.algorithm import (
  Algorithm,
  ClientProgram,
  FederatedState,
)
from fedjax_gen.federated.execution import cohorts as cohorts_lib
from fedjax_gen.federated.execution.cohorts import Member, RunKeys
from fedjax_gen.federated.execution.round import RoundMetrics
from fedjax_gen.types import Key, Tree


class _Totals(NamedTuple):
  """What the steps of one fleet pass on, in buffers that they reuse."""

  clients: Tree  # what all clients of the fleet keep, leaves `[N, ...]`
  sums: Tree
  metrics: Tree  # leaves `[K]`; those of absent clients stay zero


class Loop:
  """Rounds as a Python loop over clients; `round_loop` makes it."""

  def __init__(
    self, algorithm: Algorithm, samplers: Sequence[sampling.Sampler]
  ):
    self.algorithm = algorithm
    self.samplers = samplers
    aggregate = algorithm.server.aggregate
    self._work = [_work(program, aggregate) for program in algorithm.fleets]
    self._steps = [_step(work) for work in self._work]
    self._begin = jax.jit(self._drawn)
    self._finish = jax.jit(self._finished)

  def __call__(
    self,
    state: FederatedState,
    datasets: Sequence[FederatedDataset],
    key: Key | RunKeys,
    num_rounds: int,
  ) -> tuple[FederatedState, RoundMetrics]:
    """Runs rounds, as `rounds.Runner` does; the state given is donated."""
    cohorts_lib.check_fleets(self.algorithm, datasets)
    validate.positive_int(num_rounds=num_rounds)
    log = []
    for _ in range(num_rounds):
      state, metrics = self._round(state, datasets, key)
      log.append(metrics)
    return state, jax.tree.map(lambda *leaves: np.stack(leaves), *log)

  def lowered(
    self,
    state: FederatedState,
    datasets: Sequence[FederatedDataset],
    key: Key | RunKeys,
  ) -> list[tuple[jax.stages.Lowered, int]]:
    """The step of each fleet before it is compiled, and its calls a round."""
    _, cohorts, everyone = self._begin(datasets, key, state.round)
    totals = self._zeros(state, datasets, everyone)
    return [
      (
        step.lower(total, state.server, data, members, 0),
        int(cohort.present.sum()),
      )
      for step, total, data, members, cohort in zip(
        self._steps, totals, datasets, everyone, cohorts, strict=True
      )
    ]

  def _round(self, state, datasets, key):
    server_key, cohorts, everyone = self._begin(datasets, key, state.round)
    totals = self._zeros(state, datasets, everyone)
    for fleet, (data, members, cohort) in enumerate(
      zip(datasets, everyone, cohorts, strict=True)
    ):
      for place in np.flatnonzero(cohort.present):
        totals[fleet] = self._steps[fleet](
          totals[fleet], state.server, data, members, place
        )
    server, metrics = self._finish(
      state.server, [total.sums for total in totals], server_key
    )
    fleets = tuple(total.clients for total in totals)
    return FederatedState(state.round + 1, server, fleets), RoundMetrics(
      metrics, tuple(total.metrics for total in totals), cohorts
    )

  def _drawn(self, datasets, key, round_number):
    """The server's key of a round, its cohorts, and their members."""
    keys = cohorts_lib.run_keys(key)
    server_key, _, own_keys = cohorts_lib.round_keys(
      keys.own, round_number, len(datasets)
    )
    cohorts = cohorts_lib.draw_cohorts(
      self.samplers, datasets, key, round_number
    )
    members = [
      Member(
        cohorts_lib.infos(data, cohort, cohort.row),
        cohort.row,
        cohorts_lib.client_keys(own_key, keys.shared, round_number, cohort.row),
      )
      for data, cohort, own_key in zip(datasets, cohorts, own_keys, strict=True)
    ]
    return server_key, cohorts, members

  def _zeros(self, state, datasets, everyone) -> list[_Totals]:
    """The clients' states, and nothing added up yet."""
    totals = []
    for work, clients, data, members in zip(
      self._work, state.fleets, datasets, everyone, strict=True
    ):
      sums, _, metrics = jax.eval_shape(
        work, state.server, clients, data, trees.take(members, 0)
      )
      count = len(members.slot)
      log = jax.tree.map(
        lambda leaf, count=count: np.zeros((count, *leaf.shape), leaf.dtype),
        metrics,
      )
      totals.append(_Totals(clients, trees.zeros_like(sums), log))
    return totals

  def _finished(self, server, sums, key):
    rule, update = self.algorithm.server.aggregate, self.algorithm.server.update
    return update(server, rule.finish(functools.reduce(rule.merge, sums)), key)


def round_loop(
  algorithm: Algorithm, *, samplers: Sequence[sampling.Sampler] | None = None
) -> Loop:
  """A plain loop over clients, called as what `rounds.round_runner` makes.

  It is slow where clients are many and small: each is a call of a compiled
  step. Use it to check an algorithm or the engine, not to train.

  Returns:
    `run(state, datasets, key, num_rounds) -> (state, metrics)`, with the
    numbers of `rounds.round_runner` to float tolerance.

  Example: two clients agree on the mean of their examples.
    >>> import jax.numpy as jnp
    >>> from fedjax_gen.data import partition
    >>> from fedjax_gen.data.federated import federated_dataset
    >>> from fedjax_gen.federated import aggregates, rounds
    >>> from fedjax_gen.federated.algorithm import ServerProgram
    >>> client = ClientProgram(
    ...   init=lambda key, info: (),
    ...   view=lambda server, info: (),
    ...   update=lambda view, client, data, keys: (
    ...     data.everything().inputs.mean(axis=0), client, {}
    ...   ),
    ... )
    >>> server = ServerProgram(
    ...   init=lambda key: jnp.zeros(1),
    ...   aggregate=aggregates.weighted_mean(),
    ...   update=lambda server, mean, key: (mean, {}),
    ... )
    >>> algorithm = Algorithm(server, (client,))
    >>> data = federated_dataset(
    ...   np.array([[1.0], [2.0], [3.0], [6.0]], np.float32),
    ...   np.zeros(4, np.int32),
    ...   partition.iid(4, 2, seed=0),
    ... )
    >>> state = rounds.init_state(algorithm, [data], jax.random.key(0))
    >>> state, _ = round_loop(algorithm)(state, [data], jax.random.key(1), 1)
    >>> state.server.tolist()
    [3.0]
  """
  if samplers is None:
    samplers = [sampling.everyone()] * len(algorithm.fleets)
  return Loop(algorithm, samplers)


def _work(program: ClientProgram, aggregate: Aggregate) -> Any:
  """`(server, clients, data, member) -> (sums, client, metrics)`, of ONE."""

  @functools.partial(jax.jit, inline=True)  # traced once for all its callers
  def work(server, clients, data, member):
    info, slot, keys = member
    view = program.view(server, info)
    message, client, metrics = program.update(
      view, trees.take(clients, slot), data.client(slot), keys
    )
    one = jax.tree.map(lambda leaf: leaf[None], (message, info))
    return aggregate.partial(*one), client, metrics

  return work


def _step(work) -> Any:
  """One client: `(totals, server, data, members, place) -> totals`."""

  @functools.partial(jax.jit, donate_argnums=0)
  def step(totals, server, data, members, place):
    member = trees.take(members, place)
    sums, client, metrics = work(server, totals.clients, data, member)
    return _Totals(
      trees.put(totals.clients, member.slot, client),
      trees.add(totals.sums, sums),
      trees.put(totals.metrics, place, metrics),
    )

  return step
