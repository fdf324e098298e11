"""FedVTC, its ablations and the methods that it is compared with, by name.

All train the same classifiers of the same clients, from the same start.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

from fedjax_gen.algorithms import fedvtc
from fedjax_gen.algorithms.classifiers import (
  ccvr,
  class_images,
  fedavg_classifiers,
  feddistill,
  fedgen,
  fedgh,
  fedkd,
  fedproto,
  fedtgp,
  fml,
  lg_fedavg,
)
from fedjax_gen.algorithms.classifiers.ccvr import Config as CcvrConfig
from fedjax_gen.algorithms.classifiers.class_images import (
  Config as ClassImagesConfig,
)
from fedjax_gen.algorithms.classifiers.fedavg_classifiers import (
  Config as SmallConfig,
)
from fedjax_gen.algorithms.classifiers.feddistill import (
  Config as FedDistillConfig,
)
from fedjax_gen.algorithms.classifiers.fedgen import Config as FedGenConfig
from fedjax_gen.algorithms.classifiers.fedgh import Config as FedGhConfig
from fedjax_gen.algorithms.classifiers.fedkd import Config as FedKdConfig
from fedjax_gen.algorithms.classifiers.fedproto import Config as FedProtoConfig
from fedjax_gen.algorithms.classifiers.fedtgp import Config as FedTgpConfig
from fedjax_gen.algorithms.classifiers.fml import Config as FmlConfig
from fedjax_gen.algorithms.classifiers.lg_fedavg import Config as LgFedAvgConfig
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.own_models.finetuning import Finetuning
from fedjax_gen.federated.own_models.personal import Method
from fedjax_gen.federated.statistics.class_gaussians import Rules
from fedjax_gen.models.classification.classifiers import (
  Classifier,
  ClassifierConfig,
  build_classifiers,
)
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.models.vtc import Vtc
from fedjax_gen.models.vtc_losses import GeneratorLosses
from fedjax_gen.privacy.plan import Plan
from fedjax_gen.studies import options

SUBJECT = 'FedVTC'
CLASS_IMAGES = 'ClassImages'
SHARED = {'FML': 'meme', 'FedKD': 'mentee'}
"""By method the model that all its clients share, by its rule of prediction."""
TRIVIAL = (CLASS_IMAGES, 'FedAvg-small', *(f'{name}-shared' for name in SHARED))
"""Rows of the results that any method for different architectures must beat."""

ABLATIONS: dict[str, tuple[dict[str, Any], str]] = {
  'other_scope': ({}, 'the generator averaged, if it is not, and the reverse'),
  'no_dm': (
    {'dm_weight': 0.0, 'dm_cross_entropy': 0.0},
    'without distribution matching',
  ),
  'no_kl': (
    {'kl_weight': 0.0, 'prototype_weight': 0.0},
    'without the two halves of D_KL',
  ),
  'no_reconstruction': (
    {'reconstruction_weight': 0.0},
    'without reconstruction',
  ),
  'head_only': ({'finetune_scope': 'head'}, 'fine-tuning heads alone'),
  'extractor_only': (
    {'finetune_scope': 'extractor'},
    'fine-tuning extractors alone',
  ),
  'no_finetune': ({'synthetic_per_class': 0}, 'without synthetic images'),
}
"""By name, what differs from the configuration, and in words."""


class BaselineConfigs(NamedTuple):
  """Configurations of the baselines; their fields are flags."""

  class_images: ClassImagesConfig = ClassImagesConfig()
  small: SmallConfig = SmallConfig()
  fml: FmlConfig = FmlConfig()
  fedkd: FedKdConfig = FedKdConfig()
  fedgen: FedGenConfig = FedGenConfig()
  feddistill: FedDistillConfig = FedDistillConfig()
  fedproto: FedProtoConfig = FedProtoConfig()
  fedtgp: FedTgpConfig = FedTgpConfig()
  fedgh: FedGhConfig = FedGhConfig()
  lg_fedavg: LgFedAvgConfig = LgFedAvgConfig()
  ccvr: CcvrConfig = CcvrConfig()


class Setting(NamedTuple):
  """What all methods are built from.

  Attributes:
    training: how clients train.
    models: the classifier of each fleet.
    num_clients: of each fleet.
    classifier: the configuration of the models.
    spec: of the data.
    rounds: of training.
    finetuning: of classifiers with synthetic images, in FedVTC and ClassImages.
    baselines: their configurations.
  """

  training: personal.Config
  models: Sequence[Classifier]
  num_clients: Sequence[int]
  classifier: ClassifierConfig
  spec: DataSpec
  rounds: int
  finetuning: Finetuning
  baselines: BaselineConfigs

  def shared_model(self, architecture: str, width: float) -> Classifier:
    """A model that all clients train in addition to their own.

    Args:
      architecture: of it.
      width: of it; 0 for that of the clients.
    """
    config = dataclasses.replace(
      self.classifier,
      architectures=(architecture,),
      width=width or self.classifier.width,
    )
    [model] = build_classifiers(config, self.spec)
    return model


def _local(setting: Setting) -> Method:
  return personal.local_only(setting.training, setting.models)


def _fedavg(setting: Setting) -> Method:
  return fedavg_classifiers.fedavg_by_architecture(
    setting.training, setting.models, setting.num_clients
  )


def _fedavg_small(setting: Setting) -> Method:
  config = setting.baselines.small
  small = setting.shared_model(config.small_architecture, config.small_width)
  return fedavg_classifiers.fedavg_small(
    setting.training, small, len(setting.models)
  )


def _class_images(setting: Setting) -> Method:
  return class_images.class_images(
    setting.baselines.class_images, setting.training, setting.models,
    setting.num_clients, setting.spec.shape, setting.finetuning,
  )  # fmt: skip


def _plain(
  build: Callable[..., Method], config_of: Callable[[BaselineConfigs], Any]
) -> Callable[[Setting], Method]:
  """A method that needs only its configuration."""

  def built(setting: Setting) -> Method:
    return build(
      config_of(setting.baselines),
      setting.training,
      setting.models,
      setting.num_clients,
    )

  return built


def _fml(setting: Setting) -> Method:
  config = setting.baselines.fml
  meme = setting.shared_model(config.fml_architecture, config.fml_width)
  return fml.fml(
    config, setting.training, setting.models, setting.num_clients, meme
  )


def _fedkd(setting: Setting) -> Method:
  config = setting.baselines.fedkd
  mentee = setting.shared_model(config.fedkd_architecture, config.fedkd_width)
  return fedkd.fedkd(
    config, setting.training, setting.models, setting.num_clients, mentee,
    setting.rounds,
  )  # fmt: skip


BASELINES: dict[str, tuple[Callable[[Setting], Method], str]] = {
  'local': (_local, 'every client alone'),
  CLASS_IMAGES: (
    _class_images,
    'fine-tuned with the mean image of each class, sent once',
  ),
  'FedAvg-small': (_fedavg_small, 'one small classifier of all, averaged'),
  'FedAvg': (_fedavg, 'classifiers of one architecture averaged'),
  'LG-FedAvg': (
    _plain(lg_fedavg.lg_fedavg, lambda c: c.lg_fedavg),
    'one head, own extractors',
  ),
  'FD': (
    _plain(feddistill.feddistill, lambda c: c.feddistill),
    'mean logits of each class',
  ),
  'FML': (_fml, 'a small model that all train in addition to their own'),
  'FedKD': (_fedkd, 'the same, distilled adaptively and compressed'),
  'FedGen': (
    _plain(fedgen.fedgen, lambda c: c.fedgen),
    'one head, and a generator of features',
  ),
  'FedProto': (
    _plain(fedproto.fedproto, lambda c: c.fedproto),
    'mean features of each class',
  ),
  'FedTGP': (
    _plain(fedtgp.fedtgp, lambda c: c.fedtgp), 'the same, made to lie apart'
  ),
  'FedGH': (
    _plain(fedgh.fedgh, lambda c: c.fedgh),
    'a head that the server trains on them',
  ),
  'CCVR': (
    _plain(ccvr.ccvr, lambda c: c.ccvr),
    'heads trained on features of Gaussians',
  ),
}  # fmt: skip
"""By name, how each is built, and in words."""


def baselines(asked: Sequence[str]) -> list[str]:
  """Names of baselines in one order; `all` and `none` are understood.

  Raises:
    InputError: there is no such baseline, or one is named twice.
  """
  return _chosen(BASELINES, baselines=asked)


def ablations(asked: Sequence[str]) -> list[str]:
  """Names of ablations in one order; `all` and `none` are understood.

  Raises:
    InputError: there is no such ablation, or one is named twice.
  """
  return _chosen(ABLATIONS, ablations=asked)


def row(ablation: str) -> str:
  """The name of an ablation's row in results."""
  return f'{SUBJECT}-{ablation}'


def shared_rows(methods: Iterable[str]) -> dict[str, str]:
  """Rows of the results that are of shared models, by the method of each."""
  return {f'{name}-shared': name for name in SHARED if name in methods}


def in_words(name: str) -> str:
  """What a row of the results is."""
  if name == SUBJECT:
    return 'statistics of features, and images made of them'
  if name in shared_rows(SHARED):
    return 'the model that its clients share, on its own'
  table: Mapping[str, tuple[Any, str]] = BASELINES
  if name.startswith(f'{SUBJECT}-'):
    table, name = ABLATIONS, name.removeprefix(f'{SUBJECT}-')
  return table[name][1]


class MainMethod(NamedTuple):
  """What FedVTC is built from, besides the setting.

  Attributes:
    config: of the method.
    rules: how statistics are joined.
    losses: what the generator descends.
    vtc: the generator.
    plan: of differential privacy, or None.
  """

  config: fedvtc.Config
  rules: Rules
  losses: GeneratorLosses
  vtc: Vtc
  plan: Plan | None = None

  @property
  def is_shared(self) -> bool:
    """Whether one generator makes the images, and not those of clients."""
    return self.config.vtc_scope == 'federated'

  def ablated(self, name: str) -> 'MainMethod':
    """The same with one thing left out or changed."""
    if name == 'other_scope':
      other = {'local': 'federated', 'federated': 'local'}
      changes = {'vtc_scope': other[self.config.vtc_scope]}
    else:
      changes, _ = ABLATIONS[name]
    return self._replace(
      config=_changed(self.config, changes),
      losses=_changed(self.losses, changes),
    )

  def build(self, setting: Setting) -> Method:
    """FedVTC.

    Raises:
      InputError: a configuration does not fit the models.
    """
    return fedvtc.fedvtc(
      self.config, setting.training, setting.models, setting.num_clients,
      self.vtc, rules=self.rules, losses=self.losses, plan=self.plan,
    )  # fmt: skip


def build_methods(
  setting: Setting,
  subject: MainMethod,
  *,
  with_baselines: Sequence[str],
  with_ablations: Sequence[str],
) -> dict[str, Method]:
  """The trainings by name, FedVTC first.

  Raises:
    InputError: a configuration does not fit the models.
  """
  methods = {SUBJECT: subject.build(setting)}
  for name in ablations(with_ablations):
    methods[row(name)] = subject.ablated(name).build(setting)
  for name in baselines(with_baselines):
    build, _ = BASELINES[name]
    methods[name] = build(setting)
  return methods


def _changed(config: Any, changes: Mapping[str, Any]) -> Any:
  names = {field.name for field in dataclasses.fields(config)}
  return dataclasses.replace(
    config, **{name: changes[name] for name in names & changes.keys()}
  )


def _chosen(table: Mapping[str, Any], **given: Sequence[str]) -> list[str]:
  [asked] = given.values()
  if tuple(asked) in ((), ('none',)):
    return []
  if tuple(asked) == ('all',):
    return list(table)
  options.each_once(tuple(table), **given)
  return [name for name in table if name in asked]
