"""The contract of `python -m experiments.fedhypevae`, as its user meets it."""

import contextlib
import html.parser
import io
import math
import signal
import sys

import jax
from jax.experimental.compilation_cache import compilation_cache
import numpy as np
from PIL import Image
import pytest

import fedjax_gen
from fedjax_gen.data import sources
from fedjax_gen.federation import FederationConfig
from fedjax_gen.running import federated_step, stopping, training
from fedjax_gen.streaming import host_blocks
from fedjax_gen.studies import options
from fedjax_gen.studies.command import program
from fedjax_gen.studies.fedhypevae import hype_clients, hype_methods, hype_study
from tests.studies.runs import Page, Run

_METHODS = hype_methods.DEFAULT
# Noise that repeats, and a report with everything.
_REPEATED = ('--noise_seed=1', '--show_real')
_TRAINED = tuple(name for name in _METHODS if name != 'FedLambda')
_UPLOADS = ('ClassGaussians', 'DP-MERF')
_GENERATORS = (*_UPLOADS, 'FedHypeVAE', 'DP-CVAE', 'DP-CGAN')
# The least that still has every part.
_SMALL = (
  '--partition=iid',
  '--num_clients=3',
  '--hidden_sizes=8',
  '--latent_size=2',
  '--hyper_size=8',
  '--code_size=3',
  '--mmd_samples=2',
  '--batch_size=8',
  '--gan_hidden_sizes=8',
  '--gan_latent_size=2',
  '--merf_features=20',
  '--merf_steps=5',
  '--pretrain_steps=5',
  '--rounds=2',
  '--rounds_per_step=1',
  '--eval_every=2',
  '--checkpoint_every=1',
  '--linear_rounds=2',
  '--meta_steps=5',
  '--meta_samples=8',
  '--synthetic_per_class=20',
  '--head_epochs=20',
  '--accountant=rdp',  # quicker than pld
)


_SAVED = ('FedHypeVAE', 'DP-CVAE', 'ClassGaussians', 'DP-MERF')
_PICTURES = ('partition', 'embeddings', 'clients', 'codes', 'way')


def _write_embeddings(path, num=180):
  """Two classes, four features, in two domains that are far apart."""
  rng = np.random.default_rng(0)
  labels, domains = np.arange(num) % 2, np.arange(num) // 2 % 2
  inputs = 0.5 * rng.normal(size=(num, 4))
  inputs[:, 0] += 2 * labels
  inputs[:, 1] += 2 * domains
  np.savez(
    path,
    x=inputs.astype(np.float32),
    y=labels,
    groups=np.array(['east', 'west'])[domains],
  )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder of data, runs and caches."""
  folder = tmp_path_factory.mktemp('fedhypevae')
  _write_embeddings(folder / 'embeddings.npz')
  return folder


@pytest.fixture(scope='module')
def run(folder):
  """Runs a command line in the folder; what was compiled is kept there."""

  def run(name, *args):
    workdir = folder / name
    args = (
      f'--workdir={workdir}',
      f'--data={folder}/embeddings.npz',
      *_SMALL,
      *args,
    )
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      status = program.execute(hype_study.PROGRAM, ['fedhypevae', *args])
    return Run(workdir, args, status, out.getvalue(), err.getvalue())

  settings = {
    'jax_compilation_cache_dir': str(folder / 'programs'),
    'jax_persistent_cache_min_compile_time_secs': 0.05,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(program, '_prepare_jax', lambda cache: None)
    for name, value in settings.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield run
    for name, value in before.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope='module')
def finished(run) -> Run:
  """A finished run of all methods; not to be changed."""
  return run('whole', *_REPEATED)


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


@pytest.fixture
def no_training(monkeypatch):
  """Fails the test as soon as anything would be trained."""

  def train(*unused, **unused_too):
    raise AssertionError('training began')

  monkeypatch.setattr(training, 'train', train)


def test_a_run_ends_well_and_says_where_its_results_lie(finished):
  assert finished.status == 0, finished.err
  assert f'Results: {finished.workdir}' in finished.out
  said = finished.out + finished.err
  assert 'FedHypeVAE: Privacy of one record' in said
  for method in _TRAINED:
    num = 1 if method in _UPLOADS else 2
    assert f'{method}: {num}/{num}' in finished.err
  table = finished.out.splitlines()
  for method in (*_METHODS, 'local'):
    assert any(line.split()[:1] == [method] for line in table), method
  assert 'Traceback' not in finished.err


def test_the_summary_keeps_the_contract(finished):
  summary = finished.summary()
  assert summary['experiment'] == 'fedhypevae'
  assert (summary['seed'], summary['rounds']) == (0, 2)
  assert summary['data'].endswith('embeddings.npz')
  assert len(summary['params_digest']) == 64
  assert summary['compile_seconds'] > 0
  rows = [*_METHODS, 'local']
  rows.insert(rows.index('FedHypeVAE') + 1, 'FedHypeVAE-clients')
  assert list(summary['methods']) == rows
  assert list(summary['bytes']) == list(_TRAINED)
  # Of 4 features in 2 classes: a triangle, sums and counts, once.
  sent = {'up': 4 * (4 * 5 // 2 + 2 * 4 + 2), 'down': 0}
  assert summary['bytes']['ClassGaussians'] == sent
  for method, metrics in summary['methods'].items():
    for name, value in metrics.items():
      assert isinstance(value, float), (method, name)
      assert math.isfinite(value), (method, name)


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


def test_the_directory_holds_everything_the_contract_names(finished):
  names = {
    str(path.relative_to(finished.workdir))
    for path in finished.workdir.rglob('*')
  }
  wanted = {
    'config.json', 'private/inputs.json', 'metrics.jsonl', 'summary.json',
    'report.html', 'release/ledger.json',
    *(f'private/samples/{name}.png' for name in _PICTURES),
    *(f'release/models/{name}.msgpack' for name in _SAVED),
  }  # fmt: skip
  for method in _TRAINED:
    last = 1 if method in _UPLOADS else 2
    wanted.add(f'private/checkpoints/{method}/{last}')
    start = f'private/tensorboard/{method}/'
    assert any(n.startswith(start) for n in names)
  assert wanted <= names
  assert not [name for name in names if 'tmp' in name]
  for path in finished.workdir.rglob('*.png'):
    assert Image.open(path).format == 'PNG'


class _Page(html.parser.HTMLParser):
  """Collects whatever a page could load, and its headings."""

  def __init__(self, path):
    super().__init__()
    self.links, self.images, self.headings = [], 0, []
    self._heading = False
    self.feed(path.read_text(encoding='utf-8'))

  def handle_starttag(self, tag, attrs):
    self.images += tag == 'img'
    self._heading = tag == 'h2'
    self.links += [
      value
      for name, value in attrs
      if name in ('src', 'href', 'srcset', 'action', 'data')
    ]
    assert tag not in ('script', 'iframe', 'object', 'embed', 'base')

  def handle_data(self, data):
    if self._heading:
      self.headings.append(data)
      self._heading = False


def test_the_report_loads_nothing_and_shows_every_picture(finished):
  page = _Page(finished.workdir / 'report.html')
  assert all(link.startswith(('#', 'data:')) for link in page.links)
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


def test_a_finished_run_is_only_pointed_at(finished, run, no_training):
  before = (finished.workdir / 'summary.json').stat().st_mtime_ns
  again = run('whole', *_REPEATED)
  assert (again.status, again.err) == (0, '')
  assert 'This run is finished' in again.out
  assert (finished.workdir / 'summary.json').stat().st_mtime_ns == before


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


def test_a_population_on_the_host_gives_the_same_bits(
  finished, run, monkeypatch
):
  monkeypatch.setattr(host_blocks, '_BLOCK_BYTES', 1)  # one client at a time
  on_host = run(
    'on_host', '--methods=FedHypeVAE', '--population_on_host=true', *_REPEATED
  )
  assert on_host.status == 0, on_host.err
  measured = finished.summary()['methods']
  found = on_host.summary()['methods']
  assert found == {name: measured[name] for name in found}
  assert {'FedHypeVAE', 'FedHypeVAE-clients', 'local'} <= set(found)
  path = 'release/models/FedHypeVAE-clients.msgpack'  # the codes are in it
  assert (on_host.workdir / path).read_bytes() == (
    finished.workdir / path
  ).read_bytes()
  assert (on_host.workdir / 'private/population/FedHypeVAE/fleet_0').is_dir()


def test_stopped_and_resumed_a_method_ends_with_the_same_bits(
  finished, run, monkeypatch
):
  """Whatever is trained beside it, too: the other run has four more."""
  make_step = federated_step.federated_step

  def interrupted(*args):
    step = make_step(*args)

    def step_and_stop(state, num_rounds):
      result = step(state, num_rounds)
      signal.raise_signal(signal.SIGTERM)
      return result

    return step_and_stop

  with monkeypatch.context() as patch:
    patch.setattr(federated_step, 'federated_step', interrupted)
    stopped = run('stopped', '--methods=FedHypeVAE', *_REPEATED)
  assert stopped.status == 143
  assert 'Run the same command again to resume' in stopped.err
  assert not (stopped.workdir / 'summary.json').exists()
  assert (stopped.workdir / 'private/checkpoints/FedHypeVAE/1').exists()
  assert not (stopped.workdir / 'private/checkpoints/FedHypeVAE/2').exists()
  resumed = run('stopped', '--methods=FedHypeVAE', *_REPEATED)
  assert resumed.status == 0, resumed.err
  path = 'release/models/FedHypeVAE.msgpack'
  assert (resumed.workdir / path).read_bytes() == (
    finished.workdir / path
  ).read_bytes()
  assert resumed.records('FedHypeVAE') == finished.records('FedHypeVAE')
  measured = finished.summary()['methods']
  assert resumed.summary()['methods'] == {
    name: measured[name]
    for name in ('FedHypeVAE', 'FedHypeVAE-clients', 'local')
  }


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


def test_help_fits_a_terminal_and_names_what_there_is(capsys):
  status = program.execute(hype_study.PROGRAM, ['fedhypevae', '--help'])
  out = capsys.readouterr().out
  assert status == 0
  lines = out.splitlines()
  assert lines[0].startswith('Trains personal generators of embeddings')
  assert max(map(len, lines)) <= 80
  for name in (*_METHODS, 'accept_no_guarantee', '--codes', '--epsilon'):
    assert name in out
