"""An audit of a whole federated training, from one training.

Some of the clients' records are replaced by canaries; a coin decides for each
whether it is there; the algorithm trains on them as on any other; and whoever
sees what clients send scores each canary by how far the messages point its way.
How well the scores tell the coins bounds epsilon from below:

  hidden = canaries.hide(key, data, num_canaries, num_classes)
  watched = audited.audited(
    algorithm_of(plan._replace(canaries=hidden.canaries)), hidden
  )
  state = rounds.init_state(watched, [hidden.data], init_key)
  # ... as many rounds on hidden.data as the plan has; then
  audited.lower_bound(hidden, state, delta)

The plan is that of the training with the claimed epsilon: it decides rate, room
in a batch, clipping norm, noise, steps and rounds.
"""

from typing import NamedTuple

from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np

from fedjax_gen.data.federated import ClientData
from fedjax_gen.federated.algorithm import (
  Algorithm,
  ClientProgram,
  FederatedState,
)
from fedjax_gen.privacy.audit import auditing
from fedjax_gen.privacy.audit.canaries import Hidden
from fedjax_gen.privacy.steps import descent
from fedjax_gen.types import Array, Tree


class Watched(NamedTuple):
  """What a client keeps, and what was seen of it.

  Attributes:
    kept: the client's own state.
    scores: `[K]` float32 of its canaries; see `audited`.
  """

  kept: Tree
  scores: Array


def audited(algorithm: Algorithm, hidden: Hidden) -> Algorithm:
  """The algorithm, with each message looked at for canaries.

  In each round a canary's score grows by the value that its client's message
  has where the canary's gradient is, times the client's number of records: by
  that much messages are means.

  Guarantees:
    Released: nothing beyond what `algorithm` releases: scores are made of
      messages alone, and never read the coins.

  Args:
    algorithm: one fleet of clients that send noised gradients of what they
      share, or what such gradients changed; made with a plan that knows of
      `hidden.canaries`.
    hidden: made by `canaries.hide`.
  """
  [program] = algorithm.fleets

  def init(key, info):
    scores = jnp.zeros(hidden.canaries.num_slots)
    return Watched(program.init(key, info), scores)

  def update(view, client, data: ClientData, keys):
    message, kept, metrics = program.update(view, client.kept, data, keys)
    values, _ = ravel_pytree(descent.trainable(message))
    seen = values[jnp.asarray(hidden.canaries.coordinates(values.size))]
    return message, Watched(kept, client.scores + data.size * seen), metrics

  watched = ClientProgram(init, program.view, update)
  return Algorithm(algorithm.server, (watched,))


def scores(hidden: Hidden, state: FederatedState) -> np.ndarray:
  """`[M]` scores of the canaries; higher says that one is in."""
  [clients] = state.fleets
  return np.asarray(clients.scores)[hidden.owners, hidden.slots]


def lower_bound(
  hidden: Hidden,
  state: FederatedState,
  delta: float,
  *,
  confidence: float = 0.95,
) -> float:
  """A lower bound on the epsilon of the training that led to a state.

  Guarantees:
    That of `auditing.epsilon_lower_bound` with `one_run`.

  Args:
    hidden: in the data that were trained on.
    state: that the rounds of `audited` left.
    delta: that of the claim.
    confidence: of the bound.

  Raises:
    InputError: an argument is out of range, jax-privacy is not installed, or
      all canaries are in, or all out.
  """
  found = scores(hidden, state)
  return auditing.epsilon_lower_bound(
    found[hidden.included],
    found[~hidden.included],
    delta,
    confidence=confidence,
  )
