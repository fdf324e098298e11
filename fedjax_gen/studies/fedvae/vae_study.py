"""Trains a VAE over clients that keep their images, and looks at it hard.

Beside the federated model it trains the two it is compared with, on the same
data and with the same number of local steps: one model on all data (central),
and every client on its own (local).
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import NamedTuple

import jax

from fedjax_gen import fields, validate
from fedjax_gen.algorithms import fedvae as fedvae_lib
from fedjax_gen.data.sources import DataSource
from fedjax_gen.evaluation import gallery, vaes
from fedjax_gen.evaluation.vaes import EvaluationConfig
from fedjax_gen.federation import FederationConfig, build_federation
from fedjax_gen.models.vae import DataSpec, VaeConfig, build_vae
from fedjax_gen.privacy.plan import PrivacyConfig
from fedjax_gen.privacy.secret_keys import Secrets
from fedjax_gen.running import engine as engine_lib, leaves, saving, training
from fedjax_gen.running.workdir import Workdir
from fedjax_gen.studies import (
  audits,
  options,
  private_run,
  shown as shown_lib,
  stages,
)
from fedjax_gen.studies.audits import AuditConfig
from fedjax_gen.studies.command import program
from fedjax_gen.studies.fedvae import vae_judge, vae_methods, vae_report
from fedjax_gen.types import Variables


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
  """What is compared."""

  methods: tuple[str, ...] = fields.option(
    vae_methods.METHODS,
    'Any of federated, central (one model, all data, as many steps '
    'as one client makes) and local (each client alone).',
  )
  central_epochs: float = fields.option(
    0.0,
    'Passes of central training over all data in the whole run; 0 '
    'for as many steps as one client makes.',
  )

  def __post_init__(self):
    validate.non_negative(central_epochs=self.central_epochs)
    options.each_once(vae_methods.METHODS, methods=self.methods)


class Configs(NamedTuple):
  """Everything of the command line, and what it is by default."""

  run: program.RunConfig = program.RunConfig(
    rounds=50, rounds_per_step=10, eval_every=10, checkpoint_every=10
  )
  data: options.DataConfig = options.DataConfig()
  federation: FederationConfig = FederationConfig()
  population: options.PopulationConfig = options.PopulationConfig()
  vae: VaeConfig = VaeConfig()
  fedvae: fedvae_lib.Config = fedvae_lib.Config()
  privacy: PrivacyConfig = PrivacyConfig()
  audit: AuditConfig = AuditConfig()
  comparison: ComparisonConfig = ComparisonConfig()
  evaluation: EvaluationConfig = EvaluationConfig()


def main(session: program.Session, asked: Configs) -> None:
  """Trains, measures and draws; see `program.run`."""
  # Before anything is written: mistakes show here.
  compared = _build(asked, session.processes.count)
  source, partition = compared.source, compared.federation.partition
  is_private = compared.protection is not None
  with session.open_workdir(is_private=is_private) as workdir:
    secrets = stages.secrets_of(workdir, asked.privacy.noise_seed)
    shown = shown_lib.shown(
      workdir, compared.protected, show_real=asked.privacy.show_real
    )
    known = stages.known(source, compared.protection)
    stages.begin(
      session, workdir, source, partition, known, secrets=secrets,
      releases=compared.releases,
    )  # fmt: skip
    results = {
      name: _train(name, compared, asked.run, session, workdir, shown, secrets)
      for name in compared.methods
    }
    models = {
      name: method.models(results[name].state)
      for name, method in compared.methods.items()
    }
    _save(models, asked.vae, source, workdir, shown)
    stages.claim(workdir, compared.releases)
    audited = audits.audit(
      asked.audit, compared.audited, compared.federation.data,
      source.num_classes, run=asked.run, federation=asked.federation,
      session=session, workdir=workdir, secrets=secrets,
    )  # fmt: skip
    session.part()
    session.say('Measuring against held-out data.')
    extractor = vae_judge.build_extractor(compared, session)
    metrics = vae_judge.measure(
      compared, models, audited, extractor, asked.evaluation, workdir,
      shown, seed=asked.run.seed,
    )  # fmt: skip
    session.say('Drawing.')
    drawn = gallery.draw_all(
      compared.vae, {name: trained[0] for name, trained in models.items()},
      source, shown.kept / 'samples', seed=asked.run.seed,
      show_real=shown.everything,
    )  # fmt: skip
    facts = vae_report.Facts(
      experiment='fedvae',
      source=source,
      partition=partition,
      extractor=extractor,
      metrics=metrics,
      results=results,
      traffic={name: fleets[0] for name, fleets in compared.traffic.items()},
      drawn=shown.placed(drawn),
      config=session.config,
      protection=compared.protection,
      protected=vae_methods.PROTECTED,
      releases=compared.releases,
    )
    vae_report.write(shown, facts)
    vae_report.show(metrics)
    # Last: a summary marks the run as finished.
    digest = leaves.params_digest(models)
    workdir.write_summary(vae_report.summary(facts, digest))


def _build(asked: Configs, num_processes: int) -> vae_methods.Comparison:
  """Reads the data and builds what is compared.

  Raises:
    InputError: a configuration does not fit the data or another.
  """
  asked.population.check(num_processes)
  seed = asked.run.seed
  source = options.load_source(asked.data, seed=seed)
  federation = build_federation(
    asked.federation,
    source,
    seed=seed,
    on_host=asked.population.population_on_host,
  )
  vae = build_vae(asked.vae, DataSpec(source.input_shape, source.num_classes))
  protection = private_run.protect(
    asked.privacy,
    asked.federation,
    federation.data,
    batch_size=asked.fedvae.batch_size,
    epochs=asked.fedvae.local_epochs,
    rounds=asked.run.rounds,
  )
  plan = None if protection is None else protection.plan
  # The budget may end before the rounds that were asked for.
  num_rounds = asked.run.rounds if plan is None else plan.rounds
  methods = vae_methods.build_methods(
    asked.comparison.methods,
    asked.fedvae,
    vae,
    federation,
    central_epochs=asked.comparison.central_epochs / num_rounds,
    num_local_models=asked.evaluation.num_local_models,
    plan=plan,
  )
  audited = vae_methods.to_audit(methods, protection, asked.fedvae, vae)
  audits.check(asked.audit, audited, federation.data)
  build_extractor = vaes.extractor_builder(
    asked.evaluation.extractor, source, seed=seed
  )
  return vae_methods.Comparison(
    source,
    federation,
    vae,
    methods,
    vae_methods.traffic(methods),
    num_rounds,
    protection,
    audited,
    build_extractor,
  )


def _train(
  name: str,
  compared: vae_methods.Comparison,
  run: program.RunConfig,
  session: program.Session,
  workdir: Workdir,
  shown: shown_lib.Shown,
  secrets: Secrets | None,
) -> training.TrainResult:
  """Trains one method, evaluating and drawing as it goes."""
  method = compared.methods[name]
  engine = engine_lib.engine(
    method.algorithm,
    [method.data],
    jax.random.key(run.seed),
    traffic=compared.traffic[name],
    samplers=[method.sampler],
    mapping=method.mapping,
    folder=workdir.population_path(name),
    own_key=(
      stages.training_key(secrets, name)
      if name in vae_methods.PROTECTED
      else None
    ),
  )
  folder = shown.folder(name) / 'samples'
  return stages.train(
    name,
    engine,
    compared.num_rounds,
    run=run,
    session=session,
    workdir=workdir,
    evaluate=lambda found: vae_judge.follow(
      name, compared, found, folder, seed=run.seed
    ),
    evaluated=lambda state: (state.round, method.models(state)),
    best_metric='test_elbo',
    trained=method.models,
  )


def _save(
  models: Mapping[str, Sequence[Variables]],
  config: VaeConfig,
  source: DataSource,
  workdir: Workdir,
  shown: shown_lib.Shown,
) -> None:
  """Saves the first model of each method, for `fedjax_gen.load`."""
  if not workdir.is_writer:
    return
  for name, trained in models.items():
    folder = shown.folder(name)
    saving.save_model(folder, name, config, source, trained[0])


PROGRAM = program.Program(
  name='fedvae',
  sentence='Trains one VAE over clients that keep their images (FedVAE).',
  examples=(
    ('', 'Handwritten digits, 10 clients, beside central and local training.'),
    (
      '--data=clients:my_images --image_size=32 --partition=natural '
      '--num_clients=0',
      'Your own images, a folder for each client.',
    ),
    (
      '--privacy=record --epsilon=8 --methods=federated --channels=8,16',
      'Differential privacy of every single image.',
    ),
    (
      '--num_clients=1000 --sampling=uniform --cohort_size=20 '
      '--population_on_host=true --methods=federated --batch_size=4',
      'Many clients, of whom those of a round are in memory.',
    ),
    ('--preset=paper_mnist', 'The published model and schedule on MNIST.'),
  ),
  configs=Configs(),
  main=main,
)
