"""Client-level privacy for models in modules that circles of clients share."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fedjax_gen import trees, validate
from fedjax_gen.federated import modules as modules_lib
from fedjax_gen.federated.algorithm import ServerProgram
from fedjax_gen.federated.modules import Module
from fedjax_gen.privacy import clipping, noise
from fedjax_gen.types import Array


def private_server(
  server: ServerProgram,
  modules: Mapping[str, Module],
  *,
  max_norm: float,
  noise_multiplier: float,
  denominators: Mapping[str, Array | float],
) -> ServerProgram:
  """A modular server that sees noised sums of clipped messages alone.

  `noise.private_server` for `modules.modular_server`. A client's message is
  clipped as a whole, all its modules together, so that of everything the
  server sees, sums of groups included, one client moves at most `max_norm`.
  A copy of a group with all clients away is given noise and moves, as
  any other does: who was there is data.

  Guarantees:
    Released: in each round the sum of the messages by module and by copy, with
      N(0, (noise_multiplier * max_norm)^2) on every value of each, over
      constants; the server's state is made from that.
    Neighbouring: one client added or removed, with all its data; its
      group is public.
    Sensitivity: `max_norm`, of all sums together. Charge as for
      `noise.private_server`.

  Args:
    server: made by `modules.modular_server`; its aggregate is replaced.
    modules: what it was made of.
    max_norm: C, of a client's whole message.
    noise_multiplier: the noise's standard deviation over C, on the sums.
    denominators: as for `modules.summed`; clients expected in a round, known
      before it.
  """
  validate.positive(max_norm=max_norm)
  validate.non_negative(noise_multiplier=noise_multiplier)
  summed = modules_lib.summed(modules, denominators)

  def partial(messages, infos):
    clipped = jax.vmap(lambda m: clipping.clip(m, max_norm)[0])(messages)
    return summed.partial(clipped, infos)

  def noised(name, value, key):
    stddev = noise_multiplier * max_norm / jnp.asarray(denominators[name])
    if modules[name].groups is None:
      return trees.add(value, noise.gaussian(key, value, stddev))
    means, weights = value
    drawn = jax.tree.map(
      lambda leaf: leaf * stddev.reshape(-1, *[1] * (leaf.ndim - 1)),
      noise.gaussian(key, means, 1.0),
    )
    return trees.add(means, drawn), weights

  def update(state, aggregated, key):
    noise_key, server_key = jax.random.split(key)
    names = sorted(modules)
    keys = dict(
      zip(names, jax.random.split(noise_key, len(names)), strict=True)
    )
    received = {
      name: noised(name, aggregated[name], keys[name]) for name in names
    }
    return server.update(state, received, server_key)

  return ServerProgram(server.init, summed._replace(partial=partial), update)
