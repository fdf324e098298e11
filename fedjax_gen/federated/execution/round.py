"""A communication round: broadcast, local work, aggregation."""

from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax

from fedjax_gen import trees
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.federated import sampling
from fedjax_gen.federated.algorithm import (
  Algorithm,
  ClientProgram,
  FederatedState,
)
from fedjax_gen.federated.execution import cohorts as cohorts_lib
from fedjax_gen.federated.execution.cohorts import Member, RunKeys
from fedjax_gen.federated.execution.lanes import Work, map_population
from fedjax_gen.federated.mapping import Mapping
from fedjax_gen.types import Array, Key, Metrics


class RoundMetrics(NamedTuple):
  """What a round reports; what `round_runner` makes adds a leading `[R]` axis.

  Attributes:
    server: scalars of the server program.
    clients: one mapping of `[K]` scalars a fleet; zeros for absent clients.
    cohorts: the cohort of each fleet; its `row` names the clients.
  """

  server: Metrics
  clients: tuple[Metrics, ...]
  cohorts: tuple[sampling.Cohort, ...]


def federated_round(
  algorithm: Algorithm,
  state: FederatedState,
  datasets: Sequence[FederatedDataset],
  key: Key | RunKeys,
  *,
  samplers: Sequence[sampling.Sampler],
  mapping: Mapping = Mapping(),
) -> tuple[FederatedState, RoundMetrics]:
  """Runs one communication round: broadcast, local work, aggregation.

  Args:
    algorithm: the algorithm.
    state: what the last round left.
    datasets: the clients of each fleet.
    key: the run's, one for everything or `RunKeys`. It is not consumed: each
      round folds in its number, so a resumed run draws what the uninterrupted
      one would have drawn.
    samplers: who takes part, one for each fleet.
    mapping: how clients are laid over time and devices.

  Returns:
    The state after the round, and its metrics.
  """
  cohorts = cohorts_lib.draw_cohorts(samplers, datasets, key, state.round)
  return cohort_round(
    algorithm,
    state,
    datasets,
    key,
    cohorts=cohorts,
    slots=[cohort.row for cohort in cohorts],
    mapping=mapping,
  )


def cohort_round(
  algorithm: Algorithm,
  state: FederatedState,
  datasets: Sequence[FederatedDataset],
  key: Key | RunKeys,
  *,
  cohorts: Sequence[sampling.Cohort],
  slots: Sequence[Array],
  mapping: Mapping = Mapping(),
) -> tuple[FederatedState, RoundMetrics]:
  """`federated_round` with the cohorts drawn before.

  Data sets and the clients' states need hold no more than the cohorts: a
  client's keys and what algorithms know it by follow its row in the
  population, whatever slot it lies in.

  Args:
    algorithm: the algorithm.
    state: what the last round left; leaves of `fleets` as the data sets' axis.
    datasets: of each fleet the clients that slots name.
    key: the run's, not consumed.
    cohorts: one for each fleet, `[K]` rows of the population.
    slots: for each fleet `[K]` distinct places of the cohort's clients in data
      set and state.
    mapping: how clients are laid over time and devices.

  Returns:
    The state after the round, and its metrics.
  """
  aggregate = algorithm.server.aggregate
  keys = cohorts_lib.run_keys(key)
  server_key, _, own_keys = cohorts_lib.round_keys(
    keys.own, state.round, len(algorithm.fleets)
  )
  sums, fleets, client_metrics = zip(
    *(
      _fleet_round(
        aggregate, program, state.server, clients, data, cohort, places,
        mapping,
        cohorts_lib.client_keys(own_key, keys.shared, state.round, cohort.row),
      )
      for program, clients, data, cohort, places, own_key in zip(
        algorithm.fleets, state.fleets, datasets, cohorts, slots, own_keys,
        strict=True,
      )
    ),
    strict=True,
  )  # fmt: skip
  aggregated = aggregate.finish(functools.reduce(aggregate.merge, sums))
  server, server_metrics = algorithm.server.update(
    state.server, aggregated, server_key
  )
  state = FederatedState(state.round + 1, server, fleets)
  return state, RoundMetrics(server_metrics, client_metrics, tuple(cohorts))


def _fleet_round(
  aggregate, program, server, clients, data, cohort, slots, mapping, keys
):
  """Runs the cohort of one fleet; axis 0 is the client axis."""
  members = Member(cohorts_lib.infos(data, cohort, slots), slots, keys)
  sums, clients, metrics = map_population(
    mapping,
    aggregate,
    _work(program),
    (server, data),
    members,
    slots,
    clients,
  )
  return sums, clients, metrics


def _work(program: ClientProgram) -> Work:
  """The work of ONE client: what it receives, does, sends and keeps."""

  def run(shared, member: Member, client):
    (server, data), (info, slot, keys) = shared, member
    local_data = data.client(slot)._replace(size=info.num_examples)
    view = program.view(server, info)
    message, trained, metrics = program.update(view, client, local_data, keys)
    client = trees.where(info.present, trained, client)
    metrics = trees.where(info.present, metrics, trees.zeros_like(metrics))
    return message, info, client, metrics

  def skip(shared, member: Member, client):
    message, _, _, metrics = jax.eval_shape(run, shared, member, client)
    message, metrics = trees.zeros_like((message, metrics))
    return message, member.info, client, metrics

  return Work(run, skip, lambda member: member.info.present, cohorts_lib.absent)
