"""The contract of `python -m experiments.fedvtc`, as its user meets it."""

import contextlib
import io
import math

import jax
from jax.experimental.compilation_cache import compilation_cache
import numpy as np
from PIL import Image
import pytest

import fedjax_gen
from fedjax_gen.data import sources
from fedjax_gen.federation import FederationConfig
from fedjax_gen.running import federated_step, stopping
from fedjax_gen.streaming import host_blocks
from fedjax_gen.studies import options
from fedjax_gen.studies.command import program
from fedjax_gen.studies.fedvtc import vtc_judge, vtc_methods, vtc_study
from tests.studies.runs import Page, Run

# The least that still has every part.
_SMALL = (
  '--num_clients=3',
  '--partition=classes',
  '--classes_per_client=4',
  '--architectures=mlp,mlp',
  '--width=0.01',
  '--feature_size=4',
  '--vtc_channels=8',
  '--synthetic_per_class=2',
  '--rounds=2',
  '--rounds_per_step=1',
  '--eval_every=1',
  '--checkpoint_every=1',
  '--test_fraction=0.3',
)


def _execute(workdir, *args):
  out, err = io.StringIO(), io.StringIO()
  argv = ['fedvtc', f'--workdir={workdir}', *args]
  with (
    pytest.MonkeyPatch.context() as patch,
    contextlib.redirect_stdout(out),
    contextlib.redirect_stderr(err),
  ):
    patch.setattr(program, '_prepare_jax', lambda cache: None)
    status = program.execute(vtc_study.PROGRAM, argv)
  return Run(workdir, args, status, out.getvalue(), err.getvalue())


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder of runs, and of what was compiled for them."""
  folder = tmp_path_factory.mktemp('fedvtc')
  settings = {
    'jax_compilation_cache_dir': str(folder / 'programs'),
    'jax_persistent_cache_min_compile_time_secs': 0.05,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield folder
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture(scope='module')
def finished(folder, digits_file):
  """FedVTC beside three others, with an attack."""
  return _execute(
    folder / 'run',
    f'--data={digits_file}',
    '--baselines=local,FedProto,CCVR',
    '--ablations=no_dm',
    '--attack',
    *_SMALL,
  )


def test_a_run_leaves_what_it_should(finished):
  assert finished.status == 0, finished.err
  for name in (
    'config.json', 'inputs.json', 'metrics.jsonl', 'summary.json',
    'report.html',
  ):  # fmt: skip
    assert (finished.workdir / name).stat().st_size
  for picture in (
    'methods', 'curves', 'bytes', 'missing_classes', 'synthetic', 'features',
    'partition',
  ):  # fmt: skip
    Image.open(finished.workdir / 'samples' / f'{picture}.png').verify()


def test_metrics_are_finite_numbers_and_in_range(finished):
  methods = finished.summary()['methods']
  assert list(methods) == [
    'FedVTC',
    'FedVTC-no_dm',
    'local',
    'FedProto',
    'CCVR',
  ]
  for values in methods.values():
    assert all(math.isfinite(value) for value in values.values())
    for name in ('accuracy', 'missing_class_accuracy', 'local_accuracy'):
      assert 0 <= values[name] <= 1
    assert values['accuracy_worst'] <= values['accuracy']
  assert methods['local']['missing_class_accuracy'] == 0
  assert 'head_accuracy' in methods['FedProto']
  attacked = [n for n in methods['FedVTC'] if n.startswith('attack_search')]
  assert attacked


def test_bytes_are_those_of_what_crosses_the_boundary(finished):
  summary = finished.summary()
  methods = summary['methods']
  assert methods['local']['bytes_up'] == methods['local']['bytes_down'] == 0
  # FedProto: C rows of F floats down and which of C are known, four classes
  # of F floats and a weight up.
  assert methods['FedProto']['bytes_up'] <= 4 * (4 * 4 + 4)
  assert summary['bytes_up_per_client_round'] == methods['FedVTC']['bytes_up']
  # The generator dwarfs the statistics.
  assert methods['FedVTC']['bytes_up'] > 10 * methods['FedProto']['bytes_up']


def test_the_report_names_every_method_and_shows_the_attack(finished):
  page = (finished.workdir / 'report.html').read_text()
  for name in finished.summary()['methods']:
    assert name in page
  assert 'What the statistics give away' in page
  assert 'http://' not in page and 'https://' not in page


@pytest.fixture(scope='module')
def alone(folder, digits_file):
  """FedVTC alone."""
  run = _execute(
    folder / 'alone', f'--data={digits_file}', '--baselines=none', *_SMALL
  )
  assert run.status == 0, run.err
  return run


@pytest.mark.parametrize('on_host', [False, True])
def test_an_interrupted_run_ends_with_the_same_bits(
  finished, alone, folder, digits_file, monkeypatch, on_host
):
  """Wherever the population lies, of which one client is measured at a time."""
  monkeypatch.setattr(host_blocks, '_BLOCK_BYTES', 1)
  args = (f'--data={digits_file}', '--baselines=none', *_SMALL)
  workdir = folder / f'stopped_{on_host}'
  if on_host:
    args += ('--population_on_host=true',)
  make, calls = federated_step.federated_step, []

  def stopping_at_the_second(*arguments):
    step = make(*arguments)

    def stopped(state, num_rounds):
      calls.append(num_rounds)
      if len(calls) == 2:
        raise stopping.StoppedError(15)
      return step(state, num_rounds)

    return stopped

  with monkeypatch.context() as patch:
    patch.setattr(federated_step, 'federated_step', stopping_at_the_second)
    assert _execute(workdir, *args).status == 128 + 15
  resumed = _execute(workdir, *args)
  assert resumed.status == 0, resumed.err
  digest = alone.summary()['params_digest']
  assert resumed.summary()['params_digest'] == digest
  # Of FedVTC alone: those of more methods are digested together.
  assert finished.summary()['params_digest'] != digest
  numbers, expected = (
    {
      name: value
      for name, value in run.summary()['methods']['FedVTC'].items()
      if name not in ('seconds', 'round_memory_bytes')
    }
    for run in (resumed, alone)
  )
  assert numbers == expected
  images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
  for client in range(3):
    said, expected = (
      fedjax_gen.load_clients(run.workdir).predict(images, client=client)
      for run in (resumed, alone)
    )
    np.testing.assert_array_equal(said, expected)


def test_images_may_stay_in_their_file(tmp_path):
  for split, num in (('train', 60), ('test', 12)):
    np.save(tmp_path / f'x_{split}.npy', np.zeros((num, 8, 8, 1), np.uint8))
    np.save(tmp_path / f'y_{split}.npy', np.arange(num) % 2)
  clients = vtc_judge.build_clients(
    sources.load(str(tmp_path)), FederationConfig(num_clients=4),
    ('mlp', 'cnn5'), 0.2, seed=0, measured=options.MeasuredConfig(),
    on_host=True,
  )  # fmt: skip
  assert clients.is_on_host
  for fleet in clients.datasets:
    assert isinstance(fleet.inputs, np.memmap)


def test_clients_can_be_protected(folder, digits_file):
  run = _execute(
    folder / 'private',
    f'--data={digits_file}',
    '--baselines=none',
    '--privacy=client',
    '--epsilon=8',
    '--delta=0.01',
    '--clip_norm=1',
    '--measured_clients=2',
    *_SMALL,
  )
  assert run.status == 0, run.err
  assert 'Privacy of one client' in run.err
  metrics = run.summary()['methods']['FedVTC']
  assert 7 < metrics['epsilon'] <= 8
  assert (run.workdir / 'ledger.json').exists()
  # One of each architecture was measured, and is there to be asked.
  assert fedjax_gen.load_clients(run.workdir).clients == ((0,), (1,))
  assert 'Privacy' in Page(run.workdir / 'report.html').headings


def test_what_is_given_away_tells_nothing_of_classifiers(folder, digits_file):
  run = _execute(
    folder / 'given' / 'run',
    f'--data={digits_file}',
    '--baselines=local',
    '--privacy=client',
    '--accountant=rdp',
    '--epsilon=100',  # so that some classes are known for certain
    *_SMALL,
  )
  assert run.status == 0, run.err
  page = Page(run.workdir / 'release/report.html')
  # Of clients' classifiers, which train without noise, nothing is told.
  assert (page.images, page.curves) == (1, 0)
  assert {path.stem for path in run.workdir.rglob('*.png')} == {'synthetic'}
  told = {'accuracy', 'Accuracy, %', 'local_accuracy', 'best_accuracy'}
  assert not told & page.heads()
  assert {'FedVTC', 'bytes_up'} <= page.heads()
  assert 'local' not in page.heads()
  given = run.workdir / 'release'
  assert {path.name for path in (given / 'models').iterdir()} == {
    'FedVTC.json', 'FedVTC.msgpack',
  }  # fmt: skip
  images, _ = fedjax_gen.load(given).sample(3)
  np.testing.assert_array_equal(
    images, fedjax_gen.load(run.workdir).sample(3)[0]
  )


def test_what_clients_keep_is_shown_if_asked_for(folder, digits_file):
  run = _execute(
    folder / 'asked' / 'run',
    f'--data={digits_file}',
    '--baselines=local',
    '--privacy=client',
    '--accountant=rdp',
    '--epsilon=100',
    '--vtc_scope=local',
    '--show_real',
    *_SMALL,
  )
  assert run.status == 0, run.err
  page = Page((run.workdir / 'report.html').resolve())
  assert {path.stem for path in (run.workdir / 'private').rglob('*.png')} == {
    'methods', 'curves', 'bytes', 'missing_classes', 'synthetic', 'features',
    'partition',
  }  # fmt: skip
  marked = [c for c in page.captions if c.endswith(': not protected.')]
  assert len(marked) == page.images == 7
  assert {'accuracy', 'local'} <= page.heads()
  # Generators of single clients are theirs.
  released = {path.name for path in (run.workdir / 'release').rglob('*.*')}
  assert released == {'ledger.json'}
  assert fedjax_gen.load(run.workdir).name == 'FedVTC'


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (['--privacy=record', '--epsilon=3'], 'privacy=client'),
    (['--baselines=FedNothing'], 'FedNothing'),
    (['--baselines=local,local'], 'each of baselines once'),
    (['--ablations=no_such'], 'no_such'),
    (['--architectures=lenet'], 'lenet'),
    (['--num_clients=1', '--partition=iid'], '2 architectures'),
    (['--local_test_fraction=1'], 'local_test_fraction'),
    (['--vtc_scope=global'], 'global'),
    (['--data=digits_features'], 'Expected images'),
    (['--vtc_channels=8,8,8,8'], 'vtc_channels'),
    (['--num_examples=-1'], 'num_examples'),
    (
      ['--population_on_host', '--vtc_scope=local'],
      "vtc_scope='federated' with population_on_host",
    ),
  ],
)
def test_mistakes_are_answered_before_anything_is_written(
  folder, digits_file, args, message
):
  workdir = folder / 'refused'
  given = [] if any(a.startswith('--data=') for a in args) else [
    f'--data={digits_file}'
  ]  # fmt: skip
  run = _execute(workdir, *given, *_SMALL, *args)
  assert run.status == 2
  assert message in run.err
  assert len(run.err.splitlines()) <= 15
  assert not workdir.exists()


def test_every_baseline_can_be_built_and_has_words():
  assert vtc_methods.baselines(('all',)) == list(vtc_methods.BASELINES)
  assert vtc_methods.baselines(('none',)) == []
  assert vtc_methods.ablations(('head_only', 'no_dm')) == ['no_dm', 'head_only']
  for name in vtc_methods.BASELINES:
    assert vtc_methods.in_words(name)
  for name in vtc_methods.ABLATIONS:
    assert vtc_methods.in_words(vtc_methods.row(name))


def test_help_has_every_flag_within_80_columns(capsys):
  assert program.execute(vtc_study.PROGRAM, ['fedvtc', '-h']) == 0
  text = capsys.readouterr().out
  for flag in ('--baselines', '--vtc_scope', '--fedtgp_', '--epsilon'):
    assert flag in text
  assert np.max([len(line) for line in text.splitlines()]) <= 80
