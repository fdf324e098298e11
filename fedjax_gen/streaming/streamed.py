"""Rounds of a population on the host; the device holds only the cohort.

As in

    run = streamed.streamed_runner(
      algorithm, [data], init_key, folder='rows',
      samplers=[sampling.uniform(1000)],
    )
    state, metrics = run(run.init_state(), [data], key, num_rounds)

The bits are those of `rounds.round_runner`: keys follow a client's row in the
population, and a client is initialised, on the device, when it first takes
part. While a round runs, a thread fetches the next cohort; rows that both
cohorts share wait until the round has written them.
"""

from collections.abc import Iterator, Sequence
from concurrent import futures
import functools
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import validate
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.errors import InputError
from fedjax_gen.federated import rounds, sampling
from fedjax_gen.federated.algorithm import Algorithm, FederatedState
from fedjax_gen.federated.blocks import Block
from fedjax_gen.federated.execution import (
  cohorts,
  compiling,
  init,
  memory,
  placement,
)
from fedjax_gen.federated.execution.round import cohort_round
from fedjax_gen.federated.mapping import Mapping
from fedjax_gen.streaming import host_blocks
from fedjax_gen.streaming.fetching import Fetched, Fetcher
from fedjax_gen.streaming.host_blocks import Fleet
from fedjax_gen.streaming.row_files import RowFiles
from fedjax_gen.types import Key, Tree


class _Ahead(NamedTuple):
  """A cohort that is being fetched, and what it is fetched for."""

  tables: tuple[np.ndarray, ...]
  key: Key | rounds.RunKeys
  fetched: futures.Future


class StreamedRunner:
  """Rounds that move the cohort only; `streamed_runner` makes it.

  Its state is a `FederatedState` with tables of `RowFiles` as `fleets`,
  `[N]` uint8: a population in files, as small as a checkpoint of it.

  Attributes:
    mapping: how clients are laid over time and devices; with
      `block_size='auto'` on an accelerator, from the first round on, the
      largest block that fits (`memory.fitted`).
    flaws: of each fleet a tree like what a client keeps, a number for each
      leaf: NaN if one that the last call wrote is not finite, else 0.
  """

  def __init__(
    self,
    algorithm: Algorithm,
    init_keys: Key,
    fleets: Sequence[Fleet],
    fetcher: Fetcher,
    mapping: Mapping,
    *,
    prefetch: bool,
  ):
    self.mapping = mapping
    self._no_flaws = tuple(
      jax.tree.map(lambda leaf: np.float32(0), host_blocks.one_client(program))
      for program in algorithm.fleets
    )
    self.flaws = self._no_flaws
    self._algorithm, self._init_keys = algorithm, init_keys
    self._fleets = tuple(fleets)
    self._is_fitted = False
    # The last one made: JAX keeps what it compiled of it.
    self._program = functools.lru_cache(1)(
      functools.partial(_jitted_round, algorithm)
    )
    self._fetcher, self._prefetch = fetcher, prefetch
    self._thread = futures.ThreadPoolExecutor(1, 'next_cohort')
    self._ahead: _Ahead | None = None

  def init_state(self) -> FederatedState:
    """The state before the first round; nobody has a row yet."""
    return FederatedState(
      jnp.zeros((), jnp.int32),
      jax.jit(self._algorithm.server.init)(self._init_keys[0]),
      tuple(np.zeros(f.data.num_clients, np.uint8) for f in self._fleets),
    )

  def __call__(
    self,
    state: FederatedState,
    datasets: Sequence[FederatedDataset],
    key: Key | rounds.RunKeys,
    num_rounds: int,
  ) -> tuple[FederatedState, rounds.RoundMetrics]:
    """Runs rounds, as `rounds.Runner` does; the state given is used up.

    Raises:
      InputError: `datasets` are not those that it was made for.
    """
    validate.positive_int(num_rounds=num_rounds)
    if [*map(id, datasets)] != [id(fleet.data) for fleet in self._fleets]:
      raise InputError(
        'Expected datasets to be the very ones that streamed_runner was '
        f'given, got {len(datasets)} others.'
      )
    log = []
    self.flaws = self._no_flaws
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
    [block] = self.blocks(
      state, fleet, np.asarray(rows), size=len(rows), examples=False
    )
    return block.kept

  def blocks(
    self,
    state: FederatedState,
    fleet: int,
    rows: np.ndarray | None = None,
    **options: Any,
  ) -> Iterator[Block]:
    """Clients of a fleet, some at a time; see `host_blocks.Fleet.blocks`.

    Args:
      state: see `client_states`.
      fleet: which fleet.
      rows: which clients; everyone by default.
      **options: size, examples, kept.
    """
    table = np.asarray(state.fleets[fleet])
    return self._fleets[fleet].blocks(table, rows, **options)

  def temporary_bytes(
    self,
    state: FederatedState,
    datasets: Sequence[FederatedDataset],
    key: Key | rounds.RunKeys,
    num_rounds: int,
  ) -> int:
    """Memory that a round needs besides its arguments and results.

    As `rounds.Runner.temporary_bytes`; rounds are one after the other.
    """
    del datasets, num_rounds
    tables = tuple(map(np.asarray, state.fleets))
    fetched = self._fetcher.fetch(self._fetcher.draw(0, key), tables)
    members = self._fetcher.complete(fetched, tables)
    return self._needed(self.mapping, self._arguments(state, key, members))

  def keep(self, populations: Sequence[tuple[np.ndarray, ...]]) -> None:
    """Says which populations to keep, those of checkpoints; no others stay.

    Args:
      populations: the `fleets` of states, which stay valid until told again.
    """
    for number, fleet in enumerate(self._fleets):
      fleet.file.keep([population[number] for population in populations])

  def flush(self) -> None:
    """Returns when all rows written have reached the disk."""
    for fleet in self._fleets:
      fleet.file.flush()

  def _round(self, state, key):
    """One round; the next one's cohort is fetched meanwhile."""
    number = int(state.round)
    tables = tuple(map(np.asarray, state.fleets))
    fetched = self._fetched(state, number, key, tables)
    members = self._fetcher.complete(fetched, tables)
    if self._prefetch:
      # Drawn before the round begins: a device does one after the other.
      drawn = self._fetcher.draw(number + 1, key)
      coming = self._thread.submit(
        self._fetcher.fetch,
        drawn,
        tables,
        [f.present for f in fetched],
      )
    arguments = self._arguments(state, key, members)
    if not self._is_fitted:
      self.mapping = self._fitted(arguments)
      self._is_fitted = True
    after, metrics = self._program(self.mapping)(*arguments)
    tables = self._written(tables, fetched, after.fleets)
    if self._prefetch:
      self._ahead = _Ahead(tables, key, coming)
    metrics = jax.tree.map(np.asarray, metrics)
    return FederatedState(after.round, after.server, tables), metrics

  def _arguments(self, state, key, members):
    """Of the compiled round."""
    server = rounds.place(state.server, self.mapping)
    number = np.int32(state.round)
    return server, number, members, key, self._init_keys

  def _needed(self, mapping, arguments) -> int:
    return memory.needed_bytes(self._program(mapping).lower(*arguments))

  def _fitted(self, arguments) -> Mapping:
    _, _, members, *_ = arguments
    return memory.fitted(
      self.mapping,
      max(len(fleet.is_new) for fleet in members),
      lambda mapping: self._needed(mapping, arguments),
      memory.free_bytes(),
    )

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
    written, flaws = [], []
    for fleet, table, came, kept, flaw in zip(
      self._fleets, tables, fetched, fleets, self.flaws, strict=True
    ):
      present = came.cohort.present
      rows = jax.tree.map(lambda leaf, p=present: np.asarray(leaf)[p], kept)
      flaws.append(jax.tree.map(_flaw, flaw, rows))
      written.append(fleet.file.write(table, came.present, rows))
    self.flaws = tuple(flaws)
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
  init_keys = init.init_keys(init_key, len(datasets))
  fleets = [
    Fleet(
      program,
      init_keys[1 + number],
      data,
      RowFiles(
        pathlib.Path(folder) / f'fleet_{number}',
        host_blocks.one_client(program),
      ),
    )
    for number, (program, data) in enumerate(
      zip(algorithm.fleets, datasets, strict=True)
    )
  ]
  files = [fleet.file for fleet in fleets]
  return StreamedRunner(
    algorithm,
    init_keys,
    fleets,
    Fetcher(datasets, files, samplers, mapping),
    mapping,
    prefetch=prefetch,
  )


def _jitted_round(algorithm: Algorithm, mapping: Mapping):
  """`(server, round, members, key, init keys) -> (state, metrics)`."""

  @functools.partial(
    jax.jit,
    donate_argnums=0,
    out_shardings=placement.replicated(mapping),
    compiler_options=compiling.options(),
  )
  def run(server, round_number, members, key, init_keys):
    fleets = tuple(
      host_blocks.begun(
        program,
        init_key,
        cohorts.everyones_infos(fleet.data, fleet.cohort.row),
        fleet.is_new,
        fleet.kept,
      )
      for program, init_key, fleet in zip(
        algorithm.fleets, init_keys[1:], members, strict=True
      )
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


def _flaw(before: np.float32, rows: np.ndarray) -> np.float32:
  """NaN if a number is not finite, of these or of those before."""
  if jnp.issubdtype(rows.dtype, jnp.inexact) and not np.isfinite(rows).all():
    return np.float32(np.nan)
  return before


def _is_same(key: Key | rounds.RunKeys, other: Key | rounds.RunKeys) -> bool:
  return key is other or all(
    np.array_equal(jax.random.key_data(one), jax.random.key_data(another))
    for one, another in zip(
      cohorts.run_keys(key), cohorts.run_keys(other), strict=True
    )
  )
