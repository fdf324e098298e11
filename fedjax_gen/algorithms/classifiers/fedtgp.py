"""FedTGP: the server learns prototypes that lie apart from each other.

Jianqing Zhang, Yang Liu, Yang Hua, Jian Cao, "FedTGP: trainable global
prototypes with adaptive-margin-enhanced contrastive learning for data and model
heterogeneity in federated learning", AAAI 2024; arXiv 2401.03230.

Published: a client sends the mean of its features of each class, as in
FedProto. The server has a vector for each class that is trained, and layers
that make the global prototype of it. It descends for S epochs the
cross-entropy over negative Euclidean distances of the clients' means to all
global prototypes, where the distance to the right one is longer by a margin:
the largest distance of two classes' mean prototypes, tau at most (Eqs. 6 to 10,
the margin in 9). A client descends cross-entropy plus lambda times the
distance of its features to the global prototype (Eq. 11); the nearest one
predicts.

The authors' code takes as margin the largest, over classes, of the distance to
the nearest other class; here that is an option. As there, clients measure a
mean of squares. A global prototype counts as known once a client has sent its
class. Means are of the extractor that has been trained, by a pass of their own.
THE SERVER SEES EVERY MESSAGE: it learns from each client's means by themselves.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from fedjax_gen import fields, trees
from fedjax_gen.federated import local
from fedjax_gen.federated.algorithm import ServerProgram
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.own_models.personal import Method, Model
from fedjax_gen.federated.statistics import prototypes
from fedjax_gen.federated.statistics.prototypes import Points, Prototypes
from fedjax_gen.types import Array, Variables

_MARGINS = ('pairs', 'nearest')


@dataclasses.dataclass(frozen=True)
class Config(fields.Configuration):
  """What FedTGP adds."""

  fedtgp_lambda: float = fields.non_negative(
    10.0,
    'lambda, of the squared distance to the prototype as a mean over '
    'features and batch (the authors’ code); the paper’s 0.1 is of the '
    'Euclidean norm',
  )
  fedtgp_margin: str = fields.option(
    'pairs',
    'the margin: the largest distance of two classes (Eq. 9), or the '
    'largest distance of a class to its nearest (the authors’ code)',
    choices=_MARGINS,
  )
  fedtgp_margin_limit: float = fields.non_negative(
    100.0, 'tau, the largest margin'
  )
  fedtgp_server_epochs: int = fields.positive_int(
    100, 'S, passes of the server a round'
  )
  fedtgp_server_batch_size: int = fields.positive_int(
    10, 'class means of a step of the server'
  )
  fedtgp_server_learning_rate: float = fields.positive(
    0.01, 'of the server’s SGD'
  )


class TgpServer(NamedTuple):
  """The server's state."""

  variables: Variables
  prototypes: Prototypes


def fedtgp(
  config: Config,
  training: personal.Config,
  models: Sequence[Model],
  num_clients: Sequence[int],
) -> Method:
  """Own classifiers, prototypes that the server trains."""
  personal.equal_heads(models)
  client = functools.partial(
    prototypes.client_program,
    training,
    weight=config.fedtgp_lambda,
    send=prototypes.named_points,
    prototypes_of=lambda server: server.prototypes,
  )
  server = prototype_server(
    config,
    models[0].num_classes,
    models[0].feature_size,
    sum(num_clients),
  )
  return personal.method(
    server, models, num_clients, client, prototypes.deployment
  )


def prototype_server(
  config: Config, num_classes: int, feature_size: int, num_clients: int
) -> ServerProgram:
  """A server that trains prototypes on `prototypes.Points`."""
  network = _Network(num_classes, feature_size)
  work = local.local_work(
    config.fedtgp_server_epochs, config.fedtgp_server_batch_size
  )
  optimizer = optax.sgd(config.fedtgp_server_learning_rate)

  def init(key):
    variables = network.init(key)['params']
    return TgpServer(variables, prototypes.unknown(num_classes, feature_size))

  def made(variables):
    return network.apply({'params': variables})

  def update(server, points, key):
    apart = margin(points, config.fedtgp_margin, config.fedtgp_margin_limit)

    def loss_fn(variables, batch, key):
      del key  # nothing is random
      values = margin_loss(batch.inputs, batch.labels, made(variables), apart)
      return trees.masked_mean(values, batch.mask), (variables, {})

    data = prototypes.examples(points)
    trained = local.train(
      loss_fn,
      optimizer,
      work,
      server.variables,
      optimizer.init(server.variables),
      data,
      key,
    )
    known = prototypes.known_after(server.prototypes.known, points)
    # At the end, and not the mean of all epochs: the authors say below which
    # value prototypes are of use.
    loss, _ = loss_fn(trained.variables, data.everything(), key)
    metrics = {
      'server_loss': loss,
      'margin': apart,
      'known_classes': known.sum().astype(jnp.float32),
    }
    after = Prototypes(known, made(trained.variables))
    return TgpServer(trained.variables, after), metrics

  return ServerProgram(init, prototypes.points_by_client(num_clients), update)


def margin(points: Points, rule: str, limit: float) -> Array:
  """The margin of Eq. 9; 0 where there are no two classes to lie apart.

  Args:
    points: of all clients, leaves `[N, C, ...]`.
    rule: `Config.fedtgp_margin`.
    limit: tau.
  """
  held = points.held > 0
  num = held.sum(axis=0)
  sums = jnp.where(held[..., None], points.means, 0.0).sum(axis=0)
  centers = sums / jnp.maximum(num, 1)[:, None]
  there = num > 0
  is_pair = there[:, None] & there[None] & ~jnp.eye(len(num), dtype=bool)
  between = distances(centers, centers)
  if rule == 'nearest':
    nearest = jnp.where(is_pair, between, jnp.inf).min(axis=1)
    largest = jnp.where(is_pair.any(axis=1), nearest, 0.0).max()
  else:
    largest = jnp.where(is_pair, between, 0.0).max()
  return jnp.minimum(largest, limit)


def margin_loss(
  points: Array, labels: Array, centers: Array, margin: Array
) -> Array:
  """For each point `[B]` the cross-entropy over negative distances.

  Args:
    points: `[B, F]`.
    labels: `[B]`.
    centers: `[C, F]`, the prototypes.
    margin: added to the distance to the right one.
  """
  longer = margin * jax.nn.one_hot(labels, len(centers))
  return personal.cross_entropy(-(distances(points, centers) + longer), labels)


def distances(left: Array, right: Array) -> Array:
  """Euclidean, `[B, C]` of `[B, F]` and `[C, F]`; no gradient at 0."""
  squared = prototypes.squared_distances(left, right)
  apart = squared > 0
  return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)


class _Network(nn.Module):
  """A vector for each class, through layers that all share."""

  num_classes: int
  feature_size: int

  @nn.compact
  def __call__(self) -> Array:
    vectors = nn.Embed(
      self.num_classes,
      self.feature_size,
      embedding_init=nn.initializers.normal(1.0),
    )(jnp.arange(self.num_classes))
    hidden = nn.relu(nn.Dense(self.feature_size)(vectors))
    return nn.Dense(self.feature_size)(hidden)
