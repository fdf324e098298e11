"""Trains personal generators of embeddings, and measures what they are for.

Beside FedHypeVAE it trains the generators and the averaged classifiers that it
is compared with, on the same records and under the same privacy budget, and
asks of each: how well does a linear classifier do for each client, if made of
what is shared, of the client's own records, or of both?
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax

from fedjax_gen import fields
from fedjax_gen.algorithms import fedhypevae as fedhypevae_lib
from fedjax_gen.algorithms.dp_cgan import CganConfig
from fedjax_gen.algorithms.dp_merf import MerfConfig
from fedjax_gen.algorithms.hyper_pretraining import PretrainingConfig
from fedjax_gen.algorithms.linear_head import LinearConfig
from fedjax_gen.data.sources import DataSource
from fedjax_gen.evaluation.gallery import Drawn
from fedjax_gen.evaluation.heads import Evaluation, HeadConfig
from fedjax_gen.federated.rounds import Traffic
from fedjax_gen.federation import FederationConfig, build_mapping, build_sampler
from fedjax_gen.models.hypernetwork import HyperVaeConfig
from fedjax_gen.models.meta_code import MetaConfig
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.privacy.releases import Releases
from fedjax_gen.privacy.secret_keys import Secrets
from fedjax_gen.running import (
  engine as engine_lib,
  federated_step,
  leaves,
  saving,
  training,
)
from fedjax_gen.running.engine import Engine
from fedjax_gen.running.workdir import Workdir
from fedjax_gen.studies import audits, options, shown as shown_lib, stages
from fedjax_gen.studies.audits import AuditConfig
from fedjax_gen.studies.command import program
from fedjax_gen.studies.fedhypevae import (
  hype_judge,
  hype_methods,
  hype_pictures,
  hype_privacy,
  hype_report,
  hype_synthesis,
  hype_tables,
)
from fedjax_gen.studies.fedhypevae.hype_budgets import HypePrivacyConfig
from fedjax_gen.studies.fedhypevae.hype_clients import Clients, build_clients
from fedjax_gen.studies.fedhypevae.hype_methods import Method
from fedjax_gen.studies.fedhypevae.hype_synthesis import (
  SynthesisConfig,
  Synthetic,
)
from fedjax_gen.studies.fedhypevae.hype_uploads import GaussianConfig


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
  """What is compared.

  Raises:
    InputError: a value is out of range.
  """

  methods: tuple[str, ...] = fields.option(
    hype_methods.DEFAULT, f'Any of {", ".join(hype_methods.METHODS)}.'
  )

  def __post_init__(self):
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


class Comparison(NamedTuple):
  """The trainings that are compared, built and not yet compiled.

  Attributes:
    names: of the methods, in the order of the table.
    clients: who holds what.
    methods: the trainings, by name.
    traffic: bytes per client of each.
    audited: what an audit would train again.
    synthesis: of what synthetic data are made.
    notes: what is to be known of the data, and of what is left out.
  """

  names: Sequence[str]
  clients: Clients
  methods: dict[str, Method]
  traffic: dict[str, Sequence[Traffic]]
  audited: dict[str, audits.Target]
  synthesis: SynthesisConfig
  notes: Sequence[str]

  @property
  def releases(self) -> Releases | None:
    """All that the run gives away; None if nothing is protected."""
    return hype_privacy.releases(self.methods)


def main(session: program.Session, asked: Configs) -> None:
  """Trains, measures and draws; see `program.run`."""
  # Before anything is written: mistakes show here.
  compared = _build(asked, session.processes.count)
  clients, methods = compared.clients, compared.methods
  is_private = asked.privacy.unit != 'none'
  with session.open_workdir(is_private=is_private) as workdir:
    secrets = stages.secrets_of(workdir, asked.privacy.noise_seed)
    stages.begin(
      session, workdir, clients.source, clients.partition, _known(compared),
      secrets=secrets, releases=compared.releases,
    )  # fmt: skip
    compared = _started(compared, asked, session, workdir, secrets)
    methods = compared.methods
    engine_of = functools.partial(_engine, compared, asked, workdir, secrets)
    results = {
      name: _train(name, method, engine_of(name), asked.run, session, workdir)
      for name, method in methods.items()
    }
    states = {name: result.state for name, result in results.items()}
    shared = {n: method.shared(states[n]) for n, method in methods.items()}
    audited = audits.audit(
      asked.audit, compared.audited, clients.data, clients.source.num_classes,
      run=asked.run, federation=asked.federation, session=session,
      workdir=workdir, secrets=secrets,
    )  # fmt: skip
    session.part()
    session.say('Measuring against held-out embeddings.')
    synthetic, codes = hype_synthesis.synthesise(
      methods, engine_of, states, asked.meta, compared.synthesis,
      asked.run.seed, secrets,
    )  # fmt: skip
    protected = hype_privacy.protected(methods, synthetic)
    shown = shown_lib.shown(
      workdir, protected, show_real=asked.privacy.show_real
    )
    reached = hype_judge.evaluate(
      compared.names, shared, synthetic, clients, asked.head
    )
    metrics = _metrics(compared, reached, synthetic, audited, asked, shown)
    _save(shown, methods, synthetic, compared.synthesis.draw, clients.source)
    stages.claim(
      workdir,
      compared.releases,
      functools.partial(hype_judge.trained_as, synthetic=synthetic),
    )
    session.say('Drawing.')
    drawn = hype_pictures.draw(
      shown, clients, synthetic, reached, methods, codes,
      seed=asked.run.seed,
    )  # fmt: skip
    facts = _facts(
      compared, asked, metrics, results, shown.placed(drawn), session.config
    )
    hype_report.write(shown, facts)
    hype_tables.show(metrics)
    # Last: a summary marks the run as finished.
    digest = leaves.params_digest(shared)
    workdir.write_summary(hype_report.summary(facts, digest))


def _build(asked: Configs, num_processes: int) -> Comparison:
  """Reads the data and builds what is compared.

  Raises:
    InputError: a configuration does not fit the data or another.
  """
  asked.population.check(num_processes)
  clients = build_clients(
    options.load_source(asked.data, seed=asked.run.seed),
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
  setting = hype_methods.Setting(
    config=asked.fedhypevae,
    hyper=asked.hyper,
    cgan=asked.cgan,
    linear=asked.linear,
    gaussians=asked.gaussians,
    merf=asked.merf,
    pretraining=asked.pretraining,
    privacy=asked.privacy,
    federation=asked.federation,
    data=clients.data,
    spec=DataSpec(source.input_shape, source.num_classes),
    rounds=asked.run.rounds,
    seed=asked.run.seed,
  )
  methods = hype_methods.build_methods(names, setting)
  audited = {
    name: target
    for name, method in methods.items()
    if (target := method.audited)
  }
  audits.check(asked.audit, audited, clients.data)
  traffic: dict[str, Sequence[Traffic]] = {
    name: federated_step.dry_run(name, method.algorithm, [clients.data])
    for name, method in methods.items()
  }
  notes = [*source.notes, *notes]
  return Comparison(names, clients, methods, traffic, audited, synthesis, notes)


def _known(compared: Comparison) -> list[str]:
  """What is to be known before training."""
  notes = [f'Note: {note}' for note in compared.notes]
  return [*notes, *hype_privacy.sentences(compared.methods)]


def _started(
  compared: Comparison,
  asked: Configs,
  session: program.Session,
  workdir: Workdir,
  secrets: Secrets | None,
) -> Comparison:
  """The comparison with all trainings that start from Gaussians begun.

  Their release is a training of its own, of one round, which is in the work
  directory like others: a run that goes on releases nothing twice.
  """
  methods = dict(compared.methods)
  for name, method in compared.methods.items():
    if method.pretraining is None:
      continue
    release, label = method.pretraining.upload, f'{name}-gaussians'
    traffic = federated_step.dry_run(
      label, release.algorithm, [compared.clients.data]
    )
    of_release = compared._replace(
      methods={label: release}, traffic={label: traffic}
    )
    engine = _engine(of_release, asked, workdir, secrets, label)
    result = _train(label, release, engine, asked.run, session, workdir)
    session.say(f'{name}: training on samples of the Gaussians.')
    # Apart from the keys of rounds and of what is drawn in the end.
    key = jax.random.fold_in(jax.random.key(asked.run.seed), 2)
    found = method.pretraining.gaussians(result.state)
    methods[name] = method.pretraining.begin(found, key)
  audited = {
    name: target
    for name, method in methods.items()
    if (target := method.audited)
  }
  return compared._replace(methods=methods, audited=audited)


def _engine(
  compared: Comparison,
  asked: Configs,
  workdir: Workdir,
  secrets: Secrets | None,
  name: str,
) -> Engine:
  """The rounds of one method; cheap, for nothing is compiled yet."""
  data, method = compared.clients.data, compared.methods[name]
  federation = asked.federation
  if method.is_one_upload:  # its one sum is of everyone
    federation = dataclasses.replace(
      federation, sampling='all', cohort_size=0, dropout_rate=0.0
    )
  return engine_lib.engine(
    method.algorithm,
    [data],
    jax.random.key(asked.run.seed),
    traffic=compared.traffic[name],
    samplers=[build_sampler(federation, data.num_clients)],
    mapping=build_mapping(asked.federation),
    folder=workdir.population_path(name),
    own_key=stages.training_key(secrets, name),
  )


def _train(
  name: str,
  method: Method,
  engine: Engine,
  run: program.RunConfig,
  session: program.Session,
  workdir: Workdir,
) -> training.TrainResult:
  """Trains one method."""
  return stages.train(
    name,
    engine,
    method.rounds,
    run=run,
    session=session,
    workdir=workdir,
    trained=method.shared,
  )


def _metrics(
  compared: Comparison,
  reached: Mapping[str, Evaluation],
  synthetic: Mapping[str, Synthetic],
  audited: Mapping[str, Mapping[str, float]],
  asked: Configs,
  shown: shown_lib.Shown,
) -> dict[str, dict[str, float]]:
  """The rows of the results, those of the clients' own classifiers last."""
  metrics = {}
  for row, found in reached.items():
    values = hype_judge.metrics_of(row, found)
    if row in synthetic:
      values |= hype_judge.quality(
        found,
        synthetic[row],
        compared.clients,
        seed=asked.run.seed,
        by_training=shown.everything,
      )
    name = hype_judge.trained_as(row, synthetic)
    values |= hype_privacy.spent(compared.methods[name])
    metrics[row] = {**values, **audited.get(name, {})}
  first = reached[compared.names[0]]
  metrics['local'] = hype_judge.metrics_of_local(first)
  return metrics


def _facts(
  compared: Comparison,
  asked: Configs,
  metrics: Mapping[str, Mapping[str, float]],
  results: Mapping[str, training.TrainResult],
  drawn: Sequence[Drawn],
  config: Mapping[str, Any],
) -> hype_report.Facts:
  """All that the report is made of."""
  return hype_report.Facts(
    experiment='fedhypevae',
    source=compared.clients.source,
    partition=compared.clients.partition,
    metrics=metrics,
    results=results,
    config=config,
    traffic={name: fleets[0] for name, fleets in compared.traffic.items()},
    drawn=drawn,
    methods=compared.methods,
    privacy=asked.privacy,
    releases=compared.releases,
    confidence=asked.audit.audit_confidence,
  )


def _save(
  shown: shown_lib.Shown,
  methods: Mapping[str, Method],
  synthetic: Mapping[str, Synthetic],
  draw: bool,
  source: DataSource,
) -> None:
  """Saves the generators that `fedjax_gen.load` knows."""
  for name, made in synthetic.items():
    if made.fitted is not None:
      made.fitted.save(shown.folder(name), name, source)
    if made.hyper is not None:
      saving.save_hyper(
        shown.folder(name),
        name,
        methods[made.method].model.config,
        source,
        made.hyper,
        made.codes,
        made.weights,
        mix='samples',
        draw=draw,
      )


PROGRAM = program.Program(
  name='fedhypevae',
  sentence='Trains personal generators of embeddings privately (FedHypeVAE).',
  examples=(
    ('', 'Gaussians of 5 classes in 5 domains, epsilon 8, beside 5 others.'),
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
  main=main,
)
