"""Linear softmax classifiers on embeddings, and how they are trained.

Full-batch Adam from zeros: 100 epochs at 1e-3 with weight decay 5e-4 in
DP-CVAE's code (Di Salvo, Nguyen, Ledig, 2025,
https://arxiv.org/abs/2507.02671). Ours is twice the epochs at ten times the
learning rate, where heads are nearly converged. `heads` measures what such
heads show about clients.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special

from fedjax_gen import fields, validate
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks
from fedjax_gen.types import Array


@dataclasses.dataclass(frozen=True)
class HeadConfig(fields.Configuration):
  """How linear heads are trained."""

  head_epochs: int = fields.positive_int(
    200, 'full-batch steps of a linear head'
  )
  head_learning_rate: float = fields.positive(1e-2, 'of the heads’ Adam')
  head_weight_decay: float = fields.non_negative(
    5e-4, 'added to the gradient, times the weights, before Adam'
  )


DEFAULT_CONFIG = HeadConfig()


class Head(NamedTuple):
  """A linear classifier; of N clients, each leaf has a leading client axis."""

  kernel: np.ndarray | Array
  """`[F, C]`."""
  bias: np.ndarray | Array
  """`[C]`."""


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
    is undecided, for one with all weights zero.
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
