"""Contestants in processes of their own, seen from the one that measures."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import json
import os
import select
import subprocess
import sys
from typing import Any

from benchmarks.tasks import Task

_ANSWER_SECONDS = 400


class Worker:
  """A contestant at a task (`benchmarks.worker`), and what it answered.

  Attributes:
    name: of the contestant's module, and its option.
    task: what it does.
    first: its first answer, once it was waited for.
    absent: why it does not take part, if it does not.
    rounds: one answer for each round.
    costs: of a round, once it was analysed.
  """

  def __init__(self, name: str, task: Task, python: str = sys.executable):
    self.name, self.task = name, task
    self._process = subprocess.Popen(
      [python, '-m', 'benchmarks.worker', name, json.dumps(task.record())],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      # Contestants share an accelerator: none may take all of its memory.
      env={'XLA_PYTHON_CLIENT_PREALLOCATE': 'false', **os.environ},
    )
    self.first: dict[str, Any] = {}
    self.absent: str | None = None
    self.rounds: list[dict[str, Any]] = []
    self.costs: dict[str, Any] = {}

  def wait(self) -> None:
    """Until it has run a round untimed."""
    self.first = self.first or self.answer()
    self.absent = self.first.get('absent')

  def round(self) -> None:
    """Runs a round; who does not come back from it is absent from then on."""
    if self.absent is not None:
      return
    self.ask('round')
    answer = self.answer()
    self.absent = answer.get('absent')
    if self.absent is None:
      self.rounds.append(answer)

  def end(self) -> None:
    """Lets the process go."""
    self._process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._process.wait(timeout=20)
    self._process.kill()

  def ask(self, what: str) -> None:
    """Sends a line that `benchmarks.worker` knows."""
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(what + '\n')
      self._process.stdin.flush()

  def answer(self) -> dict[str, Any]:
    """What it says to a line; `absent`, and why, if it has died."""
    ready, _, _ = select.select([self._process.stdout], [], [], _ANSWER_SECONDS)
    line = self._process.stdout.readline() if ready else ''
    if line:
      return json.loads(line)
    self._process.kill()
    reason = self._process.communicate()[1].strip().splitlines()[-1:]
    return {'absent': reason[0] if reason else 'no answer'}


@contextlib.contextmanager
def started(
  wanted: Sequence[tuple[str, Task]],
  pythons: Mapping[str, str] | None = None,
  *,
  together: bool = False,
) -> Iterator[list[Worker]]:
  """Workers that are ready for rounds, or absent.

  Args:
    wanted: contestants, each with its task.
    pythons: interpreters of modules that need another one.
    together: whether they start at the same time.
  """
  workers: list[Worker] = []
  try:
    for name, task in wanted:
      python = (pythons or {}).get(name.partition(':')[0], sys.executable)
      workers.append(Worker(name, task, python))
      if not together:
        workers[-1].wait()
    for worker in workers:
      worker.wait()
    yield workers
  finally:
    for worker in workers:
      worker.end()


def present(workers: Iterable[Worker]) -> list[Worker]:
  """Those that take part; names the others, and why."""
  there = []
  for worker in workers:
    if worker.absent is None:
      there.append(worker)
    else:
      print(f'  without {worker.name}: {worker.absent}', flush=True)
  return there


def analyse(workers: Iterable[Worker]) -> None:
  """Has all say what their rounds cost, at the same time."""
  asked = list(workers)
  for worker in asked:
    worker.ask('costs')
  for worker in asked:
    worker.costs = worker.answer()
    if reason := worker.costs.get('absent'):
      print(f'  no costs of {worker.name}: {reason}', flush=True)
