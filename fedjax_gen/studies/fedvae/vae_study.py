"""Trains a generator over clients that keep their images, and measures it.

The federated model is compared with two others, on the same data and with the
same number of local steps: one model on all data (central), and every client
alone (local).
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple

from fedjax_gen import encoding, fields
from fedjax_gen.algorithms import fedvae as fedvae_lib
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import vaes
from fedjax_gen.evaluation.vaes import EvaluationConfig
from fedjax_gen.federated import phases
from fedjax_gen.federation import (
  Federation,
  FederationConfig,
  build_federation,
)
from fedjax_gen.kinds import DataSpec
from fedjax_gen.models import generators
from fedjax_gen.models.elbo import ElboConfig
from fedjax_gen.models.generator import Generator
from fedjax_gen.models.generators import GeneratorConfig
from fedjax_gen.models.vae import VaeConfig
from fedjax_gen.privacy.ledger import Entry
from fedjax_gen.privacy.plan import PrivacyConfig
from fedjax_gen.running.saves import saving
from fedjax_gen.studies import audits, options, private_run, stages, study
from fedjax_gen.studies.audits import AuditConfig
from fedjax_gen.studies.command import program
from fedjax_gen.studies.fedvae import vae_judge, vae_methods, vae_report
from fedjax_gen.studies.private_run import Protection
from fedjax_gen.studies.study import Run
from fedjax_gen.types import Key


@dataclasses.dataclass(frozen=True)
class ComparisonConfig(fields.Configuration):
  """What is compared."""

  methods: tuple[str, ...] = fields.option(
    vae_methods.METHODS,
    'Any of federated, central (one model, all data, as many steps '
    'as one client makes) and local (each client alone).',
  )
  central_epochs: float = fields.non_negative(
    0.0,
    'Passes of central training over all data in the whole run; 0 '
    'for as many steps as one client makes.',
  )

  def __post_init__(self):
    super().__post_init__()
    options.each_once(vae_methods.METHODS, methods=self.methods)


class Configs(NamedTuple):
  """Everything of the command line, and what it is by default."""

  run: program.RunConfig = program.RunConfig(
    rounds=50, rounds_per_step=10, eval_every=10, checkpoint_every=10
  )
  data: options.DataConfig = options.DataConfig()
  federation: FederationConfig = FederationConfig()
  population: options.PopulationConfig = options.PopulationConfig()
  generator: GeneratorConfig = GeneratorConfig()
  vae: VaeConfig = VaeConfig()
  families: Any = generators.own_configs(VaeConfig, ElboConfig)
  fedvae: fedvae_lib.Config = fedvae_lib.Config()
  privacy: PrivacyConfig = PrivacyConfig()
  audit: AuditConfig = AuditConfig()
  comparison: ComparisonConfig = ComparisonConfig()
  evaluation: EvaluationConfig = EvaluationConfig()

  @property
  def models(self) -> list[Any]:
    """What generators are built of."""
    return [self.vae, *self.families, self.fedvae]


def build(
  asked: Configs, num_processes: int, key: Key | None = None
) -> vae_judge.VaeComparison:
  """Reads the data and builds what is compared.

  Args:
    asked: the configurations.
    num_processes: of the run.
    key: of a private run's noise on ranges of columns; see `stages.encoded`.
  """
  asked.population.check(num_processes)
  seed = asked.run.seed
  source = stages.encoded(
    options.load_source(asked.data, seed=seed),
    asked.federation,
    asked.privacy,
    seed=seed,
    key=key,
  )
  federation = build_federation(
    asked.federation,
    source,
    seed=seed,
    on_host=asked.population.population_on_host,
  )
  generator, protection, methods = trainings(
    asked, source.spec, federation, before=stages.agreed(source, asked.data)
  )
  if asked.audit.audit_canaries and not callable(generator.loss):
    raise InputError(
      'Expected audit_canaries=0 with a generator that trains in phases, got '
      f'generator={asked.generator.generator!r}: canaries are looked for in '
      'the whole model.'
    )
  audited = vae_methods.to_audit(methods, asked.fedvae, generator)
  audits.check(asked.audit, audited, federation.data)
  return vae_judge.VaeComparison(
    source=source,
    partition=federation.partition,
    methods=methods,
    notes=stages.known(source, protection),
    protection=protection,
    audited=audited,
    generator=generator,
    build_extractor=vaes.extractor_builder(
      asked.evaluation.extractor, source, seed=seed
    ),
  )


def trainings(
  asked: Configs,
  spec: DataSpec,
  federation: Federation,
  *,
  before: Sequence[Entry] = (),
) -> tuple[Generator, Protection | None, dict[str, vae_methods.VaeMethod]]:
  """The generator, how it is protected, and the trainings by name.

  Args:
    asked: the configurations.
    spec: form of the data.
    federation: who holds how much; of examples the shape alone is read.
    before: what is released of all clients before training.

  Raises:
    InputError: a configuration does not fit the data or another.
  """
  generator = generators.build(asked.generator.generator, asked.models, spec)
  protection = private_run.protect(
    asked.privacy,
    asked.federation,
    federation.data,
    batch_size=asked.fedvae.batch_size,
    epochs=asked.fedvae.local_epochs,
    rounds=asked.run.rounds,
    before=before,
    may_share=True,
  )
  # The budget may end before the rounds that were asked for.
  num_rounds = protection.plan.rounds if protection else asked.run.rounds
  phases.check(generator.loss, num_rounds)
  methods = vae_methods.build_methods(
    asked.comparison.methods,
    asked.fedvae,
    generator,
    federation,
    central_epochs=asked.comparison.central_epochs / num_rounds,
    num_local_models=asked.evaluation.num_local_models,
    rounds=num_rounds,
    protection=protection,
  )
  return generator, protection, methods


def prepare(
  running: Run, compared: vae_judge.VaeComparison
) -> vae_judge.VaeComparison:
  """Encodes series and tables of a private run, once the ledger is charged."""
  is_public = compared.source.schema is None or running.asked.data.encoding
  if running.secrets is None or is_public:
    return compared
  key = running.secrets.key('federated', encoding.LABEL)
  found = build(running.asked, running.session.processes.count, key)
  codec = found.source.codec
  if codec is not None and (names := encoding.hidden(codec)):
    running.session.say(
      f'Warning: noise hides the ranges of {", ".join(names)}; give their low '
      'and high in a schema, which is public.'
    )
  return found


def save(
  running: Run, compared: vae_judge.VaeComparison, measured: vae_judge.Measured
) -> None:
  """Saves the first model of each method, for `fedjax_gen.load`."""
  for name, trained in measured.models.items():
    saving.save_generator(
      running.shown.folder(name), name,
      running.asked.generator.generator, running.asked.models,
      compared.source, trained[0],
    )  # fmt: skip


STUDY = study.Study(
  build=build,
  prepare=prepare,
  follow=vae_judge.follow,
  measure=vae_judge.measure,
  save=save,
  report=vae_report.report_run,
)

PROGRAM = program.Program(
  name='fedvae',
  sentence='Trains one VAE over clients that keep their images (FedVAE).',
  examples=(
    ('', 'Handwritten digits, 10 clients; also central and local training.'),
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
      'Many clients; only those of a round are in memory.',
    ),
    (
      '--data=patients.csv --client_column=site',
      'A table, a client for each value of its column `site`.',
    ),
    (
      '--generator=latent_flow --latent_size=32 --server_average=0.9',
      'A rectified flow over the latents of an autoencoder.',
    ),
    ('--preset=paper_mnist', 'The published model and schedule on MNIST.'),
  ),
  configs=Configs(),
  main=study.main_of(STUDY),
)
