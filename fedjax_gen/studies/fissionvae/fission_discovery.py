"""Discovering groups of clients: warm up, ask, cluster.

Clients that join later are simulated by clients that take no part before; their
groups are found with what the others computed.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import keys
from fedjax_gen.algorithms import discovery as discovery_lib
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.errors import InputError
from fedjax_gen.federated import collect, local
from fedjax_gen.federated.statistics import grouping as grouping_lib
from fedjax_gen.models.vae import build_vae
from fedjax_gen.running.saves import saving
from fedjax_gen.running.storage import groupings
from fedjax_gen.running.storage.workdir import Workdir
from fedjax_gen.running.training import TrainResult
from fedjax_gen.studies.fissionvae import fission_methods
from fedjax_gen.studies.fissionvae.fission_methods import GroupMethod
from fedjax_gen.types import Variables


class DiscoveryResult(NamedTuple):
  """What discovery found, next to the truth.

  Attributes:
    groups: `[N]` found group of each client, in [0, num_groups).
    true: `[N]` its true group.
    accuracy: share of clients in their own group under the best one-to-one
      naming of the groups found.
    adjusted_rand_index: agreement of pairs of clients, 0 by chance.
    num_groups: groups found.
    bytes_per_client: what each client sent, once.
    warmup_rounds: of FedVAE before that.
    newcomers: clients that joined after training.
    newcomer_accuracy: share of them that found the group that most clients
      of their true group are in; 0 without newcomers.
  """

  groups: np.ndarray
  true: np.ndarray
  accuracy: float
  adjusted_rand_index: float
  num_groups: int
  bytes_per_client: int
  warmup_rounds: int
  newcomers: int = 0
  newcomer_accuracy: float = 0.0


def discover(
  config: discovery_lib.DiscoveryConfig,
  setting: fission_methods.Setting,
  train: Callable[[str, GroupMethod], TrainResult],
  workdir: Workdir,
) -> tuple[fission_methods.Setting, DiscoveryResult]:
  """Warms a FedVAE up, clusters the clients, and lets newcomers find theirs.

  Writes the warmed-up model and `grouping.npz`, all that a client that joins
  later needs.

  Returns:
    The setting with the groups found in place of the true ones, without the
    newcomers; and how well they agree.

  Raises:
    InputError: more groups are asked for than there are clients.
  """
  everyone = setting.federation.data
  members, newcomers = _split(everyone.num_clients, config.num_newcomers)
  setting = _of_members(config, setting)
  model = _warmed_up(config, setting, train)
  ask, num_bytes = _asking(config, setting, model, everyone)
  statistics = ask(members)
  grouping = grouping_lib.discover(
    statistics.values,
    config.num_groups or None,
    errors=statistics.errors,
    num_examples=np.asarray(setting.federation.data.sizes),
    seed=setting.seed,
  )
  if workdir.is_writer:
    saving.save_model(
      workdir.path, 'warmup', setting.vae_config(), setting.source, model
    )
    groupings.save_grouping(workdir.path / 'grouping.npz', grouping)
  true, found = np.asarray(setting.federation.data.groups), grouping.groups
  num_true = len(setting.source.group_names)
  model_of_group = _most_clients(true, found, num_true, grouping.num_groups)
  newcomer_accuracy = 0.0
  if newcomers.size:
    assigned = grouping_lib.assign(grouping, ask(newcomers).values)
    own = model_of_group[np.asarray(everyone.groups)[newcomers]]
    newcomer_accuracy = float(np.mean(assigned == own))
  agreement = grouping_lib.agreement(found, true)
  return _with_groups(setting, grouping, model_of_group), DiscoveryResult(
    found,
    true,
    agreement.accuracy,
    agreement.adjusted_rand_index,
    grouping.num_groups,
    num_bytes,
    config.warmup_rounds,
    newcomers.size,
    newcomer_accuracy,
  )


def _warmed_up(
  config: discovery_lib.DiscoveryConfig,
  setting: fission_methods.Setting,
  train: Callable[[str, GroupMethod], TrainResult],
) -> Variables:
  """A FedVAE after a few rounds, by which clients are told apart."""
  warmup = dataclasses.replace(
    fission_methods.build_method('FedVAE', setting), rounds=config.warmup_rounds
  )
  return warmup.trained(train('warmup', warmup).state)[0]


def _asking(
  config: discovery_lib.DiscoveryConfig,
  setting: fission_methods.Setting,
  model: Variables,
  everyone: FederatedDataset,
) -> tuple[Callable[[np.ndarray], Any], int]:
  """How clients are asked for their statistics, and the bytes that each sends.

  The function takes numbers of clients among `everyone`, newcomers included.
  """
  training_config = setting.fissionvae
  report = discovery_lib.statistic_report(
    config,
    build_vae(setting.vae_config(), setting.spec),
    training_config.optimizer(),
    local.local_work(training_config.local_epochs, training_config.batch_size),
  )
  key = keys.derive(setting.seed, 'discovery')

  def ask(rows):
    return jax.device_get(
      collect.collect(
        report,
        model,
        everyone,
        key,
        rows=rows,
        mapping=setting.federation.mapping,
      )
    )

  return ask, collect.collect_bytes(report, model, everyone)


def _most_clients(
  true: np.ndarray, found: np.ndarray, num_true: int, num_found: int
) -> np.ndarray:
  """`[G]` the found group that most clients of each true group are in.

  It is asked for images of the true group.
  """
  counts = np.zeros((num_true, num_found), int)
  np.add.at(counts, (true, found), 1)
  return counts.argmax(axis=1)


def _with_groups(
  setting: fission_methods.Setting,
  grouping: grouping_lib.Grouping,
  model_of_group: np.ndarray,
) -> fission_methods.Setting:
  """The setting with the groups found in place of the true ones."""
  groups = jnp.asarray(grouping.groups, jnp.int32)
  data = dataclasses.replace(setting.federation.data, groups=groups)
  return setting._replace(
    federation=setting.federation._replace(data=data),
    num_groups=grouping.num_groups,
    model_of_group=model_of_group.tolist(),
  )


def rehearsal(
  config: discovery_lib.DiscoveryConfig, setting: fission_methods.Setting
) -> fission_methods.Setting:
  """A setting like the one that discovery will lead to, with made-up groups.

  To build what will be trained before anything is computed or written.

  Raises:
    InputError: there are too few clients for the newcomers or the groups.
  """
  setting = _of_members(config, setting)
  data = setting.federation.data
  num_groups = config.num_groups or setting.num_groups
  if num_groups > data.num_clients:
    raise InputError(
      f'Expected num_groups <= {data.num_clients}, the clients that are there '
      f'from the start, got num_groups={num_groups}.'
    )
  groups = jnp.arange(data.num_clients, dtype=jnp.int32) % num_groups
  data = dataclasses.replace(data, groups=groups)
  return setting._replace(
    federation=setting.federation._replace(data=data),
    num_groups=num_groups,
    model_of_group=[g % num_groups for g in setting.model_of_group],
  )


def _of_members(
  config: discovery_lib.DiscoveryConfig, setting: fission_methods.Setting
) -> fission_methods.Setting:
  """The setting without the newcomers."""
  data = setting.federation.data
  members, _ = _split(data.num_clients, config.num_newcomers)
  federation = setting.federation._replace(data=data.select(members))
  return setting._replace(federation=federation)


def client_groups(
  partition: Partition, groups: np.ndarray, *, may_mix: bool
) -> np.ndarray:
  """`[N]` group that most examples of each client are of.

  Args:
    partition: who holds what.
    groups: `[n]` group of each example.
    may_mix: whether a client may hold images of several groups.
  """
  counts = np.zeros((partition.num_clients, groups.max() + 1), int)
  clients = np.repeat(np.arange(partition.num_clients), partition.sizes)
  np.add.at(counts, (clients, groups[partition.order]), 1)
  mixed = np.flatnonzero((counts > 0).sum(axis=1) > 1)
  if mixed.size and not may_mix:
    raise InputError(
      'Expected clients with images of one group each, got client '
      f'{mixed[0]} with images of several: use --partition=groups, or '
      '--groups=discovered.'
    )
  return counts.argmax(axis=1).astype(np.int32)


def _split(num_clients: int, num_newcomers: int) -> tuple:
  """Clients that are there from the start, and those that join later.

  Raises:
    InputError: all would be newcomers.
  """
  if num_newcomers >= num_clients:
    raise InputError(
      f'Expected num_newcomers < {num_clients}, the number of clients, got '
      f'num_newcomers={num_newcomers}.'
    )
  # Spread over the clients, which are in the order of their groups.
  places = (np.arange(num_newcomers) + 0.5) * num_clients / (num_newcomers or 1)
  newcomers = places.astype(int)
  return np.setdiff1d(np.arange(num_clients), newcomers), newcomers
