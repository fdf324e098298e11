"""What generated images are good for, measured by classifiers."""

import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks
from fedjax_gen.evaluation.networks import features, judges


def tstr_accuracy(
  synthetic_inputs: np.ndarray,
  synthetic_labels: np.ndarray,
  test_inputs: np.ndarray,
  test_labels: np.ndarray,
  num_classes: int,
  *,
  seed: int = 0,
  recipe: judges.Recipe = judges.DEFAULT_RECIPE,
) -> float:
  """Trains a classifier on synthetic images and tests it on real ones.

  Given real training images instead it is the upper bound to compare with
  (train on real, test on real). The number of gradient steps is the same for
  training sets of any size.

  Args:
    synthetic_inputs: uint8 `[n, H, W, C]` generated images.
    synthetic_labels: `[n]` the labels they were asked for.
    test_inputs: uint8 `[m, H, W, C]` real held-out images.
    test_labels: `[m]`.
    num_classes: number of classes; some may have no synthetic image.
    seed: of the classifier's training.
    recipe: steps, batch size and learning rate.

  Returns:
    the share of real images classified rightly, in [0, 1].

  Reference: Esteban, Hyland, Rätsch, "Real-valued (Medical) Time Series
    Generation with Recurrent Conditional GANs", 2017, section 4.
    https://arxiv.org/abs/1706.02633
  """
  checks.examples_alike(
    synthetic_inputs=synthetic_inputs, test_inputs=test_inputs
  )
  checks.labels(len(test_inputs), num_classes, test_labels=test_labels)
  classifier = judges.train(
    synthetic_inputs, synthetic_labels, num_classes, seed=seed, recipe=recipe
  )
  return classifier.accuracy(test_inputs, test_labels)


def label_agreement(
  extractor: features.FeatureExtractor,
  generated_inputs: np.ndarray,
  requested_labels: np.ndarray,
) -> float:
  """Measures how often generated images look like what was asked for.

  With a classifier of groups, one minus this is the group leakage.

  Args:
    extractor: one with probabilities: a classifier of real images.
    generated_inputs: uint8 `[n, H, W, C]`.
    requested_labels: `[n]` the class each was asked for.

  Returns:
    the share classified as the requested class, in [0, 1].

  Raises:
    InputError: the extractor has no probabilities; images or labels of other
      shapes or out of range.
  """
  if extractor.probabilities is None:
    raise InputError(
      'Expected an extractor with class probabilities, got '
      f'extractor={extractor.name!r}, which has none.'
    )
  checks.examples(generated_inputs=generated_inputs)
  probabilities = extractor.probabilities(generated_inputs)
  checks.labels(
    len(generated_inputs),
    probabilities.shape[1],
    requested_labels=requested_labels,
  )
  return float(np.mean(probabilities.argmax(axis=1) == requested_labels))
