"""Shows how far training is: a bar in a terminal, a few lines elsewhere.

There is a sign of life every half minute, because a round or a compilation can
take longer.
"""

from collections.abc import Callable
import math
import sys
import threading
import time
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress as Bar, TextColumn

from fedjax_gen.running.compile_clock import CompileClock

_WIDTH = 80
_MAX_LINES = 20  # per method, where there is no terminal and rounds are quick
_SILENCE = 25.0  # seconds after which something is said


class Progress(Protocol):
  """What training tells about itself, one method after the other."""

  def start(
    self,
    method: str,
    num_rounds: int,
    done: int,
    clock: CompileClock | None = None,
  ) -> None:
    """Begins a method with `done` rounds already trained."""

  def doing(self, what: str) -> None:
    """Tells what comes next if it is no round, for example 'evaluating'."""

  def update(self, rounds: int, loss: float | None) -> None:
    """Tells how many rounds are done and the loss of the last one."""

  def close(self) -> None:
    """Ends the method, complete or not; without effect before `start`."""


def progress(stream: TextIO | None = None) -> Progress:
  """Returns a bar if `stream` is a terminal, else plain lines.

  The environment variables NO_COLOR and TERM=dumb are respected.

  Args:
    stream: where to show it; None for standard error.
  """
  stream = sys.stderr if stream is None else stream
  console = Console(file=stream, highlight=False)
  console.width = min(console.width, _WIDTH)
  if console.is_terminal and not console.is_dumb_terminal:
    return _BarProgress(console)
  return _LineProgress(stream)


class _BarProgress:
  """One bar per method."""

  def __init__(self, console: Console):
    self._console = console
    self._bar: Bar | None = None

  def start(
    self,
    method: str,
    num_rounds: int,
    done: int,
    clock: CompileClock | None = None,
  ) -> None:
    self._bar = Bar(
      TextColumn('{task.description}', style='bold'),
      BarColumn(bar_width=None),
      TextColumn('round {task.completed}/{task.total}'),
      TextColumn('{task.fields[status]}'),
      console=self._console,
      expand=True,
    )
    self._phase = _Phase(clock)
    self._task = self._bar.add_task(
      method, total=num_rounds, completed=done, status=self._phase.sentence()
    )
    self._timer = _Timer(num_rounds)
    self._bar.start()
    self._pulse = _Pulse(1.0, self._show_phase)

  def doing(self, what: str) -> None:
    self._phase.begin(what)

  def update(self, rounds: int, loss: float | None) -> None:
    status = _status(loss, self._timer.seconds_left(rounds))
    self._phase.begin()
    if self._bar:
      self._bar.update(self._task, completed=rounds, status=status)

  def close(self) -> None:
    if self._bar:
      self._pulse.stop()
      self._bar.stop()

  def _show_phase(self) -> None:
    # Where rounds are quick, what they come to is more to the point.
    if self._bar and self._phase.seconds > 2:
      self._bar.update(self._task, status=self._phase.sentence())


class _LineProgress:
  """At most `_MAX_LINES` lines per method, or one each half minute."""

  def __init__(self, stream: TextIO):
    self._stream = stream
    self._pulse: _Pulse | None = None
    self._lock = threading.Lock()

  def start(
    self,
    method: str,
    num_rounds: int,
    done: int,
    clock: CompileClock | None = None,
  ) -> None:
    self._method, self._num_rounds = method, num_rounds
    self._done, self._clock = done, clock
    self._shown = _MAX_LINES * done // num_rounds
    self._timer = _Timer(num_rounds)
    self._phase = _Phase(clock)
    resumed = f', resumed after {done}' if done else ''
    self._print(f'{method}: {num_rounds} rounds{resumed}, compiling')
    self._pulse = _Pulse(1.0, self._break_silence)

  def doing(self, what: str) -> None:
    self._phase.begin(what)

  def update(self, rounds: int, loss: float | None) -> None:
    is_first = self._timer.is_fresh
    status = _status(loss, self._timer.seconds_left(rounds))
    if is_first and self._clock:
      compiling = self._clock.seconds
      running = max(self._phase.seconds - compiling, 0.0)
      status += (
        f'  compiled for {_duration(compiling)}, ran for {_duration(running)}'
      )
    self._done = rounds
    self._phase.begin()
    due = _MAX_LINES * rounds // self._num_rounds
    if due > self._shown or is_first or self._is_silent():
      self._shown = due
      self._print(f'{self._method}: {rounds}/{self._num_rounds}  {status}')

  def close(self) -> None:
    if self._pulse:
      self._pulse.stop()

  def _is_silent(self) -> bool:
    return time.monotonic() - self._said >= _SILENCE

  def _break_silence(self) -> None:
    if self._is_silent():
      self._print(
        f'{self._method}: {self._done}/{self._num_rounds}  '
        f'{self._phase.sentence()}'
      )

  def _print(self, line: str) -> None:
    with self._lock:
      self._said = time.monotonic()
      print(line, file=self._stream, flush=True)


class _NoProgress:
  """Shows nothing."""

  def start(
    self,
    method: str,
    num_rounds: int,
    done: int,
    clock: CompileClock | None = None,
  ) -> None:
    pass

  def doing(self, what: str) -> None:
    pass

  def update(self, rounds: int, loss: float | None) -> None:
    pass

  def close(self) -> None:
    pass


NONE: Progress = _NoProgress()
"""For processes other than the one that shows the progress."""


class _Phase:
  """What is going on, and since when."""

  def __init__(self, clock: CompileClock | None):
    self._clock = clock
    self.begin()

  def begin(self, what: str = '') -> None:
    """Begins something; a round, if it has no name."""
    self._what, self._since = what, time.monotonic()

  @property
  def seconds(self) -> float:
    return time.monotonic() - self._since

  def sentence(self) -> str:
    is_compiling = self._clock is not None and self._clock.is_compiling
    parts = [self._what] if self._what else []
    if is_compiling or not parts:
      parts.append('compiling' if is_compiling else 'running')
    return f'{", ".join(parts)} for {_duration(self.seconds)}'


class _Pulse:
  """Calls a function again and again from a thread, until it is stopped."""

  def __init__(self, seconds: float, beat: Callable[[], None]):
    self._stopped = threading.Event()

    def run():
      while not self._stopped.wait(seconds):
        beat()

    self._thread = threading.Thread(target=run, daemon=True)
    self._thread.start()

  def stop(self) -> None:
    """Returns when no call is under way and none will follow."""
    self._stopped.set()
    self._thread.join()


class _Timer:
  """Estimates the seconds left, from the steps after the first."""

  def __init__(self, num_rounds: int, clock: Callable[[], float] = time.time):
    self._num_rounds = num_rounds
    self._clock = clock
    self._first: tuple[int, float] | None = None

  @property
  def is_fresh(self) -> bool:
    return self._first is None

  def seconds_left(self, rounds: int) -> float | None:
    """Returns an estimate, or None after the first call."""
    if self._first is None:  # the step that compiled
      self._first = (rounds, self._clock())
      return None
    since_round, since = self._first
    per_round = (self._clock() - since) / max(rounds - since_round, 1)
    return per_round * (self._num_rounds - rounds)


def _status(loss: float | None, seconds_left: float | None) -> str:
  # NaN is the mean loss of a round in which nobody took part.
  is_known = loss is not None and not math.isnan(loss)
  parts = [f'loss {loss:.4g}'] if is_known else []
  if seconds_left is not None:
    parts.append(f'{_duration(seconds_left)} left')
  return '  '.join(parts)


def _duration(seconds: float) -> str:
  """Returns a duration in the two units that matter."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes} min'
  return f'{minutes} min {seconds} s' if minutes else f'{seconds} s'
