"""Servers that learn: an optax optimizer descends the aggregated message."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_gen import validate
from fedjax_gen.federated.aggregates import Aggregate
from fedjax_gen.federated.algorithm import ServerProgram
from fedjax_gen.federated.local import is_statistic
from fedjax_gen.types import Key, Tree


class LearnedServer(NamedTuple):
  """State of `learned_server`.

  Attributes:
    variables: what clients view.
    optimizer_state: of the server's optimizer.
  """

  variables: Tree
  optimizer_state: Tree


def learned_server(
  init: Callable[[Key], Tree],
  aggregate: Aggregate,
  optimizer: optax.GradientTransformation,
) -> ServerProgram:
  """A server that treats the aggregate as a gradient (FedOpt).

  Messages are differences, view minus trained, so that every optimizer can
  descend them: `sgd(1.0)` is FedAvg, with momentum FedAvgM, `adam` FedAdam,
  `yogi` FedYogi (Reddi et al., "Adaptive federated optimization", 2021,
  Algorithm 2). Normalisation statistics in the tree are not parameters: they
  are averaged, whatever the optimizer.

  Args:
    init: `key -> variables`.
    aggregate: gives a tree like the variables.
    optimizer: descends it.
  """
  optimizer = optax.partition(
    {'parameter': optimizer, 'statistic': optax.sgd(1.0)}, _labels
  )

  def init_server(key):
    variables = init(key)
    return LearnedServer(variables, optimizer.init(variables))

  def update(server, aggregated, key):
    del key  # nothing is random
    updates, optimizer_state = optimizer.update(
      aggregated, server.optimizer_state, server.variables
    )
    variables = optax.apply_updates(server.variables, updates)
    moved = jax.tree_util.tree_map_with_path(
      lambda path, leaf: jnp.zeros_like(leaf) if is_statistic(path) else leaf,
      updates,
    )
    metrics = {'update_norm': optax.tree.norm(moved)}
    return LearnedServer(variables, optimizer_state), metrics

  return ServerProgram(init_server, aggregate, update)


def server_optimizer(
  name: str, learning_rate: float, momentum: float = 0.9
) -> optax.GradientTransformation:
  """The server optimizers of Reddi et al. (2021) by their usual names.

  `fedadam` and `fedyogi` use the paper's beta_2 = 0.99 and tau = 1e-3; optax
  corrects the bias of the first steps, which the paper's Algorithm 2 does not.

  Args:
    name: fedavg, fedavgm, fedadam or fedyogi.
    learning_rate: the server's; 1 with fedavg is plain averaging.
    momentum: of fedavgm, and beta_1 of the adaptive ones.

  Raises:
    InputError: unknown name, `learning_rate` not above zero, or `momentum`
      outside [0, 1].
  """
  validate.positive(server_learning_rate=learning_rate)
  validate.fraction(server_momentum=momentum)
  optimizers = {
    'fedavg': lambda: optax.sgd(learning_rate),
    'fedavgm': lambda: optax.sgd(learning_rate, momentum=momentum),
    'fedadam': lambda: optax.adam(
      learning_rate, b1=momentum, b2=0.99, eps=1e-3
    ),
    'fedyogi': lambda: optax.yogi(
      learning_rate, b1=momentum, b2=0.99, eps=1e-3
    ),
  }
  validate.one_of(optimizers, server_optimizer=name)
  return optimizers[name]()


def _labels(variables: Tree) -> Tree:
  """'statistic' for normalisation statistics, 'parameter' for the rest."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: 'statistic' if is_statistic(path) else 'parameter',
    variables,
  )
