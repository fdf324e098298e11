"""An attack on the folder of a private run, by who has all of it but private/.

Each test is of a defect that a run once had: noise shared by methods or made of
a public seed, a ledger of one method of several, digests of data that anyone
can compute, models that say nothing of their privacy.
"""

import contextlib
import io
import json
import shutil

import jax
import numpy as np
import pytest

import fedjax_gen
from fedjax_gen.privacy import releases, secret_keys
from fedjax_gen.running import training
from fedjax_gen.running.storage import checkpoints, workdir as workdir_lib
from fedjax_gen.studies import private_run
from fedjax_gen.studies.command import program
from fedjax_gen.studies.fedhypevae import hype_study
from tests.studies.runs import Run

_SMALL = (
  '--methods=FedHypeVAE,DP-CVAE,FedAvg',
  '--partition=iid',
  '--num_clients=3',
  '--hidden_sizes=8',
  '--latent_size=2',
  '--hyper_size=8',
  '--code_size=3',
  '--mmd_samples=2',
  '--batch_size=8',
  '--rounds=2',
  '--rounds_per_step=1',
  '--eval_every=2',
  '--checkpoint_every=1',
  '--linear_rounds=1',
  '--meta_steps=5',
  '--meta_samples=8',
  '--synthetic_per_class=20',
  '--head_epochs=5',
  '--accountant=rdp',
)
_TRAINED = ('FedHypeVAE', 'DP-CVAE', 'FedAvg')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('private')
  rng = np.random.default_rng(0)
  labels = np.arange(120) % 2
  inputs = rng.normal(size=(120, 4)) + labels[:, None]
  np.savez(folder / 'data.npz', x=inputs.astype(np.float32), y=labels)
  return folder


@pytest.fixture(scope='module')
def run(folder):
  """Runs the program in a folder of its own."""

  def run(name, *args):
    workdir = folder / name
    args = (f'--workdir={workdir}', f'--data={folder}/data.npz', *_SMALL, *args)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      status = program.execute(hype_study.PROGRAM, ['fedhypevae', *args])
    return Run(workdir, args, status, out.getvalue(), err.getvalue())

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(program, '_prepare_jax', lambda cache: None)
    yield run


@pytest.fixture(scope='module')
def finished(run):
  """A finished private run; not to be changed."""
  found = run('one/finished')
  assert found.status == 0, found.err
  return found


def _secrets(run):
  return secret_keys.from_json(
    (run.workdir / 'private/secrets.json').read_text()
  )


def _digest(run):
  return run.summary()['params_digest']


def _outside_private(run):
  """The bytes of all files of a run that do not lie in private/."""
  for path in sorted(run.workdir.rglob('*')):
    inside = path.resolve().relative_to(run.workdir.resolve()).parts
    if path.is_file() and inside[0] != workdir_lib.PRIVATE:
      yield path, path.read_bytes()


def test_nothing_outside_private_tells_what_noise_is_made_of(finished):
  secrets = _secrets(finished)
  roots = [secrets.noise, secrets.sampling, secrets.digests]
  clues = [*roots, *(root.hex().encode() for root in roots)]
  for name in _TRAINED:
    words = np.asarray(jax.random.key_data(secrets.key(name, 'training')))
    clues += [words.tobytes()[:16], str(words[0]).encode()]
  said = (finished.out + finished.err).encode()
  found = [
    path
    for path, data in [('terminal', said), *_outside_private(finished)]
    if any(clue in data for clue in clues)
  ]
  assert not found
  # The attack would see them: they do lie in private/.
  kept = (finished.workdir / 'private/secrets.json').read_bytes()
  assert any(clue in kept for clue in clues)


def test_the_ledger_lists_every_method_and_was_written_before_training(
  finished, run, monkeypatch
):
  path = finished.workdir / 'release/ledger.json'
  ledger = releases.from_json(path.read_text())
  assert tuple(ledger.parts) == _TRAINED
  assert {'class moments', 'training'} == {
    entry.label for entry in ledger.parts['FedHypeVAE'].histories[0]
  }
  joint = ledger.joint().epsilon
  assert joint > max(ledger.alone(name).epsilon for name in _TRAINED)
  assert f'3 methods together: epsilon={joint:.4g}' in finished.err

  def stop(*args, **settings):
    raise RuntimeError('before the first round')

  monkeypatch.setattr(training, 'train', stop)
  with pytest.raises(RuntimeError, match='before the first round'):
    run('alone/early')
  early = finished.workdir.parent.parent / 'alone/early/release/ledger.json'
  assert releases.from_json(early.read_text()) == ledger


def test_models_and_samples_carry_what_holds_of_them(finished, tmp_path):
  ledger = releases.from_json(
    (finished.workdir / 'release/ledger.json').read_text()
  )
  for name in ('FedHypeVAE', 'FedHypeVAE-clients', 'DP-CVAE'):
    model = fedjax_gen.load(finished.workdir, name)
    method = name.removesuffix('-clients')
    assert model.privacy == ledger.claim(method)
    assert not model.privacy['nominal']
  alone = tmp_path / 'given'
  shutil.copytree(finished.workdir / 'release', alone)
  mine, theirs = (
    fedjax_gen.load(path, 'DP-CVAE').sample(5, seed=1)[0]
    for path in (finished.workdir, alone)
  )
  np.testing.assert_array_equal(mine, theirs)


@pytest.fixture(scope='module')
def second(finished, run):
  """The same command again, next to it."""
  found = run('one/second')
  assert found.status == 0, found.err
  return found


def test_digests_of_data_say_nothing_to_who_guesses_the_data(finished, second):
  ours, theirs = (
    json.loads((found.workdir / 'private/inputs.json').read_text())
    for found in (finished, second)
  )
  assert ours != theirs  # of the same data
  assert _digest(finished) != _digest(second)  # noise is theirs alone


def test_a_second_run_on_the_same_data_is_told_what_both_cost(finished, second):
  ledgers = [
    releases.from_json((found.workdir / 'release/ledger.json').read_text())
    for found in (finished, second)
  ]
  cost = releases.together(ledgers).epsilon
  assert f'All together they cost epsilon={cost:.4g}' in second.err
  assert 'Warning' not in finished.err


def test_killed_it_goes_on_to_the_same_bits_and_never_without_its_secrets(
  run, folder, monkeypatch
):
  saved = []
  save = checkpoints.Checkpoints.save

  def killed(self, *args, **settings):
    save(self, *args, **settings)
    saved.append(args[0])
    if len(saved) == 3:  # in the middle of the second method
      raise RuntimeError('killed')

  with monkeypatch.context() as patch:
    patch.setattr(checkpoints.Checkpoints, 'save', killed)
    with pytest.raises(RuntimeError, match='killed'):
      run('three/broken')
  broken = folder / 'three/broken'
  # The same secrets, uninterrupted.
  (folder / 'four/whole/private').mkdir(parents=True)
  shutil.copy(broken / 'config.json', folder / 'four/whole')
  shutil.copy(
    broken / 'private/secrets.json', folder / 'four/whole/private/secrets.json'
  )
  whole = run('four/whole')
  assert whole.status == 0, whole.err
  assert 'Warning' not in whole.err  # of runs that lie elsewhere
  (broken / 'private').rename(folder / 'moved')
  refused = run('three/broken')
  assert refused.status == 2
  assert 'second release' in refused.err
  shutil.rmtree(broken / 'private')
  (folder / 'moved').rename(broken / 'private')
  resumed = run('three/broken')
  assert resumed.status == 0, resumed.err
  assert _digest(resumed) == _digest(whole)


def test_noise_of_a_public_seed_is_called_nominal(run):
  first = run('five/a', '--noise_seed=7')
  assert first.status == 0, first.err
  for line in first.err.splitlines():
    if 'epsilon=' in line:
      assert 'nominal' in line
  summary = first.summary()
  assert summary['privacy']['nominal']
  for values in summary['methods'].values():
    assert 'epsilon' not in values
  assert 'nominal_epsilon' in summary['methods']['DP-CVAE']
  assert private_run.NOMINAL in first.out.replace('\n', ' ') or (
    'nominal' in first.out
  )
  page = (first.workdir / 'report.html').read_text()
  assert private_run.NOMINAL in page
  ledger = json.loads((first.workdir / 'ledger.json').read_text())
  assert ledger['nominal']
  assert fedjax_gen.load(first.workdir, 'DP-CVAE').privacy['nominal']


def test_numbers_of_labels_leave_no_client(finished):
  names = [path.name for path, _ in _outside_private(finished)]
  assert 'partition.png' not in names
  assert 'inputs.json' not in names
  metrics = finished.summary()['methods']['FedHypeVAE']
  assert 'membership_auc' not in metrics
