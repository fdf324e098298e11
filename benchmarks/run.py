"""The speed of a round next to what else one could use, in one table.

python -m benchmarks.run --quick --out=quick.json
python -m benchmarks.run --task=conv_vae --out=conv_vae.json
python -m benchmarks.run --python_for=pfl_research=venv-pfl/bin/python

Every contestant does the same work in a process of its own, and rounds
alternate: ratios of one run compare under the same conditions, however busy the
machine is. What cannot be imported is left out with a message; see the modules
of `benchmarks/contestants` for how to install it.
"""

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import statistics
import sys
from typing import Any

from benchmarks import tasks, workers
from benchmarks.tasks import Task
from benchmarks.workers import Worker

_OURS = ('ours:auto', 'ours:one', 'ours:blocks of 8', 'ours:all')
_TORCH = ('torch_loop', 'torch_loop:fused', 'torch_vmap')
_DENSE = ('dense', 'dense:patches')
_PEERS = ('fedjax_head', 'pfl_research', 'flower_simulation')
_MACHINE = ('gemm', 'copy')  # what it could do at most
_LIBRARY = ('system:auto', 'system:one', 'system:all', 'system:loop')
_CONTESTANTS: dict[str, Sequence[str]] = {
  'conv_vae': (*_OURS, 'naive_vmap', *_TORCH, *_DENSE),
  'mlp_vae': (*_OURS, *_TORCH, *_PEERS),
  'emnist_conv': (*_OURS, *_TORCH, *_PEERS),
  'fedvae_paper': (*_LIBRARY, 'torch_loop'),
  'fissionvae': (*_LIBRARY, 'torch_loop'),
}
_AT_ONCE = ('ours:all', 'naive_vmap', 'torch_vmap', *_DENSE)
_MOST_AT_ONCE = 4000  # examples; 8 GiB
_WITHOUT_QUICK = ('torch_loop:fused', *_DENSE)
_SLOW = ('naive_vmap', 'flower_simulation')  # measured in fewer rounds


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
      record = {'machine': machine(device), 'rows': rows}
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
  parser.add_argument(
    '--without_costs',
    action='store_true',
    help='leave out what compiled programs move, and products counted by '
    'trace: a round is compiled once more for them',
  )
  parser.add_argument('--out', help='JSON file to write')
  flags = parser.parse_args(argv)
  known = {
    name for names in (*_CONTESTANTS.values(), _LIBRARY) for name in names
  }
  if unknown := sorted({*(flags.contestants or ())} - known):
    parser.error(
      f'Expected --contestants among {", ".join(sorted(known))}, got '
      f'{", ".join(unknown)}.'
    )
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


def _measure(task: Task, flags) -> tuple[list[dict[str, Any]], str]:
  """The rows of a task, and the device that JAX ran them on."""
  wanted = [
    # Its round would take minutes; a part of it tells the speed.
    (name, _shorter(task) if name == 'naive_vmap' else task)
    for name in _names(task, flags)
  ]
  with workers.started(
    wanted, flags.python_for, together=flags.start_together
  ) as contestants:
    for turn in range(flags.repeats):
      for contestant in contestants:
        if turn == 0 or contestant.name not in _SLOW:
          contestant.round()
    there = workers.present(contestants)
    # Last: to compile a round once more takes memory, and cores.
    workers.analyse(
      one for one in there if one.name in _MACHINE or not flags.without_costs
    )
  (gemm,) = (one for one in there if one.name == 'gemm')
  return _rows(task, there), gemm.first['device']


def _shorter(task: Task) -> Task:
  return dataclasses.replace(task, steps=min(task.steps, 2))


def _names(task: Task, flags) -> list[str]:
  names = list(_CONTESTANTS.get(task.name, _LIBRARY))
  if flags.contestants:
    names = [name for name in names if name in flags.contestants]
  if flags.quick:
    names = [name for name in names if name not in _WITHOUT_QUICK]
  if task.clients * task.batch > flags.most_at_once:
    if left_out := [name for name in names if name in _AT_ONCE]:
      print(f'  without {", ".join(left_out)}: memory', flush=True)
    names = [name for name in names if name not in left_out]
  return [*names, *_MACHINE]


def _rows(task: Task, contestants: Sequence[Worker]) -> list[dict[str, Any]]:
  """A row for each contestant; medians, and ratios of medians."""
  speeds = {
    one.name: one.task.samples / statistics.median(_seconds(one))
    for one in contestants
  }
  by_name = {one.name: one for one in contestants}
  peak = _best(by_name['gemm'], 'flops')
  copy = _best(by_name['copy'], 'bytes_moved')
  flops = _per_sample(task, _flops(task, contestants))
  needed = _per_sample(task, task.bytes_needed)
  return [
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
      'fraction_of_gemm_peak': flops and flops * speeds[name] / peak,
      'gflops': flops and flops * speeds[name] / 1e9,
      **_traffic(one, needed, speeds[name], copy),
      'compile_seconds': one.first['compile_seconds'],
      'peak_memory_mib': one.rounds[-1]['peak_memory_mib'],
      'seconds': _seconds(one),
    }
    for name, one in by_name.items()
    if name not in _MACHINE
  ]


def _traffic(
  one: Worker, needed: float | None, speed: float, copy: float
) -> dict[str, float | None]:
  """Bytes of an example, by both counts, and their rates over the copy's."""
  moved = _per_sample(one.task, one.costs.get('bytes_moved'))
  return {
    'bytes_moved_per_sample': moved,
    'bytes_needed_per_sample': needed,
    'gigabytes_per_second': moved and moved * speed / 1e9,
    'fraction_of_copy': moved and moved * speed / copy,
    'needed_fraction_of_copy': needed and needed * speed / copy,
  }


def _flops(task: Task, contestants: Sequence[Worker]) -> int | None:
  """Of a round: by its layers, or what the library's contestants count."""
  counted = [
    one.costs['flops']
    for one in contestants
    if one.name not in _MACHINE and one.costs.get('flops')
  ]
  return task.flops or (counted[0] if counted else None)


def _best(one: Worker, cost: str) -> float:
  """The highest rate of something that a round costs."""
  return one.costs[cost] / min(_seconds(one))


def _seconds(one: Worker) -> list[float]:
  return [answer['seconds'] for answer in one.rounds]


def _per_sample(task: Task, cost: float | None) -> float | None:
  return cost and cost / task.samples


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
    'GB/s': ('gigabytes_per_second', '{:.1f}'),
    'of copy': ('fraction_of_copy', '{:.2f}'),
    'needed': ('needed_fraction_of_copy', '{:.2f}'),
    'compile s': ('compile_seconds', '{:.1f}'),
    'MiB': ('peak_memory_mib', '{:,.0f}'),
  }
  columns = {
    title: (field, form)
    for title, (field, form) in columns.items()
    if any(row[field] is not None for row in rows)
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


def machine(device: str) -> dict[str, Any]:
  """What is measured on, and when."""
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
