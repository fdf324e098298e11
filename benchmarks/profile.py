"""Where a client's step spends its time, beside what the machine can do.

python -m benchmarks.profile --task=emnist_conv

One round of a task (`ours:one`), compiled and traced on one core, and its
operations added up by layer, direction and kind: milliseconds of a step, the
floating-point operations of its matrix products, and the bytes that they and
the loops between them read and write, each operand once. Beside them the rate
of the best matrix product and of copies, measured on the same core in the same
run: what is slower than both has no such excuse.
"""

import argparse
import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import math
import os
import pathlib
import re
import tempfile
import time

import jax
import jax.numpy as jnp

from benchmarks import tasks
from benchmarks.contestants import gemm, ours

_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's32': 4, 'u32': 4, 'f32': 4, 'f64': 8}
_ARRAY = re.compile(r'\b(\w+)\[([\d,]*)\]')
_LINE = re.compile(r'^\s*(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$')
_VIEWS = ('bitcast', 'reshape')
_PARTS = ('slice', 'dynamic-slice', 'gather')
_PROFILED = {
  task.name: task
  for task in reversed(tasks.ALL)
  if task.flops is not None and task.batch <= 32
}  # of each name the first of those
_CONTAINERS = ('while', 'call', 'conditional')  # what they run is traced itself


@dataclasses.dataclass(frozen=True)
class Op:
  """An instruction of a compiled program.

  Attributes:
    kind: its HLO opcode.
    type: of its result, as HLO writes it.
    operands: names of instructions.
    rest: the line behind the operands' parenthesis.
  """

  kind: str
  type: str
  operands: tuple[str, ...]
  rest: str


@dataclasses.dataclass
class Cost:
  """Of a step: seconds, floating-point operations, bytes read and written."""

  seconds: float = 0.0
  flops: float = 0.0
  bytes: float = 0.0

  def __add__(self, other: 'Cost') -> 'Cost':
    """Sums."""
    return Cost(
      self.seconds + other.seconds,
      self.flops + other.flops,
      self.bytes + other.bytes,
    )


class Program:
  """The instructions of a compiled program, and what each must cost."""

  def __init__(self, text: str):
    self.ops: dict[str, Op] = {}
    self._within = collections.defaultdict(list)
    computation = ''
    for line in text.splitlines():
      if match := re.match(r'^(?:ENTRY )?%([\w.\-]+) \(.*\{$', line):
        computation = match[1]
      elif match := _LINE.match(line):
        name, type_, kind, rest = match.groups()
        inside, _, behind = rest.partition(')')
        operands = tuple(re.findall(r'%([\w.\-]+)', inside))
        self.ops[name] = Op(kind, type_, operands, inside + behind)
        self._within[computation].append(name)

  def cost(self, name: str) -> Cost:
    """Operations of matrix products and bytes of an instruction, once."""
    op = self.ops[name]
    inner = self._within.get(self._called(op), [])
    flops = sum(self._flops(self.ops[one]) for one in (name, *inner))
    read = sum(self._read(op, i) for i in range(len(op.operands)))
    return Cost(0.0, flops, read + self._written(op, inner))

  def label(self, name: str) -> str:
    """Layer, direction and kind: `Conv_1 backward, products`."""
    op = self.ops[name]
    source = re.search(r'op_name="([^"]*)"', op.rest)
    path = source[1] if source else ''
    layer = re.search(r'/([A-Z]\w*_\d+)/', path)
    products = self.cost(name).flops > 0
    if 'jvp(' not in path:
      return 'optimizer, sums and loops'
    direction = 'backward' if 'transpose(' in path else 'forward'
    where = layer[1] if layer else 'between layers'
    return f'{where} {direction}{", products" if products else ""}'

  def _called(self, op: Op) -> str:
    match = re.search(r'calls=%([\w.\-]+)', op.rest)
    return match[1] if match else ''

  def _flops(self, op: Op) -> float:
    if op.kind != 'dot':
      return 0.0
    dims = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', op.rest)
    shape = _shapes(self.ops[op.operands[0]].type)[0][1]
    contracted = dims[1].split(',') if dims and dims[1] else []
    length = math.prod(shape[int(axis)] for axis in contracted)
    return 2.0 * length * math.prod(_shapes(op.type)[0][1])

  def _read(self, op: Op, index: int) -> float:
    """Bytes of an operand: of its parts, if a fusion reads nothing else."""
    whole = _size(self.ops[op.operands[index]].type)
    inner = self._within.get(self._called(op), [])
    names = [
      one
      for one in inner
      if self.ops[one].kind == 'parameter'
      and re.match(rf'{index}\b', self.ops[one].rest)
    ]
    parts = list(self._parts(names[0], inner)) if names else [None]
    if None in parts:
      return whole
    return min(whole, sum(part for part in parts if part is not None))

  def _parts(self, name: str, inner: Sequence[str]) -> Iterator[float | None]:
    for user in inner:
      op = self.ops[user]
      if name not in op.operands:
        continue
      if op.kind in _VIEWS:
        yield from self._parts(user, inner)
      elif op.kind == 'dynamic-update-slice' and op.operands[0] == name:
        yield 0.0  # written in place
      else:
        yield _size(op.type) if op.kind in _PARTS else None

  def _written(self, op: Op, inner: Sequence[str]) -> float:
    """Bytes of the result: of the update, if that is all that is written."""
    updates = [
      _size(self.ops[self.ops[one].operands[1]].type)
      for one in inner
      if self.ops[one].kind == 'dynamic-update-slice'
    ]
    return min([_size(op.type), *([sum(updates)] if updates else [])])


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
    if name not in program.ops or program.ops[name].kind in _CONTAINERS:
      continue
    once = program.cost(name)
    costs[program.label(name)] += Cost(
      seconds / steps, once.flops * times / steps, once.bytes * times / steps
    )
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
  total = sum(costs.values(), Cost())
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
  peak = products.flops / min(_seconds(products) for _ in range(3))
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


def _shapes(text: str) -> list[tuple[str, tuple[int, ...]]]:
  return [
    (kind, tuple(int(size) for size in sizes.split(',') if size))
    for kind, sizes in _ARRAY.findall(text)
    if kind in _BYTES
  ]


def _size(text: str) -> float:
  return sum(_BYTES[kind] * math.prod(shape) for kind, shape in _shapes(text))


if __name__ == '__main__':
  main()
