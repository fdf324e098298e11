"""Prior means of groups: where in latent space each group of clients lives.

Group g has the prior N(mu_g, I); a strategy lays out the table of the mu_g.
FissionVAE (Hu et al., 2025) decouples the latent space into group-specific
priors and compares ways to set them. Its text on these ways was not available:
**names and formulas here are ours**, inferred and not quoted, and no result of
that paper is claimed for any of them. Learnable means are no strategy: they are
any of these as a start.

Strategies differ in how far apart they put the groups, by constants and by
powers of D. Compare them at equal `distance`, or the comparison measures the
distance and not the layout.

A new strategy is a function and a row of `STRATEGIES`.
"""

from collections.abc import Callable, Mapping

import numpy as np

from fedjax_gen import validate
from fedjax_gen.errors import InputError


def identical(
  num_groups: int, size: int, scale: float, seed: int
) -> np.ndarray:
  """Returns zeros `[G, D]`: the standard prior for every group."""
  del scale, seed
  return np.zeros((num_groups, size), np.float32)


def one_hot(num_groups: int, size: int, scale: float, seed: int) -> np.ndarray:
  """Returns blocks `[G, D]`: every group has dimensions of its own.

  mu_g is `scale` on dimensions floor(g D / G) to floor((g + 1) D / G), the
  latter excluded, and 0 elsewhere. Two groups are about scale * sqrt(2 D / G)
  apart.
  """
  del seed
  _check_at_least('one_hot', num_groups, size, num_groups)
  group = np.arange(num_groups)[:, None]
  dimension = np.arange(size)[None]
  first = group * size // num_groups
  end = (group + 1) * size // num_groups
  inside = (first <= dimension) & (dimension < end)
  return np.where(inside, scale, 0).astype(np.float32)


def one_hot_single(
  num_groups: int, size: int, scale: float, seed: int
) -> np.ndarray:
  """Returns literal one-hot rows `[G, D]`: `scale` on dimension g only.

  Two groups are scale * sqrt(2) apart, whatever D.
  """
  del seed
  _check_at_least('one_hot_single', num_groups, size, num_groups)
  return (scale * np.eye(num_groups, size)).astype(np.float32)


def symmetrical(
  num_groups: int, size: int, scale: float, seed: int
) -> np.ndarray:
  """Returns constant rows `[G, D]`, evenly spaced from `scale` to -`scale`.

  The rows add up to zero; an odd number of groups leaves one of them, or the
  only one, at zero. Neighbours are 2 scale * sqrt(D) / (G - 1) apart.
  """
  del seed
  # Whole numbers before the division: mirrored rows have the same bits.
  steps = num_groups - 1 - 2 * np.arange(num_groups)
  levels = scale * (steps / max(num_groups - 1, 1))
  return np.tile(levels[:, None], (1, size)).astype(np.float32)


def random(num_groups: int, size: int, scale: float, seed: int) -> np.ndarray:
  """Returns draws `[G, D]` from N(0, scale^2), the same for the same seed.

  Two groups are about scale * sqrt(2 D) apart.
  """
  draws = np.random.default_rng(seed).standard_normal((num_groups, size))
  return (scale * draws).astype(np.float32)


def wave(num_groups: int, size: int, scale: float, seed: int) -> np.ndarray:
  """Returns sines `[G, D]`: g + 1 periods over the dimensions for group g.

  mu_g is scale * sin(2 pi (g + 1) (d + 1/2) / D) on dimension d. Rows are
  orthogonal; two groups are scale * sqrt(D) apart where 2 G < D. If 2 G = D the
  last row only has values of plus and minus `scale`, and is farther away.
  """
  del seed
  phase = _half_turns('wave', num_groups, size)
  return (scale * np.sin(np.pi * phase / size)).astype(np.float32)


def square_wave(
  num_groups: int, size: int, scale: float, seed: int
) -> np.ndarray:
  """Returns the signs of `wave` times `scale`, `[G, D]`.

  Where the sine is zero so is the sign. Rows are not all orthogonal, and
  distances not all equal: a third of a period looks much like a whole one.
  """
  del seed
  phase = _half_turns('square_wave', num_groups, size)
  # By whole numbers: the rounding of a sine near zero has a sign as well.
  signs = np.where(phase % size == 0, 0, np.where(phase < size, 1, -1))
  return (scale * signs).astype(np.float32)


STRATEGIES: Mapping[str, Callable[[int, int, float, int], np.ndarray]] = {
  strategy.__name__: strategy
  for strategy in (
    identical,
    one_hot,
    one_hot_single,
    symmetrical,
    random,
    wave,
    square_wave,
  )
}


def group_means(
  strategy: str,
  num_groups: int,
  size: int,
  *,
  scale: float = 1.0,
  distance: float = 0.0,
  seed: int = 0,
) -> np.ndarray:
  """Prior means of all groups, the same on every machine.

  Args:
    strategy: name of the layout, a key of `STRATEGIES`.
    num_groups: G.
    size: D, dimensions of the latent space.
    scale: factor of the layout, in standard deviations of the prior.
    distance: mean Euclidean distance of two groups, in standard deviations;
      the layout is brought to it and `scale` plays no part. 0 keeps the
      layout as `scale` gives it, and so does a single group.
    seed: of strategy `random`; the others draw nothing.

  Returns:
    `[G, D]` float32, a row for each group.

  Raises:
    InputError: an argument is out of range, the strategy needs more
      dimensions, or its groups all coincide and a distance is asked for.

  Example:
    >>> group_means('one_hot', 2, 4, distance=6.0).round(3)
    array([[3., 3., 0., 0.],
           [0., 0., 3., 3.]], dtype=float32)
  """
  validate.one_of(STRATEGIES, strategy=strategy)
  validate.positive_int(num_groups=num_groups, size=size)
  validate.non_negative(scale=scale, distance=distance)
  validate.non_negative_int(seed=seed)
  layout = STRATEGIES[strategy]
  if distance == 0 or num_groups == 1:
    return layout(num_groups, size, scale, seed)
  means = layout(num_groups, size, 1.0, seed)
  pairs = np.triu_indices(num_groups, 1)
  unscaled = pairwise_distances(means)[pairs].mean()
  if unscaled == 0:
    raise InputError(
      f'Expected distance=0 for strategy={strategy!r}, where all groups '
      f'coincide, got distance={distance!r}.'
    )
  return (means.astype(np.float64) * (distance / unscaled)).astype(np.float32)


def pairwise_distances(means: np.ndarray) -> np.ndarray:
  """Euclidean distances of every two rows: `[G, D]` to `[G, G]`, float64."""
  means = np.asarray(means, np.float64)
  return np.linalg.norm(means[:, None] - means[None], axis=-1)


def _check_at_least(
  strategy: str, num_groups: int, size: int, least: int
) -> None:
  """Raises unless there are enough dimensions to tell the groups apart."""
  if size < least:
    raise InputError(
      f'Expected size >= {least} for strategy={strategy!r} with '
      f'num_groups={num_groups}, got size={size}.'
    )


def _half_turns(strategy: str, num_groups: int, size: int) -> np.ndarray:
  """Phases of the waves `[G, D]` in half turns / D, whole, in [0, 2 D)."""
  if num_groups > 1:
    # Sampled at D places, k periods and D - k are the same values.
    _check_at_least(strategy, num_groups, size, 2 * num_groups)
  periods = np.arange(1, num_groups + 1)[:, None]
  return periods * (2 * np.arange(size)[None] + 1) % (2 * size)
