"""Gradients of records for a client's steps: clipped and noised, or plain.

A client trains variables in two parts: `shared`, which the server holds and
descends, and `own`, which never leaves it. Both are clipped and noised as one:
a part trained next to the other without noise would make the other records'
gradients depend on the record that is to be hidden.
"""

from collections.abc import Callable
from typing import TypedDict

import jax
import jax.numpy as jnp
import optax

from fedjax_gen import trees, validate
from fedjax_gen.data.federated import Batch, ClientData
from fedjax_gen.errors import InputError
from fedjax_gen.federated import averaging, local
from fedjax_gen.federated.averaging import Trainer
from fedjax_gen.privacy import clipping, noise
from fedjax_gen.privacy.audit import canaries
from fedjax_gen.privacy.clipping import RecordLossFn
from fedjax_gen.privacy.plan import Plan
from fedjax_gen.privacy.steps import batches
from fedjax_gen.types import Array, Key, LossFn, Metrics, Tree


class Parts(TypedDict):
  """What a client trains: `shared` with the server, and its `own`."""

  shared: Tree
  own: Tree


GradientFn = Callable[[Parts, ClientData, Key], tuple[Parts, Metrics]]
"""`(variables, data, key) -> (gradient, metrics)` of one step of a client."""


def private_gradient(loss_fn: RecordLossFn, plan: Plan) -> GradientFn:
  """A step of DP-SGD over both parts.

  Guarantees:
    Released: the sum over a Poisson sample of the client's records of their
      gradients, clipped jointly over both parts, with noise of
      `plan.noise_multiplier * plan.max_norm` on every value; on the shared
      part `plan.share` of that, if the sum over clients is all that is seen
      of it: then this gradient itself must be what the client sends, weighted
      by its number of records. Divided by the expected number of records.
    Neighbouring: one record of the client added or removed.
    Sensitivity: `plan.max_norm`. What is made of the result, the client's own
      part included, is post-processing. Metrics are not protected.

  Args:
    loss_fn: of one record; nothing without data in it, which belongs after
      the noise.
    plan: made by `plan.record_plan`.
  """
  stddev = plan.noise_multiplier * plan.max_norm
  if plan.canaries is not None:
    loss_fn = canaries.with_canaries(loss_fn, plan.canaries, plan.max_norm)

  def gradient(variables, data, key):
    sample_key, loss_key, shared_key, own_key = jax.random.split(key, 4)
    drawn = batches.poisson_batch(
      sample_key, data, plan.sampling_rate, plan.capacity
    )
    summed = clipping.clipped_sum(
      loss_fn,
      variables,
      drawn.batch,
      loss_key,
      plan.max_norm,
      chunk_size=plan.chunk_size,
    )
    noises = Parts(
      shared=noise.gaussian(
        shared_key, variables['shared'], stddev * plan.share
      ),
      own=noise.gaussian(own_key, variables['own'], stddev),
    )
    metrics = {**summed.metrics, 'share_clipped': summed.share_clipped}
    noised = trees.add(summed.total, noises)
    return _over_expected(noised, plan, data), metrics

  return gradient


def plain_gradient(
  loss_fn: RecordLossFn, sampling_rate: float, capacity: int
) -> GradientFn:
  """The mean gradient over a Poisson sample, neither clipped nor noised.

  What `private_gradient` tends to without noise and with a large norm, but
  divided by the number drawn.

  Guarantees:
    None.

  Args:
    loss_fn: of one record.
    sampling_rate: q.
    capacity: rows of a batch; some records are left out if more are drawn.
  """

  def gradient(variables, data, key):
    sample_key, loss_key = jax.random.split(key)
    batch = batches.poisson_batch(
      sample_key, data, sampling_rate, capacity
    ).batch
    return batch_gradient(loss_fn, variables, batch, loss_key)

  return gradient


def batch_gradient(
  loss_fn: RecordLossFn, variables: Tree, batch: Batch, key: Key
) -> tuple[Tree, Metrics]:
  """Gradient of the mean loss over a batch's records, and mean metrics.

  Guarantees:
    None.
  """
  slots = jnp.arange(batch.mask.shape[0])
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, slots)
  share = batch.mask / jnp.maximum(batch.mask.sum(), 1)

  def mean_loss(variables):
    losses, metrics = jax.vmap(loss_fn, (None, 0, 0))(variables, batch, keys)
    return jnp.sum(share * losses), jax.tree.map(
      lambda values: jnp.sum(share * values), metrics
    )

  return jax.grad(mean_loss, has_aux=True)(variables)


def trainer(
  config: averaging.Config,
  plan: Plan,
  optimizer: optax.GradientTransformation | None = None,
) -> Trainer:
  """`averaging.trainer` by DP-SGD: for models that are averaged as a whole.

  Takes the place of passes over the data: `plan.steps` steps a round, each on
  a Poisson sample. FedProx's pull holds no data and is added after the noise.
  The optimizer's moments are made of noised gradients alone. What is not
  trained (`trainable`) is neither clipped with the rest nor moved.

  Guarantees:
    As `private_gradient`, with the model as the shared part; the model that
    the client sends, and its moments, are post-processing.

  Args:
    config: `learning_rate`, `keep_optimizer_state` and `proximal` are used;
      steps and batches are the plan's.
    plan: made by `plan.record_plan`, with noise that is local.
    optimizer: in place of the configuration's Adam.

  Raises:
    InputError: a field of the configuration is out of range, or the plan is
      not one of records with noise in full; when first used, if the model
      keeps normalisation statistics, which join the records of a batch.
  """
  optimizer = config.optimizer() if optimizer is None else optimizer
  validate.one_of(('record',), unit=plan.unit)
  if plan.share < 1:
    # A share protects a sum of gradients. What a client makes of its own, by
    # steps that follow each other, is no such sum.
    raise InputError(
      "Expected noise_placement='local' where clients train a model and send "
      "it, got 'distributed': each gradient is used before any sum."
    )

  def init(variables):
    if not config.keep_optimizer_state:
      return ()
    return optimizer.init(trainable(variables))

  def run(loss_fn, variables, kept, data, key):
    refuse_statistics(variables)
    anchor = trainable(variables)

    def whole_loss(trained, batch, key):
      return loss_fn(with_trained(variables, trained), batch, key)

    gradient_fn = private_gradient(of_one_record(whole_loss), plan)

    def step(i, carry):
      trained, state, sums = carry
      gradient, metrics = gradient_fn(
        Parts(shared=trained, own=()), data, jax.random.fold_in(key, i)
      )
      pulled = jax.tree.map(
        lambda g, w, a: g + config.proximal * (w - a),
        gradient['shared'],
        trained,
        anchor,
      )
      updates, state = optimizer.update(pulled, state, trained)
      trained = optax.apply_updates(trained, updates)
      return trained, state, trees.add(sums, metrics)

    state = kept if config.keep_optimizer_state else optimizer.init(anchor)
    trained, state, sums = run_steps(
      step, plan.steps, (anchor, state), gradient_fn, anchor, data, key
    )
    means = jax.tree.map(lambda total: total / plan.steps, sums)
    state = state if config.keep_optimizer_state else ()
    return with_trained(variables, trained), state, means

  return Trainer(init, run)


def trainable(variables: Tree) -> Tree:
  """The variables that training moves; None in place of the others.

  Those are constants of a model (Flax's collection `constants`, such as the
  means of fixed priors) and whatever is not a float. With noise on them they
  would be constants no more.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: None if _is_constant(path, leaf) else leaf, variables
  )


def with_trained(variables: Tree, trained: Tree) -> Tree:
  """The variables with those that `trainable` chose replaced."""
  return jax.tree.map(
    lambda new, old: old if new is None else new,
    trained,
    variables,
    is_leaf=lambda leaf: leaf is None,
  )


def run_steps(step, num_steps, carry, gradient_fn, shared, data, key, own=()):
  """Runs steps that add up the metrics of a gradient function."""
  # Sizes of a client's data are no arrays: they must not be traced.
  _, metrics = jax.eval_shape(
    lambda: gradient_fn(Parts(shared=shared, own=own), data, key)
  )
  return jax.lax.fori_loop(
    0, num_steps, step, (*carry, trees.zeros_like(metrics))
  )


def of_one_record(loss_fn: LossFn) -> RecordLossFn:
  """The loss of a batch as the loss of a record: a batch of one.

  Guarantees:
    Released: nothing. The result reads one record, whatever `loss_fn` does
      with a batch.
  """

  def record_loss(variables, record, key):
    batch = jax.tree.map(lambda leaf: leaf[None], record)
    batch = batch._replace(mask=jnp.ones(1, bool))
    loss, (_, metrics) = loss_fn(variables['shared'], batch, key)
    return loss, {'loss': loss, **metrics}

  return record_loss


def refuse_statistics(variables: Tree) -> None:
  """Raises `InputError` if a model keeps normalisation statistics."""
  for path, _ in jax.tree_util.tree_leaves_with_path(variables):
    if local.is_statistic(path):
      raise InputError(
        'Expected a model without batch statistics under differential '
        f'privacy, got {jax.tree_util.keystr(path)}: they join the records of '
        'a batch, and noise could make a variance negative. norm=group keeps '
        'none.'
      )


def _is_constant(path: tuple, leaf: Array) -> bool:
  """Whether a leaf of a model's variables is not trained."""
  return not jnp.issubdtype(leaf.dtype, jnp.floating) or any(
    getattr(entry, 'key', None) == 'constants' for entry in path
  )


def _over_expected(total: Parts, plan: Plan, data: ClientData) -> Parts:
  """Divided by q n; zero for a client without records."""
  # Sizes are public. Noise in full over next to nothing would drown the rest,
  # so that it is at least one; noise in shares must weigh alike in the sum.
  least = 1.0 if plan.share == 1 else 0.0
  expected: Array = jnp.maximum(plan.sampling_rate * data.size, least)
  scale = jnp.where(data.size > 0, 1.0 / expected, 0.0)
  return jax.tree.map(lambda leaf: leaf * scale, total)
