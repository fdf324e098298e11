"""What a private run shows and gives away, and what only if asked to."""

import dataclasses
import shutil

import numpy as np
import pytest

import fedjax_gen
from fedjax_gen.data.sources import DataSource, Examples
from fedjax_gen.evaluation.drawing.gallery import LABELS, TRAINED, Drawn
from fedjax_gen.running.pages import report
from fedjax_gen.running.storage.workdir import Workdir
from fedjax_gen.studies import shown as shown_lib
from fedjax_gen.studies.command import program
from fedjax_gen.studies.tools import generate_samples
from tests.studies.runs import Page
from tests.studies.systems import FEDVAE

_PRIVATE = ('--privacy=record', '--epsilon=3', '--accountant=rdp')
_REAL_PICTURES = {
  'samples_real.png',
  'reconstructions.png',
  'nearest_federated.png',
  'tsne_latents_federated.png',
  'tsne_pixels_federated.png',
  'partition.png',
}


# The tests of a system look at one run: one worker makes it.
pytestmark = pytest.mark.xdist_group('fedvae')


@pytest.fixture(scope='module')
def private(launch):
  """A run of which only what is protected is shown."""
  return launch(FEDVAE, 'private/run', *FEDVAE.whole, *_PRIVATE)


@pytest.fixture(scope='module')
def asked(launch):
  """The same, its user asking for what is real."""
  return launch(FEDVAE, 'asked/run', *FEDVAE.whole, *_PRIVATE, '--show_real')


def _files(folder):
  return {path.name for path in folder.rglob('*') if path.is_file()}


def test_what_is_given_away_shows_nothing_real(private):
  assert private.status == 0, private.err
  assert _files(private.workdir / 'release') == {
    'ledger.json', 'report.html', 'federated.json', 'federated.msgpack',
    'federated_round_0002.png', 'samples_federated.png',
  }  # fmt: skip
  kept = _files(private.workdir / 'private' / 'samples')
  assert kept == {'central_round_0002.png', 'samples_central.png'}
  link = private.workdir / 'report.html'
  assert link.resolve() == private.workdir / 'release/report.html'


def test_the_report_has_what_is_protected_alone(private):
  page = Page(private.workdir / 'release/report.html')
  assert (page.images, page.curves) == (1, 0)
  assert page.headings == [
    'Generated images', 'Results', 'Privacy', 'Clients and communication',
    'Use the model', 'Settings and environment',
  ]  # fmt: skip
  assert {'federated', 'test_elbo'} <= page.heads()
  assert not {'central', 'real_data', 'memorised_share'} & page.heads()
  assert not [caption for caption in page.captions if 'Shows' in caption]


def test_membership_is_not_measured_and_the_rest_is_in_the_summary(private):
  methods = private.summary()['methods']
  assert list(methods) == ['federated', 'central', 'real_data']
  for metrics in methods.values():
    assert 'memorised_share' not in metrics
  assert 'central' in private.out


def test_what_is_asked_for_is_shown_says_so_and_stays(asked):
  assert asked.status == 0, asked.err
  given = _files(asked.workdir / 'release')
  assert not given & (_REAL_PICTURES | {'report.html'})
  assert _files(asked.workdir / 'private' / 'samples') >= _REAL_PICTURES
  link = asked.workdir / 'report.html'
  assert link.resolve() == asked.workdir / 'private/report.html'
  page = Page(link)
  assert page.images >= 8
  assert page.curves
  assert {'central', 'real_data', 'memorised_share'} <= page.heads()
  for text, words in (
    ('Real held-out images', 'Shows real examples: not protected.'),
    ('Examples of each class', 'Shows exact numbers of labels: not protected.'),
    ('central: generated, ', f'Shows {TRAINED}: not protected.'),
  ):
    found = [c for c in page.captions if c.startswith(text)]
    assert found
    assert all(caption.endswith(words) for caption in found), text
  # Of the picture without training images below.
  [own] = [c for c in page.captions if c.startswith('federated: generated, ')]
  assert 'not protected' not in own
  assert any('central, real_data' in caption for caption in page.captions)
  assert 'memorised_share' in asked.summary()['methods']['federated']


def test_without_privacy_the_report_has_everything(finished):
  page = Page(finished.workdir / 'report.html')
  assert page.images >= 8
  assert page.curves
  assert {'central', 'real_data', 'memorised_share'} <= page.heads()
  assert not [c for c in page.captions if 'not protected' in c]
  assert _files(finished.workdir / 'samples') >= _REAL_PICTURES
  assert not (finished.workdir / 'release').exists()


def test_what_is_given_away_can_be_used_alone(private, tmp_path, monkeypatch):
  alone = tmp_path / 'given'
  shutil.copytree(private.workdir / 'release', alone)
  monkeypatch.chdir(tmp_path)
  wanted, _ = fedjax_gen.load(private.workdir).sample(5, seed=1)
  for folder in (private.workdir / 'release', alone):
    model = fedjax_gen.load(folder)
    assert model.name == 'federated'
    np.testing.assert_array_equal(model.sample(5, seed=1)[0], wanted)
    argv = ['generate', f'--workdir={folder}', '--num=5', '--seed=1']
    assert program.execute(generate_samples.PROGRAM, argv) == 0
    with np.load('synthetic.npz') as file:
      np.testing.assert_array_equal(file['x'], wanted)
  assert fedjax_gen.load(private.workdir, 'central').name == 'central'


@pytest.fixture
def drawn(tmp_path):
  """Pictures in the folder to keep of a private run."""
  folder = tmp_path / 'private' / 'samples'
  pictures = [
    Drawn(folder / 'a.png', 'By a.', '', unprotected='', made_by=('a',)),
    Drawn(folder / 'b.png', 'By b.', '', unprotected='', made_by=('a', 'b')),
    Drawn(folder / 'c.png', 'Real.', ''),
    Drawn(folder / 'd.png', 'Counts.', '', unprotected=LABELS),
  ]
  folder.mkdir(parents=True)
  for picture in pictures:
    picture.path.touch()
  return pictures


def _shown(path, protected=('a',), *, show_real=False):
  return shown_lib.Shown(
    path, path / 'release', path / 'private', protected, show_real
  )


def test_pictures_lie_where_they_belong(tmp_path, drawn):
  [picture] = _shown(tmp_path).placed(drawn)
  assert picture.path == tmp_path / 'release/samples/a.png'
  assert (picture.path.exists(), picture.caption) == (True, 'By a.')
  assert _files(tmp_path / 'private') == {'b.png', 'c.png', 'd.png'}


def test_pictures_that_are_asked_for_are_marked(tmp_path, drawn):
  placed = _shown(tmp_path, show_real=True).placed(drawn)
  assert [picture.caption for picture in placed] == [
    'By a.',
    f'By b. Shows {TRAINED}: not protected.',
    'Real. Shows real examples: not protected.',
    'Counts. Shows exact numbers of labels: not protected.',
  ]
  assert _files(tmp_path / 'release') == {'a.png'}


def test_where_nothing_is_protected_nothing_is_given_away(tmp_path, drawn):
  nothing = _shown(tmp_path, protected=())
  assert nothing.everything
  assert nothing.report_folder == tmp_path / 'private'
  assert len(nothing.placed(drawn)) == len(drawn)
  assert not (tmp_path / 'release').exists()
  public = shown_lib.all_of(tmp_path)
  assert public.everything
  assert not public.is_marked
  assert public.placed(drawn) == drawn
  assert public.sentence() == ''


def test_tables_say_which_rows_and_columns_are_not_protected(tmp_path):
  section = report.Section(
    'Results',
    [
      report.Table(['Metric', 'a', 'b'], [report.Row('fid', ['1', '2'])]),
      report.Table(['Method', 'FID'], [report.Row('a', ['1'])], 'All.'),
      report.Table(['M', 'a'], [report.Row('membership_auc', ['1'], 'One.')]),
    ],
  )
  marked = _shown(tmp_path, show_real=True).marked(section, ['a', 'b'])
  assert [table.caption for table in marked.blocks] == [
    'Not protected: b.', 'All.', '',
  ]  # fmt: skip
  assert marked.blocks[2].rows[0].note == (
    'One. Reads training records: not protected.'
  )
  assert _shown(tmp_path).marked(section, ['a', 'b']) == section


def test_facts_are_those_of_protected_methods(tmp_path):
  @dataclasses.dataclass(frozen=True)
  class Facts:
    metrics: dict
    results: dict
    other: str
    methods: dict = dataclasses.field(default_factory=dict)

  metrics = {'a': {'fid': 1, 'audit_epsilon_lower': 0.2}, 'b': {'fid': 2}}
  facts = Facts(metrics, {'b': 3}, 'as it was')
  # An audit looks at training records: its numbers are no part of the page.
  assert _shown(tmp_path).restricted(facts) == Facts(
    {'a': {'fid': 1}}, {}, 'as it was'
  )
  assert _shown(tmp_path).restricted(facts, metrics={}).metrics == {}
  assert _shown(tmp_path, show_real=True).restricted(facts, metrics={}) == facts


def test_training_records_are_not_looked_at(tmp_path):
  train, test = (
    Examples(np.full((2, 3), value, np.float32), np.zeros(2, np.int32))
    for value in (1, 2)
  )
  source = DataSource('toy', train, test, ('x',))
  assert (_shown(tmp_path).source(source).train.inputs == 2).all()
  assert _shown(tmp_path, show_real=True).source(source) is source


def test_the_link_follows_the_report(tmp_path):
  with Workdir(tmp_path / 'run', {}, is_private=True) as workdir:
    for protected, show_real, folder in (
      (['a'], False, 'release'),
      (['a'], True, 'private'),
      ([], False, 'private'),
      (['a'], False, 'release'),
    ):
      found = shown_lib.shown(workdir, protected, show_real=show_real)
      (found.report_folder / 'report.html').write_text(folder)
      assert (workdir.path / 'report.html').read_text() == folder
  with Workdir(tmp_path / 'public', {}) as workdir:
    found = shown_lib.shown(workdir, [], show_real=False)
    assert found.report_folder == workdir.path
    assert not (workdir.path / 'report.html').is_symlink()
