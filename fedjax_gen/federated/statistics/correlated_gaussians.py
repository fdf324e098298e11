"""Gaussians of features by class, with covariances; fitted elsewhere.

`class_gaussians` has a standard deviation for each feature. Here the features
of a class may be correlated, by one matrix for all classes or by one for each.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_gen import trees
from fedjax_gen.types import Array, Key

# Examples drawn at once: with a matrix for each class, each has its own copy.
_AT_ONCE, _AT_ONCE_BY_CLASS = 500, 16


class CorrelatedGaussians(NamedTuple):
  """What features of each class are like: N(mean, L L^T).

  Attributes:
    known: `[C]` bool, classes with enough examples.
    counts: `[C]` records of each class, with noise; 0 where unknown.
    means: `[C, F]`, zero where unknown.
    factors: L, `[1, F, F]` for all classes or `[C, F, F]`; or, of Gaussians
      without correlations, `[C, F]` standard deviations.
  """

  known: Array
  counts: Array
  means: Array
  factors: Array

  def variances(self) -> Array:
    """`[C, F]` of each feature."""
    squares = jnp.asarray(self.factors) ** 2
    if squares.ndim == 3:
      squares = squares.sum(axis=-1)
    return jnp.broadcast_to(squares, self.means.shape)

  def of_class(self, label: Array, normals: Array) -> Array:
    """One example `[F]` of a class from `[F]` independent standard normals."""
    shared = len(self.factors) == 1
    factor = trees.take(self.factors, 0 if shared else label)
    spread = factor * normals if factor.ndim == 1 else jnp.matmul(
      factor, normals, precision=jax.lax.Precision.HIGHEST
    )  # fmt: skip
    return self.means[label] + spread


def sample(gaussians: CorrelatedGaussians, labels: Array, key: Key) -> Array:
  """Draws features of classes.

  Args:
    gaussians: by class. A class that is unknown has a mean of zero.
    labels: `[n]` in [0, C).
    key: consumed. Example i depends on the key, i and its label alone.

  Returns:
    `[n, F]`.
  """
  gaussians = jax.tree.map(jnp.asarray, gaussians)
  return _sample(gaussians, jnp.asarray(labels), key)


@jax.jit
def _sample(gaussians, labels, key):
  def one(example):
    label, index = example
    example_key = jax.random.fold_in(key, index)
    shape = gaussians.means.shape[1:]
    return gaussians.of_class(label, jax.random.normal(example_key, shape))

  by_class = gaussians.factors.ndim == 3 and len(gaussians.factors) > 1
  return jax.lax.map(
    one,
    (labels, jnp.arange(labels.shape[0])),
    batch_size=_AT_ONCE_BY_CLASS if by_class else _AT_ONCE,
  )
