"""Distances between real and generated images, on their features.

All functions are NumPy in float64 and take features `[n, F]`. The caller
chooses the features: numbers compare only with numbers made with the same
extractor, the same real data and the same N (the Fréchet distance falls as N
grows, and needs N > F for covariances of full rank).
"""

from typing import NamedTuple

import numpy as np
from scipy import linalg, special
from sklearn import neighbors

from fedjax_gen import validate
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks


class Estimate(NamedTuple):
  """A number with its spread over subsets of the same samples."""

  mean: float
  stddev: float


class ManifoldScores(NamedTuple):
  """Fidelity and diversity, apart (`precision_recall_density_coverage`)."""

  precision: float
  """share of generated within the real manifold, in [0, 1]."""
  recall: float
  """share of real within the generated manifold, in [0, 1]."""
  density: float
  """real balls around a generated example, over k; about 1 when alike."""
  coverage: float
  """share of real balls that hold a generated example, in [0, 1]."""


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
  """Measures the squared Fréchet distance of two Gaussians fitted to features.

      |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))

  With the centred features written as Q R (thin QR), S = R'R / (n - 1), and
  the last trace is the sum of the singular values of R1 R2'. That needs no
  matrix square root: nothing turns complex or NaN when a covariance is
  singular, as it is whenever n <= F.

  Args:
    real: `[n, F]` features of real images, n >= 2.
    generated: `[m, F]` features of generated images, m >= 2.

  Returns:
    the distance (squared, as FID is defined), >= 0, in squared feature units.

  Example:
    >>> unit = np.array([[-1.0], [0.0], [1.0]])  # mean 0, variance 1
    >>> round(frechet_distance(unit, 2 * unit + 3), 6)  # 3^2 + (2 - 1)^2
    10.0

  Reference: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule
    Converge to a Local Nash Equilibrium", 2017, equation 6.
    https://arxiv.org/abs/1706.08500
  """
  checks.features(2, real=real, generated=generated)
  real_mean, real_root = _mean_and_covariance_root(real)
  mean, root = _mean_and_covariance_root(generated)
  cross = linalg.svdvals(real_root @ root.T).sum()
  distance = (
    np.sum((real_mean - mean) ** 2)
    + np.sum(real_root**2)
    + np.sum(root**2)
    - 2 * cross
  )
  return float(max(distance, 0.0))  # equal sets may round to -1e-15


def kernel_distance(
  real: np.ndarray,
  generated: np.ndarray,
  *,
  num_subsets: int = 100,
  subset_size: int = 1000,
  seed: int = 0,
) -> Estimate:
  """Measures the unbiased squared MMD with the kernel (x'y / F + 1)^3 (KID).

  Unlike the Fréchet distance its expectation does not depend on n; it may be
  slightly negative when both sets come from one distribution.

  Args:
    real: `[n, F]` features of real images, n >= 2.
    generated: `[m, F]` features of generated images, m >= 2.
    num_subsets: random pairs of subsets to average over.
    subset_size: examples in a subset; the smaller of n and m where that is
      less (the spread is then too small, since subsets overlap).
    seed: of the choice of subsets.

  Returns:
    mean and spread (population) over the subsets.

  Reference: Bińkowski et al., "Demystifying MMD GANs", 2018, section 4.
    https://arxiv.org/abs/1801.01401
  """
  checks.features(2, real=real, generated=generated)
  validate.positive_int(num_subsets=num_subsets, subset_size=subset_size)
  real, generated = _float64(real), _float64(generated)
  size = min(subset_size, len(real), len(generated))
  if size < 2:
    raise InputError(f'Expected subset_size >= 2, got {subset_size}.')
  rng = np.random.default_rng(seed)
  estimates = [
    _unbiased_mmd(
      real[rng.choice(len(real), size, replace=False)],
      generated[rng.choice(len(generated), size, replace=False)],
    )
    for _ in range(num_subsets)
  ]
  return Estimate(float(np.mean(estimates)), float(np.std(estimates)))


def inception_score(
  probabilities: np.ndarray, *, num_splits: int = 10, seed: int = 0
) -> Estimate:
  """Scores class probabilities: each sure, all together varied.

      exp(mean_x KL(p(y | x) || p(y))), from 1 to the number of classes

  Args:
    probabilities: `[n, classes]` a classifier's output on generated images;
      rows add up to one.
    num_splits: number of parts; the score is their mean. At most n.
    seed: of the shuffle before splitting; samples that come sorted by class
      would otherwise score near 1 in every part.

  Returns:
    mean and spread (population, as in the original code) over the parts.

  Example:
    >>> inception_score(np.tile(np.eye(4), (5, 1)), num_splits=1).mean
    4.0

  Reference: Salimans et al., "Improved Techniques for Training GANs", 2016,
    section 4. https://arxiv.org/abs/1606.03498
  """
  validate.positive_int(num_splits=num_splits)
  checks.features(num_splits, probabilities=probabilities)
  probabilities = _float64(probabilities)
  sums = probabilities.sum(axis=1)
  if np.min(probabilities) < 0 or np.max(np.abs(sums - 1)) > 1e-3:
    raise InputError(
      'Expected probabilities >= 0 with rows that add up to 1, got rows '
      f'adding up to {sums.min():.4g}..{sums.max():.4g}.'
    )
  order = np.random.default_rng(seed).permutation(len(probabilities))
  scores = [
    np.exp(special.rel_entr(part, part.mean(axis=0)).sum(axis=1).mean())
    for part in np.array_split(probabilities[order], num_splits)
  ]
  return Estimate(float(np.mean(scores)), float(np.std(scores)))


def precision_recall_density_coverage(
  real: np.ndarray, generated: np.ndarray, *, num_neighbours: int = 5
) -> ManifoldScores:
  """Measures fidelity and diversity by k-nearest-neighbour balls.

  The ball of an example reaches to its k-th nearest neighbour in its own set;
  the balls of a set are its manifold. Closed balls, as in the papers'
  equations (the `prdc` package takes open ones; only exact ties differ).

  Args:
    real: `[n, F]` features of real images, n > num_neighbours.
    generated: `[m, F]` features of generated images, m > num_neighbours.
    num_neighbours: k.

  Returns:
    the four scores.

  Reference: precision and recall by Kynkäänniemi et al., "Improved Precision
    and Recall Metric for Assessing Generative Models", 2019, equation 2,
    https://arxiv.org/abs/1904.06991; density and coverage by Naeem et al.,
    "Reliable Fidelity and Diversity Metrics for Generative Models", 2020,
    equations 3 and 4, https://arxiv.org/abs/2002.09797
  """
  validate.positive_int(num_neighbours=num_neighbours)
  checks.features(num_neighbours + 1, real=real, generated=generated)
  centre = np.mean(real, axis=0, dtype=np.float64)
  real, generated = real - centre, generated - centre
  real_radii = _ball_radii(real, num_neighbours)
  radii = _ball_radii(generated, num_neighbours)

  num_balls = np.empty(len(generated))
  recalled = np.zeros(len(real), bool)
  nearest = np.full(len(real), np.inf)
  # Blocks of generated examples bound the memory: 1000 x 10k is 80 MB.
  for start in range(0, len(generated), 1000):
    rows = slice(start, start + 1000)
    distances = _euclidean(generated[rows], real)
    num_balls[rows] = (distances <= real_radii[None, :]).sum(axis=1)
    recalled |= (distances <= radii[rows, None]).any(axis=0)
    nearest = np.minimum(nearest, distances.min(axis=0))
  return ManifoldScores(
    precision=float(np.mean(num_balls > 0)),
    recall=float(np.mean(recalled)),
    density=float(np.mean(num_balls) / num_neighbours),
    coverage=float(np.mean(nearest <= real_radii)),
  )


def _float64(values: np.ndarray) -> np.ndarray:
  return np.asarray(values, np.float64)


def _mean_and_covariance_root(
  features: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the mean `[F]` and R `[min(n, F), F]` with covariance R'R."""
  features = _float64(features)
  mean = features.mean(axis=0)
  root = np.linalg.qr(features - mean, mode='r')
  return mean, root / np.sqrt(len(features) - 1)


def _unbiased_mmd(x: np.ndarray, y: np.ndarray) -> float:
  """Estimates the squared MMD of two equally large sets without bias."""
  num, width = x.shape

  def kernel(a, b):
    base = a @ b.T / width + 1
    return base * base * base  # many times faster than base**3 in NumPy

  def mean_of_pairs(gram):  # without the pairs of an example with itself
    return (gram.sum() - np.trace(gram)) / (num * (num - 1))

  return (
    mean_of_pairs(kernel(x, x))
    + mean_of_pairs(kernel(y, y))
    - 2 * kernel(x, y).mean()
  )


def _ball_radii(features: np.ndarray, num_neighbours: int) -> np.ndarray:
  """Returns `[n]` distances to the k-th neighbour, oneself not counted."""
  search = neighbors.NearestNeighbors(
    n_neighbors=num_neighbours, algorithm='brute'
  ).fit(features)
  return search.kneighbors()[0][:, -1]


def _euclidean(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Returns all distances `[len(x), len(y)]`."""
  squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None, :]
  return np.sqrt(np.maximum(squares - 2 * x @ y.T, 0))
