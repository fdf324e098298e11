"""A federation from a configuration: who holds what, who takes part, where.

The one place where names on a command line become partitions, samplers and
mappings; the same for every algorithm.
"""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from fedjax_gen import fields, validate
from fedjax_gen.data import partition as partitions
from fedjax_gen.data.federated import FederatedDataset, federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.data.sources import DataSource
from fedjax_gen.errors import InputError
from fedjax_gen.federated import sampling
from fedjax_gen.federated.mapping import (
  Mapping,
  clients_mesh,
  default_cpu_devices,
)

PARTITIONS = (
    'auto', 'iid', 'dirichlet', 'classes', 'quantity', 'groups', 'natural',
    'file', 'sites',
)  # fmt: skip
SAMPLINGS = ('all', 'uniform', 'poisson', 'by_size')


@dataclasses.dataclass(frozen=True)
class FederationConfig(fields.Configuration):
  """Clients, their data and who takes part."""

  num_clients: int = fields.option(
    10, 'N, clients; with partition=natural at most this many, 0 for all.'
  )
  partition: str = fields.option(
    'auto',
    'How examples are dealt: auto (every client of the data, where a column, a '
    'file or an array of series names them, else iid), iid, dirichlet over '
    'labels, classes per client, '
    'quantity skew, one kind of image per client (groups), natural user '
    'ids, or a saved partition (file).',
    choices=PARTITIONS,
  )
  alpha: float = fields.positive(
    0.3, 'Concentration of dirichlet and quantity: smaller is more skewed.'
  )
  classes_per_client: int = fields.positive_int(
    2, 'Classes of a client with partition=classes.'
  )
  clients_per_group: tuple[int, ...] = fields.option(
    (),
    'Clients of each group with partition=groups, one number for all or one '
    'for each; default: num_clients in equal parts.',
    check=validate.each(validate.positive_int),
  )
  group_alpha: float = fields.non_negative(
    0.0,
    'With partition=groups, concentration of a dirichlet over labels within a '
    'group; 0 deals them iid.',
  )
  partition_file: str = fields.option(
    '',
    'Saved partition (npz) for partition=file; with sites, which `coordinate` '
    'sets, the sizes of sites that hold their own examples.',
  )
  sampling: str = fields.option(
    'all', 'Who takes part in a round.', choices=SAMPLINGS
  )
  cohort_size: int = fields.option(
    0, 'K, clients of a round with sampling=uniform or by_size.'
  )
  participation: float = fields.fraction(
    0.5, 'Probability that a client takes part, with sampling=poisson.'
  )
  dropout_rate: float = fields.fraction(
    0.0, 'Probability that a sampled client fails in the round.'
  )
  block_size: str = fields.option(
    'auto', 'Clients computed at once: a number, all, or auto.'
  )
  num_devices: int = fields.non_negative_int(
    0, 'Devices that share a cohort; 0 for all, or on CPU one for each core.'
  )
  reproducible: bool = fields.option(
    False, 'The same bits on 1, 2, 4 or 8 devices; costs one more gather.'
  )

  def __post_init__(self):
    super().__post_init__()
    if self.partition == 'natural':
      validate.non_negative_int(num_clients=self.num_clients)
    else:
      validate.positive_int(num_clients=self.num_clients)
    if self.partition != 'groups' and (
      self.clients_per_group or self.group_alpha
    ):
      raise InputError(
        'Expected partition=groups with clients_per_group or group_alpha, got '
        f'partition={self.partition!r}.'
      )
    if (self.partition in ('file', 'sites')) != bool(self.partition_file):
      raise InputError(
        'Expected a partition_file with partition=file and with no other, got '
        f'partition={self.partition!r} and '
        f'partition_file={self.partition_file!r}.'
      )
    if self.sampling in ('uniform', 'by_size'):
      validate.positive_int(cohort_size=self.cohort_size)
    elif self.cohort_size:
      raise InputError(
        'Expected sampling=uniform or by_size with a cohort_size, got '
        f'sampling={self.sampling!r} and cohort_size={self.cohort_size}.'
      )
    _block_size(self.block_size)


class Federation(NamedTuple):
  """A built federation.

  Attributes:
    partition: which rows of the training data belong to which client.
    data: the federated data set, on the device or on the host.
    sampler: who takes part in a round.
    mapping: how clients are laid over time and devices.
  """

  partition: Partition
  data: FederatedDataset
  sampler: sampling.Sampler
  mapping: Mapping


def build_federation(
  config: FederationConfig,
  source: DataSource,
  *,
  seed: int,
  on_host: bool = False,
) -> Federation:
  """Deals a source's training examples to clients.

  Args:
    config: what to build.
    source: the data.
    seed: of the partition.
    on_host: whether the data stay on the host, for streamed rounds.
  """
  partition = build_partition(config, source, seed=seed)
  return Federation(
    partition,
    federated_dataset(
      source.train.inputs, source.train.labels, partition, on_host=on_host
    ),
    build_sampler(config, partition.num_clients),
    build_mapping(config),
  )


def build_partition(
  config: FederationConfig, source: DataSource, *, seed: int
) -> Partition:
  """The partition that `config.partition` names."""
  train, count = source.train, config.num_clients
  validate.non_negative_int(seed=seed)
  if config.partition == 'auto' and source.names_clients:
    # All of them: num_clients is about clients that are made up.
    config, count = dataclasses.replace(config, partition='natural'), 0
  if config.partition in ('file', 'sites'):
    partition = Partition.load(
      config.partition_file, is_layout=config.partition == 'sites'
    )
    if partition.order.size and partition.order.max() >= len(train.labels):
      raise InputError(
        f'Expected partition_file={config.partition_file!r} to be of at most '
        f'{len(train.labels)} examples, those of {source.name}; it names '
        f'row {partition.order.max()}.'
      )
    return partition
  if config.partition == 'natural':
    users = _needed(train.users, source, 'natural', 'user ids')
    return partitions.natural(users, max_clients=count or None, seed=seed)
  if config.partition in ('auto', 'iid'):
    return partitions.iid(len(train.labels), count, seed=seed)
  if config.partition == 'dirichlet':
    return partitions.dirichlet(
      train.labels, count, alpha=config.alpha, seed=seed
    )
  if config.partition == 'classes':
    return partitions.classes_per_client(
      train.labels, count, classes=config.classes_per_client, seed=seed
    )
  if config.partition == 'quantity':
    return partitions.quantity_skew(
      len(train.labels), count, alpha=config.alpha, seed=seed
    )
  groups = _needed(train.groups, source, 'groups', 'groups (kinds of images)')
  num_groups = len(source.group_names)
  per_group = config.clients_per_group or count // num_groups
  if not config.clients_per_group and count % num_groups:
    raise InputError(
      f'Expected num_clients to be a multiple of the {num_groups} groups of '
      f'{source.name} with partition=groups, got num_clients={count}; '
      'clients_per_group makes groups of unequal size.'
    )
  if isinstance(per_group, tuple) and len(per_group) == 1:
    (per_group,) = per_group
  return partitions.by_group(
    groups,
    per_group,
    seed=seed,
    labels=train.labels if config.group_alpha else None,
    alpha=config.group_alpha or None,
  )


def build_sampler(
  config: FederationConfig, num_clients: int
) -> sampling.Sampler:
  """The sampler that `config.sampling` names."""
  if config.cohort_size > num_clients:
    raise InputError(
      f'Expected cohort_size <= {num_clients}, the number of clients, got '
      f'cohort_size={config.cohort_size}.'
    )
  sampler = {
    'all': sampling.everyone,
    'uniform': lambda: sampling.uniform(config.cohort_size),
    'by_size': lambda: sampling.by_size(config.cohort_size),
    'poisson': lambda: sampling.poisson(config.participation),
  }[config.sampling]()
  if config.dropout_rate:
    sampler = sampling.with_dropout(sampler, config.dropout_rate)
  return sampler


def build_samplers(
  config: FederationConfig, num_clients: Sequence[int]
) -> list[sampling.Sampler]:
  """A sampler for each fleet, cohorts in proportion to the fleets' clients.

  Args:
    config: names the sampler; its `cohort_size` is that of all fleets.
    num_clients: clients of each fleet.
  """
  total, cohort = sum(num_clients), config.cohort_size
  if len(num_clients) == 1 or not cohort:
    return [build_sampler(config, number) for number in num_clients]
  if not len(num_clients) <= cohort <= total:
    raise InputError(
      f'Expected {len(num_clients)} <= cohort_size <= {total}, a client of '
      f'each architecture at least, got cohort_size={cohort}.'
    )
  return [
    build_sampler(dataclasses.replace(config, cohort_size=size), number)
    for size, number in zip(
      _apportioned(cohort, num_clients), num_clients, strict=True
    )
  ]


def _apportioned(cohort: int, num_clients: Sequence[int]) -> list[int]:
  """Parts of a cohort in proportion, one client of each fleet at least."""
  shares = np.asarray(num_clients) * cohort / sum(num_clients)
  sizes = np.maximum(np.floor(shares), 1).astype(int)
  while sizes.sum() != cohort:  # by largest remainder
    step = np.sign(cohort - sizes.sum())
    may_move = sizes < num_clients if step > 0 else sizes > 1
    gain = np.where(may_move, step * (shares - sizes), -np.inf)
    sizes[gain.argmax()] += step
  return sizes.tolist()


def build_mapping(config: FederationConfig) -> Mapping:
  """The mapping that the configuration describes."""
  num_devices = config.num_devices or jax.device_count()
  is_cpu = jax.default_backend() == 'cpu' and jax.process_count() == 1
  if is_cpu and not config.num_devices:  # more than cores may be made up
    num_devices = min(num_devices, default_cpu_devices())
  mesh = clients_mesh(num_devices) if num_devices > 1 else None
  return Mapping(_block_size(config.block_size), mesh, config.reproducible)


def _block_size(text: str) -> int | str:
  """The text of a flag as `Mapping` takes it."""
  if text in ('auto', 'all'):
    return text
  if text.isdecimal() and int(text) > 0:
    return int(text)
  raise InputError(
    f'Expected block_size to be a number > 0, all or auto, got '
    f'block_size={text!r}.'
  )


def _needed(
  ids: np.ndarray | None, source: DataSource, partition: str, what: str
) -> np.ndarray:
  if ids is None:
    raise InputError(
      f'Expected data with {what} for partition={partition}, got '
      f'{source.name}, which has none.'
    )
  return ids
