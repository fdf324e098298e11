"""What generated embeddings reveal about the training records.

A membership attack guesses, from generated embeddings alone, whether a real
one was in the training data: the nearer a generated one lies, the more likely.
Without calibration that also finds what is merely typical; with a reference
sample of the same population, the distance is compared with the distance to the
reference. An area under the ROC curve of 0.5 means that this attack learned
nothing. Another attack might: this is an audit, not a privacy guarantee.

Distances to the nearest example are the attack of GAN-Leaks (Chen, Yu, Zhang,
Fritz, 2020, https://arxiv.org/abs/1909.03935, the black-box one); comparing the
density of generated data with that of a reference is DOMIAS (van Breugel, Sun,
Qian, van der Schaar, 2023, https://arxiv.org/abs/2302.12580). DOMIAS estimates
densities with kernels or flows. Ours are the ratio of distances to the nearest
example, a density ratio by nearest neighbours up to its exponent, and the
attack within a class.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn import metrics

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks


class Labels(NamedTuple):
  """Labels of what `membership_auc` is given, of equal names and lengths."""

  members: np.ndarray
  non_members: np.ndarray
  generated: np.ndarray
  reference: np.ndarray | None = None


def membership_auc(
  members: np.ndarray,
  non_members: np.ndarray,
  generated: np.ndarray,
  *,
  reference: np.ndarray | None = None,
  labels: Labels | None = None,
) -> float:
  """Measures how well generated embeddings tell members from non-members.

  Args:
    members: `[n, F]` embeddings that were trained on.
    non_members: `[m, F]` others of the same clients, held out. Where members
      and non-members differ in more than that, the attack finds the
      difference, and means nothing.
    generated: `[g, F]` generated embeddings.
    reference: `[r, F]` further embeddings of the population, neither members
      nor non-members, for the calibrated attack.
    labels: for an attacker who knows labels, and looks among generated and
      reference embeddings of the same class only.

  Returns:
    the area under the ROC curve, in [0, 1]; 0.5 when nothing is learned, 1
    when training data are copied.
  """
  checks.features(
    1, members=members, non_members=non_members, generated=generated
  )
  of_queries = None
  if labels is not None:
    checks.labels(len(members), 2**31, members=labels.members)
    checks.labels(len(non_members), 2**31, non_members=labels.non_members)
    of_queries = np.concatenate([labels.members, labels.non_members])
  scores = attack_scores(
    np.concatenate([members, non_members]),
    generated,
    reference=reference,
    labels=of_queries,
    generated_labels=None if labels is None else labels.generated,
    reference_labels=None if labels is None else labels.reference,
  )
  is_member = np.arange(len(scores)) < len(members)
  # Ranks, since a score may be infinite.
  return float(metrics.roc_auc_score(is_member, stats.rankdata(scores)))


def attack_scores(
  inputs: np.ndarray,
  generated: np.ndarray,
  *,
  reference: np.ndarray | None = None,
  labels: np.ndarray | None = None,
  generated_labels: np.ndarray | None = None,
  reference_labels: np.ndarray | None = None,
) -> np.ndarray:
  """Scores embeddings: the higher, the likelier a member.

  Args:
    inputs: `[n, F]` embeddings to guess about.
    generated: `[g, F]`.
    reference: `[r, F]` or None.
    labels: `[n]`; with them, distances are within a class.
    generated_labels: `[g]`, if `labels` are given.
    reference_labels: `[r]`, if `labels` and a reference are given.

  Returns:
    `[n]`: minus the distance to the nearest generated embedding; with a
    reference, the logarithm of the distance to the nearest reference over that
    distance, inf for a copy. -inf for a class without generated examples.

  Example:
    >>> attack_scores(np.array([[0.0], [3.0]]), np.array([[1.0], [9.0]]))
    array([-1., -2.])
  """
  checks.features(1, inputs=inputs, generated=generated)
  near = _nearest(
    inputs, generated, labels, generated_labels, name='generated_labels'
  )
  if reference is None:
    return -near
  checks.features(1, inputs=inputs, reference=reference)
  far = _nearest(
    inputs, reference, labels, reference_labels, name='reference_labels'
  )
  if labels is not None and np.isinf(far).any():
    missing = labels[np.isinf(far)][0]
    raise InputError(
      f'Expected reference_labels with every class, got none of {missing}.'
    )
  with np.errstate(divide='ignore', invalid='ignore'):
    ratio = np.log(far) - np.log(near)
  # Where both have a copy, neither says more than the other.
  return np.where((far == 0) & (near == 0), 0.0, ratio)


def _nearest(inputs, candidates, labels, candidate_labels, *, name):
  """`[n]` distances to the nearest candidate, of the same class if labelled."""
  if labels is None:
    return _distances(inputs, candidates)
  checks.labels(len(inputs), 2**31, labels=labels)
  checks.labels(len(candidates), 2**31, **{name: candidate_labels})
  result = np.full(len(inputs), np.inf)
  for label in np.intersect1d(labels, candidate_labels):
    rows = labels == label
    result[rows] = _distances(
      inputs[rows], candidates[candidate_labels == label]
    )
  return result


def _distances(inputs, candidates):
  """`[n]` distances to the nearest candidate; exactly 0 for a copy."""
  inputs, candidates = np.asarray(inputs), np.asarray(candidates)
  index = metrics.pairwise_distances_argmin(inputs, candidates)
  differences = inputs.astype(float) - candidates[index]
  return np.linalg.norm(differences, axis=1)
