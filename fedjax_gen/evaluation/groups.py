"""Samples requested by group: metrics of each group and of all together.

A group is a kind of images (digits and garments; faces, animals and ships), and
a generator is asked for images of one. Everything here takes arrays and feature
extractors, so any generator is measured by the same code.

The metrics are ours: how the authors of FissionVAE (Hu et al., "FissionVAE:
Federated Non-IID Image Generation with Latent Space and Decoder Decomposition",
2024, https://arxiv.org/abs/2408.17090) measure groups is not known to us.
"""

from collections.abc import Sequence
import os
import pathlib
from typing import NamedTuple

import numpy as np

from fedjax_gen import validate
from fedjax_gen.data.sources import DataSource
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks, distances, kind_scores, samples
from fedjax_gen.evaluation.group_requests import (
  groups_of,
  metric_names,
  spread,
)
from fedjax_gen.evaluation.group_separation import leakage
from fedjax_gen.evaluation.networks import features, judges


class GroupExtractors(NamedTuple):
  """Classifiers that measure generated images."""

  classes: features.FeatureExtractor | None
  """of features for FID, KID, IS, precision and recall; None: left out."""
  groups: features.FeatureExtractor
  """its probabilities are `[n, G]`: a classifier of groups."""


class GroupReference(NamedTuple):
  """What is measured once of the real images, for any number of methods."""

  source: DataSource
  extractors: GroupExtractors
  names: tuple[str, ...]
  """one for each group, as it stands in metric names."""
  features: np.ndarray | None
  """`[n, F]` of the real held-out images; None without `extractors.classes`."""
  floor: dict[str, float]
  """leakage of the real held-out images: what the classifier of groups gets
  wrong by itself, `1 - accuracy`, under the names of generated images."""


def group_classifier(
  source: DataSource,
  *,
  seed: int = 0,
  recipe: judges.Recipe = judges.DEFAULT_RECIPE,
  cache_dir: str | os.PathLike | None = None,
) -> features.FeatureExtractor:
  """Trains a classifier of groups on the real training images, or loads it.

  Args:
    source: images with groups in both splits.
    seed: of the training.
    recipe: steps, batch size and learning rate.
    cache_dir: folder of trained classifiers; the user's cache if None.

  Returns:
    the extractor, `<source>_groups_classifier`; its probabilities are
    `[n, G]`, its description states the accuracy on held-out images, and
    `GroupReference.floor` the leakage that follows from it.
  """
  train_groups, test_groups = (
    groups_of(source, 'train'),
    groups_of(source, 'test'),
  )
  # Paths are known by their last part; `groups:` before one says nothing new.
  path = pathlib.PurePath(source.name.rpartition(':')[2])
  name = path.stem if path.suffix == '.npz' else path.name
  extractor = features.classifier_extractor(
    f'{name}_groups',
    source.train.inputs,
    train_groups,
    source.test.inputs,
    test_groups,
    len(source.group_names),
    seed=seed,
    recipe=recipe,
    cache_dir=cache_dir,
  )
  return extractor._replace(knows_labels=False)


def group_reference(
  source: DataSource, extractors: GroupExtractors
) -> GroupReference:
  """Measures the real held-out images, once for all methods.

  Returns:
    the reference for `evaluate_group_samples` and `curve_metrics`.

  Raises:
    InputError: no images, no groups, or an extractor with probabilities of
      other groups.
  """
  inputs, groups = source.test.inputs, groups_of(source, 'test')
  names = metric_names(source.group_names)
  floor = _leakages(extractors.groups, names, inputs, groups)
  found = None
  if extractors.classes is not None:
    found = extractors.classes.features(inputs)
  return GroupReference(source, extractors, names, found, floor)


def evaluate_group_samples(
  images: np.ndarray,
  requested: np.ndarray,
  reference: GroupReference,
  *,
  seed: int = 0,
) -> dict[str, float]:
  """Compares generated images with real held-out ones, by group and pooled.

  Args:
    images: uint8 `[n, H, W, C]` generated images.
    requested: `[n]` the group each was asked for; see
      `group_requests.requested_groups`. Compare methods at equal numbers in
      each group only.
    reference: of the real images.
    seed: of the subsets of the kernel distance and Inception Score.

  Returns:
    flat, finite numbers. Of all images: `num_real`, `num_generated`, those of
    `samples.compare_features` (such as `fid_<extractor>`), `group_leakage` and
    `group_entropy`. Of each group the same with its name appended, such as
    `fid_<extractor>/mnist`. `group_mean_fid_<extractor>` is the unweighted
    mean of the groups' FID. With fewer than `samples.MIN_SAMPLES` real or
    generated images there are no feature metrics, and no mean if that is so
    for any group; a group that was not requested has no leakage.
  """
  images, requested = _checked(images, requested, reference)
  return _distances(images, requested, reference, seed) | _leakages(
    reference.extractors.groups, reference.names, images, requested
  )


def evaluate_real_groups(
  reference: GroupReference, num: int, *, seed: int = 0
) -> dict[str, float]:
  """Measures real training images as if they had been generated.

  What a perfect generator would score at this number of samples. Images that
  the extractor of classes was fitted to are left out. Leakage and
  entropy are those of the real held-out images, `GroupReference.floor`: the
  classifier of groups has seen the training images before.

  Args:
    reference: of a source with groups in the training split too.
    num: images, in the numbers of
      `group_requests.requested_groups`; all there are, if those are fewer.
    seed: of the choice of images, and as for `evaluate_group_samples`.

  Returns:
    as `evaluate_group_samples`.
  """
  groups = groups_of(reference.source, 'train')
  validate.positive_int(num=num)
  validate.non_negative_int(seed=seed)
  unseen = np.arange(len(groups))
  if reference.extractors.classes is not None:
    unseen = reference.extractors.classes.unseen_rows(len(groups))
  order = np.random.default_rng(seed).permutation(unseen)
  order = order[np.argsort(groups[order], kind='stable')]
  rows = spread(order, min(num, len(order)))
  source = reference.source
  images = source.train.inputs[rows]
  metrics = _distances(images, groups[rows], reference, seed) | reference.floor
  if source.kind.has_layout:
    metrics |= kind_scores.measure(
      source, images, source.train.labels[rows], seed=seed
    )
  return metrics


def curve_metrics(
  images: np.ndarray, requested: np.ndarray, reference: GroupReference
) -> dict[str, float]:
  """Measures what is cheap enough to be followed during training.

  Args:
    images: uint8 `[n, H, W, C]` generated images; a few hundred will do.
    requested: `[n]` the group each was asked for.
    reference: of the real images.

  Returns:
    `group_leakage` and `group_entropy`, of all images and by group, and the
    pooled `fid_<extractor>` if there is an extractor and there are
    `samples.MIN_SAMPLES` images. That of few images is far above that of many:
    a curve compares with curves at the same n, not with a final result.
  """
  images, requested = _checked(images, requested, reference)
  metrics = _leakages(
    reference.extractors.groups, reference.names, images, requested
  )
  extractor, real = reference.extractors.classes, reference.features
  if extractor is None or real is None:
    return metrics
  if min(len(real), len(images)) >= samples.MIN_SAMPLES:
    metrics[f'fid_{extractor.name}'] = distances.frechet_distance(
      real, extractor.features(images)
    )
  return metrics


def _checked(
  images: np.ndarray, requested: np.ndarray, reference: GroupReference
) -> tuple[np.ndarray, np.ndarray]:
  """Returns both as NumPy arrays that fit to the reference."""
  images, requested = np.asarray(images), np.asarray(requested)
  real = reference.source.test.inputs
  if reference.source.is_image:
    checks.images_alike(real=real, images=images)
  else:
    checks.examples_alike(real=real, generated=images)
  checks.labels(len(images), len(reference.names), requested=requested)
  return images, requested


def _distances(
  images: np.ndarray,
  requested: np.ndarray,
  reference: GroupReference,
  seed: int,
) -> dict[str, float]:
  """Returns numbers of images and feature metrics, pooled and by group."""
  real_masks = _masks(groups_of(reference.source, 'test'), reference.names)
  masks = _masks(requested, reference.names)
  metrics: dict[str, float] = {}
  for suffix, rows in masks.items():
    metrics[f'num_real{suffix}'] = float(real_masks[suffix].sum())
    metrics[f'num_generated{suffix}'] = float(rows.sum())
  extractor, real = reference.extractors.classes, reference.features
  if extractor is None or real is None:
    return metrics

  generated, probabilities = extractor.features(images), None
  if extractor.probabilities is not None:
    probabilities = extractor.probabilities(images)
  for suffix, rows in masks.items():
    real_rows = real_masks[suffix]
    if min(real_rows.sum(), rows.sum()) >= samples.MIN_SAMPLES:
      measured = samples.compare_features(
        extractor.name,
        real[real_rows],
        generated[rows],
        None if probabilities is None else probabilities[rows],
        seed=seed,
      )
      metrics |= {f'{name}{suffix}': value for name, value in measured.items()}
  fid = f'fid_{extractor.name}'
  by_group = [metrics.get(f'{fid}/{name}') for name in reference.names]
  known = [value for value in by_group if value is not None]
  if len(known) == len(by_group):
    metrics[f'group_mean_{fid}'] = float(np.mean(known))
  return metrics


def _leakages(
  extractor: features.FeatureExtractor,
  names: Sequence[str],
  images: np.ndarray,
  requested: np.ndarray,
) -> dict[str, float]:
  """Returns leakage and entropy, of all images and by requested group."""
  if extractor.probabilities is None:
    raise InputError(
      'Expected a classifier of groups, got the extractor '
      f'{extractor.name!r}, which has no probabilities.'
    )
  probabilities = extractor.probabilities(images)
  if probabilities.shape != (len(images), len(names)):
    raise InputError(
      f'Expected probabilities [{len(images)}, {len(names)}] of '
      f'{len(names)} groups, got {list(probabilities.shape)} from '
      f'{extractor.name!r}.'
    )
  metrics = {}
  for suffix, rows in _masks(requested, names).items():
    if rows.any():
      measured = leakage(probabilities[rows], requested[rows])
      metrics[f'group_leakage{suffix}'] = measured.leakage
      metrics[f'group_entropy{suffix}'] = measured.entropy
  return metrics


def _masks(groups: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
  """Returns which examples count, by what is appended to a metric's name."""
  return {'': np.ones(len(groups), bool)} | {
    f'/{name}': groups == group for group, name in enumerate(names)
  }
