"""Who holds which embeddings: for training, validation and tests."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjax_gen.data import heldout
from fedjax_gen.data.federated import FederatedDataset, federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.data.sources import DataSource
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation.heads import ClientRows
from fedjax_gen.federation import FederationConfig, build_partition
from fedjax_gen.models.hyper import hypernetwork
from fedjax_gen.studies.options import MeasuredConfig

_ROWS = 100_000  # normalised at once, on the device


class Clients(NamedTuple):
  """The federation and what its clients hold for what.

  Attributes:
    source: the data, normalised.
    partition: of all training rows.
    rows: real embeddings with the three parts of each client that is measured.
    measured: `[M]` which clients these are.
    data: the clients' training rows, on the device or on the host.
  """

  source: DataSource
  partition: Partition
  rows: ClientRows
  measured: np.ndarray
  data: FederatedDataset


def build_clients(
  source: DataSource,
  federation: FederationConfig,
  normalise: str,
  seed: int,
  *,
  measured: MeasuredConfig,
  on_host: bool = False,
  by_class: bool = True,
) -> Clients:
  """Deals embeddings to clients, and each client's in three parts.

  Args:
    source: the data.
    federation: how they are dealt.
    normalise: of every embedding by itself.
    seed: of what is drawn.
    measured: the clients to measure.
    on_host: where the clients' training rows lie.
    by_class: whether each class is in all parts in the same shares.

  Raises:
    InputError: the data are images, or do not fit the federation.
  """
  if source.is_image:
    raise InputError(
      f'Expected embeddings, [n, F] features, got the images of {source.name}: '
      'python -m experiments.embed makes embeddings of images.'
    )
  source = normalised(source, normalise)
  train = source.train
  partition = build_partition(federation, source, seed=seed)
  # By class the sizes of the parts would follow from labels, and with them the
  # noise: those of a private run follow from public numbers alone.
  strata = train.labels if by_class else np.zeros_like(train.labels)
  split = heldout.split_clients(
    partition,
    strata,
    # Sites hold out for themselves, and train on all that they count.
    fractions=(0.0, 0.0)
    if federation.partition == 'sites'
    else heldout.DEFAULT_FRACTIONS,
    seed=seed,
  )
  [chosen] = measured.rows([partition.num_clients])
  rows = ClientRows(
    train.inputs,
    train.labels,
    source.num_classes,
    *(part.select(chosen) for part in split),
  )
  data = federated_dataset(
    train.inputs, train.labels, split.train, on_host=on_host
  )
  return Clients(source, partition, rows, chosen, data)


def normalised(source: DataSource, normalise: str) -> DataSource:
  """The source, every embedding by itself as the models are to see it."""
  if normalise == 'none':
    return source

  def of_part(part):
    inputs = np.empty(part.inputs.shape, np.float32)
    for start in range(0, len(inputs), _ROWS):
      rows = jnp.asarray(part.inputs[start : start + _ROWS])
      inputs[start : start + _ROWS] = hypernetwork.normalised(rows, normalise)
    return part._replace(inputs=inputs)

  return dataclasses.replace(
    source, train=of_part(source.train), test=of_part(source.test)
  )
