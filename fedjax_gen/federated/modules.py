"""Models with modules that all clients share, and modules that groups share.

Aggregation by module. The server holds one copy of a shared module, and a stack
of copies of a module that each group has for itself. A client receives the
copies of its group and never learns of the others.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen import trees
from fedjax_gen.federated import aggregates, servers
from fedjax_gen.federated.aggregates import Aggregate
from fedjax_gen.federated.algorithm import ClientInfo, ServerProgram
from fedjax_gen.federated.servers import LearnedServer
from fedjax_gen.types import Array, Key, Tree


class Module(NamedTuple):
  """A part of the model and who shares it.

  Attributes:
    init: `key -> variables`; of a module of groups, with a leading axis, one
      row for each of `groups`.
    groups: the groups that have a copy each; None for one copy for all.
  """

  init: Callable[[Key], Tree]
  groups: tuple[int, ...] | None = None


class ModularServer(NamedTuple):
  """State of `modular_server`.

  Attributes:
    modules: by name; leaves of a module of groups have a leading axis.
    round: int32 scalar, rounds done.
  """

  modules: dict[str, LearnedServer]
  round: Array


def modular_server(
  modules: Mapping[str, Module],
  optimizer: optax.GradientTransformation,
  average: float = 0.0,
) -> ServerProgram:
  """A server that descends every module's mean over those who share it.

  Messages map names of modules to differences, view minus trained; a fleet
  sends those modules that its clients have. The copy of a group without a
  participant stays as it is, momentum and all, and so does a shared module in
  a round without anyone.

  Args:
    modules: what there is to learn.
    optimizer: descends each copy of each module on its own.
    average: of each copy over rounds, see `servers.learned_server`.

  Raises:
    InputError: `average` is not in [0, 1).
  """
  parts = {
    name: servers.learned_server(
      module.init, _aggregate(module), optimizer, average
    )
    for name, module in modules.items()
  }

  def init(key):
    return ModularServer(
      {
        # Every copy has an optimizer of its own.
        name: parts[name].init(key)
        if module.groups is None
        else _init_copies(module, optimizer, average, key)
        for name, module in modules.items()
      },
      jnp.zeros((), jnp.int32),
    )

  def update(server, aggregated, key):
    moved, norms = {}, []
    for name, module in modules.items():
      before = server.modules[name]
      if module.groups is None:
        moved[name], metrics = parts[name].update(before, aggregated[name], key)
      else:
        means, weights = aggregated[name]
        after, metrics = jax.vmap(parts[name].update, (0, 0, None))(
          before, means, key
        )
        present = weights > 0
        moved[name] = trees.where(present, after, before)
        metrics = trees.where(present, metrics, trees.zeros_like(metrics))
      norms.append(optax.tree.norm(metrics['update_norm']))
    # The norm of all that moved.
    norm = optax.tree.norm(norms)
    return ModularServer(moved, server.round + 1), {'update_norm': norm}

  aggregate = aggregates.by_module(
    {name: part.aggregate for name, part in parts.items()}
  )
  return ServerProgram(init, aggregate, update)


def summed(
  modules: Mapping[str, Module], denominators: Mapping[str, Array | float]
) -> Aggregate:
  """Sums over those who share a module, everyone counting once, over constants.

  Not a mean: what a message adds does not depend on who else is there, and the
  result does not tell how many there were. Of a module of groups it has the
  form that `modular_server` takes, with a weight of one for every group: all
  copies move, whether anyone of their group was there or not.

  Args:
    modules: as for `modular_server`.
    denominators: of each module; of one of groups `[groups]`, for each copy.
  """

  def rule(module, denominator):
    scale = 1.0 / jnp.asarray(denominator, jnp.float32)

    def partial(messages, infos):
      present = infos.present.astype(jnp.float32)
      if module.groups is None:
        return trees.weighted_sum(messages, present)
      slots = _slots(module.groups)[infos.group]
      weights = jax.nn.one_hot(slots, len(module.groups)) * present[:, None]
      return jax.vmap(trees.weighted_sum, (None, 1))(messages, weights)

    def finish(sums):
      if module.groups is None:
        return jax.tree.map(lambda leaf: leaf * scale, sums)
      divided = jax.tree.map(
        lambda leaf: leaf * scale.reshape(-1, *[1] * (leaf.ndim - 1)), sums
      )
      return divided, jnp.ones(len(module.groups))

    return Aggregate(partial, finish)

  return aggregates.by_module(
    {name: rule(module, denominators[name]) for name, module in modules.items()}
  )


def view(
  modules: Mapping[str, Module], server: ModularServer, info: ClientInfo
) -> dict[str, Tree]:
  """The modules as one client receives them: of each, the copy that is its."""
  return {
    name: _copy(module, server.modules[name].variables, info.group)
    for name, module in modules.items()
  }


def copy_of(module: Module, variables: Tree, group: int) -> Tree:
  """The copy of a module that a group uses."""
  return _copy(module, variables, jnp.asarray(group))


def _copy(module: Module, variables: Tree, group: Array) -> Tree:
  if module.groups is None:
    return variables
  return trees.take(variables, _slots(module.groups)[group])


def _slots(groups: tuple[int, ...]) -> Array:
  """`[G]` row of each group's copy; only for groups that have one."""
  slots = np.zeros(max(groups) + 1, np.int32)
  slots[list(groups)] = np.arange(len(groups))
  return jnp.asarray(slots)


def _aggregate(module: Module) -> Aggregate:
  groups = module.groups
  if groups is None:
    return aggregates.weighted_mean(keep_weight=True)
  rule = aggregates.by_group(len(groups), keep_weight=True)

  def partial(messages, infos):
    slots = _slots(groups)[infos.group]
    return rule.partial(messages, infos._replace(group=slots))

  return rule._replace(partial=partial)


def _init_copies(
  module: Module,
  optimizer: optax.GradientTransformation,
  average: float,
  key: Key,
) -> LearnedServer:
  """Copies with an optimizer state each."""

  def init_one(variables):
    rule = aggregates.weighted_mean()
    return servers.learned_server(
      lambda _: variables, rule, optimizer, average
    ).init(key)

  return jax.vmap(init_one)(module.init(key))
