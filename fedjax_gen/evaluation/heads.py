"""Linear softmax classifiers on embeddings: what synthetic ones are good for.

Clients hold embeddings of a frozen encoder and need a classifier. Three are
compared, each a single layer: one trained on synthetic embeddings, one that
each client trains on its own real ones, and the two interpolated,

    share * p_local(y | x) + (1 - share) * p_synthetic(y | x),

with one share for all clients, the one of 0, 0.1, ..., 1 whose validation
accuracy, averaged over clients, is best.

The interpolated rule is that of DP-CVAE's code (Di Salvo, Nguyen, Ledig,
"Embedding-Based Federated Data Sharing via Differentially Private Conditional
VAEs", 2025, https://arxiv.org/abs/2507.02671), which trains 100 full-batch
epochs of Adam at 1e-3 with weight decay 5e-4. FedHypeVAE (Gupta, Jangid, Sethi,
PMLR 317, 2026) names single-layer linear classifiers, accuracy and balanced
accuracy; which data they are trained on it does not say. That all three are
reported, the AUC, the worst client, the common test set, and twice the epochs
at ten times the learning rate, at which heads are nearly converged, are ours.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special, stats

from fedjax_gen import fields, validate
from fedjax_gen.data.partition_value import Partition
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks
from fedjax_gen.types import Array

REGIMES = ('synthetic', 'local', 'interpolated')
SCORES = ('accuracy', 'balanced_accuracy', 'auc')
SHARES = tuple(tenth / 10 for tenth in range(11))
"""Shares of the local head that are tried."""


@dataclasses.dataclass(frozen=True)
class HeadConfig:
  """How linear heads are trained.

  Raises:
    InputError: a value is out of range.
  """

  head_epochs: int = fields.option(200, 'full-batch steps of a linear head')
  head_learning_rate: float = fields.option(1e-2, 'of the heads’ Adam')
  head_weight_decay: float = fields.option(
    5e-4, 'added to the gradient, times the weights, before Adam'
  )

  def __post_init__(self):
    validate.positive_int(head_epochs=self.head_epochs)
    validate.positive(head_learning_rate=self.head_learning_rate)
    validate.non_negative(head_weight_decay=self.head_weight_decay)


DEFAULT_CONFIG = HeadConfig()


class Head(NamedTuple):
  """A linear classifier; of N clients, each leaf has a leading client axis."""

  kernel: np.ndarray | Array
  """`[F, C]`."""
  bias: np.ndarray | Array
  """`[C]`."""


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


def train_head(
  inputs: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  config: HeadConfig = DEFAULT_CONFIG,
  *,
  sample_weight: np.ndarray | None = None,
) -> Head:
  """Trains a head by full-batch Adam on the weighted mean cross-entropy.

  It starts from zeros, so nothing is drawn and no seed asked for. Embeddings
  are taken as they are: at a given learning rate their scale matters.

  Args:
    inputs: `[n, F]` embeddings.
    labels: `[n]` whole numbers below `num_classes`; classes may be missing.
    num_classes: C.
    config: epochs, learning rate, weight decay.
    sample_weight: `[n]` weights >= 0; ones if None.

  Raises:
    InputError: arguments of other shapes, out of range or not finite.
  """
  checks.features(1, inputs=inputs)
  weights = _ones_or(sample_weight, (len(inputs),))
  head = train_heads(
    np.asarray(inputs)[None],
    np.asarray(labels)[None],
    num_classes,
    config,
    sample_weight=weights[None],
  )
  return jax.tree.map(lambda leaf: leaf[0], head)


def train_heads(
  inputs: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  config: HeadConfig = DEFAULT_CONFIG,
  *,
  sample_weight: np.ndarray | None = None,
) -> Head:
  """Trains the heads of N clients in one program.

  Args:
    inputs: `[N, n, F]` embeddings, each client's filled up to n.
    labels: `[N, n]` whole numbers below `num_classes`, filled up likewise.
    num_classes: C.
    config: epochs, learning rate, weight decay.
    sample_weight: `[N, n]` weights >= 0, zero for what is filled up; ones if
      None.

  Returns:
    what `train_head` makes of each client, up to rounding; zeros, a head that
    is undecided, for one whose weights are all zero.

  Raises:
    InputError: arguments of other shapes, out of range or not finite.
  """
  validate.positive_int(num_classes=num_classes)
  inputs, labels = np.asarray(inputs), np.asarray(labels)
  if inputs.ndim != 3:
    raise InputError(
      f'Expected inputs to be embeddings [N, n, F], got {list(inputs.shape)}.'
    )
  num_clients, num, width = inputs.shape
  checks.features(1, inputs=inputs.reshape(-1, width))
  if labels.shape != (num_clients, num):
    raise InputError(
      f'Expected labels of shape {[num_clients, num]}, one for each embedding, '
      f'got {list(labels.shape)}.'
    )
  checks.labels(labels.size, num_classes, labels=labels.reshape(-1))
  weights = _ones_or(sample_weight, (num_clients, num))
  return jax.device_get(
    _fit_all(
      jnp.asarray(inputs, jnp.float32),
      jnp.asarray(labels, jnp.int32),
      jnp.asarray(weights),
      num_classes,
      config,
    )
  )


def probabilities(head: Head, inputs: np.ndarray) -> np.ndarray:
  """`[n, C]` class probabilities of embeddings `[n, F]`.

  Example:
    >>> head = Head(np.array([[0.0, np.log(3.0)]]), np.zeros(2))
    >>> probabilities(head, np.array([[1.0], [0.0]])).round(6).tolist()
    [[0.25, 0.75], [0.5, 0.5]]
  """
  kernel, bias = np.asarray(head.kernel), np.asarray(head.bias)
  return special.softmax(inputs @ kernel + bias, axis=1)


def interpolate(
  local: np.ndarray, synthetic: np.ndarray, share: float
) -> np.ndarray:
  """`[n, C]` probabilities, `share` of them the local head's.

  Args:
    local: `[n, C]` probabilities of the local head.
    synthetic: `[n, C]` probabilities of the head of synthetic embeddings.
    share: in [0, 1].

  Raises:
    InputError: a share out of range.
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

  Raises:
    InputError: no client has a validation row.
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

  Raises:
    InputError: arguments of other shapes or out of range.

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

  Raises:
    InputError: embeddings, labels or partitions that do not fit each other.
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

  Raises:
    InputError: embeddings, labels, heads or partitions that do not fit each
      other, values that are not finite, no test or no validation rows.
  """
  checks.features(1, synthetic_inputs=synthetic_inputs, inputs=clients.inputs)
  head = train_head(
    synthetic_inputs, synthetic_labels, clients.num_classes, config
  )
  return evaluate_head(clients, local, head)


def evaluate_head(clients: ClientRows, local: Head, shared: Head) -> Evaluation:
  """Measures one head for all clients, alone and beside their own.

  Args:
    clients: the real embeddings.
    local: what `fit_local` made of them.
    shared: a head for all, whatever it was trained on.

  Returns:
    As `evaluate`, with `shared` in the place of the head of synthetic
    embeddings.

  Raises:
    InputError: embeddings, heads or partitions that do not fit each other,
      values that are not finite, no test or no validation rows.
  """
  _check(clients)
  inputs = np.asarray(clients.inputs, np.float32)
  expected = (clients.train.num_clients, inputs.shape[1], clients.num_classes)
  if np.shape(local.kernel) != expected:
    raise InputError(
      f'Expected local heads [N, F, C] of shape {list(expected)}, got '
      f'{list(np.shape(local.kernel))}.'
    )
  measured = np.flatnonzero(clients.test.sizes)
  if not measured.size:
    raise InputError('Expected test rows of at least one client, got none.')
  synthetic = probabilities(shared, inputs)
  heads = [Head(*leaves) for leaves in zip(*local, strict=True)]

  def at(partition, client):
    rows = partition.rows(client)
    return (
      clients.labels[rows],
      probabilities(heads[client], inputs[rows]),
      rows,
    )

  checked = [at(clients.validation, client) for client in range(len(heads))]
  share = choose_share(
    [labels for labels, _, _ in checked],
    [local for _, local, _ in checked],
    [synthetic[rows] for _, _, rows in checked],
  )

  def regimes(labels, own, shared):
    mixed = interpolate(own, shared, share)
    return {
      f'{regime}_{name}': value
      for regime, predicted in zip(REGIMES, (shared, own, mixed), strict=True)
      for name, value in scores(labels, predicted).items()
    }

  everywhere = clients.test.order
  of_clients, of_all = [], []
  for client in measured:
    labels, own, rows = at(clients.test, client)
    of_clients.append(regimes(labels, own, synthetic[rows]))
    own = probabilities(heads[client], inputs[everywhere])
    found = regimes(clients.labels[everywhere], own, synthetic[everywhere])
    of_all.append(
      {name.replace('_', '_global_', 1): v for name, v in found.items()}
    )
  values, common = _stacked(of_clients), _stacked(of_all)
  metrics = {'interpolation_lambda': share}
  for name, row in {**values, **common}.items():
    defined = row[np.isfinite(row)]
    metrics[name] = float(defined.mean())
    if not name.startswith('synthetic_global_'):
      metrics[f'{name}_stddev'] = float(defined.std())
      metrics[f'{name}_worst'] = float(defined.min())
  return Evaluation(metrics, measured, values)


def evaluate_clients(
  clients: ClientRows,
  synthetic_inputs: np.ndarray,
  synthetic_labels: np.ndarray,
  config: HeadConfig = DEFAULT_CONFIG,
) -> dict[str, float]:
  """The metrics of `evaluate`, with local heads trained for the purpose."""
  local = fit_local(clients, config)
  return evaluate(
    clients, local, synthetic_inputs, synthetic_labels, config
  ).metrics


def _fit(
  inputs: Array,
  labels: Array,
  weights: Array,
  num_classes: int,
  config: HeadConfig,
) -> Head:
  """One head; `inputs` `[n, F]`, `labels` and `weights` `[n]`."""
  optimizer = optax.chain(
    optax.add_decayed_weights(config.head_weight_decay),
    optax.adam(config.head_learning_rate),
  )
  total = weights.sum()
  shares = weights / jnp.where(total > 0, total, 1.0)

  def loss(head):
    logits = inputs @ head.kernel + head.bias[None]
    return jnp.sum(
      shares * optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    )

  def step(carry, _):
    head, state = carry
    updates, state = optimizer.update(jax.grad(loss)(head), state, head)
    return (optax.apply_updates(head, updates), state), None

  head = Head(jnp.zeros([inputs.shape[1], num_classes]), jnp.zeros(num_classes))
  (head, _), _ = jax.lax.scan(
    step, (head, optimizer.init(head)), length=config.head_epochs
  )
  return head


@functools.partial(jax.jit, static_argnums=(3, 4))
def _fit_all(inputs, labels, weights, num_classes, config):
  """Heads of all clients; each argument with a leading axis N."""
  fit = functools.partial(_fit, num_classes=num_classes, config=config)
  return jax.vmap(fit)(inputs, labels, weights)


def _ones_or(weights, shape):
  """Weights in float32; ones if None."""
  if weights is None:
    return np.ones(shape, np.float32)
  weights = np.asarray(weights, np.float32)
  if weights.shape != shape:
    raise InputError(
      f'Expected sample_weight of shape {list(shape)}, got '
      f'{list(weights.shape)}.'
    )
  if not np.all(np.isfinite(weights)) or weights.min() < 0:
    raise InputError('Expected sample_weight to be finite and >= 0.')
  return weights


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


def _accuracy(labels, predicted):
  return np.mean(predicted.argmax(axis=1) == labels)


def _stacked(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
  """Values by name; NaN where a row lacks one, a name if no row lacks it."""
  return {
    f'{regime}{scope}_{score}': row
    for regime in REGIMES
    for scope in ('', '_global')
    for score in SCORES
    if np.isfinite(
      row := np.array([r.get(f'{regime}{scope}_{score}', np.nan) for r in rows])
    ).any()
  }
