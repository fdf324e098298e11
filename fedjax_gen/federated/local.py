"""Local training: passes of minibatch descent over one client's data."""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen import trees, validate
from fedjax_gen.data.federated import Batch, ClientData
from fedjax_gen.types import LAYER, Array, Key, LossFn, Metrics, Tree

REMATERIALISE = (
  'recompute activations instead of storing them: less memory and more '
  'time, on accelerators'
)
"""Help of the flags that choose `rematerialised`."""


class LocalWork(NamedTuple):
  """How much a client trains in a round.

  Attributes:
    epochs: passes over its data; fractions are rounded to whole steps.
    batch_size: B; a pass's last batch may be smaller (masked).
  """

  epochs: float
  batch_size: int


class Trained(NamedTuple):
  """The outcome of local training.

  Attributes:
    variables: after the last step.
    optimizer_state: likewise.
    metrics: means over the examples seen in all steps; zero if none.
  """

  variables: Tree
  optimizer_state: Tree
  metrics: Metrics


def local_work(epochs: float, batch_size: int) -> LocalWork:
  """Checked `LocalWork`."""
  validate.positive(local_epochs=epochs)
  validate.positive_int(batch_size=batch_size)
  return LocalWork(epochs, batch_size)


def train(
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  work: LocalWork,
  variables: Tree,
  optimizer_state: Tree,
  data: ClientData,
  key: Key,
) -> Trained:
  """Trains for `work.epochs` passes, each in a fresh random order.

  Every client takes as many steps as its own data ask for. Where all clients
  of a data set need the same number it is static; otherwise the loop ends
  when the slowest client of the block is done, and finished clients keep what
  they have. A client without examples takes no step.

  Args:
    loss_fn: the loss.
    optimizer: descends it.
    work: passes and batch size.
    variables: where to start.
    optimizer_state: of `optimizer` for `variables`.
    data: the client's examples.
    key: consumed.

  Returns:
    Variables, optimizer state and the means of loss and metrics.
  """
  per_epoch = data.steps_per_epoch(work.batch_size)
  # In float32 as a traced count is, so that a client's number of steps does
  # not depend on whether its neighbours need as many.
  total = _rounded(np.float32(work.epochs) * per_epoch)
  num_epochs = math.ceil(work.epochs)
  gradient_fn = jax.value_and_grad(loss_fn, has_aux=True)

  def run_epoch(epoch, carry):
    epoch_key = jax.random.fold_in(key, epoch)
    order_key, noise_key = jax.random.split(epoch_key)
    positions = data.shuffled(order_key)
    # All at once: on CPU deriving a key is a loop of small programs.
    step_keys = jax.vmap(jax.random.fold_in, (None, 0))(
      noise_key, jnp.arange(-(-data.max_size // work.batch_size))
    )

    def step(i, carry):
      variables, optimizer_state, sums, count = carry
      batch = data.batch(positions, i, work.batch_size)
      (loss, (refreshed, metrics)), gradient = gradient_fn(
        variables, batch, step_keys[i]
      )
      updates, optimizer_state = optimizer.update(
        gradient, optimizer_state, variables
      )
      size = batch.mask.sum()
      metrics = {'loss': loss, **metrics}
      sums = jax.tree.map(lambda s, m: s + size * m, sums, metrics)
      variables = optax.apply_updates(refreshed, updates)
      return variables, optimizer_state, sums, count + size

    if isinstance(total, int) and total == num_epochs * per_epoch:
      steps = per_epoch
    else:
      steps = jnp.minimum(per_epoch, total - epoch * per_epoch)
    return jax.lax.fori_loop(0, steps, step, carry)

  empty = jax.eval_shape(
    lambda: gradient_fn(
      variables, data.batch(data.shuffled(key), 0, work.batch_size), key
    )[0]
  )
  sums = trees.zeros_like({'loss': empty[0], **empty[1][1]})
  carry = (variables, optimizer_state, sums, jnp.zeros((), jnp.int32))
  carry = jax.lax.fori_loop(0, num_epochs, run_epoch, carry)
  variables, optimizer_state, sums, count = carry
  means = jax.tree.map(lambda total: total / jnp.maximum(count, 1), sums)
  return Trained(variables, optimizer_state, means)


def total(
  statistic: Callable[[Batch], Tree], data: ClientData, batch_size: int
) -> Tree:
  """Sum over one pass of what a function makes of each batch.

  Args:
    statistic: `batch -> tree`; must heed the batch's mask.
    data: the client's examples, in the order in which they lie.
    batch_size: B.
  """
  positions = jnp.arange(data.max_size)

  def step(i, sums):
    return trees.add(sums, statistic(data.batch(positions, i, batch_size)))

  shapes = jax.eval_shape(
    lambda: statistic(data.batch(positions, 0, batch_size))
  )
  return jax.lax.fori_loop(
    0, data.steps_per_epoch(batch_size), step, trees.zeros_like(shapes)
  )


def proximal(loss_fn: LossFn, anchor: Tree, strength: float) -> LossFn:
  """FedProx: adds `strength / 2 * ||params - anchor||^2` to a loss.

  Li et al., "Federated optimization in heterogeneous networks", 2020, eq. 2.
  Normalisation statistics (`batch_stats`) are not parameters and are left out.

  Args:
    loss_fn: the loss to anchor.
    anchor: the variables received from the server.
    strength: FedProx's mu; zero returns `loss_fn` itself.
  """
  validate.non_negative(proximal=strength)
  if strength == 0:
    return loss_fn

  def anchored(variables, batch, key):
    loss, auxiliary = loss_fn(variables, batch, key)
    distances = jax.tree_util.tree_map_with_path(
      lambda path, leaf, start: (
        0.0 if is_statistic(path) else jnp.sum((leaf - start) ** 2)
      ),
      variables,
      anchor,
    )
    return loss + strength / 2 * sum(jax.tree.leaves(distances)), auxiliary

  return anchored


def rematerialised(loss_fn: Callable[..., Any]) -> Callable[..., Any]:
  """The same loss; its gradient keeps only the outputs of layers.

  What lies between them (activations, normalisations) is computed again on the
  way back, which takes time and saves memory, on accelerators; XLA for CPU
  undoes it. Values and gradients are the same up to rounding.

  Chen et al., "Training deep nets with sublinear memory cost", 2016.
  """
  return jax.checkpoint(
    loss_fn, policy=jax.checkpoint_policies.save_only_these_names(LAYER)
  )


def is_statistic(path: tuple) -> bool:
  """Whether a tree path leads to a normalisation statistic, not a parameter."""
  return any(getattr(entry, 'key', None) == 'batch_stats' for entry in path)


def _rounded(steps: np.float32 | Array) -> int | Array:
  """Whole number of steps; at least one wherever there is anything to do."""
  if not isinstance(steps, jax.Array):
    return max(round(float(steps)), 1) if steps > 0 else 0
  whole = jnp.maximum(jnp.round(steps), 1).astype(jnp.int32)
  return jnp.where(steps > 0, whole, 0)
