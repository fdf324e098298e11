"""Clients with models of different architectures learn from one another.

FedVTC (clients share statistics of features, a generator makes images of them)
beside the methods that it is compared with. Every client has a classifier of
its own; what is measured is how well it does on data that no client sees, of
all classes, those included that it never saw.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from experiments import (
  common,
  options,
  private_run,
  vtc_methods,
  vtc_pictures,
  vtc_report,
  vtc_saving,
  vtc_synthesis,
)
from experiments.vtc_judge import Clients, Judge, Judged, build_clients
from fedjax_gen import trees, validate
from fedjax_gen.algorithms import fedvtc as fedvtc_lib
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import generalisation
from fedjax_gen.federated import metering, personal, rounds
from fedjax_gen.federated.class_gaussians import Rules
from fedjax_gen.federated.personal import Method
from fedjax_gen.federation import (
  FederationConfig,
  build_mapping,
  build_samplers,
)
from fedjax_gen.models import classifiers
from fedjax_gen.models.classifiers import ClassifierConfig
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.models.vtc import VtcConfig, build_vtc
from fedjax_gen.models.vtc_losses import GeneratorLosses
from fedjax_gen.privacy.plan import PrivacyConfig
from fedjax_gen.running import federated_step, leaves, training
from fedjax_gen.running.workdir import Workdir
from fedjax_gen.types import Tree


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
  """What is compared.

  Raises:
    InputError: a value is out of range.
  """

  baselines: tuple[str, ...] = dataclasses.field(
    default=('local', 'FedProto'),
    metadata={
      'help': f'all, none, or any of {", ".join(vtc_methods.BASELINES)}.'
    },
  )
  ablations: tuple[str, ...] = dataclasses.field(
    default=(),
    metadata={
      'help': 'FedVTC with one thing left out: all, none, or any of '
      f'{", ".join(vtc_methods.ABLATIONS)}.'
    },
  )
  local_test_fraction: float = dataclasses.field(
    default=0.2,
    metadata={'help': 'Of each client’s examples, held out to test it on.'},
  )
  attack: bool = dataclasses.field(
    default=False,
    metadata={
      'help': 'Try to draw clients’ images from the statistics that they sent, '
      'and measure how far that succeeds.'
    },
  )
  target_accuracy: float = dataclasses.field(
    default=0.0,
    metadata={
      'help': 'Count the bytes until this accuracy; 0 for that of the local '
      'models at the end.'
    },
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


EXPERIMENT = common.Experiment(
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
  configs={
    'run': common.RunConfig(
      rounds=20, rounds_per_step=5, eval_every=5, checkpoint_every=5
    ),
    'data': options.DataConfig(),
    'federation': FederationConfig(
      num_clients=9, partition='dirichlet', alpha=0.1
    ),
    'classifier': ClassifierConfig(
      architectures=('cnn5', 'cnn', 'mlp'), feature_size=64, width=0.25
    ),
    'training': personal.Config(
      local_epochs=2.0, batch_size=16, optimizer='adam', learning_rate=2e-3
    ),
    'vtc': VtcConfig(),
    'fedvtc': fedvtc_lib.Config(synthetic_per_class=60),
    'rules': Rules(),
    'losses': GeneratorLosses(),
    'privacy': PrivacyConfig(),
    'comparison': ComparisonConfig(),
    **vtc_methods.CONFIGS,
  },
)


def main(
  session,
  *,
  run,
  data,
  federation,
  classifier,
  training,
  vtc,
  fedvtc,
  rules,
  losses,
  privacy,
  comparison,
  **baselines,
) -> None:
  """Trains, measures and draws; see `common.run`."""
  source = options.load_source(data, seed=run.seed)
  clients = build_clients(
    source,
    federation,
    classifier.architectures,
    comparison.local_test_fraction,
    run.seed,
  )
  spec = DataSpec(source.input_shape, source.num_classes)
  models = classifiers.build_classifiers(classifier, spec)
  setting = vtc_methods.Setting(
    training,
    models,
    [data.num_clients for data in clients.datasets],
    classifier,
    spec,
    run.rounds,
    baselines,
  )
  protection = _protect(privacy, federation, clients, run.rounds)
  subject = vtc_methods.Subject(
    fedvtc,
    rules,
    losses,
    build_vtc(vtc, classifier.feature_size, spec),
    None if protection is None else protection.plan,
  )
  methods = vtc_methods.build_methods(
    setting,
    subject,
    with_baselines=comparison.baselines,
    with_ablations=comparison.ablations,
  )
  traffic = {}
  for name, method in methods.items():
    federated_step.dry_run(name, method.algorithm, clients.datasets)
    traffic[name] = metering.traffic(method.algorithm, clients.datasets)
  with session.open_workdir() as workdir:
    workdir.pin(
      data=leaves.params_digest((source.train, source.test)),
      partition=leaves.params_digest(
        (clients.partition.order, clients.partition.sizes)
      ),
    )
    for note in source.notes:
      session.say(f'Data: {note}')
    if protection is not None:
      session.say(protection.sentence())
    judge = Judge(clients, run.seed)
    results, memory = {}, {}
    for name, method in methods.items():
      results[name], memory[name] = _train(
        name, method, clients, federation, run, session, workdir,
        traffic[name], judge,
      )  # fmt: skip
    session.part()
    session.say('Measuring on data that no client trained on.')
    judged = {
      name: judge.everything(method, results[name].state)
      for name, method in methods.items()
    }
    metrics = {
      name: _metrics(
        name, judged[name], results, traffic[name], clients, comparison
      )
      | {'round_memory_bytes': float(memory[name])}
      for name in methods
    }
    protected = [n for n in methods if n.startswith(vtc_methods.SUBJECT)]
    if protection is not None:
      protection.write(workdir.path)
      for name in protected:
        metrics[name] |= protection.metrics()
    made = vtc_synthesis.synthesise(
      subject, results[vtc_methods.SUBJECT].state, clients, run.seed
    )
    vtc_saving.save_generator(
      workdir.path, vtc, subject, results[vtc_methods.SUBJECT].state, clients
    )
    vtc_saving.save_classifiers(workdir.path, classifier, judged, clients)
    if comparison.attack:
      session.say('Attacking what clients send.')
      metrics[vtc_methods.SUBJECT] |= vtc_synthesis.attack(
        subject, models, results[vtc_methods.SUBJECT].state, clients, run.seed
      )
    session.say('Drawing.')
    facts = vtc_report.Facts(
      experiment='fedvtc',
      source=source,
      partition=clients.partition,
      metrics=metrics,
      results=results,
      config=session.config,
      protection=protection,
      protected=protected,
      traffic=traffic,
      architectures=clients.architecture_of_client,
      drawn=vtc_pictures.draw(
        workdir.path / 'samples', clients, models, judged, metrics, results,
        made, run.rounds, seed=run.seed,
      ),
    )  # fmt: skip
    vtc_report.write(workdir.path, facts)
    vtc_report.show(metrics)
    # Last: a summary marks the run as finished.
    trained = {name: _trained(r.state) for name, r in results.items()}
    workdir.write_summary(
      vtc_report.summary(facts, leaves.params_digest(trained))
    )


def _protect(
  privacy: PrivacyConfig,
  federation: FederationConfig,
  clients: Clients,
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
  count = clients.partition.num_clients
  plan = private_run.client_plan(privacy, federation, count, rounds=num_rounds)
  if plan.rounds < num_rounds:
    raise InputError(
      f'Expected a budget for rounds={num_rounds}, which all methods train '
      f'for; epsilon={privacy.epsilon:g} lasts for {plan.rounds}.'
    )
  return private_run.protection(
    privacy, plan, rounds=num_rounds, num_units=count
  )


def _train(
  name: str,
  method: Method,
  clients: Clients,
  federation: FederationConfig,
  run: common.RunConfig,
  session: common.Session,
  workdir: Workdir,
  traffic: Sequence[rounds.Traffic],
  judge: Judge,
) -> tuple[training.TrainResult, int]:
  """Trains one method, measuring as it goes; and what its rounds need.

  The program is found where it was kept when it was compiled for training.
  """
  init_key, run_key = jax.random.split(jax.random.key(run.seed))
  mapping = build_mapping(federation)
  data = rounds.place(clients.datasets, mapping)
  samplers = build_samplers(federation, [d.num_clients for d in data])
  runner = rounds.round_runner(
    method.algorithm, samplers=samplers, mapping=mapping
  )
  asked = np.bincount(
    clients.source.test.labels, minlength=clients.source.num_classes
  )

  def evaluate(state):
    deployed = judge.deployed(method, state)
    correct = judge.on_the_global_test(method, deployed)
    accuracies = correct.sum(axis=1) / asked.sum()
    return {
      'accuracy': float(accuracies.mean()),
      'accuracy_worst': float(accuracies.min()),
    }

  result = training.train(
    method=name,
    init=lambda: rounds.init_state(method.algorithm, data, init_key, mapping),
    step=federated_step.federated_step(runner, traffic, data, run_key),
    schedule=training.Schedule(
      run.rounds, run.rounds_per_step, run.eval_every, run.checkpoint_every
    ),
    workdir=workdir,
    progress=session.progress,
    evaluate=evaluate,
    best_metric='accuracy',
    trained=_trained,
    stop=session.stop,
  )
  memory = runner.temporary_bytes(
    result.state, data, run_key, min(run.rounds_per_step, run.rounds)
  )
  return result, memory


def _trained(state: Any) -> Tree:
  """What training must keep finite, and what a digest is of."""
  return state.server, state.fleets


def _metrics(
  name: str,
  judged: Judged,
  results: Mapping[str, training.TrainResult],
  traffic: Sequence[rounds.Traffic],
  clients: Clients,
  comparison: ComparisonConfig,
) -> dict[str, float]:
  """The row of a method in the results."""
  source, num_classes = clients.source, clients.source.num_classes
  labels = source.train.labels
  own, *others = judged.correct.items()
  metrics: dict[str, float] = generalisation.generalisation_metrics(
    own[1],
    np.bincount(source.test.labels, minlength=num_classes),
    clients.split.train.counts(labels, num_classes),
    correct_local=judged.correct_local,
    asked_local=clients.split.test.counts(labels, num_classes),
    architectures=clients.architecture_of_client,
  )
  for rule, correct in others:
    total = len(source.test.labels)
    metrics[f'{rule}_accuracy'] = float((correct.sum(axis=1) / total).mean())
  measured = [r for r in results[name].history if 'accuracy' in r]
  metrics['best_accuracy'] = max(record['accuracy'] for record in measured)
  weights = [len(numbers) for numbers in clients.numbers]
  up = np.average([t.bytes_up for t in traffic], weights=weights)
  down = np.average([t.bytes_down for t in traffic], weights=weights)
  metrics['bytes_up'], metrics['bytes_down'] = float(up), float(down)
  target = comparison.target_accuracy
  if not target and 'local' in results:
    target = [r for r in results['local'].history if 'accuracy' in r][-1][
      'accuracy'
    ]
  reached = target and generalisation.bytes_to_target(
    [round(record['round']) for record in measured],
    [record['accuracy'] for record in measured],
    float(up + down),
    target,
  )
  if reached:
    metrics['bytes_to_target'] = reached
  metrics['seconds'] = results[name].seconds
  metrics['client_state_bytes'] = trees.num_bytes(
    results[name].state.fleets
  ) / sum(weights)
  return metrics


if __name__ == '__main__':
  common.run(EXPERIMENT, main)
