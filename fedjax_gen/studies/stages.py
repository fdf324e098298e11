"""The stages that all studies share."""

from collections.abc import Iterable, Mapping

from fedjax_gen import encoding
from fedjax_gen.data.partition import Partition
from fedjax_gen.data.sources import DataSource
from fedjax_gen.errors import InputError
from fedjax_gen.federation import FederationConfig, build_partition
from fedjax_gen.privacy.ledger import Entry
from fedjax_gen.privacy.plan import PrivacyConfig
from fedjax_gen.privacy.releases import Releases
from fedjax_gen.privacy.secret_keys import Secrets
from fedjax_gen.running import leaves
from fedjax_gen.running.saves import saved_files
from fedjax_gen.running.storage import disk, run_secrets
from fedjax_gen.running.storage.workdir import Workdir
from fedjax_gen.studies import options, private_run
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
  if secrets is not None:
    digests['examples'] = source.fingerprint
    digests = {name: secrets.digest(text) for name, text in digests.items()}
  workdir.pin(**digests)
  if releases is not None:
    said = [*said, *_charge(workdir, releases, source.fingerprint)]
  for text in said:
    session.say(text)


def _charge(workdir: Workdir, releases: Releases, examples: str) -> list[str]:
  """Writes the ledger; what is to be said of it."""
  if not workdir.is_writer:
    return []
  disk.write_atomically(
    workdir.released / run_secrets.LEDGER, releases.to_json() + '\n'
  )
  others = run_secrets.runs_on_same_data(workdir, examples)
  texts = [private_run.folder_sentence(releases)]
  return [t for t in [*texts, *private_run.other_runs(releases, others)] if t]


def encoded(
  source: DataSource,
  federation: FederationConfig,
  privacy: PrivacyConfig,
  *,
  seed: int,
  key: Key | None = None,
) -> DataSource:
  """Series and tables as models see them, other data as they are.

  Of a private run without a key the form alone is right: ranges of columns are
  released once the ledger is charged for them (`agreed`).

  Raises:
    InputError: the federation does not fit the data.
  """
  if source.schema is None:
    return source
  if privacy.is_private and key is None:
    return encoding.public(source)
  partition = build_partition(federation, source, seed=seed)
  unit = privacy.privacy if privacy.is_private else 'record'
  return encoding.encode(source, partition, key=key, unit=unit)


def encoded_in_public(
  source: DataSource,
  federation: FederationConfig,
  data: options.DataConfig,
  *,
  is_private: bool,
  seed: int,
) -> DataSource:
  """As `encoded`, for a study with budgets that have no part for ranges.

  Raises:
    InputError: the run is private, and columns and scales are not public.
  """
  if source.schema is None:
    return source
  if is_private and not data.encoding:
    raise InputError(
      f'Expected no privacy for the {source.kind.name} of {source.name}: '
      'every client would release the ranges of its columns; --encoding names '
      'public ones, and python -m experiments.fedvae charges for them.'
    )
  return encoding.encode(source, build_partition(federation, source, seed=seed))


def agreed(source: DataSource, data: options.DataConfig) -> list[Entry]:
  """What a private run releases of the ranges of columns, for its ledger."""
  if source.schema is None or data.encoding:
    return []
  return [Entry(encoding.LABEL, encoding.event())]


def secrets_of(workdir: Workdir, noise_seed: int) -> Secrets | None:
  """Those of a private run; None without privacy."""
  if not workdir.is_private:
    return None
  return run_secrets.secrets_of(workdir, noise_seed)


def training_key(secrets: Secrets | None, method: str) -> Key | None:
  """What a method's rounds draw from; None to follow from the run's seed."""
  return None if secrets is None else secrets.key(method, 'training')


def known(source: DataSource, protection: Protection | None) -> list[str]:
  """What `begin` says about the data, and whom a shared budget protects."""
  notes = [f'Data: {note}' for note in source.notes]
  if protection is None:
    return notes
  if source.schema is not None:
    notes.append(
      'Names, kinds and categories of columns are public and stand in what is '
      'released: if they were found in the records, give a schema instead.'
    )
  return [*notes, protection.sentence()]


def claim(
  workdir: Workdir,
  releases: Releases | None,
  rows: Mapping[str, str],
) -> None:
  """Writes into every model to be given away what holds of its privacy.

  Args:
    workdir: of the run, with all models saved.
    releases: of a private run; nothing is done without.
    rows: of the results, by the method that each is of, where names differ.
  """
  if releases is not None and workdir.is_writer:
    saved_files.add_claims(
      workdir.released, lambda model: releases.claim(rows.get(model, model))
    )
