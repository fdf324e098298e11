"""Trains personal generators of embeddings, and measures their use.

FedHypeVAE is compared with other generators and with averaged classifiers, on
the same records and under the same privacy budget. For each method: how good is
a linear classifier for each client, trained on what is shared, on the client's
own records, or on both?
"""

from collections.abc import Mapping
import dataclasses
from typing import NamedTuple

from fedjax_gen import fields, keys
from fedjax_gen.algorithms import fedhypevae as fedhypevae_lib
from fedjax_gen.algorithms.dp_cgan import CganConfig
from fedjax_gen.algorithms.dp_merf import MerfConfig
from fedjax_gen.algorithms.hyper_pretraining import PretrainingConfig
from fedjax_gen.algorithms.linear_head import LinearConfig
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.data.sources import DataSource
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation.heads import HeadConfig
from fedjax_gen.federation import FederationConfig
from fedjax_gen.kinds import DataSpec
from fedjax_gen.models.hyper.hypernetwork import HyperVaeConfig
from fedjax_gen.models.hyper.meta_code import MetaConfig
from fedjax_gen.running.saves import saving
from fedjax_gen.studies import audits, options, stages, study
from fedjax_gen.studies.audits import AuditConfig
from fedjax_gen.studies.command import program
from fedjax_gen.studies.fedhypevae import (
  hype_judge,
  hype_methods,
  hype_privacy,
  hype_report,
  hype_synthesis,
)
from fedjax_gen.studies.fedhypevae.hype_budgets import HypePrivacyConfig
from fedjax_gen.studies.fedhypevae.hype_clients import build_clients
from fedjax_gen.studies.fedhypevae.hype_judge import EmbeddingComparison
from fedjax_gen.studies.fedhypevae.hype_methods import HypeMethod
from fedjax_gen.studies.fedhypevae.hype_synthesis import SynthesisConfig
from fedjax_gen.studies.fedhypevae.hype_uploads import GaussianConfig
from fedjax_gen.studies.study import Run


@dataclasses.dataclass(frozen=True)
class ComparisonConfig(fields.Configuration):
  """What is compared."""

  methods: tuple[str, ...] = fields.option(
    hype_methods.DEFAULT, f'Any of {", ".join(hype_methods.METHODS)}.'
  )

  def __post_init__(self):
    super().__post_init__()
    options.each_once(hype_methods.METHODS, methods=self.methods)


class Configs(NamedTuple):
  """Everything of the command line, and what it is by default."""

  run: program.RunConfig = program.RunConfig(
    rounds=200, rounds_per_step=50, eval_every=200, checkpoint_every=50
  )
  data: options.DataConfig = options.DataConfig(data='gaussian_domains')
  federation: FederationConfig = FederationConfig(partition='natural')
  population: options.PopulationConfig = options.PopulationConfig()
  measured: options.MeasuredConfig = options.MeasuredConfig()
  hyper: HyperVaeConfig = HyperVaeConfig()
  fedhypevae: fedhypevae_lib.Config = fedhypevae_lib.Config()
  privacy: HypePrivacyConfig = HypePrivacyConfig()
  audit: AuditConfig = AuditConfig()
  meta: MetaConfig = MetaConfig()
  linear: LinearConfig = LinearConfig()
  cgan: CganConfig = CganConfig()
  gaussians: GaussianConfig = GaussianConfig()
  merf: MerfConfig = MerfConfig()
  pretraining: PretrainingConfig = PretrainingConfig()
  synthesis: SynthesisConfig = SynthesisConfig()
  comparison: ComparisonConfig = ComparisonConfig()
  head: HeadConfig = HeadConfig()


def _encoded(asked: Configs, source: DataSource) -> DataSource:
  """Rows of a table as features; other data as they are.

  Raises:
    InputError: as `stages.encoded_in_public`; or they are to be normalised.
  """
  if source.schema is None:
    return source
  if asked.hyper.normalise != 'none':
    raise InputError(
      f'Expected normalise=none for {source.name}: each column has a '
      f'scale of its own; got normalise={asked.hyper.normalise!r}.'
    )
  return stages.encoded_in_public(
    source,
    asked.federation,
    asked.data,
    is_private=asked.privacy.unit != 'none',
    seed=asked.run.seed,
  )


def build(asked: Configs, num_processes: int) -> EmbeddingComparison:
  """Reads the data and builds what is compared."""
  asked.population.check(num_processes)
  clients = build_clients(
    _encoded(asked, options.load_source(asked.data, seed=asked.run.seed)),
    asked.federation,
    asked.hyper.normalise,
    asked.run.seed,
    measured=asked.measured,
    on_host=asked.population.population_on_host,
    by_class=asked.privacy.unit == 'none',
  )
  source = clients.source
  names = hype_methods.ordered(asked.comparison.methods)
  synthesis, notes = hype_synthesis.permitted(asked.synthesis, asked.privacy)
  setting = setting_of(asked, source.spec, clients.data)
  methods = {
    name: study.traced(name, method)
    for name, method in hype_methods.build_methods(names, setting).items()
  }
  audited = _audited(methods)
  audits.check(asked.audit, audited, clients.data)
  notes = [f'Note: {note}' for note in (*source.notes, *notes)]
  return EmbeddingComparison(
    source=source,
    partition=clients.partition,
    methods=methods,
    notes=[*notes, *hype_privacy.sentences(methods)],
    audited=audited,
    rows=hype_synthesis.rows_of(methods, synthesis),
    names=names,
    clients=clients,
    synthesis=synthesis,
  )


def setting_of(
  asked: Configs, spec: DataSpec, data: FederatedDataset
) -> hype_methods.Setting:
  """What all methods are built from; of examples the shape alone is read."""
  return hype_methods.Setting(
    config=asked.fedhypevae,
    hyper=asked.hyper,
    cgan=asked.cgan,
    linear=asked.linear,
    gaussians=asked.gaussians,
    merf=asked.merf,
    pretraining=asked.pretraining,
    privacy=asked.privacy,
    federation=asked.federation,
    data=data,
    spec=spec,
    rounds=asked.run.rounds,
    seed=asked.run.seed,
  )


def _audited(methods: Mapping[str, HypeMethod]) -> dict[str, audits.Target]:
  """What an audit would train again."""
  found = {name: method.audited for name, method in methods.items()}
  return {name: target for name, target in found.items() if target}


def prepare(running: Run, compared: EmbeddingComparison) -> EmbeddingComparison:
  """Begins all trainings that start from Gaussians.

  Their release is a training of its own, of one round, which is in the work
  directory like others: a run that goes on releases nothing twice.
  """
  methods = dict(compared.methods)
  for name, method in compared.methods.items():
    if method.pretraining is None:
      continue
    label = f'{name}-gaussians'
    release = study.traced(label, method.pretraining.upload)
    result = running.train(label, release)
    running.session.say(f'{name}: training on samples of the Gaussians.')
    key = keys.derive(running.seed, 'pretraining')
    found = method.pretraining.gaussians(result.state)
    begun = method.pretraining.begin(found, key)
    methods[name] = dataclasses.replace(begun, traffic=method.traffic)
  return dataclasses.replace(
    compared, methods=methods, audited=_audited(methods)
  )


def save(
  running: Run, compared: EmbeddingComparison, measured: hype_judge.Measured
) -> None:
  """Saves the generators that `fedjax_gen.load` knows."""
  for name, made in measured.synthetic.items():
    folder, source = running.shown.folder(name), compared.source
    if made.fitted is not None:
      made.fitted.save(folder, name, source)
    if made.hyper is not None:
      saving.save_hyper(
        folder,
        name,
        compared.methods[made.method].model.config,
        source,
        made.hyper,
        made.codes,
        made.weights,
        mix='samples',
        draw=compared.synthesis.draw,
      )


STUDY = study.Study(
  build=build,
  prepare=prepare,
  measure=hype_judge.measure,
  save=save,
  report=hype_report.report_run,
)

PROGRAM = program.Program(
  name='fedhypevae',
  sentence='Trains personal generators of embeddings privately (FedHypeVAE).',
  examples=(
    ('', 'Gaussians of 5 classes in 5 domains, epsilon 8, and baselines.'),
    (
      '--data=embeddings.npz --partition=dirichlet --epsilon=3',
      'Your own embeddings; experiments.embed makes them of images.',
    ),
    (
      '--privacy=none --methods=FedHypeVAE,DP-CVAE',
      'Two generators without any privacy.',
    ),
  ),
  configs=Configs(),
  main=study.main_of(STUDY),
)
