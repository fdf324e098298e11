"""CCVR: heads are trained again on features drawn from Gaussians by class.

Mi Luo, Fei Chen, Dapeng Hu, Yifan Zhang, Jian Liang, Jiashi Feng, "No fear of
heterogeneity: classifier calibration for federated learning with non-IID data",
NeurIPS 2021; arXiv 2106.05001.

Published: after training is over, clients send number, mean and covariance of
their features of each class; the server joins them to those of all clients,
draws virtual features from the Gaussians, M a class, and trains the head of the
one global model on them.

There is no global model here: clients train alone, and each trains its own head
again on virtual features, as a comparison with FedVTC presumably has it. What a
feature means was agreed on by no two extractors, which the method of one model
need not care about: read its numbers with that in mind. Covariances are divided
by one less than the number of examples, as published (FL-bench: by the number).

Messages are sums of features and of their outer products, which say the same
and add up, so that the server sees sums alone. What a client predicts with is
made when it is asked for and leaves its training as it was. In the simulation
statistics are sent in EVERY round, so that there is an answer after each, and
the meter counts them so; the method sends them once: `last_round_floats`.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_gen import fields
from fedjax_gen.data.federated import Batch, ClientData
from fedjax_gen.federated import aggregates, local
from fedjax_gen.federated.algorithm import ServerProgram
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.own_models.personal import Method, Model
from fedjax_gen.federated.statistics import prototypes
from fedjax_gen.federated.statistics.class_sums import ByClass
from fedjax_gen.types import Array, Key


@dataclasses.dataclass(frozen=True)
class Config(fields.Configuration):
  """What CCVR adds."""

  ccvr_per_class: int = fields.positive_int(
    200, 'M, virtual features of a class (FL-bench)'
  )
  ccvr_epochs: int = fields.positive_int(
    1, 'passes of the head over them (FL-bench)'
  )
  ccvr_learning_rate: float = fields.non_negative(
    0.0, 'of the head; 0 for that of the clients'
  )


class Sums(NamedTuple):
  """What a client sends; sums, which add up over clients.

  Attributes:
    counts: `[C]` int32.
    first: `[C, F]` sums of features.
    outer: `[C, F (F + 1) / 2]` of their outer products, upper triangles.
  """

  counts: Array
  first: Array
  outer: Array


class Gaussians(NamedTuple):
  """Features of each class, of all clients.

  Attributes:
    known: `[C]` bool.
    means: `[C, F]`.
    covariances: `[C, F (F + 1) / 2]`, their upper triangles.
  """

  known: Array
  means: Array
  covariances: Array


def ccvr(
  config: Config,
  training: personal.Config,
  models: Sequence[Model],
  num_clients: Sequence[int],
) -> Method:
  """Clients that train alone, and heads that see the features of all."""
  personal.equal_heads(models)

  def client(model, first):
    return personal.client_program(
      training.trainer(),
      personal.init_classifier(model),
      first,
      loss=functools.partial(personal.plain_loss, model),
      send=functools.partial(_send, model, training.batch_size),
    )

  def deployment(model):
    calibrated = functools.partial(_calibrated, config, training, model)
    return personal.head_deployment(model, calibrated)

  server = gaussian_server(models[0].num_classes, models[0].feature_size)
  return personal.method(server, models, num_clients, client, deployment)


def last_round_floats(
  feature_size: int, num_classes: int, classes_held: int
) -> tuple[int, int]:
  """Numbers that a client receives and sends in a whole run of the method.

  Its statistics once, at the end; before it clients of this module send
  nothing. Counts are whole numbers and left out, as in `class_traffic`.

  Args:
    feature_size: F.
    num_classes: C; all come down.
    classes_held: those that the client has and sends.

  Example:
    >>> last_round_floats(2, 10, 3)
    (50, 15)
  """
  row = feature_size + feature_size * (feature_size + 1) // 2
  return num_classes * row, classes_held * row


def sums_of_batch(features: Array, batch: Batch, num_classes: int) -> Sums:
  """The sums of one batch of features `[B, F]`."""
  rows, columns = jnp.triu_indices(features.shape[-1])
  kept = jnp.where(batch.mask[:, None], features, 0.0)

  def by_class(values):
    return jax.ops.segment_sum(values, batch.labels, num_classes)

  return Sums(
    by_class(batch.mask.astype(jnp.int32)),
    by_class(kept),
    # The triangles alone: C full matrices for every batch would fill memory.
    by_class(kept[:, rows] * kept[:, columns]),
  )


def moments(sums: Sums) -> tuple[Array, Array]:
  """Means `[C, F]` and covariances `[C, F, F]` of all that was summed.

  Unbiased, divided by one less than the number of examples: what the paper's
  formula makes of the clients' covariances. One example alone has none, 0.
  """
  counts = sums.counts[:, None].astype(jnp.float32)
  means = sums.first / jnp.maximum(counts, 1)
  about_zero = unpacked(sums.outer, means.shape[-1])
  explained = (counts * means)[:, :, None] * means[:, None]
  degrees = jnp.maximum(counts - 1, 1)[..., None]
  return means, (about_zero - explained) / degrees


def factors(covariances: Array) -> Array:
  """Symmetric roots `[C, F, F]` of covariances that may lack full rank.

  Where there are fewer examples than features, rounding makes some eigenvalues
  negative; they count as zero.
  """
  values, vectors = jnp.linalg.eigh(covariances)
  roots = jnp.sqrt(jnp.maximum(values, 0.0))
  return (vectors * roots[:, None]) @ jnp.swapaxes(vectors, 1, 2)


def packed(matrices: Array) -> Array:
  """Upper triangles `[C, F (F + 1) / 2]` of `[C, F, F]`, diagonals included."""
  rows, columns = jnp.triu_indices(matrices.shape[-1])
  return matrices[:, rows, columns]


def unpacked(triangles: Array, size: int) -> Array:
  """Symmetric `[C, F, F]` of their upper triangles."""
  rows, columns = jnp.triu_indices(size)
  empty = jnp.zeros((len(triangles), size, size), triangles.dtype)
  return (
    empty.at[:, rows, columns]
    .set(triangles)
    .at[:, columns, rows]
    .set(triangles)
  )


def gaussian_server(num_classes: int, feature_size: int) -> ServerProgram:
  """A server that makes `Gaussians` of sums.

  A class that nobody holds in a round keeps what it had.
  """

  def init(key):
    del key  # nothing is random
    triangle = feature_size * (feature_size + 1) // 2
    return Gaussians(
      jnp.zeros(num_classes, bool),
      jnp.zeros((num_classes, feature_size)),
      jnp.zeros((num_classes, triangle)),
    )

  def update(server, aggregated, key):
    del key  # nothing is random
    sums: Sums = aggregated.rows
    held = sums.counts > 0
    means, covariances = moments(sums)
    after = Gaussians(
      server.known | held,
      jnp.where(held[:, None], means, server.means),
      jnp.where(held[:, None], packed(covariances), server.covariances),
    )
    known = after.known.sum().astype(jnp.float32)
    return after, {'known_classes': known}

  return ServerProgram(init, aggregates.total(), update)


def virtual_features(
  gaussians: Gaussians, per_class: int, key: Key
) -> ClientData:
  """Draws of every known class, with their labels, to train on."""
  num_classes, size = gaussians.means.shape
  roots = factors(unpacked(gaussians.covariances, size))
  noise = jax.random.normal(key, (num_classes, per_class, size))
  drawn = gaussians.means[:, None] + noise @ roots
  labels = jnp.repeat(jnp.arange(num_classes, dtype=jnp.int32), per_class)
  return prototypes.labelled(
    drawn.reshape(-1, size), labels, gaussians.known[labels]
  )


def _send(model, batch_size, view, client, data, key):
  """Sums of the features of the trained extractor, rows of classes held."""
  del view, key
  classifier = client.variables['classifier']

  def of_batch(batch):
    features = model.features(classifier, batch.inputs)
    return sums_of_batch(features, batch, model.num_classes)

  return ByClass(local.total(of_batch, data, batch_size))


def _calibrated(config, training, model, view, client, data, key):
  """The client's classifier with a head that saw virtual features."""
  del data  # of its own it has seen enough
  classifier = client.variables['classifier']
  draw_key, train_key = jax.random.split(key)

  optimizer = training.descent(config.ccvr_learning_rate or None)
  trained = local.train(
    personal.head_loss(model),
    optimizer,
    local.local_work(config.ccvr_epochs, training.batch_size),
    classifier['head'],
    optimizer.init(classifier['head']),
    virtual_features(view, config.ccvr_per_class, draw_key),
    train_key,
  )
  return {**classifier, 'head': trained.variables}
