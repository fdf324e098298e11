"""Who holds what in a run over groups, and the group of each client."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from fedjax_gen.algorithms.discovery import DiscoveryConfig
from fedjax_gen.data.sources import DataSource
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import groups as groups_lib
from fedjax_gen.federation import Federation, FederationConfig
from fedjax_gen.privacy.plan import PrivacyConfig
from fedjax_gen.studies.fissionvae import fission_discovery
from fedjax_gen.studies.options import PopulationConfig


def check_population(
  population: PopulationConfig, discovery: DiscoveryConfig, num_processes: int
) -> None:
  """Checks that the population may lie where it is asked to.

  Raises:
    InputError: several processes would write its files, or groups are to be
      found of clients on the host.
  """
  population.check(num_processes)
  if population.population_on_host and discovery.groups != 'given':
    raise InputError(
      "Expected groups='given' with population_on_host=true, got "
      f'groups={discovery.groups!r}: to find groups all clients are asked at '
      'once, with the examples of all on the device.'
    )


def check_privacy(privacy: PrivacyConfig, discovery: DiscoveryConfig) -> None:
  """Checks that private clients need not reveal their group."""
  if privacy.is_private and discovery.groups != 'given':
    raise InputError(
      "Expected groups='given' where there is privacy, got "
      f'groups={discovery.groups!r}: to be put in a group every client would '
      'send a statistic of its data without noise.'
    )


def grouped(source: DataSource) -> DataSource:
  """A source with groups: its own, or else each client that it names."""
  if source.train.groups is not None or not source.names_clients:
    return source
  train, test = (
    part._replace(groups=part.users) for part in (source.train, source.test)
  )
  return dataclasses.replace(
    source,
    train=train,
    test=test,
    group_names=source.user_names,
    notes=(*source.notes, 'each client is a group of its own'),
  )


def dealt(
  config: FederationConfig, source: DataSource, asked: DataSource
) -> FederationConfig:
  """How examples are dealt: clients that are groups are the clients.

  Args:
    config: of the command line.
    source: with groups.
    asked: as it was read.
  """
  is_made_up = config.clients_per_group or config.group_alpha
  if asked.train.groups is not None or is_made_up:
    return config
  if config.partition != 'groups':
    return config
  return dataclasses.replace(config, partition='auto')


def check_source(source: DataSource) -> None:
  """Checks that there are examples of every group in both splits."""
  if source.train.groups is None or not source.kind.picture:
    raise InputError(
      'Expected images, series or a table with groups: groups:PATH, '
      'digits_and_shapes, mixed_mnist or charm_proxy; a table with '
      'group_column, or data that name their clients, each of them a group; '
      f'got data={source.name!r}.'
    )
  for split, part in (('training', source.train), ('held-out', source.test)):
    for group, name in enumerate(source.group_names):
      if part.groups is None or not (part.groups == group).any():
        raise InputError(
          f'Expected {split} examples of every group of {source.name}, got '
          f'none of {name!r}; test_fraction says how many are held out where '
          'the data have no test split.'
        )


def with_true_groups(
  federation: Federation, source: DataSource, *, may_mix: bool
) -> Federation:
  """The federation, every client in the group that most of its images are of.

  Args:
    federation: who holds what.
    source: the data.
    may_mix: whether a client may hold images of several groups.
  """
  groups: Any = fission_discovery.client_groups(
    federation.partition,
    groups_lib.groups_of(source, 'train'),
    may_mix=may_mix,
  )
  data = federation.data
  if not data.is_on_host:
    groups = jnp.asarray(groups)
  return federation._replace(data=dataclasses.replace(data, groups=groups))


def check_clients(source: DataSource, federation: Federation) -> None:
  """Checks that every group has a client.

  Raises:
    InputError: one has none.
  """
  client_groups = np.asarray(federation.data.groups)
  for group, name in enumerate(source.group_names):
    if group not in client_groups:
      raise InputError(
        f'Expected clients of every group of {source.name}, got a partition '
        f'with none of {name!r}.'
      )
