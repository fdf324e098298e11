"""Trains personal generators of embeddings, and measures what they are for.

Beside FedHypeVAE it trains the generators and the averaged classifiers that it
is compared with, on the same records and under the same privacy budget, and
asks of each: how well does a linear classifier do for each client, if made of
what is shared, of the client's own records, or of both?
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import (
  audits,
  common,
  hype_methods,
  hype_pictures,
  hype_privacy,
  hype_report,
  hype_synthesis,
  hype_tables,
  options,
)
from experiments.audits import AuditConfig
from experiments.hype_methods import HypePrivacyConfig, Method
from experiments.hype_synthesis import SynthesisConfig, Synthetic
from fedjax_gen.algorithms import fedhypevae as fedhypevae_lib
from fedjax_gen.algorithms.dp_cgan import CganConfig
from fedjax_gen.algorithms.linear_head import LinearConfig
from fedjax_gen.data import heldout
from fedjax_gen.data.federated import FederatedDataset, federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.data.sources import DataSource
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import embedding_quality, heads, membership
from fedjax_gen.evaluation.heads import ClientRows, Head, HeadConfig
from fedjax_gen.federated import rounds
from fedjax_gen.federation import (
  FederationConfig,
  build_mapping,
  build_partition,
  build_sampler,
)
from fedjax_gen.models import hypernetwork
from fedjax_gen.models.hypernetwork import HyperVaeConfig
from fedjax_gen.models.meta_code import MetaConfig
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.running import (
  engine as engine_lib,
  federated_step,
  leaves,
  saving,
  training,
)
from fedjax_gen.running.engine import Engine
from fedjax_gen.running.workdir import Workdir
from fedjax_gen.types import Tree


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
  """What is compared.

  Raises:
    InputError: a value is out of range.
  """

  methods: tuple[str, ...] = dataclasses.field(
    default=hype_methods.METHODS,
    metadata={'help': f'Any of {", ".join(hype_methods.METHODS)}.'},
  )

  def __post_init__(self):
    options.each_once(hype_methods.METHODS, methods=self.methods)


EXPERIMENT = common.Experiment(
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
  configs={
    'run': common.RunConfig(
      rounds=200, rounds_per_step=50, eval_every=200, checkpoint_every=50
    ),
    'data': options.DataConfig(data='gaussian_domains'),
    'federation': FederationConfig(partition='natural'),
    'population': options.PopulationConfig(),
    'measured': options.MeasuredConfig(),
    'hyper': HyperVaeConfig(),
    'fedhypevae': fedhypevae_lib.Config(),
    'privacy': HypePrivacyConfig(),
    'audit': AuditConfig(),
    'meta': MetaConfig(),
    'linear': LinearConfig(),
    'cgan': CganConfig(),
    'synthesis': SynthesisConfig(),
    'comparison': ComparisonConfig(),
    'head': HeadConfig(),
  },
)


_ROWS = 100_000  # normalised at once, on the device


class Clients(NamedTuple):
  """The federation and what its clients hold for what.

  Attributes:
    source: the data, normalised.
    partition: of all training rows.
    rows: real embeddings with the three parts of each client that is measured.
    measured: `[M]` which clients these are.
    data: the clients' training rows, on the device or on the host.
  """

  source: DataSource
  partition: Partition
  rows: ClientRows
  measured: np.ndarray
  data: FederatedDataset


def build_clients(
  source: DataSource,
  federation: FederationConfig,
  normalise: str,
  seed: int,
  *,
  measured: options.MeasuredConfig,
  on_host: bool = False,
) -> Clients:
  """Deals embeddings to clients, and each client's in three parts.

  Raises:
    InputError: the data are images, or do not fit the federation.
  """
  if source.is_image:
    raise InputError(
      f'Expected embeddings, [n, F] features, got the images of {source.name}: '
      'python -m experiments.embed makes embeddings of images.'
    )
  source = _normalised(source, normalise)
  train = source.train
  partition = build_partition(federation, source, seed=seed)
  split = heldout.split_clients(partition, train.labels, seed=seed)
  [chosen] = measured.rows([partition.num_clients])
  rows = ClientRows(
    train.inputs,
    train.labels,
    source.num_classes,
    *(part.select(chosen) for part in split),
  )
  data = federated_dataset(
    train.inputs, train.labels, split.train, on_host=on_host
  )
  return Clients(source, partition, rows, chosen, data)


def main(
  session,
  *,
  run,
  data,
  federation,
  population,
  measured,
  hyper,
  fedhypevae,
  privacy,
  audit,
  meta,
  linear,
  cgan,
  synthesis,
  comparison,
  head,
) -> None:
  """Trains, measures and draws; see `common.run`."""
  population.check(session.processes.count)
  source = options.load_source(data, seed=run.seed)
  clients = build_clients(
    source, federation, hyper.normalise, run.seed, measured=measured,
    on_host=population.population_on_host,
  )  # fmt: skip
  source = clients.source
  names = hype_methods.ordered(comparison.methods)
  notes = list(source.notes)
  if 'clients' in synthesis.codes and privacy.privacy == 'client':
    codes = tuple(kind for kind in synthesis.codes if kind != 'clients')
    if not codes:
      raise InputError(
        'Expected codes=meta or meta_by_class with privacy=client, got '
        'codes=clients: there codes are protected only as long as they stay '
        'with the clients.'
      )
    synthesis = dataclasses.replace(synthesis, codes=codes)
    notes.append(
      'codes=clients is left out: with privacy=client codes are protected only '
      'as long as they stay with the clients'
    )
  methods = hype_methods.build_methods(
    names,
    config=fedhypevae,
    hyper=hyper,
    cgan=cgan,
    linear=linear,
    privacy=privacy,
    federation=federation,
    data=clients.data,
    spec=DataSpec(source.input_shape, source.num_classes),
    rounds=run.rounds,
    seed=run.seed,
  )
  to_audit = {
    name: target
    for name, method in methods.items()
    if (target := method.audited)
  }
  audits.check(audit, to_audit, clients.data)
  traffic = {
    name: federated_step.dry_run(name, method.algorithm, [clients.data])
    for name, method in methods.items()
  }
  with session.open_workdir() as workdir:
    workdir.pin(
      data=leaves.params_digest((source.train, source.test)),
      partition=leaves.params_digest(
        (clients.partition.order, clients.partition.sizes)
      ),
    )
    for note in notes:
      session.say(f'Note: {note}')
    for text in hype_privacy.sentences(methods):
      session.say(text)
    engines = functools.partial(
      _engine, clients.data, federation, run.seed, workdir
    )
    results = {
      name: _train(
        name, method, engines(name, method, traffic[name]), run, session,
        workdir,
      )
      for name, method in methods.items()
    }  # fmt: skip
    shared = {
      name: method.shared(results[name].state)
      for name, method in methods.items()
    }
    audited = audits.audit(
      audit, to_audit, clients.data, source.num_classes,
      run=run, federation=federation, session=session, workdir=workdir,
    )  # fmt: skip
    session.part()
    session.say('Measuring against held-out embeddings.')
    local = heads.fit_local(clients.rows, head)
    synthetic: dict[str, Synthetic] = {}
    client_codes = None
    for name in names:
      if name in methods and (model := methods[name].model):
        engine = engines(name, methods[name], traffic[name])
        state = results[name].state
        synthetic |= hype_synthesis.synthesise(
          name, methods[name], engine, state, meta, synthesis, run.seed
        )
        if name == 'FedHypeVAE' and model.config.uses_code:
          client_codes = np.asarray(
            hype_synthesis.client_codes(methods[name], engine, state)
          )
    metrics, evaluations = {}, {}
    for name in _rows(names, synthetic):
      metrics[name], evaluations[name] = _measure(
        name, shared, synthetic, clients, local, head, run.seed
      )
      method = methods[trained_as(name, synthetic)]
      if method.budget.protection is not None:
        metrics[name] |= hype_privacy.spent(method, privacy)
      metrics[name] |= audited.get(trained_as(name, synthetic), {})
    metrics['local'] = _of_local(evaluations[names[0]])
    _save(workdir, methods, synthetic, synthesis.draw, source)
    session.say('Drawing.')
    facts = hype_report.Facts(
      experiment='fedhypevae',
      source=source,
      partition=clients.partition,
      metrics=metrics,
      results=results,
      config=session.config,
      traffic={name: fleets[0] for name, fleets in traffic.items()},
      drawn=hype_pictures.draw(
        workdir.path / 'samples', clients, synthetic, evaluations, methods,
        client_codes, seed=run.seed,
      ),
      methods=methods,
      privacy=privacy,
      confidence=audit.audit_confidence,
    )  # fmt: skip
    subject = methods[trained_as(names[0], synthetic)].budget.protection
    if subject is not None and privacy.privacy != 'paper':
      subject.write(workdir.path)
    hype_report.write(workdir.path, facts)
    hype_tables.show(metrics)
    # Last: a summary marks the run as finished.
    workdir.write_summary(
      hype_report.summary(facts, leaves.params_digest(shared))
    )


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


def _engine(
  data: FederatedDataset,
  federation: FederationConfig,
  seed: int,
  workdir: Workdir,
  name: str,
  method: Method,
  traffic: Sequence[rounds.Traffic],
) -> Engine:
  """The rounds of one method; cheap, for nothing is compiled yet."""
  return engine_lib.engine(
    method.algorithm,
    [data],
    jax.random.key(seed),
    traffic=traffic,
    samplers=[build_sampler(federation, data.num_clients)],
    mapping=build_mapping(federation),
    folder=workdir.population_path(name),
  )


def _train(
  name: str,
  method: Method,
  engine: Engine,
  run: common.RunConfig,
  session: common.Session,
  workdir: Workdir,
) -> training.TrainResult:
  """Trains one method."""
  return training.train(
    method=name,
    **engine.for_training(),
    schedule=training.Schedule(
      method.rounds, run.rounds_per_step, run.eval_every, run.checkpoint_every
    ),
    workdir=workdir,
    progress=session.progress,
    trained=method.shared,
    stop=session.stop,
  )


def _normalised(source: DataSource, normalise: str) -> DataSource:
  """The source, every embedding by itself as the models are to see it."""
  if normalise == 'none':
    return source

  def of_part(part):
    inputs = np.empty(part.inputs.shape, np.float32)
    for start in range(0, len(inputs), _ROWS):
      rows = jnp.asarray(part.inputs[start : start + _ROWS])
      inputs[start : start + _ROWS] = hypernetwork.normalised(rows, normalise)
    return part._replace(inputs=inputs)

  return dataclasses.replace(
    source, train=of_part(source.train), test=of_part(source.test)
  )


def _measure(
  name: str,
  shared: Mapping[str, Tree],
  synthetic: Mapping[str, Synthetic],
  clients: Clients,
  local: Head,
  config: HeadConfig,
  seed: int,
) -> tuple[dict[str, float], heads.Evaluation]:
  """What heads reach with what a method shares, and how good that is.

  `accuracy`, `balanced_accuracy` and `auc` are of the method's own rule:
  FedAvg and FedProx use what is shared alone, the others interpolate it with
  the client's own head.
  """
  if name in synthetic:
    made = synthetic[name]
    found = heads.evaluate(
      clients.rows, local, made.inputs, made.labels, config
    )
  else:
    head = shared[trained_as(name, synthetic)]
    found = heads.evaluate_head(
      clients.rows, local, Head(head['kernel'], head['bias'])
    )
  found = found._replace(clients=clients.measured[found.clients])
  rule = 'synthetic' if name in ('FedAvg', 'FedProx') else 'interpolated'
  kept = {
    metric.removeprefix(f'{rule}_'): value
    for metric, value in found.metrics.items()
    if metric.startswith(f'{rule}_')
  }
  if rule == 'interpolated':
    kept['interpolation_lambda'] = found.metrics['interpolation_lambda']
  if name not in synthetic:
    return kept, found
  kept |= {
    metric: value
    for metric, value in found.metrics.items()
    if metric.startswith('synthetic_')
  }
  made = synthetic[name]
  rows = clients.rows
  test = rows.test.order
  kept |= embedding_quality.quality(
    rows.inputs[test], rows.labels[test], made.inputs, made.labels, seed
  )
  kept['membership_auc'] = membership.membership_auc(
    rows.inputs[rows.train.order], rows.inputs[test], made.inputs
  )
  return kept, found


def _of_local(found: heads.Evaluation) -> dict[str, float]:
  """The clients' own heads, the same beside any method."""
  return {
    metric.removeprefix('local_'): value
    for metric, value in found.metrics.items()
    if metric.startswith('local_')
  }


def _save(
  workdir: Workdir,
  methods: Mapping[str, Method],
  synthetic: Mapping[str, Synthetic],
  draw: bool,
  source: DataSource,
) -> None:
  """Saves the generators that `fedjax_gen.load` knows."""
  for name, made in synthetic.items():
    if made.hyper is not None:
      saving.save_hyper(
        workdir.path,
        name,
        methods[trained_as(name, synthetic)].model.config,
        source,
        made.hyper,
        made.codes,
        made.weights,
        mix='samples',
        draw=draw,
      )


if __name__ == '__main__':
  common.run(EXPERIMENT, main)
