"""Who holds what in a run of FedVTC, and how well its clients predict."""

from collections.abc import Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.data import heldout
from fedjax_gen.data.federated import FederatedDataset, federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.data.sources import DataSource
from fedjax_gen.errors import InputError
from fedjax_gen.federated import deployment
from fedjax_gen.federated.deployment import Method
from fedjax_gen.federation import FederationConfig, build_partition
from fedjax_gen.types import Array, Tree


class Clients(NamedTuple):
  """The federation.

  Attributes:
    source: the data.
    partition: of the training rows, all that clients hold.
    split: what each trains on and is tested on.
    datasets: the clients of each fleet, what they train on.
    numbers: of each fleet's clients in the partition.
    architectures: of each fleet.
  """

  source: DataSource
  partition: Partition
  split: heldout.Split
  datasets: list[FederatedDataset]
  numbers: list[np.ndarray]
  architectures: list[str]

  def by_client(self, fleets: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of all fleets, in the order of the partition's clients."""
    return np.concatenate(fleets)[np.argsort(np.concatenate(self.numbers))]

  @property
  def architecture_of_client(self) -> list[str]:
    """The architecture of each client, in the partition's order."""
    names = [
      np.full(len(numbers), name)
      for name, numbers in zip(self.architectures, self.numbers, strict=True)
    ]
    return self.by_client(names).tolist()


def build_clients(
  source: DataSource,
  federation: FederationConfig,
  architectures: Sequence[str],
  local_test_fraction: float,
  seed: int,
) -> Clients:
  """Deals images to clients, and clients to architectures in turn.

  Raises:
    InputError: the data are no images, or the federation does not fit them or
      has fewer clients than architectures.
  """
  if not source.is_image:
    raise InputError(
      f'Expected images, got the features of {source.name}: '
      'python -m experiments.fedhypevae is for embeddings.'
    )
  partition = build_partition(federation, source, seed=seed)
  count, kinds = partition.num_clients, len(architectures)
  if count < kinds:
    raise InputError(
      f'Expected a client at least for each of {kinds} architectures, got '
      f'{count} clients.'
    )
  labels = source.train.labels
  split = heldout.split_clients(
    partition, labels, fractions=(local_test_fraction, 0.0), seed=seed
  )
  data = federated_dataset(source.train.inputs, labels, split.train)
  numbers = [np.arange(count)[start::kinds] for start in range(kinds)]
  return Clients(
    source,
    partition,
    split,
    [data.select(members) for members in numbers],
    numbers,
    list(architectures),
  )


class Judge:
  """Measures what clients of a method would predict with.

  Compiled programs are kept by the prediction rule, which methods share where
  models are the same.
  """

  def __init__(self, clients: Clients, seed: int):
    """Places the held-out examples on the device.

    Args:
      clients: the federation.
      seed: of what is drawn to deploy.
    """
    self._clients = clients
    self._key = jax.random.fold_in(jax.random.key(seed), 1)
    self._num_classes = clients.source.num_classes
    test = clients.source.test
    self._global = jnp.asarray(test.inputs), jnp.asarray(test.labels, jnp.int32)
    self._deployers: dict[int, Any] = {}

  def deployed(self, method: Method, state: Any) -> tuple[Tree, ...]:
    """What the clients of each fleet predict with, leaves `[N, ...]`."""
    if id(method) not in self._deployers:
      self._deployers[id(method)] = deployment.deployer(method)
    run = self._deployers[id(method)]
    return run(state, self._clients.datasets, self._key)

  def on_the_global_test(
    self, method: Method, deployed: Sequence[Tree], rule: str = ''
  ) -> np.ndarray:
    """`[N, C]` right answers of each client on the global test set."""
    inputs, labels = self._global
    rows = jnp.arange(len(labels))[None]
    return self._score(
      method, deployed, rule, inputs, labels, [rows] * len(deployed)
    )

  def everything(self, method: Method, state: Any) -> 'Judged':
    """All that is measured of a method at the end."""
    deployed = self.deployed(method, state)
    rules = list(method.deployments[0].rules)
    local = self._local_rows()
    train = self._clients.datasets[0]
    return Judged(
      {rule: self.on_the_global_test(method, deployed, rule) for rule in rules},
      self._score(
        method, deployed, rules[0], train.inputs, train.labels, local
      ),
      deployed,
    )

  def _score(self, method, deployed, rule, inputs, labels, rows):
    correct = []
    for fleet, variables, asked in zip(
      method.deployments, deployed, rows, strict=True
    ):
      name = rule or next(iter(fleet.rules))
      run = _scorer(fleet.rules[name], self._num_classes)
      correct.append(np.asarray(run(variables, inputs, labels, asked)))
    return self._clients.by_client(correct)

  def _local_rows(self) -> list[Array]:
    """Of each fleet `[N, m]` rows that its clients are tested on; -1: none."""
    test = self._clients.split.test
    width = max(int(test.sizes.max()), 1)
    rows = []
    for numbers in self._clients.numbers:
      of_fleet = np.full((len(numbers), width), -1, np.int32)
      for slot, number in enumerate(numbers):
        own = test.rows(number)
        of_fleet[slot, : len(own)] = own
      rows.append(jnp.asarray(of_fleet))
    return rows


class Judged(NamedTuple):
  """Right answers of a method's clients.

  Attributes:
    correct: by rule of prediction `[N, C]` on the global test set; the first
      is the method's own.
    correct_local: `[N, C]` by that rule on each client's own test examples.
    deployed: of each fleet what its clients predict with.
  """

  correct: Mapping[str, np.ndarray]
  correct_local: np.ndarray
  deployed: tuple[Tree, ...]


_scorer = functools.cache(deployment.scorer)
