"""Who holds what in a run of FedVTC, and how well its clients predict."""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import keys
from fedjax_gen.data import heldout
from fedjax_gen.data.federated import FederatedDataset, federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.data.sources import DataSource
from fedjax_gen.errors import InputError
from fedjax_gen.federated import blocks as blocks_lib
from fedjax_gen.federated.blocks import Block, Blocks
from fedjax_gen.federated.own_models import deployment
from fedjax_gen.federated.own_models.deployment import Method
from fedjax_gen.federation import FederationConfig, build_partition
from fedjax_gen.studies.options import MeasuredConfig
from fedjax_gen.types import Tree


class Clients(NamedTuple):
  """The federation.

  Attributes:
    source: the data.
    partition: of the training rows, all that clients hold.
    split: what each trains on and is tested on.
    datasets: the clients of each fleet, what they train on.
    numbers: of each fleet's clients in the partition.
    architectures: of each fleet.
    measured: of each fleet rows of the clients that are measured.
  """

  source: DataSource
  partition: Partition
  split: heldout.Split
  datasets: list[FederatedDataset]
  numbers: list[np.ndarray]
  architectures: list[str]
  measured: list[np.ndarray]

  @property
  def measured_numbers(self) -> list[np.ndarray]:
    """Of each fleet numbers of the clients that are measured."""
    return [
      n[rows] for n, rows in zip(self.numbers, self.measured, strict=True)
    ]

  @property
  def measured_clients(self) -> np.ndarray:
    """`[M]` numbers of all that are measured, ascending."""
    return np.sort(np.concatenate(self.measured_numbers))

  @property
  def is_on_host(self) -> bool:
    """Whether what clients hold and keep lies on the host."""
    return self.datasets[0].is_on_host

  def by_client(self, fleets: Sequence[np.ndarray]) -> np.ndarray:
    """`[M]` rows of all fleets' measured clients, in their numbers' order."""
    order = np.argsort(np.concatenate(self.measured_numbers))
    return np.concatenate(fleets)[order]

  @property
  def architecture_of_client(self) -> list[str]:
    """The architecture of each client, in the partition's order."""
    kinds = {
      number: kind
      for kind, numbers in zip(self.architectures, self.numbers, strict=True)
      for number in numbers.tolist()
    }
    return [kinds[number] for number in sorted(kinds)]


def build_clients(
  source: DataSource,
  federation: FederationConfig,
  architectures: Sequence[str],
  local_test_fraction: float,
  seed: int,
  *,
  measured: MeasuredConfig,
  on_host: bool = False,
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
  data = federated_dataset(
    source.train.inputs, labels, split.train, on_host=on_host
  )
  numbers = [np.arange(count)[start::kinds] for start in range(kinds)]
  if federation.partition == 'sites':  # they say themselves which they have
    numbers = [
      np.flatnonzero(partition.groups == kind) for kind in range(kinds)
    ]
  return Clients(
    source,
    partition,
    split,
    [data.select(members) for members in numbers],
    numbers,
    list(architectures),
    measured.rows([len(members) for members in numbers]),
  )


class Judged(NamedTuple):
  """Right answers of a method's clients.

  Attributes:
    correct: by rule of prediction `[M, C]` on the global test set, of the
      clients that are measured; the first is the method's own.
    correct_local: `[M, C]` by that rule on each client's own test examples.
    deployed: of each fleet what they predict with; of the first of them alone
      where the population lies on the host.
  """

  correct: Mapping[str, np.ndarray]
  correct_local: np.ndarray
  deployed: tuple[Tree, ...]


Keep = Callable[[int, Block, Tree], None]
"""`(fleet, block, deployed)`, told what clients of a block predict with."""


class Judge:
  """Measures what clients of a method would predict with.

  Clients are asked a block at a time: what they deploy is alive for one block.
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
    self._key = keys.derive(seed, 'deployment')
    self._num_classes = clients.source.num_classes
    test = clients.source.test
    self._global = jnp.asarray(test.inputs), jnp.asarray(test.labels, jnp.int32)
    self._own_rows = _own_rows(clients)

  def on_the_global_test(
    self, method: Method, blocks: Blocks, state: Any
  ) -> np.ndarray:
    """`[M, C]` right answers of clients on the global test set."""
    fleets = self._asked(
      method,
      blocks,
      state,
      lambda fleet, block, deployed: self._globally(method, fleet, deployed),
    )
    return self._clients.by_client(fleets)

  def accuracies(
    self, method: Method, blocks: Blocks, state: Any
  ) -> dict[str, float]:
    """On the global test set, of the mean client and of the worst."""
    test = self._clients.source.test
    correct = self.on_the_global_test(method, blocks, state)
    shares = correct.sum(axis=1).astype(float) / len(test.labels)
    return {
      'accuracy': float(shares.mean()),
      'accuracy_worst': float(shares.min()),
    }

  def everything(
    self, method: Method, blocks: Blocks, state: Any, keep: Keep | None = None
  ) -> Judged:
    """All that is measured of a method at the end.

    Args:
      method: the method.
      blocks: its clients; see `Engine.blocks`.
      state: after training.
      keep: if given, told what each block of clients predicts with, which is
        then not returned.
    """
    rules = list(method.deployments[0].rules)
    firsts: dict[int, Tree] = {}

    def ask(fleet, block, deployed):
      found = {
        'rules': {
          rule: self._globally(method, fleet, deployed, rule) for rule in rules
        },
        'local': self._locally(method, fleet, block, deployed),
      }
      if keep is None:
        return found | {'deployed': deployed}
      keep(fleet, block, deployed)
      if fleet not in firsts:
        firsts[fleet] = jax.tree.map(lambda leaf: leaf[:1], deployed)
      return found

    fleets = self._asked(method, blocks, state, ask)
    by_client = self._clients.by_client
    return Judged(
      {rule: by_client([f['rules'][rule] for f in fleets]) for rule in rules},
      by_client([found['local'] for found in fleets]),
      tuple(
        found.get('deployed', firsts.get(fleet))
        for fleet, found in enumerate(fleets)
      ),
    )

  def _asked(self, method, blocks, state, ask) -> list[Tree]:
    """Of each fleet what a function says of those that are measured."""
    keys = deployment.fleet_keys(method, self._key)
    answers = []
    for fleet, deploy in enumerate(deployment.block_deployers(method)):

      def of_block(block, fleet=fleet, deploy=deploy):
        return ask(fleet, block, deploy(state.server, block, keys[fleet]))

      answers.append(
        blocks_lib.joined(of_block, blocks(state, fleet, self._asked_of(fleet)))
      )
    return answers

  def _asked_of(self, fleet) -> np.ndarray | None:
    """Rows of those that are measured; None if it is everyone."""
    rows = self._clients.measured[fleet]
    return None if len(rows) == len(self._clients.numbers[fleet]) else rows

  def _globally(self, method, fleet, deployed, rule=''):
    """`[k, C]` on the global test set, by a rule or the method's own."""
    inputs, labels = self._global
    rows = jnp.arange(len(labels))[None]
    return self._scorer(method, fleet, rule)(deployed, inputs, labels, rows)

  def _locally(self, method, fleet, block, deployed):
    """`[k, C]` on each client's own test examples."""
    rows = self._own_rows[fleet][block.rows]
    train = self._clients.datasets[fleet]
    inputs, labels = train.inputs, train.labels
    if train.is_on_host:
      taken = np.maximum(rows, 0).ravel()
      inputs, labels = jnp.asarray(inputs[taken]), jnp.asarray(labels[taken])
      rows = np.where(rows < 0, -1, np.arange(rows.size).reshape(rows.shape))
    run = self._scorer(method, fleet)
    return run(deployed, inputs, labels, jnp.asarray(rows))

  def _scorer(self, method, fleet, rule=''):
    rules = method.deployments[fleet].rules
    return _scorer(rules[rule or next(iter(rules))], self._num_classes)


def _own_rows(clients: Clients) -> list[np.ndarray]:
  """Of each fleet `[N, m]` rows that its clients are tested on; -1: none."""
  test = clients.split.test
  width = max(int(test.sizes.max()), 1)
  rows = np.full((test.num_clients, width), -1, np.int32)
  rows[np.arange(width) < test.sizes[:, None]] = test.order
  return [rows[numbers] for numbers in clients.numbers]


_scorer = functools.cache(deployment.scorer)
