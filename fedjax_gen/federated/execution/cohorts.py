"""Who takes part in a round, and what the engine knows about each client."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.errors import InputError
from fedjax_gen.federated import sampling
from fedjax_gen.federated.algorithm import (
  Algorithm,
  ClientInfo,
  ClientKeys,
)
from fedjax_gen.types import Array, Key

# Folded into a run's key where one key is given for everything.
_SHARED = 2**31 - 1


class Member(NamedTuple):
  """One client of a cohort, as the engine hands it to `lanes`."""

  info: ClientInfo
  slot: Array  # where the data set holds it; its row, if that is everyone's
  keys: ClientKeys


class RunKeys(NamedTuple):
  """The keys of a run; rounds fold in their number, and consume neither.

  Attributes:
    own: of what is each participant's alone: who is sampled, what clients and
      the server draw. Secret in a private run.
    shared: of what all may know.
  """

  own: Key
  shared: Key


def run_keys(key: Key | RunKeys) -> RunKeys:
  """The keys of a run that was given one for everything."""
  if isinstance(key, RunKeys):
    return key
  return RunKeys(key, jax.random.fold_in(key, _SHARED))


def client_keys(
  own: Key, shared: Key, round_number: Array | int, rows: Array
) -> ClientKeys:
  """The keys of a cohort's clients in one round, `[K]`.

  Args:
    own: of the fleet's clients in this round; see `round_keys`.
    shared: of the run.
    round_number: rounds done before this one.
    rows: `[K]` rows of the clients in their population. A client's key follows
      its row, and not its slot: who else was sampled changes nothing.
  """
  shared = jax.random.fold_in(shared, round_number)
  return ClientKeys(
    jax.vmap(jax.random.fold_in, (None, 0))(own, rows),
    jnp.broadcast_to(shared, rows.shape),
  )


def draw_cohorts(
  samplers: Sequence[sampling.Sampler],
  datasets: Sequence[FederatedDataset],
  key: Key | RunKeys,
  round_number: Array | int,
) -> tuple[sampling.Cohort, ...]:
  """Who takes part in a round, which does not depend on any before.

  Args:
    samplers: one for each fleet.
    datasets: the clients of each fleet; samplers read their sizes.
    key: the run's, not consumed.
    round_number: rounds done before this one.
  """
  own = run_keys(key).own
  _, sample_keys, _ = round_keys(own, round_number, len(datasets))
  return tuple(
    sampler(sample_key, data)
    for sampler, data, sample_key in zip(
      samplers, datasets, sample_keys, strict=True
    )
  )


def round_keys(key, round_number, num_fleets):
  """Keys of a round: the server's, each fleet's for sampling, for clients."""
  server_key, *fleet_keys = jax.random.split(
    jax.random.fold_in(key, round_number), 1 + num_fleets
  )
  sample_keys, client_keys = zip(
    *(jax.random.split(fleet_key) for fleet_key in fleet_keys), strict=True
  )
  return server_key, sample_keys, client_keys


def everyones_infos(
  data: FederatedDataset, rows: Array | None = None
) -> ClientInfo:
  """The infos of a data set's clients, all present, `[N]`.

  Args:
    data: the clients.
    rows: `[N]` their rows in a larger population that they were taken from.
  """
  everyone = sampling.everyone()(jax.random.key(0), data)
  found = infos(data, everyone, everyone.row)
  return found if rows is None else found._replace(row=rows)


def infos(
  data: FederatedDataset, cohort: sampling.Cohort, slots: Array
) -> ClientInfo:
  """The infos of a cohort, `[K]`; absent clients count and hold nothing."""
  return ClientInfo(
    row=cohort.row,
    group=data.groups[slots],
    num_examples=jnp.where(cohort.present, data.sizes[slots], 0),
    weight=jnp.where(cohort.present, cohort.weight, 0.0),
    present=cohort.present,
  )


def absent(members: Member) -> Member:
  """The same members, counting for nothing."""
  return members._replace(info=absent_infos(members.info))


def absent_infos(infos: ClientInfo) -> ClientInfo:
  """The same, of clients that are absent."""
  zero: Array = jnp.zeros_like(infos.num_examples)
  return infos._replace(
    num_examples=zero,
    weight=jnp.zeros_like(infos.weight),
    present=jnp.zeros_like(infos.present),
  )


def check_fleets(
  algorithm: Algorithm, datasets: Sequence[FederatedDataset]
) -> None:
  """Raises `InputError` unless there is one data set for each fleet."""
  if len(algorithm.fleets) != len(datasets):
    raise InputError(
      f'Expected one data set for each of {len(algorithm.fleets)} fleets, '
      f'got {len(datasets)}.'
    )
