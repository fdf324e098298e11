"""The engine's rounds as the training loop's steps, with the meter read."""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import jax
import numpy as np

from fedjax_gen import trees
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.errors import InputError
from fedjax_gen.federated import rounds
from fedjax_gen.federated.algorithm import Algorithm, FederatedState
from fedjax_gen.running import environment
from fedjax_gen.types import Key


def federated_step(
  run: Callable[..., tuple[FederatedState, rounds.RoundMetrics]],
  traffic: Sequence[rounds.Traffic],
  datasets: Sequence[FederatedDataset],
  key: Key | rounds.RunKeys,
) -> Callable[[Any, int], tuple[Any, Mapping[str, np.ndarray]]]:
  """Returns the `step` that `training.train` asks for.

  Args:
    run: made for the algorithm by `rounds.round_runner` or
      `streamed.streamed_runner`.
    traffic: bytes down and up per client, for each fleet.
    datasets: the clients of each fleet.
    key: the run's key.

  Returns:
    `(state, num_rounds) -> (state, metrics)`; see `summarise`.
  """

  def step(state, num_rounds):
    state, metrics = run(state, datasets, key, num_rounds)
    return state, summarise(metrics, traffic)

  return step


def dry_run(
  name: str,
  algorithm: Algorithm,
  datasets: Sequence[FederatedDataset],
) -> tuple[rounds.Traffic, ...]:
  """Traces a round without computing it, so that mistakes show in a second.

  Returns:
    The traffic of each fleet.

  Raises:
    InputError: the state does not fit in memory, or a number in an array.
  """
  try:
    state = jax.eval_shape(
      functools.partial(rounds.init_state, algorithm),
      tuple(datasets),
      jax.random.key(0),
    )
    if any(data.is_on_host for data in datasets):
      state = state._replace(fleets=())  # they lie in files
    size, memory = trees.num_bytes(state), environment.memory_bytes()
    if size > memory:
      raise InputError(
        f'Expected a model that fits in {memory / 1e9:,.0f} GB of memory, got '
        f'{size / 1e9:,.0f} GB for {name}: server and client states together.'
      )
    return rounds.traffic(algorithm, datasets)
  except OverflowError as error:
    raise InputError(
      f'Expected numbers that 32 bits hold, got a larger one for {name}, for '
      f'instance a size or a number of epochs: {str(error)[:200]}'
    ) from error


def summarise(
  metrics: rounds.RoundMetrics, meters: Sequence[rounds.Traffic]
) -> dict[str, np.ndarray]:
  """Turns the metrics of rounds into numbers a round.

  Args:
    metrics: leaves with a leading `[R]` axis.
    meters: bytes down and up per client, for each fleet.

  Returns:
    `[R]` arrays: `participants` (clients present that hold examples),
    `bytes_down` and `bytes_up` (of all participants together), the server's
    metrics, and each metric of the clients as its mean over participants,
    weighted like their messages: NaN in a round without any. `[R, K]` arrays
    `loss_per_client` and `client_per_client` say which client had which loss; a
    client is named by its row in its own fleet.
  """
  present = [np.asarray(cohort.present) for cohort in metrics.cohorts]
  fleet_weights = [
    np.where(fleet, np.asarray(cohort.weight), 0.0)
    for fleet, cohort in zip(present, metrics.cohorts, strict=True)
  ]
  counts = [(weights > 0).sum(axis=1) for weights in fleet_weights]
  weights = np.concatenate(fleet_weights, axis=1)
  summary = {name: np.asarray(v) for name, v in metrics.server.items()}
  for name in metrics.clients[0]:
    if all(name in fleet for fleet in metrics.clients):
      values = np.concatenate(
        [np.asarray(fleet[name]) for fleet in metrics.clients], axis=1
      )
      summary[name] = _weighted_means(values, weights)
      if name == 'loss':
        summary['loss_per_client'] = values
  meter = list(zip(counts, meters, strict=True))
  return summary | {
    'participants': sum(counts),
    'bytes_down': sum(count * traffic.bytes_down for count, traffic in meter),
    'bytes_up': sum(count * traffic.bytes_up for count, traffic in meter),
    'client_per_client': np.concatenate(
      [np.asarray(cohort.row) for cohort in metrics.cohorts], axis=1
    ),
  }


def _weighted_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Row means; a zero weight hides its value, NaN or not."""
  total = weights.sum(axis=1)
  sums = np.where(weights > 0, values * weights, 0.0).sum(axis=1)
  return np.where(total > 0, sums / np.where(total > 0, total, 1.0), np.nan)
