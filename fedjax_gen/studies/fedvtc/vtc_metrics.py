"""Rows of the results: the accuracy of a method's clients, and its cost."""

from collections.abc import Mapping, Sequence

import numpy as np

from fedjax_gen.evaluation import generalisation
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.rounds import Traffic
from fedjax_gen.running.engine import Engine
from fedjax_gen.running.training import TrainResult
from fedjax_gen.studies.fedvtc.vtc_judge import Clients, Judged


def scores(
  judged: Judged, clients: Clients, rule: str = ''
) -> dict[str, float]:
  """How well a method's clients predict, and by other rules than its own.

  Args:
    judged: what they are right about.
    clients: who holds what.
    rule: of prediction; '' for the method's own. By another there are no
      numbers on each client's own test examples.
  """
  source, num_classes = clients.source, clients.source.num_classes
  labels, measured = source.train.labels, clients.measured_clients
  architectures = clients.architecture_of_client
  own, *others = judged.correct.items()
  local = {
    'correct_local': judged.correct_local,
    'asked_local': clients.split.test.counts(labels, num_classes)[measured],
  }
  if rule:
    own, others, local = (rule, judged.correct[rule]), [], {}
  metrics: dict[str, float] = generalisation.generalisation_metrics(
    own[1],
    np.bincount(source.test.labels, minlength=num_classes),
    clients.split.train.counts(labels, num_classes)[measured],
    **local,
    architectures=[architectures[number] for number in measured],
  )
  total = len(source.test.labels)
  for rule, correct in others:
    metrics[f'{rule}_accuracy'] = float((correct.sum(axis=1) / total).mean())
  return metrics


def costs(
  result: TrainResult,
  traffic: Sequence[Traffic],
  engine: Engine,
  clients: Clients,
  training: personal.Config,
  extra_steps: int,
  target: float,
) -> dict[str, float]:
  """What a method's training took, and the best that it came to.

  Args:
    result: of training.
    traffic: bytes per client, of each fleet.
    engine: of the method.
    clients: who holds what.
    training: how clients train.
    extra_steps: of the classifier in a round, next to those of training.
    target: the accuracy until which bytes are counted; 0 for none.

  Returns:
    Means over clients, and `seconds` of all.
  """
  measured = [r for r in result.history if 'accuracy' in r]
  weights = [len(numbers) for numbers in clients.numbers]
  up = float(np.average([t.bytes_up for t in traffic], weights=weights))
  down = float(np.average([t.bytes_down for t in traffic], weights=weights))
  metrics = {
    'best_accuracy': max(record['accuracy'] for record in measured),
    'bytes_up': up,
    'bytes_down': down,
    'classifier_steps': extra_steps + _steps(training, clients),
  }
  reached = target and generalisation.bytes_to_target(
    [round(record['round']) for record in measured],
    [record['accuracy'] for record in measured],
    up + down,
    target,
  )
  if reached:
    metrics['bytes_to_target'] = reached
  kept = float(np.average(engine.client_bytes(), weights=weights))
  return metrics | {'seconds': result.seconds, 'client_state_bytes': kept}


def _steps(training: personal.Config, clients: Clients) -> float:
  """Of a client in a round, on average."""
  sizes = clients.split.train.sizes
  passes = np.ceil(sizes / training.batch_size) * training.local_epochs
  return float(np.round(passes).mean())


def target(asked: float, results: Mapping[str, TrainResult]) -> float:
  """The accuracy to reach: as asked for, or else where local models end.

  Args:
    asked: 0 if it was not.
    results: of training, by method.

  Returns:
    0 if there are no local models either.
  """
  if asked or 'local' not in results:
    return asked
  measured = [r for r in results['local'].history if 'accuracy' in r]
  return measured[-1]['accuracy']
