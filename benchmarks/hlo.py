"""What the instructions of a compiled program must cost, read from its HLO."""

import collections
from collections.abc import Iterator, Sequence
import math
import re
from typing import NamedTuple

_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's32': 4, 'u32': 4, 'f32': 4, 'f64': 8}
_ARRAY = re.compile(r'\b(\w+)\[([\d,]*)\]')
_LINE = re.compile(r'^\s*(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$')
_VIEWS = ('bitcast', 'reshape')
_PARTS = ('slice', 'dynamic-slice', 'gather')


class Op(NamedTuple):
  """An instruction of a compiled program.

  Attributes:
    kind: its HLO opcode.
    type: of its result, as HLO writes it.
    operands: names of instructions.
    rest: of the line, from within the operands' parenthesis on.
  """

  kind: str
  type: str
  operands: tuple[str, ...]
  rest: str


class Cost(NamedTuple):
  """Of a step: seconds, floating-point operations, bytes read and written."""

  seconds: float = 0.0
  flops: float = 0.0
  bytes: float = 0.0


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


def _shapes(text: str) -> list[tuple[str, tuple[int, ...]]]:
  return [
    (kind, tuple(int(size) for size in sizes.split(',') if size))
    for kind, sizes in _ARRAY.findall(text)
    if kind in _BYTES
  ]


def _size(text: str) -> float:
  return sum(_BYTES[kind] * math.prod(shape) for kind, shape in _shapes(text))
