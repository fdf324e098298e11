"""What is FedVTC's alone; what all programs owe stands in `programs_test`."""

import functools

import numpy as np
import pytest

import fedjax_gen
from fedjax_gen.data import sources
from fedjax_gen.federation import FederationConfig
from fedjax_gen.studies import options
from fedjax_gen.studies.fedvtc import vtc_judge, vtc_methods
from tests.studies.runs import Page
from tests.studies.systems import FEDVTC

# The tests of a system look at one run: one worker makes it.
pytestmark = pytest.mark.xdist_group('fedvtc')


@pytest.fixture(scope='module')
def run(launch):
  return functools.partial(launch, FEDVTC)


@pytest.fixture(scope='module')
def finished(finished_of):
  return finished_of(FEDVTC)


def test_accuracies_are_in_range_and_an_attack_is_measured(finished):
  methods = finished.summary()['methods']
  for values in methods.values():
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


def test_clients_can_be_protected(run):
  made = run(
    'private/run',
    '--baselines=none',
    '--privacy=client',
    '--epsilon=8',
    '--delta=0.01',
    '--clip_norm=1',
    '--measured_clients=2',
  )
  assert made.status == 0, made.err
  assert 'Privacy of one client' in made.err
  metrics = made.summary()['methods']['FedVTC']
  assert 7 < metrics['epsilon'] <= 8
  assert (made.workdir / 'ledger.json').exists()
  # One of each architecture was measured, and is there to be asked.
  assert fedjax_gen.load_clients(made.workdir).clients == ((0,), (1,))
  assert 'Privacy' in Page(made.workdir / 'report.html').headings


def test_what_is_given_away_tells_nothing_of_classifiers(run):
  made = run(
    'given/run',
    '--baselines=local',
    '--privacy=client',
    '--accountant=rdp',
    '--epsilon=100',  # so that some classes are known for certain
  )
  assert made.status == 0, made.err
  page = Page(made.workdir / 'release/report.html')
  # Of clients' classifiers, which train without noise, nothing is told.
  assert (page.images, page.curves) == (1, 0)
  assert {path.stem for path in made.workdir.rglob('*.png')} == {'synthetic'}
  told = {'accuracy', 'Accuracy, %', 'local_accuracy', 'best_accuracy'}
  assert not told & page.heads()
  assert {'FedVTC', 'bytes_up'} <= page.heads()
  assert 'local' not in page.heads()
  given = made.workdir / 'release'
  assert {path.name for path in (given / 'models').iterdir()} == {
    'FedVTC.json', 'FedVTC.msgpack',
  }  # fmt: skip
  images, _ = fedjax_gen.load(given).sample(3)
  np.testing.assert_array_equal(
    images, fedjax_gen.load(made.workdir).sample(3)[0]
  )


def test_what_clients_keep_is_shown_if_asked_for(run):
  made = run(
    'asked/run',
    '--baselines=local',
    '--privacy=client',
    '--accountant=rdp',
    '--epsilon=100',
    '--vtc_scope=local',
    '--show_real',
  )
  assert made.status == 0, made.err
  page = Page((made.workdir / 'report.html').resolve())
  assert {path.stem for path in (made.workdir / 'private').rglob('*.png')} == {
    'methods', 'curves', 'bytes', 'missing_classes', 'synthetic', 'features',
    'partition',
  }  # fmt: skip
  marked = [c for c in page.captions if c.endswith(': not protected.')]
  assert len(marked) == page.images == 7
  assert {'accuracy', 'local'} <= page.heads()
  # Generators of single clients are theirs.
  released = {path.name for path in (made.workdir / 'release').rglob('*.*')}
  assert released == {'ledger.json'}
  assert fedjax_gen.load(made.workdir).name == 'FedVTC'


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
  run, no_training, args, message
):
  refused = run('refused', *args)
  assert refused.status == 2
  assert message in refused.err
  assert len(refused.err.splitlines()) <= 15
  assert not refused.workdir.exists()


def test_every_baseline_can_be_built_and_has_words():
  assert vtc_methods.baselines(('all',)) == list(vtc_methods.BASELINES)
  assert vtc_methods.baselines(('none',)) == []
  assert vtc_methods.ablations(('head_only', 'no_dm')) == ['no_dm', 'head_only']
  for name in vtc_methods.BASELINES:
    assert vtc_methods.in_words(name)
  for name in vtc_methods.ABLATIONS:
    assert vtc_methods.in_words(vtc_methods.row(name))
