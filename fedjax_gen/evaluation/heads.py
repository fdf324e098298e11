"""What synthetic embeddings are good for: linear heads of clients, compared.

Clients hold embeddings of a frozen encoder and need a classifier. Three are
compared, each a single layer (`linear_heads`): one trained on synthetic
embeddings, one that each client trains on its own real ones, and the two
interpolated,

    share * p_local(y | x) + (1 - share) * p_synthetic(y | x),

with one share for all clients, the one of 0, 0.1, ..., 1 with the best
validation accuracy, averaged over clients.

The interpolated rule is that of DP-CVAE's code (Di Salvo, Nguyen, Ledig,
"Embedding-Based Federated Data Sharing via Differentially Private Conditional
VAEs", 2025, https://arxiv.org/abs/2507.02671). FedHypeVAE (Gupta, Jangid,
Sethi, PMLR 317, 2026) names single-layer linear classifiers, accuracy and
balanced accuracy; which data they are trained on it does not say. That all
three are reported, the AUC, the worst client and the common test set are ours.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from fedjax_gen import validate
from fedjax_gen.data.partition_value import Partition
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks
from fedjax_gen.evaluation.embeddings.linear_heads import (
  DEFAULT_CONFIG,
  Head,
  HeadConfig,
  probabilities,
  train_head,
  train_heads,
)

REGIMES = ('synthetic', 'local', 'interpolated')
SCORES = ('accuracy', 'balanced_accuracy', 'auc')
SHARES = tuple(tenth / 10 for tenth in range(11))
"""Shares of the local head that are tried."""


class ClientRows(NamedTuple):
  """Real embeddings, and which client holds which of them for what.

  Attributes:
    inputs: `[n, F]` embeddings.
    labels: `[n]` whole numbers below `num_classes`.
    num_classes: C.
    train: N clients' rows to train on.
    validation: the same clients' rows by which the share is chosen.
    test: the same clients' rows that are measured.
  """

  inputs: np.ndarray
  labels: np.ndarray
  num_classes: int
  train: Partition
  validation: Partition
  test: Partition


class Evaluation(NamedTuple):
  """What heads reach.

  Attributes:
    metrics: numbers by name, see `evaluate`.
    clients: `[M]` the clients that have test rows.
    values: `[M]` of those clients by metric name, `'local_accuracy'` for
      instance, on their own test rows; NaN where an AUC is not defined.
  """

  metrics: dict[str, float]
  clients: np.ndarray
  values: dict[str, np.ndarray]


def interpolate(
  local: np.ndarray, synthetic: np.ndarray, share: float
) -> np.ndarray:
  """`[n, C]` probabilities, `share` of them the local head's.

  Args:
    local: `[n, C]` probabilities of the local head.
    synthetic: `[n, C]` probabilities of the head of synthetic embeddings.
    share: in [0, 1].
  """
  validate.fraction(share=share)
  return share * local + (1 - share) * synthetic


def choose_share(
  labels: Sequence[np.ndarray],
  local: Sequence[np.ndarray],
  synthetic: Sequence[np.ndarray],
) -> float:
  """Chooses the one share of all clients, by mean validation accuracy.

  Every client counts the same, however many rows it has. Of shares that are
  equally good, the smallest is taken.

  Args:
    labels: of each client `[n_i]` labels of its validation rows.
    local: of each client `[n_i, C]` probabilities of its own head there.
    synthetic: of each client `[n_i, C]` those of the synthetic head.
  """
  held = [i for i, of_client in enumerate(labels) if len(of_client)]
  if not held:
    raise InputError(
      'Expected validation rows of at least one client to choose the share '
      'by, got none.'
    )
  accuracies = [
    np.mean(
      [
        _accuracy(labels[i], interpolate(local[i], synthetic[i], share))
        for i in held
      ]
    )
    for share in SHARES
  ]
  # Means of equal accuracies may differ in the last bit.
  return SHARES[int(np.argmax(np.round(accuracies, 12)))]


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
  """Scores predictions, without NaN.

  Args:
    labels: `[n]` whole numbers below C, n > 0; classes may be missing.
    probabilities: `[n, C]`.

  Returns:
    `'accuracy'`; `'balanced_accuracy'`, the mean recall of the classes that
    are present; `'auc'`, the area under the ROC curve of one class against the
    rest, averaged over the classes that some examples have and some lack. If
    all examples are of one class it is not defined, and left out.

  Example:
    >>> two = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3]])
    >>> scores(np.array([0, 0, 1]), two)
    {'accuracy': 0.666..., 'balanced_accuracy': 0.5, 'auc': 0.5}
  """
  checks.features(1, probabilities=probabilities)
  num, num_classes = probabilities.shape
  checks.labels(num, num_classes, labels=labels)
  is_class = labels[:, None] == np.arange(num_classes)
  sizes = is_class.sum(axis=0)
  hits = probabilities.argmax(axis=1) == labels
  recalls = (hits[:, None] & is_class).sum(axis=0) / np.maximum(sizes, 1)
  result = {
    'accuracy': float(hits.mean()),
    'balanced_accuracy': float(recalls[sizes > 0].mean()),
  }
  told = (sizes > 0) & (sizes < num)
  if told.any():
    # The statistic of Mann and Whitney, with ties counted half.
    ranks = stats.rankdata(probabilities[:, told], axis=0)
    size = sizes[told]
    wins = (ranks * is_class[:, told]).sum(axis=0) - size * (size + 1) / 2
    result['auc'] = float(np.mean(wins / (size * (num - size))))
  return result


def fit_local(clients: ClientRows, config: HeadConfig = DEFAULT_CONFIG) -> Head:
  """Trains each client's head on its own training rows.

  What is compared with it does not change it: it serves any number of calls
  of `evaluate`.

  Args:
    clients: the real embeddings. Memory is that of N times the largest
      client's.
    config: how heads are trained.

  Returns:
    heads with a leading axis N. A client without training rows gets zeros: it
    gives every class the same probability.
  """
  _check(clients)
  sizes = clients.train.sizes
  num = max(1, int(sizes.max()))
  rows = np.zeros([len(sizes), num], np.int64)
  held = np.arange(num) < sizes[:, None]
  rows[held] = clients.train.order
  return train_heads(
    np.asarray(clients.inputs, np.float32)[rows],
    clients.labels[rows],
    clients.num_classes,
    config,
    sample_weight=held,
  )


def evaluate(
  clients: ClientRows,
  local: Head,
  synthetic_inputs: np.ndarray,
  synthetic_labels: np.ndarray,
  config: HeadConfig = DEFAULT_CONFIG,
) -> Evaluation:
  """Measures synthetic embeddings by the heads of clients.

  Args:
    clients: the real embeddings.
    local: what `fit_local` made of them.
    synthetic_inputs: `[m, F]` generated embeddings, the same for all clients.
    synthetic_labels: `[m]` the labels they were asked for; classes may be
      missing.
    config: how the head of synthetic embeddings is trained.

  Returns:
    For each of the regimes `synthetic`, `local` and `interpolated` and each of
    `scores`, on each client's own test rows, metrics such as

      `synthetic_accuracy`          mean over clients,
      `synthetic_accuracy_stddev`   its spread (population),
      `synthetic_accuracy_worst`    the least,

    and on the test rows of all clients together the same of
    `local_global_accuracy` and so on; `synthetic_global_accuracy` is one
    number, as the head is one for all. Further `interpolation_lambda`, the
    share of the local head. A client without test rows is left out. AUCs are
    those of clients where they are defined, and left out if there are none.
  """
  checks.features(1, synthetic_inputs=synthetic_inputs, inputs=clients.inputs)
  head = train_head(
    synthetic_inputs, synthetic_labels, clients.num_classes, config
  )
  return evaluate_head(clients, local, head)


def evaluate_head(clients: ClientRows, local: Head, shared: Head) -> Evaluation:
  """Measures one head for all clients, alone and with their own heads.

  Args:
    clients: the real embeddings.
    local: what `fit_local` made of them.
    shared: a head for all, whatever it was trained on.

  Returns:
    As `evaluate`, with `shared` in the place of the head of synthetic
    embeddings.
  """
  measured = _measured(clients, local)
  inputs = np.asarray(clients.inputs, np.float32)
  heads = [Head(*leaves) for leaves in zip(*local, strict=True)]
  synthetic = probabilities(shared, inputs)

  def at(client, rows):
    """Labels of rows, and what its own and the shared head make of them."""
    own = probabilities(heads[client], inputs[rows])
    return clients.labels[rows], own, synthetic[rows]

  share = choose_share(
    *zip(
      *(at(i, clients.validation.rows(i)) for i in range(len(heads))),
      strict=True,
    )
  )
  of_clients = [
    _regimes(share, *at(client, clients.test.rows(client)))
    for client in measured
  ]
  of_all = [
    _regimes(share, *at(client, clients.test.order)) for client in measured
  ]
  values = _stacked(of_clients)
  common = {
    name.replace('_', '_global_', 1): row
    for name, row in _stacked(of_all).items()
  }
  metrics = {'interpolation_lambda': share}
  for name, row in {**values, **common}.items():
    metrics |= _over_clients(name, row)
  return Evaluation(metrics, measured, values)


def _check(clients: ClientRows) -> None:
  """Raises `InputError` unless rows, labels and partitions fit."""
  validate.positive_int(num_classes=clients.num_classes)
  checks.features(1, inputs=clients.inputs)
  num = len(clients.inputs)
  checks.labels(num, clients.num_classes, labels=clients.labels)
  parts = clients._asdict()
  names = ('train', 'validation', 'test')
  numbers = {name: parts[name].num_clients for name in names}
  if len(set(numbers.values())) > 1:
    raise InputError(f'Expected equally many clients, got {numbers}.')
  use = np.full(num, -1)
  for position, name in enumerate(names):
    order = parts[name].order
    if len(order) and order.max() >= num:
      raise InputError(
        f'Expected rows of {name} below {num}, got {order.max()}.'
      )
    taken = use[order]
    if (taken >= 0).any():
      raise InputError(
        f'Expected rows of {name} in no other part, got rows that are also in '
        f'{names[taken.max()]}.'
      )
    use[order] = position


def _measured(clients: ClientRows, local: Head) -> np.ndarray:
  """`[M]` clients with test rows; raises `InputError` unless all fits."""
  _check(clients)
  width = np.shape(clients.inputs)[1]
  expected = (clients.train.num_clients, width, clients.num_classes)
  if np.shape(local.kernel) != expected:
    raise InputError(
      f'Expected local heads [N, F, C] of shape {list(expected)}, got '
      f'{list(np.shape(local.kernel))}.'
    )
  measured = np.flatnonzero(clients.test.sizes)
  if not measured.size:
    raise InputError('Expected test rows of at least one client, got none.')
  return measured


def _accuracy(labels, predicted):
  return np.mean(predicted.argmax(axis=1) == labels)


def _regimes(
  share: float, labels: np.ndarray, own: np.ndarray, shared: np.ndarray
) -> dict[str, float]:
  """Scores of a client's head, of the shared one and of both."""
  mixed = interpolate(own, shared, share)
  return {
    f'{regime}_{name}': value
    for regime, predicted in zip(REGIMES, (shared, own, mixed), strict=True)
    for name, value in scores(labels, predicted).items()
  }


def _stacked(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
  """Values by name; NaN where a row lacks one, no name that all lack."""
  names = [f'{regime}_{score}' for regime in REGIMES for score in SCORES]
  table = {
    name: np.array([row.get(name, np.nan) for row in rows]) for name in names
  }
  return {name: row for name, row in table.items() if np.isfinite(row).any()}


def _over_clients(name: str, row: np.ndarray) -> dict[str, float]:
  """Mean, spread and least of a metric, over the clients that have it."""
  defined = row[np.isfinite(row)]
  found = {name: float(defined.mean())}
  if not name.startswith('synthetic_global_'):  # the same for all clients
    found[f'{name}_stddev'] = float(defined.std())
    found[f'{name}_worst'] = float(defined.min())
  return found
