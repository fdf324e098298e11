"""Prototypes: one vector for each class that all clients know.

The common part of methods that send class means: their message, a server that
averages, a loss that pulls features to a prototype, prediction by the nearest
prototype, and servers that train on the clients' means as on labelled points.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from fedjax_gen.data.federated import ClientData
from fedjax_gen.federated import aggregates
from fedjax_gen.federated.aggregates import Aggregate, Named
from fedjax_gen.federated.algorithm import ClientProgram, ServerProgram
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.own_models.personal import Deployment, Model, Personal
from fedjax_gen.federated.statistics import class_sums
from fedjax_gen.federated.statistics.class_sums import ByClass, ClassSums
from fedjax_gen.types import Array, LossFn, Tree


class Prototypes(NamedTuple):
  """What the server has of every class.

  Attributes:
    known: `[C]` bool, classes that some client has sent.
    means: `[C, F]`; of no meaning where unknown.
  """

  known: Array
  means: Array


def unknown(num_classes: int, size: int) -> Prototypes:
  """What the server begins with: no class is known."""
  return Prototypes(
    jnp.zeros(num_classes, bool), jnp.zeros((num_classes, size))
  )


def summed_means(sums: ClassSums, rule: str) -> ByClass:
  """Class means as a message that the server adds up.

  `class_sums.means_to_send`, with weights as whole numbers: they say how many
  examples or clients there are, and are no floats to the meter.
  """
  sent = class_sums.means_to_send(sums, rule).rows
  return ByClass(sent._replace(weights=sent.weights.astype(jnp.int32)))


def averaging_server(num_classes: int, size: int) -> ServerProgram:
  """A server of `Prototypes` that averages what `summed_means` sends.

  It sees sums. A class that nobody holds in a round keeps what it had.
  """

  def update(server, aggregated, key):
    del key  # nothing is random
    sent = aggregated.rows
    known = server.known | (sent.weights > 0)
    metrics = {'known_classes': known.sum().astype(jnp.float32)}
    return Prototypes(known, sent.or_else(server.means)), metrics

  return ServerProgram(
    lambda key: unknown(num_classes, size), aggregates.total(), update
  )


class Points(NamedTuple):
  """A client's class means as points, for a server that sees them singly.

  Attributes:
    means: `[C, F]`; 0 for a class that the client does not hold.
    held: `[C]` int32, 1 for a class that it holds; no number of examples.
  """

  means: Array
  held: Array


def named_points(sums: ClassSums, client: Personal) -> Named:
  """Class means as a message of their own row: `Named` `ByClass` `Points`."""
  _, means, _ = sums.moments()
  held = (sums.counts > 0).astype(jnp.int32)
  return Named(client.number, ByClass(Points(means, held)))


def points_by_client(num_clients: int) -> Aggregate:
  """THE SERVER SEES EVERY MESSAGE: `Points` of leaves `[N, C, ...]`."""
  rule = aggregates.by_client(num_clients)

  def finish(sums):
    named, _ = rule.finish(sums)  # of absent clients nothing is held
    return named.rows

  return rule._replace(finish=finish)


def examples(points: Points) -> ClientData:
  """Points `[N, C, F]` of all clients as examples of their classes."""
  num_clients, num_classes, size = points.means.shape
  return labelled(
    points.means.reshape(-1, size),
    jnp.tile(jnp.arange(num_classes, dtype=jnp.int32), num_clients),
    points.held.ravel() > 0,
  )


def labelled(inputs: Array, labels: Array, is_there: Array) -> ClientData:
  """Examples for `local.train`; some may be missing.

  Args:
    inputs: `[n, ...]`.
    labels: `[n]` int32.
    is_there: `[n]` bool; the others are never read.
  """
  order = jnp.argsort(~is_there, stable=True).astype(jnp.int32)
  size = is_there.sum(dtype=jnp.int32)
  zero = jnp.zeros((), jnp.int32)
  return ClientData(inputs, labels, order, zero, size, 0, len(inputs))


def client_program(
  training: personal.Config,
  model: Model,
  first_number: int,
  *,
  weight: float,
  send: Callable[[ClassSums, Personal], Tree],
  prototypes_of: Callable[[Tree], Prototypes] = lambda server: server,
) -> ClientProgram:
  """A client that is pulled to the prototypes it receives and sends means.

  Args:
    training: how it trains.
    model: its classifier.
    first_number: see `personal.client_program`.
    weight: see `pull`.
    send: `(sums, client) -> message`; the sums are of the trained extractor's
      features.
    prototypes_of: `server -> Prototypes`, what goes down to everyone.
  """

  def message(view, client, data, key):
    del view, key
    classifier = client.variables['classifier']
    sums = personal.feature_sums(model, classifier, data, training.batch_size)
    return send(sums, client)

  return personal.client_program(
    training.trainer(),
    personal.init_classifier(model),
    first_number,
    view=lambda server, info: prototypes_of(server),
    loss=lambda prototypes: pull(model, prototypes, weight),
    send=message,
  )


def pull(model: Model, prototypes: Prototypes, weight: float) -> LossFn:
  """Cross-entropy, and the distance of features to their class's prototype.

  Args:
    model: the classifier.
    prototypes: of all clients; examples of an unknown class are not pulled.
    weight: of the squared distance, which is a mean over features and over the
      batch; 0 for cross-entropy alone.
  """
  if not weight:
    return personal.classification(model)

  def term(variables, features, logits, batch, key):
    del variables, logits, key
    differences = features - prototypes.means[batch.labels]
    distance = jnp.mean(differences**2, axis=-1)
    return weight * jnp.where(prototypes.known[batch.labels], distance, 0.0)

  return personal.classification(model, term)


def deployment(model: Model) -> Deployment:
  """Prediction by the nearest prototype, or by the client's head."""

  def deploy(view, client, data, key):
    del data, key
    classifier = client.variables['classifier']
    return {'classifier': classifier, 'prototypes': view}

  def nearest(deployed, inputs):
    features = model.features(deployed['classifier'], inputs)
    return closeness(features, deployed['prototypes'])

  return Deployment(
    deploy,
    {'prototype': nearest, 'head': personal.part_rule('classifier', model)},
  )


def closeness(features: Array, prototypes: Prototypes) -> Array:
  """Negative squared distances `[B, C]`; an unknown class never wins."""
  distances = squared_distances(features, prototypes.means)
  return jnp.where(prototypes.known[None], -distances, -jnp.inf)


def squared_distances(left: Array, right: Array) -> Array:
  """`[B, C]` of `[B, F]` and `[C, F]`.

  Of differences: by products of matrices small distances would drown in the
  rounding of long vectors.
  """
  return jnp.sum((left[:, None] - right[None]) ** 2, axis=-1)


def known_after(known: Array, points: Points) -> Array:
  """`[C]` bool, with the classes of a round's points `[N, C, ...]`."""
  return known | (points.held.sum(axis=0) > 0)
