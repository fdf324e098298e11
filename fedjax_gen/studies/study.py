"""A study: methods trained on one federation, measured, drawn and reported.

The run is written here, once, and knows no system. A system is a `Study`: what
is compared, and how that is prepared, followed, measured, saved and shown.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple, TypeVar

import jax

from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.data.sources import DataSource
from fedjax_gen.federated import mapping as mappings, sampling
from fedjax_gen.federated.algorithm import Algorithm, FederatedState
from fedjax_gen.federated.rounds import Traffic
from fedjax_gen.privacy.releases import Releases
from fedjax_gen.privacy.secret_keys import Secrets
from fedjax_gen.running import (
  engine as engine_lib,
  federated_step,
  training,
)
from fedjax_gen.running.engine import Engine
from fedjax_gen.running.storage.workdir import Workdir
from fedjax_gen.running.training import TrainResult
from fedjax_gen.studies import audits, private_run, shown as shown_lib, stages
from fedjax_gen.studies.command.program import Session
from fedjax_gen.studies.private_run import Protection
from fedjax_gen.studies.shown import Shown


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
  """One of the trainings that are compared, built and not yet compiled.

  Systems add by what they measure it.

  Attributes:
    algorithm: what runs.
    datasets: the clients of each fleet (clients of one architecture).
    samplers: who takes part, of each fleet.
    mapping: how clients are laid over time and devices.
    rounds: how many.
    trained: from a state to the part that must stay finite; None for that of
      server and clients.
    protection: what it trains under; None without privacy.
    is_nominal: whether its epsilon protects nothing, whatever the noise.
    is_one_place: whether the data are in one place, so that nothing travels.
    traffic: bytes down and up per client, of each fleet; see `traced`.
  """

  algorithm: Algorithm
  datasets: Sequence[FederatedDataset]
  samplers: Sequence[sampling.Sampler]
  mapping: mappings.Mapping
  rounds: int
  trained: Callable[[FederatedState], Any] | None = None
  protection: Protection | None = None
  is_nominal: bool = False
  is_one_place: bool = False
  traffic: Sequence[Traffic] = ()

  @property
  def is_held(self) -> bool:
    """Whether its privacy holds."""
    protection = self.protection
    return bool(protection and not self.is_nominal and protection.is_finite)

  def spent(self) -> dict[str, float]:
    """`epsilon`, if finite, and `delta`, for metrics; empty without privacy.

    An epsilon that protects nothing is `nominal_epsilon`.
    """
    if self.protection is None:
      return {}
    found = self.protection.metrics()
    if self.is_nominal and 'epsilon' in found:
      found['nominal_epsilon'] = found.pop('epsilon')
    return found


_M = TypeVar('_M', bound=Method)


def traced(name: str, method: _M) -> _M:
  """The method with its traffic; a round is traced, none is computed.

  Raises:
    InputError: a state does not fit in memory.
  """
  traffic = federated_step.dry_run(name, method.algorithm, method.datasets)
  if method.is_one_place:
    traffic = (Traffic(0, 0),)
  return dataclasses.replace(method, traffic=traffic)


def releases(methods: Mapping[str, Method]) -> Releases | None:
  """All that methods give away; None if nothing is protected.

  What protects nothing is not to be given away, and not among it.
  """
  return private_run.releases_of(
    {
      name: method.protection
      for name, method in methods.items()
      if method.protection is not None and not method.is_nominal
    }
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
  """What a run compares. Systems add what they measure by.

  Attributes:
    source: the data.
    partition: who holds what.
    methods: the trainings, by name, in the order of the results.
    notes: what is to be known before training, a line each.
    protection: under which all private methods train; None without privacy,
      and where each has its own.
    audited: what an audit would train again, by name.
    rows: of the results, by the training that each is of, where it has other
      rows than its own.
  """

  source: DataSource
  partition: Partition
  methods: Mapping[str, Any]
  notes: Sequence[str] = ()
  protection: Protection | None = None
  audited: Mapping[str, audits.Target] = dataclasses.field(default_factory=dict)
  rows: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @property
  def private(self) -> list[str]:
    """Methods that train under a protection."""
    return [n for n, m in self.methods.items() if m.protection is not None]

  @property
  def held(self) -> list[str]:
    """Methods, and rows of the results, with a privacy that holds."""
    held = [name for name, method in self.methods.items() if method.is_held]
    return held + [r for r, method in self.rows.items() if method in held]

  @property
  def releases(self) -> Releases | None:
    """All that the run gives away; see `releases`."""
    return releases(self.methods)

  def spent(self, row: str) -> dict[str, float]:
    """See `Method.spent`, of a row of the results."""
    method = self.methods.get(self.rows.get(row, row))
    return {} if method is None else method.spent()


class Followed(NamedTuple):
  """How a method is measured while it trains.

  Attributes:
    evaluate: from what is `evaluated` to metrics.
    evaluated: what of the state it reads.
    best_metric: the best checkpoint by it is kept too; None for none.
    with_memory: whether to find out what the compiled rounds need.
  """

  evaluate: Callable[[Any], Mapping[str, float]]
  evaluated: Callable[[Any], Any] = lambda state: state
  best_metric: str | None = None
  with_memory: bool = False


@dataclasses.dataclass(frozen=True)
class Run:
  """What the functions of a study are given.

  Attributes:
    session: says, stops, shows the advance.
    asked: the configurations, by name.
    workdir: open.
    secrets: keys of a private run; None without privacy.
    shown: what may be seen, and in which folder it lies.
  """

  session: Session
  asked: Any
  workdir: Workdir
  secrets: Secrets | None
  shown: Shown

  @property
  def seed(self) -> int:
    """Of all that is not secret."""
    return self.asked.run.seed

  def engine(self, name: str, method: Method) -> Engine:
    """The rounds of a method; cheap, for nothing is compiled yet."""
    key = jax.random.key(self.seed)
    own_key = (
      stages.training_key(self.secrets, name) if method.protection else None
    )
    if self.session.deployment is not None:
      return self.session.deployment.engine(
        name, method.algorithm, method.datasets, key,
        traffic=method.traffic, own_key=own_key,
      )  # fmt: skip
    return engine_lib.engine(
      method.algorithm,
      method.datasets,
      key,
      traffic=method.traffic,
      samplers=method.samplers,
      mapping=method.mapping,
      folder=self.workdir.population_path(name),
      own_key=own_key,
    )

  def train(
    self, name: str, method: Method, followed: Followed | None = None
  ) -> TrainResult:
    """Trains a method, or resumes it; see `training.train`."""
    run, engine = self.asked.run, self.engine(name, method)
    result = training.train(
      method=name,
      **engine.for_training(),
      schedule=training.Schedule(
        method.rounds, run.rounds_per_step, run.eval_every, run.checkpoint_every
      ),
      workdir=self.workdir,
      progress=self.session.progress,
      stop=self.session.stop,
      trained=method.trained or engine.trained,
      loss_may_stop=method.protection is None,
      evaluate=followed and followed.evaluate,
      evaluated=followed.evaluated if followed else lambda state: state,
      best_metric=followed and followed.best_metric,
    )
    if followed and followed.with_memory:
      number = min(run.rounds_per_step, method.rounds)
      memory = engine.round_bytes(result.state, number)
      result = result._replace(round_bytes=memory)
    return result

  def audit(self, compared: Comparison) -> dict[str, dict[str, float]]:
    """What audits find, by method; empty if none is asked for."""
    if not compared.audited:
      return {}
    [data] = compared.methods[next(iter(compared.audited))].datasets
    return audits.audit(
      self.asked.audit, compared.audited, data, compared.source.num_classes,
      run=self.asked.run, federation=self.asked.federation,
      session=self.session, workdir=self.workdir, secrets=self.secrets,
    )  # fmt: skip


Results = Mapping[str, TrainResult]


class Study(NamedTuple):
  """A system.

  Attributes:
    build: `(configurations, number of processes) -> Comparison`; refuses what
      does not fit with an InputError, before anything is written.
    measure: `(run, comparison, results of training by name, what audits found
      by name) -> Measured`, after all training; by the first process alone.
    save: `(run, comparison, measured)`, writes the models.
    report: `(run, comparison, results, measured) -> summary`, draws, writes
      report.html, prints the results.
    prepare: `(run, comparison) -> Comparison`, before training.
    follow: `(run, comparison, name) -> Followed`, while training.
  """

  build: Callable[[Any, int], Any]
  measure: Callable[[Run, Any, Results, Mapping[str, Any]], Any]
  save: Callable[[Run, Any, Any], None]
  report: Callable[[Run, Any, Results, Any], dict[str, Any]]
  prepare: Callable[[Run, Any], Any] = lambda run, compared: compared
  follow: Callable[[Run, Any, str], Followed | None] = (
    lambda run, compared, name: None
  )


def run(study: Study, session: Session, asked: Any) -> None:
  """Trains, measures, saves, draws and reports; see `program.run`."""
  # Before anything is written: mistakes show here.
  compared = study.build(asked, session.processes.count)
  with session.open_workdir(is_private=asked.privacy.is_private) as workdir:
    secrets = stages.secrets_of(workdir, asked.privacy.noise_seed)
    shown = shown_lib.shown(
      workdir, compared.held, show_real=asked.privacy.show_real
    )
    running = Run(session, asked, workdir, secrets, shown)
    stages.begin(
      session, workdir, compared.source, compared.partition, compared.notes,
      secrets=secrets, releases=compared.releases,
    )  # fmt: skip
    compared = study.prepare(running, compared)
    results = {
      name: running.train(name, method, study.follow(running, compared, name))
      for name, method in compared.methods.items()
    }
    audited = running.audit(compared)
    session.part()
    session.say('Measuring on held-out data.')
    measured = study.measure(running, compared, results, audited)
    study.save(running, compared, measured)
    stages.claim(workdir, compared.releases, compared.rows)
    session.say('Drawing.')
    # Last: a summary marks the run as finished.
    workdir.write_summary(study.report(running, compared, results, measured))


def main_of(study: Study) -> Callable[[Session, Any], None]:
  """What a `program.Program` calls."""
  return functools.partial(run, study)
