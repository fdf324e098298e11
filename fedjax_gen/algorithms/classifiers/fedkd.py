"""FedKD: a small shared model and a private one, and updates of low rank.

Chuhan Wu, Fangzhao Wu, Lingjuan Lyu, Yongfeng Huang, Xing Xie,
"Communication-efficient federated learning via knowledge distillation", Nature
Communications 13 (2022), 2032; code: https://github.com/wuch15/FedKD.

Published: each client has a mentor f of its own and a copy of a mentee m,
which is shared. With S = CE(f) + CE(m) of the batch,

  L_f = CE(f) + KL(m || f) / S + MSE(z_f, W_h z_m) / S
  L_m = CE(m) + KL(f || m) / S + MSE(z_f, W_h z_m) / S

so that those who know little teach little (z are features, the matrix W_h is
the client's, and trained). The update of the mentee is sent with every matrix
cut to the smallest rank that keeps a part tau of its energy, the sum of squared
singular values; tau goes from T_start to T_end over the rounds. The server
averages what it can restore, every client alike, cuts the average likewise, and
sends that.

Ours: the losses are one sum, in which the features' error stands once: its
gradient is that of L_f for the mentor and of L_m for the mentee. Teachers and
S do not learn. The paper's model was a language model; layers of attention are
not matched. Kernels of convolutions are matrices `[height * width * inputs,
outputs]`. Every mentor starts where training alone does.

Not taken over: the published loop asks the ranks below the full one whether
they keep enough, and where none does it leaves rank 0 and sends zero (a
10 x 512 head of independent entries, for instance); here the rank is one at
least, and full where it must be. HtFLlib cuts the parameters instead of their
update, lets teachers and S learn, and averages KL over classes.

The bytes that a round needs depend on ranks, so that the meter of shapes cannot
know them: it counts the mentee whole. `sent_floats` of the clients' metrics and
`broadcast_floats` of the server's are the numbers sent, r (m + n + 1) for an
m x n matrix of rank r, which can be more than m n; vectors whole. A client that
was away for a while must catch up; that is not counted.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from fedjax_gen import fields, trees, validate
from fedjax_gen.errors import InputError
from fedjax_gen.federated import aggregates, servers
from fedjax_gen.federated.algorithm import ClientProgram, ServerProgram
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.own_models.personal import Method, Model
from fedjax_gen.federated.servers import LearnedServer
from fedjax_gen.models.classification.classifiers import ClassifierConfig
from fedjax_gen.models.classification.extractors import EXTRACTORS
from fedjax_gen.types import Array, Key, LossFn, Tree, Variables


@dataclasses.dataclass(frozen=True)
class Config(fields.Configuration):
  """What FedKD adds."""

  fedkd_energy_start: float = fields.fraction(
    0.95, 'T_start, part of a matrix’ energy kept at first'
  )
  fedkd_energy_end: float = fields.fraction(0.98, 'T_end, in the last round')
  fedkd_learning_rate: float = fields.non_negative(
    0.0, 'of the mentee; 0 for that of the clients'
  )
  fedkd_architecture: str = fields.option(
    'cnn', 'of the mentee', choices=EXTRACTORS
  )
  fedkd_width: float = fields.non_negative(
    0.0, 'width of the mentee; 0 for that of the clients'
  )

  def __post_init__(self):
    super().__post_init__()
    if self.fedkd_energy_start > self.fedkd_energy_end:
      raise InputError(
        'Expected fedkd_energy_start <= fedkd_energy_end, got '
        f'{self.fedkd_energy_start!r} and {self.fedkd_energy_end!r}.'
      )

  def mentee_config(self, clients: ClassifierConfig) -> ClassifierConfig:
    """What `classifiers.build_classifiers` makes the mentee of."""
    return dataclasses.replace(
      clients,
      architectures=(self.fedkd_architecture,),
      width=self.fedkd_width or clients.width,
    )

  def energy(self, done: ArrayLike, num_rounds: int) -> Array:
    """tau, after so many rounds of all; the last keeps T_end."""
    part = jnp.minimum((jnp.asarray(done) + 1) / num_rounds, 1.0)
    rise = self.fedkd_energy_end - self.fedkd_energy_start
    return self.fedkd_energy_start + part * rise


class MenteeServer(NamedTuple):
  """The server's state.

  Attributes:
    mentee: the shared model.
    round: int32, rounds done.
  """

  mentee: LearnedServer
  round: Array


class LowRank(NamedTuple):
  """A tree of matrices with reduced rank.

  Attributes:
    tree: as restored from what is sent.
    num_floats: float32, how many numbers that is.
  """

  tree: Tree
  num_floats: Array


def fedkd(
  config: Config,
  training: personal.Config,
  models: Sequence[Model],
  num_clients: Sequence[int],
  mentee: Model,
  num_rounds: int,
) -> Method:
  """Private mentors of any architecture, one mentee.

  Args:
    config: of the method.
    training: how clients train.
    models: the classifier of each fleet.
    num_clients: clients of each fleet.
    mentee: the model that is shared; its features may have another size.
    num_rounds: rounds over which tau rises to T_end.
  """
  personal.equal_classes([*models, mentee])
  validate.positive_int(num_rounds=num_rounds)
  return personal.method(
    _server(config, mentee, num_rounds),
    models,
    num_clients,
    functools.partial(_client, config, training, mentee, num_rounds),
    lambda model: personal.mutual_deployment(
      'mentee', model, mentee, lambda view: view['mentee']
    ),
  )


def low_rank(tree: Tree, energy: ArrayLike) -> LowRank:
  """Cuts every matrix to the smallest rank that keeps enough of its energy.

  Leaves of three axes and more are matrices of all their axes but the last, and
  the last; those of fewer than two stay. The rank is one at least.

  Args:
    tree: what to send.
    energy: tau, part of the sum of squared singular values, in [0, 1].
  """
  leaves, structure = jax.tree.flatten(tree)
  cut = [
    _cut(leaf, energy)
    if leaf.ndim > 1
    else (leaf, jnp.asarray(float(leaf.size)))
    for leaf in leaves
  ]
  restored = jax.tree.unflatten(structure, [leaf for leaf, _ in cut])
  return LowRank(restored, sum((num for _, num in cut), jnp.zeros(())))


def rank_for(singular_values: Array, energy: ArrayLike) -> Array:
  """The least r >= 1 so that the r largest of `[k]` hold the energy; int32."""
  squares = jnp.cumsum(singular_values**2)
  total = squares[-1]
  # Nothing at all has all of its energy in any rank.
  parts = jnp.where(total > 0, squares / jnp.where(total > 0, total, 1.0), 1.0)
  rank = jnp.searchsorted(parts, jnp.asarray(energy, parts.dtype)) + 1
  return jnp.minimum(rank, len(singular_values)).astype(jnp.int32)


def mutual_loss(model: Model, mentee: Model) -> LossFn:
  """L_f + L_m, of `{'classifier', 'mentee', 'projection'}`."""

  def loss_fn(variables, batch, key):
    del key  # nothing is random
    own, shared = variables['classifier'], variables['mentee']
    own_features = model.features(own, batch.inputs)
    shared_features = mentee.features(shared, batch.inputs)
    own_logits = model.logits(own['head'], own_features)
    shared_logits = mentee.logits(shared['head'], shared_features)
    gap = own_features - shared_features @ variables['projection']
    values = {
      **personal.mutual('mentee', own_logits, shared_logits, batch.labels),
      'feature_error': jnp.mean(gap**2, axis=-1),
    }
    metrics = {
      name: trees.masked_mean(value, batch.mask)
      for name, value in values.items()
    }
    certain = metrics['cross_entropy'] + metrics['mentee_cross_entropy']
    taught = (
      metrics['distillation']
      + metrics['mentee_distillation']
      + metrics['feature_error']
    )
    # Two models that err nowhere have S = 0.
    scale = jnp.maximum(jax.lax.stop_gradient(certain), 1e-6)
    return certain + taught / scale, (variables, metrics)

  return loss_fn


def _client(config, training, mentee, num_rounds, model, first):
  """Trains both models; sends the mentee's update, cut in rank."""
  trainer = training.trainer(
    {
      'classifier': training.learning_rate,
      'mentee': config.fedkd_learning_rate or training.learning_rate,
      'projection': training.learning_rate,
    }
  )

  def send(view, client, data, key):
    del data, key
    return trees.subtract(view['mentee'], client.variables['mentee'])

  whole: ClientProgram = personal.client_program(
    trainer,
    lambda key: _init(model, mentee, key),
    first,
    view=lambda server, info: {
      'mentee': server.mentee.variables,
      'round': server.round,
    },
    loss=lambda view: mutual_loss(model, mentee),
    send=send,
    receive=lambda view, own: {**own, 'mentee': view['mentee']},
  )

  def update(view, client, data, keys):
    message, client, metrics = whole.update(view, client, data, keys)
    cut = low_rank(message, config.energy(view['round'], num_rounds))
    return cut.tree, client, {**metrics, 'sent_floats': cut.num_floats}

  return whole._replace(update=update)


def _server(config: Config, mentee: Model, num_rounds: int) -> ServerProgram:
  """Averages updates and cuts the average, as what it broadcasts."""
  average = servers.learned_server(
    mentee.init, aggregates.uniform_mean(), optax.sgd(1.0)
  )

  def init(key):
    return MenteeServer(average.init(key), jnp.zeros((), jnp.int32))

  def update(server, aggregated, key):
    cut = low_rank(aggregated, config.energy(server.round, num_rounds))
    shared, metrics = average.update(server.mentee, cut.tree, key)
    metrics['broadcast_floats'] = cut.num_floats
    return MenteeServer(shared, server.round + 1), metrics

  return ServerProgram(init, average.aggregate, update)


def _cut(leaf: Array, energy: ArrayLike) -> tuple[Array, Array]:
  """A leaf of lower rank, and the numbers of its factors."""
  matrix = leaf.reshape(-1, leaf.shape[-1])
  left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
  rank = rank_for(values, energy)
  kept = jnp.where(jnp.arange(len(values)) < rank, values, 0.0)
  restored = jnp.matmul(
    left * kept[None], right, precision=jax.lax.Precision.HIGHEST
  )
  numbers = rank * (sum(matrix.shape) + 1)
  return restored.reshape(leaf.shape), numbers.astype(jnp.float32)


def _init(model: Model, mentee: Model, key: Key) -> Variables:
  """Mentor, mentee and W_h, in PyTorch's U(-1, 1) / sqrt(fan in) as there."""
  mentee_key, matrix_key = jax.random.split(personal.extra_key(key))
  bound = 1 / math.sqrt(mentee.feature_size)
  shape = (mentee.feature_size, model.feature_size)
  matrix = jax.random.uniform(matrix_key, shape, minval=-bound, maxval=bound)
  own = personal.init_classifier(model)(key)
  return {**own, 'mentee': mentee.init(mentee_key), 'projection': matrix}
