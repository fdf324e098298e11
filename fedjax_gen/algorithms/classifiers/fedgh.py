"""FedGH: the server trains one head on the clients' class means of features.

Liping Yi, Gang Wang, Xiaoguang Liu, Zhuan Shi, Han Yu, "FedGH: heterogeneous
federated learning with generalized global header", ACM Multimedia 2023; arXiv
2303.13137.

Published: a client puts the global head on its own extractor, trains both by
cross-entropy, and sends the mean of its features of each class with the class;
the server takes these pairs as examples and trains the global head on them by
gradient descent; that head replaces the clients'.

In the authors' code the server's step belongs to an optimizer of a client's
network: the global head is in no optimizer and stays as it began. Here it is
trained, as HtFLlib does. THE SERVER SEES EVERY MESSAGE: it learns from each
client's means by themselves, not from their sum.
"""

from collections.abc import Sequence
import dataclasses
import functools

import optax

from fedjax_gen import fields
from fedjax_gen.federated import local
from fedjax_gen.federated.algorithm import ServerProgram
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.own_models.personal import Method, Model
from fedjax_gen.federated.statistics import prototypes


@dataclasses.dataclass(frozen=True)
class Config(fields.Configuration):
  """What FedGH adds."""

  fedgh_server_epochs: int = fields.positive_int(
    1, 'passes of the server over the pairs a round'
  )
  fedgh_server_batch_size: int = fields.positive_int(
    10, 'pairs of a step; 10 in HtFLlib, 1 in the paper’s code'
  )
  fedgh_server_learning_rate: float = fields.positive(
    0.01, 'of the server’s SGD'
  )


def fedgh(
  config: Config,
  training: personal.Config,
  models: Sequence[Model],
  num_clients: Sequence[int],
) -> Method:
  """Own extractors, one head that the server trains."""
  personal.equal_heads(models)

  def client(model, first):
    return personal.client_program(
      training.trainer(),
      personal.init_classifier(model),
      first,
      loss=functools.partial(personal.plain_loss, model),
      send=functools.partial(_send, model, training.batch_size),
      receive=personal.with_head,
    )

  server = head_server(config, models[0], sum(num_clients))
  return personal.method(
    server, models, num_clients, client, personal.shared_head_deployment
  )


def head_server(
  config: Config, model: Model, num_clients: int
) -> ServerProgram:
  """A server with a head as its state, trained on `prototypes.Points`."""
  work = local.local_work(
    config.fedgh_server_epochs, config.fedgh_server_batch_size
  )
  optimizer = optax.sgd(config.fedgh_server_learning_rate)

  def update(head, points, key):
    data = prototypes.examples(points)
    trained = local.train(
      personal.head_loss(model),
      optimizer,
      work,
      head,
      optimizer.init(head),
      data,
      key,
    )
    return trained.variables, {'server_loss': trained.metrics['loss']}

  return ServerProgram(
    lambda key: model.init(key)['head'],
    prototypes.points_by_client(num_clients),
    update,
  )


def _send(model, batch_size, view, client, data, key):
  """Class means of features, a row for each class that the client holds."""
  del view, key
  sums = personal.feature_sums(
    model, client.variables['classifier'], data, batch_size
  )
  return prototypes.named_points(sums, client)
