"""A communication round, and many of them as one compiled program."""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_gen import trees, validate
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.errors import InputError
from fedjax_gen.federated import aggregates, fitting, placement, sampling
from fedjax_gen.federated.algorithm import (
  Algorithm,
  ClientInfo,
  ClientProgram,
  FederatedState,
)
from fedjax_gen.federated.lanes import Work, map_clients, map_population
from fedjax_gen.federated.mapping import Mapping
from fedjax_gen.federated.placement import place as place
from fedjax_gen.types import Array, Key, Metrics, Tree


class RoundMetrics(NamedTuple):
  """What a round reports; what `round_runner` makes adds a leading `[R]` axis.

  Attributes:
    server: scalars of the server program.
    clients: one mapping of `[K]` scalars a fleet; zeros for absent clients.
    cohorts: the cohort of each fleet, whose `row` names the clients.
  """

  server: Metrics
  clients: tuple[Metrics, ...]
  cohorts: tuple[sampling.Cohort, ...]


class Traffic(NamedTuple):
  """Bytes that one client of a fleet receives and sends in a round."""

  bytes_down: int
  bytes_up: int


class _Member(NamedTuple):
  """One client of a cohort, as the engine hands it to the mapping."""

  info: ClientInfo
  slot: Array  # where the data set holds it; its row, if that is everyone's
  key: Key


def init_state(
  algorithm: Algorithm,
  datasets: Sequence[FederatedDataset],
  key: Key,
  mapping: Mapping = Mapping(),
) -> FederatedState:
  """The state before the first round.

  Args:
    algorithm: the algorithm.
    datasets: the clients of each fleet.
    key: consumed.
    mapping: of the rounds to come. With a mesh every device begins the clients
      that it will hold; without, `round_runner` has to move them there.

  Raises:
    InputError: there is not one data set for each fleet.
  """
  check_fleets(algorithm, datasets)
  datasets, key = placement.place((tuple(datasets), key), mapping)
  init = functools.partial(_init, algorithm, mapping)
  shardings = None
  if mapping.mesh is not None:
    shapes = jax.eval_shape(init, datasets, key)
    shardings = placement.state_shardings(shapes, mapping)
  # Compiled as one: an initialiser is dozens of small programs otherwise.
  return jax.jit(init, out_shardings=shardings)(datasets, key)


def _init(algorithm, mapping, datasets, key):
  server_key, *fleet_keys = init_keys(key, len(datasets))
  fleets = tuple(
    _init_fleet(mapping, program, data, fleet_key)
    for program, data, fleet_key in zip(
      algorithm.fleets, datasets, fleet_keys, strict=True
    )
  )
  server = algorithm.server.init(server_key)
  return FederatedState(jnp.zeros((), jnp.int32), server, fleets)


def _init_fleet(mapping, program, data, key):
  # One client after the other: what mapped initialisers draw is alive for all
  # of them, and can exceed what they return.
  infos = everyones_infos(data)
  if mapping.mesh is None:
    return jax.lax.map(functools.partial(init_client, program, key), infos)

  def begin(key, info):
    return (), info, init_client(program, key, info)

  def skip(key, info):
    return (), info, trees.zeros_like(jax.eval_shape(begin, key, info)[2])

  _, clients = map_clients(
    Mapping(1, mapping.mesh),
    aggregates.total(),
    Work(begin, skip, lambda info: info.present, _absent_infos),
    key,
    infos,
  )
  return clients


def init_keys(key: Key, num_fleets: int) -> Key:
  """Keys of `init_state`, `[1 + num_fleets]`: the server's, each fleet's."""
  return jax.random.split(key, 1 + num_fleets)


def init_client(program: ClientProgram, key: Key, info: ClientInfo) -> Tree:
  """What ONE client keeps before its first round, by its fleet's key."""
  return program.init(jax.random.fold_in(key, info.row), info)


def federated_round(
  algorithm: Algorithm,
  state: FederatedState,
  datasets: Sequence[FederatedDataset],
  key: Key,
  *,
  samplers: Sequence[sampling.Sampler],
  mapping: Mapping = Mapping(),
) -> tuple[FederatedState, RoundMetrics]:
  """Runs one communication round: broadcast, local work, aggregation.

  Args:
    algorithm: the algorithm.
    state: what the last round left.
    datasets: the clients of each fleet.
    key: the run's key. It is not consumed: each round folds in its number,
      so a resumed run draws what the uninterrupted one would have drawn.
    samplers: who takes part, one for each fleet.
    mapping: how clients are laid over time and devices.

  Returns:
    The state after the round, and its metrics.
  """
  cohorts = draw_cohorts(samplers, datasets, key, state.round)
  return cohort_round(
    algorithm,
    state,
    datasets,
    key,
    cohorts=cohorts,
    slots=[cohort.row for cohort in cohorts],
    mapping=mapping,
  )


def draw_cohorts(
  samplers: Sequence[sampling.Sampler],
  datasets: Sequence[FederatedDataset],
  key: Key,
  round_number: Array | int,
) -> tuple[sampling.Cohort, ...]:
  """Who takes part in a round, which does not depend on any before.

  Args:
    samplers: one for each fleet.
    datasets: the clients of each fleet; samplers read their sizes.
    key: the run's key, not consumed.
    round_number: rounds done before this one.
  """
  _, sample_keys, _ = _round_keys(key, round_number, len(datasets))
  return tuple(
    sampler(sample_key, data)
    for sampler, data, sample_key in zip(
      samplers, datasets, sample_keys, strict=True
    )
  )


def cohort_round(
  algorithm: Algorithm,
  state: FederatedState,
  datasets: Sequence[FederatedDataset],
  key: Key,
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
    key: the run's key, not consumed.
    cohorts: one for each fleet, `[K]` rows of the population.
    slots: for each fleet `[K]` distinct places of the cohort's clients in data
      set and state.
    mapping: how clients are laid over time and devices.

  Returns:
    The state after the round, and its metrics.
  """
  aggregate = algorithm.server.aggregate
  server_key, _, client_keys = _round_keys(
    key, state.round, len(algorithm.fleets)
  )
  sums, fleets, client_metrics = zip(
    *(
      _fleet_round(
        aggregate, program, state.server, clients, data, cohort, places,
        mapping, client_key,
      )
      for program, clients, data, cohort, places, client_key in zip(
        algorithm.fleets, state.fleets, datasets, cohorts, slots, client_keys,
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


def _round_keys(key, round_number, num_fleets):
  """Keys of a round: the server's, each fleet's for sampling, for clients."""
  server_key, *fleet_keys = jax.random.split(
    jax.random.fold_in(key, round_number), 1 + num_fleets
  )
  sample_keys, client_keys = zip(
    *(jax.random.split(fleet_key) for fleet_key in fleet_keys), strict=True
  )
  return server_key, sample_keys, client_keys


def _fleet_round(
  aggregate, program, server, clients, data, cohort, slots, mapping, key
):
  """Runs the cohort of one fleet; axis 0 is the client axis."""
  members = _Member(
    info=_infos(data, cohort, slots),
    slot=slots,
    # By row and not by slot: who else was sampled changes nothing.
    key=jax.vmap(jax.random.fold_in, (None, 0))(key, cohort.row),
  )
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

  def run(shared, member: _Member, client):
    (server, data), (info, slot, key) = shared, member
    local_data = data.client(slot)._replace(size=info.num_examples)
    view = program.view(server, info)
    message, trained, metrics = program.update(view, client, local_data, key)
    client = trees.where(info.present, trained, client)
    metrics = trees.where(info.present, metrics, trees.zeros_like(metrics))
    return message, info, client, metrics

  def skip(shared, member: _Member, client):
    message, _, _, metrics = jax.eval_shape(run, shared, member, client)
    message, metrics = trees.zeros_like((message, metrics))
    return message, member.info, client, metrics

  return Work(run, skip, lambda member: member.info.present, _absent)


class Runner:
  """Rounds as one compiled program; `round_runner` makes it.

  Attributes:
    algorithm: what runs.
    samplers: who takes part, one for each fleet.
    mapping: how clients are laid over time and devices; with
      `block_size='auto'` on an accelerator, from the first call on, the
      largest block that fits (`fitting.fitted`).
  """

  def __init__(
    self,
    algorithm: Algorithm,
    samplers: Sequence[sampling.Sampler],
    mapping: Mapping,
  ):
    self.algorithm = algorithm
    self.samplers = samplers
    self.mapping = mapping
    self._compiled: Any = None

  def __call__(
    self,
    state: FederatedState,
    datasets: Sequence[FederatedDataset],
    key: Key,
    num_rounds: int,
  ) -> tuple[FederatedState, RoundMetrics]:
    """Runs rounds; the state given is donated."""
    arguments = self._placed(state, datasets, key, num_rounds)
    if self._compiled is None:
      self.mapping = self._fitted(arguments, num_rounds)
      self._compiled = self._program(self.mapping, arguments[0])
    return self._compiled(*arguments, num_rounds)

  def temporary_bytes(
    self,
    state: FederatedState,
    datasets: Sequence[FederatedDataset],
    key: Key,
    num_rounds: int,
  ) -> int:
    """Memory that the program needs beside its arguments and results.

    By the compiler's own analysis, of one device. It compiles, or finds the
    program in the compilation cache, and runs nothing.
    """
    arguments = self._placed(state, datasets, key, num_rounds)
    return self._needed(self.mapping, arguments, num_rounds)

  def lowered(
    self,
    state: FederatedState,
    datasets: Sequence[FederatedDataset],
    key: Key,
    num_rounds: int,
  ) -> jax.stages.Lowered:
    """The program before it is compiled, to look at."""
    arguments = self._placed(state, datasets, key, num_rounds)
    program = self._program(self.mapping, arguments[0])
    return program.lower(*arguments, num_rounds)

  def _placed(self, state, datasets, key, num_rounds):
    check_fleets(self.algorithm, datasets)
    validate.positive_int(num_rounds=num_rounds)
    state = placement.place_state(state, self.mapping)
    return state, *placement.place((tuple(datasets), key), self.mapping)

  def _needed(self, mapping, arguments, num_rounds) -> int:
    program = self._program(mapping, arguments[0])
    compiled = program.lower(*arguments, num_rounds).compile()
    return int(compiled.memory_analysis().temp_size_in_bytes)

  def _fitted(self, arguments, num_rounds) -> Mapping:
    _, datasets, key = arguments
    cohorts = [
      jax.eval_shape(sampler, key, data).row.shape[0]
      for sampler, data in zip(self.samplers, datasets, strict=True)
    ]
    return fitting.fitted(
      self.mapping,
      max(cohorts),
      lambda mapping: self._needed(mapping, arguments, num_rounds),
      fitting.free_bytes(),
    )

  def _program(self, mapping: Mapping, state: FederatedState):
    """`(state, datasets, key, num_rounds) -> (state, metrics)`, jitted."""

    @functools.partial(
      jax.jit,
      static_argnames='num_rounds',
      donate_argnums=0,
      out_shardings=(
        placement.state_shardings(state, mapping),
        placement.replicated(mapping),
      ),
    )
    def program(state, datasets, key, num_rounds):
      def body(state, _):
        return federated_round(
          self.algorithm,
          state,
          datasets,
          key,
          samplers=self.samplers,
          mapping=mapping,
        )

      # For all rounds at once: where rows lie whole already, it is nothing.
      by_client = placement.by_client(state.fleets, mapping)
      after, metrics = jax.lax.scan(
        body, state._replace(fleets=by_client), length=num_rounds
      )
      fleets = placement.whole(after.fleets, state.fleets, mapping)
      return after._replace(fleets=fleets), metrics

    return program


def round_runner(
  algorithm: Algorithm,
  *,
  samplers: Sequence[sampling.Sampler] | None = None,
  mapping: Mapping = Mapping(),
) -> Runner:
  """Compiles many rounds into one program.

  Args:
    algorithm: the algorithm.
    samplers: who takes part, one for each fleet; everyone by default.
    mapping: how clients are laid over time and devices.

  Returns:
    `run(state, datasets, key, num_rounds) -> (state, metrics)`, metrics with
    a leading `[R]` axis. The state given is donated: use the one returned.
    It compiles once for each `num_rounds`.
  """
  if samplers is None:
    samplers = [sampling.everyone()] * len(algorithm.fleets)
  return Runner(algorithm, samplers, mapping)


def traffic(
  algorithm: Algorithm, datasets: Sequence[FederatedDataset]
) -> tuple[Traffic, ...]:
  """The communication meter: bytes down and up per client, for each fleet.

  Read from the shapes of view and message, so it costs no computation.
  """
  return tuple(
    Traffic(trees.num_bytes(view), trees.num_bytes(message))
    for view, message in exchanged(algorithm, datasets)
  )


def exchanged(
  algorithm: Algorithm, datasets: Sequence[FederatedDataset]
) -> tuple[tuple[Tree, Tree], ...]:
  """Shapes of one client's view and message, for each fleet."""
  check_fleets(algorithm, datasets)
  state = jax.eval_shape(
    functools.partial(init_state, algorithm), tuple(datasets), jax.random.key(0)
  )

  def exchange(program, server, clients, data, key):
    info = jax.tree.map(lambda a: a[0], everyones_infos(data))
    view = program.view(server, info)
    client = jax.tree.map(lambda leaf: leaf[0], clients)
    message, _, _ = program.update(view, client, data.client(info.row), key)
    return view, message

  return tuple(
    jax.eval_shape(
      functools.partial(exchange, program),
      state.server,
      clients,
      data,
      jax.random.key(0),
    )
    for program, clients, data in zip(
      algorithm.fleets, state.fleets, datasets, strict=True
    )
  )


def everyones_infos(
  data: FederatedDataset, rows: Array | None = None
) -> ClientInfo:
  """The infos of a data set's clients, all present, `[N]`.

  Args:
    data: the clients.
    rows: `[N]` their rows in a larger population that they were taken from.
  """
  everyone = sampling.everyone()(jax.random.key(0), data)
  infos = _infos(data, everyone, everyone.row)
  return infos if rows is None else infos._replace(row=rows)


def _infos(
  data: FederatedDataset, cohort: sampling.Cohort, slots: Array
) -> ClientInfo:
  """The infos of a cohort, `[K]`; absent clients count and hold nothing."""
  return ClientInfo(
    row=cohort.row,
    group=data.groups[slots],
    num_examples=jnp.where(cohort.present, data.sizes[slots], 0),
    weight=jnp.where(cohort.present, cohort.weight, 0.0),
    present=cohort.present,
  )


def _absent(members: _Member) -> _Member:
  """The same members, counting for nothing."""
  return members._replace(info=_absent_infos(members.info))


def _absent_infos(infos: ClientInfo) -> ClientInfo:
  zero: Array = jnp.zeros_like(infos.num_examples)
  return infos._replace(
    num_examples=zero,
    weight=jnp.zeros_like(infos.weight),
    present=jnp.zeros_like(infos.present),
  )


def check_fleets(
  algorithm: Algorithm, datasets: Sequence[FederatedDataset]
) -> None:
  """Raises `InputError` unless there is one data set for each fleet."""
  if len(algorithm.fleets) != len(datasets):
    raise InputError(
      f'Expected one data set for each of {len(algorithm.fleets)} fleets, '
      f'got {len(datasets)}.'
    )
