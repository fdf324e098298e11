"""Rounds as `training.train` asks for them, wherever the population lies."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import os
from typing import Any

import jax
import numpy as np

from fedjax_gen import trees
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.federated import (
  blocks as blocks_lib,
  mapping as mappings,
  rounds,
  sampling,
)
from fedjax_gen.federated.algorithm import Algorithm, FederatedState
from fedjax_gen.federated.blocks import Blocks
from fedjax_gen.running import federated_step, leaves
from fedjax_gen.running.storage.population_checkpoints import Population
from fedjax_gen.streaming import host_blocks, streamed
from fedjax_gen.types import Array, Key, Tree


@dataclasses.dataclass(frozen=True)
class Engine:
  """An algorithm on its clients; `engine` makes it.

  Attributes:
    algorithm: what runs.
    init: returns the state before the first round.
    step: runs rounds; see `federated_step.federated_step`.
    population: the files of what clients keep, if that is not in the state.
    blocks: all clients, some at a time; see `blocks.Blocks`.
    trained: what of a state training must keep finite, of the server and of
      the clients; where these lie in files, of those of the last step.
    round_bytes: `(state, num_rounds) -> bytes` that the compiled rounds need
      besides state and data, on one device.
  """

  algorithm: Algorithm
  init: Callable[[], FederatedState]
  step: Callable[[Any, int], tuple[Any, Mapping[str, np.ndarray]]]
  population: Population | None
  blocks: Blocks
  trained: Callable[[FederatedState], tuple[Tree, Tree]]
  round_bytes: Callable[[FederatedState, int], int]

  def for_training(self) -> dict[str, Any]:
    """Arguments of `training.train`, by their names there."""
    return {
      'init': self.init,
      'step': self.step,
      'population': self.population,
    }

  def client_bytes(self) -> list[int]:
    """What one client keeps, of each fleet."""
    programs = self.algorithm.fleets
    return [trees.num_bytes(host_blocks.one_client(p)) for p in programs]

  def client_values(
    self,
    state: FederatedState,
    part: Callable[[Tree], Array],
    *,
    fleet: int = 0,
  ) -> np.ndarray:
    """`[N, ...]` a small part of what each client of a fleet keeps.

    Args:
      state: after some rounds.
      part: from what clients keep, leaves `[k, ...]`, to one leaf of it.
      fleet: number of the fleet.
    """
    return blocks_lib.joined(
      lambda block: part(block.kept), self.blocks(state, fleet, examples=False)
    )

  def digests(self, state: FederatedState) -> tuple[np.ndarray, ...]:
    """`[32]` bytes for each fleet: a hash of what its clients keep.

    To stand for them in `leaves.params_digest`, wherever they lie.
    """
    return tuple(
      leaves.rows_digest(
        block.cut(block.kept)
        for block in self.blocks(state, fleet, examples=False)
      )
      for fleet in range(len(self.algorithm.fleets))
    )


def engine(
  algorithm: Algorithm,
  datasets: Sequence[FederatedDataset],
  key: Key,
  *,
  traffic: Sequence[rounds.Traffic],
  samplers: Sequence[sampling.Sampler],
  mapping: mappings.Mapping,
  folder: str | os.PathLike,
  own_key: Key | None = None,
) -> Engine:
  """In memory, or streamed if the data sets lie on the host.

  Cheap: nothing is placed or compiled before it is needed.

  Args:
    algorithm: the algorithm.
    datasets: the clients of each fleet.
    key: consumed.
    traffic: bytes down and up per client, for each fleet.
    samplers: who takes part, one for each fleet.
    mapping: how clients are laid over time and devices.
    folder: where streamed clients' states lie; not used otherwise.
    own_key: of what rounds draw, where it must not follow from `key`: secret
      in a private run.
  """
  init_key, public_key = jax.random.split(key)
  run_key: Key | rounds.RunKeys = public_key
  if own_key is not None:
    run_key = rounds.RunKeys(own_key, public_key)
  if any(data.is_on_host for data in datasets):
    return _streamed(
      algorithm, datasets, init_key, run_key, traffic,
      folder=folder, samplers=samplers, mapping=mapping,
    )  # fmt: skip
  runner = rounds.round_runner(algorithm, samplers=samplers, mapping=mapping)

  @functools.cache
  def placed():  # when rounds run, for which all processes are there
    return rounds.place(list(datasets), mapping)

  def step(state, num_rounds):
    run = federated_step.federated_step(runner, traffic, placed(), run_key)
    return run(state, num_rounds)

  def blocks(state, fleet, rows=None, **needs):
    del needs  # all is there
    yield blocks_lib.in_memory(datasets[fleet], state.fleets[fleet], rows)

  return Engine(
    algorithm,
    lambda: rounds.init_state(algorithm, placed(), init_key, mapping),
    step,
    None,
    blocks,
    lambda state: (state.server, state.fleets),
    lambda state, number: runner.temporary_bytes(
      state, placed(), run_key, number
    ),
  )


def _streamed(
  algorithm: Algorithm,
  datasets: Sequence[FederatedDataset],
  init_key: Key,
  run_key: Key | rounds.RunKeys,
  traffic: Sequence[rounds.Traffic],
  **layout: Any,
) -> Engine:
  """The engine of data sets on the host."""
  runner = streamed.streamed_runner(algorithm, datasets, init_key, **layout)
  return Engine(
    algorithm,
    runner.init_state,
    federated_step.federated_step(runner, traffic, datasets, run_key),
    runner,
    runner.blocks,
    lambda state: (state.server, runner.flaws),
    lambda state, number: runner.temporary_bytes(
      state, datasets, run_key, number
    ),
  )
