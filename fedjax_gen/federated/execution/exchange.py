"""Moves client-state rows to the device that needs them.

Device d of D holds the rows `[d n, (d + 1) n)`. Cohort members are assigned to
devices by their place in the cohort, so a member's row may lie elsewhere. Every
device knows who needs which row, and sends each other device the rows that it
needs, a few at a time, until none is missing. Rows that are already in place do
not travel. Nothing is added: the bits stay as they are.

Written for one device, inside `shard_map`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.federated.mapping import AXIS
from fedjax_gen.types import Array, Tree

_PIECES = 4  # of a device's share in flight at once: a quarter


class Exchange(NamedTuple):
  """Which rows a device needs from the others; the same on all devices.

  Attributes:
    rows: `[D, k]` rows that each device needs, N or more where it needs none.
    by_owner: `[D, k]` places in `rows`, ordered by the device that holds them.
    starts: `[D, D + 1]` where in `by_owner` the places of each holder begin.
    num_rows: n, rows that a device holds (static).
    piece: rows that one device sends another at a time (static).
    num_pieces: how many times they do; 0 if every row is where it is needed.
  """

  rows: Array
  by_owner: Array
  starts: Array
  num_rows: int
  piece: int
  num_pieces: Array


def at_home(
  rows: Array | np.ndarray, num_devices: int, population: int
) -> np.ndarray | None:
  """Rows as devices number their own, if it is known that none has to move.

  Args:
    rows: `[D k]` the rows that devices need, each k of them. They are known
      where they are NumPy's; `population` or more where none is needed.
    num_devices: D.
    population: N, rows of all devices.

  Returns:
    `[D k]`, rows beyond the population as they were; None if it is not so.
  """
  if not isinstance(rows, np.ndarray):
    return None
  wanted = rows.reshape(num_devices, -1)
  owner, own = np.divmod(wanted, population // num_devices)
  is_none = wanted >= population
  if not (is_none | (owner == np.arange(num_devices)[:, None])).all():
    return None
  return np.where(is_none, wanted, own).reshape(-1)


def plan(rows: Array, num_devices: int, population: int) -> Exchange:
  """Plans an exchange; arguments as of `at_home`, rows known or not."""
  wanted = jnp.reshape(rows, (num_devices, -1))
  num_rows = population // num_devices
  owner = jnp.minimum(wanted // num_rows, num_devices)
  by_owner = jnp.argsort(owner, axis=1)
  starts = jax.vmap(
    lambda of: jnp.searchsorted(of, jnp.arange(num_devices + 1))
  )(jnp.take_along_axis(owner, by_owner, axis=1))
  away = jnp.diff(starts, axis=1) * (1 - jnp.eye(num_devices, dtype=int))
  piece = -(-wanted.shape[1] // (_PIECES * num_devices))
  return Exchange(
    wanted, by_owner, starts, num_rows, piece, -(-away.max() // piece)
  )


def fetch(exchange: Exchange, population: Tree) -> Tree:
  """The rows that this device needs.

  Args:
    exchange: of all devices.
    population: rows of this device, leaves `[n, ...]`.

  Returns:
    Leaves `[k, ...]` in the order of its part of `exchange.rows`; anything
    where it needs none.
  """
  device = jax.lax.axis_index(AXIS)

  def receive(number, needed):
    places = _places(exchange, number)
    sent = _own_rows(exchange, places[:, device])

    def of_leaf(needed, leaf):
      received = _swapped(leaf.at[sent].get(mode='clip'))
      return needed.at[places[device]].set(received, mode='drop')

    return jax.tree.map(of_leaf, needed, population)

  here = _local(exchange, exchange.rows[device])
  needed = jax.tree.map(lambda leaf: leaf.at[here].get(mode='clip'), population)
  return jax.lax.fori_loop(0, exchange.num_pieces, receive, needed)


def give_back(exchange: Exchange, population: Tree, needed: Tree) -> Tree:
  """The population of this device with all rows replaced that were fetched.

  Args:
    exchange: of all devices.
    population: rows of this device, leaves `[n, ...]`.
    needed: what `fetch` returned, changed.
  """
  device = jax.lax.axis_index(AXIS)

  def receive(number, population):
    places = _places(exchange, number)
    kept = _own_rows(exchange, places[:, device])

    def of_leaf(leaf, needed):
      received = _swapped(needed.at[places[device]].get(mode='clip'))
      return leaf.at[kept].set(received, mode='drop')

    return jax.tree.map(of_leaf, population, needed)

  here = _local(exchange, exchange.rows[device])
  population = jax.tree.map(
    lambda leaf, rows: leaf.at[here].set(rows, mode='drop'), population, needed
  )
  return jax.lax.fori_loop(0, exchange.num_pieces, receive, population)


def _places(exchange: Exchange, number: Array) -> Array:
  """`[D, D, piece]` places of each that each holder serves next; k if none."""
  offsets = number * exchange.piece + jnp.arange(exchange.piece)
  places = exchange.starts[:, :-1, None] + offsets[None, None]
  is_one = places < exchange.starts[:, 1:, None]
  k = exchange.rows.shape[1]
  found = jax.vmap(lambda order, at: order[at])(
    exchange.by_owner, jnp.minimum(places, k - 1)
  )
  return jnp.where(is_one, found, k)


def _own_rows(exchange: Exchange, places: Array) -> Array:
  """`[D, piece]` rows of this device that are at others' `places`."""
  k = exchange.rows.shape[1]
  rows = jnp.take_along_axis(exchange.rows, jnp.minimum(places, k - 1), axis=1)
  return _local(
    exchange, jnp.where(places < k, rows, jnp.iinfo(rows.dtype).max)
  )


def _local(exchange: Exchange, rows: Array) -> Array:
  """Rows as this device numbers its own; n for those of others."""
  own = rows - jax.lax.axis_index(AXIS) * exchange.num_rows
  is_own = (own >= 0) & (own < exchange.num_rows)
  return jnp.where(is_own, own, exchange.num_rows)


def _swapped(leaf: Array) -> Array:
  """`[D, piece, ...]`, item d to device d and in its place what d sent."""
  return jax.lax.all_to_all(leaf, AXIS, 0, 0, tiled=True)
