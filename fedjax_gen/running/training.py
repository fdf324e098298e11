"""The training loop: rounds, evaluations, checkpoints; resumed bit for bit.

Knows no algorithm. A method is a function that makes a state and a function
that takes it some rounds further; everything here holds for any such pair.
"""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import validate
from fedjax_gen.running import divergence, leaves
from fedjax_gen.running.compile_clock import CompileClock
from fedjax_gen.running.distributed.processes import Processes
from fedjax_gen.running.progress import Progress
from fedjax_gen.running.stopping import StopSignal
from fedjax_gen.running.storage import (
  checkpoints as checkpoints_lib,
  population_checkpoints,
)
from fedjax_gen.running.storage.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Schedule:
  """When what happens, in rounds.

  Steps end at multiples of `rounds_per_step` whatever interrupted the run, and
  at the end of training. Evaluations and checkpoints happen at the end of the
  step in which they fall due. A step is one call of `step`, or several if that
  takes long.
  """

  num_rounds: int
  rounds_per_step: int = 1
  eval_every: int = 1
  checkpoint_every: int = 1

  def __post_init__(self):
    validate.positive_int(**dataclasses.asdict(self))

  def next_end(self, done: int) -> int:
    """Returns the round at which the step after `done` rounds ends."""
    return min(self._start(done) + self.rounds_per_step, self.num_rounds)

  def is_due(self, every: int, end: int) -> bool:
    """Returns whether a multiple of `every` lies in the step that ends."""
    is_in = end // every > self._start(end - 1) // every
    return is_in or end == self.num_rounds

  def _start(self, done: int) -> int:
    return done - done % self.rounds_per_step


class Pace:
  """Rounds of one call, so few that it ends soon; the clock decides.

  Only how often one hears of a run follows from it: a step gives the same bits
  however its rounds are divided among calls.

  Attributes:
    seconds: that a call may take, if it has more rounds than one.
  """

  def __init__(self, seconds: float = 10.0):
    self.seconds = seconds
    self._per_round: float | None = None

  def rounds(self, at_most: int) -> int:
    """Returns how many rounds to run next; one to begin with."""
    if self._per_round is None:
      return 1
    return max(1, min(at_most, int(self.seconds / max(self._per_round, 1e-9))))

  def took(self, num_rounds: int, seconds: float) -> None:
    """Tells what a call took, compilation not counted."""
    self._per_round = seconds / num_rounds


class TrainResult(NamedTuple):
  """What training leaves in memory.

  Attributes:
    state: the state after the last round.
    seconds: time in `step`, compilation not counted, over all resumptions.
    compile_seconds: time in compilation, over all resumptions.
    history: one record of metrics a round, resumed rounds included.
    round_bytes: temporary memory that the compiled rounds need, where that was
      asked for.
  """

  state: Any
  seconds: float
  compile_seconds: float
  history: list[dict[str, float]]
  round_bytes: int = 0


def train(
  *,
  method: str,
  init: Callable[[], Any],
  step: Callable[[Any, int], tuple[Any, Mapping[str, Any]]],
  schedule: Schedule,
  workdir: Workdir,
  progress: Progress,
  evaluate: Callable[[Any], Mapping[str, float]] | None = None,
  best_metric: str | None = None,
  best_mode: str = 'max',
  trained: Callable[[Any], Any] = lambda state: state,
  evaluated: Callable[[Any], Any] = lambda state: state,
  population: population_checkpoints.Population | None = None,
  stop: StopSignal | None = None,
  loss_may_stop: bool = True,
) -> TrainResult:
  """Trains one method, or resumes it, or returns it if it is done.

  Args:
    method: its name in the work directory, for example 'federated'.
    init: returns the state before the first round, a pytree of arrays.
    step: runs a number of rounds, and may donate the state it is given. The
      bits must not depend on how rounds are divided among calls: which call
      has how many follows the clock (`Pace`), at most `rounds_per_step`.
      Returns the state and metrics: `[n]` arrays, one number a round, and
      arrays `[n, K]` with names that end in `_per_client`. `client_per_client`
      holds the clients' numbers, if cohorts are drawn.
    schedule: when to evaluate and save.
    workdir: where to log and save.
    progress: where to show the advance.
    evaluate: returns more metrics of what is `evaluated`, logged with its
      round. Of several processes the first alone calls it.
    best_metric: the metric, of rounds or of evaluation; its best checkpoint
      is kept in addition to the last ones; None for none.
    best_mode: 'max' or 'min'.
    trained: the part of the state that must stay finite.
    evaluated: what `evaluate` is given: of the state what it reads, brought to
      one device, or to the host if it is split among several.
    population: the files of what clients keep, if that is not in the state.
    loss_may_stop: whether a loss that is not finite ends the training. In a
      private run it must not: losses are exact, and when a run ends is seen.
    stop: if given, a signal lets the running call end and be saved; of several
      processes any may receive it.

  Returns:
    The trained state, as `leaves.local` has it, and what it took.

  Raises:
    DivergedError: a loss or a trained parameter is not finite. The state is
      not saved; the last checkpoint is as it was.
    StoppedError: a signal arrived; the state is saved.
    InputError: the checkpoint found is not one of this state.
    DiskFullError: the disk is full; the last checkpoint is as it was.
    EndedError: another process ended.
  """
  processes = workdir.processes
  checkpoints = _checkpoints(
    workdir.checkpoints_path(method),
    population,
    best_metric=best_metric,
    best_mode=best_mode,
  )
  with CompileClock() as clock, contextlib.closing(progress):
    state, done, times = _restore_or_init(checkpoints, init, processes)
    if workdir.is_writer:
      workdir.rewind(method, done)
    if done < schedule.num_rounds:
      progress.start(method, schedule.num_rounds, done, clock)
    compiled_before, pace = times['compile_seconds'], Pace()
    while done < schedule.num_rounds:
      with stop.deferred() if stop else contextlib.nullcontext():
        step_end = schedule.next_end(done)
        now = _agreed_rounds(processes, pace, step_end - done)
        end = done + now
        state, metrics, seconds = _timed_step(step, state, now, clock)
        pace.took(now, seconds)
        rounds = _per_round(metrics, done + 1)
        problem = divergence.find(
          rounds, metrics if loss_may_stop else None, trained(state)
        )
        is_step = end == step_end
        is_eval_due = is_step and schedule.is_due(schedule.eval_every, end)
        if evaluate and is_eval_due and not problem:
          progress.doing('evaluating')
          own = leaves.local(evaluated(state))  # all processes give their part
          if workdir.is_writer:
            rounds[-1] |= {k: float(v) for k, v in evaluate(own).items()}
        is_best = False
        if workdir.is_writer:
          workdir.log(method, rounds)
          is_best = is_step and bool(checkpoints.is_best(rounds[-1]))
        problem, is_best = _agree(processes, problem, is_best, stop)
        if problem:
          raise divergence.error(method, problem, checkpoints)
        progress.update(end, rounds[-1].get('loss'))
        times['seconds'] += seconds
        times['compile_seconds'] = compiled_before + clock.seconds
        if (
          (is_step and schedule.is_due(schedule.checkpoint_every, end))
          or is_best
          or (stop and stop.requested)
        ):
          whole = leaves.local(state)
          if workdir.is_writer:
            checkpoints.save(end, whole, metrics=rounds[-1], extra=times)
          processes.exchange('saved')
        done = end
  history = workdir.history(method) if workdir.is_writer else []
  return TrainResult(
    leaves.local(state), times['seconds'], times['compile_seconds'], history
  )


def _agreed_rounds(processes: Processes, pace: Pace, at_most: int) -> int:
  """Returns the rounds of the next call, by the clock of the writer."""
  if at_most == 1:
    return 1
  return processes.from_writer(lambda: pace.rounds(at_most))


def _agree(
  processes: Processes,
  problem: str | None,
  is_best: bool,
  stop: StopSignal | None,
) -> tuple[str | None, bool]:
  """Returns what the writer found, and hands a signal of one process to all."""
  signal = stop.requested if stop else None
  everyones = processes.exchange([problem, is_best, signal])
  signals = [theirs for _, _, theirs in everyones if theirs is not None]
  if stop and signals:
    stop.requested = signals[0]
  [problem, is_best, _] = everyones[0]
  return problem, is_best


def _checkpoints(
  path: pathlib.Path,
  population: population_checkpoints.Population | None,
  **policy: Any,
) -> checkpoints_lib.Checkpoints:
  if population is None:
    return checkpoints_lib.Checkpoints(path, **policy)
  return population_checkpoints.PopulationCheckpoints(
    path, population, **policy
  )


def _restore_or_init(
  checkpoints: checkpoints_lib.Checkpoints,
  init: Callable[[], Any],
  processes: Processes,
) -> tuple[Any, int, dict[str, float]]:
  """Returns the writer's last checkpoint, to all, or the state of round 0."""
  state = jax.tree.map(jnp.asarray, init())
  if processes.is_writer:
    checkpoints.clean()
  if not processes.from_writer(lambda: bool(checkpoints.rounds())):
    return state, 0, {'seconds': 0.0, 'compile_seconds': 0.0}
  restored: Any = None
  if processes.is_writer:
    target = leaves.abstract(state)
    if processes.count == 1:
      del state  # frees the memory before the other state comes
    restored = checkpoints.restore(target)
  done, times = processes.from_writer(lambda: (restored.round, restored.extra))
  if processes.count > 1:
    state = leaves.from_writer(restored.state if restored else state, state)
  else:
    state = restored.state
  return state, done, times


def _timed_step(
  step: Callable, state: Any, num_rounds: int, clock: CompileClock
) -> tuple[Any, dict[str, np.ndarray], float]:
  """Returns the next state, its metrics, and the seconds without compiling."""
  started, compiled = time.perf_counter(), clock.seconds
  state, metrics = step(state, num_rounds)
  # Reading the metrics waits for the step to end.
  metrics = {name: np.asarray(value) for name, value in metrics.items()}
  seconds = time.perf_counter() - started - (clock.seconds - compiled)
  return state, metrics, seconds


def _per_round(
  metrics: Mapping[str, np.ndarray], first_round: int
) -> list[dict[str, float]]:
  """Turns arrays over rounds into one record a round, in plain numbers."""
  scalars = {
    name: values.tolist()
    for name, values in metrics.items()
    if not name.endswith(divergence.PER_CLIENT)
  }
  num_rounds = len(next(iter(metrics.values())))
  return [
    {'round': first_round + i} | {name: v[i] for name, v in scalars.items()}
    for i in range(num_rounds)
  ]
