"""What a compiled program must cost, read from its text (HLO).

XLA's own analysis (`Compiled.cost_analysis`) takes a loop for one turn of it,
and rows that a fusion gathers for all the rows that there are. Here a loop
counts as often as the compiler found that it turns, of what is cut out of an
array the cut, and of what is updated in place the update. For the rest it is
what XLA's analysis says: every instruction reads its operands and writes its
results, a fusion as one instruction. What a cache holds from one to the next is
counted all the same.
"""

import collections
from collections.abc import Iterator, Sequence
import math
import re
from typing import NamedTuple

import jax

_COMPUTATION = re.compile(r'^(ENTRY )?%([\w.-]+) \(.*\{$')
_INSTRUCTION = re.compile(
  r'^\s*(ROOT )?%([\w.-]+) = (.*?) ([a-z][\w-]*)\(([^)]*)\)(.*)$'
)
_ARRAY = re.compile(r'([a-z]+)(\d*)\w*\[([\d,]*)\]')
_NAME = re.compile(r'%([\w.-]+)')
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(
  r'(?:body|to_apply|calls|branch_computations|(?:true|false)_computation)='
  r'\{?(%[\w.-]+(?:, *%[\w.-]+)*)'
)
_CONTRACTED = re.compile(r'lhs_contracting_dims=\{([\d,]*)\}')
_PARTITIONS = re.compile(r'num_partitions=(\d+)')

CONTAINERS = ('while', 'call', 'conditional')
"""Kinds of instructions that cost what the computations they call cost."""

_FREE = (
  'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all'
)  # fmt: skip
_VIEWS = ('bitcast', 'reshape')  # within a fusion, where neither moves anything
_CUTS = ('slice', 'dynamic-slice', 'gather')
_UPDATE = 'dynamic-update-slice'


class Instruction(NamedTuple):
  """A line of a computation.

  Attributes:
    name: of the result, which no other of the program has.
    kind: its HLO opcode.
    type: of the result, as HLO writes it.
    operands: names of instructions.
    called: names of computations; of a loop, that of its body.
    attributes: the rest of the line.
    is_root: whether the result is that of the computation.
  """

  name: str
  kind: str
  type: str
  operands: Sequence[str]
  called: Sequence[str]
  attributes: str
  is_root: bool

  @property
  def size(self) -> int:
    """Of the result, in bytes."""
    return sum(
      # By the width that its name says (bf16, f8e4m3fn, c64), a byte at least.
      math.prod(shape) * (1 if kind == 'pred' else -(-bits // 8))
      for kind, bits, shape in _arrays(self.type)
    )

  @property
  def turns(self) -> int | None:
    """Of a loop, if the compiler knows how often it turns."""
    found = _TURNS.search(self.attributes)
    return int(found[1]) if found else None


class Program:
  """The instructions of a compiled program, and what each must cost.

  Attributes:
    instructions: of all computations, by name.
    computations: the instructions of each, by its name.
    entry: the name of the computation that it begins with.
    devices: how many run it, each on its part.
  """

  def __init__(self, text: str):
    partitions = _PARTITIONS.search(text.partition('\n')[0])
    self.devices = int(partitions[1]) if partitions else 1
    self.instructions: dict[str, Instruction] = {}
    self.computations: dict[str, list[Instruction]] = {}
    for line in text.splitlines():
      if start := _COMPUTATION.match(line):
        inner = self.computations[start[2]] = []
        if start[1]:
          self.entry = start[2]
      elif found := _INSTRUCTION.match(line):
        inner.append(_instruction(found))
        self.instructions[inner[-1].name] = inner[-1]

  def flops(self, name: str) -> int:
    """Of an instruction's matrix products; a multiplication and an addition."""
    one = self.instructions[name]
    inner = self.computations[one.called[0]] if one.kind == 'fusion' else [one]
    return sum(self._product(one) for one in inner if one.kind == 'dot')

  def bytes(self, name: str) -> int:
    """What an instruction, itself and once, reads and writes on a device."""
    one = self.instructions[name]
    if one.kind in _FREE:
      return 0
    if one.kind == 'fusion':
      return _fusion_bytes(self.computations[one.called[0]])
    sizes = [self.instructions[operand].size for operand in one.operands]
    if one.kind in _CUTS:
      return 2 * one.size + sum(sizes[1:])
    if one.kind == _UPDATE:
      return sum(sizes[1:]) + sizes[1]  # the rest of the array stays
    return one.size + sum(sizes)

  def _product(self, dot: Instruction) -> int:
    ((_, _, left),) = _arrays(self.instructions[dot.operands[0]].type)
    ((_, _, result),) = _arrays(dot.type)
    contracted = _sizes(_CONTRACTED.search(dot.attributes)[1])
    return 2 * math.prod(result) * math.prod(left[axis] for axis in contracted)


def bytes_moved(
  compiled: jax.stages.Compiled, *, unknown_turns: int | None = None
) -> int | None:
  """Bytes that a program reads and writes, on all its devices together.

  Of the branches of a condition the one that moves most counts.

  Args:
    compiled: the program.
    unknown_turns: how often a loop turns of which the compiler does not know.

  Returns:
    None if there is such a loop and `unknown_turns` is None.
  """
  program = Program(compiled.as_text())
  is_unknown = any(
    one.kind == 'while' and one.turns is None
    for one in program.instructions.values()
  )
  if is_unknown and unknown_turns is None:
    return None

  def moved(computation: str) -> int:
    return sum(of(one) for one in program.computations[computation])

  def of(one: Instruction) -> int:
    if one.kind not in CONTAINERS:
      return program.bytes(one.name)
    turns = 1
    if one.kind == 'while':
      turns = unknown_turns if one.turns is None else one.turns
    return turns * max(map(moved, one.called))

  return program.devices * moved(program.entry)


def _instruction(found: re.Match) -> Instruction:
  root, name, type_, kind, operands, attributes = found.groups()
  # A constant's value and a parameter's number have no names in them.
  return Instruction(
    name,
    kind,
    type_,
    _NAME.findall(operands),
    _NAME.findall(' '.join(_CALLED.findall(attributes))),
    attributes,
    bool(root),
  )


def _arrays(text: str) -> list[tuple[str, int, list[int]]]:
  """Kind, bits and shape of `f32[2,3]{1,0}`, or of all in a tuple of such."""
  return [
    (kind, int(bits or 0), _sizes(sizes))
    for kind, bits, sizes in _ARRAY.findall(text)
  ]


def _sizes(text: str) -> list[int]:
  return [int(size) for size in text.split(',') if size]


def _fusion_bytes(fused: Sequence[Instruction]) -> int:
  """What a fusion reads of its parameters, and what it writes."""
  written, in_place = _written(fused)
  users = collections.defaultdict(list)
  for one in fused:
    for place, name in enumerate(one.operands):
      users[name].append((one, place))

  def read(one: Instruction) -> int:
    """Of an array: all, or no more than is cut out of it."""
    needed = 0
    for user, place in users[one.name]:
      if user.kind in _VIEWS:
        needed += read(user)
      elif place == 0 and user.kind in _CUTS:  # elsewhere stand indices
        needed += user.size
      elif place > 0 or user.name not in in_place:
        return one.size
    return min(needed, one.size)

  parameters = [one for one in fused if one.kind == 'parameter']
  return written + sum(map(read, parameters))


def _written(fused: Sequence[Instruction]) -> tuple[int, set[str]]:
  """Bytes that a fusion writes, and its updates that are made in place."""
  named = {one.name: one for one in fused}
  (root,) = (one for one in fused if one.is_root)

  def chain(one: Instruction) -> Iterator[Instruction]:
    """A result, and what it was before it was updated or seen otherwise."""
    yield one
    if one.kind in (*_VIEWS, _UPDATE):
      yield from chain(named[one.operands[0]])

  written, in_place = 0, set()
  is_tuple = root.kind == 'tuple'
  for one in [named[name] for name in root.operands] if is_tuple else [root]:
    *later, first = chain(one)
    updates = [each for each in later if each.kind == _UPDATE]
    # In place only if nothing but updates lies between result and parameter:
    # an update of what the fusion itself computes writes the whole result.
    if updates and first.kind == 'parameter':
      written += sum(named[each.operands[1]].size for each in updates)
      in_place |= {each.name for each in updates}
    else:
      written += one.size
  return written, in_place
