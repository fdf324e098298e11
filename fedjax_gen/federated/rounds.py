"""Many communication rounds as one compiled program.

What programs need beside it is here by name: the state to begin with, where
data lie, and what a round moves.
"""

from collections.abc import Sequence
import functools
from typing import Any

import jax

from fedjax_gen import validate
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.federated import (
  cohorts,
  compiling,
  memory,
  placement,
  sampling,
)
from fedjax_gen.federated.algorithm import Algorithm, FederatedState
from fedjax_gen.federated.cohorts import RunKeys
from fedjax_gen.federated.init import init_state
from fedjax_gen.federated.mapping import Mapping
from fedjax_gen.federated.placement import place
from fedjax_gen.federated.round import RoundMetrics, federated_round
from fedjax_gen.federated.traffic import Traffic, traffic
from fedjax_gen.types import Key

__all__ = [
  'RoundMetrics',
  'RunKeys',
  'Runner',
  'Traffic',
  'federated_round',
  'init_state',
  'place',
  'round_runner',
  'traffic',
]


class Runner:
  """Rounds as one compiled program; `round_runner` makes it.

  Attributes:
    algorithm: what runs.
    samplers: who takes part, one for each fleet.
    mapping: how clients are laid over time and devices; with
      `block_size='auto'` on an accelerator, from the first call on, the
      largest block that fits (`memory.fitted`).
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
    self._is_fitted = False
    self._made: tuple[Mapping, Any] | None = None

  def __call__(
    self,
    state: FederatedState,
    datasets: Sequence[FederatedDataset],
    key: Key | RunKeys,
    num_rounds: int,
  ) -> tuple[FederatedState, RoundMetrics]:
    """Runs rounds; the state given is donated."""
    arguments = self._placed(state, datasets, key, num_rounds)
    if not self._is_fitted:
      self.mapping = self._fitted(arguments, num_rounds)
      self._is_fitted = True
    program = self._program(self.mapping, arguments[0])
    return program(*arguments, num_rounds)

  def temporary_bytes(
    self,
    state: FederatedState,
    datasets: Sequence[FederatedDataset],
    key: Key | RunKeys,
    num_rounds: int,
  ) -> int:
    """Memory that the program needs beside its arguments and results.

    By the compiler's own analysis, of one device. It runs nothing, and
    compiles nothing that such a call has run or will run.
    """
    arguments = self._placed(state, datasets, key, num_rounds)
    return self._needed(self.mapping, arguments, num_rounds)

  def lowered(
    self,
    state: FederatedState,
    datasets: Sequence[FederatedDataset],
    key: Key | RunKeys,
    num_rounds: int,
  ) -> jax.stages.Lowered:
    """The program before it is compiled, to look at."""
    arguments = self._placed(state, datasets, key, num_rounds)
    program = self._program(self.mapping, arguments[0])
    return program.lower(*arguments, num_rounds)

  def _placed(self, state, datasets, key, num_rounds):
    cohorts.check_fleets(self.algorithm, datasets)
    validate.positive_int(num_rounds=num_rounds)
    state = placement.place_state(state, self.mapping)
    return state, *placement.place((tuple(datasets), key), self.mapping)

  def _needed(self, mapping, arguments, num_rounds) -> int:
    program = self._program(mapping, arguments[0])
    return memory.needed_bytes(program.lower(*arguments, num_rounds))

  def _fitted(self, arguments, num_rounds) -> Mapping:
    _, datasets, key = arguments
    return memory.fitted(
      self.mapping,
      max(self._cohort_sizes(datasets, key)),
      lambda mapping: self._needed(mapping, arguments, num_rounds),
      memory.free_bytes(),
    )

  def _cohort_sizes(self, datasets, key) -> list[int]:
    own = cohorts.run_keys(key).own
    return [
      jax.eval_shape(sampler, own, data).row.shape[0]
      for sampler, data in zip(self.samplers, datasets, strict=True)
    ]

  def _program(self, mapping: Mapping, state: FederatedState):
    """The last one made, if of this mapping: JAX keeps what it compiled."""
    if self._made is None or self._made[0] != mapping:
      self._made = mapping, self._jitted(mapping, state)
    return self._made[1]

  def _jitted(self, mapping: Mapping, state: FederatedState):
    """`(state, datasets, key, num_rounds) -> (state, metrics)`, jitted."""

    @functools.partial(
      jax.jit,
      static_argnames='num_rounds',
      donate_argnums=0,
      out_shardings=(
        placement.state_shardings(state, mapping),
        placement.replicated(mapping),
      ),
      compiler_options=compiling.options(),
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

      # Whole rows for all rounds at once, if all are needed in every round.
      held = tuple(
        placement.by_client(fleet, mapping)
        if size == data.num_clients
        else fleet
        for fleet, data, size in zip(
          state.fleets, datasets, self._cohort_sizes(datasets, key), strict=True
        )
      )
      after, metrics = jax.lax.scan(
        body, state._replace(fleets=held), length=num_rounds
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
    a leading `[R]` axis. The key is one for everything, or `RunKeys`: a run
    under differential privacy has its own keys from
    `privacy.secret_keys`. The state given is donated: use the one returned.
    It compiles once for each `num_rounds`.
  """
  if samplers is None:
    samplers = [sampling.everyone()] * len(algorithm.fleets)
  return Runner(algorithm, samplers, mapping)
