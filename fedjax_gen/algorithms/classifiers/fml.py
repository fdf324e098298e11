"""FML: a private model and a shared 'meme' model teach each other.

Tao Shen, Jie Zhang, Xinkang Jia, Fengda Zhang, Gang Huang, Pan Zhou, Kun
Kuang, Fei Wu, Chao Wu, "Federated mutual learning", arXiv 2006.16765 (2020);
code: https://github.com/ZJU-DAI/Federated-Mutual-Learning.

Published: each client has a model of its own and a copy of the meme model,
which has one architecture for all. On every batch

  L_own  = alpha CE(own) + (1 - alpha) KL(meme || own)
  L_meme = beta CE(meme) + (1 - beta) KL(own || meme)

where the first of a KL is a teacher and does not learn from it. The server
averages the meme models, every client alike; the private model stays.

Ours: both losses are one sum, which is the same since no teacher learns; each
model has its own optimizer and limit of gradient norm. The authors' code
starts the meme's optimizer anew in every round; here it is kept, as those of
all methods compared. HtFLlib lets teachers learn and averages KL over classes
too, which makes it C times smaller; neither is done here.
"""

from collections.abc import Sequence
import dataclasses
import functools

import optax

from fedjax_gen import fields, trees
from fedjax_gen.federated import aggregates, servers
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.own_models.personal import Method, Model
from fedjax_gen.models.classification.classifiers import ClassifierConfig
from fedjax_gen.models.classification.extractors import EXTRACTORS
from fedjax_gen.types import Key, LossFn, Variables


@dataclasses.dataclass(frozen=True)
class Config(fields.Configuration):
  """What FML adds."""

  fml_alpha: float = fields.fraction(
    0.5,
    'alpha, weight of cross-entropy in the private model’s loss; '
    'that of the meme’s teaching is 1 - alpha',
  )
  fml_beta: float = fields.fraction(
    0.5, 'beta, the same of the meme model’s loss'
  )
  fml_architecture: str = fields.option(
    'cnn', 'of the meme model', choices=EXTRACTORS
  )
  fml_width: float = fields.non_negative(
    0.0, 'width of the meme model; 0 for that of the clients'
  )

  def meme_config(self, clients: ClassifierConfig) -> ClassifierConfig:
    """What `classifiers.build_classifiers` makes the meme model of."""
    return dataclasses.replace(
      clients,
      architectures=(self.fml_architecture,),
      width=self.fml_width or clients.width,
    )


def fml(
  config: Config,
  training: personal.Config,
  models: Sequence[Model],
  num_clients: Sequence[int],
  meme: Model,
) -> Method:
  """Private models of any architecture, and one meme model.

  Args:
    config: of the method.
    training: how clients train both.
    models: the classifier of each fleet.
    num_clients: clients of each fleet.
    meme: the model that is shared; its features may have another size.
  """
  personal.equal_classes([*models, meme])
  rate = training.learning_rate
  trainer = training.trainer({'classifier': rate, 'meme': rate})

  def send(view, client, data, key):
    del data, key
    return trees.subtract(view, client.variables['meme'])

  def client(model, first):
    return personal.client_program(
      trainer,
      functools.partial(_init, model, meme),
      first,
      view=lambda server, info: server.variables,
      loss=functools.partial(_loss, config, model, meme),
      send=send,
      receive=lambda view, own: {**own, 'meme': view},
    )

  server = servers.learned_server(
    meme.init, aggregates.uniform_mean(), optax.sgd(1.0)
  )
  return personal.method(
    server,
    models,
    num_clients,
    client,
    lambda model: personal.mutual_deployment('meme', model, meme),
  )


def mutual_loss(config: Config, model: Model, meme: Model) -> LossFn:
  """L_own + L_meme, of `{'classifier': ..., 'meme': ...}`."""

  def loss_fn(variables, batch, key):
    del key  # nothing is random
    own, shared = (
      classifier.logits(
        variables[part]['head'],
        classifier.features(variables[part], batch.inputs),
      )
      for part, classifier in (('classifier', model), ('meme', meme))
    )
    values = personal.mutual('meme', own, shared, batch.labels)
    metrics = {
      name: trees.masked_mean(value, batch.mask)
      for name, value in values.items()
    }
    loss = (
      config.fml_alpha * metrics['cross_entropy']
      + (1 - config.fml_alpha) * metrics['distillation']
      + config.fml_beta * metrics['meme_cross_entropy']
      + (1 - config.fml_beta) * metrics['meme_distillation']
    )
    return loss, (variables, metrics)

  return loss_fn


def _loss(config, model, meme, view):
  del view  # what is received is trained
  return mutual_loss(config, model, meme)


def _init(model: Model, meme: Model, key: Key) -> Variables:
  own = personal.init_classifier(model)(key)
  return {**own, 'meme': meme.init(personal.extra_key(key))}
