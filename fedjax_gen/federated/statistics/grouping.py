"""Groups of clients, discovered from one small statistic of each client.

Knows no model: a statistic is a row of numbers. k-means clusters the
standardised statistics; the number of groups may be left to the data.
Clustering clients by what they send is an old idea (Sattler, Müller, Samek,
"Clustered Federated Learning", 2019, https://arxiv.org/abs/1910.01991, which
repeatedly splits in two by the cosine of updates); this way of doing it is
ours.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize
from sklearn import cluster, metrics
import threadpoolctl

from fedjax_gen import validate
from fedjax_gen.errors import InputError

_NUM_REFERENCES = 39
"""Federations of one group that the silhouettes are compared with: to exceed
all of them is a Monte Carlo test at the level 1 / 40."""
_MAX_CHOOSING = 1000
"""Clients the number of groups is chosen on: silhouettes take N^2 distances."""


class Grouping(NamedTuple):
  """Clients in groups, and what it takes to find a newcomer's.

  Attributes:
    groups: `[N]` int32 group of each client in [0, G), numbered by the first
      client with examples that belongs to them.
    centroids: `[G, F]` centres, in standardised statistics.
    shift: `[F]` taken from a statistic before it is compared.
    scale: `[F]` what it is then divided by.
  """

  groups: np.ndarray
  centroids: np.ndarray
  shift: np.ndarray
  scale: np.ndarray

  @property
  def num_groups(self) -> int:
    """G."""
    return len(self.centroids)


class Agreement(NamedTuple):
  """How well the groups found are the true ones.

  Attributes:
    accuracy: share of clients in their own group under the best one-to-one
      naming of the groups found, in [0, 1].
    adjusted_rand_index: agreement of pairs of clients, 1 if perfect and 0 on
      average by chance (Hubert & Arabie, 1985).
  """

  accuracy: float
  adjusted_rand_index: float


def discover(
  statistics: np.ndarray,
  num_groups: int | None = None,
  *,
  errors: np.ndarray | None = None,
  num_examples: np.ndarray | None = None,
  max_groups: int = 10,
  seed: int = 0,
) -> Grouping:
  """Clusters clients by their statistics.

  k-means (best of 10 starts) finds the groups, each client counting once.
  Every feature is divided by its root mean square standard error, if `errors`
  are given, and otherwise by its standard deviation over the clients. The
  second makes features that tell nothing as large as those that tell groups
  apart: with few features, give errors.

  Without `num_groups`, the number from 2 to `max_groups` with the largest mean
  silhouette (Rousseeuw, 1987) is taken, if that silhouette is larger than any
  in 39 federations of one group, and else one group. Those are drawn from a
  Gaussian, with exactly the covariance of the statistics given (the gap
  statistic of Tibshirani, Walther, Hastie, 2001, rests on a like comparison).
  No fixed threshold would do: of 20 homogeneous clients k-means makes clusters
  of silhouette 0.6 if they have one feature, of 0.05 if they have fifty.

  Of federations of one Gaussian group about 1 in 40 is split. Groups may be
  found that are no kinds of data, label skew for instance; a client unlike all
  others may be a group of its own; more groups than half the clients are not
  looked for; and of few clients (below about 6) or with most features alike,
  groups must lie far apart to be told from one. Give `num_groups` if it is
  known.

  Args:
    statistics: `[N, F]`; rows of clients without examples may hold anything.
    num_groups: G, if known.
    errors: `[N, F]` standard errors of the statistics, or `None`.
    num_examples: `[N]` sizes. Clients without examples have no statistic:
      they do not count, and are put in the largest group (the first of them,
      if two are as large).
    max_groups: the most groups to consider; not used if `num_groups` is given.
    seed: of the starts of k-means and of the comparison.

  Raises:
    InputError: shapes do not fit, no client has examples, a statistic or
      error is not finite, or clients with distinct statistics are fewer than
      `num_groups`.

  Example:
    >>> found = discover(np.array([[5.0], [0.1], [5.1], [0.0]]), 2)
    >>> found.groups
    array([0, 1, 0, 1], dtype=int32)
    >>> assign(found, np.array([[0.3], [4.0]]))
    array([1, 0], dtype=int32)
  """
  statistics = _rows(statistics=statistics)
  validate.positive_int(max_groups=max_groups)
  validate.non_negative_int(seed=seed)
  counted = _counted(len(statistics), num_examples)
  known = statistics[counted]
  _check_finite(known)
  shift, scale = known.mean(axis=0), known.std(axis=0)
  # Rounding leaves a tiny spread in a feature that all clients share.
  flat = scale <= 1e-6 * (1 + np.abs(shift))
  if errors is not None:
    errors = _rows(errors=errors)
    if errors.shape != statistics.shape:
      raise InputError(
        f'Expected errors of the shape of statistics, '
        f'{list(statistics.shape)}, got {list(errors.shape)}.'
      )
    _check_finite(errors[counted])
    scale = np.sqrt(np.mean(errors[counted] ** 2, axis=0))
  scale = np.where(flat | (scale == 0), 1.0, scale)
  # Round, so that float32 noise creates no clusters.
  points = np.round((known - shift) / scale, 6)
  most = len(np.unique(points, axis=0))
  if num_groups is not None:
    validate.positive_int(num_groups=num_groups)
    if num_groups > most:
      raise InputError(
        f'Expected num_groups <= {most}, the clients with examples and '
        f'distinct statistics, got num_groups={num_groups}.'
      )
  # One thread: the order of sums, and so the bits, do not depend on the cores.
  with threadpoolctl.threadpool_limits(1):
    if num_groups is None:
      num_groups = _choose_number(points, max_groups, seed)
    found = _k_means(points, num_groups, seed)
  _, first = np.unique(found, return_index=True)
  found = np.argsort(np.argsort(first))[found]
  largest = np.bincount(found).argmax()
  groups = np.full(len(statistics), largest, np.int32)
  groups[counted] = found
  centroids = np.stack(
    [points[found == group].mean(axis=0) for group in range(num_groups)]
  )
  return Grouping(groups, centroids, shift, scale)


def assign(grouping: Grouping, statistics: np.ndarray) -> np.ndarray:
  """The groups of clients that were not there: those of nearest centroids.

  Args:
    grouping: what `discover` found.
    statistics: `[M, F]` of the newcomers, made by the same report from the
      same model as those of the clients that were there.

  Returns:
    `[M]` int32 groups. A client unlike all groups gets one too.
  """
  statistics = _rows(statistics=statistics)
  if statistics.shape[1] != len(grouping.shift):
    raise InputError(
      f'Expected statistics of shape [M, {len(grouping.shift)}], as the '
      f'groups were found with, got {list(statistics.shape)}.'
    )
  _check_finite(statistics)
  points = (statistics - grouping.shift) / grouping.scale
  distances = [np.sum((points - c) ** 2, axis=1) for c in grouping.centroids]
  return np.argmin(distances, axis=0).astype(np.int32)


def agreement(found: np.ndarray, true: np.ndarray) -> Agreement:
  """Compares groups with the true ones, whatever the numbers of either.

  Names do not matter. Groups found in excess of the true ones match none, so
  their clients are wrong.

  Args:
    found: `[N]` whole numbers.
    true: `[N]` whole numbers.
  """
  _check_alike(found, true)
  table = metrics.cluster.contingency_matrix(true, found)
  matched = table[optimize.linear_sum_assignment(table, maximize=True)].sum()
  return Agreement(
    accuracy=float(matched / len(found)),
    adjusted_rand_index=float(metrics.adjusted_rand_score(true, found)),
  )


def _choose_number(points: np.ndarray, max_groups: int, seed: int) -> int:
  """1, or the number of groups with a silhouette that one cannot explain."""
  rng = np.random.default_rng(seed)
  if len(points) > _MAX_CHOOSING:
    points = points[rng.choice(len(points), _MAX_CHOOSING, replace=False)]
    points = points - points.mean(axis=0)
  distinct = len(np.unique(points, axis=0))
  numbers = range(2, min(max_groups, len(points) // 2, distinct) + 1)
  if not numbers:
    return 1

  def silhouettes(points):
    return [
      metrics.silhouette_score(points, _k_means(points, number, seed))
      for number in numbers
    ]

  found = silhouettes(points)
  # Only distances count: the principal axes are as good as the features.
  _, spread, _ = np.linalg.svd(points, full_matrices=False)
  spread = spread[spread > 1e-6 * spread[0]]
  for _ in range(_NUM_REFERENCES):
    draws = rng.normal(size=(len(points), len(spread)))
    directions, _ = np.linalg.qr(draws - draws.mean(axis=0))
    if max(silhouettes(directions * spread)) >= max(found):
      return 1
  return numbers[int(np.argmax(found))]


def _k_means(points: np.ndarray, number: int, seed: int) -> np.ndarray:
  """`[N]` clusters in [0, number), none of them empty."""
  if number == 1:
    return np.zeros(len(points), int)
  k_means = cluster.KMeans(number, n_init=10, random_state=seed)
  return k_means.fit_predict(points)


def _counted(num_clients: int, num_examples: np.ndarray | None) -> np.ndarray:
  """`[N]` whether a client has examples."""
  if num_examples is None:
    return np.ones(num_clients, bool)
  num_examples = np.asarray(num_examples)
  if num_examples.shape != (num_clients,):
    raise InputError(
      f'Expected num_examples of shape [{num_clients}], one for each row of '
      f'statistics, got {list(num_examples.shape)}.'
    )
  if not (num_examples > 0).any():
    raise InputError('Expected a client with num_examples > 0, got none.')
  return num_examples > 0


def _rows(**values: np.ndarray) -> np.ndarray:
  """The value as float64 `[N, F]`, neither of them zero."""
  [(name, value)] = values.items()
  rows = np.asarray(value, np.float64)
  if rows.ndim != 2 or not rows.size:
    raise InputError(
      f'Expected {name} of shape [N, F], got {list(rows.shape)}.'
    )
  return rows


def _check_finite(rows: np.ndarray) -> None:
  broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
  if broken.size:
    raise InputError(
      f'Expected finite statistics and errors, got some of {broken.size} of '
      f'{len(rows)} clients with examples that are not; clients without '
      'any are told by num_examples.'
    )


def _check_alike(found: np.ndarray, true: np.ndarray) -> None:
  shapes = [list(np.shape(groups)) for groups in (found, true)]
  if len(shapes[0]) != 1 or shapes[0] != shapes[1] or not shapes[0][0]:
    raise InputError(
      'Expected found and true of the same shape [N], got '
      f'{shapes[0]} and {shapes[1]}.'
    )
