"""Fewer features, by matrices that do not depend on private data.

Under differential privacy the noise on F released features grows with F, for a
covariance with F squared. A projection on K public directions, random or from a
public network, costs no privacy.
"""

import numpy as np

from fedjax_gen import validate
from fedjax_gen.errors import InputError

SEED = 0
"""Of the random directions: one for all, since who compares must share it."""


def random_directions(num_features: int, num_directions: int) -> np.ndarray:
  """Draws orthonormal directions, uniformly, always the same (`SEED`).

  Args:
    num_features: F.
    num_directions: K, at most F.

  Returns:
    `[F, K]` float32 with orthonormal columns.

  Example:
    >>> directions = random_directions(8, 2)
    >>> np.allclose(directions.T @ directions, np.eye(2), atol=1e-6)
    True
  """
  _check_number(num_directions, num_features, f'the {num_features} features')
  rng = np.random.default_rng(SEED)
  drawn = rng.normal(size=(num_features, num_directions))
  directions, triangle = np.linalg.qr(drawn)
  # With this sign the distribution is uniform and the result is unique.
  return (directions * np.sign(np.diag(triangle))).astype(np.float32)


def classifier_directions(head: np.ndarray, num_directions: int) -> np.ndarray:
  """Takes the directions that a public classifier tells its classes apart by.

  They are the principal directions of its weights, less their mean over
  classes, which moves all logits alike.

  Args:
    head: `[F, C]` weights that make logits of features.
    num_directions: K, at most F and at most C - 1.

  Returns:
    `[F, K]` float32 with orthonormal columns, the most telling first. Of each
    column the entry of largest size is positive.

  Example:
    >>> head = np.array([[2.0, -2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    >>> classifier_directions(head, 1).T
    array([[1., 0., 0.]], dtype=float32)
  """
  num_features, num_classes = head.shape
  _check_number(
    num_directions,
    min(num_features, num_classes - 1),
    f'the directions that tell {num_classes} classes apart in {num_features} '
    'features',
  )
  centred = np.asarray(head, np.float64)
  centred = centred - centred.mean(axis=1, keepdims=True)
  directions, _, _ = np.linalg.svd(centred, full_matrices=False)
  directions = directions[:, :num_directions]
  largest = np.abs(directions).argmax(axis=0)
  signs = np.sign(directions[largest, np.arange(num_directions)])
  return (directions * signs + 0.0).astype(np.float32)


def _check_number(number: int, most: int, what: str) -> None:
  validate.positive_int(project=number)
  if number > most:
    raise InputError(
      f'Expected project <= {most}, {what}, got project={number}.'
    )
