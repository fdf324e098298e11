"""FedAvg where architectures agree: every fleet averages its own classifier.

H. Brendan McMahan, Eider Moore, Daniel Ramage, Seth Hampson, Blaise Aguera y
Arcas, "Communication-efficient learning of deep networks from decentralized
data", AISTATS 2017, Algorithm 1.

What parameters can be averaged are: those of clients with one architecture.
So this is what a method for different architectures has to beat. With one
architecture it is FedAvg, with as many as clients it is training alone.
Clients keep their optimizer's state (momentum), as in all methods compared.
"""

from collections.abc import Sequence
import functools

import optax

from fedjax_gen import trees
from fedjax_gen.federated import modules, personal
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.federated.modules import Module
from fedjax_gen.federated.personal import Deployment, Method, Model


def fedavg_by_architecture(
  training: personal.Config,
  models: Sequence[Model],
  num_clients: Sequence[int],
) -> Method:
  """One classifier for each fleet, averaged by its clients' examples.

  Args:
    training: how clients train.
    models: the classifier of each fleet.
    num_clients: clients of each fleet.
  """
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
