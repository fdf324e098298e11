"""Runs of the four systems, small and in this process, for all their tests."""

from collections.abc import Callable
import contextlib
import functools
import io
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache
import numpy as np
import pytest

from fedjax_gen.running import training
from fedjax_gen.studies.command import program
from tests.studies import systems
from tests.studies.runs import Run
from tests.studies.systems import System


@pytest.fixture(scope='package', autouse=True)
def _programs_are_kept(tmp_path_factory):
  """What is compiled for one run serves the others of these tests."""
  settings = {
    'jax_compilation_cache_dir': str(tmp_path_factory.mktemp('programs')),
    'jax_persistent_cache_min_compile_time_secs': 0.05,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture(scope='session')
def folder_of(tmp_path_factory) -> Callable[[System], Path]:
  """The folder of a system's data and runs."""

  @functools.cache
  def make(system):
    folder = tmp_path_factory.mktemp(system.name)
    system.write_data(folder)
    return folder

  return make


@pytest.fixture(scope='session')
def launch(folder_of) -> Callable[..., Run]:
  """Runs a system in its folder, under a name and with more flags."""

  def launch(system, name, *args):
    folder = folder_of(system)
    data = [f'--data={folder / system.data}']
    if any(arg.startswith('--data=') for arg in args):
      data = []
    args = (f'--workdir={folder / name}', *data, *system.small, *args)
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(program, '_prepare_jax', lambda cache: None)
      patch.setenv('FEDJAX_GEN_CACHE', str(folder / 'cache'))
      system.patch(patch)
      with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = program.execute(system.program, [system.name, *args])
    return Run(folder / name, args, status, out.getvalue(), err.getvalue())

  return launch


@pytest.fixture(scope='session')
def finished_of(launch) -> Callable[[System], Run]:
  """The finished run of all methods of a system; not to be changed."""
  return functools.cache(
    lambda system: launch(system, 'finished/run', *system.whole)
  )


@pytest.fixture(scope='session')
def finished(finished_of) -> Run:
  """A finished run of FedVAE; not to be changed."""
  return finished_of(systems.FEDVAE)


@pytest.fixture
def no_training(monkeypatch):
  """Fails the test as soon as anything would be trained."""

  def train(*unused, **unused_too):
    raise AssertionError('training began')

  monkeypatch.setattr(training, 'train', train)


@pytest.fixture(scope='session')
def digits_file(folder_of):
  """An npz file of 150 real digits."""
  return folder_of(systems.FEDVAE) / systems.FEDVAE.data


@pytest.fixture(scope='session')
def features_file(tmp_path_factory):
  """An npz file of 60 feature vectors of two classes."""
  labels = np.arange(60) % 2
  noise = np.random.default_rng(0).normal(size=(60, 3))
  path = tmp_path_factory.mktemp('data') / 'features.npz'
  np.savez(path, x=(noise + labels[:, None]).astype(np.float32), y=labels)
  return path
