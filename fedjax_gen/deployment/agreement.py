"""What coordinator and sites agree to train: methods, and who is who."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.federated.algorithm import Algorithm, ClientInfo
from fedjax_gen.privacy.events import Event
from fedjax_gen.types import Tree


class Task(NamedTuple):
  """One method of a study.

  Attributes:
    algorithm: the same value on all machines.
    event: what a round releases about a record, or all, of a site to the
      coordinator: by which its ledger is charged. None where nothing is
      protected, or the coordinator alone adds the noise.
    num_shares: sites, those who collude included, that a secure sum must have
      for the shares of noise in it to suffice. Then no message leaves outside
      one. 0 where noise is not in shares.
    prepare: from a site's data to those that the method sees.
  """

  algorithm: Algorithm
  event: Event | None = None
  num_shares: int = 0
  prepare: Callable[[FederatedDataset], FederatedDataset] = lambda data: data


class Node(NamedTuple):
  """One site as the algorithm knows it.

  Attributes:
    fleet: whose program it runs.
    row: its place in that fleet.
    group: of the algorithm's groups; 0 where there are none.
    num_examples: that it trains on.
  """

  fleet: int
  row: int
  group: int
  num_examples: int

  def info(self, *, present: bool = True) -> ClientInfo:
    """What programs are told of it; absent nodes count for nothing."""
    size = self.num_examples if present else 0
    return ClientInfo(
      row=jnp.int32(self.row),
      group=jnp.int32(self.group),
      num_examples=jnp.int32(size),
      weight=jnp.float32(size),
      present=jnp.asarray(present),
    )


Study = Callable[[Mapping[str, Any]], Mapping[str, Task]]
"""`config -> tasks by name`: how a site makes what a coordinator asks for.

The configuration is JSON, and all of it that a site needs: nothing is executed
but what is installed there. Raises `InputError` for one that it does not know.
"""


def view_shapes(algorithm: Algorithm, node: Node) -> Tree:
  """Shapes of what the server sends to a node."""
  server = jax.eval_shape(algorithm.server.init, jax.random.key(0))
  return jax.eval_shape(algorithm.fleets[node.fleet].view, server, node.info())


def sums(algorithm: Algorithm, message: Tree, info: ClientInfo) -> Tree:
  """The sums of one node by itself."""
  one = jax.tree.map(lambda leaf: leaf[None], (message, info))
  return algorithm.server.aggregate.partial(*one)
