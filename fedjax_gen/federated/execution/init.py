"""The state before the first round."""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp

from fedjax_gen import trees
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.federated import aggregates
from fedjax_gen.federated.algorithm import (
  Algorithm,
  ClientInfo,
  ClientProgram,
  FederatedState,
)
from fedjax_gen.federated.execution import cohorts, placement
from fedjax_gen.federated.execution.lanes import Work, map_clients
from fedjax_gen.federated.mapping import Mapping
from fedjax_gen.types import Key, Tree


def init_state(
  algorithm: Algorithm,
  datasets: Sequence[FederatedDataset],
  key: Key,
  mapping: Mapping = Mapping(),
) -> FederatedState:
  """The state before the first round.

  Args:
    algorithm: the algorithm.
    datasets: the clients of each fleet.
    key: consumed.
    mapping: of the rounds to come. With a mesh every device begins the clients
      that it will hold; without, `round_runner` has to move them there.
  """
  cohorts.check_fleets(algorithm, datasets)
  datasets, key = placement.place((tuple(datasets), key), mapping)
  init = functools.partial(_init, algorithm, mapping)
  shardings = None
  if mapping.mesh is not None:
    shapes = jax.eval_shape(init, datasets, key)
    shardings = placement.state_shardings(shapes, mapping)
  # Compiled as one: an initialiser is dozens of small programs otherwise.
  return jax.jit(init, out_shardings=shardings)(datasets, key)


def _init(algorithm, mapping, datasets, key):
  server_key, *fleet_keys = init_keys(key, len(datasets))
  fleets = tuple(
    _init_fleet(mapping, program, data, fleet_key)
    for program, data, fleet_key in zip(
      algorithm.fleets, datasets, fleet_keys, strict=True
    )
  )
  server = algorithm.server.init(server_key)
  return FederatedState(jnp.zeros((), jnp.int32), server, fleets)


def _init_fleet(mapping, program, data, key):
  # One client after the other: what mapped initialisers draw is alive for all
  # of them, and can exceed what they return.
  infos = cohorts.everyones_infos(data)
  if mapping.mesh is None:
    return jax.lax.map(functools.partial(init_client, program, key), infos)

  def begin(key, info):
    return (), info, init_client(program, key, info)

  def skip(key, info):
    return (), info, trees.zeros_like(jax.eval_shape(begin, key, info)[2])

  _, clients = map_clients(
    Mapping(1, mapping.mesh),
    aggregates.total(),
    Work(begin, skip, lambda info: info.present, cohorts.absent_infos),
    key,
    infos,
  )
  return clients


def init_keys(key: Key, num_fleets: int) -> Key:
  """Keys of `init_state`, `[1 + num_fleets]`: the server's, each fleet's."""
  return jax.random.split(key, 1 + num_fleets)


def init_client(program: ClientProgram, key: Key, info: ClientInfo) -> Tree:
  """What ONE client keeps before its first round, by its fleet's key."""
  return program.init(jax.random.fold_in(key, info.row), info)
