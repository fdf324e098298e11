"""Class-mean images: what a generator of images has to beat.

Clients send the sum of their images of each class, once, and the server sends
back the mean image of each class over all clients. Clients fine-tune their
classifiers with these images, with noise on their pixels, as FedVTC's do with
generated ones. Nothing is trained but the classifiers.

Ours: the most trivial baseline of FedVTC. With statistics of prototypes alone
FedVTC's reconstruction loss is least where its generator gives the mean image
of a class, so this is what such a generator is worth, without one.
"""

from collections.abc import Sequence
import dataclasses
import math

import jax
import jax.numpy as jnp

from fedjax_gen import fields
from fedjax_gen.data.federated import Batch
from fedjax_gen.federated import local
from fedjax_gen.federated.algorithm import Algorithm, ClientProgram
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.own_models.finetuning import (
  Finetuning,
  drawn_labels,
  finetuned,
)
from fedjax_gen.federated.own_models.personal import (
  Deployment,
  Method,
  Model,
  Personal,
)
from fedjax_gen.federated.statistics import class_sums, prototypes
from fedjax_gen.federated.statistics.prototypes import Prototypes
from fedjax_gen.models.classification.classifiers import to_signed
from fedjax_gen.types import Key


@dataclasses.dataclass(frozen=True)
class Config(fields.Configuration):
  """Class-mean images."""

  images_noise: float = fields.non_negative(
    0.3,
    'Standard deviation of the noise on pixels of class-mean images, which lie '
    'in [-1, 1]; 0 for none',
  )


def class_images(
  config: Config,
  training: personal.Config,
  models: Sequence[Model],
  num_clients: Sequence[int],
  input_shape: Sequence[int],
  finetuning: Finetuning,
) -> Method:
  """Own classifiers, fine-tuned with the mean image of each class.

  Every round sends the same sums: a deployment sends them once.

  Args:
    config: of the method.
    training: how clients train.
    models: the classifier of each fleet.
    num_clients: clients of each fleet.
    input_shape: of an image, `(H, W, C)`.
    finetuning: how classifiers are fine-tuned.
  """
  personal.equal_classes(models)
  clients = [
    _Client(config, training, model, tuple(input_shape), finetuning, first)
    for model, first in zip(
      models, personal.first_numbers(num_clients), strict=True
    )
  ]
  size = math.prod(input_shape)
  server = prototypes.averaging_server(models[0].num_classes, size)
  return Method(
    Algorithm(server, tuple(client.program() for client in clients)),
    tuple(client.deployment() for client in clients),
  )


@dataclasses.dataclass(frozen=True)
class _Client:
  """One client's round: fine-tuning, training, the sums of its images."""

  config: Config
  training: personal.Config
  model: Model
  input_shape: tuple[int, ...]
  finetuning: Finetuning
  first_number: int

  def program(self) -> ClientProgram:
    """The client as the engine takes it."""
    return ClientProgram(self._init, lambda server, info: server, self._update)

  def deployment(self) -> Deployment:
    """Prediction by the classifier, fine-tuned with the newest images."""
    return personal.head_deployment(self.model, self._finetuned)

  def _init(self, key, info):
    variables = personal.init_classifier(self.model)(key)
    number = (self.first_number + info.row).astype(jnp.int32)
    return Personal(variables, self.training.trainer().init(variables), number)

  def _update(self, view, client, data, keys):
    # As every method of `personal`: the same order of examples.
    train_key, finetune_key = jax.random.split(keys.own)
    classifier = self._finetuned(view, client, data, finetune_key)
    variables, state, metrics = self.training.trainer().run(
      personal.classification(self.model),
      {**client.variables, 'classifier': classifier},
      client.optimizer_state,
      data,
      train_key,
    )

    def of_batch(batch):
      pixels = to_signed(batch.inputs).reshape(len(batch.labels), -1)
      return class_sums.of_batch(
        pixels, batch.labels, batch.mask, self.model.num_classes
      )

    sums = local.total(of_batch, data, self.training.batch_size)
    message = prototypes.summed_means(sums, 'count')
    return message, Personal(variables, state, client.number), metrics

  def _finetuned(self, view, client, data, key):
    return finetuned(
      self.finetuning,
      self.training,
      self.model,
      client.variables['classifier'],
      lambda key: self._images(view, key),
      view.known.any(),
      data,
      key,
    )

  def _images(self, means: Prototypes, key: Key) -> Batch:
    """Noised mean images of the known classes, each alike."""
    label_key, noise_key = jax.random.split(key)
    labels = drawn_labels(means.known, self.training.batch_size, label_key)
    images = means.means[labels].reshape(-1, *self.input_shape)
    noise = jax.random.normal(noise_key, images.shape)
    images = jnp.clip(images + self.config.images_noise * noise, -1.0, 1.0)
    return Batch(images, labels, jnp.ones(len(labels), bool))
