"""Clients with models of different architectures learn from one another.

FedVTC (clients share statistics of features, a generator makes images of them)
beside the methods that it is compared with. Every client has a classifier of
its own; what is measured is how well it does on data that no client sees, of
all classes, those included that it never saw.
"""

from collections.abc import Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax

from fedjax_gen.evaluation.gallery import Drawn
from fedjax_gen.federated.personal import Method
from fedjax_gen.federation import build_mapping, build_samplers
from fedjax_gen.models.classifiers import ClassifierConfig
from fedjax_gen.privacy.secret_keys import Secrets
from fedjax_gen.running import engine as engine_lib, leaves
from fedjax_gen.running.engine import Engine
from fedjax_gen.running.training import TrainResult
from fedjax_gen.running.workdir import Workdir
from fedjax_gen.studies import shown as shown_lib, stages
from fedjax_gen.studies.command import program
from fedjax_gen.studies.fedvtc import (
  vtc_metrics,
  vtc_pictures,
  vtc_report,
  vtc_saving,
  vtc_synthesis,
  vtc_tables,
)
from fedjax_gen.studies.fedvtc.vtc_comparison import (
  Comparison,
  Configs,
  build,
)
from fedjax_gen.studies.fedvtc.vtc_judge import Judge, Judged
from fedjax_gen.studies.fedvtc.vtc_methods import SUBJECT


class Trained(NamedTuple):
  """A method after training.

  Attributes:
    result: of training.
    round_bytes: temporary memory that its compiled rounds need.
  """

  result: TrainResult
  round_bytes: int


def main(session: program.Session, asked: Configs) -> None:
  """Trains, measures and draws; see `program.run`."""
  # Before anything is written: mistakes show here.
  compared = build(asked, session.processes.count)
  clients = compared.clients
  is_private = compared.protection is not None
  with session.open_workdir(is_private=is_private) as workdir:
    secrets = stages.secrets_of(workdir, asked.privacy.noise_seed)
    shown = shown_lib.shown(
      workdir, compared.held, show_real=asked.privacy.show_real
    )
    known = stages.known(clients.source, compared.protection)
    stages.begin(
      session, workdir, clients.source, clients.partition, known,
      secrets=secrets, releases=compared.releases,
    )  # fmt: skip
    judge = Judge(clients, asked.run.seed)
    engine_of = functools.partial(_engine, compared, asked, workdir, secrets)
    trained = {
      name: _train(
        name, method, engine_of(name), asked.run, session, workdir, judge
      )
      for name, method in compared.methods.items()
    }
    session.part()
    session.say('Measuring on data that no client trained on.')
    # Anew, so that programs of rounds need not stay.
    engines = {name: engine_of(name) for name in compared.methods}
    results = {name: method.result for name, method in trained.items()}
    judged = _judge_and_save(
      compared, asked.classifier, judge, engines, results, workdir
    )
    metrics = _metrics(compared, asked, trained, judged, engines, workdir)
    state = results[SUBJECT].state
    made = vtc_synthesis.synthesise(
      compared.subject, state, clients, asked.run.seed
    )
    # Generators of single clients are theirs, and not protected.
    is_shared = compared.subject.config.vtc_scope == 'federated'
    vtc_saving.save_generator(
      shown.folder(SUBJECT) if is_shared else shown.kept,
      asked.vtc, compared.subject, state, clients,
    )  # fmt: skip
    if asked.comparison.attack:
      session.say('Attacking what clients send.')
      metrics[SUBJECT] |= _attack(compared, engines, state, asked.run.seed)
    session.say('Drawing.')
    drawn = vtc_pictures.draw(
      shown, clients, compared.models, judged, metrics, results, made,
      asked.run.rounds, is_shared=is_shared, seed=asked.run.seed,
    )  # fmt: skip
    facts = _facts(
      compared, metrics, results, shown.placed(drawn), session.config
    )
    stages.claim(workdir, compared.releases)
    vtc_report.write(shown, facts)
    vtc_tables.show(metrics)
    # Last: a summary marks the run as finished.
    digest = _digest(engines, results)
    workdir.write_summary(vtc_report.summary(facts, digest))


def _engine(
  compared: Comparison,
  asked: Configs,
  workdir: Workdir,
  secrets: Secrets | None,
  name: str,
) -> Engine:
  """The rounds of one method; cheap, for nothing is compiled yet."""
  datasets = compared.clients.datasets
  return engine_lib.engine(
    compared.methods[name].algorithm,
    datasets,
    jax.random.key(asked.run.seed),
    traffic=compared.traffic[name],
    samplers=build_samplers(
      asked.federation, [d.num_clients for d in datasets]
    ),
    mapping=build_mapping(asked.federation),
    folder=workdir.population_path(name),
    own_key=(
      stages.training_key(secrets, name) if name in compared.protected else None
    ),
  )


def _train(
  name: str,
  method: Method,
  engine: Engine,
  run: program.RunConfig,
  session: program.Session,
  workdir: Workdir,
  judge: Judge,
) -> Trained:
  """Trains one method, measuring as it goes; and what its rounds need."""
  result = stages.train(
    name,
    engine,
    run.rounds,
    run=run,
    session=session,
    workdir=workdir,
    evaluate=lambda state: judge.accuracies(method, engine.blocks, state),
    best_metric='accuracy',
    trained=engine.trained,
  )
  num_rounds = min(run.rounds_per_step, run.rounds)
  return Trained(result, engine.round_bytes(result.state, num_rounds))


def _judge_and_save(
  compared: Comparison,
  config: ClassifierConfig,
  judge: Judge,
  engines: Mapping[str, Engine],
  results: Mapping[str, TrainResult],
  workdir: Workdir,
) -> dict[str, Judged]:
  """What clients of each method are right about; saves their classifiers."""
  return {
    name: vtc_saving.judged_and_saved(
      workdir.kept,  # classifiers are what clients keep
      name,
      config,
      judge,
      method,
      engines[name].blocks,
      results[name].state,
      compared.clients,
    )
    for name, method in compared.methods.items()
  }


def _metrics(
  compared: Comparison,
  asked: Configs,
  trained: Mapping[str, Trained],
  judged: Mapping[str, Judged],
  engines: Mapping[str, Engine],
  workdir: Workdir,
) -> dict[str, dict[str, float]]:
  """The rows of the results; writes the ledger, if there was privacy."""
  results = {name: method.result for name, method in trained.items()}
  target = vtc_metrics.target(asked.comparison.target_accuracy, results)
  metrics = {
    name: {
      **vtc_metrics.scores(judged[name], compared.clients),
      **vtc_metrics.costs(
        results[name],
        compared.traffic[name],
        engines[name],
        compared.clients,
        target,
      ),
      'round_memory_bytes': float(trained[name].round_bytes),
    }
    for name in compared.methods
  }
  return stages.settle(compared.protection, metrics, compared.protected)


def _attack(
  compared: Comparison, engines: Mapping[str, Engine], state: Any, seed: int
) -> dict[str, float]:
  """How far clients' images can be drawn from what they sent."""
  return vtc_synthesis.attack(
    compared.subject,
    compared.models,
    engines[SUBJECT].blocks,
    state,
    compared.clients,
    seed,
  )


def _facts(
  compared: Comparison,
  metrics: Mapping[str, Mapping[str, float]],
  results: Mapping[str, TrainResult],
  drawn: Sequence[Drawn],
  config: Mapping[str, Any],
) -> vtc_report.Facts:
  """All that the report is made of."""
  clients = compared.clients
  return vtc_report.Facts(
    experiment='fedvtc',
    source=clients.source,
    partition=clients.partition,
    metrics=metrics,
    results=results,
    config=config,
    protection=compared.protection,
    protected=compared.protected,
    releases=compared.releases,
    traffic=compared.traffic,
    architectures=clients.architecture_of_client,
    drawn=drawn,
  )


def _digest(
  engines: Mapping[str, Engine], results: Mapping[str, TrainResult]
) -> str:
  """Of all that was trained."""
  return leaves.params_digest(
    {
      name: (result.state.server, engines[name].digests(result.state))
      for name, result in results.items()
    }
  )


PROGRAM = program.Program(
  name='fedvtc',
  sentence='Lets clients with different models learn from shared statistics '
  '(FedVTC).',
  examples=(
    ('', 'Digits, 9 clients with 3 architectures, Dirichlet 0.1.'),
    (
      '--baselines=all --ablations=no_dm,no_kl,head_only',
      'Every method that it is compared with, and three ablations.',
    ),
    (
      '--data=my_images --image_size=32 --architectures=cnn,resnet8,mobilenet',
      'Your own images, one folder for each class.',
    ),
    ('--preset=mnist', 'MNIST, 10 clients.'),
  ),
  configs=Configs(),
  main=main,
)
