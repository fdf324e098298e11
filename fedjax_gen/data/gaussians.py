"""Gaussians by class and domain: a federation with known moments.

A substitute for embeddings where none are available. Each class is one
Gaussian; each domain sees all classes through an affine map of its own (a
rotation, a scale and a shift). So the domains share their classes, and a
generator that ignores domains blends them into what no domain has.

Axis letters: D domains, C classes, F features, n examples. Ours; the idea of
affine domains over shared latent factors is common, no data set is imitated.
"""

import functools
from typing import NamedTuple

import numpy as np

from fedjax_gen import validate

NUM_DOMAINS = 5
NUM_CLASSES = 5
NUM_FEATURES = 32
USERS_PER_DOMAIN = 2

_SEED = 1729  # of the distribution; that of the draws is the caller's
# Lengths before the common factor that gives all examples together a mean
# square of one. Chosen so that a linear classifier of all domains is right in
# nine cases of ten (0.91), and one for each domain clearly more often (0.98).
_SPREAD = 0.48  # stddev of the classes' means, in each feature
_STDDEVS = (1.4, 0.4)  # of the first and the last feature, geometric between
_CLASS_SCALES = (0.8, 1.2)  # of the stddevs of the first and the last class
_ANGLES = (-0.9, 0.9)  # radians, of the first and the last domain
_SCALES = (0.85, 1.15)  # drawn uniformly, of a domain
_SHIFT = 0.7  # stddev over features of a domain's shift


class Moments(NamedTuple):
  """The distribution, exactly.

  Attributes:
    means: `[D, C, F]` float64.
    covariances: `[D, C, F, F]` float64, of full rank.
  """

  means: np.ndarray
  covariances: np.ndarray


class Draws(NamedTuple):
  """Examples, in random order.

  Attributes:
    inputs: `[n, F]` float32.
    labels: `[n]` int32 classes.
    domains: `[n]` int32.
    users: `[n]` int32; user u is of domain `u // USERS_PER_DOMAIN`.
  """

  inputs: np.ndarray
  labels: np.ndarray
  domains: np.ndarray
  users: np.ndarray


@functools.cache
def moments() -> Moments:
  """Returns means and covariances of every class in every domain.

  Over all domains and classes, equally weighted, the mean of a feature's
  square is one: an example's norm is about sqrt(F).

  Returns:
    the same value every time.

  Example:
    >>> means, covariances = moments()
    >>> means.shape, covariances.shape
    ((5, 5, 32), (5, 5, 32, 32))
  """
  means, factors = _parameters()
  return Moments(means, factors @ np.swapaxes(factors, -1, -2))


def draw(num_per_cell: int, seed: int) -> Draws:
  """Draws as many examples of each class for each user.

  Args:
    num_per_cell: examples of one class of one user; there are C classes and
      D * USERS_PER_DOMAIN users.
    seed: of the draws and their order; the distribution is always the same.

  Example:
    >>> draws = draw(2, seed=0)
    >>> draws.inputs.shape, np.bincount(draws.users)
    ((100, 32), array([10, 10, 10, 10, 10, 10, 10, 10, 10, 10]))
  """
  validate.positive_int(num_per_cell=num_per_cell)
  validate.non_negative_int(seed=seed)
  rng = np.random.Generator(np.random.PCG64(seed))
  means, factors = _parameters()
  num_users = NUM_DOMAINS * USERS_PER_DOMAIN
  users, labels = (
    np.repeat(ids.ravel(), num_per_cell)
    for ids in np.indices((num_users, NUM_CLASSES), np.int32)
  )
  domains = users // USERS_PER_DOMAIN
  noise = rng.standard_normal((len(users), NUM_FEATURES))
  inputs = np.empty((len(users), NUM_FEATURES), np.float32)
  for domain, label in np.ndindex(NUM_DOMAINS, NUM_CLASSES):
    rows = (domains == domain) & (labels == label)
    inputs[rows] = means[domain, label] + noise[rows] @ factors[domain, label].T
  order = rng.permutation(len(users))
  return Draws(inputs[order], labels[order], domains[order], users[order])


@functools.cache
def _parameters() -> tuple[np.ndarray, np.ndarray]:
  """Means `[D, C, F]`, and factors `[D, C, F, F]` of the covariances."""
  rng = np.random.Generator(np.random.PCG64(_SEED))
  centers = _SPREAD * rng.standard_normal((NUM_CLASSES, NUM_FEATURES))
  stddevs = np.outer(
    np.linspace(*_CLASS_SCALES, NUM_CLASSES),
    np.geomspace(*_STDDEVS, NUM_FEATURES),
  )
  maps = [
    rng.uniform(*_SCALES) * _rotation(angle, rng.permutation(NUM_FEATURES))
    for angle in np.linspace(*_ANGLES, NUM_DOMAINS)
  ]
  shifts = _SHIFT * rng.standard_normal((NUM_DOMAINS, NUM_FEATURES))
  linear = np.stack(maps)
  means = np.einsum('dfg,cg->dcf', linear, centers) + shifts[:, None]
  factors = linear[:, None] * stddevs[None, :, None, :]
  squares = (means**2).sum(axis=-1) + (factors**2).sum(axis=(-2, -1))
  scale = np.sqrt(NUM_FEATURES / squares.mean())
  return scale * means, scale * factors


def _rotation(angle: float, order: np.ndarray) -> np.ndarray:
  """`[F, F]` turns the planes of features that are neighbours in `order`."""
  first, second = order.reshape(-1, 2).T
  matrix = np.cos(angle) * np.eye(len(order))
  matrix[first, second] = -np.sin(angle)
  matrix[second, first] = np.sin(angle)
  return matrix
