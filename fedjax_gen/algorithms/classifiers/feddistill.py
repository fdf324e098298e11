"""FedDistill (FD): clients share class means of their logits.

Eunjeong Jeong, Seungeun Oh, Hyesung Kim, Jihong Park, Mehdi Bennis, Seong-Lyun
Kim, "Communication-efficient on-device machine learning: federated distillation
and augmentation under non-IID private data", 2018; arXiv 1811.11479, section 2.

Published: a client sends the mean of its logits over its examples of each
class; the server averages them by class over the clients; a client descends
cross-entropy with its labels plus lambda times cross-entropy with the softmax
of the global logits of the example's class.

In the paper a client's teachers are the other clients alone; in HtFLlib and
FedGen's code, as here, all that hold the class, itself included and every one
alike. Those take the means of logits as they were while the client trained;
ours are of the model that has been trained, by a pass of their own. HtFLlib has
since November 2025 used the global logits themselves as if they were
probabilities, so that its loss has no lower bound; ours is over their softmax.
"""

from collections.abc import Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from fedjax_gen import fields
from fedjax_gen.federated import local
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.own_models.personal import Method, Model
from fedjax_gen.federated.statistics import class_sums, prototypes
from fedjax_gen.federated.statistics.prototypes import Prototypes
from fedjax_gen.types import LossFn


@dataclasses.dataclass(frozen=True)
class Config(fields.Configuration):
  """What FedDistill adds."""

  feddistill_lambda: float = fields.non_negative(
    1.0,
    'lambda, of the cross-entropy with the softmax of the global '
    'logits; 1 in HtFLlib',
  )


def feddistill(
  config: Config,
  training: personal.Config,
  models: Sequence[Model],
  num_clients: Sequence[int],
) -> Method:
  """Own classifiers, of any size of features; class means of logits of all."""
  personal.equal_classes(models)

  def client(model, first):
    return personal.client_program(
      training.trainer(),
      personal.init_classifier(model),
      first,
      loss=functools.partial(_loss, model, config.feddistill_lambda),
      send=functools.partial(_send, model, training.batch_size),
    )

  num_classes = models[0].num_classes
  server = prototypes.averaging_server(num_classes, num_classes)
  return personal.method(
    server, models, num_clients, client, personal.head_deployment
  )


def _loss(model: Model, weight: float, teacher: Prototypes) -> LossFn:
  """Cross-entropy with the labels, and with what all make of their class."""
  if not weight:
    return personal.classification(model)
  targets = jax.nn.softmax(teacher.means)

  def term(variables, features, logits, batch, key):
    del variables, features, key
    values = optax.softmax_cross_entropy(logits, targets[batch.labels])
    # Nothing to learn about a class that no client has sent.
    return weight * jnp.where(teacher.known[batch.labels], values, 0.0)

  return personal.classification(model, term)


def _send(model, batch_size, view, client, data, key):
  """Class means of logits, a row for each class that the client holds."""
  del view, key
  classifier = client.variables['classifier']

  def of_batch(batch):
    logits = model.logits(
      classifier['head'], model.features(classifier, batch.inputs)
    )
    return class_sums.of_batch(
      logits, batch.labels, batch.mask, model.num_classes
    )

  sums = local.total(of_batch, data, batch_size)
  return prototypes.summed_means(sums, 'uniform')
