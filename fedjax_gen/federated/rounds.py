"""Many communication rounds as one compiled program.

The other functions that programs need can be imported from here: the initial
state, where data lie, and what a round moves.

How many rounds a call makes is an argument of the compiled program and not a
part of it. So one program serves calls of any length, and the bits cannot
depend on how rounds are divided among calls: a training loop may let the clock
decide.
"""

from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import validate
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.federated import sampling
from fedjax_gen.federated.algorithm import Algorithm, FederatedState
from fedjax_gen.federated.execution import cohorts, compiling, memory, placement
from fedjax_gen.federated.execution.cohorts import RunKeys
from fedjax_gen.federated.execution.init import init_state
from fedjax_gen.federated.execution.placement import place
from fedjax_gen.federated.execution.round import RoundMetrics, federated_round
from fedjax_gen.federated.execution.traffic import Traffic, traffic
from fedjax_gen.federated.mapping import Mapping
from fedjax_gen.types import Key

# Rounds that the program has room for in its metrics; more are several calls.
_ROOM = 32

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
    validate.positive_int(num_rounds=num_rounds)
    log = []
    for done in range(0, num_rounds, _ROOM):
      now = min(_ROOM, num_rounds - done)
      arguments = self._placed(state, datasets, key)
      if not self._is_fitted:
        self.mapping = self._fitted(arguments)
        self._is_fitted = True
      program = self._program(self.mapping, arguments[0])
      state, metrics = program(*arguments, np.int32(now))
      log.append(
        jax.tree.map(lambda leaf, now=now: np.asarray(leaf)[:now], metrics)
      )
    return state, jax.tree.map(lambda *parts: np.concatenate(parts), *log)

  def temporary_bytes(
    self,
    state: FederatedState,
    datasets: Sequence[FederatedDataset],
    key: Key | RunKeys,
    num_rounds: int,
  ) -> int:
    """Memory that the program needs besides its arguments and results.

    By the compiler's own analysis, of one device. It runs nothing, and
    compiles nothing that such a call has run or will run.
    """
    del num_rounds  # one program serves all
    return self._needed(self.mapping, self._placed(state, datasets, key))

  def lowered(
    self,
    state: FederatedState,
    datasets: Sequence[FederatedDataset],
    key: Key | RunKeys,
    num_rounds: int,
  ) -> jax.stages.Lowered:
    """The program before it is compiled, to look at.

    Its number of rounds is a constant, so that what is counted turn by turn
    (`Compiled.as_text`) is known.
    """
    arguments = self._placed(state, datasets, key)
    program = self._jitted(
      self.mapping, arguments[0], static_argnames='num_rounds'
    )
    return program.lower(*arguments, num_rounds=num_rounds)

  def _placed(self, state, datasets, key):
    cohorts.check_fleets(self.algorithm, datasets)
    state = placement.place_state(state, self.mapping)
    return state, *placement.place((tuple(datasets), key), self.mapping)

  def _needed(self, mapping, arguments) -> int:
    program = self._program(mapping, arguments[0])
    return memory.needed_bytes(program.lower(*arguments, np.int32(1)))

  def _fitted(self, arguments) -> Mapping:
    _, datasets, key = arguments
    return memory.fitted(
      self.mapping,
      max(self._cohort_sizes(datasets, key)),
      lambda mapping: self._needed(mapping, arguments),
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

  def _jitted(self, mapping: Mapping, state: FederatedState, **options: Any):
    """`(state, datasets, key, num_rounds) -> (state, metrics)`, jitted.

    Metrics have a leading axis of `_ROOM`; what lies behind the rounds that
    were asked for is zero.
    """

    @functools.partial(
      jax.jit,
      donate_argnums=0,
      out_shardings=(
        placement.state_shardings(state, mapping),
        placement.replicated(mapping),
      ),
      compiler_options=compiling.options(),
      **options,
    )
    def program(state, datasets, key, num_rounds):
      # Traced once, here for the shapes of its metrics and below for the loop.
      @functools.partial(jax.jit, inline=True)
      def one_round(state, datasets, key):
        return federated_round(
          self.algorithm,
          state,
          datasets,
          key,
          samplers=self.samplers,
          mapping=mapping,
        )

      def body(carry):
        done, state, log = carry
        state, metrics = one_round(state, datasets, key)
        log = jax.tree.map(
          lambda rows, row: jax.lax.dynamic_update_index_in_dim(
            rows, row, done, axis=0
          ),
          log,
          metrics,
        )
        return done + 1, state, log

      # Whole rows for all rounds at once, if all are needed in every round.
      held = tuple(
        placement.by_client(fleet, mapping)
        if size == data.num_clients
        else fleet
        for fleet, data, size in zip(
          state.fleets, datasets, self._cohort_sizes(datasets, key), strict=True
        )
      )
      state_held = state._replace(fleets=held)
      _, shapes = jax.eval_shape(one_round, state_held, datasets, key)
      log = jax.tree.map(
        lambda leaf: jnp.zeros((_ROOM, *leaf.shape), leaf.dtype), shapes
      )
      _, after, log = jax.lax.while_loop(
        lambda carry: carry[0] < num_rounds,
        body,
        (jnp.int32(0), state_held, log),
      )
      fleets = placement.whole(after.fleets, state.fleets, mapping)
      return after._replace(fleets=fleets), log

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
    a leading `[R]` axis, NumPy arrays. The key is one for everything, or
    `RunKeys`: a run under differential privacy has its own keys from
    `privacy.secret_keys`. The state given is donated: use the one returned.
    It compiles once, whatever `num_rounds` is.
  """
  if samplers is None:
    samplers = [sampling.everyone()] * len(algorithm.fleets)
  return Runner(algorithm, samplers, mapping)
