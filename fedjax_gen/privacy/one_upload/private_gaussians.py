"""Gaussians of features by class, from sums with noise."""

import jax.numpy as jnp

from fedjax_gen.federated.statistics.class_gaussians import (
  FLOOR,
  ClassGaussians,
  Rules,
)
from fedjax_gen.federated.statistics.class_sums import ClassSums
from fedjax_gen.privacy.one_upload import class_moments


def joined(
  before: ClassGaussians,
  sent: ClassSums,
  rules: Rules,
  *,
  feature_scale: float,
  stddev: float,
) -> ClassGaussians:
  """The Gaussians of all clients, from noised means of contributions.

  A class with a share within two standard deviations of the noise counts as
  one that nobody holds. Clients count alike, whatever they hold.

  Guarantees:
    Released: nothing more; post-processing of what was.

  Args:
    before: what there was.
    sent: the aggregate of `noise.private_server`.
    rules: the shape of sigma is used.
    feature_scale: what features were divided by.
    stddev: of the noise on `sent`.
  """
  sums = class_moments.restored(sent)
  least = 2 * class_moments.count_stddev(stddev) + 1e-6
  counts, means, variances = sums.moments(least)
  known = counts > 0
  if rules.is_shared:
    total = jnp.maximum(counts.sum(), 1e-6)
    variances = jnp.sum(counts[:, None] * variances, axis=0)[None] / total
  found = jnp.sqrt(jnp.maximum(variances * feature_scale**2, FLOOR))
  has_spread = known.any() if rules.is_shared else known[:, None]
  return ClassGaussians(
    before.known | known,
    jnp.where(known[:, None], means * feature_scale, before.means),
    jnp.where(has_spread, found, before.stddev),
  )
