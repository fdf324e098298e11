"""Two-dimensional maps of images or latents (t-SNE)."""

from typing import NamedTuple

import numpy as np
from sklearn import decomposition, manifold
import threadpoolctl

from fedjax_gen import validate
from fedjax_gen.evaluation import checks


class Embedding(NamedTuple):
  """A map of some of the examples."""

  points: np.ndarray
  """`[m, 2]` float32 positions; only neighbourhoods mean anything."""
  indices: np.ndarray
  """`[m]` which examples they are, ascending."""


def tsne(
  values: np.ndarray,
  *,
  seed: int = 0,
  max_points: int = 2000,
  perplexity: float = 30.0,
) -> Embedding:
  """Embeds examples in the plane so that neighbours stay neighbours.

  2000 points take about ten seconds on 2 CPU cores. More than 50 features are
  first reduced to 50 principal components, as in the paper.

  Args:
    values: `[n, ...]` images (uint8), latents or other finite features, n >= 4.
    seed: of the choice of examples and the embedding.
    max_points: examples embedded at most; a random choice of them.
    perplexity: about how many neighbours count; at most a third of the points
      is used.

  Returns:
    positions, and the indices of the examples: `labels[embedding.indices]`.

  Reference: van der Maaten and Hinton, "Visualizing Data using t-SNE", 2008.
    https://jmlr.org/papers/v9/vandermaaten08a.html
  """
  validate.positive_int(max_points=max_points)
  validate.positive(perplexity=perplexity)
  validate.non_negative_int(seed=seed)
  values = np.asarray(values)
  values = values.reshape(len(values), -1)
  checks.features(4, values=values)
  rng = np.random.default_rng(seed)
  num_points = min(len(values), max_points)
  indices = np.sort(rng.choice(len(values), num_points, replace=False))
  chosen = values[indices].astype(np.float64)
  if chosen.shape[1] > 50 and num_points > 50:
    chosen = decomposition.PCA(50, svd_solver='full').fit_transform(chosen)
  # The first principal components are the usual start, but there are none
  # of a single feature or of latents that all collapsed onto one point.
  spread = chosen.shape[1] > 1 and np.ptp(chosen, axis=0).any()
  model = manifold.TSNE(
    perplexity=min(perplexity, (num_points - 1) / 3),
    init='pca' if spread else 'random',
    random_state=seed,
  )
  # One thread, for a picture that does not depend on the number of cores; on
  # a busy machine it is also faster than threads that wait for one another.
  with threadpoolctl.threadpool_limits(1):
    points = model.fit_transform(chosen)
  return Embedding(points.astype(np.float32), indices)
