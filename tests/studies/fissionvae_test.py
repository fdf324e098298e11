"""What is FissionVAE's alone; what all programs owe is in `programs_test`."""

import functools

import jax
import numpy as np
import pytest

import fedjax_gen
from fedjax_gen.algorithms import discovery as discovery_lib
from fedjax_gen.data import sources
from fedjax_gen.data.federated import federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.federated import collect
from fedjax_gen.federated.statistics import grouping as grouping_lib
from fedjax_gen.privacy import releases
from fedjax_gen.running.storage import groupings
from fedjax_gen.studies.command import program
from fedjax_gen.studies.fissionvae import fission_study
from fedjax_gen.studies.tools import generate_samples
from tests.studies.runs import Links, Page, Run
from tests.studies.systems import FISSIONVAE

# The tests of a system look at one run: one worker makes it.
pytestmark = pytest.mark.xdist_group('fissionvae')

_METHODS = FISSIONVAE.methods


@pytest.fixture(scope='module')
def folder(folder_of):
  return folder_of(FISSIONVAE)


@pytest.fixture(scope='module')
def run(launch):
  return functools.partial(launch, FISSIONVAE)


@pytest.fixture(scope='module')
def finished(finished_of):
  return finished_of(FISSIONVAE)


@pytest.fixture(scope='module')
def discovered(run, folder) -> Run:
  """A finished run that discovered its groups, on few images."""
  return run(
    'discovered',
    f'--data={folder}/few.npz',
    '--groups=discovered',
    '--num_newcomers=1',
    '--num_groups=2',
    '--warmup_rounds=1',
    '--methods=L+D',
  )


def test_every_method_is_measured_for_each_group(finished):
  metrics = finished.summary()['methods']
  images = {'group_leakage', 'num_generated', 'fid_kinds_classifier'}
  bounds = {'test_elbo', 'test_kl', 'test_reconstruction'}
  for method in (*_METHODS, 'real_data'):
    wanted = images if method in ('fedgan', 'real_data') else images | bounds
    for suffix in ('', '/digits', '/shapes'):
      names = {f'{name}{suffix}' for name in wanted}
      assert names <= set(metrics[method]), method
    assert 'group_mean_fid_kinds_classifier' in metrics[method]
    assert ('latent_separation' in metrics[method]) == ('test_elbo' in wanted)
  # In the proportions of the training data, alike for all.
  for method, own in metrics.items():
    numbers = [own[f'num_generated/{kind}'] for kind in ('digits', 'shapes')]
    assert min(numbers) > 0
    # Of real images those that the judge was fitted to are left out.
    assert numbers[0] == numbers[1] or method == 'real_data'


def test_a_group_costs_its_clients_nothing_but_its_number(finished):
  summary = finished.summary()
  sent = summary['bytes']
  assert set(sent) == set(_METHODS)
  assert sent['L+D']['up'] == sent['FedVAE']['up'] > 0
  # A client of L is told its group, one int32.
  assert sent['L+D']['down'] == sent['FedVAE']['down'] + 4
  assert sent['local'] == sent['central'] == {'up': 0, 'down': 0}
  assert sent['fedgan']['up'] > 0
  assert summary['bytes_up_per_client_round'] == sent['L+D']['up']
  assert summary['bytes_down_per_client_round'] == sent['L+D']['down']


def test_cohorts_of_all_fleets_are_logged_with_their_traffic(finished):
  summary = finished.summary()
  for method, clients in (
    ('FedVAE', 4), ('L+D', 4), ('L+D+het', 4), ('local', 5), ('central', 1),
    ('fedgan', 4),
  ):  # fmt: skip
    records = finished.records(method)
    assert [record['round'] for record in records] == [1, 2]
    if method != 'local':
      assert [record['participants'] for record in records] == [clients] * 2
    if method != 'L+D+het':  # whose fleets send models of two sizes
      up = summary['bytes'][method]['up']
      assert [r['bytes_up'] for r in records] == [clients * up] * 2
    assert 'group_leakage/shapes' not in records[0]
    assert 'group_leakage/shapes' in records[1]


def test_groups_of_private_clients_are_trained_and_accounted_for(run, folder):
  made = run(
    'private',
    f'--data={folder}/few.npz',
    '--methods=L+D,central',
    '--privacy=client',
    '--epsilon=3',
    '--noise_multiplier=3',
    '--rounds=40',
    '--rounds_per_step=40',
    '--eval_every=40',
    '--checkpoint_every=40',
  )
  assert made.status == 0, made.err
  assert '40 rounds were asked for' in made.err
  summary = made.summary()
  assert 1 < summary['rounds'] < 40
  for method in ('L+D', 'central'):
    assert len(made.records(method)) == summary['rounds']
  assert summary['methods']['L+D']['epsilon'] <= 3
  assert 'epsilon' not in summary['methods']['central']
  ledger = releases.from_json((made.workdir / 'ledger.json').read_text())
  assert list(ledger.parts) == ['L+D']
  assert len(ledger.parts['L+D'].histories) == 6
  assert ledger.alone('L+D').epsilon == summary['methods']['L+D']['epsilon']
  page = Links()
  page.feed((made.workdir / 'report.html').read_text(encoding='utf-8'))
  assert 'What L+D released' in page.text
  assert 'central trained without privacy' in page.text


@pytest.mark.parametrize('is_asked', [False, True])
def test_real_images_of_private_clients_are_shown_if_asked_for(
  run, folder, is_asked
):
  made = run(
    f'shown_{is_asked}/run',
    f'--data={folder}/few.npz',
    '--methods=FedVAE,L+D,central',
    '--privacy=client',
    '--accountant=rdp',
    f'--show_real={is_asked}',
  )
  assert made.status == 0, made.err
  given = made.workdir / 'release'
  models = {path.stem for path in (given / 'models').iterdir()}
  assert models == {'FedVAE', 'L+D'}
  assert (made.workdir / 'private/models/central.json').exists()
  assert fedjax_gen.load(given, 'L+D').sample(4, group='shapes')[0].any()
  page = Page((made.workdir / 'report.html').resolve())
  pictures = {path.stem for path in given.rglob('*.png')}
  kept = {path.stem for path in (made.workdir / 'private').rglob('*.png')}
  real = {'partition', 'between_L+D', 'between_FedVAE'}
  real |= {f'reconstructions_group_{group}' for group in range(2)}
  measured = made.summary()['methods']['L+D']
  assert ('latent_separation' in measured) == is_asked
  assert ('central' in page.heads()) == is_asked
  assert bool(page.curves) == is_asked
  if is_asked:
    assert pictures == set()
    assert kept == {'groups', *real}
    marked = [c for c in page.captions if c.endswith(': not protected.')]
    assert len(marked) == page.images == len(kept)
  else:
    assert (pictures, kept) == ({'groups'}, set())
    assert page.images == 1
    assert 'L+D' in page.heads()
    assert not [c for c in page.captions if 'central' in c or 'real' in c]


def test_saved_models_know_their_groups(finished):
  model = fedjax_gen.load(finished.workdir)
  assert (model.name, model.kind) == ('L+D', 'groups')
  assert [group.name for group in model.groups] == ['digits', 'shapes']
  assert [group.share for group in model.groups] == pytest.approx([0.5, 0.5])
  encoders, decoders, priors = (
    [own[name] for own in model.variables]
    for name in ('encoder', 'decoder', 'prior')
  )
  same = jax.tree.map(np.array_equal, *encoders)
  assert all(jax.tree.leaves(same))
  for parts in (decoders, priors):
    same = jax.tree.map(np.array_equal, *parts)
    assert not all(jax.tree.leaves(same))
  het = fedjax_gen.load(finished.workdir, 'L+D+het')
  assert [config.decoder for config in het.config] == ['mlp', 'conv']
  for method, kind in (
    ('FedVAE', 'groups'), ('local', 'groups'), ('central', 'vae'),
    ('fedgan', 'gan'),
  ):  # fmt: skip
    assert fedjax_gen.load(finished.workdir, method).kind == kind


def test_one_group_of_the_run_can_be_generated(
  finished, capsys, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  status = program.execute(
    generate_samples.PROGRAM,
    ['generate', f'--workdir={finished.workdir}', '--group=shapes', '--num=7'],
  )
  assert (status, capsys.readouterr().err) == (0, '')
  with np.load('synthetic.npz', allow_pickle=False) as file:
    assert file['x'].shape == (7, 8, 8, 1)
    assert file['groups'].tolist() == 7 * ['shapes']


def test_what_was_discovered_is_in_the_summary(discovered):
  assert discovered.status == 0, discovered.err
  assert 'Discovered 2 groups' in discovered.err
  summary = discovered.summary()
  found = summary['discovery']
  # The newcomer is the middle one of the six clients.
  assert found['true'] == [0, 0, 1, 1, 1]
  assert len(found['groups']) == 5
  assert (found['num_groups'], found['warmup_rounds']) == (2, 1)
  assert found['newcomers'] == 1
  assert found['newcomer_accuracy'] in (0.0, 1.0)
  # Three moments of four latents and their errors, in float32.
  assert found['bytes_per_client'] == 2 * 3 * 4 * 4
  # Digits and negatives of digits are told apart by any encoder.
  assert found['accuracy'] == found['adjusted_rand_index'] == 1.0
  assert found['newcomer_accuracy'] == 1.0
  assert list(summary['methods']) == ['L+D']  # no FID, so no real data
  assert [r['round'] for r in discovered.records('warmup')] == [1]
  assert [r['participants'] for r in discovered.records('L+D')] == [4, 4]


def test_a_newcomer_finds_its_group_from_what_the_run_left(discovered, folder):
  grouping = groupings.load_grouping(discovered.workdir / 'grouping.npz')
  found = discovered.summary()['discovery']['groups']
  np.testing.assert_array_equal(grouping.groups, found)
  model = fedjax_gen.load(discovered.workdir, 'warmup')
  train = sources.load(str(folder / 'few.npz')).train
  kinds = np.asarray(train.groups)
  order = np.argsort(kinds, kind='stable').astype(np.int32)
  sizes = np.bincount(kinds).astype(np.int32)
  newcomers = federated_dataset(
    train.inputs,
    train.labels,
    Partition(order, sizes, np.zeros(2, np.int32), 'one of each kind'),
  )
  report = discovery_lib.posterior_statistics(model.vae)
  statistics = collect.collect(
    report, model.variables, newcomers, jax.random.key(1)
  )
  assigned = grouping_lib.assign(grouping, statistics.values)
  np.testing.assert_array_equal(assigned, [found[0], found[-1]])
  # And has a model of its own there.
  assert len(fedjax_gen.load(discovered.workdir).groups) == 2


@pytest.mark.parametrize(
  ('args', 'words'),
  [
    (['--methods=M'], "methods='M'"),
    (['--methods='], "methods=''"),
    (['--methods=L+D,L+D'], 'each of methods once, got L+D,L+D'),
    (['--methods=D+L,L+D'], 'each of methods once, got D+L,L+D'),
    (['--methods=L+L'], "methods='L+L'"),
    (['--methods=FedVAE+L'], "methods='FedVAE+L'"),
    (['--methods=het'], 'D with het, decoders of groups to be of'),
    (['--methods=L+het'], "methods='L+het'"),
    (['--families=conv,dense'], "families='dense'"),
    (['--families='], "families=''"),
    (['--central_epochs=-1'], 'central_epochs=-1.0'),
    (['--data=digits'], 'series or a table with groups'),
    (['--data=digits', '--partition=iid'], "got data='digits'"),
    (['--data=features.npz'], "got data='features.npz'"),
    (['--data=groups:/none/such'], '/none/such'),
    (['--partition=iid'], 'several: use --partition=groups'),
    (['--partition=iid', '--clients_per_group=3'], "partition='iid'"),
    (['--partition=iid', '--group_alpha=1'], "partition='iid'"),
    (['--clients_per_group=1,2,3'], 'clients_per_group=[1, 2, 3]'),
    (['--clients_per_group=2,0'], 'clients_per_group=0'),
    (['--clients_per_group=2,x'], 'clients_per_group'),
    (['--clients_per_group=2,99'], '99'),
    (['--num_clients=5'], 'multiple of the 2 groups'),
    (['--num_newcomers=1'], 'groups=discovered with num_newcomers'),
    (['--num_groups=2'], "got groups='given' and num_groups=2"),
    (['--groups=found'], 'given, discovered'),
    (['--groups=discovered', '--num_newcomers=10'], 'num_newcomers=10'),
    (['--groups=discovered', '--num_newcomers=-1'], 'num_newcomers=-1'),
    (['--groups=discovered', '--warmup_rounds=0'], 'warmup_rounds=0'),
    (['--groups=discovered', '--num_groups=11'], 'num_groups=11'),
    (['--discovery_statistic=mean'], 'posterior, update'),
    (['--prior_strategy=circle'], 'prior_strategy'),
    (['--prior_strategy=identical'], "strategy='identical'"),
    (['--prior_distance=-1'], '-1.0'),
    (['--prior_distance=0', '--prior_scale=nan'], 'nan'),
    (['--latent_size=1'], 'one_hot'),
    (['--methods=H+L', '--prior_levels=both'], 'lower_prior=standard'),
    (['--prior_levels=all'], 'top, both'),
    (
      ['--methods=H', '--hierarchy=z2_top', '--decode_both'],
      "hierarchy='z2_top'",
    ),
    (['--methods=H', '--hierarchy=none'], "hierarchy='none'"),
    (
      ['--methods=L+D+het', '--sampling=uniform', '--cohort_size=1'],
      '2 <= cohort_size <= 10',
    ),
    (['--sampling=uniform', '--cohort_size=11'], 'cohort_size=11'),
    (
      [
        '--groups=discovered', '--num_newcomers=2', '--sampling=uniform',
        '--cohort_size=9',
      ],
      'cohort_size=9',
    ),
    (['--beta=-1'], 'beta=-1.0'),
    (['--kl_warmup_rounds=-1'], 'kl_warmup_rounds=-1'),
    (['--methods=fedgan', '--gan_latent_size=0'], 'gan_latent_size=0'),
    (['--methods=fedgan', '--gan_channels='], 'gan_channels'),
    (['--privacy=record', '--groups=discovered'], "groups='given'"),
    (['--groups=discovered', '--population_on_host'], 'all clients are asked'),
    (['--privacy=record', '--methods=L+D,fedgan'], "methods='fedgan'"),
    (['--privacy=client', '--norm=batch'], 'batch_stats'),
    (['--num_samples=9'], 'num_samples=9'),
    (['--extractor=onnx:/none/such'], '/none/such'),
  ],
)  # fmt: skip
def test_a_mistake_is_answered_before_anything_begins(
  monkeypatch, capsys, no_training, folder, tmp_path, args, words
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(program, '_prepare_jax', lambda cache: None)
  monkeypatch.setenv('FEDJAX_GEN_CACHE', str(tmp_path / 'cache'))
  (tmp_path / 'few.npz').write_bytes((folder / 'few.npz').read_bytes())
  np.savez(
    tmp_path / 'features.npz',
    x=np.zeros((20, 3), np.float32),
    y=np.arange(20) % 2,
    groups=np.arange(20) // 10,
  )
  before = set(tmp_path.iterdir())
  status = program.execute(fission_study.PROGRAM, [
      'fissionvae', '--workdir=run', '--data=few.npz', '--model=mlp',
      '--methods=L', *args,
    ],
  )  # fmt: skip
  captured = capsys.readouterr()
  assert (status, captured.out) == (2, '')
  assert words in captured.err
  assert 'Traceback' not in captured.err
  assert len(captured.err.splitlines()) <= 5
  assert set(tmp_path.iterdir()) == before
