"""The contract of `python -m experiments.fedvae`, as its user meets it."""

import json
import math
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import numpy as np
from PIL import Image
import pytest

import fedjax_gen
from fedjax_gen.privacy import accounting, events, releases
from fedjax_gen.running import training
from fedjax_gen.studies.command import program
from fedjax_gen.studies.fedvae import vae_study
from tests.studies.runs import Links

_ROOT = Path(__file__).parents[2]
# Feature vectors: no pictures, no classifier, so that a process is quick.
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


@pytest.fixture
def no_training(monkeypatch):
  """Fails the test as soon as anything would be trained."""

  def train(**unused):
    raise AssertionError('training began')

  monkeypatch.setattr(training, 'train', train)


def test_a_run_ends_well_and_says_where_its_results_lie(finished):
  assert finished.status == 0
  assert f'Results: {finished.workdir}' in finished.out
  assert 'test_elbo' in finished.out
  assert 'federated: 2/2' in finished.err
  assert 'Traceback' not in finished.err


def test_the_summary_keeps_the_contract(finished):
  summary = json.loads((finished.workdir / 'summary.json').read_text())
  assert summary['experiment'] == 'fedvae'
  assert (summary['seed'], summary['rounds']) == (0, 2)
  assert summary['data'].endswith('few.npz')
  assert len(summary['params_digest']) == 64
  assert summary['seconds'] > 0
  assert summary['compile_seconds'] > 0
  assert summary['bytes_up_per_client_round'] > 0
  assert summary['bytes_down_per_client_round'] > 0
  assert list(summary['methods']) == ['federated', 'central', 'real_data']
  for metrics in summary['methods'].values():
    assert metrics
    for name, value in metrics.items():
      assert math.isfinite(value), name
  assert {
    'test_elbo',
    'test_iw_bound_2',
    'fid_few_classifier',
    'inception_score_few_classifier',
    'tstr_accuracy',
  } <= set(summary['methods']['federated'])


def test_the_directory_holds_everything_the_contract_names(finished):
  names = {
    str(path.relative_to(finished.workdir))
    for path in finished.workdir.rglob('*')
  }
  assert {
    'config.json',
    'metrics.jsonl',
    'summary.json',
    'report.html',
    'checkpoints/federated/2',
    'models/federated.json',
    'models/central.msgpack',
    'samples/samples_federated.png',
    'samples/samples_real.png',
    'samples/federated_round_0002.png',
    'samples/reconstructions.png',
    'samples/nearest_central.png',
    'samples/tsne_latents_federated.png',
    'samples/partition.png',
  } <= names
  assert any(name.startswith('tensorboard/federated/') for name in names)
  assert not [name for name in names if 'tmp' in name]


def test_each_round_of_each_method_is_logged_once(finished):
  lines = (finished.workdir / 'metrics.jsonl').read_text().splitlines()
  records = [json.loads(line) for line in lines]
  assert [(r['method'], r['round']) for r in records] == [
    (method, number) for method in ('federated', 'central') for number in (1, 2)
  ]
  assert {'loss', 'kl', 'participants', 'bytes_up'} <= set(records[0])
  assert 'test_elbo' in records[1]


def test_the_report_loads_nothing_from_elsewhere(finished):
  page = (finished.workdir / 'report.html').read_text(encoding='utf-8')
  links = Links()
  links.feed(page)
  assert links.images >= 8
  assert all(link.startswith(('#', 'data:')) for link in links.links)
  assert 'url(' not in page
  assert '@import' not in page
  for word in ('federated', 'real_data', 'test_elbo', 'Inception Score'):
    assert word in links.text
  pictures = (finished.workdir / 'samples').glob('*.png')
  assert all(Image.open(path).format == 'PNG' for path in pictures)


def test_a_finished_run_is_only_pointed_at(finished, execute, no_training):
  before = _snapshot(finished.workdir)
  status, out, err = execute(*finished.args)
  assert (status, err) == (0, '')
  assert 'summary.json' in out
  assert _snapshot(finished.workdir) == before


def test_another_configuration_is_refused_with_the_difference(
  finished, execute, no_training
):
  before = _snapshot(finished.workdir)
  status, _, err = execute(*finished.args, '--beta=0.5')
  assert status == 2
  assert 'fedvae.beta: 1.0 there, 0.5 here' in err
  assert len(err.splitlines()) <= 15
  assert _snapshot(finished.workdir) == before


def _snapshot(folder):
  return {path: path.stat().st_mtime_ns for path in folder.rglob('*')}


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


@pytest.mark.parametrize('kind', ['file', 'foreign', 'no_parent'])
def test_a_work_directory_of_something_else_is_left_alone(
  execute, no_training, tmp_path, kind
):
  path = tmp_path / 'here'
  if kind == 'file':
    path.write_text('mine')
  elif kind == 'foreign':
    path.mkdir()
    (path / 'thesis.tex').write_text('mine')
  else:
    (tmp_path / 'file').write_text('mine')
    path = tmp_path / 'file' / 'run'
  before = _snapshot(tmp_path)
  status, _, err = execute(f'--workdir={path}')
  assert status == 2
  assert str(path) in err
  assert _snapshot(tmp_path) == before


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
  assert 'epsilon' not in summary['methods']['federated']
  status, out, _ = execute(*args)
  assert (status, 'This run is finished' in out) == (0, True)


def test_without_privacy_there_is_no_word_of_it(finished):
  summary = json.loads((finished.workdir / 'summary.json').read_text())
  assert 'epsilon' not in summary['methods']['federated']
  assert not (finished.workdir / 'ledger.json').exists()
  page = (finished.workdir / 'report.html').read_text(encoding='utf-8')
  assert '>Privacy<' not in page
  assert 'Privacy of' not in finished.err


def test_stopped_and_killed_a_run_ends_with_the_same_parameters(
  execute, features_file, tmp_path
):
  args = (f'--data={features_file}', *_QUICK)
  status, _, err = execute('--workdir=whole', *args)
  assert status == 0, err
  assert 'precision and recall are left out' in err  # there are no images
  assert (tmp_path / 'whole/report.html').exists()
  env = os.environ | {
    'PYTHONPATH': str(_ROOT),
    'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'cache'),
  }
  broken = tmp_path / 'broken'
  log = broken / 'metrics.jsonl'

  def start():
    command = [sys.executable, '-m', 'experiments.fedvae']
    return subprocess.Popen(
      [*command, f'--workdir={broken}', *args],
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def interrupted(signum, num_lines):
    """Starts the run and sends it a signal once it has logged so much."""
    process = start()
    while not log.exists() or log.read_text().count('\n') < num_lines:
      assert process.poll() is None, process.communicate()[0]
      time.sleep(0.002)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    assert 'Traceback' not in output
    return process.returncode, output

  status, output = interrupted(signal.SIGTERM, 1)
  assert status == 143
  assert 'Run the same command again to resume' in output
  status, _ = interrupted(signal.SIGKILL, 4)
  assert status == -signal.SIGKILL
  assert not (broken / 'summary.json').exists()
  process = start()
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 0, output
  digests = {
    json.loads((tmp_path / name / 'summary.json').read_text())['params_digest']
    for name in ('whole', 'broken')
  }
  assert len(digests) == 1


def test_help_fits_a_terminal_and_begins_with_what_it_is(execute):
  status, out, err = execute('--help')
  assert (status, err) == (0, '')
  lines = out.splitlines()
  assert lines[0].startswith('Trains one VAE')
  assert max(map(len, lines)) <= 80
  assert out.count('python -m experiments.fedvae') == 5
  for title in ('The run:', 'The data:', 'What is compared:'):
    assert title in lines
  # Every flag is explained in a sentence.
  assert ' Default: ' in out
  assert not [line for line in lines if line.strip() == 'Default: off.']


def test_a_population_on_the_host_gives_the_same_bits(
  execute, features_file, tmp_path
):
  args = [
    f'--data={features_file}', *_QUICK[:4], '--rounds=2', '--eval_every=2',
    '--importance_samples=0', '--num_clients=8', '--sampling=uniform',
    '--cohort_size=3', '--dropout_rate=0.2',
  ]  # fmt: skip
  summaries = []
  for name, on_host, methods in [
    ('device', 'false', 'federated'),
    ('host', 'true', 'federated,local'),  # the latter is in memory anyway
  ]:
    status, _, err = execute(
      f'--workdir={name}', *args, f'--population_on_host={on_host}',
      f'--methods={methods}',
    )  # fmt: skip
    assert status == 0, err
    summary = json.loads((tmp_path / name / 'summary.json').read_text())
    summaries.append(summary['methods'])
  device, host = summaries
  assert device['federated'] == host['federated']
  assert 'local' in host
  rows = {path.name for path in (tmp_path / 'host').rglob('population/*/*')}
  assert rows == {'fleet_0'}
  assert not (tmp_path / 'device/population').exists()
