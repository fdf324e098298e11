"""A round as a script would run it: a Python loop over clients."""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.federated import rounds
from fedjax_gen.federated.algorithm import (
  Algorithm,
  ClientInfo,
  ClientKeys,
  ClientProgram,
)
from fedjax_gen.types import Key


class Loop:
  """Clients one after the other, each a call of its fleet's compiled step.

  The step adds its message to the sum itself and is given the client's buffers
  to reuse: a loop could hardly do with less. Everyone takes part.
  """

  def __init__(
    self, algorithm: Algorithm, datasets: Sequence[FederatedDataset], key: Key
  ):
    """Starts where `rounds.init_state` does with key 0.

    Args:
      algorithm: what runs.
      datasets: the clients of each fleet.
      key: of the run.
    """
    state = rounds.init_state(algorithm, datasets, jax.random.key(0))
    self.server, self.round_number = state.server, 0
    self.clients = [
      [trees.take(fleet, row) for row in range(data.num_clients)]
      for fleet, data in zip(state.fleets, datasets, strict=True)
    ]
    self._datasets, self._key = datasets, key
    aggregate = algorithm.server.aggregate
    self._steps, self._sums = [], []
    for program, clients, data in zip(
      algorithm.fleets, self.clients, datasets, strict=True
    ):
      work = _work(program, aggregate)
      self._sums.append(
        jax.eval_shape(work, self.server, clients[0], data, jnp.int32(0), key)[
          0
        ]
      )
      self._steps.append(_step(work))

    @jax.jit
    def finish(server, sums, key):
      merged = functools.reduce(aggregate.merge, sums)
      return algorithm.server.update(server, aggregate.finish(merged), key)[0]

    self._finish = finish

  def lowered(self) -> list[tuple[jax.stages.Lowered, int]]:
    """The step of each fleet before it is compiled, and its calls a round."""
    return [
      (
        step.lower(self.server, clients[0], sums, data, np.int32(0), self._key),
        len(clients),
      )
      for step, clients, sums, data in zip(
        self._steps, self.clients, self._sums, self._datasets, strict=True
      )
    ]

  def round(self):
    """One round; keys are derived as `rounds.federated_round` does."""
    server_key, *fleet_keys = jax.random.split(
      jax.random.fold_in(self._key, self.round_number),
      1 + len(self._datasets),
    )
    everyones, log = [], []
    for step, shapes, data, clients, fleet_key in zip(
      self._steps,
      self._sums,
      self._datasets,
      self.clients,
      fleet_keys,
      strict=True,
    ):
      _, key = jax.random.split(fleet_key)
      sums = trees.zeros_like(shapes)
      for row in range(len(clients)):
        sums, clients[row], metrics = step(
          self.server, clients[row], sums, data, np.int32(row), key
        )
        log.append(metrics)
      everyones.append(sums)
    self.server = self._finish(self.server, everyones, server_key)
    self.round_number += 1
    return self.server, log


def _work(program: ClientProgram, aggregate):
  """`(server, client, data, row, key) -> (sums, client, metrics)`."""

  def work(server, client, data, row, key):
    size = data.sizes[row]
    info = ClientInfo(
      row=row,
      group=data.groups[row],
      num_examples=size,
      weight=size.astype(jnp.float32),
      present=jnp.ones((), bool),
    )
    view = program.view(server, info)
    own = jax.random.fold_in(key, row)
    message, client, metrics = program.update(
      view, client, data.client(row), ClientKeys(own, own)
    )
    one = jax.tree.map(lambda leaf: leaf[None], (message, info))
    return aggregate.partial(*one), client, metrics

  return work


def _step(work):
  """The compiled step, which adds to the sum."""

  @functools.partial(jax.jit, donate_argnums=(1, 2))
  def step(server, client, sums, data, row, key):
    more, client, metrics = work(server, client, data, row, key)
    return trees.add(sums, more), client, metrics

  return step
