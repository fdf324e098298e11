"""LG-FedAvg: extractors stay with clients, one head is averaged.

Paul Pu Liang, Terrance Liu, Liu Ziyin, Nicholas B. Allen, Randy P. Auerbach,
David Brent, Ruslan Salakhutdinov, Louis-Philippe Morency, "Think locally, act
globally: federated learning with local and global representations", NeurIPS
2019 workshop; arXiv 2001.01523 (2020).

Published (Algorithm 1): a client trains its local layers and a copy of the
global ones together; the server averages the global ones, weighted by the
clients' numbers of examples. Here the global part is the head, which is how
the method serves clients of different architectures (HtFLlib). The authors'
code starts from a FedAvg checkpoint and averages every client alike; ours
starts from nothing, and weights as the paper does unless told otherwise.

The head that was received replaces the client's before it trains, and before
it predicts.
"""

from collections.abc import Sequence
import dataclasses
import functools

import optax

from fedjax_gen import fields, trees
from fedjax_gen.federated import aggregates, servers
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.own_models.personal import Method, Model

_AVERAGES = {
  'count': aggregates.weighted_mean,
  'uniform': aggregates.uniform_mean,
}


@dataclasses.dataclass(frozen=True)
class Config(fields.Configuration):
  """What LG-FedAvg adds."""

  lg_average: str = fields.option(
    'count',
    'how heads are averaged: by the clients’ examples (paper), or '
    'every client alike (the authors’ code)',
    choices=tuple(_AVERAGES),
  )


def lg_fedavg(
  config: Config,
  training: personal.Config,
  models: Sequence[Model],
  num_clients: Sequence[int],
) -> Method:
  """Own extractors, one head."""
  personal.equal_heads(models)

  def send(view, client, data, key):
    del data, key
    return trees.subtract(view, client.variables['classifier']['head'])

  def client(model, first):
    return personal.client_program(
      training.trainer(),
      personal.init_classifier(model),
      first,
      view=lambda server, info: server.variables,
      loss=functools.partial(personal.plain_loss, model),
      send=send,
      receive=personal.with_head,
    )

  server = servers.learned_server(
    lambda key: models[0].init(key)['head'],
    _AVERAGES[config.lg_average](),
    optax.sgd(1.0),
  )
  return personal.method(
    server, models, num_clients, client, personal.shared_head_deployment
  )
