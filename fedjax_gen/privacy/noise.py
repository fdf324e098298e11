"""Gaussian noise, and who adds it.

Noise goes on the sum, never on the mean: a sum of contributions that are
clipped to C changes by at most C, so noise of standard deviation
`noise_multiplier * C` on it is the Gaussian mechanism, and dividing by a fixed
number afterwards costs nothing.

Who knows the key subtracts the noise. A guarantee needs a key of
`secret_keys.Secrets.key`; with one of `jax.random.key(seed)` it is nominal.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees, validate
from fedjax_gen.errors import InputError
from fedjax_gen.federated.aggregates import Aggregate
from fedjax_gen.federated.algorithm import Algorithm, ServerProgram
from fedjax_gen.privacy import clipping, secret_keys
from fedjax_gen.privacy.plan import Plan
from fedjax_gen.types import Array, Key, Tree

PLACEMENTS = ('server', 'distributed', 'local')


def gaussian(key: Key, tree: Tree, stddev: float | Array) -> Tree:
  """Independent N(0, stddev^2) in the shapes of a tree, float32.

  One draw, shared out to the leaves in their order: a draw for each leaf would
  be compiled for each.

  Guarantees:
    Released: nothing; independent of the tree's values. Support and key
      material are those of `secret_keys.normal`.

  Args:
    key: consumed; secret where a guarantee is to hold.
    tree: arrays or their structs; only shapes are read.
    stddev: zero or above.
  """
  if not isinstance(stddev, jax.Array):
    validate.non_negative(stddev=stddev)
  leaves, structure = jax.tree.flatten(tree)
  sizes = [math.prod(leaf.shape) for leaf in leaves]
  drawn = stddev * secret_keys.normal(key, sum(sizes))
  parts = jnp.split(drawn, np.cumsum(sizes)[:-1]) if leaves else []
  shaped = [
    part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)
  ]
  return jax.tree.unflatten(structure, shaped)


def noisy_sum(
  key: Key, total: Tree, *, max_norm: float | Array, noise_multiplier: float
) -> Tree:
  """The Gaussian mechanism on a sum of clipped contributions.

  Guarantees:
    Released: the sum, with N(0, (noise_multiplier * max_norm)^2) on every
      value.
    Neighbouring: one contribution (record or client) added or removed.
    Sensitivity: `max_norm`, which must be what the contributions were clipped
      to. Charge `events.gaussian(noise_multiplier)`, or with Poisson-sampled
      contributions the sampled event.

  Args:
    key: consumed; one draw must serve one sum only.
    total: the sum, for instance `clipping.clipped_sum(...).total`.
    max_norm: C.
    noise_multiplier: the noise's standard deviation over C; 0 adds none, and
      is charged as infinity.
  """
  validate.non_negative(noise_multiplier=noise_multiplier)
  noise = gaussian(key, total, jnp.asarray(noise_multiplier * max_norm))
  return trees.add(total, noise)


def noisy_mean(
  key: Key,
  total: Tree,
  *,
  max_norm: float | Array,
  noise_multiplier: float,
  expected_size: float | Array,
) -> Tree:
  """`noisy_sum` over the expected number of contributions.

  Guarantees:
    Released: the noised sum divided by a constant, which is post-processing:
      as `noisy_sum`. The mean's noise is `noise_multiplier * max_norm /
      expected_size`. The number that was drawn is data; it is not used.

  Args:
    key: consumed.
    total: the sum.
    max_norm: C.
    noise_multiplier: the noise's standard deviation over C, on the sum.
    expected_size: sampling probability times number of records or clients,
      taken as public and the same for neighbouring data.
  """
  if not isinstance(expected_size, jax.Array):
    validate.positive(expected_size=expected_size)
  noised = noisy_sum(
    key, total, max_norm=max_norm, noise_multiplier=noise_multiplier
  )
  return jax.tree.map(lambda leaf: leaf / expected_size, noised)


def private_server(
  server: ServerProgram,
  *,
  max_norm: float,
  noise_multiplier: float,
  expected_cohort: float,
) -> ServerProgram:
  """A server that sees noised sums of clipped messages alone.

  Client-level privacy (McMahan et al., "Learning differentially private
  recurrent language models", 2018): the aggregate becomes
  `clipping.clipped_messages`, and the server's update is given it with noise.
  What clients compute, and how often they read a record, does not matter;
  what they keep is outside the guarantee as long as it stays with them.
  Running statistics in the message are clipped and noised with the rest.

  Guarantees:
    Released: in each round, the sum of messages with
      N(0, (noise_multiplier * max_norm)^2), over `expected_cohort`; the
      server's state is made from that.
    Neighbouring: one client added or removed, with all its data.
    Sensitivity: `max_norm`. Charge one event a round, not one a local step:
      `events.poisson_gaussian` with `federated.sampling.poisson` that has
      room for all clients, `events.truncated_poisson_gaussian` if its
      capacity is smaller, `events.gaussian` with any other sampler.

  Args:
    server: its own aggregate is replaced; its update takes a tree like one
      message, as `servers.learned_server` does.
    max_norm: C, of a client's whole message.
    noise_multiplier: the noise's standard deviation over C, on the sum.
    expected_cohort: sampling rate times population.
  """
  validate.non_negative(noise_multiplier=noise_multiplier)
  aggregate = clipping.clipped_messages(max_norm, expected_cohort)
  stddev = noise_multiplier * max_norm / expected_cohort

  def update(state, aggregated, key):
    noise_key, server_key = jax.random.split(key)
    noise = gaussian(noise_key, aggregated, stddev)
    return server.update(state, trees.add(aggregated, noise), server_key)

  return ServerProgram(server.init, aggregate, update)


def with_private_server(algorithm: Algorithm, plan: Plan) -> Algorithm:
  """An algorithm with a `private_server`, as a plan has it.

  Guarantees:
    Those of `private_server`, with the plan's norm, noise and denominator.

  Args:
    algorithm: its aggregate is a tree like one message.
    plan: made by `plan.client_plan`.
  """
  server = private_server(
    algorithm.server,
    max_norm=plan.max_norm,
    noise_multiplier=plan.noise_multiplier,
    expected_cohort=plan.expected_cohort,
  )
  return algorithm._replace(server=server)


def with_private_clients(algorithm: Algorithm, plan: Plan) -> Algorithm:
  """An algorithm whose clients clip what they send, and add shares of noise.

  Client-level privacy without a server that is trusted: McMahan et al., 2018,
  with the noise of `placement('distributed', ...)`. No message may be seen by
  itself: it has a share of the noise alone.

  Guarantees:
    Released: in each round, to a server that learns sums over at least
      `plan.num_shares` clients and nothing else, and to as many of them as the
      plan lets collude, the sum of clipped messages with noise of
      `noise_multiplier * max_norm` or more.
    Neighbouring: one client's data there, or its contribution zero; it takes
      part all the same, and adds its share.
    Sensitivity: `max_norm`, of a client's whole message. Charge
      `events.gaussian` a round. A sum in fixed point is of values that are
      rounded after the noise: its resolution must be far below the noise.

  Args:
    algorithm: of one fleet; its aggregate is a tree like one message.
    plan: made by `plan.client_plan` with noise in shares.
  """
  [client] = algorithm.fleets
  stddev = plan.noise_multiplier * plan.share * plan.max_norm

  def update(view, kept, data, keys):
    own_key, noise_key = jax.random.split(keys.own)
    message, kept, metrics = client.update(
      view, kept, data, keys._replace(own=own_key)
    )
    clipped, _ = clipping.clip(message, plan.max_norm)
    noise = gaussian(noise_key, clipped, stddev)
    return trees.add(clipped, noise), kept, metrics

  def partial(messages, infos):
    return trees.weighted_sum(messages, infos.present.astype(jnp.float32))

  def finish(sums):
    return jax.tree.map(lambda leaf: leaf / plan.expected_cohort, sums)

  server = algorithm.server._replace(aggregate=Aggregate(partial, finish))
  return Algorithm(server, (client._replace(update=update),))


class Placement(NamedTuple):
  """Who adds how much noise, as standard deviations.

  Attributes:
    name: one of `PLACEMENTS`.
    client: of the noise that each client adds to its message.
    server: of the noise that the server adds to the sum.
    num_shares: m': the noise of so many clients together is what was asked for;
      0 where it does not matter.
    colluding: clients who may pool what they know; they subtract their shares.
  """

  name: str
  client: float
  server: float
  num_shares: int
  colluding: int = 0

  def on_sum(self, num_present: int) -> float:
    """Standard deviation on the sum of the messages that arrive."""
    validate.non_negative_int(num_present=num_present)
    return math.hypot(self.client * math.sqrt(num_present), self.server)

  def guaranteed(self, num_present: int) -> float:
    """Standard deviation that an accountant may charge.

    Where noise is local it protects each message by itself, before any sum:
    the sum's larger noise is no part of that guarantee. Where it is in shares,
    those of the clients who collude do not protect from them.
    """
    if self.name == 'local':
      return self.client
    return self.on_sum(max(num_present - self.colluding, 0))


def placement(
  name: str,
  stddev: float,
  *,
  num_clients: int,
  max_dropouts: int = 0,
  colluding: int = 1,
) -> Placement:
  """How noise of a wanted standard deviation is shared out.

  Guarantees:
    Released: `server`: the sum with one draw, to those who do not see the
      messages. `distributed`: the sum that a secure summation reveals, of
      which each client holds a share of the noise, N(0, stddev^2 / m') with
      m' = `num_clients - max_dropouts - colluding`, to the server together
      with `colluding` clients. `local`: every message by itself, each with
      noise in full, to everyone, the server included.
    Neighbouring: one record of one client; or one client's data replaced by
      nothing, the client still taking part. Not, with `distributed`, a client
      that is away: its share of the noise is away too, and the mechanism on
      neighbouring data would have another variance.
    Sensitivity: what the contributions were clipped to. With `distributed`,
      if d clients drop, and c = `colluding` subtract their own shares, the sum
      has `stddev * sqrt((num_clients - d - c) / m')`: at least `stddev` for d
      up to `max_dropouts` and less beyond, which `Placement.guaranteed` says
      and the ledger must be charged with. A single client that looks at the
      sum is one of the c.

  Args:
    name: server, distributed or local.
    stddev: wanted, on the sum or, if local, on each message.
    num_clients: m, those who take part.
    max_dropouts: how many may drop with the guarantee intact.
    colluding: with `distributed`, how many may pool what they know; 1 for a
      guarantee against any other client by itself, 0 against those who hold no
      share.

  Raises:
    InputError: unknown name, `stddev` negative, or dropouts and clients who
      collude that leave nobody.
  """
  validate.one_of(PLACEMENTS, noise_placement=name)
  validate.non_negative(stddev=stddev)
  validate.positive_int(num_clients=num_clients)
  validate.non_negative_int(max_dropouts=max_dropouts, colluding=colluding)
  if name != 'distributed':
    colluding = 0  # there are no shares to be subtracted
  shares = num_clients - max_dropouts - colluding
  if shares <= 0:
    raise InputError(
      f'Expected max_dropouts + colluding < num_clients={num_clients}, got '
      f'max_dropouts={max_dropouts}, colluding={colluding}: nobody would be '
      'left to add noise.'
    )
  if name == 'server':
    return Placement(name, 0.0, stddev, 0)
  if name == 'local':
    return Placement(name, stddev, 0.0, 0)
  return Placement(name, stddev / math.sqrt(shares), 0.0, shares, colluding)
