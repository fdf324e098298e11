"""Models that clients train and the server averages.

The common part of FedVAE, FissionVAE and FedGAN: how a client trains the model
that it receives, and FedAvg (McMahan et al., 2017, Algorithm 1) and related
server optimizers. An algorithm adds a model and its loss, and says who shares
what.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen import fields, trees, validate
from fedjax_gen.data.federated import ClientData
from fedjax_gen.federated import (
  aggregates,
  local,
  optimizers,
  phases,
  servers,
)
from fedjax_gen.federated.algorithm import (
  Algorithm,
  ClientProgram,
  ServerProgram,
)
from fedjax_gen.types import Key, LossFn, Metrics, Phase, Tree


@dataclasses.dataclass(frozen=True)
class Config(fields.Configuration):
  """How clients and server train."""

  local_epochs: float = fields.option(
    2.0, 'E, passes over a client’s data in a round'
  )
  batch_size: int = fields.option(32, 'B, examples of a local step')
  learning_rate: float = fields.positive(
    2e-3, 'learning rate of the clients’ Adam'
  )
  keep_optimizer_state: bool = fields.option(
    True,
    'keep Adam’s moments on the client between rounds, as the '
    'published code of FedVAE does; otherwise each round starts from zero',
  )
  proximal: float = fields.non_negative(
    0.0, 'FedProx: mu, pull towards the received model'
  )
  rematerialise: bool = fields.option(False, local.REMATERIALISE)
  server_optimizer: str = fields.option(
    'fedavg',
    'optimizer of the server, on the mean update',
    choices=('fedavg', 'fedavgm', 'fedadam', 'fedyogi'),
  )
  server_learning_rate: float = fields.option(
    1.0, 'Step of the server; 1 with fedavg is averaging'
  )
  server_momentum: float = fields.option(
    0.9, 'Momentum of fedavgm; beta 1 of fedadam and fedyogi'
  )
  server_average: float = fields.option(
    0.0,
    'Decay, a round, of an exponential moving average of the server’s model, '
    'which is then evaluated and saved; 0 for none',
  )

  def optimizer(self) -> optax.GradientTransformation:
    """The clients' Adam."""
    return optimizers.adam(self.learning_rate)

  def descent(self) -> optax.GradientTransformation:
    """The server's optimizer."""
    return servers.server_optimizer(
      self.server_optimizer, self.server_learning_rate, self.server_momentum
    )


TrainingConfig = TypeVar('TrainingConfig', bound=Config)


class Trainer(NamedTuple):
  """How one client trains the variables it received.

  Attributes:
    init: `variables -> kept`, what stays with the client between rounds.
    run: `(loss_fn, variables, kept, data, key) -> (variables, kept, metrics)`.
  """

  init: Callable[[Tree], Tree]
  run: Callable[
    [LossFn, Tree, Tree, ClientData, Key], tuple[Tree, Tree, Metrics]
  ]


def trainer(
  config: Config, optimizer: optax.GradientTransformation | None = None
) -> Trainer:
  """Local passes with FedProx's pull; the optimizer's state kept or not.

  Args:
    config: how clients train.
    optimizer: in place of the configuration's Adam.
  """
  chosen = config.optimizer() if optimizer is None else optimizer
  work = local.local_work(config.local_epochs, config.batch_size)

  def init(variables):
    return chosen.init(variables) if config.keep_optimizer_state else ()

  def run(loss_fn, variables, kept, data, key):
    if config.rematerialise:
      loss_fn = local.rematerialised(loss_fn)
    trained = local.train(
      local.proximal(loss_fn, variables, config.proximal),
      chosen,
      work,
      variables,
      kept if config.keep_optimizer_state else chosen.init(variables),
      data,
      key,
    )
    kept = trained.optimizer_state if config.keep_optimizer_state else ()
    return trained.variables, kept, trained.metrics

  return Trainer(init, run)


def averaged(
  config: Config,
  init: Callable[[Key], Tree],
  loss_fn: LossFn | Sequence[Phase],
  optimizer: optax.GradientTransformation | None = None,
  *,
  training: Trainer | None = None,
) -> Algorithm:
  """One model: clients train copies of it, the server averages them.

  Args:
    config: how clients and server train.
    init: `key -> variables`.
    loss_fn: what clients descend, or the phases of training; of a model by
      modules.
    optimizer: of the clients, in place of the configuration's Adam.
    training: how a client trains, in place of `trainer`.
  """
  if training is None:
    training = trainer(config, optimizer)
  server = servers.learned_server(
    init,
    aggregates.weighted_mean(keep_weight=True),
    config.descent(),
    config.server_average,
  )
  if not callable(loss_fn):
    return _averaged_in_phases(server, init, loss_fn, training)

  def init_client(key, info):
    del info
    return training.init(init(key))

  def view(server, info):
    del info  # everyone receives the same model
    return server.variables

  def update(view, client, data, keys):
    variables, kept, metrics = training.run(
      loss_fn, view, client, data, keys.own
    )
    return trees.subtract(view, variables), kept, metrics

  return Algorithm(server, (ClientProgram(init_client, view, update),))


def _averaged_in_phases(
  server: ServerProgram,
  init: Callable[[Key], Tree],
  plan: Sequence[Phase],
  training: Trainer,
) -> Algorithm:
  """`averaged`; clients keep for each phase what its training keeps."""

  def init_client(key, info):
    del info
    return _kept(training, plan, init(key))

  def view(server, info):
    del info
    return phases.view(plan, server)

  def update(view, client, data, keys):
    variables, kept, metrics = phases.train(
      training.run, plan, view.round, view.variables, client, data, keys.own
    )
    return trees.subtract(view.variables, variables), kept, metrics

  client = ClientProgram(init_client, view, update)
  return Algorithm(phases.phased_server(server, plan), (client,))


def _kept(training: Trainer, plan: Sequence[Phase], variables: Tree):
  """What a client keeps between rounds before the first, for each phase."""
  return tuple(
    training.init({module: variables[module] for module in phase.modules})
    for phase in plan
  )


def alone(
  config: Config,
  init: Callable[[Key], Tree],
  loss_fn: LossFn | Sequence[Phase],
  optimizer: optax.GradientTransformation | None = None,
) -> Algorithm:
  """Every client trains a model of its own; nothing is ever sent.

  The model each client would have without the federation, from an
  initialisation of its own. A client keeps `(variables, optimizer state)`.

  Args:
    config: how clients train; fields of the server and of FedProx, and
      whether optimizer states are kept, are not used.
    init: `key -> variables`.
    loss_fn: what clients descend, or the phases of training. Of these nothing
      but the number of rounds done is sent.
    optimizer: of the clients, in place of the configuration's Adam.
  """
  training = trainer(
    dataclasses.replace(config, keep_optimizer_state=True, proximal=0.0),
    optimizer,
  )

  def init_client(key, info):
    del info
    variables = init(key)
    if callable(loss_fn):
      return variables, training.init(variables)
    return variables, _kept(training, loss_fn, variables)

  def view(server, info):
    del info
    return server  # nothing, or how many rounds are done

  def update(view, client, data, keys):
    variables, kept = client
    if callable(loss_fn):
      variables, kept, metrics = training.run(
        loss_fn, variables, kept, data, keys.own
      )
    else:
      variables, kept, metrics = phases.train(
        training.run, loss_fn, view, variables, kept, data, keys.own
      )
    return (), (variables, kept), metrics

  server = nothing_server()
  if not callable(loss_fn):
    server = server._replace(
      init=lambda key: jnp.zeros((), jnp.int32),
      update=lambda done, aggregated, key: (done + 1, {}),
    )
  return Algorithm(server, (ClientProgram(init_client, view, update),))


def nothing_server() -> ServerProgram:
  """A server that receives nothing and sends nothing."""
  return ServerProgram(
    init=lambda key: (),
    aggregate=aggregates.total(),
    update=lambda server, aggregated, key: (server, {}),
  )


def pooled(
  config: TrainingConfig, sizes: np.ndarray, *, epochs: float = 0.0
) -> TrainingConfig:
  """The configuration of plain training on all data.

  For one client that holds everything (`FederatedDataset.merged`), which keeps
  its optimizer's state.

  Args:
    config: of the federated training.
    sizes: `[N]` examples of each client of the federation.
    epochs: passes a round over all data. 0 is as many steps as a client of
      the federation makes on average: then every model compared, the average
      of the clients' included, lies equally many steps from its start.
  """
  validate.non_negative(epochs=epochs)
  validate.positive_int(batch_size=config.batch_size)
  if not epochs:
    steps = config.local_epochs * np.ceil(sizes / config.batch_size).mean()
    epochs = float(steps / np.ceil(sizes.sum() / config.batch_size))
  return dataclasses.replace(
    config,
    local_epochs=epochs,
    keep_optimizer_state=True,
    proximal=0.0,
    server_optimizer='fedavg',
    server_learning_rate=1.0,
  )
