"""The report of a run over groups: the right numbers in the right places."""

import dataclasses
import html.parser
import json
import math
import re

import jax
import numpy as np
import pytest

from fedjax_gen.data.partition import Partition
from fedjax_gen.data.sources import DataSource, Examples
from fedjax_gen.evaluation import group_models, groups as groups_lib
from fedjax_gen.evaluation.group_models import GroupVae
from fedjax_gen.evaluation.networks.features import FeatureExtractor
from fedjax_gen.federated.rounds import Traffic
from fedjax_gen.models import generators
from fedjax_gen.models.gan import GanConfig
from fedjax_gen.models.vae import DataSpec, VaeConfig, build_vae
from fedjax_gen.running.pages import report as report_lib, report_tables
from fedjax_gen.running.training import TrainResult
from fedjax_gen.studies import shown
from fedjax_gen.studies.fissionvae import (
  fission_discovery,
  fission_report,
  fission_tables,
)

_GROUPS = ('digits', 'wild animals')
_METHODS = ('FedVAE', 'L+D', 'L+D+het', 'central', 'fedgan')
_FID = 'fid_toy'
# By method: of each group, of all. The two best of all read alike.
_FIDS = {
  'FedVAE': (8.25, 4.5, 6.0),
  'L+D': (2.5, 5.5, 3.0),
  'L+D+het': (3.5, 7.5, 3.00001),
  'central': (7.5, 6.5, 7.0),
  'fedgan': (9.5, 8.5, 9.0),
  'real_data': (0.5, 0.25, 0.375),
}
_LEAKAGES = {
  'FedVAE': (0.6, 0.4, 0.5),
  'L+D': (0.1, 0.02, 0.06),
  'L+D+het': (0.2, 0.01, 0.105),
  'central': (0.4, 0.3, 0.35),
  'fedgan': (0.55, 0.45, 0.5),
  'real_data': (0.03, 0.0, 0.015),
}


def _source(groups=_GROUPS):
  """Images of 4 x 5 pixels, whose grey says their label and their group."""

  def part(num):
    labels = (np.arange(num) % 3).astype(np.int32)
    kinds = (np.arange(num) // 3 % len(groups)).astype(np.int32)
    grey = (100 * kinds + 10 * labels).reshape(-1, 1, 1, 1)
    inputs = np.broadcast_to(grey, (num, 4, 5, 3)).astype(np.uint8)
    return Examples(inputs, labels, groups=kinds)

  return DataSource(
    'two kinds',
    part(12 * len(groups)),
    part(6 * len(groups)),
    ('a', 'b', 'c'),
    group_names=groups,
  )


def _reference(source):
  names = groups_lib.metric_names(source.group_names)
  toy = FeatureExtractor('toy', lambda x: x, None, 'toy: as it comes.')
  kinds = FeatureExtractor('kinds', lambda x: x, None, 'kinds: by a ruler.')
  extractors = groups_lib.GroupExtractors(toy, kinds)
  return groups_lib.GroupReference(source, extractors, names, None, {})


def _metrics(source):
  """What `group_models.evaluate` gives, with numbers that are known."""
  suffixes = [f'/{n}' for n in groups_lib.metric_names(source.group_names)]
  metrics = {}
  for method, fids in _FIDS.items():
    own = {'num_generated': 2000.0, 'num_real': 716.0}
    if method not in ('fedgan', 'real_data'):
      own |= {'test_elbo': -30.0 - len(method), 'latent_separation': 0.875}
      own |= {f'test_elbo{s}': -20.0 - i for i, s in enumerate(suffixes)}
    for suffix, fid, leakage in zip(
      [*suffixes, ''], fids, _LEAKAGES[method], strict=True
    ):
      own[f'{_FID}{suffix}'] = fid
      own[f'group_leakage{suffix}'] = leakage
    metrics[method] = own | {f'group_mean_{_FID}': sum(fids[:2]) / 2}
  return metrics


def _facts(source, **changes):
  """A finished run of untrained models."""
  spec = DataSpec(source.input_shape, source.num_classes)
  vae = build_vae(
    VaeConfig(model='mlp', hidden_size=4, latent_size=2, conditional=False),
    spec,
  )
  config = GanConfig(gan_latent_size=2, gan_channels=(2,))
  gan = generators.build('gan', [config], spec)
  own = [GroupVae(vae, vae.init(jax.random.key(i))) for i in range(3)]
  history = [
    {
      'round': i, 'loss': 7.0 - i, 'participants': 4,
      'bytes_up': 4000, 'bytes_down': 8000,
    }
    for i in (1, 2)
  ]  # fmt: skip
  history[-1] |= {'group_leakage': 0.3, 'test_elbo': -30.0, _FID: 9.0}
  traffic = dict.fromkeys(_METHODS, (Traffic(2000, 1000),))
  traffic['L+D'] = (Traffic(2500, 1500),)
  traffic['L+D+het'] = (Traffic(100, 201), Traffic(300, 400))
  traffic['central'] = (Traffic(0, 0),)
  kinds = np.array([0, 0, 1, 1], np.int32)
  order = np.argsort(source.train.groups, kind='stable').astype(np.int32)
  return dataclasses.replace(
    fission_tables.Facts(
      experiment='fissionvae',
      source=source,
      partition=Partition(order, np.full(4, 6, np.int32), kinds, 'by kind'),
      reference=_reference(source),
      metrics=_metrics(source),
      results={m: TrainResult(None, 2.0, 3.0, history) for m in _METHODS},
      traffic=traffic,
      generators={
        'FedVAE': group_models.of_vaes([own[0]] * 2),
        'L+D': group_models.of_vaes(own[:2]),
        'L+D+het': group_models.of_vaes(own[1:]),
        'central': group_models.of_vaes([own[2]] * 2),
        'fedgan': group_models.of_one(gan, gan.init(jax.random.key(3))),
      },
      discovery=None,
      config={'run': {'seed': 0, 'rounds': 2}},
    ),
    **changes,
  )


_FOUND = fission_discovery.DiscoveryResult(
  np.array([1, 1, 0, 1]), np.array([0, 0, 1, 1]), 0.75, 0.25, 2, 1500, 3
)


class _Page(html.parser.HTMLParser):
  """The tables, headings and pictures of a page."""

  def __init__(self, path):
    super().__init__()
    self.tables, self.images, self.headings = [], [], []
    self._cell = self._heading = False
    self.text = path.read_text(encoding='utf-8')
    self.feed(self.text)

  def handle_starttag(self, tag, attrs):
    if tag == 'table':
      self.tables.append([])
    elif tag == 'tr':
      self.tables[-1].append([])
    elif tag in ('td', 'th'):
      self.tables[-1][-1].append('')
      self._cell = True
    elif tag == 'h2':
      self._heading = True
    elif tag == 'img':
      self.images.append(dict(attrs))

  def handle_endtag(self, tag):
    if tag in ('td', 'th'):
      self._cell = False
    self._heading = self._heading and tag != 'h2'

  def handle_data(self, data):
    if self._cell:
      self.tables[-1][-1][-1] += data
    if self._heading:
      self.headings.append(data)

  def table(self, title):
    """The rows of the table whose first head is `title`."""
    [rows] = [rows for rows in self.tables if rows[0][0] == title]
    return rows


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """A written report, its facts and its folder; not to be changed."""
  folder = tmp_path_factory.mktemp('run')
  facts = _facts(_source())
  fission_report.write(shown.all_of(folder), facts)
  return folder, facts, _Page(folder / 'report.html')


@pytest.fixture
def undrawn(monkeypatch, tmp_path):
  """Writes a report without its samples, which take longest."""
  monkeypatch.setattr(
    fission_report.group_gallery, 'draw_all', lambda *a, **k: []
  )

  def write(facts):
    fission_report.write(shown.all_of(tmp_path), facts)
    return _Page(tmp_path / 'report.html')

  return write


def test_fid_stands_by_method_and_group_and_the_best_are_marked(written):
  assert written[2].table('FID') == [
    ['FID', 'digits', 'wild animals', 'All images', 'Mean of groups'],
    ['FedVAE', '8.25', '★ 4.5', '6', '6.375'],
    ['L+D', '★ 2.5', '5.5', '★ 3', '★ 4'],
    ['L+D+het', '3.5', '7.5', '★ 3', '5.5'],
    ['central', '7.5', '6.5', '7', '7'],
    ['fedgan', '9.5', '8.5', '9', '9'],
    ['real data', '0.5', '0.25', '0.375', '0.375'],
  ]
  assert 'Of 2,000 generated and 716 real images' in written[2].text


def test_leakage_stands_above_its_floor_and_beside_the_separation(written):
  table = written[2].table('Group leakage')
  assert table[0][1:] == [*_GROUPS, 'All images', 'Latent separation']
  assert table[2] == ['L+D', '★ 10.0%', '2.0%', '★ 6.0%', '87.5%']
  assert table[3] == ['L+D+het', '20.0%', '★ 1.0%', '10.5%', '87.5%']
  assert table[5] == ['fedgan', '55.0%', '45.0%', '50.0%', '–']
  assert table[6] == ['real data', '3.0%', '0.0%', '1.5%', '–']


def test_what_is_no_vae_has_no_bound(written):
  table = written[2].table('Held-out ELBO')
  assert [row[0] for row in table[1:]] == list(_METHODS[:-1])
  # By group all are alike: none is best.
  assert table[1] == ['FedVAE', '-20', '-21', '-36']
  assert table[2][-1] == '★ -33'


def test_everything_drawn_is_on_the_page_and_said_in_words(written):
  folder, _, page = written
  drawn = sorted((folder / 'samples').glob('*.png'))
  assert [path.stem for path in drawn] == [
    'between_FedVAE', 'between_L+D', 'groups', 'partition',
    'reconstructions_group_0', 'reconstructions_group_1',
  ]  # fmt: skip
  sources = {report_lib.Picture(path, '', '').src for path in drawn}
  assert sources == {image['src'] for image in page.images}
  assert len(page.images) == len(drawn)
  for image in page.images:
    assert len(image['alt']) > 20, image['alt']


def test_the_effect_comes_first_and_the_settings_last(written):
  assert written[2].headings == [
    'Generated images', 'Results', 'Training', 'Between the groups',
    'Reconstructions', 'Clients and communication', 'All metrics',
    'Use the model', 'Settings and environment',
  ]  # fmt: skip
  text = written[2].text
  assert 'hold 6 of the 24 training examples' in text
  assert 'D gives each group a decoder' in text
  assert 'het makes' in text
  assert 'H puts' not in text
  assert '>FID, L+D<' in text
  assert 'discovered' not in text


def test_all_metrics_are_there_by_group_and_explained_once(written):
  _, facts, page = written
  every = page.table('Metric')
  assert every[0] == ['Metric', *_METHODS, 'real data']
  rows = {row[0]: row[1:] for row in every}
  assert rows['test_elbo'][:2] == ['-36', '-33★']
  assert rows[f'group_mean_{_FID}'][1] == '4★'
  assert 'Unweighted mean of the groups’ FID. Lower is better.' in page.text
  # Real data are best and do not compete.
  animals = {row[0]: row[1:] for row in page.table('wild animals')}
  assert set(animals) == {'wild animals', _FID, 'group_leakage', 'test_elbo'}
  fids = [report_tables.number(fids[1]) for fids in _FIDS.values()]
  assert animals[_FID] == ['4.5★', *fids[1:]]


def test_curves_show_the_losses_of_vaes_only(written):
  label = r'aria-label="(Training loss[^"]*)"'
  [loss] = re.findall(label, written[2].text)
  assert 'L+D from 6 to 5' in loss
  assert 'fedgan' not in loss
  [leakage] = re.findall(
    r'aria-label="(Group leakage over[^"]*)"', written[2].text
  )
  assert 'fedgan' in leakage
  assert 'FID of all images over round' in written[2].text


def test_traffic_is_shown_by_method_and_by_fleet(written):
  rows = [
    row
    for table in written[2].tables
    if table[0] == ['Method', 'Up', 'Down', 'In total']
    for row in table
  ]
  assert ['L+D', '1.5 kB', '2.5 kB', '24 kB'] in rows
  # 200 and 300.5, in whole bytes; totals are those of the rounds.
  assert ['L+D+het', '300 B', '200 B', '24 kB'] in rows
  assert ['L+D+het, fleet 1', '201 B', '100 B', '–'] in rows
  assert ['L+D+het, fleet 2', '400 B', '300 B', '–'] in rows
  assert 'central sends nothing' in written[2].text


def test_how_to_use_the_model_names_a_method_and_a_group(written):
  folder, _, page = written
  assert f'--workdir={folder} --method=L+D --group=digits' in page.text
  assert 'group=&#39;digits&#39;' in page.text


def test_the_summary_holds_what_it_must_in_plain_numbers():
  facts = _facts(_source())
  made = json.loads(
    json.dumps(fission_report.summary(facts, 'd' * 64), allow_nan=False)
  )
  assert (made['experiment'], made['seed'], made['rounds']) == (
    'fissionvae', 0, 2,
  )  # fmt: skip
  assert (made['data'], made['params_digest']) == ('two kinds', 'd' * 64)
  assert (made['seconds'], made['compile_seconds']) == (10.0, 15.0)
  assert made['bytes_up_per_client_round'] == 1500
  assert made['bytes_down_per_client_round'] == 2500
  assert made['bytes']['L+D+het'] == {'up': 300, 'down': 200}
  assert made['bytes']['central'] == {'up': 0, 'down': 0}
  assert made['environment']
  assert list(made['methods']) == [*_METHODS, 'real_data']
  for metrics in made['methods'].values():
    assert metrics
    assert all(math.isfinite(value) for value in metrics.values())
  assert 'discovery' not in made


@pytest.mark.parametrize(
  ('methods', 'expected'),
  [(('central', 'FedVAE', 'L+D+het'), 1000), (('central',), 0)],
)
def test_the_traffic_of_a_run_without_l_d_is_the_first_that_is_any(
  methods, expected
):
  facts = _facts(_source())
  traffic = {name: facts.traffic[name] for name in methods}
  facts = dataclasses.replace(facts, traffic=traffic)
  made = fission_report.summary(facts, '')
  assert made['bytes_up_per_client_round'] == expected


def test_discovery_is_told_where_groups_were_discovered(undrawn):
  facts = _facts(_source(), discovery=_FOUND)
  page = undrawn(facts)
  assert 'Discovered groups' in page.headings
  assert page.table('True group') == [
    ['True group', 'Found group 0', 'Found group 1'],
    ['digits', '0', '2'],
    ['wild animals', '1', '1'],
  ]
  assert page.table('Client')[1:] == [
    ['0', 'digits', '1', ''],
    ['1', 'digits', '1', ''],
    ['2', 'wild animals', '0', ''],
    ['3', 'wild animals', '1', 'not with most of its group'],
  ]
  for part in ('After 3 rounds', '1.5 kB', '75.0%', 'index is 0.250', '>75.0%'):
    assert part in page.text, part
  made = fission_report.summary(facts, '')['discovery']
  assert json.loads(json.dumps(made)) == made
  assert (made['groups'], made['accuracy']) == ([1, 1, 0, 1], 0.75)


def test_a_method_that_knows_no_groups_is_used_without(undrawn):
  facts = _facts(_source())
  only = {'fedgan': facts.results['fedgan']}
  page = undrawn(dataclasses.replace(facts, results=only, traffic={}))
  assert '--method=fedgan --num' in page.text
  assert '--group' not in page.text


def test_too_few_images_to_compare_are_no_reason_not_to_report(undrawn, capsys):
  facts = _facts(_source(), reference=None)
  kept = ('test_elbo', 'latent_separation')
  metrics = {
    method: {
      name: value
      for name, value in values.items()
      if name.partition('/')[0] in kept
    }
    for method, values in facts.metrics.items()
    if method != 'real_data'
  }
  facts = dataclasses.replace(facts, metrics=metrics)
  page = undrawn(facts)
  assert {'FID', 'Group leakage'}.isdisjoint(t[0][0] for t in page.tables)
  table = page.table('Held-out ELBO')
  assert table[0][-1] == 'Latent separation'
  assert table[2] == ['L+D', '-20', '-21', '★ -33', '87.5%']
  assert '>Held-out ELBO, L+D<' in page.text
  fission_tables.show(facts)
  out = capsys.readouterr().out
  assert 'Held-out ELBO ↑' in out
  assert 'FID' not in out


def test_the_terminal_gets_methods_down_and_groups_across(capsys, monkeypatch):
  monkeypatch.setenv('COLUMNS', '200')
  fission_tables.show(_facts(_source()))
  out = capsys.readouterr().out
  lines = out.splitlines()
  assert max(map(len, lines)) <= 80
  assert 'FID ↓' in out
  [line] = [x for x in lines if x.startswith('L+D+het') and '%' in x]
  assert line.split() == ['L+D+het', '20.0%', '★', '1.0%', '10.5%', '87.5%']
  assert [x for x in lines if x.startswith('real data')]


@pytest.mark.parametrize('num_groups', [5, 9])
def test_many_groups_with_long_names_fit_a_terminal(
  num_groups, capsys, monkeypatch
):
  monkeypatch.setenv('COLUMNS', '200')
  names = tuple(f'charm_remote_sensing_{i}' for i in range(num_groups))
  fids = {f'{_FID}/{name}': 12345.678 for name in names}
  fids |= {_FID: 12345.678, 'num_generated': 2000.0, 'num_real': 716.0}
  metrics = {
    name: fids | {f'group_mean_{_FID}': 23456.789 - i}
    for i, name in enumerate(('group_vaes', 'H+L+D+het'))
  }
  facts = _facts(_source(), metrics=metrics)
  facts = dataclasses.replace(facts, source=_source(groups=names))
  fission_tables.show(facts)
  out = capsys.readouterr().out
  lines = out.splitlines()
  assert max(map(len, lines)) <= 80
  # Numbers are not broken; of too many groups there are none of their own.
  [line] = [x for x in lines if x.startswith('group_vaes')]
  shown = num_groups if num_groups <= 5 else 0
  assert line.split() == ['group_vaes', *['12,346'] * (shown + 1), '23,457']


def test_no_colour_is_none(capsys, monkeypatch):
  monkeypatch.setenv('FORCE_COLOR', '1')  # as if this were a terminal
  monkeypatch.setenv('NO_COLOR', '1')
  fission_tables.show(_facts(_source()))
  assert '\x1b[3' not in capsys.readouterr().out
