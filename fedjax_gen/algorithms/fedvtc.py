"""FedVTC: clients of any architecture share statistics of their features.

Ziru Niu, Hai Dong, A. K. Qin, "Bridging generalization gap of heterogeneous
federated clients using generative models", ICLR 2026; arXiv 2508.01669.

A client keeps a classifier f_k = h_k after g_k of its own architecture. It
sends means of its features by class and their standard deviation; the server
joins them to c^y and sigma of all clients, and sends those back. A generator
psi, the same for all (VTC, a decoder of transposed convolutions), maps draws v
from N(c^y, diag sigma^2) to images, which fine-tune the whole classifier: so a
client learns of classes that it never saw.

The text of the paper could not be had, nor code of its authors. Tags in the
help texts of `Config` say where a choice comes from:

  [abs]     abstract and title
  [note]    an anonymous note on the paper (papernotes.org)
  [reviews] the public reviews of the submission
  [3p]      a re-implementation by others (gvquang25/FedVTC)
  [ours]    inferred here

Where sources disagree there is an option for each. docs/fedvtc.md has all.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_gen import trees, validate
from fedjax_gen.data.federated import Batch, ClientData
from fedjax_gen.federated import (
  aggregates,
  class_sums,
  local,
  personal,
  servers,
)
from fedjax_gen.federated.algorithm import (
  Algorithm,
  ClientProgram,
  ServerProgram,
)
from fedjax_gen.federated.class_sums import ByClass, ClassMeans, ClassSums
from fedjax_gen.federated.personal import Deployment, Method, Model, Personal
from fedjax_gen.losses import gaussian
from fedjax_gen.models import vtc as vtc_lib
from fedjax_gen.models.vtc import Vtc
from fedjax_gen.types import Array, Key, LossFn, Tree, Variables

_FLOOR = 1e-4  # of a variance [3p]


def _option(default, help_text, *choices):
  metadata: dict[str, Any] = {'help': help_text}
  if choices:
    metadata['choices'] = choices
  return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
  """What FedVTC leaves open, or its sources tell differently.

  Raises:
    InputError: a value is out of range.
  """

  vtc_scope: str = _option(
    'local',
    'Whose the generator is: each client’s own, nothing of it sent [note], or '
    'averaged by the server [reviews, 3p]',
    'local', 'federated',
  )  # fmt: skip
  vtc_average: str = _option(
    'uniform',
    'With vtc_scope=federated: every client alike [3p], or by its examples',
    'uniform', 'count',
  )  # fmt: skip
  vtc_latent: str = _option(
    'feature',
    'What a reconstruction starts from: the example’s feature [3p], or the '
    'mean of its class, of which only class means can be learned [note]',
    'feature', 'prototype',
  )  # fmt: skip
  vtc_epochs: float = _option(1.0, 'Passes of the generator a round [3p]')
  vtc_learning_rate: float = _option(1e-3, 'Of the generator’s Adam [3p]')
  prototype_weight: float = _option(
    0.1,
    'lambda: pull of features to the mean of their class, a mean over features '
    'of squared distances in units of sigma; 0 for none [3p]',
  )
  reconstruction_weight: float = _option(
    1.0, 'Of L_rc, squared error summed over pixels [note]'
  )
  kl_weight: float = _option(
    1.0,
    'Of D_KL from the example’s Gaussian to that of its class, summed over '
    'features. It moves the client’s own sigma, not the generator [note]',
  )
  dm_weight: float = _option(1.0, 'Of L_DM, distribution matching [note]')
  dm_mode: str = _option(
    'mean',
    'L_DM: mean feature of generated images against the class mean [ours], '
    'each in units of sigma [3p], or against its own latent [ours]',
    'mean', 'sample', 'cycle',
  )  # fmt: skip
  dm_cross_entropy: float = _option(
    0.0, 'Weight of the classifier’s loss on generated images [ours]'
  )
  tv_weight: float = _option(
    0.0, 'Of total variation, against grain in generated images [3p]'
  )
  local_stddev: str = _option(
    'learned',
    'sigma_k: trained with the generator, from what the features have, or '
    'left at that [3p has both]',
    'learned', 'estimated',
  )  # fmt: skip
  prototype_rule: str = _option(
    'count',
    'How class means of clients are averaged: by examples, or every holder '
    'alike',
    'count', 'uniform',
  )  # fmt: skip
  sigma_rule: str = _option(
    'pooled',
    'sigma of all: exactly that of all features about their class means '
    '[ours]; without what means differ between clients [ours]; or that of a '
    'weighted sum of Gaussians [3p]',
    'pooled', 'within', 'gauss_sum',
  )  # fmt: skip
  sigma_shape: str = _option(
    'shared', 'One sigma for all classes [note], or one each [3p]',
    'shared', 'class',
  )  # fmt: skip
  finetune: str = _option(
    'every_round',
    'When synthetic images are trained on: in every round [note], or after '
    'the last [reviews, 3p]',
    'every_round', 'post',
  )  # fmt: skip
  finetune_scope: str = _option(
    'full', 'What they train [note: full; the others are its ablations]',
    'full', 'head', 'extractor',
  )  # fmt: skip
  finetune_epochs: float = _option(
    0.0,
    'Passes over the synthetic set; 0 for 1 with finetune=every_round and 50 '
    'with post [3p]',
  )
  finetune_mix: str = _option(
    'auto',
    'synthetic images alone, or as many real ones beside them; auto mixes with '
    'finetune=post [3p]',
    'auto', 'synthetic', 'mixed',
  )  # fmt: skip
  finetune_learning_rate: float = _option(
    0.0, 'Of fine-tuning; 0 for that of the clients [3p]'
  )
  synthetic_per_class: int = _option(
    200, 'Size of the synthetic set; 0 for no fine-tuning [3p]'
  )

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if 'choices' in field.metadata:
        validate.one_of(
          field.metadata['choices'], **{field.name: getattr(self, field.name)}
        )
      elif field.name == 'synthetic_per_class':
        validate.non_negative_int(synthetic_per_class=self.synthetic_per_class)
      elif field.name in ('vtc_epochs', 'vtc_learning_rate'):
        validate.positive(**{field.name: getattr(self, field.name)})
      else:
        validate.non_negative(**{field.name: getattr(self, field.name)})

  @property
  def trains_generator(self) -> bool:
    """Whether any term of L_e is there."""
    return any((
      self.reconstruction_weight, self.kl_weight, self.dm_weight,
      self.dm_cross_entropy, self.tv_weight,
    ))  # fmt: skip

  @property
  def passes(self) -> float:
    """Passes over the synthetic set."""
    return self.finetune_epochs or (1.0 if self._in_rounds else 50.0)

  @property
  def is_mixed(self) -> bool:
    """Whether real images are trained on beside synthetic ones."""
    if self.finetune_mix == 'auto':
      return not self._in_rounds
    return self.finetune_mix == 'mixed'

  @property
  def _in_rounds(self) -> bool:
    return self.finetune == 'every_round'


class ClassGaussians(NamedTuple):
  """What all clients' features of each class are like: c^y and sigma.

  Attributes:
    known: `[C]` bool, classes that some client has reported.
    means: `[C, F]`, zero where unknown.
    stddev: `[1, F]`, shared, or `[C, F]`.
  """

  known: Array
  means: Array
  stddev: Array

  def of(self, labels: Array) -> tuple[Array, Array]:
    """Means and standard deviations `[B, F]` of labels `[B]`."""
    shared = self.stddev.shape[0] == 1
    stddev = jnp.broadcast_to(self.stddev, self.means.shape) if shared else (
      self.stddev
    )  # fmt: skip
    return self.means[labels], stddev[labels]

  def sample(self, labels: Array, key: Key) -> Array:
    """Latents v ~ N(c^y, diag sigma^2), `[B, F]`."""
    means, stddev = self.of(labels)
    return means + stddev * jax.random.normal(key, means.shape)


class Statistics(NamedTuple):
  """What a client sends of its features; sums, which add up over clients.

  Attributes:
    means: `ByClass` of `ClassMeans`.
    spread: `[1, F]`, or `ByClass` of `[C, F]`: sums of squares or variances.
    weight: `[1, 1]`, or `ByClass` of `[C, 1]`, what to divide them by.
  """

  means: ByClass
  spread: Array | ByClass
  weight: Array | ByClass


class VtcServer(NamedTuple):
  """The server's state.

  Attributes:
    gaussians: of all clients.
    generator: with vtc_scope=federated `servers.LearnedServer`, else `()`.
  """

  gaussians: ClassGaussians
  generator: Tree


class VtcClient(NamedTuple):
  """What a client keeps.

  Attributes:
    own: its classifier.
    generator: its generator's variables; `()` if that is the server's.
    generator_state: of the generator's Adam.
  """

  own: Personal
  generator: Tree
  generator_state: Tree


def fedvtc(
  config: Config,
  training: personal.Config,
  models: Sequence[Model],
  vtc: Vtc,
  num_clients: Sequence[int],
) -> Method:
  """FedVTC over fleets of clients, one for each classifier.

  Args:
    config: of the method.
    training: how clients train their classifiers.
    models: the classifier of each fleet.
    vtc: the generator, from features of their size.
    num_clients: clients of each fleet.

  Raises:
    InputError: a field is out of range, or features or classes of the models
      differ in number.
  """
  personal.equal_heads(models)
  clients = [
    _Client(config, training, model, vtc, first)
    for model, first in zip(
      models, personal.first_numbers(num_clients), strict=True
    )
  ]
  algorithm = Algorithm(
    _server(config, models[0], vtc),
    tuple(client.program() for client in clients),
  )
  return Method(algorithm, tuple(client.deployment() for client in clients))


class _Client(NamedTuple):
  """The phases of one client's round; they follow each other in `update`."""

  config: Config
  training: personal.Config
  model: Model
  vtc: Vtc
  first_number: int

  def program(self) -> ClientProgram:
    """The client as the engine takes it."""
    trainer = self.training.trainer()
    init_own = personal.init_classifier(self.model)

    def init(key, info):
      variables = init_own(key)
      number = (self.first_number + info.row).astype(jnp.int32)
      own = Personal(variables, trainer.init(variables), number)
      generator = self.vtc.init(personal.extra_key(key))
      state = self._generator_optimizer().init(self._with_stddev(generator))
      is_local = self.config.vtc_scope == 'local'
      return VtcClient(own, generator if is_local else (), state)

    def update(view, client, data, key):
      # As every method of `personal`: the same order of examples.
      train_key, own_key = jax.random.split(key)
      finetune_key, generator_key = jax.random.split(own_key)
      variables = client.own.variables
      if self.config.finetune == 'every_round':
        variables = self.finetune(view, client, data, finetune_key)
      variables, state, metrics = trainer.run(
        self._classifier_loss(view['gaussians']),
        variables,
        client.own.optimizer_state,
        data,
        train_key,
      )
      own = Personal(variables, state, client.own.number)
      sums = personal.feature_sums(
        self.model, variables['classifier'], data, self.training.batch_size
      )
      received: Tree = generator_of(view, client)
      generator: Tree = received
      generator_state = client.generator_state
      if self.config.trains_generator:
        generator, generator_state, more = self._train_generator(
          view, variables['classifier'], generator, generator_state, sums,
          data, generator_key,
        )  # fmt: skip
        metrics = metrics | more
      message = {'statistics': statistics(sums, self.config)}
      if self.config.vtc_scope == 'federated':
        message['generator'] = trees.subtract(received, generator)
        generator = ()
      return message, VtcClient(own, generator, generator_state), metrics

    return ClientProgram(init, lambda server, info: _view(server), update)

  def deployment(self) -> Deployment:
    """Prediction by the classifier, fine-tuned with the newest statistics."""

    def deploy(view, client, data, key):
      return self.finetune(view, client, data, key)['classifier']

    return personal.head_deployment(self.model, deploy)

  def finetune(
    self, view: Tree, client: VtcClient, data: ClientData, key: Key
  ) -> Variables:
    """L_ft: cross-entropy of the classifier on synthetic images.

    Latents are drawn anew for every step: a set of `synthetic_per_class`
    images says how many steps make a pass, and need not be held.
    """
    config, gaussians = self.config, view['gaussians']
    variables = client.own.variables
    size, batch_size = config.synthetic_per_class, self.training.batch_size
    steps = round(size * self.model.num_classes * config.passes / batch_size)
    if not steps:
      return variables
    rate = config.finetune_learning_rate or self.training.learning_rate
    optimizer = self.training.descent(rate)
    generator = generator_of(view, client)
    real_key, step_key = jax.random.split(key)
    positions = data.shuffled(real_key)
    classifier = variables['classifier']
    parts = {'full': ('extractor', 'head')}.get(
      config.finetune_scope, (config.finetune_scope,)
    )
    trained = {name: classifier[name] for name in parts}

    def loss_fn(trained, batches):
      current = {**classifier, **trained}
      return sum(
        personal.masked_mean(
          personal.cross_entropy(
            self.model.logits(
              current['head'], self.model.features(current, inputs)
            ),
            labels,
          ),
          mask,
        )
        for inputs, labels, mask in batches
      )

    def step(i, carry):
      trained, state = carry
      label_key, latent_key = jax.random.split(jax.random.fold_in(step_key, i))
      labels = _labels(gaussians.known, batch_size, label_key)
      images = self.vtc.decode(generator, gaussians.sample(labels, latent_key))
      batches = [Batch(images, labels, jnp.ones(batch_size, bool))]
      if config.is_mixed:
        turn = i % jnp.maximum(data.steps_per_epoch(batch_size), 1)
        batches.append(data.batch(positions, turn, batch_size))
      gradient = jax.grad(loss_fn)(trained, batches)
      updates, state = optimizer.update(gradient, state, trained)
      return optax.apply_updates(trained, updates), state

    # Nothing is known before the first round.
    number = jnp.where(gaussians.known.any(), steps, 0)
    carry = (trained, optimizer.init(trained))
    trained, _ = jax.lax.fori_loop(0, number, step, carry)
    return {**variables, 'classifier': {**classifier, **trained}}

  def _classifier_loss(self, gaussians: ClassGaussians) -> LossFn:
    """L_f: cross-entropy, and the part of D_KL that moves features."""
    weight = self.config.prototype_weight
    if not weight:
      return personal.classification(self.model)

    def pull(variables, features, logits, batch, key):
      del variables, logits, key
      means, stddev = gaussians.of(batch.labels)
      distance = jnp.mean(((features - means) / stddev) ** 2, axis=-1)
      return weight * gaussians.known[batch.labels] * distance

    return personal.classification(self.model, pull)

  def _train_generator(
    self, view, classifier, generator, state, sums, data, key
  ):
    """Passes of L_e over the client's images; the classifier is frozen."""
    config = self.config
    own = _moments_of_client(sums)
    trained = local.train(
      self._generator_loss(view['gaussians'], own, classifier),
      self._generator_optimizer(),
      local.local_work(config.vtc_epochs, self.training.batch_size),
      self._with_stddev(generator, own.stddev[0]),
      state,
      data,
      key,
    )
    metrics = trained.metrics
    metrics['generator_loss'] = metrics.pop('loss')
    return trained.variables['generator'], trained.optimizer_state, metrics

  def _generator_loss(
    self, gaussians: ClassGaussians, own: ClassGaussians, classifier: Variables
  ) -> LossFn:
    """L_e = L_rc + w_KL D_KL + w_DM L_DM."""
    config, model = self.config, self.model
    classifier = jax.lax.stop_gradient(classifier)

    def loss_fn(variables, batch, key):
      noise_key, dm_key = jax.random.split(key)
      logvar = 2 * variables['log_stddev'][None]
      if config.local_stddev == 'estimated':
        logvar = jax.lax.stop_gradient(logvar)
      features = model.features(classifier, batch.inputs)
      means, stddev = gaussians.of(batch.labels)
      if config.vtc_latent == 'prototype':
        known = gaussians.known[batch.labels][:, None]
        features = jnp.where(known, means, own.means[batch.labels])
      posterior = gaussian.Gaussian(
        features, jnp.broadcast_to(logvar, features.shape)
      )
      images = self.vtc.decode(
        variables['generator'], gaussian.sample(noise_key, posterior)
      )
      data = _signed(batch.inputs)
      squared = jnp.sum((images - data) ** 2, axis=(1, 2, 3))
      prior = gaussian.Gaussian(means, 2 * jnp.log(stddev))
      divergence = gaussians.known[batch.labels] * gaussian.kl(posterior, prior)
      metrics = {
        'reconstruction': personal.masked_mean(squared, batch.mask),
        'kl': personal.masked_mean(divergence, batch.mask),
      }
      loss = (
        config.reconstruction_weight * metrics['reconstruction']
        + config.kl_weight * metrics['kl']
      )
      if config.dm_weight or config.dm_cross_entropy or config.tv_weight:
        terms = self._matching(
          gaussians, classifier, variables['generator'], len(batch.labels),
          dm_key,
        )  # fmt: skip
        loss += (
          config.dm_weight * terms['matching']
          + config.dm_cross_entropy * terms['generated_cross_entropy']
          + config.tv_weight * terms['total_variation']
        )
        metrics |= terms
      return loss, (variables, metrics)

    return loss_fn

  def _matching(self, gaussians, classifier, generator, batch_size, key):
    """L_DM and its kin, on latents of classes that anyone holds."""
    model = self.model
    class_key, latent_key = jax.random.split(key)
    # As many classes as leave two latents each, known ones first.
    num = min(model.num_classes, max(batch_size // 2, 1))
    each = -(-batch_size // num)
    draws = jax.random.uniform(class_key, (model.num_classes,))
    classes = jnp.argsort(draws + ~gaussians.known)[:num]
    labels = jnp.repeat(classes, each)
    known = gaussians.known[labels]
    latents = gaussians.sample(labels, latent_key)
    images = self.vtc.decode(generator, latents)
    features = model.features(classifier, images)
    means, stddev = gaussians.of(labels)
    if self.config.dm_mode == 'mean':
      gap = (features - means).reshape(num, each, -1).mean(axis=1)
      squared = gaussians.known[classes] * jnp.sum(gap**2, axis=-1)
      # A sum over all classes, of which these are a sample.
      matching = squared.sum() * (model.num_classes / num)
    elif self.config.dm_mode == 'sample':
      squared = jnp.mean(((features - means) / stddev) ** 2, axis=-1)
      matching = personal.masked_mean(squared, known)
    else:
      squared = jnp.sum((features - latents) ** 2, axis=-1)
      matching = personal.masked_mean(squared, known)
    logits = model.logits(classifier['head'], features)
    return {
      'matching': matching,
      'generated_cross_entropy': personal.masked_mean(
        personal.cross_entropy(logits, labels), known
      ),
      'total_variation': personal.masked_mean(
        vtc_lib.total_variation(images), known
      ),
    }

  def _with_stddev(self, generator, stddev=None):
    """What the generator's optimizer trains."""
    if stddev is None:
      stddev = jnp.ones(self.model.feature_size)
    return {'generator': generator, 'log_stddev': jnp.log(stddev)}

  def _generator_optimizer(self) -> optax.GradientTransformation:
    return optax.adam(self.config.vtc_learning_rate, b1=0.5)


def generator_of(view: Tree, client: VtcClient) -> Variables:
  """The generator that a client uses: the server's, or its own."""
  return view.get('generator', client.generator)


def statistics(sums: ClassSums, config: Config) -> Statistics:
  """What a client sends of the sums of its features."""
  means = class_sums.means_to_send(sums, config.prototype_rule)
  weights = means.rows.weights[:, None]
  counts, own_means, variances = sums.moments()
  seen = counts[:, None] > 0
  if config.sigma_rule == 'pooled':
    spread = weights * jnp.where(seen, variances + own_means**2, 0.0)
    weight = weights
  elif config.sigma_rule == 'within':
    spread, weight = weights * variances, weights
  else:
    spread, weight = weights**2 * variances, weights**2
  if config.sigma_shape == 'class':
    return Statistics(means, ByClass(spread), ByClass(weight))
  if config.sigma_rule == 'gauss_sum':
    # One sigma_k of all classes, at the square of the client's weight.
    total = weights.sum()
    within = (weights * variances).sum(axis=0) / jnp.maximum(total, 1.0)
    return Statistics(means, (total**2 * within)[None], total[None, None] ** 2)
  return Statistics(means, spread.sum(axis=0)[None], weight.sum(axis=0)[None])


def joined(
  before: ClassGaussians, sent: Statistics, config: Config
) -> ClassGaussians:
  """The Gaussians of all clients, from the sum of their statistics.

  With `sigma_rule='pooled'` the variance is exactly that of all features about
  the means of their classes: the law of total variance, by sums. A class that
  nobody holds keeps what it had.
  """
  class_means: ClassMeans = sent.means.rows
  means = class_means.or_else(before.means)
  spread, weight = (
    part.rows if isinstance(part, ByClass) else part
    for part in (sent.spread, sent.weight)
  )
  if config.sigma_shape == 'class':
    explained = class_means.weights[:, None] * means**2
  else:
    explained = jnp.sum(
      class_means.weights[:, None] * means**2, axis=0, keepdims=True
    )
  if config.sigma_rule == 'pooled':
    spread = spread - explained
  held = weight > 0
  variance = spread / jnp.where(held, weight, 1.0)
  stddev = jnp.sqrt(jnp.maximum(variance, _FLOOR))
  return ClassGaussians(
    before.known | (class_means.weights > 0),
    means,
    jnp.where(held, stddev, before.stddev),
  )


def _server(config: Config, model: Model, vtc: Vtc) -> ServerProgram:
  """Joins statistics; averages generators if they are sent."""
  rules = {'statistics': aggregates.total()}
  average = servers.learned_server(
    vtc.init,
    aggregates.uniform_mean()
    if config.vtc_average == 'uniform'
    else aggregates.weighted_mean(),
    optax.sgd(1.0),
  )
  is_federated = config.vtc_scope == 'federated'
  if is_federated:
    rules['generator'] = average.aggregate
  rows = 1 if config.sigma_shape == 'shared' else model.num_classes

  def init(key):
    unknown = ClassGaussians(
      jnp.zeros(model.num_classes, bool),
      jnp.zeros((model.num_classes, model.feature_size)),
      jnp.ones((rows, model.feature_size)),
    )
    return VtcServer(unknown, average.init(key) if is_federated else ())

  def update(server, aggregated, key):
    gaussians = joined(server.gaussians, aggregated['statistics'], config)
    metrics = {
      'known_classes': gaussians.known.sum().astype(jnp.float32),
      'mean_stddev': gaussians.stddev.mean(),
    }
    generator = server.generator
    if is_federated:
      generator, more = average.update(generator, aggregated['generator'], key)
      metrics |= more
    return VtcServer(gaussians, generator), metrics

  return ServerProgram(init, aggregates.by_module(rules), update)


def _view(server: VtcServer) -> dict[str, Tree]:
  view: dict[str, Tree] = {'gaussians': server.gaussians}
  if server.generator:
    view['generator'] = server.generator.variables
  return view


def _moments_of_client(sums: ClassSums) -> ClassGaussians:
  """A client's own class means, and the stddev about them of its features."""
  counts, means, variances = sums.moments()
  total = jnp.maximum(counts.sum(), 1.0)
  variance = jnp.sum(counts[:, None] * variances, axis=0) / total
  stddev = jnp.sqrt(jnp.maximum(variance, _FLOOR))
  return ClassGaussians(counts > 0, means, stddev[None])


def _labels(known: Array, num: int, key: Key) -> Array:
  """`[num]` labels, every known class alike."""
  return jax.random.categorical(
    key, jnp.where(known, 0.0, -jnp.inf), shape=(num,)
  )


def _signed(inputs: Array) -> Array:
  """Images in [-1, 1], as the generator makes them."""
  return inputs.astype(jnp.float32) / 127.5 - 1.0
