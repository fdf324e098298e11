"""How far generated embeddings are from real ones, pooled and class by class.

FedHypeVAE (Gupta, Jangid, Sethi, PMLR 317, 2026) speaks of generative fidelity
and reports no number of it; the code of DP-CVAE, which it builds on, has a
Wasserstein distance with entropic regularisation. All that is measured here is
our choice.

Every distance is a root mean square over the F features, in units of the
spread of the real embeddings (the root of the mean variance of a feature), so
that numbers do not depend on the scale of the encoder. They compare only with
numbers of equally many examples: the MMD and the Wasserstein distance of two
samples fall as these grow, and are above zero for two samples of one
distribution. `quality` of real and other real embeddings says how far.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize
from scipy.spatial import distance

from fedjax_gen import validate
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks
from fedjax_gen.losses import mmd

MAX_EXAMPLES = 512

_squared_mmd = jax.jit(mmd.squared)


def quality(
  real_inputs: np.ndarray,
  real_labels: np.ndarray,
  generated_inputs: np.ndarray,
  generated_labels: np.ndarray,
  seed: int,
) -> dict[str, float]:
  """Measures generated embeddings against real ones.

  Args:
    real_inputs: `[n, F]` real embeddings, held out.
    real_labels: `[n]` whole numbers >= 0.
    generated_inputs: `[m, F]` generated embeddings.
    generated_labels: `[m]` the labels they were asked for.
    seed: of the choice of examples, where there are more than `MAX_EXAMPLES`.

  Returns:
    by name

    * `'mmd'`: squared MMD, the biased V-statistic with the kernels of
      `losses.mmd`, in [0, 2], of `min(n, m, MAX_EXAMPLES)` examples of each;
    * `'wasserstein'`: Wasserstein-2 distance of the same examples, see
      `wasserstein`;
    * `'class_mmd'`, `'class_wasserstein'`: the same within a class, averaged
      over classes;
    * `'class_mean_error'`: distance between the means of a class, averaged over
      classes, from all examples;
    * `'class_stddev_error'`: likewise between the standard deviations of each
      feature (population).

    The last four need classes with two examples of either kind, over which
    they are averaged, and are left out if there are none.
  """
  checks.features(1, real_inputs=real_inputs, generated_inputs=generated_inputs)
  validate.non_negative_int(seed=seed)
  real_labels = np.asarray(real_labels)
  generated_labels = np.asarray(generated_labels)
  checks.labels(len(real_inputs), 2**31, real_labels=real_labels)
  checks.labels(len(generated_inputs), 2**31, generated_labels=generated_labels)
  real, generated = _standardised(real_inputs, generated_inputs)
  rng = np.random.default_rng(seed)
  numbers = _distances(*_equally_many(real, generated, rng))
  by_class = []
  for label in np.intersect1d(real_labels, generated_labels):
    ours = real[real_labels == label]
    theirs = generated[generated_labels == label]
    if min(len(ours), len(theirs)) < 2:
      continue
    rng = np.random.default_rng([seed, label])
    found = _distances(*_equally_many(ours, theirs, rng))
    found['mean_error'] = _length(ours.mean(axis=0) - theirs.mean(axis=0))
    found['stddev_error'] = _length(ours.std(axis=0) - theirs.std(axis=0))
    by_class.append(found)
  for name in by_class[0] if by_class else ():
    numbers[f'class_{name}'] = float(np.mean([row[name] for row in by_class]))
  return numbers


def wasserstein(left: np.ndarray, right: np.ndarray) -> float:
  """Measures the Wasserstein-2 distance of two samples of equal size.

  The root of the least mean squared distance of partners, over all ways to
  pair the examples of the one with those of the other: exact for the samples
  (an assignment problem, in time of n^3), without regularisation. Of the
  distributions that they are drawn from it is an estimate that is too high,
  the more so the more features there are.

  Args:
    left: `[n, F]`.
    right: `[n, F]`.

  Returns:
    the distance, not divided by the number of features.

  Example:
    >>> wasserstein(np.array([[0.0], [1.0]]), np.array([[3.0], [2.0]]))
    2.0
  """
  checks.features(1, left=left, right=right)
  if len(left) != len(right):
    raise InputError(
      f'Expected equally many examples, got {len(left)} and {len(right)}.'
    )
  costs = distance.cdist(left, right, 'sqeuclidean')
  pairs = optimize.linear_sum_assignment(costs)
  return float(np.sqrt(costs[pairs].mean()))


def _standardised(
  real: np.ndarray, generated: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Both, less the mean of the real ones, in units of their spread."""
  real, generated = np.asarray(real, float), np.asarray(generated, float)
  spread = np.sqrt(real.var(axis=0).mean())
  centre = real.mean(axis=0)
  scale = spread if spread > 0 else 1.0
  return (real - centre) / scale, (generated - centre) / scale


def _equally_many(left, right, rng):
  """As many examples of the one as of the other, at most `MAX_EXAMPLES`."""
  num = min(len(left), len(right), MAX_EXAMPLES)
  return tuple(
    values[rng.choice(len(values), num, replace=False)]
    for values in (left, right)
  )


def _distances(left: np.ndarray, right: np.ndarray) -> dict[str, float]:
  """MMD and Wasserstein distance of two samples of equal size."""
  num, width = left.shape
  # Filled up, so that one program serves classes of any size.
  filled = [
    jnp.asarray(np.pad(values, [(0, MAX_EXAMPLES - num), (0, 0)]), jnp.float32)
    for values in (left, right)
  ]
  held = jnp.arange(MAX_EXAMPLES) < num
  return {
    'mmd': max(0.0, float(_squared_mmd(*filled, held, held))),
    'wasserstein': wasserstein(left, right) / width**0.5,
  }


def _length(difference: np.ndarray) -> float:
  """Root mean square over features."""
  return float(np.sqrt(np.mean(difference**2)))
