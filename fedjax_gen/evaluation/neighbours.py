"""Nearest training images, to see whether a generative model memorises."""

from typing import NamedTuple

import numpy as np

from fedjax_gen import validate
from fedjax_gen.evaluation import checks


class Neighbours(NamedTuple):
  """The nearest training image of each image."""

  indices: np.ndarray
  """`[n]` its position among the training images."""
  distances: np.ndarray
  """`[n]` float64 L2 distance of all pixels, pixel values in [0, 1]."""


def nearest(
  inputs: np.ndarray, train_inputs: np.ndarray, *, block_size: int = 2048
) -> Neighbours:
  """Finds the nearest training image of each image, by pixels.

  10,000 MNIST images among 60,000 take about ten seconds on 2 CPU cores.

  Args:
    inputs: uint8 `[n, H, W, C]`, or encoded series or rows, with the
      distances of the encoding.
    train_inputs: `[m, ...]` likewise.
    block_size: images of each set at a time; memory is about
      `8 * block_size * (block_size + H * W * C)` bytes, for any n and m.

  Returns:
    positions and distances. The search is in float32 (nearly equal
    candidates may change places), the distances are then exact: 0 for a copy.

  Example:
    >>> train = np.array([0, 255], np.uint8).reshape([2, 1, 1, 1])
    >>> nearest(np.full([1, 1, 1, 1], 204, np.uint8), train)
    Neighbours(indices=array([1]), distances=array([0.2]))
  """
  checks.examples_alike(inputs=inputs, train_inputs=train_inputs)
  validate.positive_int(block_size=block_size)
  inputs, train_inputs = np.asarray(inputs), np.asarray(train_inputs)
  indices = np.empty(len(inputs), np.int64)
  distances = np.empty(len(inputs))
  for rows in _slices(len(inputs), block_size):
    indices[rows] = _search(_pixels(inputs[rows]), train_inputs, block_size)
    distances[rows] = _distance(inputs[rows], train_inputs[indices[rows]])
  return Neighbours(indices, distances)


def memorised_share(
  generated_distances: np.ndarray,
  reference_distances: np.ndarray,
  *,
  percentile: float = 1.0,
) -> float:
  """Measures how many generated images lie suspiciously near a training one.

  Suspicious is nearer than all but `percentile` per cent of real images that
  the model has not seen. A model that draws new images from the true
  distribution scores `percentile / 100`; copies score 1; blurred images,
  which lie near the mean of the data, may score high without any copy: look
  at the picture.

  Args:
    generated_distances: `[n]` distances of generated images (`nearest`).
    reference_distances: `[m]` distances of real held-out images to the same
      training images.
    percentile: of the reference, in [0, 100].

  Returns:
    the share, in [0, 1].

  Example:
    >>> memorised_share(np.array([0.0, 5.0]), np.arange(1.0, 101.0))
    0.5
  """
  validate.fraction(**{'percentile / 100': percentile / 100})
  threshold = np.percentile(reference_distances, percentile)
  return float(np.mean(np.asarray(generated_distances) < threshold))


def dcr_share(
  inputs: np.ndarray,
  train_inputs: np.ndarray,
  held_out_inputs: np.ndarray,
  *,
  seed: int = 0,
) -> float:
  """Measures how many generated images lie nearer to training than new ones.

  Distance to the closest record, against a hold-out: a generator that copies
  nothing is as often nearest to an image that it has not seen as to one that
  it was trained on, so that it scores 0.5; copies score 1. It reads training
  images: no run with privacy may report it.

  Args:
    inputs: uint8 `[n, H, W, C]` generated images.
    train_inputs: uint8 `[m, H, W, C]`.
    held_out_inputs: uint8 `[k, H, W, C]`. Of the larger of the two sets as many
      images are drawn as the other has, or the larger would win by its size.
    seed: of that draw.

  Returns:
    the share, in [0, 1]; an image as near to both counts half.

  Example:
    >>> train, held_out = np.zeros([1, 1, 1, 1], np.uint8), np.full(
    ...   [1, 1, 1, 1], 200, np.uint8
    ... )
    >>> dcr_share(np.full([3, 1, 1, 1], 50, np.uint8), train, held_out)
    1.0
  """
  checks.examples_alike(
    inputs=inputs, train_inputs=train_inputs, held_out_inputs=held_out_inputs
  )
  validate.non_negative_int(seed=seed)
  rng = np.random.default_rng(seed)
  size = min(len(train_inputs), len(held_out_inputs))
  to_train, to_held_out = (
    nearest(
      inputs, others[np.sort(rng.permutation(len(others))[:size])]
    ).distances
    for others in (np.asarray(train_inputs), np.asarray(held_out_inputs))
  )
  return float(
    np.mean(to_train < to_held_out) + np.mean(to_train == to_held_out) / 2
  )


def _search(
  queries: np.ndarray, train_inputs: np.ndarray, block_size: int
) -> np.ndarray:
  """Returns the position of the nearest training image of each query."""
  best = np.full(len(queries), np.inf, np.float32)
  index = np.zeros(len(queries), np.int64)
  for rows in _slices(len(train_inputs), block_size):
    candidates = _pixels(train_inputs[rows])
    # |q - t|^2 up to |q|^2, which is the same for all candidates.
    scores = np.sum(candidates**2, axis=1)[None, :]
    scores = scores - 2 * queries @ candidates.T
    position = scores.argmin(axis=1)
    score = scores[np.arange(len(queries)), position]
    index = np.where(score < best, rows.start + position, index)
    best = np.minimum(score, best)
  return index


def _pixels(inputs: np.ndarray) -> np.ndarray:
  scale = 255 if inputs.dtype == np.uint8 else 1
  return inputs.reshape(len(inputs), -1).astype(np.float32) / scale


def _distance(inputs: np.ndarray, others: np.ndarray) -> np.ndarray:
  """Returns the distance of each image to the other of the same row."""
  if inputs.dtype != np.uint8:
    difference = (inputs.astype(np.float64) - others).reshape(len(inputs), -1)
    return np.sqrt(np.sum(difference**2, axis=1))
  whole = inputs.astype(np.int64) - others
  return np.sqrt(np.sum(whole**2, axis=(1, 2, 3))) / 255


def _slices(num: int, size: int) -> list[slice]:
  return [slice(start, start + size) for start in range(0, num, size)]
