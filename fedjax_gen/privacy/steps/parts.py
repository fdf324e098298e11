"""Federated descent where a client keeps a part of what it trains.

The server holds `shared` and descends it; a client keeps `own`, which never
leaves it. In a round a client either sends the gradient of one minibatch
(FedSGD), or trains its copy of the shared part for some steps and sends what
that changed (McMahan et al., 2017, Algorithm 1, with one step or many).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from fedjax_gen import trees
from fedjax_gen.data.federated import ClientData
from fedjax_gen.federated.algorithm import ClientProgram
from fedjax_gen.privacy.steps.descent import Parts
from fedjax_gen.types import Array, Key, Metrics, Tree


class StepResult(NamedTuple):
  """One step of a client."""

  gradient: Tree
  own: Tree
  own_state: Tree
  metrics: Metrics


StepFn = Callable[[Tree, Tree, Tree, ClientData, Key], StepResult]
"""`(shared, own, own_state, data, key) -> StepResult`."""


class KeptParts(NamedTuple):
  """What a client keeps between rounds.

  Attributes:
    own: its part of the model.
    own_state: of its optimizer.
    shared_state: of the optimizer of its copy of the shared part; `()` where
      gradients are sent, or where each round starts anew.
  """

  own: Tree
  own_state: Tree
  shared_state: Tree


def joint_step(
  gradient_fn: Callable,
  optimizer: optax.GradientTransformation,
  *,
  regulariser: Callable[[Parts, Key], Array] | None = None,
  project: Callable[[Tree], Tree] = lambda own: own,
) -> StepFn:
  """Both parts along one gradient, taken at one point.

  Guarantees:
    Those of `gradient_fn`. All else is post-processing: the regulariser's
    gradient holds no data, and is added after the noise.

  Args:
    gradient_fn: `descent.private_gradient` or `descent.plain_gradient`.
    optimizer: of the own part.
    regulariser: `(parts, key) -> scalar`, without data.
    project: `own -> own`, after the step.
  """

  def step(shared, own, own_state, data, key):
    data_key, regulariser_key = jax.random.split(key)
    parts = Parts(shared=shared, own=own)
    gradient, metrics = gradient_fn(parts, data, data_key)
    if regulariser is not None:
      more = jax.grad(regulariser)(parts, regulariser_key)
      gradient = trees.add(gradient, more)
    updates, own_state = optimizer.update(gradient['own'], own_state, own)
    own = project(optax.apply_updates(own, updates))
    return StepResult(gradient['shared'], own, own_state, metrics)

  return step


def client_program(
  step_fn: StepFn,
  *,
  init: Callable[[Key], Parts],
  own_optimizer: optax.GradientTransformation,
  shared_optimizer: optax.GradientTransformation | None,
  num_steps: int,
  keep_shared_state: bool = False,
) -> ClientProgram:
  """A client that receives the shared part and keeps its own.

  Guarantees:
    What it sends is a function of what it receives and of the gradients that
    `step_fn` makes: if those are noised, the message is post-processing.

  Args:
    step_fn: one step.
    init: `key -> parts`; the shared part for its shapes alone.
    own_optimizer: of the own part; its state is kept.
    shared_optimizer: of the client's copy of the shared part; None to send
      the gradient of one step, for the server to descend.
    num_steps: of a round; 1 where gradients are sent.
    keep_shared_state: whether the copy's optimizer state is kept.
  """

  def init_client(key, info):
    del info
    parts = init(key)
    kept = ()
    if shared_optimizer is not None and keep_shared_state:
      kept = shared_optimizer.init(parts['shared'])
    return KeptParts(parts['own'], own_optimizer.init(parts['own']), kept)

  def view(server, info):
    del info  # everyone receives the same
    return server.variables

  def update(view, client, data, keys):
    key = keys.own
    own, own_state, shared_state = client
    if shared_optimizer is None:
      done = step_fn(view, own, own_state, data, key)
      kept = KeptParts(done.own, done.own_state, ())
      return done.gradient, kept, done.metrics
    if not keep_shared_state:
      shared_state = shared_optimizer.init(view)

    def step(i, carry):
      shared, own, own_state, shared_state, sums = carry
      done = step_fn(shared, own, own_state, data, jax.random.fold_in(key, i))
      updates, shared_state = shared_optimizer.update(
        done.gradient, shared_state, shared
      )
      shared = optax.apply_updates(shared, updates)
      sums = trees.add(sums, done.metrics)
      return shared, done.own, done.own_state, shared_state, sums

    # Sizes of a client's data are no arrays: they must not be traced.
    metrics = jax.eval_shape(
      lambda: step_fn(view, own, own_state, data, key)
    ).metrics
    carry = (view, own, own_state, shared_state, trees.zeros_like(metrics))
    shared, own, own_state, shared_state, sums = jax.lax.fori_loop(
      0, num_steps, step, carry
    )
    kept = KeptParts(own, own_state, shared_state if keep_shared_state else ())
    means = jax.tree.map(lambda total: total / num_steps, sums)
    return trees.subtract(view, shared), kept, means

  return ClientProgram(init_client, view, update)
