"""Shared type names, and the legend of axis letters used in every docstring.

The letters:

    N clients     K cohort (clients of one round)    G groups
    R rounds      E local epochs                     B batch
    n examples    D data values of one example       Z latent size
    C classes     F features                         S samples
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
Key = jax.Array
"""A typed PRNG key, from `jax.random.key`; consumed once."""
Tree = Any
"""Any pytree of arrays."""
Variables = dict[str, Any]
"""Flax variables by module name, as in `variables['encoder']['params']`."""
Metrics = dict[str, Array]
"""Named scalars (or arrays of scalars along client or round axes)."""
LAYER = 'layer'
"""Name of what a rematerialised gradient keeps (`local.rematerialised`).

Layers give it to their outputs with `jax.ad_checkpoint.checkpoint_name`.
"""
LossFn = Callable[[Tree, Any, Key], tuple[Array, tuple[Tree, Metrics]]]
"""`(variables, batch, key) -> (loss, (variables, metrics))`.

The loss is a mean over the batch's unmasked examples, and so is each metric.
The variables returned are those given, with refreshed normalisation
statistics where a model has them; a step is taken from there.
"""


class Phase(NamedTuple):
  """A part of a training, in which some modules are trained.

  Attributes:
    loss: of all variables; those that are not trained are constants to it.
    modules: names of those that are trained; of variables by module.
    rounds: how many it lasts; the last phase lasts until the end.
  """

  loss: LossFn
  modules: tuple[str, ...]
  rounds: int = 0
