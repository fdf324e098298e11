"""All clients of a fleet, one block at a time: to measure what they have.

A round needs a cohort. Whatever needs every client (an accuracy for each, a
hash of all) goes over blocks, and need not know where the population lies: in
memory it is one block, in files (`fedjax_gen.streaming`) there are many.
"""

from collections.abc import Callable, Iterable
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.federated.algorithm import ClientInfo
from fedjax_gen.federated.execution import cohorts
from fedjax_gen.types import Tree


class Block(NamedTuple):
  """Some clients of one fleet, on the device.

  Attributes:
    infos: `[k]` of them, all present; `infos.row` are their rows in the fleet.
    data: their examples; the i-th client of the block is its i-th.
    kept: what they keep, leaves `[k, ...]`.
    num: how many of the k count, the first ones. The others repeat the last of
      these, so that all blocks of a fleet have one shape.
  """

  infos: ClientInfo
  data: FederatedDataset
  kept: Tree
  num: int

  @property
  def rows(self) -> np.ndarray:
    """`[k]` of the fleet's population."""
    return np.asarray(self.infos.row)

  def cut(self, tree: Tree) -> Tree:
    """Leaves `[k, ...]` of whatever tree without those that do not count."""
    return jax.tree.map(lambda leaf: leaf[: self.num], tree)

  def exact(self) -> 'Block':
    """The block without them."""
    infos, kept = self.cut((self.infos, self.kept))
    rows = np.arange(self.num)
    return Block(infos, subset(self.data, rows), kept, self.num)


Blocks = Callable[..., Iterable[Block]]
"""`(state, fleet, rows=None, *, examples=True, kept=True) -> blocks`.

Of the clients at `rows`, everyone by default; without examples, or without what
clients keep, where that is not asked for and would have to be fetched.
"""


def in_memory(
  data: FederatedDataset, kept: Tree, rows: np.ndarray | None = None
) -> Block:
  """The one block of a fleet in memory.

  Args:
    data: the fleet's clients.
    kept: what they keep, leaves `[N, ...]`.
    rows: the clients that are asked for; everyone by default.
  """
  if rows is None:
    return Block(cohorts.everyones_infos(data), data, kept, data.num_clients)
  data = subset(data, rows)
  chosen = jnp.asarray(rows, jnp.int32)
  infos = cohorts.everyones_infos(data, chosen)
  return Block(infos, data, trees.take(kept, chosen), len(rows))


def subset(data: FederatedDataset, rows: np.ndarray) -> FederatedDataset:
  """Some clients, who lay out their work as they would among all."""
  chosen: dict[str, Any] = {
    name: getattr(data, name)[rows] for name in ('offsets', 'sizes', 'groups')
  }
  return dataclasses.replace(data, **chosen)


def joined(function: Callable[[Block], Tree], blocks: Iterable[Block]) -> Tree:
  """What a function makes of the clients of each block, as NumPy arrays.

  Args:
    function: from a block to leaves `[k, ...]`.
    blocks: one at least.

  Returns:
    Leaves `[n, ...]` of all that count.
  """
  parts = [
    jax.tree.map(np.asarray, block.cut(function(block))) for block in blocks
  ]
  if len(parts) == 1:
    return parts[0]
  return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
