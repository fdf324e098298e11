"""Shows how far training is: a bar in a terminal, a few lines elsewhere."""

from collections.abc import Callable
import math
import sys
import time
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress as Bar, TextColumn

_WIDTH = 80
_MAX_LINES = 20  # per method, where there is no terminal


class Progress(Protocol):
  """What training tells about itself, one method after the other."""

  def start(self, method: str, num_rounds: int, done: int) -> None:
    """Begins a method of which `done` rounds are there already."""

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

  def start(self, method: str, num_rounds: int, done: int) -> None:
    self._bar = Bar(
      TextColumn('{task.description}', style='bold'),
      BarColumn(bar_width=None),
      TextColumn('round {task.completed}/{task.total}'),
      TextColumn('{task.fields[status]}'),
      console=self._console,
      expand=True,
    )
    self._task = self._bar.add_task(
      method, total=num_rounds, completed=done, status='compiling'
    )
    self._timer = _Timer(num_rounds)
    self._bar.start()

  def update(self, rounds: int, loss: float | None) -> None:
    status = _status(loss, self._timer.seconds_left(rounds))
    if self._bar:
      self._bar.update(self._task, completed=rounds, status=status)

  def close(self) -> None:
    if self._bar:
      self._bar.stop()


class _LineProgress:
  """At most `_MAX_LINES` lines per method, so that log files stay short."""

  def __init__(self, stream: TextIO):
    self._stream = stream

  def start(self, method: str, num_rounds: int, done: int) -> None:
    self._method, self._num_rounds = method, num_rounds
    self._shown = _MAX_LINES * done // num_rounds
    self._timer = _Timer(num_rounds)
    resumed = f', resumed after {done}' if done else ''
    self._print(f'{method}: {num_rounds} rounds{resumed}, compiling')

  def update(self, rounds: int, loss: float | None) -> None:
    status = _status(loss, self._timer.seconds_left(rounds))
    due = _MAX_LINES * rounds // self._num_rounds
    if due > self._shown:
      self._shown = due
      self._print(f'{self._method}: {rounds}/{self._num_rounds}  {status}')

  def close(self) -> None:
    pass

  def _print(self, line: str) -> None:
    print(line, file=self._stream, flush=True)


class _NoProgress:
  """Shows nothing."""

  def start(self, method: str, num_rounds: int, done: int) -> None:
    pass

  def update(self, rounds: int, loss: float | None) -> None:
    pass

  def close(self) -> None:
    pass


NONE: Progress = _NoProgress()
"""For processes beside the one that shows the advance."""


class _Timer:
  """Estimates the seconds left, from the steps after the first."""

  def __init__(self, num_rounds: int, clock: Callable[[], float] = time.time):
    self._num_rounds = num_rounds
    self._clock = clock
    self._first: tuple[int, float] | None = None

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
