"""FedGen: a generator of features tells clients of classes they do not hold.

Zhuangdi Zhu, Junyuan Hong, Jiayu Zhou, "Data-free knowledge distillation for
heterogeneous federated learning", ICML 2021; arXiv 2105.10056; code:
https://github.com/zhuangdizhu/FedGen.

Published: the server trains a generator G of features, given a class, such that
the clients' heads h_k recognise what it makes,

  min_G E_y [ sum_k alpha_k^y CE(h_k(G(y, e)), y) ] + eta L_diversity

with alpha_k^y = n_k^y / sum_k n_k^y, the part of class y that client k holds.
A client then trains

  CE(f(x), y) + gamma_1 CE(h_k(G(y', e)), y') + gamma_2 KL(h_k(G(y, e)) || f(x))

with y' drawn from the classes of all, y those of its batch, and both gammas
shrinking by .98 a round; the target of the KL does not learn. There, whole
models of one architecture are averaged.

Ours is for clients of different architectures, as HtFLlib has it: heads alone
are averaged, by the clients' examples; or kept, if so configured. From the
authors' code come the diversity (`models/feature_generator.py`), uniform noise
and the start in the second round. Counts by class are exact, not those of the
last batches with one added; they are sent as whole numbers, which the meter of
floats leaves out, and one time would do. The generator keeps Adam's moments;
its weights and its learning rate do not decay.
The authors stop after 20 local passes; there is no such limit here.

HtFLlib's version has the first client term only and trains on the sum of the
heads' logits; as published (e959261) it never saves the trained generator, and
clients see the one that was drawn at the start.

THE SERVER SEES EVERY MESSAGE: each client's head, and how many examples of
each class it has.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_gen import fields, trees
from fedjax_gen.data.federated import Batch, ClientData
from fedjax_gen.federated import aggregates, local
from fedjax_gen.federated.aggregates import Named
from fedjax_gen.federated.algorithm import ServerProgram
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.own_models.personal import Method, Model, Personal
from fedjax_gen.models.classification import feature_generator
from fedjax_gen.models.classification.feature_generator import (
  NOISES,
  FeatureGenerator,
)
from fedjax_gen.types import Array, Key, LossFn, Tree, Variables

HEADS = ('averaged', 'own')


@dataclasses.dataclass(frozen=True)
class Config(fields.Configuration):
  """What FedGen adds."""

  fedgen_gamma1: float = fields.non_negative(
    10.0, 'of the head’s cross-entropy on generated features'
  )
  fedgen_gamma2: float = fields.non_negative(
    10.0, 'of KL from the head on generated features to the classifier'
  )
  fedgen_decay: float = fields.fraction(
    0.98, 'factor of both gammas in a round'
  )
  fedgen_diversity: float = fields.non_negative(
    1.0, 'eta, weight of the generator’s diversity'
  )
  fedgen_heads: str = fields.option(
    'averaged',
    'averaged over clients (HtFLlib), or each client’s own',
    choices=HEADS,
  )
  fedgen_labels: str = fields.option(
    'uniform',
    'how classes are drawn: those that anyone holds alike (the authors’ code), '
    'or by the number of examples (the paper, HtFLlib)',
    choices=('uniform', 'count'),
  )
  fedgen_noise: str = fields.option(
    'uniform',
    'in [0, 1) as in both codes, or gaussian as the paper and their comments '
    'say',
    choices=NOISES,
  )
  fedgen_noise_size: int = fields.positive_int(32, 'numbers of noise')
  fedgen_hidden_size: int = fields.positive_int(
    512, 'hidden layer of the generator'
  )
  fedgen_server_steps: int = fields.positive_int(
    100, 'of the generator in a round'
  )
  fedgen_server_batch_size: int = fields.positive_int(
    128, 'draws of such a step'
  )
  fedgen_server_learning_rate: float = fields.positive(
    3e-4, 'of the generator’s Adam; HtFLlib takes 0.1'
  )

  def generator(self, model: Model) -> FeatureGenerator:
    """G, of features as the model has them."""
    return feature_generator.build_feature_generator(
      model.num_classes,
      model.feature_size,
      self.fedgen_noise_size,
      self.fedgen_hidden_size,
      self.fedgen_noise,
    )


class GenServer(NamedTuple):
  """The server's state.

  Attributes:
    generator: variables of G.
    optimizer_state: of its Adam.
    head: the mean of the heads.
    counts: int32 `[N, C]`, examples by class of each client heard of.
    round: int32, rounds done.
  """

  generator: Variables
  optimizer_state: Tree
  head: Variables
  counts: Array
  round: Array


def fedgen(
  config: Config,
  training: personal.Config,
  models: Sequence[Model],
  num_clients: Sequence[int],
) -> Method:
  """Own extractors, and a generator of features from all heads."""
  personal.equal_heads(models)

  def client(model, first):
    return personal.client_program(
      training.trainer(),
      personal.init_classifier(model),
      first,
      view=lambda server, info: _view(config, server),
      loss=functools.partial(client_loss, config, model),
      send=functools.partial(_send, model, training.batch_size),
      receive=_receive,
    )

  return personal.method(
    _server(config, models[0], sum(num_clients)),
    models,
    num_clients,
    client,
    functools.partial(personal.shared_head_deployment, receive=_receive),
  )


def client_loss(config: Config, model: Model, view: Tree) -> LossFn:
  """A client's loss, with a view of `{'generator', 'counts', 'round'}`."""
  if not (config.fedgen_gamma1 or config.fedgen_gamma2):
    return personal.classification(model)
  generator = config.generator(model)
  counts = view['counts']
  decay = config.fedgen_decay ** view['round'].astype(jnp.float32)

  def taught(variables, features, logits, batch, key):
    del features
    label_key, any_key, same_key = jax.random.split(key, 3)
    head = variables['classifier']['head']

    def generated(labels, key):
      return model.logits(
        head, generator.sample(view['generator'], labels, key)
      )

    labels = draw_labels(counts, len(batch.labels), config, label_key)
    recognised = personal.cross_entropy(generated(labels, any_key), labels)
    copied = personal.distillation(generated(batch.labels, same_key), logits)
    # Nothing is known of a class before anyone reported it.
    return decay * (
      config.fedgen_gamma1 * (counts.sum() > 0) * recognised
      + config.fedgen_gamma2 * (counts[batch.labels] > 0) * copied
    )

  return personal.classification(model, taught)


def draw_labels(counts: Array, num: int, config: Config, key: Key) -> Array:
  """`[num]` classes, of those with a count above zero."""
  weights = counts if config.fedgen_labels == 'count' else counts > 0
  return jax.random.categorical(
    key, jnp.log(weights.astype(jnp.float32)), shape=(num,)
  )


def generator_loss(
  config: Config,
  model: Model,
  heads: Variables,
  counts: Array,
  variables: Variables,
  labels: Array,
  key: Key,
) -> tuple[Array, dict[str, Array]]:
  """What the server descends.

  Args:
    config: of the method.
    model: the classifier that the heads belong to.
    heads: of the clients, leaves `[N, ...]`.
    counts: `[N, C]` examples by class; zeros for clients that are away.
    variables: of the generator.
    labels: `[B]`.
    key: consumed.

  Returns:
    The loss, and its two terms.
  """
  generator = config.generator(model)
  noise = generator.draw(key, len(labels))
  features = generator.generate(variables, labels, noise)
  logits = jax.vmap(model.logits, (0, None))(heads, features)  # [N, B, C]
  errors = jax.vmap(personal.cross_entropy, (0, None))(logits, labels)
  weights = counts / jnp.maximum(counts.sum(axis=0, keepdims=True), 1)
  terms = {
    'generator_cross_entropy': jnp.mean(
      jnp.sum(weights[:, labels] * errors, axis=0)
    ),
    'generator_diversity': feature_generator.diversity_loss(noise, features),
  }
  return (
    terms['generator_cross_entropy']
    + config.fedgen_diversity * terms['generator_diversity']
  ), terms


def _view(config: Config, server: GenServer) -> dict[str, Tree]:
  view = {
    'generator': server.generator,
    'counts': server.counts.sum(axis=0),
    'round': server.round,
  }
  return view | (
    {'head': server.head} if config.fedgen_heads == 'averaged' else {}
  )


def _receive(view: Tree, variables: Variables) -> Variables:
  if 'head' not in view:
    return variables
  return personal.with_head(view['head'], variables)


def _send(model, batch_size, view, client: Personal, data: ClientData, key):
  """Head and counts, with the client's name."""
  del view, key

  def count(batch: Batch) -> Array:
    member = jax.nn.one_hot(batch.labels, model.num_classes, dtype=jnp.int32)
    return jnp.sum(member * batch.mask[:, None], axis=0)

  head = client.variables['classifier']['head']
  counts = local.total(count, data, batch_size)
  return Named(client.number, {'head': head, 'counts': counts})


def _server(config: Config, model: Model, num_clients: int) -> ServerProgram:
  """Averages heads and trains the generator on them."""
  generator = config.generator(model)
  optimizer = optax.adam(config.fedgen_server_learning_rate)

  def init(key):
    generator_key, head_key = jax.random.split(key)
    variables = generator.init(generator_key)
    return GenServer(
      variables,
      optimizer.init(variables),
      model.init(head_key)['head'],
      jnp.zeros((num_clients, model.num_classes), jnp.int32),
      jnp.zeros((), jnp.int32),
    )

  def train(server, heads, counts, key):
    gradient_fn = jax.grad(
      functools.partial(generator_loss, config, model, heads, counts),
      has_aux=True,
    )

    def step(carry, step_key):
      variables, state = carry
      label_key, noise_key = jax.random.split(step_key)
      labels = draw_labels(
        counts.sum(axis=0), config.fedgen_server_batch_size, config, label_key
      )
      gradient, terms = gradient_fn(variables, labels, noise_key)
      updates, state = optimizer.update(gradient, state, variables)
      return (optax.apply_updates(variables, updates), state), terms

    keys = jax.random.split(key, config.fedgen_server_steps)
    carry = (server.generator, server.optimizer_state)
    carry, terms = jax.lax.scan(step, carry, keys)
    return carry, jax.tree.map(lambda values: values[-1], terms)

  def update(server, aggregated, key):
    sent, present = aggregated
    examples = sent['counts'].sum(axis=1).astype(jnp.float32)
    there = examples.sum() > 0
    trained, metrics = train(server, sent['head'], sent['counts'], key)
    before = (server.generator, server.optimizer_state)
    variables, state = trees.where(there, trained, before)
    mean = jax.tree.map(
      lambda leaf: leaf / jnp.maximum(examples.sum(), 1.0),
      trees.weighted_sum(sent['head'], examples),
    )
    server = GenServer(
      variables,
      state,
      trees.where(there, mean, server.head),
      jnp.where(present[:, None] > 0, sent['counts'], server.counts),
      server.round + 1,
    )
    return server, metrics

  return ServerProgram(init, aggregates.by_client(num_clients), update)
