"""Everything measured of a trained generator, under one set of names."""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np

from fedjax_gen import fields, keys, validate
from fedjax_gen.data.sources import DataSource
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import (
  baselines,
  kind_scores,
  neighbours,
  samples as samples_lib,
  utility,
)
from fedjax_gen.evaluation.networks import features, judges
from fedjax_gen.models.generator import Generator
from fedjax_gen.types import Variables

# More are a typing error, and no memory would hold them.
_MAX_SAMPLES = 1_000_000
_MAX_IMPORTANCE_SAMPLES = 100_000


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(fields.Configuration):
  """What is measured at the end."""

  num_samples: int = fields.positive_int(
    2000, 'Images to generate for FID, KID, IS, precision and recall.'
  )
  extractor: str = fields.option(
    'classifier',
    'Feature network for FID, KID, precision and recall: classifier (trained '
    'here on the real data), efficientnet_lite0 (trained on ImageNet; extra '
    'efficientnet), onnx:PATH or torchscript:PATH.',
  )
  importance_samples: int = fields.non_negative_int(
    64, 'S of the importance-weighted bound; 0 leaves it out.'
  )
  num_local_models: int = fields.positive_int(
    3, 'Local-only models measured (the first clients).'
  )

  def __post_init__(self):
    super().__post_init__()
    if not samples_lib.MIN_SAMPLES <= self.num_samples <= _MAX_SAMPLES:
      raise InputError(
        f'Expected {samples_lib.MIN_SAMPLES} <= num_samples <= {_MAX_SAMPLES}, '
        f'got num_samples={self.num_samples}.'
      )
    if self.importance_samples > _MAX_IMPORTANCE_SAMPLES:
      raise InputError(
        f'Expected importance_samples <= {_MAX_IMPORTANCE_SAMPLES}, got '
        f'importance_samples={self.importance_samples}.'
      )


def extractor_builder(
  name: str, source: DataSource, *, seed: int
) -> Callable[[], features.FeatureExtractor | None]:
  """Prepares the feature network that is asked for.

  What may be a mistake is read at once; what takes long, the training of the
  classifier, is left to the function returned.

  Args:
    name: `classifier`, `efficientnet_lite0`, `onnx:PATH` or `torchscript:PATH`.
    source: the data; its training images teach the classifier.
    seed: of the classifier's training.

  Returns:
    A function that gives the network; None where there is nothing to compare:
    feature vectors, series or rows without classes, or fewer than
    `samples.MIN_SAMPLES` examples of a split (twice as many of the training
    split, for the classifier).

  Raises:
    InputError: unknown name, an unreadable file, a missing extra.
  """
  extractor = None
  if name != 'classifier':
    extractor = features.network_extractor(name)
  sizes = [len(part.labels) for part in (source.train, source.test)]
  # A classifier of one class knows nothing of series or rows.
  is_judged = source.is_image or (
    source.kind.has_layout and source.num_classes > 1 and extractor is None
  )
  if not is_judged or min(sizes) < samples_lib.MIN_SAMPLES:
    return lambda: None
  if extractor is not None:
    return lambda: extractor
  if sizes[0] < 2 * samples_lib.MIN_SAMPLES:
    return lambda: None  # its two halves are needed

  def fitted():
    rows = _fitted_half(sizes[0])
    return features.classifier_extractor(
      _short_name(source.name),
      source.train.inputs[rows],
      source.train.labels[rows],
      source.test.inputs,
      source.test.labels,
      source.num_classes,
      seed=seed,
      recipe=judges.judge_recipe(source.input_shape),
    )._replace(fitted_rows=rows)

  return fitted


def requested_labels(source: DataSource, num: int) -> np.ndarray:
  """`[num]` labels in the proportions of the training data, in label order."""
  ordered = np.sort(source.train.labels)
  return ordered[np.linspace(0, len(ordered) - 1, num).round().astype(int)]


def evaluate_vaes(
  generator: Generator,
  models: Sequence[Variables],
  source: DataSource,
  extractor: features.FeatureExtractor | None,
  config: EvaluationConfig,
  *,
  seed: int,
  by_training: bool = True,
) -> dict[str, float]:
  """Measures one model, or the mean over several.

  Args:
    generator: the model.
    models: its variables; one, or those of several clients.
    source: its test split is held out.
    extractor: of features; None leaves out all that looks at images.
    config: what to measure.
    seed: of all draws.
    by_training: whether to compare with training records too, which no
      differential privacy of the model covers.

  Returns:
    flat, finite numbers: bounds of a model that has them (`test_elbo`, ...),
    `fid_<extractor>` and its
    kin, `memorised_share` and `dcr_share` (with `by_training`), and the
    accuracy of a classifier trained on generated and tested on real data:
    `tstr_accuracy` for a conditional model,
    `tstr_accuracy_labels_by_<extractor>` where the extractor's classifier has
    to label the samples.
  """
  reference = None
  if extractor is not None:
    reference = _Reference(
      extractor,
      extractor.features(source.test.inputs),
      neighbours.nearest(source.test.inputs, source.train.inputs).distances
      if by_training
      else None,
    )
  results = [
    _evaluate(
      generator, variables, source, reference, config, seed, by_training
    )
    for variables in models
  ]
  return {
    name: float(np.mean([result[name] for result in results]))
    for name in results[0]
  }


def evaluate_real(
  source: DataSource,
  extractor: features.FeatureExtractor | None,
  config: EvaluationConfig,
  *,
  seed: int,
) -> dict[str, float]:
  """Measures real training images as if they had been generated.

  What a perfect generator would score at this number of samples. Images that
  the extractor was fitted to are left out: it knows them better than any that
  are new.
  """
  unseen = np.arange(len(source.train.labels))
  if extractor is not None:
    unseen = extractor.unseen_rows(len(unseen))
  rng = np.random.default_rng(seed)
  rows = rng.permutation(unseen)[: config.num_samples]
  return _evaluate_drawn(
    source.train.inputs[rows],
    source.train.labels[rows],
    source,
    extractor,
    seed,
  )


def evaluate_baseline(
  name: str,
  source: DataSource,
  extractor: features.FeatureExtractor | None,
  config: EvaluationConfig,
  *,
  seed: int,
) -> dict[str, float]:
  """Measures a trivial generator, made of training examples in one place.

  Args:
    name: a key of `baselines.BASELINES`.
    source: encoded series or a table.
    extractor: as in `evaluate_vaes`.
    config: how many to draw.
    seed: of the draws.

  Raises:
    InputError: there is no such baseline.
  """
  validate.one_of(baselines.BASELINES, name=name)
  labels = requested_labels(source, config.num_samples)
  drawn = baselines.BASELINES[name](source.train, labels, seed=seed)
  return _evaluate_drawn(drawn, labels, source, extractor, seed)


def _evaluate_drawn(images, labels, source, extractor, seed):
  """Measures examples, whoever made them, against the test split."""
  metrics: dict[str, float] = {}
  if source.kind.has_layout:
    metrics = kind_scores.measure(source, images, labels, seed=seed)
  if extractor is None:
    return metrics
  return (
    metrics
    | samples_lib.evaluate_samples(
      extractor, source.test.inputs, images, seed=seed
    )
    | {'tstr_accuracy': _tstr(images, labels, source, seed)}
  )


def sample_images(
  generator: Generator, variables: Variables, labels: np.ndarray, *, seed: int
) -> np.ndarray:
  """Generated examples for the requested labels, in stored form."""
  key = keys.derive(seed, 'samples')
  return generator.sample(variables, labels, key)


def held_out_bounds(
  generator: Generator,
  variables: Variables,
  source: DataSource,
  *,
  seed: int,
  importance_samples: int = 0,
) -> dict[str, float]:
  """Bounds on the held-out data: the same seed, the same draws.

  See `Generator.bounds`; nothing for a model without any.
  """
  if generator.bounds is None:
    return {}
  return generator.bounds(
    variables,
    source.test.inputs,
    source.test.labels,
    keys.derive(seed, 'bounds'),
    importance_samples=importance_samples,
  )


class _Reference(NamedTuple):
  """What is measured once of the real data, for any number of models."""

  extractor: features.FeatureExtractor
  features: np.ndarray
  distances: np.ndarray | None


def _evaluate(
  generator, variables, source, reference, config, seed, by_training
):
  """Measures one model."""
  metrics = held_out_bounds(
    generator,
    variables,
    source,
    seed=seed,
    importance_samples=config.importance_samples,
  )
  if reference is None and not source.kind.has_layout:
    return metrics
  labels = requested_labels(source, config.num_samples)
  images = sample_images(generator, variables, labels, seed=seed)
  if source.kind.has_layout:
    metrics |= kind_scores.measure(
      source, images, labels, seed=seed, by_training=by_training
    )
  if reference is None:
    return metrics
  extractor = reference.extractor
  probabilities = None
  if extractor.probabilities is not None:
    probabilities = extractor.probabilities(images)
  metrics |= samples_lib.compare_features(
    extractor.name,
    reference.features,
    extractor.features(images),
    probabilities,
    seed=seed,
  )
  if generator.conditional:
    metrics['tstr_accuracy'] = _tstr(images, labels, source, seed)
    if extractor.knows_labels:
      metrics[f'label_agreement_{extractor.name}'] = utility.label_agreement(
        extractor, images, labels
      )
  elif extractor.knows_labels and probabilities is not None:
    metrics[f'tstr_accuracy_labels_by_{extractor.name}'] = _tstr(
      images, probabilities.argmax(axis=1), source, seed
    )
  if reference.distances is not None:
    metrics['memorised_share'] = neighbours.memorised_share(
      neighbours.nearest(images, source.train.inputs).distances,
      reference.distances,
    )
    metrics['dcr_share'] = neighbours.dcr_share(
      images, source.train.inputs, source.test.inputs, seed=seed
    )
  return metrics


def _fitted_half(num: int) -> np.ndarray:
  """The training images that a classifier is fitted to, whatever the seed."""
  return np.sort(np.random.default_rng(0).permutation(num)[: num // 2])


def _short_name(name: str) -> str:
  """What metric names call the data: of a path its last part."""
  if name.startswith('tfds:'):
    return name.removeprefix('tfds:').replace('/', '-')
  path = pathlib.PurePath(name.rpartition(':')[2])
  return path.stem if path.suffix == '.npz' else path.name


def _tstr(images, labels, source, seed):
  return utility.tstr_accuracy(
    images,
    labels,
    source.test.inputs,
    source.test.labels,
    source.num_classes,
    seed=seed,
  )
