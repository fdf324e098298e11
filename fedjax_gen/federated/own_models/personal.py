"""Clients that keep models of their own, of any architecture.

The common part of FedVTC and the methods that it is compared with. A client
trains a classifier that never leaves it, and sends something smaller: a head,
statistics, a second model. An algorithm says what a client receives, which loss
it minimises and what it sends; and, because the server has no model to
evaluate, how a client would predict.

A fleet has one architecture. All methods start a client from the same
classifier and show it its examples in the same order, for the same keys.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen import fields, trees
from fedjax_gen.data.federated import Batch, ClientData
from fedjax_gen.errors import InputError
from fedjax_gen.federated import averaging, local, optimizers
from fedjax_gen.federated.algorithm import (
  Algorithm,
  ClientInfo,
  ClientProgram,
  ServerProgram,
)
from fedjax_gen.federated.averaging import Trainer
from fedjax_gen.federated.own_models.deployment import Deployment, Method
from fedjax_gen.federated.statistics import class_sums
from fedjax_gen.federated.statistics.class_sums import ClassSums
from fedjax_gen.types import Array, Key, LossFn, Tree, Variables

__all__ = [
  'Config',
  'Deployment',
  'Method',
  'Model',
  'Personal',
  'classification',
  'client_program',
  'cross_entropy',
  'distillation',
  'equal_classes',
  'equal_heads',
  'extra_key',
  'feature_sums',
  'first_numbers',
  'head_deployment',
  'head_loss',
  'init_classifier',
  'local_only',
  'method',
  'mutual',
  'mutual_deployment',
  'part_rule',
  'plain_loss',
  'shared_head_deployment',
  'with_head',
]


@dataclasses.dataclass(frozen=True)
class Config(fields.Configuration):
  """How clients train their classifiers."""

  local_epochs: float = fields.positive(1.0, 'E, passes of a client a round')
  batch_size: int = fields.positive_int(32, 'B, examples of a local step')
  optimizer: str = fields.option(
    'sgd', 'of the clients', choices=('sgd', 'adam')
  )
  learning_rate: float = fields.positive(0.01, 'of the clients')
  momentum: float = fields.fraction(0.9, 'of sgd; kept between rounds')
  max_gradient_norm: float = fields.non_negative(
    10.0, 'longer gradients are shortened (HtFLlib); 0 for none'
  )
  rematerialise: bool = fields.option(False, local.REMATERIALISE)

  def descent(
    self, learning_rate: float | None = None
  ) -> optax.GradientTransformation:
    """The clients' optimizer, or the same with another learning rate."""
    rate = self.learning_rate if learning_rate is None else learning_rate
    step = (
      optimizers.adam(rate)
      if self.optimizer == 'adam'
      else optax.sgd(rate, momentum=self.momentum or None)
    )
    if not self.max_gradient_norm:
      return step
    return optax.chain(optax.clip_by_global_norm(self.max_gradient_norm), step)

  def trainer(self, rates: Mapping[str, float] | None = None) -> Trainer:
    """Passes over a client's data; the optimizer's state is kept.

    Args:
      rates: learning rates of the variables' parts by name; each part then
        has its own optimizer and its own gradient norm; None for one of all.
    """
    optimizer = self.descent()
    if rates is not None:
      optimizer = optax.partition(
        {part: self.descent(rate) for part, rate in rates.items()},
        {part: part for part in rates},
      )
    return averaging.trainer(
      averaging.Config(
        local_epochs=self.local_epochs,
        batch_size=self.batch_size,
        keep_optimizer_state=True,
        rematerialise=self.rematerialise,
      ),
      optimizer,
    )


class Personal(NamedTuple):
  """What a client keeps.

  Attributes:
    variables: what it trains, `{'classifier': ...}` and what the algorithm
      adds.
    optimizer_state: of its optimizer.
    number: int32, the client's among those of all fleets.
  """

  variables: Variables
  optimizer_state: Tree
  number: Array


class Model(Protocol):
  """What the engine needs of a classifier.

  `models.classification.classifiers` has them.
  """

  @property
  def init(self) -> Callable[[Key], Variables]:
    """From a key the variables, of `extractor` and `head`."""

  @property
  def features(self) -> Callable[[Variables, Array], Array]:
    """`(variables, inputs) -> [B, F]`."""

  @property
  def logits(self) -> Callable[[Variables, Array], Array]:
    """`(variables['head'], features) -> [B, C]`."""

  @property
  def feature_size(self) -> int:
    """F."""

  @property
  def num_classes(self) -> int:
    """C."""


def client_program(
  training: Trainer,
  init: Callable[[Key], Variables],
  first_number: int,
  *,
  loss: Callable[[Tree], LossFn],
  send: Callable[[Tree, Personal, ClientData, Key], Tree],
  view: Callable[[Tree, ClientInfo], Tree] = lambda server, info: server,
  receive: Callable[[Tree, Variables], Variables] = lambda _, own: own,
) -> ClientProgram:
  """A client that receives, trains, and sends something of what it has.

  Args:
    training: how it trains.
    init: `key -> variables`, what it trains, by name; see `init_classifier`.
    first_number: the number of the fleet's first client; see `first_numbers`.
    loss: `view -> loss_fn` of the variables.
    send: `(view, client, data, key) -> message`, after training.
    view: what goes down; the server's state, if not given.
    receive: `(view, variables) -> variables`, what it trains from.
  """

  def init_client(key, info):
    variables = init(key)
    number = (first_number + info.row).astype(jnp.int32)
    return Personal(variables, training.init(variables), number)

  def update(view, client, data, keys):
    train_key, send_key = jax.random.split(keys.own)
    variables, kept, metrics = training.run(
      loss(view),
      receive(view, client.variables),
      client.optimizer_state,
      data,
      train_key,
    )
    client = Personal(variables, kept, client.number)
    return send(view, client, data, send_key), client, metrics

  return ClientProgram(init_client, view, update)


def method(
  server: ServerProgram,
  models: Sequence[Model],
  num_clients: Sequence[int],
  client: Callable[[Model, int], ClientProgram],
  deployment: Callable[[Model], Deployment],
) -> Method:
  """A fleet for each model.

  The builders of methods take the same `training`, how clients train, `models`,
  and `num_clients`.

  Args:
    server: of all fleets.
    models: the classifier of each fleet.
    num_clients: clients of each fleet.
    client: a fleet's program, from its model and its `first_numbers`.
    deployment: how a fleet predicts.
  """
  firsts = first_numbers(num_clients)
  fleets = tuple(
    client(model, first) for model, first in zip(models, firsts, strict=True)
  )
  return Method(Algorithm(server, fleets), tuple(map(deployment, models)))


def init_classifier(model: Model) -> Callable[[Key], Variables]:
  """`key -> {'classifier': ...}`, the same for every method."""
  return lambda key: {'classifier': model.init(jax.random.split(key)[0])}


def extra_key(key: Key) -> Key:
  """The key of a client's state other than the classifier."""
  return jax.random.split(key)[1]


def equal_heads(models: Sequence[Model]) -> None:
  """Checks that features and classes of all models are as many."""
  sizes = {(model.feature_size, model.num_classes) for model in models}
  if len(sizes) != 1:
    raise InputError(
      'Expected models of one feature_size and num_classes, got '
      f'{sorted(sizes)}.'
    )


def equal_classes(models: Sequence[Model]) -> None:
  """Checks that classes of all models are as many, whatever their features."""
  numbers = {model.num_classes for model in models}
  if len(numbers) != 1:
    raise InputError(
      f'Expected models of one num_classes, got {sorted(numbers)}.'
    )


def first_numbers(num_clients: Sequence[int]) -> list[int]:
  """The number of each fleet's first client, those of all counted through.

  Example:
    >>> first_numbers([3, 2, 2])
    [0, 3, 5]
  """
  return (np.cumsum(num_clients) - np.asarray(num_clients)).tolist()


def classification(
  model: Model,
  extra: Callable[[Variables, Array, Array, Batch, Key], Array] | None = None,
) -> LossFn:
  """Cross-entropy in nats, and a method's own term.

  Args:
    model: the classifier, in `variables['classifier']`.
    extra: `(variables, features [B, F], logits [B, C], batch, key) -> [B]`, a
      term for each example; None for none.
  """

  def loss_fn(variables, batch, key):
    own = variables['classifier']
    features = model.features(own, batch.inputs)
    logits = model.logits(own['head'], features)
    values = cross_entropy(logits, batch.labels)
    loss = trees.masked_mean(values, batch.mask)
    right = (logits.argmax(axis=-1) == batch.labels).astype(jnp.float32)
    metrics = {
      'cross_entropy': loss,
      'train_accuracy': trees.masked_mean(right, batch.mask),
    }
    if extra is not None:
      term = trees.masked_mean(
        extra(variables, features, logits, batch, key), batch.mask
      )
      loss, metrics = loss + term, {**metrics, 'term': term}
    return loss, (variables, metrics)

  return loss_fn


def plain_loss(model: Model, view: Tree) -> LossFn:
  """`loss` of methods without a term of their own, whatever is received."""
  del view  # it is trained, or nothing
  return classification(model)


def head_loss(model: Model) -> LossFn:
  """Cross-entropy of a head by itself; inputs are features `[B, F]`."""

  def loss_fn(head, batch, key):
    del key  # nothing is random
    values = cross_entropy(model.logits(head, batch.inputs), batch.labels)
    return trees.masked_mean(values, batch.mask), (head, {})

  return loss_fn


def cross_entropy(logits: Array, labels: Array) -> Array:
  """`[B]` nats."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def distillation(teacher: Array, student: Array) -> Array:
  """KL(teacher || student) of logits `[B, C]`, `[B]` nats; no teacher learns.

  Summed over classes. PyTorch's `KLDivLoss` averages over them by default,
  which in some public code makes it C times smaller.
  """
  return optax.losses.kl_divergence_with_log_targets(
    jax.nn.log_softmax(student),
    jax.nn.log_softmax(jax.lax.stop_gradient(teacher)),
  )


def mutual(
  name: str, own: Array, shared: Array, labels: Array
) -> dict[str, Array]:
  """Errors `[B]` of a client's model and a shared one that teach each other.

  Args:
    name: of the shared model, before its metrics.
    own: `[B, C]` logits of the client's model.
    shared: those of the shared one.
    labels: `[B]`.
  """
  return {
    'cross_entropy': cross_entropy(own, labels),
    f'{name}_cross_entropy': cross_entropy(shared, labels),
    'distillation': distillation(shared, own),
    f'{name}_distillation': distillation(own, shared),
    'train_accuracy': (own.argmax(axis=-1) == labels).astype(jnp.float32),
  }


def mutual_deployment(
  name: str,
  model: Model,
  shared: Model,
  of_view: Callable[[Tree], Variables] = lambda view: view,
) -> Deployment:
  """A client's model predicts; or by the name, the shared one as it is now."""

  def deploy(view, client, data, key):
    del data, key
    return {'classifier': client.variables['classifier'], name: of_view(view)}

  return Deployment(
    deploy,
    {'head': part_rule('classifier', model), name: part_rule(name, shared)},
  )


def feature_sums(
  model: Model, classifier: Variables, data: ClientData, batch_size: int
) -> ClassSums:
  """Sums of a client's features by class, in one pass."""

  def of_batch(batch):
    features = model.features(classifier, batch.inputs)
    return class_sums.of_batch(
      features, batch.labels, batch.mask, model.num_classes
    )

  return local.total(of_batch, data, batch_size)


def with_head(view: Tree, variables: Variables) -> Variables:
  """`receive` of methods that share a head: the view is the head."""
  classifier = {**variables['classifier'], 'head': view}
  return {**variables, 'classifier': classifier}


def head_deployment(
  model: Model,
  classifier: Callable[
    [Tree, Personal, ClientData, Key], Variables
  ] = lambda view, client, data, key: client.variables['classifier'],
) -> Deployment:
  """Prediction by extractor and head of the classifier that is given."""

  def logits(deployed, inputs):
    return model.logits(deployed['head'], model.features(deployed, inputs))

  return Deployment(classifier, {'head': logits})


def shared_head_deployment(
  model: Model,
  receive: Callable[[Tree, Variables], Variables] = with_head,
) -> Deployment:
  """Prediction by the client's extractor and the head that it receives."""

  def deploy(view, client, data, key):
    del data, key
    return receive(view, client.variables)['classifier']

  return head_deployment(model, deploy)


def part_rule(part: str, model: Model) -> Callable[[Tree, Array], Array]:
  """A `Deployment`'s rule: the classifier in that part of what is deployed."""

  def logits(deployed, inputs):
    classifier = deployed[part]
    return model.logits(classifier['head'], model.features(classifier, inputs))

  return logits


def local_only(config: Config, models: Sequence[Model]) -> Method:
  """Every client alone, by cross-entropy; one fleet for each model."""
  training = config.trainer()
  fleets = tuple(
    client_program(
      training,
      init_classifier(model),
      0,
      view=lambda server, info: (),
      loss=functools.partial(plain_loss, model),
      send=lambda view, client, data, key: (),
    )
    for model in models
  )
  return Method(
    Algorithm(averaging.nothing_server(), fleets),
    tuple(head_deployment(model) for model in models),
  )
