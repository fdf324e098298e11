"""One small finished run, for all tests that only look at one."""

import contextlib
import io

import numpy as np
import pytest
from sklearn import datasets

from fedjax_gen.evaluation import classifiers
from fedjax_gen.studies.command import program
from fedjax_gen.studies.fedvae import vae_study
from tests.studies.runs import Run

# The least that still has every part: two methods, classes, real digits.
SMALL = (
  '--rounds=2',
  '--rounds_per_step=2',
  '--eval_every=2',
  '--checkpoint_every=1',
  '--num_clients=3',
  '--methods=federated,central',
  '--num_samples=20',
  '--importance_samples=2',
  '--channels=4',
  '--hidden_size=8',
  '--latent_size=2',
  '--local_epochs=1',
)


@pytest.fixture(scope='session')
def digits_file(tmp_path_factory):
  """An npz file of 150 real digits."""
  digits = datasets.load_digits()
  path = tmp_path_factory.mktemp('data') / 'few.npz'
  images = np.round(digits.images[:150] * (255 / 16)).astype(np.uint8)
  np.savez(path, x=images, y=digits.target[:150])
  return path


@pytest.fixture(scope='session')
def features_file(tmp_path_factory):
  """An npz file of 60 feature vectors of two classes."""
  labels = np.arange(60) % 2
  noise = np.random.default_rng(0).normal(size=(60, 3))
  path = tmp_path_factory.mktemp('data') / 'features.npz'
  np.savez(path, x=(noise + labels[:, None]).astype(np.float32), y=labels)
  return path


@pytest.fixture(scope='session')
def run_fedvae(digits_file, tmp_path_factory):
  """Runs FedVAE small, under a name and with more arguments."""
  folder = tmp_path_factory.mktemp('runs')

  def run(name, *args):
    # A folder for each: private runs warn of others next to them.
    workdir = folder / f'of_{name}' / name
    return _executed(workdir, (f'--data={digits_file}', *SMALL, *args))

  return run


@pytest.fixture(scope='session')
def finished(run_fedvae) -> Run:
  """A finished run of FedVAE; not to be changed."""
  return run_fedvae('fedvae')


def _executed(workdir, args) -> Run:
  args = (f'--workdir={workdir}', *args)
  out, err = io.StringIO(), io.StringIO()
  train = classifiers.train

  def briefly(*args, recipe, **settings):
    recipe = recipe._replace(num_steps=60)
    return train(*args, recipe=recipe, **settings)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(program, '_prepare_jax', lambda cache: None)
    patch.setattr(classifiers, 'train', briefly)
    patch.setenv('FEDJAX_GEN_CACHE', str(workdir.parent / 'cache'))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      status = program.execute(vae_study.PROGRAM, ['fedvae', *args])
  return Run(workdir, args, status, out.getvalue(), err.getvalue())
