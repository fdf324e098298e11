"""What is FedHypeVAE's alone; what all programs owe is in `programs_test`."""

import functools
import signal
import sys

import numpy as np
import pytest

import fedjax_gen
from fedjax_gen.data import sources
from fedjax_gen.federation import FederationConfig
from fedjax_gen.running import stopping, training
from fedjax_gen.studies import options
from fedjax_gen.studies.fedhypevae import hype_clients, hype_methods
from tests.studies.runs import Page
from tests.studies.systems import FEDHYPEVAE

# The tests of a system look at one run: one worker makes it.
pytestmark = pytest.mark.xdist_group('fedhypevae')

_METHODS = hype_methods.DEFAULT
_REPEATED = FEDHYPEVAE.whole
_TRAINED = FEDHYPEVAE.methods
_UPLOADS = FEDHYPEVAE.uploads
_GENERATORS = (*_UPLOADS, 'FedHypeVAE', 'DP-CVAE', 'DP-CGAN')


@pytest.fixture(scope='module')
def run(launch):
  return functools.partial(launch, FEDHYPEVAE)


@pytest.fixture(scope='module')
def finished(finished_of):
  return finished_of(FEDHYPEVAE)


@pytest.fixture
def untrained(run, monkeypatch, tmp_path):
  """Runs a command line up to its first training, of which a round is traced.

  Returns what was said, and the rounds that would be trained.
  """

  def try_out(*args):
    asked = []

    def train(*, schedule, **unused):
      asked.append(schedule.num_rounds)
      raise stopping.StoppedError(signal.SIGTERM)

    monkeypatch.setattr(training, 'train', train)
    stopped = run(tmp_path / str(len(list(tmp_path.iterdir()))), *args)
    assert stopped.status == 143, stopped.err
    return stopped.out + stopped.err, asked[0]

  return try_out


def test_the_summary_tells_what_each_method_sends(finished):
  summary = finished.summary()
  assert list(summary['bytes']) == list(_TRAINED)
  # Of 4 features in 2 classes: a triangle, sums and counts, once.
  sent = {'up': 4 * (4 * 5 // 2 + 2 * 4 + 2), 'down': 0}
  assert summary['bytes']['ClassGaussians'] == sent


def test_every_method_is_measured_by_its_rule(finished):
  metrics = finished.summary()['methods']
  scores = {
    f'{scope}{score}'
    for scope in ('', 'global_')
    for score in ('accuracy', 'balanced_accuracy', 'auc')
  }
  for method, found in metrics.items():
    assert scores <= set(found), method
    assert 'balanced_accuracy_worst' in found, method
    is_generator = method.removesuffix('-clients') in _GENERATORS
    assert ('interpolation_lambda' in found) == (
      is_generator or method == 'FedLambda'
    )
    of_data = {'synthetic_accuracy', 'mmd', 'class_mmd', 'membership_auc'}
    assert (of_data <= set(found)) == is_generator, method
    assert not [n for n in found if n.startswith(('local_', 'interpolated_'))]
  # At a share of one or none the interpolated rule is one of its ends.
  for method in (*_GENERATORS, 'FedLambda'):
    if metrics[method]['interpolation_lambda'] == 1.0:
      for score in scores:
        assert metrics[method][score] == metrics['local'][score]


def test_all_methods_keep_to_the_same_budget(finished):
  metrics = finished.summary()['methods']
  for method in _METHODS:
    assert 7.9 < metrics[method]['nominal_epsilon'] <= 8.0, method
    assert metrics[method]['delta'] == metrics['FedHypeVAE']['delta']
    assert 'epsilon' not in metrics[method]  # of noise from a public seed
  nominal = metrics['FedAvg']['nominal_epsilon']
  assert metrics['FedLambda']['nominal_epsilon'] == nominal
  assert 'nominal_epsilon' not in metrics['local']


def test_the_report_has_a_section_for_every_question(finished):
  page = Page(finished.workdir / 'report.html')
  assert page.images == 5
  assert page.headings == [
    'Results', 'Real and synthetic embeddings', 'Who gains', 'Privacy',
    'Codes of the clients', 'Between two clients', 'Training',
    'Clients and communication', 'All metrics', 'Use the model',
    'Settings and environment',
  ]  # fmt: skip


_SHOWN = (
  'Results', 'Synthetic embeddings', 'Privacy', 'Codes of the clients',
  'Between two clients', 'Clients and communication', 'All metrics',
  'Use the model', 'Settings and environment',
)  # fmt: skip


@pytest.mark.parametrize(
  ('privacy', 'pictures'),
  [
    ('record_joint', {'embeddings', 'codes', 'way'}),
    ('client', {'embeddings'}),
  ],
)
def test_what_is_given_away_shows_nothing_real(run, privacy, pictures):
  made = run(
    f'given_{privacy}/run', f'--privacy={privacy}',
    '--methods=FedHypeVAE,FedAvg,FedLambda',
  )  # fmt: skip
  assert made.status == 0, made.err
  given = made.workdir / 'release'
  assert {path.stem for path in given.rglob('*.png')} == pictures
  assert not list((made.workdir / 'private').rglob('*.png'))
  page = Page(given / 'report.html')
  assert (page.images, page.curves) == (len(pictures), 0)
  codes = {'Codes of the clients', 'Between two clients'}
  assert page.headings == [
    title for title in _SHOWN if 'way' in pictures or title not in codes
  ]
  assert {'FedHypeVAE', 'FedAvg', 'synthetic_accuracy'} <= page.heads()
  rows = {'local', 'FedLambda', 'membership_auc', 'Membership AUC', 'east'}
  assert not page.heads() & {*rows, 'interpolation_lambda'}
  # Scores are of what is shared alone: clients' own classifiers are theirs.
  metrics = made.summary()['methods']
  assert 'membership_auc' not in metrics['FedHypeVAE']
  alone = metrics['FedHypeVAE']['synthetic_balanced_accuracy']
  [table] = [t for t in page.tables if t[0][0] == 'Method' and 'ε' in t[0][-1]]
  [ours] = [row for row in table if row[0].strip() == 'FedHypeVAE']
  assert f'{100 * alone:.1f}' in ours[2]
  assert not [c for c in page.captions if '(east)' in c or '(west)' in c]


def test_the_published_formulas_are_not_given_away(run):
  made = run(
    'paper/run', '--privacy=paper', '--accept_no_guarantee',
    '--methods=FedHypeVAE,DP-CVAE',
  )  # fmt: skip
  assert made.status == 0, made.err
  models = {path.stem for path in made.workdir.rglob('release/models/*')}
  assert models == {'DP-CVAE'}
  assert (made.workdir / 'private/models/FedHypeVAE.json').exists()
  page = Page(made.workdir / 'release/report.html')
  assert 'Codes of the clients' not in page.headings
  assert 'Warning: FedHypeVAE is NOT private' in page.headings


def test_the_log_has_every_round_of_every_method(finished):
  for method in _UPLOADS:
    [record] = finished.records(method)
    assert (record['round'], record['participants']) == (1, 3)
  for method in set(_TRAINED) - set(_UPLOADS):
    records = finished.records(method)
    assert [record['round'] for record in records] == [1, 2], method
    assert records[0]['participants'] == 3
    assert 0 <= records[0]['share_clipped'] <= 1
  assert {'loss', 'reconstruction', 'kl', 'mmd'} <= set(
    finished.records('FedHypeVAE')[0]
  )


def test_saved_generators_generate(finished):
  first = {}
  kinds = {
    'FedHypeVAE': 'hyper',
    'DP-CVAE': 'hyper',
    'ClassGaussians': 'gaussians',
    'DP-MERF': 'features',
  }
  for method, kind in kinds.items():
    model = fedjax_gen.load(finished.workdir, method)
    assert (model.name, model.kind) == (method, kind)
    inputs, labels = model.sample(6, seed=0)
    assert inputs.shape == (6, 4)
    assert np.isfinite(inputs).all()
    assert set(labels) <= {0, 1}
    first[method] = inputs
  assert not np.array_equal(first['FedHypeVAE'], first['DP-CVAE'])
  assert fedjax_gen.load(finished.workdir).name == 'FedHypeVAE'


def test_pretrained_generators_run_beside_the_others_and_are_saved(run):
  names = ('FedHypeVAE-pretrained', 'DP-CVAE-pretrained')
  done = run('pretrained', f'--methods={",".join(names)}')
  assert done.status == 0, done.err
  metrics = done.summary()['methods']
  rows = [names[0], f'{names[0]}-clients', names[1], 'local']
  assert list(metrics) == rows
  for name in names:
    assert 7.9 < metrics[name]['epsilon'] <= 8.0
    assert len(done.records(f'{name}-gaussians')) == 1
    assert len(done.records(name)) == 2
    inputs, _ = fedjax_gen.load(done.workdir, name).sample(4)
    assert np.isfinite(inputs).all()


def test_class_gaussians_alone_and_without_privacy_know_the_classes(run):
  done = run(
    'gaussians', '--methods=ClassGaussians', '--privacy=none',
    '--population_on_host=true', '--gaussians=by_class',
  )  # fmt: skip
  assert done.status == 0, done.err
  found = done.summary()['methods']['ClassGaussians']
  assert found['synthetic_balanced_accuracy'] > 0.8
  assert 'epsilon' not in found
  inputs, labels = fedjax_gen.load(done.workdir).sample(2000)
  gap = inputs[labels == 1].mean(0) - inputs[labels == 0].mean(0)
  # 2 but for records with a norm above 2, which are clipped to it.
  assert 1.2 < gap[0] < 2.2
  np.testing.assert_allclose(gap[1:], 0, atol=0.4)


def test_some_clients_alone_can_be_measured():
  clients = hype_clients.build_clients(
    sources.load('digits_features'),
    FederationConfig(num_clients=6),
    'standardise',
    seed=0,
    measured=options.MeasuredConfig(2),
  )
  assert clients.measured.tolist() == [0, 3]
  assert clients.data.num_clients == 6  # all train
  rows = clients.rows
  for part in (rows.train, rows.validation, rows.test):
    assert part.num_clients == 2
    assert set(part.rows(1)) <= set(clients.partition.rows(3))
  total = sum(len(part.rows(1)) for part in (rows.train, rows.validation,
                                             rows.test))  # fmt: skip
  assert total == clients.partition.sizes[3]


def test_embeddings_may_stay_in_their_file(tmp_path):
  for split, num in (('train', 60), ('test', 12)):
    inputs = np.random.default_rng(num).normal(size=(num, 3))
    np.save(tmp_path / f'x_{split}.npy', inputs.astype(np.float32))
    np.save(tmp_path / f'y_{split}.npy', np.arange(num) % 2)
  source = sources.load(str(tmp_path))
  for normalise, is_in_file in (('none', True), ('standardise', False)):
    clients = hype_clients.build_clients(
      source, FederationConfig(num_clients=4), normalise, seed=0,
      measured=options.MeasuredConfig(), on_host=True,
    )  # fmt: skip
    for inputs in (clients.data.inputs, clients.rows.inputs):
      assert isinstance(inputs, np.memmap) == is_in_file


@pytest.mark.parametrize(
  'args',
  [
    ('--privacy=none',),
    ('--privacy=record_joint', '--local_mode=epochs'),
    (
      '--noise_placement=distributed',
      '--methods=ClassGaussians,FedHypeVAE,DP-CVAE',
    ),
    ('--privacy=record_server_code',),
    ('--privacy=client',),
    ('--epsilon=inf',),
  ],
  ids=lambda args: ' '.join(args),
)
def test_every_kind_of_privacy_can_be_traced(untrained, args):
  """A round of all methods, as far as shapes and budgets go."""
  said, rounds = untrained(*args)
  assert rounds == 1  # of the first method, of one upload
  assert ('Privacy of one' in said) == (args[0] != '--privacy=none')
  assert 'nominal' not in said


def test_an_audit_stands_beside_epsilon_and_changes_no_other_number(
  finished, run
):
  pytest.importorskip('jax_privacy')
  methods = '--methods=FedHypeVAE,FedLambda'
  audited = run('audited', methods, '--audit_canaries=20', *_REPEATED)
  assert audited.status == 0, audited.err
  found = audited.summary()['methods']
  for method in ('FedHypeVAE', 'FedHypeVAE-clients', 'FedLambda'):
    lower = found[method].pop('audit_epsilon_lower')
    assert 0 <= lower < found[method]['nominal_epsilon']
    assert found[method].pop('audit_canaries') == 20
  measured = finished.summary()['methods']
  assert found == {name: measured[name] for name in found}
  said = ' '.join(audited.err.split())
  for method in ('FedHypeVAE', 'FedAvg'):
    assert f'Audit of {method}: epsilon >= ' in said
    assert len(audited.records(f'{method}-audit')) == 2
  assert 'by 20 canaries; the accountant says epsilon <= ' in said
  page = (audited.workdir / 'report.html').read_text()
  assert 'ε at most, accountant' in page


def test_without_the_library_an_audit_is_refused(
  run, no_training, monkeypatch, tmp_path
):
  monkeypatch.setitem(sys.modules, 'jax_privacy', None)
  answered = run(tmp_path / 'refused', '--audit_canaries=20')
  assert (answered.status, answered.out) == (2, '')
  assert "pip install 'fedjax_gen[dp]'" in answered.err
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'args, words',
  [
    (['--privacy=none'], 'audit_canaries=0 where no method protects records'),
    (['--privacy=client'], 'no method protects records'),
    (['--methods=DP-CGAN'], 'no method protects records'),
    (['--audit_canaries=58'], 'audit_canaries <= 46'),
    (
      ['--noise_placement=distributed', '--methods=FedHypeVAE'],
      'noise_placement=local with audit_canaries',
    ),
  ],
)
def test_what_cannot_be_audited_is_refused(
  run, no_training, tmp_path, args, words
):
  pytest.importorskip('jax_privacy')
  answered = run(tmp_path / 'refused', '--audit_canaries=9', *args)
  assert (answered.status, answered.out) == (2, '')
  assert words in answered.err
  assert not list(tmp_path.iterdir())


def test_the_published_formulas_are_never_called_private(untrained):
  said, _ = untrained('--privacy=paper', '--accept_no_guarantee')
  [ours] = [line for line in said.splitlines() if 'FedHypeVAE' in line]
  assert 'FedHypeVAE: NOT private' in ours
  assert 'nominal epsilon, NOT a guarantee' in ours
  assert 'Privacy of' not in ours
  assert 'DP-CVAE and DP-CGAN: Privacy of one record' in said
  assert 'ClassGaussians and DP-MERF: Privacy of one record' in said


def test_a_budget_that_ends_early_leaves_fewer_rounds(untrained):
  args = ('--noise_multiplier=3', '--rounds=400', '--methods=FedHypeVAE')
  said, rounds = untrained('--epsilon=3', *args)
  assert 1 <= rounds < 400
  assert f'{rounds} rounds of 1 steps' in said
  assert '400 rounds were asked for' in said
  _, more = untrained('--epsilon=4', *args)
  assert rounds < more < 400


@pytest.mark.parametrize(
  'args, words',
  [
    (['--data=digits'], 'experiments.embed'),
    (['--privacy=paper'], '--accept_no_guarantee'),
    (['--privacy=everyone'], 'record_joint, record_server_code'),
    (['--epsilon=0'], 'epsilon=0'),
    (['--epsilon=-1'], 'epsilon=-1'),
    (['--epsilon=0.001', '--noise_multiplier=0.5'], 'epsilon=0.001'),
    (['--delta=1'], 'delta'),
    (
      ['--noise_placement=distributed', '--local_mode=epochs'],
      'local_mode=fedsgd',
    ),
    (
      ['--noise_placement=distributed', '--sampling=poisson'],
      'sampling=all',
    ),
    (['--audit_canaries=-1'], 'audit_canaries=-1'),
    (['--audit_confidence=1'], 'audit_confidence=1.0'),
    (['--moments_share=0'], 'moments_share'),
    (['--moments_share=1'], 'moments_share'),
    (['--gaussians_share=0'], 'gaussians_share'),
    (['--gaussians=banded'], 'pooled, by_class, diagonal'),
    (['--gaussian_rank=5'], 'gaussian_rank=5'),
    (['--merf_features=3'], 'merf_features=3'),
    (['--mmd_samples=1'], 'mmd_samples >= 2'),
    (['--methods=FedHyperVAE'], 'FedHyperVAE'),
    (['--methods='], 'methods'),
    (['--methods=FedAvg,FedAvg'], 'FedAvg,FedAvg'),
    (['--codes=mine'], 'meta_by_class, clients'),
    (['--synthetic_per_class=0'], 'synthetic_per_class=0'),
    (['--head=none'], 'row_scaled, full, constant'),
    (['--normalise=batch'], 'standardise, sphere'),
    (['--latent_size=0'], 'latent_size=0'),
    (['--beta=-1'], 'beta=-1.0'),
    (['--meta_steps=0'], 'meta_steps=0'),
    (['--head_epochs=0'], 'head_epochs=0'),
    (['--linear_rounds=0'], 'linear_rounds=0'),
    (['--gan_latent_size=0'], 'gan_latent_size=0'),
    (['--num_clients=999'], '999'),
    (
      ['--privacy=record_server_code', '--head=full'],
      'row_scaled',
    ),
    (
      ['--privacy=record_server_code', '--local_mode=epochs'],
      "local_mode='fedsgd'",
    ),
  ],
)  # fmt: skip
def test_a_mistake_is_answered_before_anything_begins(
  run, no_training, tmp_path, args, words
):
  answered = run(tmp_path / 'mistaken', *args)
  assert (answered.status, answered.out) == (2, '')
  assert words in answered.err
  assert 'Traceback' not in answered.err
  assert len(answered.err.splitlines()) <= 5
  assert not list(tmp_path.iterdir())
