"""FedAvg of classifiers: of each architecture, or of one small one for all.

H. Brendan McMahan, Eider Moore, Daniel Ramage, Seth Hampson, Blaise Aguera y
Arcas, "Communication-efficient learning of deep networks from decentralized
data", AISTATS 2017, Algorithm 1.

What parameters can be averaged are: those of clients with one architecture.
So this is what a method for different architectures has to beat. With one
architecture it is FedAvg, with as many as clients it is training alone.
Or all clients train one small classifier, which is the most trivial way to
learn from each other. Clients keep their optimizer's state (momentum), as in
all methods compared.
"""

from collections.abc import Sequence
import dataclasses
import functools

import optax

from fedjax_gen import fields, trees
from fedjax_gen.federated import aggregates, modules, servers
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.federated.modules import Module
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.own_models.personal import Deployment, Method, Model
from fedjax_gen.models.classification.extractors import EXTRACTORS


@dataclasses.dataclass(frozen=True)
class Config(fields.Configuration):
  """The one small classifier of FedAvg-small."""

  small_architecture: str = fields.option(
    'cnn', 'of the classifier of FedAvg-small', choices=EXTRACTORS
  )
  small_width: float = fields.non_negative(
    0.0, 'width of that classifier; 0 for that of the clients'
  )


def fedavg_small(
  training: personal.Config, small: Model, num_fleets: int
) -> Method:
  """One classifier for all clients, averaged by their examples."""
  client = personal.client_program(
    training.trainer(),
    personal.init_classifier(small),
    0,
    view=lambda server, info: server.variables,
    loss=functools.partial(personal.plain_loss, small),
    send=lambda view, client, data, key: trees.subtract(
      view, client.variables['classifier']
    ),
    receive=lambda view, own: {'classifier': view},
  )
  server = servers.learned_server(
    small.init, aggregates.weighted_mean(), optax.sgd(1.0)
  )
  deployment = Deployment(
    lambda view, client, data, key: {'shared': view},
    {'shared': personal.part_rule('shared', small)},
  )
  return Method(
    Algorithm(server, (client,) * num_fleets), (deployment,) * num_fleets
  )


def fedavg_by_architecture(
  training: personal.Config,
  models: Sequence[Model],
  num_clients: Sequence[int],
) -> Method:
  """One classifier for each fleet, averaged by its clients' examples."""
  shared = {f'fleet_{i}': Module(model.init) for i, model in enumerate(models)}
  trainer = training.trainer()
  fleets = tuple(
    personal.client_program(
      trainer,
      personal.init_classifier(model),
      first,
      view=functools.partial(modules.view, {name: shared[name]}),
      loss=functools.partial(personal.plain_loss, model),
      send=functools.partial(_send, name),
      receive=functools.partial(_receive, name),
    )
    for name, model, first in zip(
      shared, models, personal.first_numbers(num_clients), strict=True
    )
  )
  return Method(
    Algorithm(modules.modular_server(shared, optax.sgd(1.0)), fleets),
    tuple(
      _deployment(name, model)
      for name, model in zip(shared, models, strict=True)
    ),
  )


def _receive(name, view, own):
  return {**own, 'classifier': view[name]}


def _send(name, view, client, data, key):
  """The classifier of the client's fleet, received minus trained."""
  del data, key
  return trees.subtract(view, {name: client.variables['classifier']})


def _deployment(name: str, model: Model) -> Deployment:
  return personal.head_deployment(
    model, lambda view, client, data, key: view[name]
  )
