"""How well clients with models of their own do beyond their own data.

Every client has another model, so accuracy is a number for each client: on one
global test set, with classes that a client may never have seen, and on the
client's own test examples. All is computed from right answers by client and
class, which `federated.own_models.deployment.scorer` counts.
"""

from collections.abc import Sequence

import numpy as np

from fedjax_gen import validate
from fedjax_gen.errors import InputError

_TAKEN = ('stddev', 'worst')  # ends of metrics that are no architectures


def generalisation_metrics(
  correct: np.ndarray,
  asked: np.ndarray,
  counts: np.ndarray,
  *,
  correct_local: np.ndarray | None = None,
  asked_local: np.ndarray | None = None,
  architectures: Sequence[str] = (),
) -> dict[str, float]:
  """Summarises right answers of N clients on C classes.

  Args:
    correct: `[N, C]` right answers of each client on the global test set.
    asked: `[C]` examples of each class in it; a class may have none.
    counts: `[N, C]` training examples of each client; a client may have none.
    correct_local: `[N, C]` right answers on each client's own test examples.
    asked_local: `[N, C]` how many those are; a client may have none.
    architectures: N names, those of the clients' models.

  Returns:
    finite numbers in [0, 1], under the names

      `accuracy`                generalisation accuracy: the mean over all
                                clients of the share of right answers,
      `accuracy_stddev`         its spread over clients (population),
      `accuracy_worst`          that of the client that does worst,
      `accuracy_A`              the mean over clients of architecture A,
      `balanced_accuracy`       the mean over clients of the mean over classes
                                that have test examples,
      `missing_class_accuracy`  of a client the share of right answers on all
                                examples of classes that it has no training
                                example of; the mean over clients with such
                                classes,
      `held_class_accuracy`     likewise on classes that it has examples of,
      `local_accuracy`          the mean over clients with test examples of
                                their own, also with `_stddev` and `_worst`.

    What no client has is left out: `missing_class_accuracy` where everyone
    holds every class, the `local_` ones without local test examples. A client
    without training data counts like any other, and misses every class.

  Raises:
    InputError: arrays of other shapes, not finite or negative, more right
      answers than questions, no test example at all, or names that are not N
      or would be mistaken for another metric.

  Example:
    Two clients; each holds one class and knows nothing else:

    >>> correct, counts = np.diag([4, 6]), np.diag([50, 90])
    >>> found = generalisation_metrics(correct, np.array([4, 6]), counts)
    >>> found['accuracy'], found['missing_class_accuracy']
    (0.5, 0.0)
  """
  counts = _checked('counts', counts)
  correct, asked = _answers('correct', correct, 'asked', asked, counts.shape)
  if not asked.any():
    raise InputError('Expected asked to hold a test example, got none.')
  accuracies = correct.sum(axis=1) / asked.sum(axis=1)
  missing = counts == 0
  metrics = {
    **_over_clients('accuracy', accuracies),
    'balanced_accuracy': float(_ratio(correct, asked).mean(axis=1).mean()),
    **_by_architecture(accuracies, architectures),
  }
  for name, chosen in (('missing', missing), ('held', ~missing)):
    of_clients = _ratio((correct * chosen).sum(axis=1), (asked * chosen).sum(1))
    if of_clients.count():
      metrics[f'{name}_class_accuracy'] = float(of_clients.mean())
  if (correct_local is None) != (asked_local is None):
    raise InputError('Expected both correct_local and asked_local, or neither.')
  if correct_local is not None:
    correct, asked = _answers(
      'correct_local', correct_local, 'asked_local', asked_local, counts.shape
    )
    own = _ratio(correct.sum(axis=1), asked.sum(axis=1)).compressed()
    metrics |= _over_clients('local_accuracy', own) if own.size else {}
  return metrics


def bytes_to_target(
  rounds: Sequence[int],
  accuracies: Sequence[float | None],
  bytes_per_round: float,
  target: float,
) -> float | None:
  """What was sent until an accuracy was first reached.

  Where not every round is measured, the answer is late by up to the gap.

  Args:
    rounds: after how many rounds each accuracy was measured, ascending.
    accuracies: as many; None or NaN where nothing was measured.
    bytes_per_round: of all clients together, up and down.
    target: the accuracy to reach.

  Returns:
    bytes, or None if the target was never reached.

  Example:
    >>> bytes_to_target([1, 2, 3], [0.2, None, 0.6], 100, target=0.5)
    300.0
  """
  validate.non_negative(bytes_per_round=bytes_per_round)
  numbers = np.asarray(rounds, float)
  values = np.array([np.nan if a is None else a for a in accuracies], float)
  if numbers.shape != values.shape:
    raise InputError(
      f'Expected as many rounds as accuracies, got {len(numbers)} and '
      f'{len(values)}.'
    )
  if np.any(np.diff(numbers) <= 0):
    raise InputError(f'Expected rounds to ascend, got {list(rounds)}.')
  reached = np.flatnonzero(values >= target)  # NaN never is
  return float(numbers[reached[0]] * bytes_per_round) if reached.size else None


def _checked(name: str, values: np.ndarray) -> np.ndarray:
  """`values` as float64 `[N, C]`, finite and not negative."""
  values = np.asarray(values, float)
  if values.ndim != 2 or not values.size:
    raise InputError(f'Expected {name} [N, C], got {list(values.shape)}.')
  if not np.all(np.isfinite(values)) or values.min() < 0:
    raise InputError(f'Expected {name} to be finite and >= 0.')
  return values


def _answers(right_name, right, asked_name, asked, shape):
  """Right answers and questions, both of `shape`, as float64."""
  asked = np.asarray(asked, float)
  if asked.shape == shape[1:]:  # the same questions for all clients
    asked = np.broadcast_to(asked, shape)
  right, asked = _checked(right_name, right), _checked(asked_name, asked)
  for name, values in ((right_name, right), (asked_name, asked)):
    if values.shape != shape:
      raise InputError(
        f'Expected {name} to have the shape {list(shape)} of counts, got '
        f'{list(values.shape)}.'
      )
  if np.any(right > asked):
    raise InputError(f'Expected {right_name} <= {asked_name} everywhere.')
  return right, asked


def _ratio(right: np.ndarray, asked: np.ndarray) -> np.ma.MaskedArray:
  """Shares of right answers, masked where nothing was asked."""
  asked = np.ma.masked_equal(asked, 0)
  return np.ma.divide(right, asked)


def _over_clients(name: str, values: np.ndarray) -> dict[str, float]:
  return {
    name: float(values.mean()),
    f'{name}_stddev': float(values.std()),
    f'{name}_worst': float(values.min()),
  }


def _by_architecture(accuracies, architectures) -> dict[str, float]:
  """Means over the clients of each architecture."""
  names = np.asarray(architectures, str)
  if names.size and names.shape != accuracies.shape:
    raise InputError(
      f'Expected architectures to be {len(accuracies)} names, one for each '
      f'client, got {len(names)}.'
    )
  for name in _TAKEN:
    if name in names:
      raise InputError(f'Expected architectures other than {name!r}.')
  return {
    f'accuracy_{name}': float(accuracies[names == name].mean())
    for name in dict.fromkeys(names.tolist())
  }
