"""An empirical audit: what an attacker sees of the epsilon that is claimed.

An accountant bounds epsilon from above, by what a mechanism is meant to do. An
audit bounds it from below, by what it did. A lower bound above the claim is
evidence of a defect: noise on the wrong scale, a gradient next to the clipped
one, another law of sampling. One below it proves nothing; the attack may be
weak.

M canaries, records made to stand out, are each added to the data by a coin of
their own. An attacker who knows them all, but not the coins, gives each a score
that should be higher if it was in:

  data_key, coin_key, run_key = jax.random.split(key, 3)
  extra = canaries(num_canaries, (num_features,), num_classes, data_key, scale)
  included = canary_inclusion(num_canaries, coin_key)
  # In every step of DP-SGD on the data and `extra` where `included`:
  drawn = sampling.poisson_batch(sample_key, data, q, capacity)
  total = clipping.clipped_sum(
    loss_fn, variables, drawn.batch, loss_key, max_norm
  ).total
  released = noise.noisy_mean(
    noise_key, total, max_norm=max_norm, noise_multiplier=z,
    expected_size=q * (num_records + num_canaries / 2),
  )
  directions = clipped_gradients(loss_fn, variables, extra, loss_key, max_norm)
  scores += gradient_scores(released, directions)
  # After the last:
  claimed = accounting.epsilon(events.poisson_gaussian(z, q, steps), delta)
  seen = epsilon_lower_bound(scores[included], scores[~included], delta)
  assert seen <= claimed

The expected size must not depend on the coins. Where the unit is a client,
canaries are clients: their clipped messages are the directions, the server's
noised sums what is released.

One run with all canaries in it: Steinke, Nasr and Jagielski, "Privacy auditing
with one (1) training run", 2023. Scores of the white box: Nasr et al., "Tight
auditing of differentially private machine learning", 2023. Bounds are computed
by jax-privacy (the extra `dp`), imported when first used; the thresholds that
they are taken at, and what trying several costs, are ours.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from fedjax_gen import validate
from fedjax_gen.data.federated import Batch
from fedjax_gen.errors import InputError
from fedjax_gen.privacy import clipping
from fedjax_gen.types import Array, Key, Tree

METHODS = ('one_run', 'clopper_pearson')
# Fewer right guesses than these are no evidence of anything.
_FEWEST = 8


def canary_inclusion(num_canaries: int, key: Key) -> Array:
  """Which canaries are in the data: `[M]` bool, each by its own fair coin.

  Guarantees:
    Released: nothing. It is the secret that scores must guess: whatever
      computes scores must not read it, and what is kept equal with it, such
      as a denominator, must not follow from it.

  Args:
    num_canaries: M.
    key: consumed.
  """
  validate.positive_int(num_canaries=num_canaries)
  return jax.random.bernoulli(key, 0.5, (num_canaries,))


def canaries(
  num_canaries: int,
  shape: tuple[int, ...],
  num_classes: int,
  key: Key,
  scale: float,
) -> Batch:
  """Outliers: records in random directions, with random labels.

  In d dimensions two of them have a cosine of about 1 / sqrt(d), so that M
  canaries are told apart if M is well below d, and less well beyond. With a
  `scale` above that of the data their gradients are long, and clipped like
  any other.

  Guarantees:
    Released: nothing; independent of any data.

  Args:
    num_canaries: M.
    shape: of one record, `(F,)` for embeddings.
    num_classes: C; labels are uniform.
    key: consumed.
    scale: L2 norm of every record, in units of the data.

  Returns:
    `[M, *shape]` float32 inputs and `[M]` int32 labels, no padding.
  """
  validate.positive_int(num_canaries=num_canaries, num_classes=num_classes)
  validate.positive(scale=scale)
  direction_key, label_key = jax.random.split(key)
  drawn = jax.random.normal(direction_key, (num_canaries, *shape))
  inputs = jax.vmap(lambda row: scale * row / jnp.linalg.norm(row))(
    drawn.reshape(num_canaries, -1)
  )
  labels = jax.random.randint(label_key, (num_canaries,), 0, num_classes)
  mask = jnp.ones(num_canaries, bool)
  return Batch(inputs.reshape(drawn.shape), labels, mask)


def clipped_gradients(
  loss_fn: clipping.RecordLossFn,
  variables: Tree,
  batch: Batch,
  key: Key,
  max_norm: float | Array,
  *,
  chunk_size: int = 16,
) -> Tree:
  """What each record adds to `clipping.clipped_sum`: the canaries' directions.

  Guarantees:
    Released: nothing; canaries are no one's data. Sums over unmasked rows to
      `clipped_sum(...).total` of the same arguments.

  Args:
    loss_fn: the loss of one record.
    variables: where gradients are taken; for a white-box score of a step,
      those that the step began with.
    batch: `[M]` canaries; the mask is not read.
    key: consumed; each record's slot gives it a key.
    max_norm: C, above zero.
    chunk_size: records that are differentiated at a time. All M gradients are
      in the result.

  Returns:
    A tree like the variables, leaves `[M, ...]`, float32, of norm at most C.
  """
  validate.positive_int(chunk_size=chunk_size)
  slots = jnp.arange(batch.mask.shape[0])
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, slots)
  gradient_fn = jax.grad(loss_fn, has_aux=True)

  def one(record):
    return clipping.clip(gradient_fn(variables, *record)[0], max_norm)[0]

  # As in `clipped_sum`: a direction rounded otherwise is another one.
  with jax.default_matmul_precision('float32'):
    return jax.lax.map(one, (batch, keys), batch_size=chunk_size)


def gradient_scores(released: Tree, directions: Tree) -> Array:
  """White box: the part of a released sum that points each canary's way.

  Linear in what was released. Over a run, add up the scores of its steps; if
  the directions never change (Dirac canaries: their gradient is one coordinate
  whatever the variables), score the sum of the releases instead.

  Guarantees:
    Released: nothing; post-processing of what was released. To be an audit it
      must be given the noised gradient, the very tree that the optimizer takes.

  Args:
    released: one noised sum or mean, like the variables.
    directions: leaves `[M, ...]`, the canaries' own clipped gradients.

  Returns:
    `[M]` inner products over all leaves, float32; higher says in.
  """

  def inner(value, rows):
    return jnp.tensordot(rows, value, value.ndim, precision='float32')

  products = jax.tree.map(inner, released, directions)
  return functools.reduce(jnp.add, jax.tree.leaves(products))


def epsilon_lower_bound(
  scores_in: ArrayLike,
  scores_out: ArrayLike,
  delta: float,
  *,
  confidence: float = 0.95,
  method: str = 'one_run',
) -> float:
  """A lower bound on epsilon from the scores of canaries, in and out.

  A canary with a score at or above a threshold is guessed to be in; of the
  others nothing is guessed. The more of the guesses are right, the larger
  epsilon must be.

  Guarantees:
    If what computed the scores is (epsilon, delta)-DP, the result is at most
      epsilon with a probability of at least `confidence`, over the canaries'
      coins and the mechanism's noise and sampling. It is a statement about one
      audit, fixed beforehand: the best of several attacks, runs or methods
      does not have it.
    Neighbouring: one canary added or removed. Compare with an epsilon of
      `add_or_remove_one` at the same delta. Of `replace_one` it says nothing,
      unless a canary that is out was replaced by another record.
    Independence: canaries of one run share its noise and move each other's
      gradients, so their scores are not independent. `one_run` does not need
      it: its law of the number of right guesses holds for any dependence, if
      inclusion was by independent fair coins (`canary_inclusion`) and the
      scores did not read them. The epsilon is that of the whole run.
      `clopper_pearson` takes all scores as independent draws: one canary and
      one run for each, in or out by coin or by design. On the canaries of a
      single run it is a heuristic without this guarantee.
    Thresholds: chosen on the same scores, and paid for. About log2 of their
      number are tried, at ranks that depend on that number alone, each at an
      equal part of the risk, and the best is kept. With `one_run` the rank is
      among all scores, so that the number of guesses is fixed, as the paper
      has it (scores that tie are guessed together); with `clopper_pearson` it
      is among those out, and the false positive rate at one of their order
      statistics is what its bound is for.

  Args:
    scores_in: scores of the canaries that were in the data.
    scores_out: of those that were not.
    delta: in (0, 1), that of the claim. `one_run` pays for it with the number
      of canaries, and sees little if delta is not well below 1 / M.
    confidence: above one half, below 1.
    method: `one_run` (Steinke et al., 2023, with guesses of "in" alone) or
      `clopper_pearson` (Jagielski, Ullman and Oprea, "Auditing differentially
      private machine learning", 2020: bounds on the true and the false
      positive rate, half of the risk each).

  Returns:
    The bound; 0, which says nothing, if guesses were no better than chance.
    However bad the leak, it does not exceed about log(M / 9).

  Raises:
    InputError: an argument is out of range, scores are not finite numbers in
      one dimension or there are none, or jax-privacy is not installed.
  """
  validate.one_of(METHODS, method=method)
  if not 0 < delta < 1:
    raise InputError(f'Expected 0 < delta < 1, got delta={delta!r}.')
  if not 0.5 < confidence < 1:
    raise InputError(
      f'Expected 0.5 < confidence < 1, got confidence={confidence!r}.'
    )
  inside = _scores('scores_in', scores_in)
  outside = _scores('scores_out', scores_out)
  auditing = jax_privacy_auditing()
  auditor = auditing.CanaryScoreAuditor(inside, outside)
  if method == 'one_run':
    bound = auditor.epsilon_one_run
    thresholds = _thresholds(np.concatenate([inside, outside]))
  else:
    bound = auditor.epsilon_clopper_pearson
    no_false_positive = np.nextafter(outside.max(), np.inf)
    thresholds = [no_false_positive, *_thresholds(outside)]
  risk = (1 - confidence) / len(thresholds)
  return max(
    float(bound(risk, delta, threshold_strategy=auditing.Explicit(threshold)))
    for threshold in thresholds
  )


def _thresholds(scores: np.ndarray) -> list[float]:
  """Those that the highest half, quarter, eighth of the scores reach."""
  ranked = np.sort(scores)[::-1]
  count = max(ranked.size // 2, 1)
  thresholds = [float(ranked[count - 1])]
  while count // 2 >= _FEWEST:
    count //= 2
    thresholds.append(float(ranked[count - 1]))
  return thresholds


def _scores(name: str, values: ArrayLike) -> np.ndarray:
  scores = np.asarray(values, np.float64)
  if scores.ndim != 1 or not scores.size or not np.isfinite(scores).all():
    raise InputError(
      f'Expected {name} to be finite numbers in one dimension, at least one, '
      f'got shape {scores.shape} with {np.isfinite(scores).sum()} finite.'
    )
  return scores


def jax_privacy_auditing() -> Any:
  """The library that computes the bounds.

  Raises:
    InputError: it is not installed.
  """
  try:
    from jax_privacy import auditing
  except ImportError as error:
    raise InputError(
      'A lower bound on epsilon needs jax-privacy, which is not installed: '
      "pip install 'fedjax_gen[dp]'."
    ) from error
  return auditing
