"""Mean embeddings of classes by random features, from one noised sum: DP-MERF.

Frederik Harder, Kamil Adamczewski, Mijung Park, "DP-MERF: Differentially
private mean embeddings with random features for practical privacy-preserving
data generation", AISTATS 2021; arXiv 2002.11603.

Published: random Fourier features phi(x) of a Gaussian kernel (Rahimi and
Recht, 2007) have a norm of 1, so that the sum over records of phi(x) in the
column of the class needs little noise; a generator is then trained to have the
same mean embeddings, with no further look at the data.

Ours: clients sum, as for every release here; the number of records of a class
is in the same mechanism, with a weight of 0.2; kernels of several bandwidths,
which are constants times the number of features, where the paper takes the
median distance of the data.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import validate
from fedjax_gen.errors import InputError
from fedjax_gen.privacy.one_upload import class_moments, gaussian_release
from fedjax_gen.types import Array

_COUNT = 0.2  # weight of the count next to phi, of norm 1
_BOUND = math.sqrt(_COUNT**2 + 1)


class KernelSums(NamedTuple):
  """Sums over records.

  Attributes:
    counts: `[C]`.
    features: `[C, D]` of phi(x).
  """

  counts: Array
  features: Array


class MeanEmbeddings(NamedTuple):
  """What is known of each class.

  Attributes:
    known: `[C]` bool, classes with enough records to be known.
    counts: `[C]` records of each class, with noise; 0 where unknown.
    means: `[C, D]` of phi(x); zero where unknown.
  """

  known: Array
  counts: Array
  means: Array


@dataclasses.dataclass(frozen=True)
class KernelStatistic:
  """What is summed, in units of sensitivity; a `one_release.Statistic`.

  Guarantees:
    Released: nothing by itself.
    Sensitivity: a record moves the result by a norm of 1 at most, whatever it
      holds.

  Attributes:
    num_classes: C.
    num_features: D, an even number.
    scales: bandwidths of the kernels, as `losses.mmd` has them, in units of the
      number of inputs; features are shared out to them.
    seed: of the frequencies, which are public.
  """

  num_classes: int
  num_features: int = 1000
  scales: tuple[float, ...] = (0.25, 0.5, 1.0)
  seed: int = 0

  def __post_init__(self):
    validate.positive_int(
      num_classes=self.num_classes, num_features=self.num_features
    )
    validate.non_negative_int(seed=self.seed)
    for scale in self.scales:
      validate.positive(scales=scale)
    if self.num_features % 2 or not self.scales:
      raise InputError(
        'Expected an even num_features and some scales, got '
        f'num_features={self.num_features} and scales={self.scales}.'
      )

  def features(self, inputs: Array) -> Array:
    """phi(x) `[n, D]` of records `[n, F]`, each of norm 1."""
    size, half = inputs.shape[-1], self.num_features // 2
    frequencies = jax.random.normal(jax.random.key(self.seed), (size, half))
    scales = jnp.asarray(np.resize(self.scales, half), jnp.float32)
    angles = jnp.matmul(
      inputs,
      frequencies / jnp.sqrt(scales * size)[None],
      precision=jax.lax.Precision.HIGHEST,
    )
    waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return waves / math.sqrt(half)

  def __call__(self, inputs: Array, labels: Array, mask: Array) -> KernelSums:
    """The sums over records `[n, F]`, in units of sensitivity."""
    member = gaussian_release.members(inputs, labels, mask, self.num_classes)
    # In the ball that Gaussians have: the angle of 1e30 has no digit.
    root = math.sqrt(inputs.shape[-1])
    features = self.features(root * gaussian_release.in_unit_ball(inputs))
    summed = jnp.matmul(member.T, features, precision=jax.lax.Precision.HIGHEST)
    return KernelSums(_COUNT / _BOUND * member.sum(axis=0), summed / _BOUND)

  def restored(self, sums: KernelSums) -> KernelSums:
    """Sums in units of counts and features, noise or not."""
    return KernelSums(sums.counts * (_BOUND / _COUNT), sums.features * _BOUND)


def mean_embeddings(
  statistic: KernelStatistic, sums: KernelSums, stddev: float
) -> MeanEmbeddings:
  """Mean embeddings of the classes that stand out from the noise.

  Guarantees:
    Released: nothing more; post-processing of the sums.

  Args:
    statistic: what was summed.
    sums: in units of sensitivity, as `one_release.release` returns them.
    stddev: of the noise on every value of them.
  """
  validate.non_negative(stddev=stddev)
  restored = statistic.restored(KernelSums(*map(jnp.asarray, sums)))
  known = restored.counts >= class_moments.least_noised(
    stddev * _BOUND / _COUNT
  )
  counts = jnp.where(known, restored.counts, 0.0)
  scale = jnp.where(known, 1 / jnp.where(known, counts, 1.0), 0.0)
  return MeanEmbeddings(known, counts, restored.features * scale[:, None])
