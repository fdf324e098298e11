"""Models that clients train and the server averages, under a plan or none."""

from collections.abc import Callable, Sequence

import jax
import optax

from fedjax_gen.federated import averaging
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.privacy import noise
from fedjax_gen.privacy.plan import Plan
from fedjax_gen.privacy.steps import descent
from fedjax_gen.types import Key, LossFn, Phase, Tree


def averaged(
  config: averaging.Config,
  init: Callable[[Key], Tree],
  loss_fn: LossFn | Sequence[Phase],
  plan: Plan | None = None,
  optimizer: optax.GradientTransformation | None = None,
) -> Algorithm:
  """`averaging.averaged`, with differential privacy if there is a plan.

  Guarantees:
    With a plan of records those of `descent.trainer`, of what every client
    sends; with one of clients those of `noise.private_server`, or with noise
    in shares of `noise.with_private_clients`, all clients counting alike.
    Without a plan, none.

  Args:
    config: how clients and server train.
    init: `key -> variables`.
    loss_fn: what clients descend.
    plan: of differential privacy, if there is to be any.
    optimizer: of the clients, in place of the configuration's Adam.

  Raises:
    InputError: a field of the configuration is out of range, or the model
      keeps batch statistics and there is a plan.
  """
  variables = jax.eval_shape(init, jax.random.key(0))
  training = trainer(config, variables, plan, optimizer)
  algorithm = averaging.averaged(config, init, loss_fn, training=training)
  if plan is None or plan.unit == 'record':
    return algorithm
  if plan.num_shares:
    return noise.with_private_clients(algorithm, plan)
  return noise.with_private_server(algorithm, plan)


def trainer(
  config: averaging.Config,
  variables: Tree,
  plan: Plan | None,
  optimizer: optax.GradientTransformation | None = None,
) -> averaging.Trainer:
  """How clients train; they add the noise of a plan of records.

  Args:
    config: how they train.
    variables: shapes of a model; without batch statistics, if there is a plan.
    plan: of differential privacy, if there is to be any. The noise of one of
      clients is the server's.
    optimizer: in place of the configuration's Adam.

  Raises:
    InputError: the model keeps batch statistics and there is a plan.
  """
  if plan is not None:
    descent.refuse_statistics(variables)
    if plan.unit == 'record':
      return descent.trainer(config, plan, optimizer)
  return averaging.trainer(config, optimizer)
