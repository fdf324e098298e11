"""The secrets of a private run: made once, kept in its private folder."""

import pathlib

from fedjax_gen.errors import InputError
from fedjax_gen.privacy import secret_keys
from fedjax_gen.privacy.secret_keys import Secrets
from fedjax_gen.running.storage import disk
from fedjax_gen.running.storage.workdir import INPUTS, PRIVATE, Workdir

NAME = 'secrets.json'
LEDGER = 'ledger.json'
"""Of a private run, in its folder `release`: written before the first noise."""


def secrets_of(workdir: Workdir, noise_seed: int) -> Secrets:
  """The secrets that the run began with, or new ones if it begins.

  A resumed run draws the same noise from them: a second draw would be a second
  release, which nobody has charged for.

  Args:
    workdir: of a private run.
    noise_seed: of a simulation that must repeat, which makes its guarantee
      nominal; below 0 for the system's entropy.

  Returns:
    The same in all processes of the run.

  Raises:
    InputError: the run released something before, and its secrets are gone.
    DiskFullError: the disk is full.
  """
  text = workdir.processes.from_writer(lambda: _text(workdir, noise_seed))
  return secret_keys.from_json(text)


def _text(workdir: Workdir, noise_seed: int) -> str:
  path = workdir.kept / NAME
  if path.exists():
    return path.read_text()
  if (workdir.released / LEDGER).exists():
    raise InputError(
      f'Expected {path}, from which the private run in {workdir.path} draws '
      'its noise, found none. Without it the run cannot go on: new noise on '
      'the same data would be a second release. Bring the folder back, or give '
      'another --workdir.'
    )
  made = secret_keys.fresh()
  if noise_seed >= 0:
    made = secret_keys.nominal(noise_seed)
  disk.write_atomically(path, made.to_json() + '\n')
  return path.read_text()


def runs_on_same_data(workdir: Workdir, fingerprint: str) -> list[pathlib.Path]:
  """Other private runs on the same data, of those that can be known.

  They are looked for in the folders next to the run's own. A run's digests are
  keyed, so that only who can read its secrets can tell what its data are.

  Args:
    workdir: of this run.
    fingerprint: of its examples, `data.examples.fingerprint`.

  Returns:
    Their work directories, sorted.
  """
  found = []
  for folder in sorted(workdir.path.parent.iterdir()):
    if folder == workdir.path:
      continue
    try:
      secrets = secret_keys.from_json((folder / PRIVATE / NAME).read_text())
    except (OSError, InputError):
      continue  # no private run, or not for us to read
    inputs = disk.read_json(folder / PRIVATE / INPUTS) or {}
    if inputs.get('examples') == secrets.digest(fingerprint):
      found.append(folder)
  return found
