"""Clipping: no record, or no client, moves a sum by more than a given norm.

Clipping alone protects nothing. It bounds the sensitivity of a sum; the noise
of `noise.py`, in proportion to that bound, is what an accountant can charge.
Bounds hold up to the rounding of float32.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_gen import trees, validate
from fedjax_gen.data.federated import Batch
from fedjax_gen.federated.aggregates import Aggregate
from fedjax_gen.types import Array, Key, Metrics, Tree

RecordLossFn = Callable[[Tree, Batch, Key], tuple[Array, Metrics]]
"""`(variables, record, key) -> (loss, metrics)`, of one record.

The record is a `Batch` without its leading axis. The loss must not read other
records by any way: no batch normalisation, no MMD over a batch. A regulariser
without data belongs outside, added after the noise.
"""


class ClippedSum(NamedTuple):
  """A sum of clipped gradients, not yet noised.

  Attributes:
    total: the sum over the batch's records, like the variables, float32.
    norms: `[B]` norms before clipping; 0 for records that did not count,
      because of the mask or because their gradient is not finite.
    share_clipped: scalar, of the records that counted, the part with a norm
      above the bound; 0 if none counted.
    metrics: means over the records that counted; 0 if none did.
  """

  total: Tree
  norms: Array
  share_clipped: Array
  metrics: Metrics


def tree_norm(tree: Tree) -> Array:
  """L2 norm over all leaves together, in float32; 0 for an empty tree.

  Guarantees:
    Released: nothing. A norm is data: to publish it takes noise of its own.
  """
  squares = [
    jnp.sum(jnp.square(leaf.astype(jnp.float32)))
    for leaf in jax.tree.leaves(tree)
  ]
  return jnp.sqrt(sum(squares, jnp.zeros((), jnp.float32)))


def clip(tree: Tree, max_norm: float | Array) -> tuple[Tree, Array]:
  """Scales a whole tree down to a norm of at most `max_norm`.

  One norm over all leaves, not one a leaf. A tree with a NaN, an infinity or
  squares that overflow float32 (from a norm of 1.8e19) becomes
  zero: anything else would make the sum it enters NaN, which reveals it.

  Guarantees:
    Released: nothing, this is the map applied to one contribution.
    Sensitivity: the result has a norm of at most `max_norm` whatever the
      tree holds, so a sum of results changes by at most `max_norm` if one
      contribution is added or removed, by twice that if one is replaced.

  Args:
    tree: one contribution; leaves of any real dtype.
    max_norm: C, above zero.

  Returns:
    The clipped tree, float32, and its norm before clipping.
  """
  _check_max_norm(max_norm)
  norm = tree_norm(tree)
  factor = _factor(norm, max_norm)
  finite = jnp.isfinite(norm)
  clipped = jax.tree.map(
    # Zero times NaN is NaN.
    lambda leaf: jnp.where(finite, leaf.astype(jnp.float32) * factor, 0.0),
    tree,
  )
  return clipped, norm


def clipped_sum(
  loss_fn: RecordLossFn,
  variables: Tree,
  batch: Batch,
  key: Key,
  max_norm: float | Array,
  *,
  chunk_size: int = 16,
) -> ClippedSum:
  """Sum of records' gradients, each clipped, without B gradients in memory.

  The gradients of `chunk_size` records are there at a time: each is measured,
  clipped and added. What is measured is what is added: a second backward pass
  for the sum would round otherwise, and where a loss cancels digits by more
  than a tenth of C. Matrix products take full float32 precision, on
  accelerators too.

  All that a record's loss differentiates is clipped jointly, so `variables`
  must hold everything that is trained on these records: a part trained next to
  it, without noise, voids the guarantee, as the other records' gradients then
  depend on the record that is removed.

  Guarantees:
    Released: nothing yet; `total` is to be noised (`noise.noisy_sum`). The
      norms, the share and the metrics are a simulator's log and are not
      protected: do not publish them, nor steer by them.
    Neighbouring: one record added or removed (its mask), given the same
      variables.
    Sensitivity: `total` changes by at most `max_norm` in L2; by twice that
      if a record is replaced by another.

  Args:
    loss_fn: the loss of one record.
    variables: what is differentiated, any tree of floats.
    batch: `[B]` records; rows that the mask hides are never counted.
    key: consumed; each record's slot gives it a key.
    max_norm: C, above zero.
    chunk_size: how many gradients of records are in memory at a time.
  """
  _check_max_norm(max_norm)
  validate.positive_int(chunk_size=chunk_size)
  slots = jnp.arange(batch.mask.shape[0])
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, slots)
  gradient_fn = jax.vmap(jax.grad(loss_fn, has_aux=True), (None, 0, 0))
  # Rows that fill the last chunk are masked, as absent records are.
  num_chunks = -(-len(slots) // chunk_size)
  rows = jnp.arange(num_chunks * chunk_size)

  def chunked(leaf):
    padded = leaf[jnp.minimum(rows, len(slots) - 1)]
    return padded.reshape(num_chunks, chunk_size, *leaf.shape[1:])

  records, keys = jax.tree.map(chunked, (batch, keys))
  present = chunked(batch.mask) & (rows < len(slots)).reshape(num_chunks, -1)

  def add_chunk(total, chunk):
    records, keys, present = chunk
    gradients, metrics = gradient_fn(variables, records, keys)
    clipped, norms = jax.vmap(lambda tree: clip(tree, max_norm))(gradients)
    counted = present & jnp.isfinite(norms)
    total = jax.tree.map(
      lambda sums, leaf: sums + jnp.sum(_kept(counted, leaf), axis=0),
      total,
      clipped,
    )
    return total, (norms, counted, metrics)

  nothing = jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, jnp.float32), variables
  )
  with jax.default_matmul_precision('float32'):
    total, found = jax.lax.scan(add_chunk, nothing, (records, keys, present))
  norms, counted, metrics = jax.tree.map(
    lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: len(slots)], found
  )
  count = jnp.maximum(counted.sum(), 1)
  return ClippedSum(
    total,
    jnp.where(counted, norms, 0.0),
    jnp.sum(counted & (norms > max_norm)) / count,
    jax.tree.map(
      lambda values: _kept(counted, values).sum(axis=0) / count, metrics
    ),
  )


def _kept(counted: Array, values: Array) -> Array:
  """Values of rows that count, zero for the others, whatever they hold."""
  shape = (-1, *(1,) * (values.ndim - 1))
  return jnp.where(counted.reshape(shape), values, 0.0)


def clipped_messages(max_norm: float, expected_cohort: float) -> Aggregate:
  """Client level: each client's whole message clipped, all counting alike.

  Weights by number of examples would let a client move the sum by more than
  `max_norm`, and the number is itself data. The denominator is fixed for the
  same reason: to divide by those who came would release how many they were.
  Everything in the message is clipped together; a rule for each module
  (`aggregates.by_module`) would have a bound for each.

  Guarantees:
    Released: nothing yet; the aggregate is to be noised (`noise.private_server`
      does both).
    Neighbouring: one client added or removed, whatever it sends.
    Sensitivity: the sum changes by at most `max_norm` in L2, the aggregate,
      after the division, by at most `max_norm / expected_cohort`.

  Args:
    max_norm: C, above zero.
    expected_cohort: the denominator: clients expected in a round, sampling
      rate times population. Known before the round, not counted in it.
  """
  validate.positive(max_norm=max_norm, expected_cohort=expected_cohort)

  def partial(messages, infos):
    clipped = jax.vmap(lambda message: clip(message, max_norm)[0])(messages)
    return trees.weighted_sum(clipped, infos.present.astype(jnp.float32))

  def finish(sums):
    return jax.tree.map(lambda leaf: leaf / expected_cohort, sums)

  return Aggregate(partial, finish)


def _factor(norm: Array, max_norm: float | Array) -> Array:
  """What a contribution of this norm is multiplied by; at most 1."""
  return jnp.where(norm > max_norm, max_norm / norm, 1.0)


def _check_max_norm(max_norm: float | Array) -> None:
  if not isinstance(max_norm, jax.Array):  # adaptive bounds are traced
    validate.positive(max_norm=max_norm)
