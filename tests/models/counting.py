"""How large models are."""

import math

import jax

from fedjax_gen.types import Variables


def num_parameters(variables: Variables) -> int:
  """Number of trainable values: the collections `params`, not statistics."""
  return sum(
    math.prod(leaf.shape)
    for module in variables.values()
    for leaf in jax.tree.leaves(module.get('params', {}))
  )
