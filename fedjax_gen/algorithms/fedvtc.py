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

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_gen import fields, trees, validate
from fedjax_gen.data.federated import Batch, ClientData
from fedjax_gen.errors import InputError
from fedjax_gen.federated import aggregates, local, optimizers, servers
from fedjax_gen.federated.algorithm import (
  Algorithm,
  ClientInfo,
  ClientKeys,
  ClientProgram,
  ServerProgram,
)
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.own_models.finetuning import (
  PARTS,
  Finetuning,
  drawn_labels,
  finetuned,
)
from fedjax_gen.federated.own_models.personal import (
  Deployment,
  Method,
  Personal,
)
from fedjax_gen.federated.statistics import class_gaussians
from fedjax_gen.federated.statistics.class_gaussians import (
  ClassGaussians,
  Rules,
)
from fedjax_gen.federated.statistics.class_sums import ClassSums
from fedjax_gen.models import vtc_losses
from fedjax_gen.models.classification.classifiers import Classifier
from fedjax_gen.models.vtc import Vtc
from fedjax_gen.models.vtc_losses import GeneratorLosses
from fedjax_gen.privacy import noise
from fedjax_gen.privacy.one_upload import class_moments, private_gaussians
from fedjax_gen.privacy.plan import Plan
from fedjax_gen.types import Array, Key, LossFn, Metrics, Tree, Variables

DEFAULT_RULES = Rules()
DEFAULT_LOSSES = GeneratorLosses()


@dataclasses.dataclass(frozen=True)
class Config:
  """What FedVTC leaves open, or its sources tell differently.

  Raises:
    InputError: a value is out of range.
  """

  vtc_scope: str = fields.option(
    'federated',
    'The generator: averaged by the server [reviews, 3p], or each client’s own '
    'and never sent [note]; a client’s own never saw the classes that its '
    'client lacks',
    choices=('local', 'federated'),
  )
  vtc_average: str = fields.option(
    'uniform',
    'With vtc_scope=federated: equal weights [3p], or by examples',
    choices=('uniform', 'count'),
  )
  vtc_epochs: float = fields.option(
    2.0, 'Passes of the generator a round [3p: 5, later 1]'
  )
  vtc_learning_rate: float = fields.option(
    5e-3, 'Learning rate of the generator’s Adam [3p: 1e-3]'
  )
  prototype_weight: float = fields.option(
    0.05,
    'lambda: pull of features to the mean of their class, a mean over features '
    'of squared distances in units of sigma; 0 for none [3p: 0.1]',
  )
  finetune: str = fields.option(
    'every_round',
    'When clients train on synthetic images: in every round [note], or after '
    'the last [reviews, 3p]',
    choices=('every_round', 'post'),
  )
  finetune_scope: str = fields.option(
    'full',
    'What synthetic images train [note: full; the others are ablations]',
    choices=PARTS,
  )
  finetune_epochs: float = fields.option(
    0.0,
    'Passes over the synthetic set; 0 for 1 with finetune=every_round and 50 '
    'with post [3p]',
  )
  finetune_mix: str = fields.option(
    'mixed',
    'As many real images as synthetic ones [3p, after the last round], '
    'without which a client forgets its own; or synthetic ones alone',
    choices=('mixed', 'synthetic'),
  )
  finetune_learning_rate: float = fields.option(
    0.0, 'Learning rate of fine-tuning; 0 for that of the clients [3p]'
  )
  feature_scale: float = fields.option(
    1.0,
    'With privacy: root mean square of features, a constant that does not '
    'depend on the data; features are clipped at sqrt(F) times it [ours]',
  )
  synthetic_per_class: int = fields.option(
    200, 'Size of the synthetic set; 0 for no fine-tuning [3p]'
  )

  def __post_init__(self):
    fields.check_choices(self)
    validate.positive(
      vtc_epochs=self.vtc_epochs,
      vtc_learning_rate=self.vtc_learning_rate,
      feature_scale=self.feature_scale,
    )
    validate.non_negative(
      prototype_weight=self.prototype_weight,
      finetune_epochs=self.finetune_epochs,
      finetune_learning_rate=self.finetune_learning_rate,
    )
    validate.non_negative_int(synthetic_per_class=self.synthetic_per_class)

  def finetuning(
    self, training: personal.Config, num_classes: int
  ) -> Finetuning:
    """Of a classifier of C classes that is trained so."""
    passes = self.finetune_epochs or (
      1.0 if self.finetune == 'every_round' else 50.0
    )
    size = self.synthetic_per_class * num_classes
    return Finetuning(
      round(size * passes / training.batch_size),
      PARTS[self.finetune_scope],
      self.finetune_mix == 'mixed',
      self.finetune_learning_rate or training.learning_rate,
    )


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
  models: Sequence[Classifier],
  num_clients: Sequence[int],
  vtc: Vtc,
  *,
  rules: Rules = DEFAULT_RULES,
  losses: GeneratorLosses = DEFAULT_LOSSES,
  plan: Plan | None = None,
) -> Method:
  """FedVTC over fleets of clients, one for each classifier.

  Guarantees:
    With a plan, those of `noise.private_server`, over all that a client sends
      in a round: statistics of features that are clipped one by one and
      averaged over its examples, and the change of the generator if it is
      federated. Neighbouring: one client added or removed, with all its data.
      What a client makes of it at home is post-processing, and of its own
      data.
    Not of records: every example has trained the extractor, and so moves the
      features of all others. Clipping one feature bounds nothing then.

  Args:
    config: of the method.
    training: how clients train their classifiers.
    models: the classifier of each fleet.
    num_clients: clients of each fleet.
    vtc: the generator, from features of their size.
    rules: how statistics are joined.
    losses: what the generator descends.
    plan: of differential privacy of clients, made by `plan.client_plan`.

  Raises:
    InputError: a field is out of range, features or classes of the models
      differ in number, or the plan is one of records.
  """
  personal.equal_heads(models)
  if plan is not None and plan.unit != 'client':
    raise InputError(
      "Expected privacy='client' with FedVTC, got a plan for each "
      f'{plan.unit}: every record has trained the extractor, and so moves '
      'the features of all others, which no clipping of its own bounds.'
    )
  clients = [
    Client(config, rules, losses, training, model, vtc, first, plan is not None)
    for model, first in zip(
      models, personal.first_numbers(num_clients), strict=True
    )
  ]
  algorithm = Algorithm(
    _server(config, rules, models[0], vtc, plan),
    tuple(client.program() for client in clients),
  )
  if plan is not None:
    algorithm = noise.with_private_server(algorithm, plan)
  return Method(algorithm, tuple(client.deployment() for client in clients))


class Client(NamedTuple):
  """The phases of one client's round; they follow each other in `update`.

  Attributes:
    config, rules, losses, training, vtc: as `fedvtc` takes them.
    model: the client's classifier.
    first_number: of its fleet's clients, among those of all fleets.
    is_private: whether what it sends is clipped, for a plan.
  """

  config: Config
  rules: Rules
  losses: GeneratorLosses
  training: personal.Config
  model: Classifier
  vtc: Vtc
  first_number: int = 0
  is_private: bool = False

  def program(self) -> ClientProgram:
    """The client as the engine takes it."""
    return ClientProgram(
      self.init, lambda server, info: _view(server), self.update
    )

  def init(self, key: Key, info: ClientInfo) -> VtcClient:
    """What a client has before its first round."""
    variables = personal.init_classifier(self.model)(key)
    number = (self.first_number + info.row).astype(jnp.int32)
    own = Personal(variables, self.training.trainer().init(variables), number)
    generator = self.vtc.init(personal.extra_key(key))
    state = self.generator_optimizer().init(self.with_stddev(generator))
    is_local = self.config.vtc_scope == 'local'
    return VtcClient(own, generator if is_local else (), state)

  def update(
    self, view: Tree, client: VtcClient, data: ClientData, keys: ClientKeys
  ) -> tuple[Tree, VtcClient, Metrics]:
    """A round: fine-tuning, the classifier, the generator, the message."""
    # As every method of `personal`: the same order of examples.
    train_key, own_key = jax.random.split(keys.own)
    finetune_key, generator_key = jax.random.split(own_key)
    variables = client.own.variables
    if self.config.finetune == 'every_round':
      variables = self.finetune(view, client, data, finetune_key)
    variables, state, metrics = self.training.trainer().run(
      self.classifier_loss(view['gaussians']),
      variables,
      client.own.optimizer_state,
      data,
      train_key,
    )
    own = Personal(variables, state, client.own.number)
    classifier = variables['classifier']
    sums = personal.feature_sums(
      self.model, classifier, data, self.training.batch_size
    )
    received: Tree = generator_of(view, client)
    generator: Tree = received
    generator_state = client.generator_state
    if self.losses.is_any:
      generator, generator_state, more = self.train_generator(
        view, classifier, generator, generator_state, sums, data, generator_key
      )
      metrics = metrics | more
    message: dict[str, Any] = {
      'statistics': self._mean_contribution(classifier, data)
      if self.is_private
      else class_gaussians.statistics(sums, self.rules)
    }
    if self.config.vtc_scope == 'federated':
      message['generator'] = trees.subtract(received, generator)
      generator = ()
    return message, VtcClient(own, generator, generator_state), metrics

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
    gaussians, generator = view['gaussians'], generator_of(view, client)
    classifier = finetuned(
      self.finetuning(),
      self.training,
      self.model,
      client.own.variables['classifier'],
      lambda key: self._synthetic(generator, gaussians, key),
      gaussians.known.any(),  # nothing is known before the first round
      data,
      key,
      self._lean,
    )
    return {**client.own.variables, 'classifier': classifier}

  def finetuning(self) -> Finetuning:
    """How its classifier is fine-tuned."""
    return self.config.finetuning(self.training, self.model.num_classes)

  def _synthetic(
    self, generator: Variables, gaussians: ClassGaussians, key: Key
  ) -> Batch:
    """Images of the known classes, each alike."""
    label_key, latent_key = jax.random.split(key)
    labels = drawn_labels(gaussians.known, self.training.batch_size, label_key)
    images = self.vtc.decode(generator, gaussians.sample(labels, latent_key))
    return Batch(images, labels, jnp.ones(len(labels), bool))

  def _mean_contribution(
    self, classifier: Variables, data: ClientData
  ) -> ClassSums:
    """Of the client's examples; of norm 1 at most, whatever they are."""
    scale = self.config.feature_scale

    def of_batch(batch):
      features = self.model.features(classifier, batch.inputs) / scale
      parts = jax.vmap(class_moments.contribution, (0, 0, None))(
        features, batch.labels, self.model.num_classes
      )
      return trees.weighted_sum(parts, batch.mask.astype(jnp.float32))

    sums = local.total(of_batch, data, self.training.batch_size)
    return jax.tree.map(lambda leaf: leaf / jnp.maximum(data.size, 1), sums)

  def classifier_loss(self, gaussians: ClassGaussians) -> LossFn:
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

  def train_generator(
    self,
    view: Tree,
    classifier: Variables,
    generator: Variables,
    state: Tree,
    sums: ClassSums,
    data: ClientData,
    key: Key,
  ) -> tuple[Variables, Tree, Metrics]:
    """Passes of L_e over the client's images; the classifier is frozen.

    Args:
      view: what came down.
      classifier: the client's, trained.
      generator: variables to start from.
      state: of the generator's optimizer.
      sums: of the client's features.
      data: its images.
      key: consumed.

    Returns:
      The generator's variables, the optimizer's state and metrics.
    """
    config = self.config
    own = class_gaussians.of_client(sums)
    classifier = jax.lax.stop_gradient(classifier)
    trained = local.train(
      self._lean(self.generator_loss(view['gaussians'], own, classifier)),
      self.generator_optimizer(),
      local.local_work(config.vtc_epochs, self.training.batch_size),
      self.with_stddev(generator, own.stddev[0]),
      state,
      data,
      key,
    )
    metrics = trained.metrics
    metrics['generator_loss'] = metrics.pop('loss')
    return trained.variables['generator'], trained.optimizer_state, metrics

  def generator_loss(
    self, gaussians: ClassGaussians, own: ClassGaussians, classifier: Variables
  ) -> LossFn:
    """L_e, of `with_stddev`'s variables."""
    return vtc_losses.generator_loss(
      self.losses, self.vtc, self.model, classifier, gaussians, own
    )

  def _lean(self, loss_fn: Callable[..., Any]) -> Callable[..., Any]:
    """The loss, as `training` has that of the classifier."""
    if self.training.rematerialise:
      return local.rematerialised(loss_fn)
    return loss_fn

  def with_stddev(
    self, generator: Variables, stddev: Array | None = None
  ) -> Variables:
    """What the generator's optimizer trains."""
    if stddev is None:
      stddev = jnp.ones(self.model.feature_size)
    return {'generator': generator, 'log_stddev': jnp.log(stddev)}

  def generator_optimizer(self) -> optax.GradientTransformation:
    """What descends L_e."""
    return optimizers.adam(self.config.vtc_learning_rate, b1=0.5)


def generator_of(view: Tree, client: VtcClient) -> Variables:
  """The generator that a client uses: the server's, or its own."""
  return view.get('generator', client.generator)


def _server(
  config: Config,
  rules: Rules,
  model: Classifier,
  vtc: Vtc,
  plan: Plan | None,
) -> ServerProgram:
  """Joins statistics; averages generators if they are sent."""
  parts = {'statistics': aggregates.total()}
  average = servers.learned_server(
    vtc.init,
    aggregates.uniform_mean()
    if config.vtc_average == 'uniform'
    else aggregates.weighted_mean(),
    optax.sgd(1.0),
  )
  is_federated = config.vtc_scope == 'federated'
  if is_federated:
    parts['generator'] = average.aggregate

  def init(key):
    unknown = class_gaussians.unknown(
      model.num_classes, model.feature_size, rules
    )
    return VtcServer(unknown, average.init(key) if is_federated else ())

  def update(server, aggregated, key):
    before, sent = server.gaussians, aggregated['statistics']
    if plan is None:
      gaussians = class_gaussians.joined(before, sent, rules)
    else:
      gaussians = private_gaussians.joined(
        before,
        sent,
        rules,
        feature_scale=config.feature_scale,
        stddev=plan.noise_multiplier * plan.max_norm / plan.expected_cohort,
      )
    metrics = {
      'known_classes': gaussians.known.sum().astype(jnp.float32),
      'mean_stddev': gaussians.stddev.mean(),
    }
    generator = server.generator
    if is_federated:
      generator, more = average.update(generator, aggregated['generator'], key)
      metrics |= more
    return VtcServer(gaussians, generator), metrics

  return ServerProgram(init, aggregates.by_module(parts), update)


def _view(server: VtcServer) -> dict[str, Tree]:
  view: dict[str, Tree] = {'gaussians': server.gaussians}
  if server.generator:
    view['generator'] = server.generator.variables
  return view
