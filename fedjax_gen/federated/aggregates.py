"""Linear aggregation: the server only ever sees sums.

An aggregate is split in two: `partial` turns the messages of any block of
clients into sums, `finish` turns the sums of the whole cohort into what the
server descends. Sums of blocks add up, so a cohort of any size runs in bounded
memory, spreads over devices with one `psum`, and could be summed securely.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_gen import trees, validate
from fedjax_gen.errors import InputError
from fedjax_gen.types import Array, Tree


class Aggregate(NamedTuple):
  """A linear aggregation rule.

  Attributes:
    partial: `(messages [K, ...], infos [K]) -> sums`, for any block.
    finish: `sums -> aggregated`; a sum to which nobody contributed gives zero.
    merge: `(sums, sums) -> sums`, joins the sums of two fleets. Within a fleet
      sums are simply added.
    reveals: why a sum shows single messages, for who would secure it; empty
      where it does not.
  """

  partial: Callable[[Tree, Tree], Tree]
  finish: Callable[[Tree], Tree]
  merge: Callable[[Tree, Tree], Tree] = trees.add
  reveals: str = ''


class _Weighted(NamedTuple):
  """A sum of weighted messages and the sum of their weights."""

  total: Tree
  weight: Array


class WeighedMean(NamedTuple):
  """A mean, and whether there was anyone to take it of.

  Attributes:
    mean: zero if there was not.
    weight: scalar, sum of the weights; zero if all were absent.
  """

  mean: Tree
  weight: Array


def weighted_mean(*, keep_weight: bool = False) -> Aggregate:
  """Mean weighted by `info.weight`, the number of examples unless sampled so.

  FedAvg's rule (McMahan et al., 2017, Algorithm 1). Zero if all are absent.

  Args:
    keep_weight: whether `finish` gives a `WeighedMean`, by which a server with
      a memory can tell a round without anyone from one that did not move.
  """
  rule = _mean(lambda info: info.weight)
  if not keep_weight:
    return rule

  def finish(sums):
    return WeighedMean(_divide(sums), sums.weight)

  return rule._replace(finish=finish)


def uniform_mean() -> Aggregate:
  """Mean over the clients that are present, each counting once."""
  return _mean(lambda info: info.present.astype(jnp.float32))


def total() -> Aggregate:
  """Sum over the clients that are present, for instance of statistics."""

  def partial(messages, infos):
    kept = trees.where(infos.present, messages, trees.zeros_like(messages))
    return jax.tree.map(lambda leaf: leaf.sum(axis=0, dtype=leaf.dtype), kept)

  return Aggregate(partial, lambda sums: sums)


def by_group(num_groups: int, *, keep_weight: bool = False) -> Aggregate:
  """Weighted mean within each group; leaves gain a leading `[G]` axis.

  A group without a participant gets zero, so that a server which descends the
  aggregate keeps what it had for that group.

  Args:
    num_groups: G; `info.group` lies in [0, G).
    keep_weight: whether `finish` gives `(means, weights [G])`, by which a
      server with a memory can tell a group that was not there from one that
      did not move.
  """
  validate.positive_int(num_groups=num_groups)

  def partial(messages, infos):
    weights = jax.nn.one_hot(infos.group, num_groups) * infos.weight[:, None]
    sums = jax.vmap(trees.weighted_sum, (None, 1))(messages, weights)
    return _Weighted(sums, weights.sum(axis=0))

  def finish(sums):
    return (_divide(sums), sums.weight) if keep_weight else _divide(sums)

  return Aggregate(partial, finish)


class Named(NamedTuple):
  """A message with its sender's name, for `by_client`.

  Attributes:
    client: int32 number of the client among those of all fleets.
    value: what it sends.
  """

  client: Array
  value: Tree


def by_client(num_clients: int) -> Aggregate:
  """Each client's message in a row of its own: leaves gain an `[N]` axis.

  A sum in form alone: THE SERVER SEES EVERY MESSAGE AND ITS SENDER, and a
  secure summation hides nothing. For servers that learn from what clients say
  one by one, as from points with labels.

  Returns:
    An aggregate of `Named` messages that gives `(values [N, ...], present
    [N])`; rows of clients that were away are zero.
  """
  validate.positive_int(num_clients=num_clients)

  def partial(messages, infos):
    def scatter(leaf):
      kept = trees.where(infos.present, leaf, jnp.zeros_like(leaf))
      empty = jnp.zeros((num_clients, *leaf.shape[1:]), leaf.dtype)
      return empty.at[messages.client].add(kept)

    present = scatter(infos.present.astype(jnp.float32))
    return jax.tree.map(scatter, messages.value), present

  return Aggregate(
    partial, lambda sums: sums, reveals='by_client: each message by itself'
  )


def by_module(aggregates: Mapping[str, Aggregate]) -> Aggregate:
  """Another rule for each top-level module of the message.

  Messages are mappings from module names; a fleet may send only some of the
  modules, and sums of fleets that send the same module are merged. This is
  how an encoder can be shared by fleets with decoders of their own.

  Returns:
    An aggregate; its result maps module names to aggregated modules.
  """
  rules = dict(aggregates)

  def partial(messages, infos):
    unknown = sorted(set(messages) - set(rules))
    if unknown:
      raise InputError(
        f'Expected messages to hold modules among {sorted(rules)}, got '
        f'{unknown}: no aggregation rule is given for it.'
      )
    return {
      name: rules[name].partial(message, infos)
      for name, message in messages.items()
    }

  def finish(sums):
    return {name: rules[name].finish(value) for name, value in sums.items()}

  def merge(left, right):
    merged = dict(left)
    for name, sums in right.items():
      known = name in left
      merged[name] = rules[name].merge(left[name], sums) if known else sums
    return merged

  reveals = next(filter(None, (rule.reveals for rule in rules.values())), '')
  return Aggregate(partial, finish, merge, reveals)


def _mean(weight_of: Callable[[Tree], Array]) -> Aggregate:
  """Mean with the weight that a function reads from the clients' infos."""

  def partial(messages, infos):
    # An absent client weighs nothing, whatever its message holds.
    weights = jnp.where(infos.present, weight_of(infos), 0.0)
    return _Weighted(trees.weighted_sum(messages, weights), weights.sum())

  return Aggregate(partial, _divide)


def _divide(sums: _Weighted) -> Tree:
  """Total over weight; zero where there is no weight."""
  empty = sums.weight == 0
  scale = jnp.where(empty, 0.0, 1.0 / jnp.where(empty, 1.0, sums.weight))

  def divide(leaf):
    shape = scale.shape + (1,) * (leaf.ndim - scale.ndim)
    return leaf * scale.reshape(shape).astype(leaf.dtype)

  return jax.tree.map(divide, sums.total)
