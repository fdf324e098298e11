"""Rows of the results: how good the clients of a method are, at what cost."""

from collections.abc import Mapping, Sequence

import numpy as np

from fedjax_gen.evaluation import generalisation
from fedjax_gen.federated.rounds import Traffic
from fedjax_gen.running.engine import Engine
from fedjax_gen.running.training import TrainResult
from fedjax_gen.studies.fedvtc.vtc_judge import Clients, Judged


def scores(judged: Judged, clients: Clients) -> dict[str, float]:
  """How well a method's clients predict, and by other rules than its own."""
  source, num_classes = clients.source, clients.source.num_classes
  labels, measured = source.train.labels, clients.measured_clients
  architectures = clients.architecture_of_client
  own, *others = judged.correct.items()
  metrics: dict[str, float] = generalisation.generalisation_metrics(
    own[1],
    np.bincount(source.test.labels, minlength=num_classes),
    clients.split.train.counts(labels, num_classes)[measured],
    correct_local=judged.correct_local,
    asked_local=clients.split.test.counts(labels, num_classes)[measured],
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
  target: float,
) -> dict[str, float]:
  """What a method's training took, and the best that it came to.

  Args:
    result: of training.
    traffic: bytes per client, of each fleet.
    engine: of the method.
    clients: who holds what.
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
