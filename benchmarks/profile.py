"""Where a client's step spends its time, next to what the machine can do.

python -m benchmarks.profile --task=emnist_conv

One round of a task (`ours:one`), compiled and traced on one core, and its
operations added up by layer, direction and kind: milliseconds of a step, the
floating-point operations of its matrix products, and the bytes that they and
the loops between them read and write (`benchmarks.hlo`). Next to them the rate
of the best matrix product and of copies, measured on the same core in the same
run: what is slower than both has no such excuse.
"""

import argparse
import collections
from collections.abc import Callable, Mapping, Sequence
import functools
import math
import os
import pathlib
import re
import tempfile
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import tasks
from benchmarks.contestants import gemm, ours
from benchmarks.hlo import CONTAINERS, Program

_PROFILED = {
  task.name: task
  for task in reversed(tasks.ALL)
  if task.flops is not None and task.batch <= 32
}  # of each name the first of those


class Cost(NamedTuple):
  """Of a step: seconds, floating-point operations, bytes read and written."""

  seconds: float = 0.0
  flops: float = 0.0
  bytes: float = 0.0


def by_label(
  program: Program, events: Mapping[str, tuple[int, float]], steps: int
) -> dict[str, Cost]:
  """What a step costs, by label, the slowest first.

  Args:
    program: that was traced.
    events: times that each instruction ran, and their seconds.
    steps: of all clients together.
  """
  costs: dict[str, Cost] = collections.defaultdict(Cost)
  for name, (times, seconds) in events.items():
    one = program.instructions.get(name)
    if one is None or one.kind in CONTAINERS:  # what those run is traced itself
      continue
    flops, moved = program.flops(name) * times, program.bytes(name) * times
    cost = Cost(seconds / steps, flops / steps, moved / steps)
    label = _label(one.attributes, has_products=flops > 0)
    costs[label] = _added(costs[label], cost)
  return dict(sorted(costs.items(), key=lambda item: -item[1].seconds))


def traced(run: Callable[[], object]) -> dict[str, tuple[int, float]]:
  """Times that each instruction ran, and their seconds."""
  events: dict[str, tuple[int, float]] = {}
  with tempfile.TemporaryDirectory() as directory:
    with jax.profiler.trace(directory):
      run()
    (path,) = pathlib.Path(directory).rglob('*.xplane.pb')
    data = jax.profiler.ProfileData.from_file(str(path))
    for plane in data.planes:
      for line in plane.lines:
        for event in line.events:
          name = dict(event.stats).get('hlo_op')
          if name is not None:
            times, seconds = events.get(name, (0, 0.0))
            events[name] = (times + 1, seconds + event.duration_ns / 1e9)
  return events


def table(costs: Mapping[str, Cost], peak: float, copying: float) -> str:
  """Rows of `by_label`, their rates as fractions of the machine's."""
  total = functools.reduce(_added, costs.values())
  lines = ['{:36}{:>7}{:>9}{:>7}{:>9}{:>9}'.format(
    '', 'ms', 'MFLOP', 'MB', 'of peak', 'of copy')]  # fmt: skip
  for label, cost in (*costs.items(), ('all', total)):
    seconds = max(cost.seconds, 1e-12)
    lines.append(
      f'{label:36}{cost.seconds * 1e3:7.2f}{cost.flops / 1e6:9.1f}'
      f'{cost.bytes / 1e6:7.1f}{cost.flops / seconds / peak:9.2f}'
      f'{cost.bytes / seconds / copying:9.2f}'
    )
  return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> None:
  """Prints the table of a task."""
  parser = argparse.ArgumentParser(prog='python -m benchmarks.profile')
  parser.add_argument('--task', default='emnist_conv', choices=tuple(_PROFILED))
  task = _PROFILED[parser.parse_args(argv).task]
  if hasattr(os, 'sched_setaffinity'):  # before a device is used
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  products, contestant = gemm.build(None), ours.build(task, 'one')
  program, steps = Program(contestant.text()), task.clients * task.steps
  peak = products.costs()['flops'] / min(_seconds(products) for _ in range(3))
  copying = _copying(1 << 21)
  step = min(_seconds(contestant) for _ in range(5)) / steps
  costs = by_label(program, traced(contestant), steps)
  print(
    f'{task.name}, a step of {task.batch} on one core: {step * 1e3:.2f} ms; '
    f'{task.flops / steps / 1e6:,.0f} MFLOP by definition\n'
    f'matrix product {peak / 1e9:.0f} GFLOP/s; read and written in a loop over '
    f'8 MiB {copying / 1e9:.0f} GB/s, 256 MiB {_copying(1 << 26) / 1e9:.0f}'
  )
  print(table(costs, peak, copying))


def _label(attributes: str, *, has_products: bool) -> str:
  """Layer, direction and kind: `Conv_1 backward, products`."""
  source = re.search(r'op_name="([^"]*)"', attributes)
  path = source[1] if source else ''
  if 'jvp(' not in path:
    return 'optimizer, sums and loops'
  layer = re.search(r'/([A-Z]\w*_\d+)/', path)
  where = layer[1] if layer else 'between layers'
  direction = 'backward' if 'transpose(' in path else 'forward'
  return f'{where} {direction}{", products" if has_products else ""}'


def _added(left: Cost, right: Cost) -> Cost:
  return Cost(*map(sum, zip(left, right, strict=True)))


def _seconds(run: Callable[[], object]) -> float:
  started = time.perf_counter()
  run()
  return time.perf_counter() - started


def _copying(count: int) -> float:
  """Bytes read and written in a second by a loop over so many float32."""
  values = jnp.zeros(count)
  # In place: new pages would be what is measured.
  loop = jax.jit(lambda values: values + 1, donate_argnums=0)
  best = math.inf
  for _ in range(10):
    started = time.perf_counter()
    values = loop(values).block_until_ready()
    best = min(best, time.perf_counter() - started)
  return 8 * count / best


if __name__ == '__main__':
  main()
