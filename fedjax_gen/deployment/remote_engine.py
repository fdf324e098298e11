"""Rounds over sites, as `training.train` asks for rounds.

A program that trains with it writes the same work directory, checkpoints, log,
report and summary as a simulation.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Any

import jax
import numpy as np

from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.deployment.collecting import Collector
from fedjax_gen.deployment.coordinator import Coordinator
from fedjax_gen.deployment.securing import Securing
from fedjax_gen.errors import InputError
from fedjax_gen.federated import rounds
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.federated.execution import cohorts, traffic as traffic_lib
from fedjax_gen.running import federated_step
from fedjax_gen.running.engine import Engine
from fedjax_gen.types import Key


@dataclasses.dataclass(frozen=True)
class Deployment:
  """A federation between machines, as programs train on it.

  Attributes:
    collector: asks the sites.
    folder: where sums under way are written down.
    least: sites that make a round; 0 for two thirds.
    securing: to sum securely; None for messages that the coordinator sees.
  """

  collector: Collector
  folder: str | os.PathLike
  least: int = 0
  securing: Securing | None = None

  def engine(
    self,
    method: str,
    algorithm: Algorithm,
    datasets: Sequence[FederatedDataset],
    key: Key,
    *,
    traffic: Sequence[rounds.Traffic],
    own_key: Key | None = None,
  ) -> Engine:
    """The rounds of a method over the sites.

    A checkpoint is to be written after each round, and each is a step of its
    own: a coordinator that is killed asks for the same round again.

    Args:
      method: its name, as sites know it.
      algorithm: the same value as sites have.
      datasets: of each fleet, of the shapes that examples have at sites; no
        example of them is used.
      key: consumed.
      traffic: bytes down and up per site, for each fleet.
      own_key: of what the server draws, where it must not follow from `key`.

    Raises:
      InputError: see `Coordinator`.
    """
    init_key, public_key = jax.random.split(key)
    keys = cohorts.run_keys(public_key)
    if own_key is not None:
      keys = cohorts.RunKeys(own_key, public_key)
    coordinator = Coordinator(
      method,
      algorithm,
      self.collector,
      [m for _, m in traffic_lib.exchanged(algorithm, datasets)],
      keys=keys,
      folder=pathlib.Path(self.folder) / method,
      least=self.least,
      securing=self.securing,
    )

    def step(state, num_rounds):
      coordinator.done(state)  # it is what the last checkpoint holds
      found: list[Mapping[str, np.ndarray]] = []
      for _ in range(num_rounds):
        state, metrics = coordinator.round(state)
        found.append(federated_step.summarise(metrics, traffic))
      names = [n for n in found[0] if all(n in one for one in found)]
      return state, {
        n: np.concatenate([one[n] for one in found]) for n in names
      }

    return Engine(
      algorithm,
      lambda: coordinator.init(init_key),
      step,
      None,
      _at_sites,
      lambda state: (state.server, state.fleets),
      lambda state, number: 0,
    )


def _at_sites(*unused_arguments: Any, **unused_needs: Any):
  raise InputError(
    'Expected a measurement of the server’s model, got one of what clients '
    'keep: it lies at the sites, and does not leave them.'
  )
