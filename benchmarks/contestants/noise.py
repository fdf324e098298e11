"""What the clients of a task have: noise, which costs as much as images.

NumPy alone, so that every contestant can have it, whatever is installed.
"""

import numpy as np

PIXELS, CLASSES = 784, 62


def images(task) -> np.ndarray:
  """`[N, steps * batch, 784]` uniform in [0, 1), float32: one epoch's."""
  count = task.steps * task.batch
  rng = np.random.default_rng(task.seed)
  return rng.random((task.clients, count, PIXELS), np.float32)


def labels(task) -> np.ndarray:
  """`[N, steps * batch]` of 62 classes, int64, from a stream of their own."""
  count = task.steps * task.batch
  rng = np.random.default_rng([task.seed, 1])
  return rng.integers(CLASSES, size=(task.clients, count))
