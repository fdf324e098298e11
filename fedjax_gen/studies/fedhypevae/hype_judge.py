"""How well linear classifiers do with what a method shares.

Each row of the results belongs to a training. Rows that share a training differ
by how synthetic data are made from it.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import NamedTuple

import numpy as np

from fedjax_gen.evaluation import heads
from fedjax_gen.evaluation.attacks import membership
from fedjax_gen.evaluation.embeddings import embedding_quality
from fedjax_gen.evaluation.heads import Evaluation, Head, HeadConfig
from fedjax_gen.studies.fedhypevae import hype_synthesis
from fedjax_gen.studies.fedhypevae.hype_clients import Clients
from fedjax_gen.studies.fedhypevae.hype_methods import HypeMethod
from fedjax_gen.studies.fedhypevae.hype_synthesis import (
  SynthesisConfig,
  Synthetic,
)
from fedjax_gen.studies.study import Comparison, Results, Run
from fedjax_gen.types import Tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingComparison(Comparison):
  """Trainings on embeddings."""

  methods: Mapping[str, HypeMethod]
  names: Sequence[str]
  clients: Clients
  synthesis: SynthesisConfig


class Measured(NamedTuple):
  """What was made and measured.

  Attributes:
    metrics: by row of the results, those of the clients' own classifiers last.
    shared: by training what the server holds.
    synthetic: by row what a generator shares.
    codes: `[N, V]` of FedHypeVAE's clients, if it ran and has codes.
    reached: by row what classifiers reach.
  """

  metrics: dict[str, dict[str, float]]
  shared: dict[str, Tree]
  synthetic: dict[str, Synthetic]
  codes: np.ndarray | None
  reached: dict[str, Evaluation]


def measure(
  running: Run,
  compared: EmbeddingComparison,
  results: Results,
  audited: Mapping[str, Mapping[str, float]],
) -> Measured:
  """Makes synthetic embeddings and measures what they are good for."""
  asked, methods = running.asked, compared.methods
  states = {name: result.state for name, result in results.items()}
  shared = {name: m.trained(states[name]) for name, m in methods.items()}
  synthetic, codes = hype_synthesis.synthesise(
    methods, running.engine, states, asked.meta, compared.synthesis,
    running.seed, running.secrets,
  )  # fmt: skip
  reached = evaluate(
    compared.names, shared, synthetic, compared.clients, asked.head
  )
  metrics = {}
  for row, found in reached.items():
    values = metrics_of(row, found)
    if row in synthetic:
      values |= quality(
        found,
        synthetic[row],
        compared.clients,
        seed=running.seed,
        by_training=running.shown.everything,
      )
    name = trained_as(row, synthetic)
    metrics[row] = values | compared.spent(name) | dict(audited.get(name, {}))
  metrics['local'] = metrics_of_local(reached[compared.names[0]])
  return Measured(metrics, shared, synthetic, codes, reached)


def trained_as(row: str, synthetic: Mapping[str, Synthetic]) -> str:
  """The training that a row of the results is of."""
  if row in synthetic:
    return synthetic[row].method
  return 'FedAvg' if row == 'FedLambda' else row


def _rows(
  names: Sequence[str], synthetic: Mapping[str, Synthetic]
) -> list[str]:
  """All rows, in the order of the table."""
  by_method = {
    name: [row for row, made in synthetic.items() if made.method == name]
    for name in names
  }
  return [row for name in names for row in by_method[name] or [name]]


def evaluate(
  names: Sequence[str],
  shared: Mapping[str, Tree],
  synthetic: Mapping[str, Synthetic],
  clients: Clients,
  config: HeadConfig,
) -> dict[str, Evaluation]:
  """What classifiers reach, in the order of the table."""
  local = heads.fit_local(clients.rows, config)
  found = {}
  for row in _rows(names, synthetic):
    if row in synthetic:
      made = synthetic[row]
      reached = heads.evaluate(
        clients.rows, local, made.inputs, made.labels, config
      )
    else:
      head = shared[trained_as(row, synthetic)]
      reached = heads.evaluate_head(
        clients.rows, local, Head(head['kernel'], head['bias'])
      )
    found[row] = reached._replace(clients=clients.measured[reached.clients])
  return found


def metrics_of(row: str, found: Evaluation) -> dict[str, float]:
  """`accuracy`, `balanced_accuracy` and `auc` by the method's own rule.

  FedAvg and FedProx use what is shared alone, the others interpolate it with
  the client's own classifier.
  """
  if row in ('FedAvg', 'FedProx'):
    return _without_prefix(found, 'synthetic_')
  share = found.metrics['interpolation_lambda']
  own = _without_prefix(found, 'interpolated_')
  return own | {'interpolation_lambda': share}


def metrics_of_local(found: Evaluation) -> dict[str, float]:
  """Metrics of the clients' own classifiers, the same for every method."""
  return _without_prefix(found, 'local_')


def quality(
  found: Evaluation,
  made: Synthetic,
  clients: Clients,
  *,
  seed: int,
  by_training: bool = True,
) -> dict[str, float]:
  """How good synthetic embeddings are, alone and next to the real ones."""
  alone = {
    metric: value
    for metric, value in found.metrics.items()
    if metric.startswith('synthetic_')
  }
  rows = clients.rows
  test = rows.test.order
  distances = embedding_quality.quality(
    rows.inputs[test], rows.labels[test], made.inputs, made.labels, seed
  )
  if not by_training:
    return alone | distances
  guessed = membership.membership_auc(
    rows.inputs[rows.train.order], rows.inputs[test], made.inputs
  )
  return alone | distances | {'membership_auc': guessed}


def _without_prefix(found: Evaluation, prefix: str) -> dict[str, float]:
  return {
    metric.removeprefix(prefix): value
    for metric, value in found.metrics.items()
    if metric.startswith(prefix)
  }
