"""Clients with models of different architectures learn from each other.

FedVTC (clients share statistics of features, a generator turns them into
images) and the methods that it is compared with. Every client has a classifier
of its own. It is measured on data that no client sees, of all classes,
including those that the client never saw.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from fedjax_gen.running import leaves
from fedjax_gen.studies import run_report, study
from fedjax_gen.studies.command import program
from fedjax_gen.studies.fedvtc import (
  vtc_methods,
  vtc_metrics,
  vtc_pictures,
  vtc_report,
  vtc_saving,
  vtc_synthesis,
  vtc_tables,
)
from fedjax_gen.studies.fedvtc.vtc_comparison import (
  Configs,
  VtcComparison,
  build,
)
from fedjax_gen.studies.fedvtc.vtc_judge import Judged
from fedjax_gen.studies.fedvtc.vtc_methods import SUBJECT
from fedjax_gen.studies.study import Followed, Results, Run


class Measured(NamedTuple):
  """What was measured and made.

  Attributes:
    metrics: by method.
    judged: by method what clients are right about.
    made: FedVTC's synthetic images.
    state: of FedVTC after training.
    digest: of all that was trained.
  """

  metrics: dict[str, dict[str, float]]
  judged: dict[str, Judged]
  made: vtc_synthesis.SyntheticImages
  state: Any
  digest: str


def follow(running: Run, compared: VtcComparison, name: str) -> Followed:
  """Measures what clients would predict with."""
  judge, method = compared.judge, compared.methods[name]
  blocks = running.engine(name, method).blocks
  return Followed(
    lambda state: judge.accuracies(method.own, blocks, state),
    best_metric='accuracy',
    with_memory=True,
  )


def measure(
  running: Run,
  compared: VtcComparison,
  results: Results,
  audited: Mapping[str, Any],
) -> Measured:
  """The rows of the results; saves the classifiers of clients.

  They are saved as they are measured, because those of a population on the host
  do not fit in memory.
  """
  del audited  # there is no audit of this system
  asked, clients = running.asked, compared.clients
  # Anew, so that programs of rounds need not stay.
  engines = {n: running.engine(n, m) for n, m in compared.methods.items()}
  judged = {
    name: vtc_saving.judged_and_saved(
      running.workdir.kept,  # classifiers are what clients keep
      name,
      asked.classifier,
      compared.judge,
      method.own,
      engines[name].blocks,
      results[name].state,
      clients,
    )
    for name, method in compared.methods.items()
  }
  target = vtc_metrics.target(asked.comparison.target_accuracy, results)
  metrics = {
    name: {
      **vtc_metrics.scores(judged[name], clients),
      **vtc_metrics.costs(
        results[name],
        method.traffic,
        engines[name],
        clients,
        asked.training,
        method.extra_steps,
        target,
      ),
      'round_memory_bytes': float(results[name].round_bytes),
      **compared.spent(name),
    }
    for name, method in compared.methods.items()
  }
  for row, name in compared.rows.items():
    rule = vtc_methods.SHARED[name]
    found = vtc_metrics.scores(judged[name], clients, rule)
    costs = vtc_tables.COSTS & metrics[name].keys()
    metrics[row] = {key: metrics[name][key] for key in costs} | found
  state = results[SUBJECT].state
  made = vtc_synthesis.synthesise(
    compared.subject, state, clients, running.seed
  )
  if asked.comparison.attack:
    running.session.say('Attacking what clients send.')
    metrics[SUBJECT] |= vtc_synthesis.attack(
      compared.subject, compared.models, engines[SUBJECT].blocks, state,
      clients, running.seed,
    )  # fmt: skip
  digest = leaves.params_digest(
    {
      name: (result.state.server, engines[name].digests(result.state))
      for name, result in results.items()
    }
  )
  return Measured(metrics, judged, made, state, digest)


def save(running: Run, compared: VtcComparison, measured: Measured) -> None:
  """Saves FedVTC's generator, for `fedjax_gen.load`."""
  shown = running.shown
  # Generators of single clients are theirs, and not protected.
  folder = shown.folder(SUBJECT) if compared.subject.is_shared else shown.kept
  vtc_saving.save_generator(
    folder, running.asked.vtc, compared.subject, measured.state,
    compared.clients,
  )  # fmt: skip


def report(
  running: Run, compared: VtcComparison, results: Results, measured: Measured
) -> dict[str, Any]:
  """Draws, writes report.html, prints the results; returns the summary."""
  drawn = vtc_pictures.draw(
    running.shown, compared.clients, compared.models, measured.judged,
    measured.metrics, results, measured.made, running.asked.run.rounds,
    is_shared=compared.subject.is_shared, seed=running.seed,
  )  # fmt: skip
  facts = vtc_report.Facts(
    **run_report.of_run(running, compared, results, measured.metrics, drawn),
    architectures=compared.clients.architecture_of_client,
  )
  vtc_report.write(running.shown, facts)
  vtc_tables.show(facts.metrics)
  return vtc_report.summary(facts, measured.digest)


STUDY = study.Study(
  build=build,
  follow=follow,
  measure=measure,
  save=save,
  report=report,
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
  main=study.main_of(STUDY),
)
