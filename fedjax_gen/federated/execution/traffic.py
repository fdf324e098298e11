"""The communication meter: what a round moves, read from shapes."""

from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax

from fedjax_gen import trees
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.federated.algorithm import (
  Algorithm,
  ClientKeys,
)
from fedjax_gen.federated.execution import cohorts, init
from fedjax_gen.types import Tree


class Traffic(NamedTuple):
  """Bytes that one client of a fleet receives and sends in a round."""

  bytes_down: int
  bytes_up: int


def traffic(
  algorithm: Algorithm, datasets: Sequence[FederatedDataset]
) -> tuple[Traffic, ...]:
  """The communication meter: bytes down and up per client, for each fleet.

  Read from the shapes of view and message, so it costs no computation.
  """
  return tuple(
    Traffic(trees.num_bytes(view), trees.num_bytes(message))
    for view, message in exchanged(algorithm, datasets)
  )


def exchanged(
  algorithm: Algorithm, datasets: Sequence[FederatedDataset]
) -> tuple[tuple[Tree, Tree], ...]:
  """Shapes of one client's view and message, for each fleet."""
  cohorts.check_fleets(algorithm, datasets)
  state = jax.eval_shape(
    functools.partial(init.init_state, algorithm),
    tuple(datasets),
    jax.random.key(0),
  )

  def exchange(program, server, clients, data, key):
    info = jax.tree.map(lambda a: a[0], cohorts.everyones_infos(data))
    view = program.view(server, info)
    client = jax.tree.map(lambda leaf: leaf[0], clients)
    message, _, _ = program.update(
      view, client, data.client(info.row), ClientKeys(key, key)
    )
    return view, message

  return tuple(
    jax.eval_shape(
      functools.partial(exchange, program),
      state.server,
      clients,
      data,
      jax.random.key(0),
    )
    for program, clients, data in zip(
      algorithm.fleets, state.fleets, datasets, strict=True
    )
  )
