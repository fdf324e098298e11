"""What a round costs: the products of its trace, the bytes of its program.

Nothing is run. XLA's own analysis (`Compiled.cost_analysis`) takes a loop for
one turn of it; here a loop counts as often as it turns.
"""

import functools
import re
from typing import Any

import jax
from jax.extend import core

_WHILE = re.compile(r' while\(.*body=%?([\w.-]+)')
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(
  r'(?:to_apply|calls|branch_computations|(?:true|false)_computation)='
  r'\{?(%[\w.-]+(?:, *%[\w.-]+)*)'
)


def product_flops(
  function: Any, *arguments: Any, unknown_turns: int | None = None
) -> int:
  """Multiplications and additions of a function's matrix products.

  What is multiplied when each product is done once, wherever it is; sums,
  activations and optimizers are left out. Of the branches of a condition the
  most expensive counts.

  Args:
    function: of arrays; traced.
    *arguments: arrays, or their shapes.
    unknown_turns: how often a loop turns whose length the program decides.

  Raises:
    ValueError: there are products in such a loop, which turns nobody knows how
      often, or convolutions that are no matrix products.
  """
  return _flops(jax.make_jaxpr(function)(*arguments).jaxpr, unknown_turns)


def _flops(jaxpr: core.Jaxpr, unknown_turns: int | None) -> int:
  return sum(_flops_of(equation, unknown_turns) for equation in jaxpr.eqns)


def _flops_of(equation: core.JaxprEqn, unknown_turns: int | None) -> int:
  name, params = equation.primitive.name, equation.params
  if name == 'dot_general':
    (contracted, _), _ = params['dimension_numbers']
    left = equation.invars[0].aval.shape
    size = equation.outvars[0].aval.size
    for axis in contracted:
      size *= left[axis]
    return 2 * size
  inner = [
    _flops(jaxpr, unknown_turns) for jaxpr in core.jaxprs_in_params(params)
  ]
  if name == 'scan':
    return params['length'] * sum(inner)
  if name == 'cond':
    return max(inner)
  if name == 'while' and any(inner) and unknown_turns is not None:
    return unknown_turns * sum(inner)
  if name == 'conv_general_dilated' or (name == 'while' and any(inner)):
    raise ValueError(f'Expected products that can be counted, got {name}.')
  return sum(inner)


def bytes_accessed(
  compiled: jax.stages.Compiled, *, unknown_turns: int | None = None
) -> float | None:
  """Bytes that a compiled program's operations read and write.

  XLA's analysis of the optimized program: operands and results of every
  operation, those of a fused one once, of a slice what is cut out. What a cache
  holds between two operations is counted all the same. Every computation that a
  loop repeats is analysed by itself, and counts as often as the compiler found
  that it turns; of all devices together.

  Args:
    compiled: the program.
    unknown_turns: how often a loop turns of which the compiler does not know.

  Returns:
    None if there is such a loop and nobody knows, or this jaxlib has no
    analysis of a module.
  """
  try:
    program = _Program(compiled, unknown_turns)
  except (ImportError, AttributeError):
    return None
  try:
    return program.bytes(program.entry) * program.devices
  except _UnknownTurnsError:
    return None


class _UnknownTurnsError(Exception):
  """A loop of unknown length."""


class _Program:
  """The computations of an optimized program, and what XLA says of each.

  Attributes:
    entry: the computation that it begins with.
    devices: that run it.
  """

  def __init__(self, compiled: jax.stages.Compiled, unknown_turns: int | None):
    # No public function analyses a module.
    from jaxlib import _hlo, _jax

    self._unknown_turns = unknown_turns
    self._parse = _hlo.hlo_module_from_text
    self._analyse = _jax.hlo_module_cost_analysis
    executable: Any = compiled.runtime_executable()
    (module,) = executable.hlo_modules()
    devices = executable.local_devices()
    self.devices, self._client = len(devices), devices[0].client
    self._lines = {
      computation.name: [
        instruction.to_string() for instruction in computation.instructions()
      ]
      for computation in module.computations()
    }
    text = module.to_string()
    self.entry = re.search(r'^ENTRY %?([\w.-]+)', text, re.MULTILINE)[1]
    # Without the header, which describes the entry, and with no entry yet.
    start = re.search(r'^(ENTRY )?%[\w.-]+ \(', text, re.MULTILINE).start()
    self._text = re.sub(
      r'^ENTRY | ?stack_frame_id=\d+', '', text[start:], flags=re.MULTILINE
    )

  @functools.cache  # noqa: B019
  def bytes(self, name: str) -> float:
    """Of a computation, its loops turned."""
    total = self._once(name)
    for body, turns in self._loops(name):
      total += turns * self.bytes(body) - self._once(body)
    return total

  def _once(self, name: str) -> float:
    """What XLA says of a computation: a turn of each loop."""
    text = re.sub(
      rf'^%{re.escape(name)} \(',
      f'ENTRY %{name} (',
      f'HloModule part, is_scheduled=true\n\n{self._text}',
      count=1,
      flags=re.MULTILINE,
    )
    return self._analyse(self._client, self._parse(text))['bytes accessed']

  def _loops(self, name: str) -> list[tuple[str, int]]:
    """Body and turns of each loop of a computation, called ones included."""
    found = []
    for line in self._lines[name]:
      if loop := _WHILE.search(line):
        known = _TURNS.search(line)
        turns = int(known[1]) if known else self._unknown_turns
        if turns is None:
          raise _UnknownTurnsError
        found.append((loop[1], turns))
      elif called := _CALLED.search(line):
        for other in re.split(', *', called[1]):
          found += self._loops(other.removeprefix('%'))
    return found
