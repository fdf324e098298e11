"""What is FedVAE's alone; what all programs owe stands in `programs_test`."""

import json

import numpy as np
import pytest

import fedjax_gen
from fedjax_gen.privacy import accounting, events, releases
from fedjax_gen.running import training
from fedjax_gen.studies.command import program
from fedjax_gen.studies.fedvae import vae_study
from tests.studies.runs import Links

# The tests of a system look at one run: one worker makes it.
pytestmark = pytest.mark.xdist_group('fedvae')

# Feature vectors: no pictures, no classifier, so that a run is quick.
_QUICK = (
  '--model=mlp',
  '--hidden_size=8',
  '--latent_size=2',
  '--num_clients=3',
  '--methods=federated',
  '--rounds=6',
  '--rounds_per_step=1',
  '--eval_every=2',
  '--checkpoint_every=2',
  '--importance_samples=0',
)


@pytest.fixture
def execute(monkeypatch, capsys, tmp_path):
  """Runs a command line here; returns its status, output and errors."""
  monkeypatch.setattr(program, '_prepare_jax', lambda cache: None)
  monkeypatch.chdir(tmp_path)

  def execute(*args):
    status = program.execute(vae_study.PROGRAM, ['fedvae', *args])
    captured = capsys.readouterr()
    return status, captured.out, captured.err

  return execute


def test_images_with_classes_have_every_metric(finished):
  assert {
    'test_elbo',
    'test_iw_bound_2',
    'fid_few_classifier',
    'inception_score_few_classifier',
    'tstr_accuracy',
  } <= set(finished.summary()['methods']['federated'])
  first, second = finished.records('federated')
  assert {'loss', 'kl'} <= set(first)
  assert 'test_elbo' not in first and 'test_elbo' in second


@pytest.mark.parametrize(
  ('args', 'words'),
  [
    (['--seed=-1'], 'seed=-1'),
    (['--seed=4294967296'], 'seed < 2**31'),
    (['--seed=1.5'], 'whole number'),
    (['--rounds=0'], 'rounds=0'),
    (['--rounds=99999999999'], 'rounds < 2**31'),
    (['--eval_every=0'], 'eval_every=0'),
    (['--data='], "got ''"),
    (['--data=digit'], 'did you mean digits'),
    (['--data=/none/such'], '/none/such'),
    (['--data=clients:/none/such'], '/none/such'),
    (['--image_size=-1'], 'image_size=-1'),
    (['--image_size=99999999'], 'image_size <= 4096'),
    (['--test_fraction=nan'], 'test_fraction=nan'),
    (['--num_examples=1440'], 'num_examples <= 1439'),
    (['--num_test_examples=-1'], 'num_test_examples=-1'),
    (['--num_clients=99999'], 'num_clients=99999'),
    (['--partition=dirichlet', '--alpha=0'], 'alpha=0.0'),
    (['--alpha=nan'], 'alpha=nan'),
    (['--partition=natural'], 'user ids'),
    (['--partition=file'], "partition_file=''"),
    (['--partition=file', '--partition_file=/none'], '/none'),
    (['--sampling=uniform', '--cohort_size=11'], 'cohort_size=11'),
    (['--participation=7'], 'participation=7.0'),
    (['--dropout_rate=-1'], 'dropout_rate=-1.0'),
    (['--num_devices=99'], 'num_devices=99'),
    (['--block_size=some'], "block_size='some'"),
    (['--reproducible=maybe'], 'expected true or false'),
    (['--latent_size=0'], 'latent_size=0'),
    (['--latent_size=99999999999'], 'GB of memory'),
    (['--channels='], 'channels'),
    (['--channels=4,0'], 'channels=0'),
    (['--norm=layer'], 'group, batch, none'),
    (['--model=dugdale2023'], "norm='group'"),
    (['--likelihood_stddev=0'], 'likelihood_stddev=0.0'),
    (['--local_epochs=nan'], 'local_epochs=nan'),
    (['--batch_size=99999999999'], '32 bits'),
    (['--learning_rate=-1'], 'learning_rate=-1.0'),
    (['--beta=inf'], 'beta=inf'),
    (['--methods='], "methods=''"),
    (['--privacy=records'], 'did you mean record'),
    (['--privacy=record', '--epsilon=0'], 'epsilon=0.0'),
    (['--privacy=record', '--delta=1'], 'delta=1.0'),
    (['--privacy=record', '--norm=batch'], 'batch_stats'),
    (['--privacy=client', '--norm=batch'], 'batch_stats'),
    (
      ['--privacy=record', '--noise_placement=distributed'],
      "noise_placement='distributed'",
    ),
    (['--privacy=client', '--noise_multiplier=0.1'], 'the first round'),
    (['--methods=federated,federated'], 'once'),
    (['--num_samples=9'], 'num_samples=9'),
    (['--extractor=inception'], "'inception'"),
    (['--extractor=onnx:/none/such'], '/none/such'),
    (['--flagfile=few.npz'], 'text file'),
    (['--preset=none'], 'There are:'),
  ],
)
def test_a_mistake_is_answered_before_anything_begins(
  execute, no_training, digits_file, tmp_path, args, words
):
  (tmp_path / 'few.npz').write_bytes(digits_file.read_bytes())
  status, out, err = execute('--workdir=run', *args)
  assert (status, out) == (2, '')
  assert words in err
  assert 'Traceback' not in err
  assert len(err.splitlines()) <= 5
  assert [path.name for path in tmp_path.iterdir()] == ['few.npz']


def _npz(path, **arrays):
  images = np.random.default_rng(0).integers(0, 256, (40, 4, 4))
  good = {'x': images.astype(np.uint8), 'y': np.arange(40) % 2}
  np.savez(path, **{**good, **arrays})
  return path


def _flipped(path):
  data = bytearray(_npz(path).read_bytes())
  data[200:260] = bytes(60)
  path.write_bytes(data)


@pytest.mark.parametrize(
  ('damage', 'words'),
  [
    (lambda path: path.write_bytes(b''), 'npz'),
    (lambda path: path.write_text('x,y\n1,2\n'), 'npz'),
    (lambda path: path.write_bytes(_npz(path).read_bytes()[:400]), 'npz'),
    (_flipped, "'x'"),
    (lambda path: path.mkdir(), 'pictures'),
    (lambda path: _npz(path, x=np.full((40, 4, 4), np.nan)), 'NaN'),
    (lambda path: _npz(path, x=np.full((40, 4, 4), 300)), '[0, 255]'),
    (lambda path: _npz(path, y=np.arange(40) - 1), 'got -1 in row 0'),
    (lambda path: _npz(path, y=np.arange(39)), '[40]'),
    (lambda path: _npz(path, classes=np.array(['one'])), 'below 1'),
    (lambda path: _npz(path, y=np.array([{}] * 40)), 'pickle'),
    (lambda path: _npz(path, x=np.zeros((40, 4, 4, 2))), 'channels'),
    (lambda path: np.savez(path, z=np.zeros(3)), 'z'),
  ],
)
def test_broken_data_are_named_before_anything_begins(
  execute, no_training, tmp_path, damage, words
):
  path = tmp_path / 'broken.npz'
  damage(path)
  status, out, err = execute('--workdir=run', f'--data={path}')
  assert (status, out) == (2, '')
  assert 'broken.npz' in err
  assert words in err
  assert 'Traceback' not in err
  assert not (tmp_path / 'run').exists()


def test_a_divergence_names_round_and_clients(execute, features_file, tmp_path):
  status, _, err = execute(
    '--workdir=run', f'--data={features_file}', *_QUICK, '--learning_rate=1e30'
  )
  assert status == 1
  assert 'federated diverged' in err
  assert 'round' in err
  assert 'Traceback' not in err
  assert not (tmp_path / 'run/summary.json').exists()


def test_too_little_memory_is_said_in_two_lines(
  execute, monkeypatch, features_file
):
  def train(**unused):
    raise MemoryError('Unable to allocate 9 TiB')

  monkeypatch.setattr(training, 'train', train)
  args = (f'--data={features_file}', *_QUICK)
  status, _, err = execute('--workdir=run', *args)
  assert status == 1
  assert 'Out of memory. Unable to allocate 9 TiB' in err
  assert 'Traceback' not in err


def test_a_private_run_ends_with_its_budget_and_says_what_it_cost(
  execute, features_file, tmp_path
):
  args = (
    '--workdir=run', f'--data={features_file}', *_QUICK,
    '--methods=federated,central', '--privacy=record', '--epsilon=3.7',
    '--noise_multiplier=3',
  )  # fmt: skip
  status, _, err = execute(*args)
  assert status == 0, err
  assert 'noise multiplier 3, 4 rounds of 2 steps' in err
  assert '6 rounds were asked for' in err
  summary = json.loads((tmp_path / 'run/summary.json').read_text())
  assert summary['rounds'] == 4
  federated, central = (
    summary['methods'][name] for name in ('federated', 'central')
  )
  assert federated['delta'] == 1e-4
  assert {'epsilon', 'delta'}.isdisjoint(central)
  text = (tmp_path / 'run/ledger.json').read_text()
  folder = releases.from_json(text)
  assert list(folder.parts) == ['federated']
  ledger = folder.parts['federated']
  assert ledger.worst() == federated['epsilon'] <= 3.7
  assert ledger.histories[0][0].event == events.gaussian(3.0, 8)
  more = accounting.epsilon(events.gaussian(3.0, 10), ledger.accounted_delta)
  assert more > 3.7
  page = Links()
  page.feed((tmp_path / 'run/report.html').read_text(encoding='utf-8'))
  assert 'one record of one client' in page.text
  assert 'central trained without privacy' in page.text
  assert '4 of 6' in page.text


def test_a_flow_in_latents_is_trained_by_all_methods_and_privately(
  execute, features_file, tmp_path
):
  args = (
    f'--data={features_file}', *_QUICK, '--generator=latent_flow',
    '--methods=federated,local', '--flow_width=4', '--flow_blocks=1',
    '--flow_steps=2', '--server_average=0.9', '--privacy=record',
    '--noise_multiplier=3', '--epsilon=3.7', '--autoencoder_rounds=2',
  )  # fmt: skip
  status, _, err = execute('--workdir=early', *args, '--autoencoder_rounds=4')
  assert (status, 'Expected rounds > 4' in err) == (2, True)
  status, _, err = execute('--workdir=run', *args)
  assert status == 0, err
  summary = json.loads((tmp_path / 'run/summary.json').read_text())
  methods = summary['methods']
  assert list(methods) == ['federated', 'local']
  for metrics in methods.values():
    assert {'test_reconstruction', 'test_flow_error'} <= set(metrics)
  assert 0 < methods['federated']['epsilon'] <= 3.7
  model = fedjax_gen.load(tmp_path / 'run/release')
  assert model.kind == 'latent_flow'
  assert model.privacy['epsilon'] <= 3.7
  features, labels = model.sample(5, steps=3, guidance=1.0)
  assert features.shape[0] == len(labels) == 5
  page = Links()
  page.feed((tmp_path / 'run/report.html').read_text(encoding='utf-8'))
  assert 'one rectified flow over the latents of an autoencoder' in page.text


def test_an_audit_stands_beside_epsilon(execute, features_file, tmp_path):
  pytest.importorskip('jax_privacy')
  args = (
    '--workdir=run', f'--data={features_file}', *_QUICK, '--rounds=2',
    '--privacy=record', '--accountant=rdp', '--audit_canaries=12',
    '--show_real=true',
  )  # fmt: skip
  status, _, err = execute(*args)
  assert status == 0, err
  assert 'Audit of federated: epsilon >= ' in err
  summary = json.loads((tmp_path / 'run/summary.json').read_text())
  found = summary['methods']['federated']
  assert found['audit_canaries'] == 12
  assert 0 <= found['audit_epsilon_lower'] < found['epsilon']
  page = (tmp_path / 'run/report.html').read_text(encoding='utf-8')
  assert 'ε at most, accountant' in page


def test_an_audit_without_privacy_of_records_is_refused(execute, features_file):
  pytest.importorskip('jax_privacy')
  args = (f'--data={features_file}', *_QUICK, '--audit_canaries=12')
  for privacy in ('none', 'client'):
    status, _, err = execute('--workdir=run', *args, f'--privacy={privacy}')
    assert status == 2
    assert 'no method protects records' in err


def test_infinity_clips_whole_clients_and_names_no_epsilon(
  execute, features_file, tmp_path
):
  args = (
    '--workdir=run', f'--data={features_file}', *_QUICK, '--rounds=2',
    '--privacy=client', '--epsilon=inf', '--sampling=poisson',
  )  # fmt: skip
  status, _, err = execute(*args)
  assert status == 0, err
  assert 'protects nothing' in err
  config = json.loads((tmp_path / 'run/config.json').read_text())
  assert config['privacy']['epsilon'] == 'inf'
  summary = json.loads((tmp_path / 'run/summary.json').read_text())
  metrics = summary['methods']['federated']
  assert 'epsilon' not in metrics
  # Of vectors there are no features, and so no distance of images.
  assert not [name for name in metrics if name.startswith('fid')]
  assert (tmp_path / 'run/report.html').exists()
  status, out, _ = execute(*args)
  assert (status, 'This run is finished' in out) == (0, True)


def test_without_privacy_there_is_no_word_of_it(finished):
  summary = json.loads((finished.workdir / 'summary.json').read_text())
  assert 'epsilon' not in summary['methods']['federated']
  assert not (finished.workdir / 'ledger.json').exists()
  page = (finished.workdir / 'report.html').read_text(encoding='utf-8')
  assert '>Privacy<' not in page
  assert 'Privacy of' not in finished.err
