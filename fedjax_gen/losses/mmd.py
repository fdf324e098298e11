"""Maximum mean discrepancy of two samples, with a sum of Gaussian kernels.

Gretton et al., "A kernel two-sample test", JMLR 13, 2012. Bandwidths are fixed
numbers times the dimension and do not look at the data: the median
distance, the usual choice, would be an undeclared release.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fedjax_gen.errors import InputError
from fedjax_gen.types import Array

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Bandwidths s, for embeddings with an expected squared distance of about 2 F,
as coordinates of mean 0 and variance 1 have."""


def multi_kernel(
  left: Array, right: Array, scales: Sequence[float] = SCALES
) -> Array:
  """The mean over scales s of `exp(-|a - b|^2 / (2 s F))`, of all pairs.

  Distances are computed as `|a|^2 + |b|^2 - 2 a.b`, in memory of A x B and to
  a precision relative to `|a|^2`: embeddings far from the origin are better
  centred.

  Args:
    left: `[A, F]`.
    right: `[B, F]`.
    scales: bandwidths in units of F, above zero.

  Returns:
    `[A, B]` in (0, 1], 1 where the two agree.
  """
  products = jnp.matmul(left, right.T, precision=jax.lax.Precision.HIGHEST)
  ours, theirs = jnp.sum(left**2, axis=-1), jnp.sum(right**2, axis=-1)
  lengths = ours[:, None] + theirs[None]
  # Rounding may leave less than nothing of a distance.
  squared_distances = jnp.maximum(lengths - 2 * products, 0.0) / left.shape[-1]
  kernels = [jnp.exp(-squared_distances / (2 * scale)) for scale in scales]
  return sum(kernels, start=jnp.zeros(())) / len(kernels)


def squared(
  real: Array,
  generated: Array,
  real_mask: Array | None = None,
  generated_mask: Array | None = None,
  scales: Sequence[float] = SCALES,
) -> Array:
  """MMD^2 of two samples, the biased V-statistic: means over all pairs.

  Zero of equal samples and, but for rounding, never below zero.

  Args:
    real: `[A, F]`.
    generated: `[B, F]`.
    real_mask: `[A]`, which count; all, by default. With none it is NaN-free
      and means nothing.
    generated_mask: `[B]`, likewise.
    scales: bandwidths, see `multi_kernel`.

  Returns:
    A scalar.
  """
  ours, theirs = _weights(real, real_mask), _weights(generated, generated_mask)
  within = ours @ multi_kernel(real, real, scales) @ ours
  among = theirs @ multi_kernel(generated, generated, scales) @ theirs
  across = ours @ multi_kernel(real, generated, scales) @ theirs
  return within + among - 2 * across


def unbiased(
  real: Array, generated: Array, scales: Sequence[float] = SCALES
) -> Array:
  """MMD^2 of two samples, the unbiased U-statistic (Gretton et al., eq. 3).

  An example is not paired with itself: k(g, g) = 1 rewards a generator for
  nothing, and the fewer its samples, the more it pays to draw them together.
  The optimal standard deviation of 4 samples in 32 dimensions is 0.78 of the
  truth with these pairs, and the truth without. May be below zero.

  Args:
    real: `[A, F]`, two or more.
    generated: `[B, F]`, two or more.
    scales: bandwidths, see `multi_kernel`.

  Returns:
    A scalar.
  """
  across = jnp.mean(multi_kernel(real, generated, scales))
  among = _among(generated, 'generated', scales)
  return _among(real, 'real', scales) + among - 2 * across


def record_term(
  record: Array, generated: Array, scales: Sequence[float] = SCALES
) -> Array:
  """One real record's share of MMD^2: mean k(g, g') - 2 mean k(x, g).

  The first mean is over pairs of two different examples. The mean over records
  is `unbiased` less what no generator changes. So it has the gradient of
  `unbiased`, record by record, as clipping asks for, as long as `generated`
  does not depend on real records.

  Args:
    record: `[F]`.
    generated: `[S, F]`, drawn from the prior, two or more.
    scales: bandwidths, see `multi_kernel`.

  Returns:
    A scalar.
  """
  across = jnp.mean(multi_kernel(record[None], generated, scales))
  return _among(generated, 'generated', scales) - 2 * across


def _among(values: Array, name: str, scales: Sequence[float]) -> Array:
  """The mean of the kernel over pairs of two different examples."""
  num = values.shape[0]
  if num < 2:
    raise InputError(
      f'Expected 2 or more {name} examples, for the MMD takes pairs, got {num}.'
    )
  kernels = multi_kernel(values, values, scales)
  # Masked and not subtracted: rounding may leave the diagonal below 1.
  others = ~jnp.eye(num, dtype=bool)
  return jnp.sum(jnp.where(others, kernels, 0.0)) / (num * (num - 1))


def _weights(values: Array, mask: Array | None) -> Array:
  """`[A]` weights that add up to one over the masked-in examples."""
  if mask is None:
    return jnp.full(values.shape[0], 1 / values.shape[0])
  mask = mask.astype(values.dtype)
  return mask / jnp.maximum(mask.sum(), 1)
