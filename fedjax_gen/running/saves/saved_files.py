"""How a trained model is stored on disk: a description and its variables.

Two files, `NAME.json` and `NAME.msgpack`, in the folder `models` of the work
directory. What is no generative model has a name that ends in `CLIENTS`.
"""

from collections.abc import Callable, Mapping
import json
import os
import pathlib
import re
from typing import Any

from flax import serialization

from fedjax_gen import files
from fedjax_gen.errors import InputError
from fedjax_gen.running.storage import workdir as workdir_lib
from fedjax_gen.types import Tree

FOLDER = 'models'
"""Where a work directory keeps its trained models."""

_ROOTS = ('', workdir_lib.RELEASE, workdir_lib.PRIVATE)

CLIENTS = '.clients'
"""Ends the names of files with the classifiers of all clients."""

_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.+=-]*')


def check_name(name: str) -> None:
  """Checks that files can be named so."""
  if not _NAME.fullmatch(name):
    raise InputError(
      'Expected name to begin with a letter or digit and to hold letters, '
      f'digits and +-=_. only, as a file is named by it; got name={name!r}.'
    )
  if name.endswith(CLIENTS):
    raise InputError(
      f'Expected name not to end in {CLIENTS}, as files with the classifiers '
      f'of clients do; got name={name!r}.'
    )


def write(
  workdir: str | os.PathLike,
  name: str,
  description: dict[str, Any],
  state: Tree,
  ending: str = '',
) -> pathlib.Path:
  """Writes both files; either is there whole or not at all.

  Args:
    workdir: folder of the run.
    name: without its ending; see `check_name`.
    description: what JSON can hold.
    state: a state dict of arrays.
    ending: `CLIENTS`, or nothing for a generative model.

  Returns:
    The path of the description.
  """
  folder = pathlib.Path(workdir) / FOLDER
  with files.replacing(folder / f'{name}{ending}.msgpack') as path:
    path.write_bytes(serialization.msgpack_serialize(state))
  return write_description(workdir, name, description, ending)


def root_of(
  workdir: str | os.PathLike, name: str, ending: str = ''
) -> pathlib.Path:
  """The folder that holds `models` with a model.

  It is the work directory itself, or, of a private run, `release` or, for what
  was trained without protection, `private` in it. `release` alone serves too.
  """
  path = pathlib.Path(workdir)
  for root in _ROOTS:
    if (path / root / FOLDER / f'{name}{ending}.json').exists():
      return path / root
  return path


def write_description(
  workdir: str | os.PathLike,
  name: str,
  description: dict[str, Any],
  ending: str = '',
) -> pathlib.Path:
  """Writes the description last: a model exists once it does; see `write`."""
  path = pathlib.Path(workdir) / FOLDER / f'{name}{ending}.json'
  with files.replacing(path) as unfinished:
    unfinished.write_text(json.dumps(description, indent=2) + '\n')
  return path


def add_claims(
  workdir: str | os.PathLike, claim_of: Callable[[str], Mapping[str, Any]]
) -> None:
  """Writes into each description what holds of the model's privacy.

  Args:
    workdir: folder with protected models only, `release` of a run.
    claim_of: from the name of a model to `privacy.releases.Releases.claim`.
  """
  for name in names(workdir):
    description = description_of(workdir, name)
    claim = dict(claim_of(name))
    if description.get('privacy') != claim:
      write_description(workdir, name, {**description, 'privacy': claim})


def names(workdir: str | os.PathLike, ending: str = '') -> list[str]:
  """Names of what is there, sorted, without their ending."""
  stems = {
    path.stem
    for root in _ROOTS
    for path in (pathlib.Path(workdir) / root / FOLDER).glob('*.json')
    # Else it is a file that was never finished.
    if path.stem[0] != '.'
  }
  if not ending:
    return sorted(stem for stem in stems if not stem.endswith(CLIENTS))
  return sorted(s.removesuffix(ending) for s in stems if s.endswith(ending))


def description_of(
  workdir: str | os.PathLike, name: str, ending: str = ''
) -> dict[str, Any]:
  """The description that was written.

  Raises:
    OSError: it cannot be read.
    ValueError: it is no JSON.
  """
  root = root_of(workdir, name, ending)
  path = root / FOLDER / f'{name}{ending}.json'
  return json.loads(path.read_text())


def state_of(workdir: str | os.PathLike, name: str, ending: str = '') -> Tree:
  """The state dict that was written.

  Raises:
    OSError: it cannot be read.
    ValueError: it is damaged.
  """
  root = root_of(workdir, name, ending)
  path = root / FOLDER / f'{name}{ending}.msgpack'
  return serialization.msgpack_restore(path.read_bytes())
