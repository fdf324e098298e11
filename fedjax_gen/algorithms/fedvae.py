"""FedVAE: one variational autoencoder, averaged over clients.

Hugo Dugdale, "Federated Learning with Variational Autoencoders", ICLR 2023
Tiny Papers track; code: https://github.com/hugo-dugdale/federated_VAE.

Published: every client trains a copy of the VAE on its own images and the
server averages the copies, weighted by number of images (FedAvg, McMahan et
al., 2017), batch-normalisation statistics included. The published schedule is
4 clients with 15,000 MNIST images each, 15 rounds of 6 local epochs, Adam
1e-3, batches of 128; Adam's moments stay with the client between rounds, as
the published code has it. Preset `paper_mnist` is that schedule.

Ours: client sampling and dropouts, server optimizers, FedProx, the class label
as condition, GroupNorm by default, likelihoods other than Bernoulli, and the
two models a federated one is compared with, trained by the same engine.
"""

import dataclasses

import numpy as np
import optax

from fedjax_gen import trees, validate
from fedjax_gen.federated import aggregates, local, servers
from fedjax_gen.federated.algorithm import (
  Algorithm,
  ClientProgram,
  ServerProgram,
)
from fedjax_gen.models.elbo import elbo_loss
from fedjax_gen.models.vae import Vae


@dataclasses.dataclass(frozen=True)
class Config:
  """How clients and server train; the paper's values in brackets."""

  local_epochs: float = dataclasses.field(
    default=2.0, metadata={'help': 'E, passes of a client a round [6]'}
  )
  batch_size: int = dataclasses.field(
    default=32, metadata={'help': 'B, examples of a local step [128]'}
  )
  learning_rate: float = dataclasses.field(
    default=2e-3, metadata={'help': 'of the clients’ Adam [1e-3]'}
  )
  beta: float = dataclasses.field(
    default=1.0, metadata={'help': 'weight of the KL term [1]'}
  )
  keep_optimizer_state: bool = dataclasses.field(
    default=True,
    metadata={
      'help': 'keep Adam’s moments on the client between rounds, as the '
      'published code does; otherwise start each round anew'
    },
  )
  proximal: float = dataclasses.field(
    default=0.0,
    metadata={'help': 'FedProx: mu, pull towards the received model'},
  )
  server_optimizer: str = dataclasses.field(
    default='fedavg',
    metadata={
      'choices': ('fedavg', 'fedavgm', 'fedadam', 'fedyogi'),
      'help': 'how the server descends the mean update',
    },
  )
  server_learning_rate: float = dataclasses.field(
    default=1.0,
    metadata={'help': 'Step of the server; 1 with fedavg is averaging [1]'},
  )
  server_momentum: float = dataclasses.field(
    default=0.9,
    metadata={'help': 'Of fedavgm; beta 1 of fedadam and fedyogi'},
  )


def fedvae(config: Config, vae: Vae) -> Algorithm:
  """One VAE averaged over clients.

  With one client that holds all data, and fedavg, it is central training.

  Args:
    config: how clients and server train.
    vae: the model.

  Raises:
    InputError: a field of the configuration is out of range.
  """
  optimizer = _client_optimizer(config)
  work = local.local_work(config.local_epochs, config.batch_size)
  loss_fn = elbo_loss(vae, config.beta)
  validate.non_negative(proximal=config.proximal)

  def init(key, info):
    del info
    if not config.keep_optimizer_state:
      return ()
    return optimizer.init(vae.init(key))

  def view(server, info):
    del info  # everyone receives the same model
    return server.variables

  def update(view, client, data, key):
    trained = local.train(
      local.proximal(loss_fn, view, config.proximal),
      optimizer,
      work,
      view,
      client if config.keep_optimizer_state else optimizer.init(view),
      data,
      key,
    )
    message = trees.subtract(view, trained.variables)
    kept = trained.optimizer_state if config.keep_optimizer_state else ()
    return message, kept, trained.metrics

  server = servers.learned_server(
    vae.init,
    aggregates.weighted_mean(),
    servers.server_optimizer(
      config.server_optimizer,
      config.server_learning_rate,
      config.server_momentum,
    ),
  )
  return Algorithm(server, (ClientProgram(init, view, update),))


def central(
  config: Config, vae: Vae, sizes: np.ndarray, *, epochs: float = 0.0
) -> Algorithm:
  """Plain training on all data, which a federated model is compared with.

  FedVAE with one client that holds everything (`FederatedDataset.merged`),
  which keeps its optimizer's state.

  Args:
    config: of the federated training; its server's and FedProx's fields are
      not used.
    vae: the model.
    sizes: `[N]` examples of each client of the federation.
    epochs: passes a round over all data. 0 is as many steps as a client of
      the federation makes on average: then every model compared, the average
      of the clients' included, lies equally many steps from its start.

  Raises:
    InputError: a field of the configuration is out of range.
  """
  validate.non_negative(epochs=epochs)
  validate.positive_int(batch_size=config.batch_size)
  if not epochs:
    steps = config.local_epochs * np.ceil(sizes / config.batch_size).mean()
    epochs = float(steps / np.ceil(sizes.sum() / config.batch_size))
  return fedvae(
    dataclasses.replace(
      config,
      local_epochs=epochs,
      keep_optimizer_state=True,
      proximal=0.0,
      server_optimizer='fedavg',
      server_learning_rate=1.0,
    ),
    vae,
  )


def local_only(config: Config, vae: Vae) -> Algorithm:
  """Every client trains a VAE of its own; nothing is ever sent.

  The model each client would have without the federation, from an
  initialisation of its own.

  Args:
    config: how clients train; server fields are not used.
    vae: the model.

  Raises:
    InputError: a field of the configuration is out of range.
  """
  optimizer = _client_optimizer(config)
  work = local.local_work(config.local_epochs, config.batch_size)
  loss_fn = elbo_loss(vae, config.beta)

  def init(key, info):
    del info
    variables = vae.init(key)
    return variables, optimizer.init(variables)

  def view(server, info):
    del server, info
    return ()

  def update(view, client, data, key):
    del view
    variables, optimizer_state = client
    trained = local.train(
      loss_fn, optimizer, work, variables, optimizer_state, data, key
    )
    return (), (trained.variables, trained.optimizer_state), trained.metrics

  server = ServerProgram(
    init=lambda key: (),
    aggregate=aggregates.total(),
    update=lambda server, aggregated, key: (server, {}),
  )
  return Algorithm(server, (ClientProgram(init, view, update),))


def _client_optimizer(config: Config) -> optax.GradientTransformation:
  validate.positive(learning_rate=config.learning_rate)
  return optax.adam(config.learning_rate)
