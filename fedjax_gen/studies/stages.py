"""What every program does alike between what is its own.

Programs are lists of stages: build, begin, train, measure, draw, save.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fedjax_gen.data.partition import Partition
from fedjax_gen.data.sources import DataSource
from fedjax_gen.privacy.releases import Releases
from fedjax_gen.privacy.secret_keys import Secrets
from fedjax_gen.running import (
  files,
  leaves,
  run_secrets,
  saved_files,
  training,
)
from fedjax_gen.running.engine import Engine
from fedjax_gen.running.workdir import Workdir
from fedjax_gen.studies import private_run
from fedjax_gen.studies.command import program
from fedjax_gen.studies.private_run import Protection
from fedjax_gen.types import Key


def begin(
  session: program.Session,
  workdir: Workdir,
  source: DataSource,
  partition: Partition,
  said: Iterable[str],
  *,
  secrets: Secrets | None = None,
  releases: Releases | None = None,
) -> None:
  """Records what data a run is of and who holds what, and says what is known.

  Args:
    session: to say it.
    workdir: where to record.
    source: the data.
    partition: who holds what.
    said: what is to be known before training, a line each.
    secrets: of a private run, under which digests of data are keyed: a plain
      one would tell who guesses the data that the guess is right.
    releases: all that a private run will give away. It is charged here, in
      `release/ledger.json`, before the first noise is drawn.

  Raises:
    InputError: the run began with other data.
  """
  digests = {
    'data': leaves.params_digest((source.train, source.test)),
    'partition': leaves.params_digest((partition.order, partition.sizes)),
  }
  plain = digests['data']
  if secrets is not None:
    digests = {name: secrets.digest(text) for name, text in digests.items()}
  workdir.pin(**digests)
  if releases is not None:
    said = [*said, *_charge(workdir, releases, plain)]
  for text in said:
    session.say(text)


def _charge(workdir: Workdir, releases: Releases, data: str) -> list[str]:
  """Writes the ledger; what is to be said of it.

  Args:
    workdir: of a private run.
    releases: all that it will give away.
    data: plain digest of the data.
  """
  if not workdir.is_writer:
    return []
  files.write_atomically(
    workdir.released / run_secrets.LEDGER, releases.to_json() + '\n'
  )
  others = run_secrets.runs_on_same_data(workdir, data)
  texts = [private_run.folder_sentence(releases)]
  return [t for t in [*texts, *private_run.other_runs(releases, others)] if t]


def secrets_of(workdir: Workdir, noise_seed: int) -> Secrets | None:
  """Those of a private run; None without privacy.

  Raises:
    InputError: see `run_secrets.secrets_of`.
  """
  if not workdir.is_private:
    return None
  return run_secrets.secrets_of(workdir, noise_seed)


def training_key(secrets: Secrets | None, method: str) -> Key | None:
  """What a method's rounds draw from; None to follow from the run's seed."""
  return None if secrets is None else secrets.key(method, 'training')


def known(source: DataSource, protection: Protection | None) -> list[str]:
  """What `begin` says of the data, and of whom a shared budget protects."""
  notes = [f'Data: {note}' for note in source.notes]
  return notes if protection is None else [*notes, protection.sentence()]


def train(
  name: str,
  engine: Engine,
  num_rounds: int,
  *,
  run: program.RunConfig,
  session: program.Session,
  workdir: Workdir,
  trained: Callable[[Any], Any],
  evaluate: Callable[[Any], Mapping[str, float]] | None = None,
  evaluated: Callable[[Any], Any] = lambda state: state,
  best_metric: str | None = None,
) -> training.TrainResult:
  """Trains one method.

  Args:
    name: of the method.
    engine: its rounds.
    num_rounds: how many.
    run: says when to evaluate and save.
    session: shows the advance, and tells of signals.
    workdir: where to log and save.
    trained: the part of the state whose floats must stay finite.
    evaluate: returns more metrics of what is `evaluated`; None for none.
    evaluated: what `evaluate` is given, of the state.
    best_metric: whose best checkpoint is kept too; None for none.

  Raises:
    see `training.train`.
  """
  return training.train(
    method=name,
    **engine.for_training(),
    schedule=training.Schedule(
      num_rounds, run.rounds_per_step, run.eval_every, run.checkpoint_every
    ),
    workdir=workdir,
    progress=session.progress,
    stop=session.stop,
    trained=trained,
    evaluate=evaluate,
    evaluated=evaluated,
    best_metric=best_metric,
  )


def claim(
  workdir: Workdir,
  releases: Releases | None,
  method_of: Callable[[str], str] = lambda model: model,
) -> None:
  """Writes into every model to be given away what holds of its privacy.

  Args:
    workdir: of the run, with all models saved.
    releases: of a private run; nothing is done without.
    method_of: from the name of a model to that of the method it is of.

  Raises:
    OSError: the disk is full.
  """
  if releases is not None and workdir.is_writer:
    saved_files.add_claims(
      workdir.released, lambda model: releases.claim(method_of(model))
    )


def settle(
  protection: Protection | None,
  metrics: Mapping[str, dict[str, Any]],
  protected: Iterable[str],
) -> dict[str, dict[str, Any]]:
  """Adds what was released to the metrics of who released it.

  Args:
    protection: that methods trained under; nothing is done without.
    metrics: by method.
    protected: methods that trained under it.
  """
  if protection is None:
    return dict(metrics)
  spent = dict.fromkeys(protected, protection.metrics())
  return {
    name: values | spent.get(name, {}) for name, values in metrics.items()
  }
