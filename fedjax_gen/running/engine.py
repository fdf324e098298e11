"""Rounds as `training.train` asks for them, wherever the population lies."""

from collections.abc import Callable, Mapping, Sequence
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.federated import mapping as mappings, rounds, sampling
from fedjax_gen.federated.algorithm import Algorithm, FederatedState
from fedjax_gen.running.federated_step import federated_step
from fedjax_gen.running.population_checkpoints import Population
from fedjax_gen.streaming import streamed
from fedjax_gen.types import Key


class Engine(NamedTuple):
  """Arguments of `training.train`, by their names there."""

  init: Callable[[], FederatedState]
  step: Callable[[Any, int], tuple[Any, Mapping[str, np.ndarray]]]
  population: Population | None


def engine(
  algorithm: Algorithm,
  datasets: Sequence[FederatedDataset],
  key: Key,
  *,
  traffic: Sequence[rounds.Traffic],
  samplers: Sequence[sampling.Sampler],
  mapping: mappings.Mapping,
  folder: str | os.PathLike,
) -> Engine:
  """In memory, or streamed if the data sets lie on the host.

  Args:
    algorithm: the algorithm.
    datasets: the clients of each fleet.
    key: consumed.
    traffic: bytes down and up per client, for each fleet.
    samplers: who takes part, one for each fleet.
    mapping: how clients are laid over time and devices.
    folder: where streamed clients' states lie; not used otherwise.

  Raises:
    InputError: see `streamed.streamed_runner`.
  """
  init_key, run_key = jax.random.split(key)
  if any(data.is_on_host for data in datasets):
    population = streamed.streamed_runner(
      algorithm,
      datasets,
      init_key,
      folder=folder,
      samplers=samplers,
      mapping=mapping,
    )
    step = federated_step(population, traffic, datasets, run_key)
    return Engine(population.init_state, step, population)
  placed = rounds.place(list(datasets), mapping)
  runner = rounds.round_runner(algorithm, samplers=samplers, mapping=mapping)
  return Engine(
    lambda: rounds.init_state(algorithm, placed, init_key, mapping),
    federated_step(runner, traffic, placed, run_key),
    None,
  )
