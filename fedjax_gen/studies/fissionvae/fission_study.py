"""Trains VAEs over groups of clients with different kinds of images.

The variants of FissionVAE are one model that shares different parts: L gives
each group a prior, D a decoder, H adds a second level of latents, het gives the
groups decoders of different architectures. They are compared with other models
on the same data.
"""

import dataclasses
from typing import NamedTuple

from fedjax_gen import fields, validate
from fedjax_gen.algorithms import fissionvae as fission_lib
from fedjax_gen.algorithms.discovery import DiscoveryConfig
from fedjax_gen.data.sources import DataSource
from fedjax_gen.evaluation import vaes
from fedjax_gen.evaluation.vaes import EvaluationConfig
from fedjax_gen.federation import (
  Federation,
  FederationConfig,
  build_federation,
)
from fedjax_gen.kinds import DataSpec
from fedjax_gen.models import decoders
from fedjax_gen.models.gan import GanConfig
from fedjax_gen.models.vae import VaeConfig
from fedjax_gen.privacy.plan import PrivacyConfig
from fedjax_gen.studies import options, private_run, stages, study
from fedjax_gen.studies.command import program
from fedjax_gen.studies.fissionvae import (
  fission_clients,
  fission_discovery,
  fission_judge,
  fission_methods,
  fission_report,
)
from fedjax_gen.studies.fissionvae.fission_judge import GroupComparison
from fedjax_gen.studies.study import Run


@dataclasses.dataclass(frozen=True)
class ComparisonConfig(fields.Configuration):
  """What is compared."""

  methods: tuple[str, ...] = fields.option(
    ('FedVAE', 'L', 'D', 'L+D'),
    'FedVAE; any of H (two levels of latents), L (priors of groups), '
    'D (decoders of groups) and het (of different architectures) joined by '
    '+, as H+L+D; and the baselines group_vaes (a FedVAE of each group), '
    'local, central (one VAE on all data) and fedgan.',
  )
  families: tuple[str, ...] = fields.option(
    ('conv', 'resize', 'residual', 'mlp'),
    'Decoders of the groups in methods with het, in turn: '
    + ', '.join(decoders.DECODERS),
  )
  central_epochs: float = fields.non_negative(
    0.0,
    'Passes of central training over all data in the whole run; 0 '
    'for as many steps as one client makes.',
  )

  def __post_init__(self):
    super().__post_init__()
    for family in self.families or ('',):
      validate.one_of(decoders.DECODERS, families=family)
    options.each_once(fission_methods.canonical, methods=self.methods)


class Configs(NamedTuple):
  """Everything of the command line, and what it is by default."""

  run: program.RunConfig = program.RunConfig(
    rounds=30, rounds_per_step=5, eval_every=5, checkpoint_every=10
  )
  data: options.DataConfig = options.DataConfig(data='digits_and_shapes')
  federation: FederationConfig = FederationConfig(partition='groups')
  population: options.PopulationConfig = options.PopulationConfig()
  vae: VaeConfig = VaeConfig(conditional=False, hierarchy='z1_top')
  fissionvae: fission_lib.Config = fission_lib.Config()
  privacy: PrivacyConfig = PrivacyConfig()
  discovery: DiscoveryConfig = DiscoveryConfig()
  gan: GanConfig = GanConfig()
  comparison: ComparisonConfig = ComparisonConfig()
  evaluation: EvaluationConfig = EvaluationConfig(importance_samples=0)

  @property
  def are_groups_given(self) -> bool:
    """Whether clients are told their groups, or these are discovered."""
    return self.discovery.groups == 'given'


def build(asked: Configs, num_processes: int) -> GroupComparison:
  """Reads the data and builds what is compared.

  Where groups are to be discovered, it is built for made-up ones.
  """
  fission_clients.check_population(
    asked.population, asked.discovery, num_processes
  )
  read = options.load_source(asked.data, seed=asked.run.seed)
  source = fission_clients.grouped(read)
  fission_clients.check_source(source)
  dealt = fission_clients.dealt(asked.federation, source, read)
  source = stages.encoded_in_public(
    source,
    dealt,
    asked.data,
    is_private=asked.privacy.is_private,
    seed=asked.run.seed,
  )
  federation = build_federation(
    dealt,
    source,
    seed=asked.run.seed,
    on_host=asked.population.population_on_host,
  )
  fission_clients.check_privacy(asked.privacy, asked.discovery)
  federation = fission_clients.with_true_groups(
    federation, source, may_mix=not asked.are_groups_given
  )
  setting = setting_of(
    asked, source.spec, federation, len(source.group_names), source
  )
  built_for = setting
  if asked.are_groups_given:
    fission_clients.check_clients(source, federation)
  else:
    built_for = fission_discovery.rehearsal(asked.discovery, setting)
  names = fission_methods.ordered(asked.comparison.methods)
  methods = fission_methods.build_methods(names, built_for)
  return GroupComparison(
    source=source,
    partition=federation.partition,
    methods=methods,
    notes=stages.known(source, setting.protection),
    protection=setting.protection,
    setting=setting,
    build_extractor=vaes.extractor_builder(
      asked.evaluation.extractor, source, seed=asked.run.seed
    ),
  )


def setting_of(
  asked: Configs,
  spec: DataSpec,
  federation: Federation,
  num_groups: int,
  source: DataSource | None = None,
) -> fission_methods.Setting:
  """What all methods are built from.

  Args:
    asked: the configurations.
    spec: form of the data.
    federation: who holds how much, and in which group each client is; of
      examples the shape alone is read.
    num_groups: G.
    source: to save models of; None where none is saved.

  Raises:
    InputError: not one round fits the budget.
  """
  protection = private_run.protect(
    asked.privacy,
    asked.federation,
    federation.data,
    batch_size=asked.fissionvae.batch_size,
    epochs=asked.fissionvae.local_epochs,
    rounds=asked.run.rounds,
  )
  return fission_methods.Setting(
    source=source,
    spec=spec,
    federation=federation,
    num_groups=num_groups,
    model_of_group=range(num_groups),
    vae=asked.vae,
    fissionvae=asked.fissionvae,
    gan=asked.gan,
    sampling=asked.federation,
    families=asked.comparison.families,
    central_epochs=asked.comparison.central_epochs,
    num_local_models=asked.evaluation.num_local_models,
    rounds=asked.run.rounds,
    seed=asked.run.seed,
    protection=protection,
  )


def prepare(running: Run, compared: GroupComparison) -> GroupComparison:
  """Trains what groups are told apart by; discovers groups, unless given."""
  asked, session = running.asked, running.session
  session.say('Preparing the measures.')
  compared = dataclasses.replace(
    compared,
    reference=fission_judge.build_reference(
      compared.source, compared.build_extractor, seed=running.seed
    ),
  )
  if asked.are_groups_given:
    return compared

  def train(name, method):
    followed = fission_judge.following(
      method, compared.source, None, seed=running.seed
    )
    return running.train(name, method, followed)

  setting, found = fission_discovery.discover(
    asked.discovery, compared.setting, train, running.workdir
  )
  session.say(
    f'Discovered {found.num_groups} groups; {found.accuracy:.0%} of the '
    'clients are in their own.'
  )
  methods = fission_methods.build_methods(list(compared.methods), setting)
  return dataclasses.replace(
    compared, setting=setting, methods=methods, discovery=found
  )


def save(
  running: Run, compared: GroupComparison, measured: fission_judge.Measured
) -> None:
  """Saves the models of each method, for `fedjax_gen.load`."""
  for name, method in compared.methods.items():
    method.save(running.shown.folder(name), name, measured.trained[name])


STUDY = study.Study(
  build=build,
  prepare=prepare,
  follow=fission_judge.follow,
  measure=fission_judge.measure,
  save=save,
  report=fission_report.report_run,
)

PROGRAM = program.Program(
  name='fissionvae',
  sentence='Trains VAEs over groups of clients with different kinds of images '
  '(FissionVAE).',
  examples=(
    ('', 'Digits and drawn shapes: FedVAE, L, D and L+D.'),
    (
      '--data=groups:my_images --image_size=32 '
      '--methods=FedVAE,L+D,H+L+D,L+D+het,fedgan',
      'Your own images, a folder for each kind.',
    ),
    (
      '--groups=discovered --num_clients=20',
      'Nobody says who belongs together: the groups are found.',
    ),
    (
      '--privacy=client --epsilon=8 --clients_per_group=500 '
      '--sampling=poisson --participation=0.1',
      'Differential privacy of every client.',
    ),
  ),
  configs=Configs(),
  main=study.main_of(STUDY),
)
