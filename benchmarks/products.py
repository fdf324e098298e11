"""Operations of a function's matrix products, counted in its trace."""

from typing import Any

import jax
from jax.extend import core


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
