"""Trivial generators of series and rows, made of pooled training examples.

What a model has to beat: copies of marginals, which know no relation between
columns or time steps, and a Gaussian for each class, which knows all that are
linear. Both look at the training data of all clients in one place.
"""

import numpy as np

from fedjax_gen.data.examples import Examples
from fedjax_gen.evaluation import checks


def marginal_copies(
  train: Examples, labels: np.ndarray, *, seed: int = 0
) -> np.ndarray:
  """Draws every column, or value of a window, by itself from its class.

  Args:
    train: `[n, ...]` encoded examples.
    labels: `[m]` classes to draw; one without a training example is drawn from
      all.
    seed: of the draws.

  Returns:
    `[m, ...]` float32.

  Example:
    >>> train = Examples(np.array([[0.0, 0.0], [1.0, 1.0]]), np.zeros(2, int))
    >>> drawn = marginal_copies(train, np.zeros(99, int))
    >>> sorted(set(map(tuple, drawn.tolist())))
    [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
  """
  checks.examples(inputs=train.inputs)
  rng = np.random.default_rng(seed)

  def of_class(values, num):
    rows = rng.integers(0, len(values), (num, values.shape[1]))
    return values[rows, np.arange(values.shape[1])]

  return _by_class(train, labels, of_class)


def class_gaussians(
  train: Examples, labels: np.ndarray, *, seed: int = 0
) -> np.ndarray:
  """Draws from a Gaussian with the mean and covariance of each class.

  A draw is the mean and a random combination of the deviations of the training
  examples, which has their covariance whatever the number of values.

  Args:
    train: `[n, ...]` encoded examples.
    labels: `[m]` classes to draw; one without a training example is drawn from
      all.
    seed: of the draws.

  Returns:
    `[m, ...]` float32.

  Example:
    >>> train = Examples(np.eye(3) * 2.0, np.zeros(3, int))
    >>> drawn = class_gaussians(train, np.zeros(20_000, int))
    >>> np.abs(np.cov(drawn.T) - np.cov(train.inputs.T)).max() < 0.1
    np.True_
  """
  checks.examples(inputs=train.inputs)
  rng = np.random.default_rng(seed)

  def of_class(values, num):
    mean = values.mean(axis=0)
    weights = rng.normal(size=(num, len(values)))
    return mean + weights @ (values - mean) / max(len(values) - 1, 1) ** 0.5

  return _by_class(train, labels, of_class)


BASELINES = {
  function.__name__: function for function in (class_gaussians, marginal_copies)
}
"""All of them by name."""


def _by_class(train, labels, of_class):
  """`[m, ...]` draws `of_class(examples [n, D], number)` of each label."""
  values = train.inputs.reshape(len(train.inputs), -1).astype(np.float64)
  labels = np.asarray(labels)
  drawn = np.empty((len(labels), values.shape[1]), np.float32)
  for label in np.unique(labels):
    own = values[train.labels == label]
    rows = labels == label
    drawn[rows] = of_class(own if len(own) else values, int(rows.sum()))
  return drawn.reshape(len(labels), *train.inputs.shape[1:])
