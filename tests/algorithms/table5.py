"""The setting of FedTGP's Table 5: 20 clients, CIFAR-100, 512 features."""

import dataclasses

import numpy as np

from fedjax_gen.data import partition
from fedjax_gen.data.federated import federated_dataset
from fedjax_gen.federated.execution import traffic as traffic_lib
from fedjax_gen.federated.own_models import personal
from fedjax_gen.models.classification.classifiers import (
  ClassifierConfig,
  build_classifiers,
)
from fedjax_gen.models.vae import DataSpec

SPEC = DataSpec((32, 32, 3), 100)
CLIENTS = ClassifierConfig(('resnet4',), feature_size=512)


def classifier(config=CLIENTS):
  """The classifier of a configuration of one architecture."""
  [model] = build_classifiers(config, SPEC)
  return model


def exchanged(method):
  """View and message of a client, as shapes; nothing is computed.

  Args:
    method: `(training, models) -> Method`, of one fleet of 20 clients.
  """
  images = np.zeros((20, *SPEC.shape), np.uint8)
  data = federated_dataset(images, np.arange(20), partition.iid(20, 20, seed=0))
  training = dataclasses.replace(personal.Config(), batch_size=1)
  [sent] = traffic_lib.exchanged(
    method(training, [classifier()]).algorithm, [data]
  )
  return sent
