"""The speed of a round beside what else one could use, in one table.

python -m benchmarks.run --quick --out=quick.json
python -m benchmarks.run --task=conv_vae --out=conv_vae.json
python -m benchmarks.run --python_for=pfl_research=venv-pfl/bin/python

Every contestant does the same work in a process of its own, and rounds
alternate: ratios of one run compare under the same conditions, however busy the
machine is. What cannot be imported is left out with a message; see the modules
of `benchmarks/contestants` for how to install it.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import datetime
import json
import os
import pathlib
import platform
import select
import statistics
import subprocess
import sys
from typing import Any

from benchmarks import tasks
from benchmarks.tasks import Task

_OURS = ('ours:auto', 'ours:one', 'ours:blocks of 8', 'ours:all')
_TORCH = ('torch_loop', 'torch_loop:fused', 'torch_vmap')
_DENSE = ('dense', 'dense:patches')
_PEERS = ('fedjax_head', 'pfl_research', 'flower_simulation')
_LIBRARY = ('system:auto', 'system:one', 'system:all', 'system:loop')
_CONTESTANTS: dict[str, Sequence[str]] = {
  'conv_vae': (*_OURS, 'naive_vmap', *_TORCH, *_DENSE),
  'mlp_vae': (*_OURS, *_TORCH, *_PEERS),
  'emnist_conv': (*_OURS, *_TORCH, *_PEERS),
}
_AT_ONCE = ('ours:all', 'naive_vmap', 'torch_vmap', *_DENSE)
_MOST_AT_ONCE = 4000  # examples; 8 GiB
_WITHOUT_QUICK = ('torch_loop:fused', *_DENSE)
_SLOW = ('naive_vmap', 'flower_simulation')  # measured in fewer rounds
_START_SECONDS = 400


def main(argv: Sequence[str] | None = None) -> None:
  """Measures, prints a table and writes the rows."""
  flags = _flags(argv)
  rows: list[dict[str, Any]] = []
  for task in _chosen(flags):
    print(f'{task.name}: {task.clients} clients x {task.steps} steps x '
          f'{task.batch}', flush=True)  # fmt: skip
    more, device = _measure(task, flags)
    rows += more
    print(_table(more), flush=True)
    if flags.out:  # after every task: a later one may be interrupted
      record = {'machine': _machine(device), 'rows': rows}
      text = json.dumps(record, indent=1)
      pathlib.Path(flags.out).write_text(text + '\n', encoding='utf-8')


def _flags(argv):
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.run',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--quick', action='store_true', help='conv_vae at 100 clients'
  )
  parser.add_argument(
    '--task', choices=sorted({task.name for task in tasks.ALL})
  )
  parser.add_argument('--clients', type=int, help='only tasks of so many')
  parser.add_argument('--batch', type=int, help='only tasks of so many')
  parser.add_argument(
    '--repeats', type=int, default=5, help='rounds of each contestant'
  )
  parser.add_argument(
    '--python_for',
    action='append',
    default=[],
    metavar='NAME=PATH',
    help='interpreter of a contestant that needs another environment',
  )
  parser.add_argument(
    '--contestants',
    type=lambda text: text.split(','),
    help='only these, separated by commas',
  )
  parser.add_argument(
    '--most_at_once',
    type=int,
    default=_MOST_AT_ONCE,
    help='examples of a step of all clients, beyond which those that hold them '
    'all at once are left out',
  )
  parser.add_argument(
    '--start_together',
    action='store_true',
    help='start contestants at the same time: sooner, and compile times count '
    'for less',
  )
  parser.add_argument('--out', help='JSON file to write')
  flags = parser.parse_args(argv)
  flags.python_for = dict(text.split('=', 1) for text in flags.python_for)
  return flags


def _chosen(flags) -> list[Task]:
  chosen = [
    task
    for task in (tasks.QUICK if flags.quick else tasks.ALL)
    if flags.task in (None, task.name)
    and flags.clients in (None, task.clients)
    and flags.batch in (None, task.batch)
  ]
  if not chosen:
    sys.exit('No task is what the flags ask for.')
  return chosen


class _Contestant:
  """A worker and what it answered.

  Attributes:
    name: of the module, and its option.
    task: what it does.
    first: its first answer, once it was waited for.
    absent: why it does not take part, if it does not.
    rounds: one answer for each round.
  """

  def __init__(self, name: str, task: Task, python: str):
    self.name = name
    # Its round would take minutes; a part of it tells the speed.
    self.task = _shorter(task) if name == 'naive_vmap' else task
    self._process = subprocess.Popen(
      [python, '-m', 'benchmarks.worker', name, json.dumps(self.task.record())],
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

  def wait(self) -> None:
    """Until it has run a round untimed."""
    self.first = self.first or self._answer()
    self.absent = self.first.get('absent')

  def round(self) -> None:
    """Runs a round; who does not come back from it is absent from then on."""
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write('\n')
      self._process.stdin.flush()
    answer = self._answer()
    self.absent = answer.get('absent')
    if self.absent is None:
      self.rounds.append(answer)

  def end(self) -> None:
    """Lets the worker go."""
    self._process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._process.wait(timeout=20)
    self._process.kill()

  def _answer(self) -> dict[str, Any]:
    ready, _, _ = select.select([self._process.stdout], [], [], _START_SECONDS)
    line = self._process.stdout.readline() if ready else ''
    if line:
      return json.loads(line)
    self._process.kill()
    reason = self._process.communicate()[1].strip().splitlines()[-1:]
    return {'absent': reason[0] if reason else 'no answer'}


def _shorter(task: Task) -> Task:
  return Task(**(task.record() | {'steps': min(task.steps, 2)}))


@contextlib.contextmanager
def _started(
  names: Sequence[str], task: Task, flags
) -> Iterator[list[_Contestant]]:
  contestants: list[_Contestant] = []
  try:
    for name in names:
      python = flags.python_for.get(name.partition(':')[0], sys.executable)
      contestants.append(_Contestant(name, task, python))
      if not flags.start_together:
        contestants[-1].wait()
    for contestant in contestants:
      contestant.wait()
    yield contestants
  finally:
    for contestant in contestants:
      contestant.end()


def _measure(task: Task, flags) -> tuple[list[dict[str, Any]], str]:
  """The rows of a task, and the device that JAX ran them on."""
  with _started(_names(task, flags), task, flags) as contestants:
    for turn in range(flags.repeats):
      for contestant in contestants:
        if contestant.absent is None and (
          turn == 0 or contestant.name not in _SLOW
        ):
          contestant.round()
  for contestant in contestants:
    if contestant.absent is not None:
      print(f'  without {contestant.name}: {contestant.absent}', flush=True)
  there = [one for one in contestants if one.absent is None]
  return _rows(task, there), there[-1].first['device']


def _names(task: Task, flags) -> list[str]:
  names = list(_CONTESTANTS.get(task.name, _LIBRARY))
  if task.clients * task.batch > flags.most_at_once:
    left_out = [name for name in names if name in _AT_ONCE]
    print(f'  without {", ".join(left_out)}: memory', flush=True)
    names = [name for name in names if name not in left_out]
  if flags.quick:
    names = [name for name in names if name not in _WITHOUT_QUICK]
  if flags.contestants:
    names = [name for name in names if name in flags.contestants]
  return [*names, 'gemm']


def _rows(task: Task, contestants: Sequence[_Contestant]) -> list[dict]:
  """A row for each contestant; medians, and ratios of medians."""
  speeds, by_name = {}, {one.name: one for one in contestants}
  for name, one in by_name.items():
    seconds = [answer['seconds'] for answer in one.rounds]
    speeds[name] = one.task.samples / statistics.median(seconds)
  gemm = by_name['gemm'].rounds
  peak = max(answer['flops'] / answer['seconds'] for answer in gemm)
  rows = []
  for name, one in by_name.items():
    if name == 'gemm':
      continue
    flops = task.flops and task.flops / task.samples * speeds[name]
    rows.append(
      {
        'task': task.name,
        'clients': task.clients,
        'steps': one.task.steps,
        'batch': task.batch,
        'mapping': name.removeprefix('ours:'),
        'samples_per_second': speeds[name],
        'ratio_to_torch_loop': _ratio(speeds, name, 'torch_loop'),
        'ratio_to_naive_vmap': _ratio(speeds, name, 'naive_vmap'),
        'ratio_to_jitted_loop': _ratio(speeds, name, 'system:loop'),
        'fraction_of_gemm_peak': flops and flops / peak,
        'gflops': flops and flops / 1e9,
        'compile_seconds': one.first['compile_seconds'],
        'peak_memory_mib': one.rounds[-1]['peak_memory_mib'],
        'seconds': [answer['seconds'] for answer in one.rounds],
      }
    )
  return rows


def _ratio(speeds: Mapping[str, float], name: str, other: str) -> float | None:
  return speeds[name] / speeds[other] if other in speeds else None


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
  columns = {
    'contestant': ('mapping', '{}'),
    'samples/s': ('samples_per_second', '{:,.0f}'),
    '/ torch': ('ratio_to_torch_loop', '{:.2f}'),
    '/ naive': ('ratio_to_naive_vmap', '{:.1f}'),
    '/ loop': ('ratio_to_jitted_loop', '{:.2f}'),
    'of peak': ('fraction_of_gemm_peak', '{:.2f}'),
    'compile s': ('compile_seconds', '{:.1f}'),
    'MiB': ('peak_memory_mib', '{:,.0f}'),
  }
  lines = [list(columns)]
  for row in rows:
    lines.append(
      [
        '' if row[field] is None else form.format(row[field])
        for field, form in columns.values()
      ]
    )
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return '\n'.join(
    '  '
    + '  '.join(
      text.ljust(width) if i == 0 else text.rjust(width)
      for i, (text, width) in enumerate(zip(line, widths, strict=True))
    )
    for line in lines
  )


def _machine(device: str) -> dict[str, Any]:
  return {
    'device': device,
    'date': datetime.date.today().isoformat(),
    'cores': os.cpu_count(),
    'machine': platform.machine(),
    'python': platform.python_version(),
    'load_average': os.getloadavg()[0],
  }


if __name__ == '__main__':
  main()
