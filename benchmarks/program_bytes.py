"""Bytes that a compiled program moves, counted in its text.

XLA's own analysis (`Compiled.cost_analysis`) takes a loop for one turn of it,
and rows that a fusion gathers for all the rows that there are. Here a loop
counts as often as the compiler found that it turns, and of what is cut out of
an array the cut. For the rest it is what XLA's analysis says: every operation
reads its operands and writes its results, a fusion as one operation. What a
cache holds from one to the next is counted all the same.
"""

from collections.abc import Mapping, Sequence
import functools
import math
import re
from typing import NamedTuple

import jax

_COMPUTATION = re.compile(r'^(ENTRY )?%([\w.-]+) \(.*\{$')
_INSTRUCTION = re.compile(
  r'^ +(ROOT )?%([\w.-]+) = (.*?) ([a-z][\w-]*)\(([^)]*)\)(.*)$'
)
_ARRAY = re.compile(r'([a-z]+)(\d*)\w*\[([\d,]*)\]')
_NAME = re.compile(r'%([\w.-]+)')
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(
  r'(?:body|to_apply|calls|branch_computations|(?:true|false)_computation)='
  r'\{?(%[\w.-]+(?:, *%[\w.-]+)*)'
)
_PARTITIONS = re.compile(r'num_partitions=(\d+)')

_FREE = (
  'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all'
)  # fmt: skip
_CUTS = ('slice', 'dynamic-slice', 'gather')


class UnknownTurnsError(Exception):
  """Nobody knows how often a loop turns."""


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
  text = compiled.as_text()
  partitions = _PARTITIONS.search(text.partition('\n')[0])
  program = _Program(text, unknown_turns)
  try:
    moved = program.bytes(program.entry)
  except UnknownTurnsError:
    return None
  return moved * (int(partitions[1]) if partitions else 1)


class _Instruction(NamedTuple):
  """A line of a computation.

  Attributes:
    name: of the result.
    size: of the result, in bytes.
    operation: what is done.
    operands: names of what it is done to.
    called: names of the computations that it calls.
    turns: of a loop, if known.
    is_root: whether the result is that of the computation.
  """

  name: str
  size: int
  operation: str
  operands: Sequence[str]
  called: Sequence[str]
  turns: int | None
  is_root: bool


class _Program:
  """The computations of a program.

  Attributes:
    entry: the name of the one that it begins with.
  """

  def __init__(self, text: str, unknown_turns: int | None):
    self._unknown_turns = unknown_turns
    self._computations: dict[str, dict[str, _Instruction]] = {}
    for line in text.splitlines():
      if start := _COMPUTATION.match(line):
        instructions = self._computations[start[2]] = {}
        if start[1]:
          self.entry = start[2]
      elif found := _INSTRUCTION.match(line):
        instructions[found[2]] = _instruction(found)

  @functools.cache  # noqa: B019
  def bytes(self, name: str) -> int:
    """Of a computation, its loops turned."""
    instructions = self._computations[name]
    return sum(self._bytes(one, instructions) for one in instructions.values())

  def _bytes(
    self, one: _Instruction, instructions: Mapping[str, _Instruction]
  ) -> int:
    """Of an instruction of a computation."""
    if one.operation in _FREE:
      return 0
    if one.operation == 'while':
      turns = self._unknown_turns if one.turns is None else one.turns
      if turns is None:
        raise UnknownTurnsError
      return turns * sum(map(self.bytes, one.called))
    if one.operation in ('call', 'conditional'):
      return max(map(self.bytes, one.called))
    if one.operation == 'fusion':
      return _fusion_bytes(self._computations[one.called[0]])
    sizes = [instructions[name].size for name in one.operands]
    if one.operation in _CUTS:
      return 2 * one.size + sum(sizes[1:])
    if one.operation == 'dynamic-update-slice':
      return sum(sizes[1:]) + sizes[1]  # the rest of the array stays
    return one.size + sum(sizes)


def _instruction(found: re.Match) -> _Instruction:
  root, name, shape, operation, operands, rest = found.groups()
  turns = _TURNS.search(rest)
  called = _NAME.findall(' '.join(_CALLED.findall(rest)))
  return _Instruction(
    name,
    _size(shape),
    operation,
    _NAME.findall(operands),
    called,
    int(turns[1]) if turns else None,
    bool(root),
  )


def _size(shape: str) -> int:
  """Bytes of an array such as `f32[2,3]{1,0}`, or of a tuple of such."""
  total = 0
  for kind, bits, sizes in _ARRAY.findall(shape):
    count = math.prod(int(size) for size in sizes.split(',') if size)
    total += count * (1 if kind == 'pred' else int(bits or 0) // 8)
  return total


def _fusion_bytes(fused: Mapping[str, _Instruction]) -> int:
  """What a fusion reads of its parameters, and what it writes."""
  users: dict[str, list[tuple[_Instruction, int]]] = {}
  for one in fused.values():
    for place, name in enumerate(one.operands):
      users.setdefault(name, []).append((one, place))

  def read(one: _Instruction) -> int:
    """Of an array: all, or no more than is cut out of it."""
    needed = 0
    for user, place in users.get(one.name, []):
      if user.operation == 'bitcast':
        needed += read(user)
      elif place == 0 and user.operation in _CUTS:
        needed += user.size
      elif not (place == 0 and user.operation == 'dynamic-update-slice'):
        return one.size
    return min(needed, one.size)

  def written(one: _Instruction) -> int:
    if one.operation == 'tuple':
      return sum(written(fused[name]) for name in one.operands)
    if one.operation == 'bitcast':
      return written(fused[one.operands[0]])
    if one.operation == 'dynamic-update-slice':
      return fused[one.operands[1]].size
    return one.size

  (root,) = (one for one in fused.values() if one.is_root)
  return written(root) + sum(
    read(one) for one in fused.values() if one.operation == 'parameter'
  )
