"""Gaussians of classes from one noised sum of counts, means and covariances.

All that is released is one sum over records, so that its whole budget goes to
one Gaussian mechanism (`one_release`). One record x of class y adds

    (0.2, x / sqrt(F), the upper triangle of x x^T / F) / sqrt(0.04 + 1 + 1)

to the number, the first and the second moments of its class, or of all classes
alike where one covariance serves all. Off the diagonal the triangle is
multiplied by sqrt(2), so that its norm is that of the matrix. An x with a norm
above sqrt(F) is scaled down to it, so that this vector has a norm of 1 at most.
A record that is not finite, or has no class, adds nothing.

What is fitted to the sums is post-processing. The eigenvalues of a symmetric
matrix of noise lie within the edge of Wigner's semicircle: those of the
covariance that do not stand out from it say nothing but their sum.

Noise on the second moments is that of Dwork, Talwar, Thakurta and Zhang,
"Analyze Gauss", STOC 2014; the joint bound, the weight of the count and what is
fitted are ours.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import validate
from fedjax_gen.errors import InputError
from fedjax_gen.federated.statistics.correlated_gaussians import (
  CorrelatedGaussians,
)
from fedjax_gen.privacy.one_upload import class_moments
from fedjax_gen.types import Array

STRUCTURES = ('pooled', 'by_class', 'diagonal')
_COUNT = 0.2  # weight of the count next to the two moments, each of norm 1
_BOUND = math.sqrt(_COUNT**2 + 2)
# Squares of features with mean square 1 have a norm of sqrt(3 F) where they are
# about Gaussian; few have one beyond this multiple of sqrt(F).
_SQUARES_BOUND = 2.0
_LEAST_VARIANCE = 1e-3  # over the mean variance; smaller ones are rounding


class GaussianSums(NamedTuple):
  """Sums over records.

  Attributes:
    counts: `[C]`.
    first: `[C, F]` of features.
    second: upper triangles of their outer products, `[1, F (F + 1) / 2]` over
      all classes or `[C, F (F + 1) / 2]`; or `[C, F]` squares.
  """

  counts: Array
  first: Array
  second: Array


@dataclasses.dataclass(frozen=True)
class GaussianStatistic:
  """What is summed, in units of sensitivity; a `one_release.Statistic`.

  Guarantees:
    Released: nothing by itself.
    Sensitivity: a record moves the result by a norm of 1 at most, whatever it
      holds.

  Attributes:
    num_classes: C.
    structure: `pooled`, one covariance over all classes; `by_class`, one for
      each; `diagonal`, variances for each class.
  """

  num_classes: int
  structure: str = 'pooled'

  def __post_init__(self):
    validate.positive_int(num_classes=self.num_classes)
    validate.one_of(STRUCTURES, structure=self.structure)

  def __call__(self, inputs: Array, labels: Array, mask: Array) -> GaussianSums:
    """The sums over records `[n, F]`, in units of sensitivity."""
    member = members(inputs, labels, mask, self.num_classes)
    unit = in_unit_ball(inputs)
    second = self._second(unit, member)
    return GaussianSums(
      _COUNT / _BOUND * member.sum(axis=0),
      _product(member, unit) / _BOUND,
      second / _BOUND,
    )

  def restored(self, sums: GaussianSums) -> GaussianSums:
    """Sums in units of counts and features, noise or not."""
    size = sums.first.shape[-1]
    scale: float | np.ndarray = _SQUARES_BOUND * math.sqrt(size)
    if self.structure != 'diagonal':
      scale = size / _triangle_weights(size)[None]
    return GaussianSums(
      sums.counts * (_BOUND / _COUNT),
      sums.first * (_BOUND * math.sqrt(size)),
      sums.second * (_BOUND * scale),
    )

  def _second(self, unit: Array, member: Array) -> Array:
    """Second moments of records in the unit ball."""
    size = unit.shape[-1]
    if self.structure == 'diagonal':
      # x^2 / (2 sqrt(F)); norms above 1 are brought to 1.
      squares = unit**2 * (math.sqrt(size) / _SQUARES_BOUND)
      norms = jnp.sqrt(jnp.sum(squares**2, axis=-1, keepdims=True))
      return _product(member, squares / jnp.maximum(norms, 1.0))
    upper = np.triu_indices(size)
    weights = _triangle_weights(size)

    def triangle(weight):
      return _product(unit * weight[:, None], unit)[upper] * weights

    if self.structure == 'pooled':
      return triangle(member.sum(axis=-1))[None]
    return jax.lax.map(triangle, member.T)


def fit(
  statistic: GaussianStatistic,
  sums: GaussianSums,
  stddev: float,
  *,
  floor: bool = True,
  rank: int = 0,
) -> CorrelatedGaussians:
  """Gaussians of classes from noised sums.

  A class with a count within the noise (`class_moments.least_count`) is
  unknown.

  Guarantees:
    Released: nothing more; post-processing of the sums.

  Args:
    statistic: what was summed.
    sums: in units of sensitivity, as `one_release.release` returns them.
    stddev: of the noise on every value of them.
    floor: eigenvalues of a covariance within the noise become their mean;
      otherwise only those below zero are repaired.
    rank: 0, or how many of the largest eigenvalues are kept, whatever the
      noise; the others become their mean.

  Returns:
    The Gaussians. If no class stands out from the noise, all are N(0, I).
  """
  validate.non_negative(stddev=stddev)
  validate.non_negative_int(rank=rank)
  restored = statistic.restored(
    jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), sums)
  )
  size = restored.first.shape[-1]
  if rank > size:
    raise InputError(f'Expected rank <= {size}, the features, got {rank}.')
  least = class_moments.least_noised(stddev * _BOUND / _COUNT)
  known = np.asarray(restored.counts >= least)
  counts = np.where(known, restored.counts, 0.0)
  # Of an unknown class nothing is divided.
  inverse = np.where(known, 1 / np.where(known, counts, 1.0), 0.0)
  classes = _Classes(
    known,
    counts,
    np.asarray(restored.first) * inverse[:, None],
    # The square of a noised mean has the noise's variance too much.
    (stddev * _BOUND * math.sqrt(size) * inverse) ** 2,
  )
  second = np.asarray(restored.second)
  if statistic.structure == 'diagonal':
    factors = _standard_deviations(second * inverse[:, None], classes)
  else:
    # The largest eigenvalue of the noise on a sum of outer products.
    edge = stddev * _BOUND * size * math.sqrt(2 * size) if floor else 0.0
    if statistic.structure == 'pooled':
      # Records of unknown classes are in it, too.
      total = max(float(np.sum(restored.counts)), counts.sum())
      total = total if known.any() else 0.0
      factors = _factor(second[0], total, counts, classes, edge, rank)[None]
    else:
      own = np.diag(counts)
      factors = np.stack(
        [
          _factor(outer, total, share, classes, edge, rank)
          for outer, total, share in zip(second, counts, own, strict=True)
        ]
      )
  return CorrelatedGaussians(
    jnp.asarray(known),
    *(
      jnp.asarray(values, jnp.float32)
      for values in (counts, classes.means, factors)
    ),
  )


class _Classes(NamedTuple):
  """What is known of classes but for their spread.

  Attributes:
    known, counts, means: as in `CorrelatedGaussians`.
    noise: `[C]` variance of the noise on a value of the means.
  """

  known: np.ndarray
  counts: np.ndarray
  means: np.ndarray
  noise: np.ndarray


def _factor(
  outer: np.ndarray,
  total: float,
  counts: np.ndarray,
  classes: _Classes,
  edge: float,
  rank: int,
) -> np.ndarray:
  """L of a covariance; that of N(0, I) where nothing is known.

  Args:
    outer: triangle of the summed outer products.
    total: records in it.
    counts: `[C]` of those, which are about the mean of a known class.
    classes: their means.
    edge: of the eigenvalues of the noise on the sum.
    rank: how many eigenvalues are kept; 0 for those above the edge.
  """
  size = classes.means.shape[-1]
  if total <= 0:
    return np.eye(size)
  shares = counts / total
  explained = (shares[:, None] * classes.means).T @ classes.means
  covariance = _symmetric(outer, size) / total - explained
  covariance += np.eye(size) * np.sum(shares * classes.noise)
  return _root(covariance, edge / total, rank)


def _standard_deviations(squares: np.ndarray, classes: _Classes) -> np.ndarray:
  """`[C, F]` about the means of classes, from means of squares."""
  variances = squares - classes.means**2 + classes.noise[:, None]
  of_known = variances[classes.known]
  least = _LEAST_VARIANCE * (max(of_known.mean(), 0) if of_known.size else 0)
  variances = np.maximum(variances, least or _LEAST_VARIANCE)
  return np.where(classes.known[:, None], np.sqrt(variances), 1.0)


def members(
  inputs: Array, labels: Array, mask: Array, num_classes: int
) -> Array:
  """`[n, C]` which class a record counts for.

  None if it is masked out, is not finite or has a label out of range.
  """
  counts = mask & jnp.isfinite(inputs).all(axis=-1)
  # A label out of range is one of no class.
  return jax.nn.one_hot(labels, num_classes) * counts[:, None]


def in_unit_ball(inputs: Array) -> Array:
  """`[n, F]` records over sqrt(F), scaled to a norm of 1 where it is above.

  A record that is not finite becomes zeros.
  """
  finite = jnp.isfinite(inputs).all(axis=-1, keepdims=True)
  inputs = jnp.where(finite, inputs, 0.0)
  # Squares of 1e30 have no float: the largest feature is taken out first.
  largest = jnp.max(jnp.abs(inputs), axis=-1, keepdims=True)
  scaled = inputs / jnp.where(largest > 0, largest, 1.0)
  norm = jnp.sqrt(jnp.sum(scaled**2, axis=-1, keepdims=True))
  direction = scaled / jnp.where(norm > 0, norm, 1.0)
  root = math.sqrt(inputs.shape[-1])
  return direction * jnp.minimum(largest / root * norm, 1.0)


def _product(left: Array, right: Array) -> Array:
  """`left^T right`, not in the reduced precision some accelerators have."""
  return jnp.matmul(left.T, right, precision=jax.lax.Precision.HIGHEST)


def _triangle_weights(size: int) -> np.ndarray:
  """`[F (F + 1) / 2]`, by which a triangle has the norm of its matrix."""
  rows, columns = np.triu_indices(size)
  return np.where(rows == columns, 1.0, math.sqrt(2)).astype(np.float32)


def _symmetric(triangle: np.ndarray, size: int) -> np.ndarray:
  matrix = np.zeros((size, size))
  matrix[np.triu_indices(size)] = triangle
  return matrix + np.triu(matrix, 1).T


def _root(covariance: np.ndarray, edge: float, rank: int) -> np.ndarray:
  """L with L L^T the covariance, repaired.

  Args:
    covariance: `[F, F]`, noised.
    edge: the largest eigenvalue of the noise alone.
    rank: how many eigenvalues are kept; 0 for those above the edge.
  """
  values, vectors = np.linalg.eigh(covariance)
  kept = values > edge
  if rank:
    kept = np.arange(len(values)) >= len(values) - rank
  least = _LEAST_VARIANCE * max(float(np.trace(covariance)), 0) / len(values)
  least = least or _LEAST_VARIANCE
  if not kept.all():
    values = np.where(kept, values, values[~kept].mean())
  return vectors * np.sqrt(np.maximum(values, least))
