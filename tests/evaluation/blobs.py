"""Embeddings around the centres of three classes, which lines tell apart."""

import numpy as np

CLASSES = 3
_CENTRES = 2.0 * np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])


def blobs(labels, seed=0, noise=0.5):
  rng = np.random.default_rng(seed)
  values = _CENTRES[labels] + noise * rng.normal(size=[len(labels), 4])
  return values.astype(np.float32)
