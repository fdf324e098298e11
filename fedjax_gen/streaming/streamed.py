"""Rounds of a population on the host; the device has the cohort only.

As in

    run = streamed.streamed_runner(
      algorithm, [data], init_key, folder='rows',
      samplers=[sampling.uniform(1000)],
    )
    state, metrics = run(run.init_state(), [data], key, num_rounds)

The bits are those of `rounds.round_runner`: keys follow a client's row in the
population, and a client that never took part is initialised, on the device,
when it first does. While a round runs, a thread brings the next cohort; rows
that both cohorts share wait for the round to write them.
"""

from collections.abc import Callable, Sequence
from concurrent import futures
import functools
import os
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np

from fedjax_gen import validate
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.errors import InputError
from fedjax_gen.federated import beginning, cohorts, rounds, sampling
from fedjax_gen.federated.algorithm import (
  Algorithm,
  ClientInfo,
  ClientProgram,
  FederatedState,
)
from fedjax_gen.federated.mapping import Mapping
from fedjax_gen.federated.round import cohort_round
from fedjax_gen.streaming import gathering
from fedjax_gen.streaming.fetching import Fetched, Fetcher, Members
from fedjax_gen.streaming.row_files import RowFiles
from fedjax_gen.types import Key, Tree


class _Ahead(NamedTuple):
  """A cohort that is being fetched, and what it is fetched for."""

  tables: tuple[np.ndarray, ...]
  key: Key
  fetched: futures.Future


class StreamedRunner:
  """Rounds that move the cohort only; `streamed_runner` makes it.

  Its state is a `FederatedState` whose `fleets` are tables of `RowFiles`,
  `[N]` uint8: a population in files, as small as a checkpoint of it.
  """

  def __init__(
    self,
    algorithm: Algorithm,
    datasets: Sequence[FederatedDataset],
    init_key: Key,
    files: Sequence[RowFiles],
    fetcher: Fetcher,
    compiled: Callable,
    *,
    prefetch: bool,
  ):
    self._algorithm, self._compiled = algorithm, compiled
    self._datasets, self._files = tuple(datasets), tuple(files)
    self._init_keys = beginning.init_keys(init_key, len(datasets))
    self._fetcher, self._prefetch = fetcher, prefetch
    self._thread = futures.ThreadPoolExecutor(1, 'next_cohort')
    self._ahead: _Ahead | None = None

  def init_state(self) -> FederatedState:
    """The state before the first round; nobody has a row yet."""
    return FederatedState(
      jnp.zeros((), jnp.int32),
      jax.jit(self._algorithm.server.init)(self._init_keys[0]),
      tuple(np.zeros(d.num_clients, np.uint8) for d in self._datasets),
    )

  def __call__(
    self,
    state: FederatedState,
    datasets: Sequence[FederatedDataset],
    key: Key,
    num_rounds: int,
  ) -> tuple[FederatedState, rounds.RoundMetrics]:
    """Runs rounds, as `rounds.Runner` does; the state given is used up.

    Raises:
      InputError: `datasets` are not those that it was made for.
    """
    validate.positive_int(num_rounds=num_rounds)
    if [*map(id, datasets)] != [*map(id, self._datasets)]:
      raise InputError(
        'Expected datasets to be the very ones that streamed_runner was '
        f'given, got {len(datasets)} others.'
      )
    log = []
    for _ in range(num_rounds):
      state, metrics = self._round(state, key)
      log.append(metrics)
    return state, jax.tree.map(lambda *leaves: np.stack(leaves), *log)

  def client_states(
    self, state: FederatedState, rows: np.ndarray, *, fleet: int = 0
  ) -> Tree:
    """What some clients of a fleet keep, leaves `[k, ...]`.

    Args:
      state: what the last call returned, or one that `keep` was told.
      rows: `[k]` rows of the population.
      fleet: which fleet.
    """
    rows = np.asarray(rows, np.int32)
    table = np.asarray(state.fleets[fleet])
    present = jnp.ones(len(rows), bool)
    cohort = sampling.Cohort(jnp.asarray(rows), present, present.astype(float))
    # Their infos need sizes and groups, for which no example is read.
    data = gathering.clients_only(self._datasets[fleet].select(rows))
    kept = self._files[fleet].read(table, rows)
    return _begin(
      self._algorithm.fleets[fleet],
      self._init_keys[1 + fleet],
      Members(cohort, data, kept, jnp.asarray(table[rows] == 0)),
    )

  def keep(self, populations: Sequence[tuple[np.ndarray, ...]]) -> None:
    """Says which populations to keep, those of checkpoints; no others stay.

    Args:
      populations: the `fleets` of states, which stay valid until told again.
    """
    for fleet, file in enumerate(self._files):
      file.keep([population[fleet] for population in populations])

  def flush(self) -> None:
    """Returns when all rows written have reached the disk."""
    for file in self._files:
      file.flush()

  def _round(self, state, key):
    """One round; the next one's cohort is fetched meanwhile."""
    number = int(state.round)
    tables = tuple(map(np.asarray, state.fleets))
    fetched = self._fetched(state, number, key, tables)
    members = self._fetcher.complete(fetched, tables)
    if self._prefetch:
      # Drawn before the round begins: a device does one after the other.
      cohorts = self._fetcher.draw(number + 1, key)
      coming = self._thread.submit(
        self._fetcher.fetch, cohorts, tables, [f.present for f in fetched]
      )
    after, metrics = self._compiled(
      state.server, np.int32(number), members, key, self._init_keys
    )
    tables = self._written(tables, fetched, after.fleets)
    if self._prefetch:
      self._ahead = _Ahead(tables, key, coming)
    metrics = jax.tree.map(np.asarray, metrics)
    return FederatedState(after.round, after.server, tables), metrics

  def _fetched(self, state, number, key, tables) -> list[Fetched]:
    """The round's cohort, fetched ahead if that was for this very state."""
    ahead, self._ahead = self._ahead, None
    if ahead is not None:
      fetched = ahead.fetched.result()  # raises what the thread raised
      if ahead.tables is state.fleets and _is_same(ahead.key, key):
        return fetched
    return self._fetcher.fetch(self._fetcher.draw(number, key), tables)

  def _written(self, tables, fetched, fleets):
    """The population after the present clients' rows are written."""
    written = []
    for file, table, fleet, kept in zip(
      self._files, tables, fetched, fleets, strict=True
    ):
      present = fleet.cohort.present
      rows = jax.tree.map(lambda leaf, p=present: np.asarray(leaf)[p], kept)
      written.append(file.write(table, fleet.present, rows))
    return tuple(written)


def streamed_runner(
  algorithm: Algorithm,
  datasets: Sequence[FederatedDataset],
  init_key: Key,
  *,
  folder: str | os.PathLike,
  samplers: Sequence[sampling.Sampler],
  mapping: Mapping = Mapping(),
  prefetch: bool = True,
) -> StreamedRunner:
  """Rounds of data sets on the host, one after the other.

  One program serves all rounds. On the device are the server's state, the
  cohort's rows and examples, as many as its largest clients have together,
  and the sizes of all clients; the host holds the next cohort besides.

  Args:
    algorithm: the algorithm.
    datasets: the clients of each fleet, `federated_dataset(on_host=True)`.
    init_key: what `rounds.init_state` would be given.
    folder: where files of what clients keep lie, or are made.
    samplers: who takes part, one for each fleet.
    mapping: how clients are laid over time and devices.
    prefetch: whether the next cohort is brought while a round runs.

  Returns:
    `run(state, datasets, key, num_rounds) -> (state, metrics)`, metrics with a
    leading `[R]` axis, NumPy arrays. Begin with `run.init_state()`. The state
    given is used up, unless `run.keep` was told of it.

  Raises:
    InputError: numbers of fleets differ, a data set lies on the device, or a
      client keeps what files cannot hold.
  """
  cohorts.check_fleets(algorithm, datasets)
  if len(samplers) != len(datasets):
    raise InputError(
      f'Expected a sampler for each of {len(datasets)} fleets, got '
      f'{len(samplers)}.'
    )
  for number, data in enumerate(datasets):
    if not data.is_on_host:
      raise InputError(
        f'Expected data sets on the host, made with on_host=True, got '
        f'datasets[{number}] on the device.'
      )
  files = [
    RowFiles(pathlib.Path(folder) / f'fleet_{number}', _one_client(program))
    for number, program in enumerate(algorithm.fleets)
  ]
  return StreamedRunner(
    algorithm,
    datasets,
    init_key,
    files,
    Fetcher(datasets, files, samplers, mapping),
    _compiled_round(algorithm, mapping),
    prefetch=prefetch,
  )


def _compiled_round(algorithm: Algorithm, mapping: Mapping):
  """`(server, round, members, key, init keys) -> (state, metrics)`."""
  everywhere = None
  if mapping.mesh is not None:
    everywhere = NamedSharding(mapping.mesh, P())

  @functools.partial(jax.jit, donate_argnums=0, out_shardings=everywhere)
  def run(server, round_number, members, key, init_keys):
    fleets = tuple(
      _begun(*fleet)
      for fleet in zip(algorithm.fleets, init_keys[1:], members, strict=True)
    )
    return cohort_round(
      algorithm,
      FederatedState(round_number, server, fleets),
      [fleet.data for fleet in members],
      key,
      cohorts=[fleet.cohort for fleet in members],
      slots=[jnp.arange(len(fleet.is_new)) for fleet in members],
      mapping=mapping,
    )

  return run


def _begun(program: ClientProgram, key: Key, members: Members) -> Tree:
  """What clients keep, begun where they are new, as `rounds.init_state`."""

  def begin(member):
    info, is_new, kept = member
    return jax.lax.cond(
      is_new, lambda: beginning.init_client(program, key, info), lambda: kept
    )

  infos = cohorts.everyones_infos(members.data, members.cohort.row)
  return jax.lax.map(begin, (infos, members.is_new, members.kept))


def _is_same(key: Key, other: Key) -> bool:
  return key is other or np.array_equal(
    jax.random.key_data(key), jax.random.key_data(other)
  )


_begin = jax.jit(_begun, static_argnums=0)


def _one_client(program: ClientProgram) -> Tree:
  """Shapes of what one client keeps."""
  info = ClientInfo(
    row=jnp.int32(0),
    group=jnp.int32(0),
    num_examples=jnp.int32(0),
    weight=jnp.float32(0),
    present=jnp.bool_(True),
  )
  return jax.eval_shape(program.init, jax.random.key(0), info)
