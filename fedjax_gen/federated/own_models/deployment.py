"""How clients with models of their own predict, and how well.

The server has no model to evaluate. A method says what each client would
predict with if training stopped now; here all clients are asked.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_gen.data.federated import ClientData, FederatedDataset
from fedjax_gen.federated import blocks
from fedjax_gen.federated.algorithm import Algorithm, FederatedState
from fedjax_gen.federated.blocks import Block
from fedjax_gen.types import Array, Key, Tree


class Deployment(NamedTuple):
  """How clients of one fleet predict.

  Attributes:
    deploy: `(view, client, data, key) -> deployed`, what a client predicts with
      if it stops now. The client goes on from what it had.
    rules: by name `(deployed, inputs) -> scores [B, C]`, the highest wins; the
      first is the method's own.
  """

  deploy: Callable[[Tree, Tree, ClientData, Key], Tree]
  rules: Mapping[str, Callable[[Tree, Array], Array]]


class Method(NamedTuple):
  """A federated method of clients with their own models."""

  algorithm: Algorithm
  deployments: tuple[Deployment, ...]


def deployer(
  method: Method,
) -> Callable[[FederatedState, Sequence[FederatedDataset], Key], tuple]:
  """Compiles what all clients would predict with.

  Returns:
    `run(state, datasets, key) -> deployed`, one tree a fleet, leaves
    `[N, ...]`. Clients are computed one after the other.
  """
  fleets = block_deployers(method)

  def run(state, datasets, key):
    return tuple(
      deploy(state.server, blocks.in_memory(data, clients), fleet_key)
      for deploy, clients, data, fleet_key in zip(
        fleets, state.fleets, datasets, fleet_keys(method, key), strict=True
      )
    )

  return run


def fleet_keys(method: Method, key: Key) -> Key:
  """`[F]` keys of fleets, from that of a deployment."""
  return jax.random.split(key, len(method.deployments))


def block_deployers(
  method: Method,
) -> tuple[Callable[[Tree, Block, Key], Tree], ...]:
  """As `deployer`, of some clients of one fleet.

  Returns:
    For each fleet `run(server, block, key) -> deployed`, leaves `[k, ...]`, the
    key one of `fleet_keys`. However a fleet is cut in blocks, a client deploys
    the same.
  """
  return tuple(
    _block_deployer(program.view, deployment.deploy)
    for program, deployment in zip(
      method.algorithm.fleets, method.deployments, strict=True
    )
  )


@functools.cache  # compiled once for a method, whoever asks
def _block_deployer(view, deploy):
  @jax.jit
  def run(server, infos, data, kept, key):
    def of_client(client):
      slot, info, own = client
      return deploy(
        view(server, info),
        own,
        data.client(slot),
        jax.random.fold_in(key, info.row),
      )

    return jax.lax.map(of_client, (jnp.arange(len(infos.row)), infos, kept))

  return lambda server, block, key: run(
    server, block.infos, block.data, block.kept, key
  )


def scorer(
  rule: Callable[[Tree, Array], Array], num_classes: int, batch_size: int = 500
) -> Callable[[Tree, Array, Array, Array], Array]:
  """Compiles how often clients are right, by class.

  Args:
    rule: of a `Deployment`.
    num_classes: C.
    batch_size: examples at a time.

  Returns:
    `run(deployed, inputs, labels, rows) -> [N, C]` numbers of right answers.
    `deployed` has leaves `[N, ...]`; `rows` is `[N, m]`, the examples that each
    client is asked, -1 for none; or `[1, m]`, the same for all.
  """

  @jax.jit
  def run(deployed, inputs, labels, rows):
    num = rows.shape[1]
    steps = -(-num // batch_size)
    padded = jnp.pad(
      rows, ((0, 0), (0, steps * batch_size - num)), constant_values=-1
    ).reshape(len(rows), steps, batch_size)

    def of_client(client_and_rows):
      client, asked = client_and_rows

      def of_batch(batch_rows):
        there = batch_rows >= 0
        at = jnp.maximum(batch_rows, 0)
        right = rule(client, inputs[at]).argmax(axis=-1) == labels[at]
        member = jax.nn.one_hot(labels[at], num_classes)
        return jnp.sum(member * (right & there)[:, None], axis=0)

      return jax.lax.map(of_batch, asked).sum(axis=0)

    if len(rows) == 1:
      return jax.lax.map(
        lambda client: of_client((client, padded[0])), deployed
      )
    return jax.lax.map(of_client, (deployed, padded))

  return run
