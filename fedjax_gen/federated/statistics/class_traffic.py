"""The communication meter for clients that send only some classes.

`rounds.traffic` counts whole messages. Here a `ByClass` part of a message
counts for the classes that a client holds, as in the literature (FedTGP, Table
5). The labels that say which classes were sent do not count.
"""

from collections.abc import Sequence
import math

import jax
import numpy as np

from fedjax_gen import trees
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.federated import rounds
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.federated.execution import traffic as traffic_lib
from fedjax_gen.federated.statistics.class_sums import ByClass
from fedjax_gen.types import Tree


def traffic(
  algorithm: Algorithm, datasets: Sequence[FederatedDataset]
) -> tuple[rounds.Traffic, ...]:
  """Mean bytes down and up per client and round, for each fleet."""
  return tuple(
    rounds.Traffic(
      trees.num_bytes(view),
      round(
        np.mean([sent_bytes(message, held) for held in classes_held(data)])
      ),
    )
    for (view, message), data in zip(
      traffic_lib.exchanged(algorithm, datasets), datasets, strict=True
    )
  )


def sent_bytes(message: Tree, num_held: int) -> float:
  """Bytes of a message of a client that holds so many classes."""
  return _size(message, num_held, trees.num_bytes)


def sent_floats(message: Tree, num_held: int) -> float:
  """Floating-point numbers of a message, what papers count.

  Integers, such as `counts`, are left out: whole numbers are int32.
  """

  def count(tree):
    return sum(
      math.prod(leaf.shape)
      for leaf in jax.tree.leaves(tree)
      if np.issubdtype(leaf.dtype, np.floating)
    )

  return _size(message, num_held, count)


def classes_held(data: FederatedDataset) -> np.ndarray:
  """`[N]` number of classes that each client has examples of."""
  labels, order = np.asarray(data.labels), np.asarray(data.order)
  ranges = zip(np.asarray(data.offsets), np.asarray(data.sizes), strict=True)
  return np.array(
    [
      len(np.unique(labels[order[start : start + size]]))
      for start, size in ranges
    ]
  )


def _size(message, num_held, measure):
  total = 0.0
  for part in jax.tree.leaves(
    message, is_leaf=lambda node: isinstance(node, ByClass)
  ):
    if isinstance(part, ByClass):
      num_classes = jax.tree.leaves(part)[0].shape[0]
      total += measure(part) * num_held / num_classes
    else:
      total += measure(part)
  return total
