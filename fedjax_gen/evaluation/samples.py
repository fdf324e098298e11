"""All metrics of a set of generated images, under names that say how made."""

import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks, distances
from fedjax_gen.evaluation.networks import features

MIN_SAMPLES = 10
"""Fewest real and fewest generated images: one for each part of the Inception
Score. Far too few for a number that means something, enough for a smoke test.
"""


def evaluate_samples(
  extractor: features.FeatureExtractor,
  real_inputs: np.ndarray,
  generated_inputs: np.ndarray,
  *,
  seed: int = 0,
) -> dict[str, float]:
  """Compares generated images with real held-out ones.

  Args:
    extractor: what the distances are measured with.
    real_inputs: uint8 `[n, H, W, C]`, not those the generator learnt from.
    generated_inputs: uint8 `[m, H, W, C]`. Compare models at one m and one n
      only: the Fréchet distance is biased upwards, the more the fewer images.
    seed: of the subsets of the kernel distance and Inception Score.

  Returns:
    finite numbers, always under the same names: `num_real`, `num_generated`,
    and, each followed by `_<extractor.name>`: `fid`, `kid`, `kid_stddev`,
    `precision`, `recall`, `density`, `coverage`, and where the extractor has
    probabilities `inception_score` and `inception_score_stddev`.

  Raises:
    InputError: not images, images of different shapes, or fewer than
      `MIN_SAMPLES` of either. A caller with a choice of m should check it
      before training.
  """
  checks.examples_alike(
    real_inputs=real_inputs, generated_inputs=generated_inputs
  )
  for name, inputs in (
    ('real_inputs', real_inputs),
    ('generated_inputs', generated_inputs),
  ):
    if len(inputs) < MIN_SAMPLES:
      raise InputError(
        f'Expected at least {MIN_SAMPLES} images in {name}, got {len(inputs)}.'
      )
  probabilities = None
  if extractor.probabilities is not None:
    probabilities = extractor.probabilities(generated_inputs)
  return compare_features(
    extractor.name,
    extractor.features(real_inputs),
    extractor.features(generated_inputs),
    probabilities,
    seed=seed,
  )


def compare_features(
  extractor_name: str,
  real: np.ndarray,
  generated: np.ndarray,
  probabilities: np.ndarray | None,
  *,
  seed: int = 0,
) -> dict[str, float]:
  """Does what `evaluate_samples` does, from features at hand.

  For many comparisons with the same real images (methods, rounds, groups and
  the pool of them): their features are computed once.

  Args:
    extractor_name: what the features come from.
    real: `[n, F]` features of real images, n >= `MIN_SAMPLES`.
    generated: `[m, F]` features of generated images, m >= `MIN_SAMPLES`.
    probabilities: `[m, classes]` of the generated images, or None.
    seed: as for `evaluate_samples`.

  Returns:
    as `evaluate_samples`.
  """
  checks.features(MIN_SAMPLES, real=real, generated=generated)
  kernel = distances.kernel_distance(real, generated, seed=seed)
  manifold = distances.precision_recall_density_coverage(real, generated)
  metrics = {
    # First: FID depends on the number of images, which clients differ in.
    'kid': kernel.mean,
    'kid_stddev': kernel.stddev,
    'fid': distances.frechet_distance(real, generated),
    **manifold._asdict(),
  }
  if probabilities is not None:
    score = distances.inception_score(probabilities, seed=seed)
    metrics['inception_score'] = score.mean
    metrics['inception_score_stddev'] = score.stddev
  named = {
    f'{metric}_{extractor_name}': value for metric, value in metrics.items()
  }
  return {
    'num_real': float(len(real)),
    'num_generated': float(len(generated)),
    **named,
  }
