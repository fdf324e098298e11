"""Methods of one upload: clients send a noised sum once; nothing is trained.

What is fitted to the sum afterwards is post-processing: Gaussians of classes
(`ClassGaussians`), or a generator with the same mean embeddings (`DP-MERF`).
"""

from collections.abc import Callable
import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np

from fedjax_gen import fields
from fedjax_gen.algorithms import dp_merf
from fedjax_gen.algorithms.dp_merf import MerfConfig
from fedjax_gen.data.sources import DataSource
from fedjax_gen.errors import InputError
from fedjax_gen.federated.statistics import correlated_gaussians
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.privacy.one_upload import gaussian_release, kernel_release
from fedjax_gen.privacy.one_upload.gaussian_release import GaussianStatistic
from fedjax_gen.privacy.one_upload.one_release import Statistic
from fedjax_gen.running.saves import saving
from fedjax_gen.types import Array, Key, Tree


@dataclasses.dataclass(frozen=True)
class GaussianConfig(fields.Configuration):
  """ClassGaussians: what is released, and what is made of it."""

  gaussians: str = fields.option(
    'pooled',
    'Covariance of the Gaussians: one of all classes, one of each, or '
    'variances alone, of each',
    choices=gaussian_release.STRUCTURES,
  )
  gaussian_floor: bool = fields.option(
    True, 'Eigenvalues within the noise become their mean'
  )
  gaussian_rank: int = fields.non_negative_int(
    0,
    'Eigenvalues that are kept, whatever the noise, the others becoming '
    'their mean; 0 for those above the noise',
  )

  def statistic(self, num_classes: int) -> GaussianStatistic:
    """What clients sum."""
    return GaussianStatistic(num_classes, self.gaussians)

  def fit(
    self, num_classes: int, sums: Tree, stddev: float
  ) -> correlated_gaussians.CorrelatedGaussians:
    """Gaussians of noised sums; see `gaussian_release.fit`."""
    return gaussian_release.fit(
      self.statistic(num_classes),
      gaussian_release.GaussianSums(*sums),
      stddev,
      floor=self.gaussian_floor,
      rank=self.gaussian_rank,
    )


class Fitted(NamedTuple):
  """What was made of the sum: a generator.

  Attributes:
    known: `[C]` bool, classes that stand out from the noise.
    sample: `(labels [n], key) -> [n, F]`.
    save: `(workdir, name, source) -> None`, for `fedjax_gen.load`.
  """

  known: np.ndarray
  sample: Callable[[Array, Key], Array]
  save: Callable[[str | os.PathLike, str, DataSource], Any]

  def classes(self) -> np.ndarray:
    """Those to generate: the known ones, or all if none is."""
    if not self.known.any():
      return np.arange(len(self.known))
    return np.flatnonzero(self.known)


class OneUpload(NamedTuple):
  """A method of one upload.

  Attributes:
    spec: of the data.
    statistic: what clients sum.
    fit: `(sums, stddev of their noise, key) -> Fitted`.
    stddev: of the noise on every value of the sum over clients.
  """

  spec: DataSpec
  statistic: Statistic
  fit: Callable[[Tree, float, Key], Fitted]
  stddev: float = 0.0


def class_gaussians(config: GaussianConfig, spec: DataSpec) -> OneUpload:
  """Gaussians of classes, sampled as they are.

  Raises:
    InputError: more eigenvalues are to be kept than there are features.
  """
  check_rank(config, spec)

  def fit(sums, stddev, key):
    del key  # nothing is drawn
    found = config.fit(spec.num_classes, sums, stddev)

    def sample(labels, key):
      return correlated_gaussians.sample(found, labels, key)

    def save(workdir, name, source):
      return saving.save_gaussians(workdir, name, source, found)

    return Fitted(np.asarray(found.known), sample, save)

  return OneUpload(spec, config.statistic(spec.num_classes), fit)


def check_rank(config: GaussianConfig, spec: DataSpec) -> None:
  """Raises `InputError` if more eigenvalues are to be kept than there are."""
  size = spec.shape[0]
  if config.gaussian_rank > size:
    raise InputError(
      f'Expected gaussian_rank <= {size}, the number of features, got '
      f'gaussian_rank={config.gaussian_rank}.'
    )


def merf(config: MerfConfig, spec: DataSpec) -> OneUpload:
  """A generator with the mean embeddings that were released."""
  statistic, generator = config.statistic(spec), config.generator(spec)

  def fit(sums, stddev, key):
    embeddings = kernel_release.mean_embeddings(statistic, sums, stddev)
    variables, _ = dp_merf.fit_generator(config, spec, embeddings, key)
    known = np.asarray(embeddings.known)

    def sample(labels, key):
      return generator.sample_each(variables, labels, key)

    def save(workdir, name, source):
      return saving.save_feature_generator(
        workdir,
        name,
        source,
        variables,
        noise_size=config.merf_noise_size,
        hidden_size=config.merf_hidden_size,
        known=known,
      )

    return Fitted(known, sample, save)

  return OneUpload(spec, statistic, fit)
