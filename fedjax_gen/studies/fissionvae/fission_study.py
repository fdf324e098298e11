"""Trains VAEs over groups of clients whose images are of different kinds.

The variants of FissionVAE are one model with other parts shared: L gives each
group a prior, D a decoder, H puts a second level of latents, het gives the
groups decoders of different architectures. Beside them, on the same data, the
models they are compared with.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

import jax

from fedjax_gen import fields, validate
from fedjax_gen.algorithms import fissionvae as fission_lib
from fedjax_gen.algorithms.discovery import DiscoveryConfig
from fedjax_gen.evaluation import vaes
from fedjax_gen.evaluation.features import FeatureExtractor
from fedjax_gen.evaluation.group_models import GroupGenerator
from fedjax_gen.evaluation.groups import GroupReference
from fedjax_gen.evaluation.vaes import EvaluationConfig
from fedjax_gen.federation import FederationConfig, build_federation
from fedjax_gen.models import decoders
from fedjax_gen.models.gan import GanConfig
from fedjax_gen.models.vae import DataSpec, VaeConfig
from fedjax_gen.privacy.plan import PrivacyConfig
from fedjax_gen.privacy.releases import Releases
from fedjax_gen.privacy.secret_keys import Secrets
from fedjax_gen.running import engine as engine_lib, leaves, training
from fedjax_gen.running.workdir import Workdir
from fedjax_gen.studies import options, private_run, shown as shown_lib, stages
from fedjax_gen.studies.command import program
from fedjax_gen.studies.fissionvae import (
  fission_clients,
  fission_discovery,
  fission_judge,
  fission_methods,
  fission_report,
  fission_tables,
)
from fedjax_gen.studies.fissionvae.fission_methods import Method, Setting
from fedjax_gen.studies.private_run import Protection


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
  """What is compared.

  Raises:
    InputError: a method is unknown or named twice.
  """

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
  central_epochs: float = fields.option(
    0.0,
    'Passes of central training over all data in the whole run; 0 '
    'for as many steps as one client makes.',
  )

  def __post_init__(self):
    validate.non_negative(central_epochs=self.central_epochs)
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


class Comparison(NamedTuple):
  """The trainings that are compared, built and not yet compiled.

  Attributes:
    setting: what they are built from.
    methods: the trainings, by name.
    protection: of those that are federated, if they are private.
    build_extractor: of the features by which images are compared; takes long.
  """

  setting: Setting
  methods: dict[str, Method]
  protection: Protection | None
  build_extractor: Callable[[], FeatureExtractor | None]

  @property
  def protected(self) -> list[str]:
    """Methods that train under the protection, if there is any."""
    return [n for n in self.methods if n not in fission_methods.UNPROTECTED]

  @property
  def releases(self) -> Releases | None:
    """All that the run gives away; None without privacy."""
    if self.protection is None:
      return None
    return private_run.releases_of(
      dict.fromkeys(self.protected, self.protection)
    )

  @property
  def held(self) -> list[str]:
    """Methods of which the protection holds."""
    return self.protection.held(self.protected) if self.protection else []


def main(session: program.Session, asked: Configs) -> None:
  """Trains, measures and draws; see `program.run`."""
  # Before anything is written: mistakes show here.
  compared = _build(asked, session.processes.count)
  source = compared.setting.source
  partition = compared.setting.federation.partition
  is_private = compared.protection is not None
  with session.open_workdir(is_private=is_private) as workdir:
    secrets = stages.secrets_of(workdir, asked.privacy.noise_seed)
    shown = shown_lib.shown(
      workdir, compared.held, show_real=asked.privacy.show_real
    )
    known = stages.known(source, compared.protection)
    stages.begin(
      session, workdir, source, partition, known, secrets=secrets,
      releases=compared.releases,
    )  # fmt: skip
    session.say('Preparing the measures.')
    reference = fission_judge.build_reference(
      source, compared.build_extractor, seed=asked.run.seed
    )
    train = functools.partial(
      _train, run=asked.run, session=session, workdir=workdir, secrets=secrets
    )
    compared, found = _with_groups(asked, compared, train, session, workdir)
    setting, methods = compared.setting, compared.methods
    results = {
      name: train(name, method, setting, reference, setting.num_rounds)
      for name, method in methods.items()
    }
    session.part()
    trained = {
      name: method.variables(results[name].state)
      for name, method in methods.items()
    }
    for name, method in methods.items():
      method.save(shown.folder(name), name, trained[name])
    stages.claim(workdir, compared.releases)
    session.say('Measuring against held-out data.')
    generators = {
      name: method.generators(results[name].state)
      for name, method in methods.items()
    }
    metrics = _measure(compared, generators, reference, asked, workdir, shown)
    session.say('Drawing.')
    facts = fission_tables.Facts(
      experiment='fissionvae',
      source=source,
      partition=partition,
      reference=reference,
      metrics=metrics,
      results=results,
      traffic={name: method.traffic for name, method in methods.items()},
      generators={name: made[0] for name, made in generators.items()},
      discovery=found,
      config=session.config,
      protection=compared.protection,
      protected=compared.protected,
      releases=compared.releases,
    )
    fission_report.write(shown, facts)
    fission_tables.show(facts)
    # Last: a summary marks the run as finished.
    digest = leaves.params_digest(trained)
    workdir.write_summary(fission_report.summary(facts, digest))


def _build(asked: Configs, num_processes: int) -> Comparison:
  """Reads the data and builds what is compared.

  Where groups are to be discovered, it is built for made-up ones.

  Raises:
    InputError: a configuration does not fit the data or another.
  """
  fission_clients.check_population(
    asked.population, asked.discovery, num_processes
  )
  source = options.load_source(asked.data, seed=asked.run.seed)
  fission_clients.check_source(source)
  federation = build_federation(
    asked.federation,
    source,
    seed=asked.run.seed,
    on_host=asked.population.population_on_host,
  )
  fission_clients.check_privacy(asked.privacy, asked.discovery)
  federation = fission_clients.with_true_groups(
    federation, source, may_mix=not asked.are_groups_given
  )
  protection = private_run.protect(
    asked.privacy,
    asked.federation,
    federation.data,
    batch_size=asked.fissionvae.batch_size,
    epochs=asked.fissionvae.local_epochs,
    rounds=asked.run.rounds,
  )
  num_groups = len(source.group_names)
  setting = fission_methods.Setting(
    source=source,
    spec=DataSpec(source.input_shape, source.num_classes),
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
    plan=None if protection is None else protection.plan,
  )
  built_for = setting
  if asked.are_groups_given:
    fission_clients.check_clients(source, federation)
  else:
    built_for = fission_discovery.rehearsal(asked.discovery, setting)
  names = fission_methods.ordered(asked.comparison.methods)
  methods = fission_methods.build_methods(names, built_for)
  build_extractor = vaes.extractor_builder(
    asked.evaluation.extractor, source, seed=asked.run.seed
  )
  return Comparison(setting, methods, protection, build_extractor)


def _with_groups(
  asked: Configs,
  compared: Comparison,
  train: Callable[..., training.TrainResult],
  session: program.Session,
  workdir: Workdir,
) -> tuple[Comparison, fission_discovery.Found | None]:
  """The same with groups that are discovered, unless they are given."""
  if asked.are_groups_given:
    return compared, None
  setting, found = fission_discovery.discover(
    asked.discovery, compared.setting, train, workdir
  )
  session.say(
    f'Discovered {found.num_groups} groups; {found.accuracy:.0%} of the '
    'clients are in their own.'
  )
  methods = fission_methods.build_methods(list(compared.methods), setting)
  return compared._replace(setting=setting, methods=methods), found


def _train(
  name: str,
  method: Method,
  setting: Setting,
  reference: GroupReference | None,
  num_rounds: int,
  *,
  run: program.RunConfig,
  session: program.Session,
  workdir: Workdir,
  secrets: Secrets | None,
) -> training.TrainResult:
  """Trains one method, measuring as it goes."""
  engine = engine_lib.engine(
    method.algorithm,
    method.datasets,
    jax.random.key(run.seed),
    traffic=method.traffic,
    samplers=method.samplers,
    mapping=method.mapping,
    folder=workdir.population_path(name),
    own_key=(
      None
      if name in fission_methods.UNPROTECTED
      else stages.training_key(secrets, name)
    ),
  )
  return stages.train(
    name,
    engine,
    num_rounds,
    run=run,
    session=session,
    workdir=workdir,
    evaluate=lambda state: fission_judge.follow(
      method.generators(state), setting.source, reference, seed=run.seed
    ),
    trained=method.variables,
  )


def _measure(
  compared: Comparison,
  generators: dict[str, list[GroupGenerator]],
  reference: GroupReference | None,
  asked: Configs,
  workdir: Workdir,
  shown: shown_lib.Shown,
) -> dict[str, dict[str, Any]]:
  """Metrics of each method, and of real images in place of generated ones."""
  measured = fission_judge.measure(
    generators,
    shown.source(compared.setting.source),
    reference,
    asked.evaluation,
    workdir,
    seed=asked.run.seed,
    by_training=shown.everything,
  )
  metrics = stages.settle(compared.protection, measured, compared.protected)
  if reference is not None:
    metrics['real_data'] = fission_judge.measure_real(
      reference, asked.evaluation, workdir, seed=asked.run.seed
    )
  return metrics


PROGRAM = program.Program(
  name='fissionvae',
  sentence='Trains VAEs over groups of clients with different kinds of images '
  '(FissionVAE).',
  examples=(
    ('', 'Digits and drawn shapes: FedVAE beside L, D and L+D.'),
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
  main=main,
)
