"""How well groups are kept apart, in images and in latents.

The latents of groups may overlap (`linear_probe`), and a sample requested for
one group may look like another, or like a blend (`leakage`). FissionVAE (Hu et
al., 2024, https://arxiv.org/abs/2408.17090) names both failures; how its
authors measure them is not known to us: probe, leakage and its entropy are
defined here.
"""

from typing import NamedTuple

import numpy as np
from scipy import special
from sklearn import linear_model, pipeline, preprocessing
import threadpoolctl

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks

_MAX_GROUPS = 1_000_000  # more are ids of something else


class Leakage(NamedTuple):
  """How far samples are from the groups they were asked for."""

  leakage: float
  """share of samples classified as another group than requested."""
  entropy: float
  """mean entropy of a sample's group probabilities, 0 to log G nats; high
  for images that blend groups."""


def leakage(probabilities: np.ndarray, requested: np.ndarray) -> Leakage:
  """Measures how often samples look like another group than the requested.

  A generator that cannot be asked leaks by chance: with samples counted for
  groups at random, `1 - 1 / G` where groups are equally large.

  Args:
    probabilities: `[n, G]` of a classifier of groups; rows add up to one. Of
      equally likely groups the first counts.
    requested: `[n]` the group each sample was asked for.

  Returns:
    the share of samples of another group, and the entropy in nats.

  Example:
    >>> leakage(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([0, 1])).leakage
    0.5
  """
  checks.features(1, probabilities=probabilities)
  probabilities = np.asarray(probabilities, np.float64)
  num_samples, num_groups = probabilities.shape
  checks.labels(num_samples, num_groups, requested=requested)
  sums = probabilities.sum(axis=1)
  if np.min(probabilities) < 0 or np.max(np.abs(sums - 1)) > 1e-3:
    raise InputError(
      'Expected probabilities >= 0 with rows that add up to 1, got rows '
      f'adding up to {sums.min():.4g}..{sums.max():.4g}.'
    )
  return Leakage(
    float(np.mean(probabilities.argmax(axis=1) != requested)),
    float(special.entr(probabilities).sum(axis=1).mean()),
  )


def linear_probe(
  latents: np.ndarray,
  groups: np.ndarray,
  held_out_latents: np.ndarray,
  held_out_groups: np.ndarray,
) -> float:
  """Measures how well a linear classifier reads the group off the latents.

  Logistic regression (penalty and solver of scikit-learn's defaults) on
  latents that are standardised by the first set. So a dimension counts however
  little it varies: that groups are told apart does not say that a decoder can
  see the difference.

  Args:
    latents: `[n, Z]` posterior means to learn from.
    groups: `[n]` their groups.
    held_out_latents: `[m, Z]` posterior means to be tested on.
    held_out_groups: `[m]`; a group that is not in `groups` cannot be found.

  Returns:
    the share of held-out latents with their group found, in [0, 1]. Latents
    that say nothing give the share of the largest group.
  """
  checks.features(1, latents=latents, held_out_latents=held_out_latents)
  checks.labels(len(latents), _MAX_GROUPS, groups=groups)
  checks.labels(
    len(held_out_latents), _MAX_GROUPS, held_out_groups=held_out_groups
  )
  groups, held_out_groups = np.asarray(groups), np.asarray(held_out_groups)
  if (groups == groups[0]).all():  # which logistic regression refuses
    return float(np.mean(held_out_groups == groups[0]))
  model = pipeline.make_pipeline(
    preprocessing.StandardScaler(),
    linear_model.LogisticRegression(max_iter=1000),
  )
  # Sums in one thread do not depend on the number of cores.
  with threadpoolctl.threadpool_limits(1):
    model.fit(np.asarray(latents, np.float64), groups)
    found = model.predict(np.asarray(held_out_latents, np.float64))
  return float(np.mean(found == held_out_groups))
