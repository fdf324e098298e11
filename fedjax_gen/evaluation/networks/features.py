"""Feature extractors: the networks that distances between images use.

A distance depends on the extractor as much as on the images, so there is no
default: the caller names one, and its name becomes part of every metric name
(`fid_digits_classifier`).
"""

from collections.abc import Callable
import hashlib
import os
from pathlib import Path
import re
from typing import NamedTuple

import numpy as np

from fedjax_gen import validate
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks
from fedjax_gen.evaluation.networks import (
  classifier_cache,
  imagenet_networks,
  judges,
  network_files,
)


class FeatureExtractor(NamedTuple):
  """Functions of uint8 images `[n, H, W, C]`; batching is their business."""

  name: str
  """letters, digits, `-`, `_` and `.`: the last part of metric names."""
  features: Callable[[np.ndarray], np.ndarray]
  """images to `[n, F]` float32."""
  probabilities: Callable[[np.ndarray], np.ndarray] | None
  """images to `[n, classes]` float32; None where there is no classifier."""
  description: str
  """one or two sentences for a report: what it is and how it was made."""
  knows_labels: bool = False
  """whether the classes of `probabilities` are those of the data."""
  head: np.ndarray | None = None
  """`[F, classes]` weights that make logits of features; None if unknown."""
  fitted_rows: np.ndarray | None = None
  """`[k]` the training images that it was fitted to; None if to none."""

  def unseen_rows(self, num: int) -> np.ndarray:
    """Those of `num` training images that it was not fitted to, in order."""
    if self.fitted_rows is None:
      return np.arange(num)
    return np.setdiff1d(np.arange(num), self.fitted_rows)


def classifier_extractor(
  source_name: str,
  train_inputs: np.ndarray,
  train_labels: np.ndarray,
  test_inputs: np.ndarray,
  test_labels: np.ndarray,
  num_classes: int,
  *,
  seed: int = 0,
  recipe: judges.Recipe = judges.DEFAULT_RECIPE,
  cache_dir: str | os.PathLike | None = None,
) -> FeatureExtractor:
  """Makes an extractor of a classifier trained on the real data, or cached.

  Features of the domain itself say more about digits than those of a network
  that has only seen photographs. Training takes about 5 seconds on 1437 digits
  of 8 x 8 and half a minute on MNIST (2 CPU cores), nothing when cached.

  Args:
    source_name: of the data set (or of what the labels mean: a classifier of
      groups measures group leakage); the extractor is `<source>_classifier`.
    train_inputs: uint8 `[n, H, W, C]` real images.
    train_labels: `[n]` whole numbers below `num_classes`.
    test_inputs: uint8 `[m, H, W, C]` real images for the stated accuracy.
    test_labels: `[m]`.
    num_classes: number of classes.
    seed: of the training.
    recipe: steps, batch size and learning rate.
    cache_dir: folder of trained classifiers; the user's cache if None.

  Returns:
    the extractor: penultimate features (64 up to 16 x 16 pixels, else 128).
  """
  checks.examples_alike(train_inputs=train_inputs, test_inputs=test_inputs)
  checks.labels(len(test_inputs), num_classes, test_labels=test_labels)
  classifier = classifier_cache.train(
    train_inputs,
    train_labels,
    num_classes,
    seed=seed,
    recipe=recipe,
    cache_dir=cache_dir,
  )
  accuracy = classifier.accuracy(test_inputs, test_labels)
  # Networks of different training differ in the scale of their activations;
  # at unit mean square, squared distances and the kernel (x'y / F + 1)^3 mean
  # much the same for all. Some 5000 images tell the scale well enough.
  some_inputs = train_inputs[:: -(-len(train_inputs) // 5000)]
  scale = np.sqrt(np.mean(classifier.features(some_inputs) ** 2)) or 1.0
  name = _metric_name(f'{source_name}_classifier')
  return FeatureExtractor(
    name,
    lambda inputs: classifier.features(inputs) / scale,
    classifier.probabilities,
    f'{name}: a small convolutional classifier trained on '
    f'{len(train_inputs)} real images ({recipe.num_steps} steps, seed '
    f'{seed}); accuracy {accuracy:.4f} on {len(test_inputs)} held-out '
    f'ones. Features: its {classifier.network.num_features} penultimate '
    'activations, scaled to a mean square of 1 on real images.',
    knows_labels=True,
    head=classifier.head * scale,
  )


def network_extractor(source: str) -> FeatureExtractor:
  """Makes an extractor of a network that was not trained on the data.

  Args:
    source: the name of a public network, as for `imagenet_extractor`, or a
      file, as for `file_extractor`.

  Returns:
    the extractor.

  Raises:
    InputError: neither a name nor a file; and as these two functions.
  """
  if source in imagenet_networks.LOADERS:
    return imagenet_extractor(source)
  if ':' not in source:
    raise InputError(
      f'Expected a feature network as {", ".join(imagenet_networks.LOADERS)}, '
      f'onnx:PATH or torchscript:PATH, got {source!r}.'
    )
  return file_extractor(source)


def imagenet_extractor(
  name: str, *, image_size: int = imagenet_networks.IMAGE_SIZE
) -> FeatureExtractor:
  """Makes an extractor of a public network of photographs, by name.

  It has seen ImageNet and nothing of the data, unless these are images of
  ImageNet; of other data it is the same whatever they are.

  Args:
    name: `'efficientnet_lite0'` (extra `fedjax_gen[efficientnet]`).
    image_size: pixels to which images are brought, 32 to 1024. Another size
      than 128 is part of the extractor's name, for it gives other numbers.

  Returns:
    the extractor; its description holds the beginning of the SHA-256 of the
    weights.

  Raises:
    InputError: another name, a size out of range, weights that are not
      installed or are damaged.
  """
  validate.one_of(imagenet_networks.LOADERS, name=name)
  network = imagenet_networks.LOADERS[name](image_size)
  num_features, num_classes = network.head.shape
  if image_size != imagenet_networks.IMAGE_SIZE:
    name = f'{name}_{image_size}'
  return FeatureExtractor(
    name,
    network.features,
    network.probabilities,
    f'{name}: public network trained on ImageNet ({num_classes} classes), '
    f'images resized to {image_size} x {image_size}, SHA-256 of the weights '
    f'{network.digest[:12]}. Features: its {num_features} pooled activations.',
    head=network.head,
  )


def file_extractor(source: str) -> FeatureExtractor:
  """Makes an extractor of a network in a file that the user gives.

  Both kinds of network take RGB images `[n, 3, H, W]` (grey ones are tiled)
  with values 0 to 255 and resize and normalise inside; what exactly they
  expect is said in `network_files`. The original Inception network of FID in
  NVIDIA's export, `inception-2015-12-05.pt`, is one of them.

  Args:
    source: `'torchscript:PATH'` (extra `fedjax_gen[torchscript]`) or
      `'onnx:PATH'` (extra `fedjax_gen[onnx]`).

  Returns:
    the extractor, named after the file; its description holds the beginning
    of the file's SHA-256, since equal names need not be equal networks.

  Raises:
    InputError: another prefix, a library that is not installed, a file that
      cannot be read as such a network; and, from the extractor's functions,
      images that the network refuses.

  Example:
    >>> file_extractor('inception.pt')
    Traceback (most recent call last):
    ...
    fedjax_gen.errors.InputError: Expected a feature network as onnx:PATH or \
torchscript:PATH, got 'inception.pt'.
  """
  kind, _, path = source.partition(':')
  if kind not in network_files.LOADERS or not path:
    raise InputError(
      'Expected a feature network as onnx:PATH or torchscript:PATH, '
      f'got {source!r}.'
    )
  try:
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
  except OSError as error:
    raise InputError(
      f'Cannot read the feature network {path}: {error.strerror}.'
    ) from error
  network = network_files.LOADERS[kind](path)
  name = _metric_name(Path(path).stem)
  return FeatureExtractor(
    name,
    network.features,
    network.probabilities,
    f'{name}: {kind} network given by the user, SHA-256 {digest[:12]}.',
  )


def _metric_name(name: str) -> str:
  """Makes a name from which a metric's name can be composed."""
  return re.sub(r'[^A-Za-z0-9._-]+', '_', name)
