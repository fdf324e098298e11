"""Servers that learn: an optax optimizer applied to the aggregated message."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_gen import trees, validate
from fedjax_gen.errors import InputError
from fedjax_gen.federated.aggregates import Aggregate, WeighedMean
from fedjax_gen.federated.algorithm import ServerProgram
from fedjax_gen.federated.local import is_statistic
from fedjax_gen.types import Array, Key, Tree


class Average(NamedTuple):
  """An exponential moving average of variables over rounds.

  Attributes:
    variables: averaged.
    rounds: int32 scalar, rounds since it began.
  """

  variables: Tree
  rounds: Array


class LearnedServer(NamedTuple):
  """State of `learned_server`.

  Attributes:
    variables: what clients view.
    optimizer_state: of the server's optimizer.
    average: an `Average` of the variables; `()` if there is to be none.
  """

  variables: Tree
  optimizer_state: Tree
  average: Any = ()

  @property
  def deployed(self) -> Tree:
    """What is evaluated and saved: the average, if there is one."""
    return self.average.variables if self.average else self.variables


def learned_server(
  init: Callable[[Key], Tree],
  aggregate: Aggregate,
  optimizer: optax.GradientTransformation,
  average: float = 0.0,
) -> ServerProgram:
  """A server that treats the aggregate as a gradient (FedOpt).

  Messages are differences, view minus trained, so that every optimizer can
  descend them: `sgd(1.0)` is FedAvg, with momentum FedAvgM, `adam` FedAdam,
  `yogi` FedYogi (Reddi et al., "Adaptive federated optimization", 2021,
  Algorithm 2). Normalisation statistics in the tree are not parameters: they
  are averaged, whatever the optimizer.

  In a round without anyone the state stays as it is, momentum and all, if the
  aggregate says so (`aggregates.WeighedMean`).

  Args:
    init: `key -> variables`.
    aggregate: gives a tree like the variables, or a `WeighedMean` of such.
    optimizer: descends it.
    average: decay, a round, of an exponential moving average of the variables,
      which is then deployed in their place; 0 for none. As customary it is
      (1 + t) / (10 + t) in round t = 0, 1, ... where that is smaller, so that
      the start is forgotten. Clients train the variables themselves.

  Raises:
    InputError: `average` is not in [0, 1).
  """
  validate.fraction(server_average=average)
  if average == 1:
    raise InputError(
      f'Expected server_average < 1, got server_average={average}: it would '
      'never take anything in.'
    )
  optimizer = optax.partition(
    {'parameter': optimizer, 'statistic': optax.sgd(1.0)}, _labels
  )

  def init_server(key):
    variables = init(key)
    averaged = Average(variables, jnp.zeros((), jnp.int32)) if average else ()
    return LearnedServer(variables, optimizer.init(variables), averaged)

  def update(server, aggregated, key):
    del key  # nothing is random
    present = None
    if isinstance(aggregated, WeighedMean):
      present = aggregated.weight > 0
      aggregated = aggregated.mean
    updates, optimizer_state = optimizer.update(
      aggregated, server.optimizer_state, server.variables
    )
    variables = optax.apply_updates(server.variables, updates)
    moved = jax.tree_util.tree_map_with_path(
      lambda path, leaf: jnp.zeros_like(leaf) if is_statistic(path) else leaf,
      updates,
    )
    metrics = {'update_norm': optax.tree.norm(moved)}
    averaged = _averaged(server.average, variables, average) if average else ()
    after = LearnedServer(variables, optimizer_state, averaged)
    if present is None:
      return after, metrics
    return trees.where(present, after, server), trees.where(
      present, metrics, trees.zeros_like(metrics)
    )

  return ServerProgram(init_server, aggregate, update)


def _averaged(before: Average, variables: Tree, decay: float) -> Average:
  """The average a round later."""
  weight = jnp.minimum(decay, (1 + before.rounds) / (10 + before.rounds))
  return Average(
    jax.tree.map(
      lambda old, new: (weight * old + (1 - weight) * new).astype(old.dtype),
      before.variables,
      variables,
    ),
    before.rounds + 1,
  )


def server_optimizer(
  name: str, learning_rate: float, momentum: float = 0.9
) -> optax.GradientTransformation:
  """The server optimizers of Reddi et al. (2021) by their usual names.

  `fedadam` and `fedyogi` use the paper's beta_2 = 0.99 and tau = 1e-3. FedYogi
  is as published: m_0 = 0, v_0 = tau^2, and no correction of the first steps'
  bias. FedAdam is optax's Adam, which corrects it and has v_0 = 0.

  Args:
    name: fedavg, fedavgm, fedadam or fedyogi.
    learning_rate: the server's; 1 with fedavg is plain averaging.
    momentum: of fedavgm, and beta_1 of the adaptive ones.

  Raises:
    InputError: unknown name, `learning_rate` not above zero, `momentum`
      outside [0, 1], or 1 where moments would never take anything in.
  """
  validate.positive(server_learning_rate=learning_rate)
  validate.fraction(server_momentum=momentum)
  if name in ('fedadam', 'fedyogi') and momentum == 1:
    raise InputError(
      f'Expected 0 <= server_momentum < 1 with server_optimizer={name!r}, got '
      f'server_momentum={momentum}: its first moment would stay zero.'
    )
  optimizers = {
    'fedavg': lambda: optax.sgd(learning_rate),
    'fedavgm': lambda: optax.sgd(learning_rate, momentum=momentum),
    'fedadam': lambda: optax.adam(
      learning_rate, b1=momentum, b2=0.99, eps=1e-3
    ),
    'fedyogi': lambda: optax.chain(
      _scale_by_yogi(b1=momentum, b2=0.99, tau=1e-3),
      optax.scale_by_learning_rate(learning_rate),
    ),
  }
  validate.one_of(optimizers, server_optimizer=name)
  return optimizers[name]()


class _YogiState(NamedTuple):
  """First and second moment, each like the variables."""

  mean: Tree
  square: Tree


def _scale_by_yogi(
  b1: float, b2: float, tau: float
) -> optax.GradientTransformation:
  """FedYogi of Reddi et al. (2021), Algorithm 2, before the learning rate.

  m = b1 m + (1 - b1) D, v = v - (1 - b2) D^2 sign(v - D^2), step m / (sqrt(v)
  + tau). `optax.yogi` starts m elsewhere than at zero, so that it moves where
  D is zero, and divides v by 1 - b2^t, which makes its first tau ten times
  larger.
  """

  def init(variables):
    return _YogiState(
      trees.zeros_like(variables),
      jax.tree.map(lambda leaf: jnp.full_like(leaf, tau**2), variables),
    )

  def update(updates, state, variables=None):
    del variables
    mean = jax.tree.map(lambda m, d: b1 * m + (1 - b1) * d, state.mean, updates)
    square = jax.tree.map(
      lambda v, d: v - (1 - b2) * d**2 * jnp.sign(v - d**2),
      state.square,
      updates,
    )
    steps = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + tau), mean, square)
    return steps, _YogiState(mean, square)

  return optax.GradientTransformation(init, update)


def _labels(variables: Tree) -> Tree:
  """'statistic' for normalisation statistics, 'parameter' for the rest."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: 'statistic' if is_statistic(path) else 'parameter',
    variables,
  )
