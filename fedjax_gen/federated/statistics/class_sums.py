"""Statistics of features by class, as sums.

Sums add up over batches, clients and fleets, so the server learns the moments
of all clients' features exactly, from sums alone. For a class that a client
does not hold it sends nothing: `ByClass` tells the meter (`class_traffic`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_gen.types import Array, Tree


class ClassSums(NamedTuple):
  """Sums over the records of each class.

  Attributes:
    counts: `[C]`.
    first: `[C, F]` sums of features.
    second: `[C, F]` sums of their squares.
  """

  counts: Array
  first: Array
  second: Array

  def moments(self, least_count: float = 1.0) -> tuple[Array, Array, Array]:
    """`(counts [C], means [C, F], variances [C, F])`.

    Counts below `least_count` become 0: the class is unknown, its moments are
    0. Variances are 0 at least.

    Args:
      least_count: of noised sums what tells a class from noise, for instance
        `privacy.one_upload.class_moments.least_count(...)`: a class that nobody
        holds is known otherwise in half of all draws, with any mean.
    """
    known = self.counts >= least_count
    counts = jnp.where(known, self.counts, 0.0)
    scale = jnp.where(known, 1.0 / jnp.where(known, self.counts, 1.0), 0.0)
    means = self.first * scale[:, None]
    variances = jnp.maximum(self.second * scale[:, None] - means**2, 0.0)
    return counts, means, variances


class ByClass(NamedTuple):
  """A part of a message with only the classes that the client holds.

  Attributes:
    rows: leaves `[C, ...]`, zero for a class that the client does not hold.
  """

  rows: Tree


class ClassMeans(NamedTuple):
  """A vector for each class, as a weighted sum: `totals / weights`.

  Attributes:
    totals: `[C, F]` weighted sums.
    weights: `[C]`; 0 where nobody holds the class.
  """

  totals: Array
  weights: Array

  def or_else(self, previous: Array) -> Array:
    """`[C, F]` means; of a class that nobody holds, what there was before."""
    held = self.weights > 0
    means = self.totals / jnp.where(held, self.weights, 1.0)[:, None]
    return jnp.where(held[:, None], means, previous)


def of_batch(
  features: Array, labels: Array, mask: Array, num_classes: int
) -> ClassSums:
  """The sums of one batch: features `[B, F]`, labels and mask `[B]`."""
  member = jax.nn.one_hot(labels, num_classes) * mask[:, None]
  # Not in the reduced precision that some accelerators default to.
  first, second = (
    jnp.einsum('bc,bf->cf', member, values, precision=jax.lax.Precision.HIGHEST)
    for values in (features, features**2)
  )
  return ClassSums(member.sum(axis=0), first, second)


def means_to_send(sums: ClassSums, rule: str) -> ByClass:
  """A client's class means, weighted so that the server may add them up.

  Args:
    sums: of the client's features.
    rule: 'count', by the client's number of examples of the class (the paper
      of FedProto), or 'uniform', every holder alike (its code, HtFLlib's).

  Returns:
    `ByClass` of `ClassMeans`.
  """
  held = (sums.counts > 0).astype(jnp.float32)
  weights = sums.counts if rule == 'count' else held
  scale = weights / jnp.where(sums.counts > 0, sums.counts, 1.0)
  return ByClass(ClassMeans(sums.first * scale[:, None], weights))
