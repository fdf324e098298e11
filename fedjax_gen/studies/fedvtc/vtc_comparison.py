"""What a run of FedVTC compares: its configuration, and what it builds."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import NamedTuple

from fedjax_gen import fields, validate
from fedjax_gen.algorithms import fedvtc as fedvtc_lib
from fedjax_gen.errors import InputError
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.rounds import Traffic
from fedjax_gen.federated.statistics import class_traffic
from fedjax_gen.federated.statistics.class_gaussians import Rules
from fedjax_gen.federation import (
  FederationConfig,
  build_mapping,
  build_samplers,
)
from fedjax_gen.kinds import DataSpec
from fedjax_gen.models.classification.classifiers import (
  Classifier,
  ClassifierConfig,
  build_classifiers,
)
from fedjax_gen.models.vtc import VtcConfig, build_vtc
from fedjax_gen.models.vtc_losses import GeneratorLosses
from fedjax_gen.privacy.plan import PrivacyConfig
from fedjax_gen.running import federated_step
from fedjax_gen.studies import options, private_run, stages, study
from fedjax_gen.studies.command import program
from fedjax_gen.studies.fedvtc import vtc_methods
from fedjax_gen.studies.fedvtc.vtc_judge import Clients, Judge, build_clients
from fedjax_gen.studies.fedvtc.vtc_methods import (
  CLASS_IMAGES,
  SUBJECT,
  BaselineConfigs,
  MainMethod,
  Setting,
)


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
  """What is compared.

  Raises:
    InputError: a value is out of range.
  """

  baselines: tuple[str, ...] = fields.option(
    ('local', 'FedProto'),
    f'all, none, or any of {", ".join(vtc_methods.BASELINES)}.',
  )
  ablations: tuple[str, ...] = fields.option(
    (),
    'FedVTC with one thing left out: all, none, or any of '
    f'{", ".join(vtc_methods.ABLATIONS)}.',
  )
  local_test_fraction: float = fields.option(
    0.2, 'Share of each client’s examples that is held out to test it.'
  )
  attack: bool = fields.option(
    False,
    'Try to draw clients’ images from the statistics that they sent, '
    'and measure how far that succeeds.',
  )
  target_accuracy: float = fields.option(
    0.0,
    'Count the bytes until this accuracy; 0 for that of the local '
    'models at the end.',
  )

  def __post_init__(self):
    vtc_methods.baselines(self.baselines)
    vtc_methods.ablations(self.ablations)
    validate.fraction(target_accuracy=self.target_accuracy)
    if not 0 <= self.local_test_fraction < 1:
      raise InputError(
        'Expected 0 <= local_test_fraction < 1, got '
        f'local_test_fraction={self.local_test_fraction}.'
      )


class Configs(NamedTuple):
  """Everything of the command line, and what it is by default."""

  run: program.RunConfig = program.RunConfig(
    rounds=20, rounds_per_step=5, eval_every=5, checkpoint_every=5
  )
  data: options.DataConfig = options.DataConfig()
  federation: FederationConfig = FederationConfig(
    num_clients=9, partition='dirichlet', alpha=0.1
  )
  population: options.PopulationConfig = options.PopulationConfig()
  measured: options.MeasuredConfig = options.MeasuredConfig()
  classifier: ClassifierConfig = ClassifierConfig(
    architectures=('cnn5', 'cnn', 'mlp'), feature_size=64, width=0.25
  )
  training: personal.Config = personal.Config(
    local_epochs=2.0, batch_size=16, optimizer='adam', learning_rate=2e-3
  )
  vtc: VtcConfig = VtcConfig()
  fedvtc: fedvtc_lib.Config = fedvtc_lib.Config(synthetic_per_class=60)
  rules: Rules = Rules()
  losses: GeneratorLosses = GeneratorLosses()
  privacy: PrivacyConfig = PrivacyConfig()
  comparison: ComparisonConfig = ComparisonConfig()
  baselines: BaselineConfigs = BaselineConfigs()


@dataclasses.dataclass(frozen=True, kw_only=True)
class VtcMethod(study.Method):
  """A training of personal classifiers.

  Attributes:
    own: what clients predict with, and the algorithm.
    extra_steps: of the classifier in a round, next to those of training.
  """

  own: personal.Method
  extra_steps: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class VtcComparison(study.Comparison):
  """Trainings of the clients' classifiers, FedVTC first.

  Attributes:
    clients: who holds what.
    models: the classifier of each fleet.
    subject: what FedVTC is built from.
    judge: who measures.
  """

  methods: Mapping[str, VtcMethod]
  clients: Clients
  models: Sequence[Classifier]
  subject: MainMethod
  judge: Judge


def build(asked: Configs, num_processes: int) -> VtcComparison:
  """Reads the data and builds what is compared.

  Args:
    asked: the command line.
    num_processes: of the run.

  Raises:
    InputError: a configuration does not fit the data or another.
  """
  _check_population(asked.population, asked.fedvtc, num_processes)
  source = options.load_source(asked.data, seed=asked.run.seed)
  clients = build_clients(
    source,
    asked.federation,
    asked.classifier.architectures,
    asked.comparison.local_test_fraction,
    asked.run.seed,
    measured=asked.measured,
    on_host=asked.population.population_on_host,
  )
  spec = source.spec
  sizes = [data.num_clients for data in clients.datasets]
  setting, subject, protection = parts_of(asked, spec, sizes)
  built = trainings(asked, setting, subject)
  # Which classes sites hold, by which parts of messages count, is not known.
  metered = study.traced if asked.federation.partition == 'sites' else _metered
  methods = {
    name: metered(
      name,
      VtcMethod(
        algorithm=method.algorithm,
        datasets=clients.datasets,
        samplers=build_samplers(asked.federation, sizes),
        mapping=build_mapping(asked.federation),
        rounds=asked.run.rounds,
        protection=protection if name.startswith(SUBJECT) else None,
        own=method,
        extra_steps=_extra_steps(name, setting, subject),
      ),
    )
    for name, method in built.items()
  }
  return VtcComparison(
    source=source,
    partition=clients.partition,
    methods=methods,
    notes=stages.known(source, protection),
    protection=protection,
    rows=vtc_methods.shared_rows(methods),
    clients=clients,
    models=setting.models,
    subject=subject,
    judge=Judge(clients, asked.run.seed),
  )


def parts_of(
  asked: Configs, spec: DataSpec, num_clients: Sequence[int]
) -> tuple[Setting, MainMethod, private_run.Protection | None]:
  """What all methods and FedVTC are built from, and how it is protected.

  Args:
    asked: the configurations.
    spec: form of the data.
    num_clients: of each architecture.

  Raises:
    InputError: a configuration does not fit the data or another.
  """
  models = build_classifiers(asked.classifier, spec)
  setting = Setting(
    asked.training,
    models,
    num_clients,
    asked.classifier,
    spec,
    asked.run.rounds,
    asked.fedvtc.finetuning(asked.training, spec.num_classes),
    asked.baselines,
  )
  protection = _protect(
    asked.privacy, asked.federation, sum(num_clients), asked.run.rounds
  )
  subject = MainMethod(
    asked.fedvtc,
    asked.rules,
    asked.losses,
    build_vtc(asked.vtc, asked.classifier.feature_size, spec),
    None if protection is None else protection.plan,
  )
  return setting, subject, protection


def trainings(
  asked: Configs, setting: Setting, subject: MainMethod
) -> dict[str, personal.Method]:
  """The trainings by name, FedVTC first."""
  return vtc_methods.build_methods(
    setting,
    subject,
    with_baselines=asked.comparison.baselines,
    with_ablations=asked.comparison.ablations,
  )


def _extra_steps(name: str, setting: Setting, subject: MainMethod) -> int:
  """Of fine-tuning, in a round."""
  if name == CLASS_IMAGES:
    return setting.finetuning.steps
  if not name.startswith(SUBJECT):
    return 0
  config = (
    subject.ablated(name.removeprefix(f'{SUBJECT}-')).config
    if (name != SUBJECT)
    else subject.config
  )
  if config.finetune != 'every_round':
    return 0
  return config.finetuning(setting.training, setting.spec.num_classes).steps


def _metered(name: str, method: VtcMethod) -> VtcMethod:
  """The method with its traffic: parts by class count where they are held.

  What is sent once counts in every round for its share.
  """
  federated_step.dry_run(name, method.algorithm, method.datasets)
  traffic = class_traffic.traffic(method.algorithm, method.datasets)
  if name == CLASS_IMAGES:
    traffic = tuple(
      Traffic(*(math.ceil(size / method.rounds) for size in fleet))
      for fleet in traffic
    )
  return dataclasses.replace(method, traffic=traffic)


def _protect(
  privacy: PrivacyConfig,
  federation: FederationConfig,
  count: int,
  num_rounds: int,
) -> private_run.Protection | None:
  """Differential privacy of whole clients, if it is asked for.

  Raises:
    InputError: privacy of records is asked for, which FedVTC cannot give, or
      not all rounds fit the budget.
  """
  if not privacy.is_private:
    return None
  if privacy.privacy != 'client':
    raise InputError(
      'Expected privacy=client or none with FedVTC, got '
      f'privacy={privacy.privacy!r}: every record has trained the extractor, '
      'and so moves the features of all others.'
    )
  if privacy.noise_placement != 'local':
    private_run.check_shares(privacy, federation, may_share=False)
  plan = private_run.client_plan(privacy, federation, count, rounds=num_rounds)
  if plan.rounds < num_rounds:
    raise InputError(
      f'Expected a budget for rounds={num_rounds}, which all methods train '
      f'for; epsilon={privacy.epsilon:g} lasts for {plan.rounds}.'
    )
  return private_run.protection(
    privacy, plan, rounds=num_rounds, num_units=count
  )


def _check_population(
  population: options.PopulationConfig,
  config: fedvtc_lib.Config,
  num_processes: int,
) -> None:
  """Raises InputError where the population may not lie on the host."""
  population.check(num_processes)
  if population.population_on_host and config.vtc_scope == 'local':
    raise InputError(
      "Expected vtc_scope='federated' with population_on_host=true, got "
      f'vtc_scope={config.vtc_scope!r}: the generators of all clients are '
      'drawn with and saved side by side.'
    )
