"""The report of a comparison of generators: numbers, and what protects whom."""

import dataclasses
import html.parser
import json
import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from fedjax_gen.algorithms.dp_cgan import CganConfig
from fedjax_gen.algorithms.dp_merf import MerfConfig
from fedjax_gen.algorithms.fedhypevae import Config
from fedjax_gen.algorithms.hyper_pretraining import PretrainingConfig
from fedjax_gen.algorithms.linear_head import LinearConfig
from fedjax_gen.data.examples import DataSource, Examples
from fedjax_gen.data.federated import federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.evaluation import heads
from fedjax_gen.federated.rounds import Traffic
from fedjax_gen.federation import FederationConfig
from fedjax_gen.models.hyper.hypernetwork import HyperVaeConfig
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.running.training import TrainResult
from fedjax_gen.studies import shown, study
from fedjax_gen.studies.fedhypevae import (
  hype_methods,
  hype_pictures,
  hype_privacy,
  hype_report,
  hype_tables,
)
from fedjax_gen.studies.fedhypevae.hype_budgets import HypePrivacyConfig
from fedjax_gen.studies.fedhypevae.hype_synthesis import Synthetic
from fedjax_gen.studies.fedhypevae.hype_uploads import GaussianConfig

_TRAINED = ('FedHypeVAE', 'DP-CVAE', 'FedAvg')
_CLIENTS, _EACH, _CLASSES, _WIDTH = 3, 8, 2, 3
_WARNING = 'nominal epsilon, NOT a guarantee'


def _source(groups=('east', 'west')):
  """Of the clients the first is of the east, the last of the west."""
  num = _CLIENTS * _EACH
  labels = (np.arange(num) % _CLASSES).astype(np.int32)
  inputs = np.random.default_rng(0).normal(size=(num, _WIDTH))
  kinds = (np.arange(num) >= num // 2).astype(np.int32) if groups else None
  part = Examples(
    (inputs + labels[:, None]).astype(np.float32), labels, groups=kinds
  )
  return DataSource('toy', part, part, ('a', 'b'), group_names=groups)


def _partition(sizes=(_EACH,) * _CLIENTS):
  sizes = np.array(sizes, np.int32)
  order = np.arange(sizes.sum(), dtype=np.int32)
  return Partition(order, sizes, np.zeros(len(sizes), np.int32), 'by hand')


def _methods(names=_TRAINED, **privacy):
  """Methods as the program builds them; and what was asked for."""
  asked = HypePrivacyConfig(
    **{'accountant': 'rdp', 'delta': 1e-3, 'epsilon': 4.0} | privacy
  )
  train = _source().train
  methods = hype_methods.build_methods(
    names,
    hype_methods.Setting(
      config=Config(batch_size=4),
      hyper=HyperVaeConfig(
        latent_size=2, hidden_sizes=(4,), code_size=3, hyper_size=4
      ),
      cgan=CganConfig(),
      linear=LinearConfig(linear_rounds=2),
      gaussians=GaussianConfig(),
      merf=MerfConfig(),
      pretraining=PretrainingConfig(),
      privacy=asked,
      federation=FederationConfig(),
      data=federated_dataset(train.inputs, train.labels, _partition()),
      spec=DataSpec((_WIDTH,), _CLASSES),
      rounds=3,
      seed=0,
    ),
  )
  return methods, asked


def _metrics(methods):
  """Known numbers; the first two are equally accurate as far as is shown."""
  scores = {
    'FedHypeVAE': (0.81304, 0.7, 0.6),
    'DP-CVAE': (0.81296, 0.65, 0.5),
    'FedAvg': (0.5, 0.45, None),
    'FedLambda': (0.7, 0.72, None),
    'local': (0.4, 0.3, None),
  }
  metrics = {}
  for name, (accuracy, balanced, alone) in scores.items():
    values = {
      'accuracy': accuracy,
      'accuracy_stddev': 0.011,
      'balanced_accuracy': balanced,
      'balanced_accuracy_worst': balanced - 0.1,
    }
    if alone is not None:
      values |= {'synthetic_balanced_accuracy': alone, 'membership_auc': 0.53}
      values |= {'class_mmd': 1 - alone, 'interpolation_lambda': 0.5}
    method = methods.get('FedAvg' if name == 'FedLambda' else name)
    if method is not None:
      values |= method.spent()
    metrics[name] = values
  return metrics


def _facts(methods, privacy, codes=('meta',), **changes):
  history = [
    {'round': i, 'participants': 2, 'loss': 5.0 - i, 'share_clipped': 0.5}
    for i in (1, 2, 3)
  ]
  return dataclasses.replace(
    hype_report.Facts(
      experiment='fedhypevae',
      source=_source(),
      partition=_partition(),
      metrics=_metrics(methods),
      results={n: TrainResult(None, 2.0, 3.0, history) for n in methods},
      config={
        'run': {'seed': 7, 'rounds': 9},
        'synthesis': {'codes': codes},
      },
      traffic={n: [Traffic(1000 + i, 500)] for i, n in enumerate(methods)},
      drawn=[],
      methods=methods,
      privacy=privacy,
      confidence=0.9,
      releases=study.releases(methods),
    ),
    **changes,
  )


class _Page(html.parser.HTMLParser):
  """The tables and headings of a page."""

  def __init__(self, path):
    super().__init__()
    self.tables, self.headings = [], []
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

  def handle_endtag(self, tag):
    if tag in ('td', 'th'):
      self._cell = False
    self._heading = self._heading and tag != 'h2'

  def handle_data(self, data):
    if self._cell:
      self.tables[-1][-1][-1] += data
    if self._heading:
      self.headings.append(data)

  def table(self, title, nth=0):
    """The rows of a table whose first head is `title`."""
    return [rows for rows in self.tables if rows[0][0] == title][nth]


@pytest.fixture(scope='module')
def private():
  """Methods that protect records, and what was asked for."""
  return _methods()


@pytest.fixture(scope='module')
def nominal():
  return _methods(privacy='paper', accept_no_guarantee=True)


@pytest.fixture
def page(tmp_path):
  """Writes a report."""

  def write(*args, **changes):
    hype_report.write(shown.all_of(tmp_path), _facts(*args, **changes))
    return _Page(tmp_path / 'report.html')

  return write


def test_the_same_is_said_once_for_several_methods():
  methods, _ = _methods(('DP-CVAE', 'FedAvg', 'FedProx'))
  first, second = hype_privacy.sentences(methods)
  assert first.startswith('DP-CVAE: Privacy of one record')
  assert second.startswith('FedAvg and FedProx: Privacy of one record')
  assert 'epsilon=' in first


def test_without_privacy_nothing_is_said_or_spent(page):
  methods, privacy = _methods(privacy='none')
  assert hype_privacy.sentences(methods) == []
  assert methods['FedHypeVAE'].spent() == {}
  assert 'Privacy' not in page(methods, privacy).headings


def test_epsilon_is_within_the_budget(private):
  methods, _ = private
  for name in _TRAINED:
    found = methods[name].spent()
    assert set(found) == {'epsilon', 'delta'}
    assert 3.9 < found['epsilon'] <= 4.0, name
    assert found['delta'] == 1e-3


def test_an_epsilon_without_noise_is_no_number(page):
  methods, privacy = _methods(epsilon=math.inf)
  assert set(methods['FedHypeVAE'].spent()) == {'delta'}
  written = page(methods, privacy)
  assert 'nothing is protected' in written.text
  assert 'ε' not in written.table('Method')[0]


def test_the_epsilon_of_the_published_formulas_is_never_called_one(nominal):
  methods, _ = nominal
  found = methods['FedHypeVAE'].spent()
  assert set(found) == {'nominal_epsilon', 'delta'}
  for name in _TRAINED[1:]:
    found = methods[name].spent()
    assert set(found) == {'epsilon', 'delta'}, name
  ours, *others = hype_privacy.sentences(methods)
  assert ours.startswith('FedHypeVAE: NOT private')
  assert f'{_WARNING}: ' in ours
  assert 'epsilon=' not in ours
  for text in others:
    assert _WARNING not in text


def test_the_page_warns_of_the_published_formulas_and_keeps_the_others(
  nominal, page
):
  written = page(*nominal)
  assert written.headings[0] == 'Warning: FedHypeVAE is NOT private'
  assert 'Privacy' in written.headings
  results = written.table('Method')
  assert results[0][-2:] == ['ε', _WARNING]
  assert results[1][-2] == '–'
  assert float(results[1][-1]) > 3.9
  assert results[2][-1] == '–'
  assert float(results[2][-2]) > 3.9
  assert written.table('Privacy of DP-CVAE')
  assert 'What DP-CVAE released in training is differen' in written.text
  assert 'What FedHypeVAE released' not in written.text
  assert 'FedHypeVAE trained without privacy' in written.text
  [header] = [t[0] for t in written.tables if 'class moments' in str(t)]
  assert header[-1] == _WARNING
  # Of one record there is no epsilon at the top, either.
  assert 'ε of one record' not in written.text


def test_the_table_has_methods_down_and_marks_the_best(private, page):
  written = page(*private)
  rows = {row[0]: row[1:] for row in written.table('Method')}
  assert rows.pop('Method') == [
    'Accuracy, %', 'Balanced accuracy, %', 'Worst client, %', 'ε'
  ]  # fmt: skip
  assert {name: row[:-1] for name, row in rows.items()} == {
    'FedHypeVAE': ['★ 81.3 ± 1.1', '70.0', '60.0'],
    'DP-CVAE': ['★ 81.3 ± 1.1', '65.0', '55.0'],
    'FedAvg': ['50.0 ± 1.1', '45.0', '35.0'],
    'FedLambda': ['70.0 ± 1.1', '★ 72.0', '★ 62.0'],
    'local': ['40.0 ± 1.1', '30.0', '20.0'],
  }
  assert rows['FedLambda'][-1] == rows['FedAvg'][-1] != '–'
  assert rows['local'][-1] == '–'
  assert written.table('Generator') == [
    ['Generator', 'Synthetic alone, %', 'MMD', 'Membership AUC'],
    ['FedHypeVAE', '★ 60.0', '★ 0.4', '0.53'],
    ['DP-CVAE', '50.0', '0.5', '0.53'],
  ]


def test_the_page_says_what_is_protected_and_what_is_not(private, page):
  methods, privacy = private
  written = page(methods, privacy)
  # The ledger of all methods, then all in a row.
  ledger = written.table('Method', 1)
  assert [row[0] for row in ledger[1:] if row[0]] == list(_TRAINED)
  assert 'class moments' in str(ledger)
  others = written.table('Method', 2)
  assert [row[0] for row in others[1:]] == list(_TRAINED)
  assert {row[2] for row in others[1:]} == {'0.001'}
  for text in (
    'DP-CVAE and FedAvg had the same budget',
    'own classifiers are trained without noise',
    'interpolation_lambda is chosen on validation rows',
    'FedLambda releases what FedAvg does',
  ):
    assert text in written.text
  assert 'NOT' not in written.text
  joint = study.releases(methods).joint().epsilon
  assert 4.0 < joint < 12.0
  assert f'3 methods together: epsilon={joint:.4g}' in written.text


@pytest.mark.parametrize('codes', [('meta',), ('meta', 'clients')])
def test_the_page_says_whether_codes_are_published(private, page, drawn, codes):
  pictures = drawn(_source())
  written = page(*private, codes, drawn=pictures)
  assert ('they are published' in written.text) == ('clients' in codes)
  assert ('None leaves its client' in written.text) == ('clients' not in codes)


def test_an_audit_stands_beside_what_the_accountant_says(private, page):
  methods, privacy = private
  without = page(methods, privacy)
  assert not [t for t in without.tables if t[0][0] == 'Audit']
  metrics = _metrics(methods)
  bounds = {'FedHypeVAE': 0.25, 'FedAvg': 4.75}
  for name, bound in bounds.items():
    metrics[name] |= {'audit_epsilon_lower': bound, 'audit_canaries': 40.0}
  written = page(methods, privacy, metrics=metrics)
  _, ours, theirs, note = written.table('Audit')
  assert (ours[0], theirs[0]) == ('FedHypeVAE', 'FedAvg')
  assert ours[1] == '0.25'
  assert 3.9 < float(ours[2]) <= 4.0
  assert ours[3:5] == ['0.001', '40']
  assert note == ['Above the claim: a defect.']  # of the second
  assert 'a confidence of 90%' in written.text
  assert 'one record added or removed' in written.text


def test_the_summary_is_json_of_finite_numbers(private):
  facts = _facts(*private)
  facts.metrics['local']['auc'] = float('nan')
  facts.metrics['local']['accuracy'] = np.float32(0.5)
  made = hype_report.summary(facts, 'abc')
  json.dumps(made, allow_nan=False)
  assert 'auc' not in made['methods']['local']
  assert made['methods']['local']['accuracy'] == 0.5
  assert made['rounds'] == 3  # of 9 that the configuration has
  assert made['seed'] == 7
  assert made['params_digest'] == 'abc'
  assert made['bytes_down_per_client_round'] == 1000
  assert made['bytes_up_per_client_round'] == 500
  assert made['bytes']['FedAvg'] == {'up': 500, 'down': 1002}
  assert list(made['methods']) == list(facts.metrics)


def test_traffic_is_that_of_the_first_without_ours(private):
  facts = _facts(*private, traffic={'FedAvg': [Traffic(40, 20)]})
  assert hype_report.summary(facts, '')['bytes_up_per_client_round'] == 20


def test_each_method_counts_its_own_rounds(private, page):
  written = page(*private)
  [rows] = [t for t in written.tables if t[0][-1] == 'In total']
  # Two clients a round.
  assert rows[1] == ['FedHypeVAE', '500 B', '1 kB', '3', '9 kB']
  assert rows[3] == ['FedAvg', '500 B', '1 kB', '2', '6.01 kB']


def test_methods_are_rows_on_the_terminal(private, capsys):
  methods, _ = private
  hype_tables.show(_metrics(methods))
  lines = capsys.readouterr().out.splitlines()
  assert max(map(len, lines)) <= 80
  found = [line.split() for line in lines]
  assert found[0][:4] == ['balanced', '↑', 'worst', '↑']
  by_method = {row[0]: row[1:] for row in found[1:]}
  assert by_method['FedAvg'][:2] == ['45.0', '35.0']
  assert by_method['FedHypeVAE'][:2] == ['70.0', '60.0']
  assert by_method['local'] == ['30.0', '20.0', *'––––']


def _clients(source, partition):
  parts = [
    Partition(
      np.concatenate(
        [partition.rows(c)[start:stop] for c in range(len(partition.sizes))]
      ),
      np.minimum(partition.sizes, stop - start),
      partition.groups,
      '',
    )
    for start, stop in ((0, 4), (4, 6), (6, 8))
  ]
  rows = heads.ClientRows(
    source.train.inputs, source.train.labels, _CLASSES, *parts
  )
  return SimpleNamespace(source=source, partition=partition, rows=rows)


def _evaluated(clients):
  rng = np.random.default_rng(1)
  local = heads.Head(
    rng.normal(size=(_CLIENTS, _WIDTH, _CLASSES)), np.zeros((_CLIENTS, 2))
  )
  head = heads.Head(rng.normal(size=(_WIDTH, _CLASSES)), np.zeros(_CLASSES))
  return heads.evaluate_head(clients.rows, local, head)


@pytest.fixture
def drawn(private, tmp_path):
  """Draws what an untrained FedHypeVAE and a classifier give."""
  methods, _ = private
  model = methods['FedHypeVAE'].model
  hyper = model.init(jax.random.key(0))
  codes = np.eye(_CLIENTS, dtype=np.float32)
  train = _source().train
  made = Synthetic(
    'FedHypeVAE', train.inputs + 1, train.labels, hyper, codes[:1], None
  )

  def draw(source, **changes):
    clients = _clients(source, _partition())
    evaluation = _evaluated(clients)
    arguments = {
      'synthetic': {'FedHypeVAE': made},
      'evaluations': {'FedHypeVAE': evaluation, 'FedAvg': evaluation},
      'methods': methods,
      'codes': codes,
    }
    return hype_pictures.draw(
      shown.all_of(tmp_path), clients, seed=0, **arguments | changes
    )

  return draw


def test_pictures_are_drawn_of_what_there_is(drawn):
  found = {d.section: d for d in drawn(_source())}
  assert list(found) == ['embeddings', 'clients', 'codes', 'interpolations']
  for picture in found.values():
    assert picture.path.is_file()
  assert 'domain' in found['codes'].caption
  # Clients of one code each, all equally far: the first and another.
  assert 'client 0 (east)' in found['interpolations'].caption


def test_without_domains_clients_are_marked_by_class(drawn):
  found = {d.section: d.caption for d in drawn(_source(groups=()))}
  assert 'most frequent class' in found['codes']
  assert '(a)' in found['interpolations']


def test_a_classifier_has_no_embeddings_to_show(drawn):
  evaluations = {'FedAvg': _evaluated(_clients(_source(), _partition()))}
  found = drawn(_source(), synthetic={}, evaluations=evaluations)
  assert [d.section for d in found] == ['clients']


def test_the_ends_of_the_way_are_clients_with_data_far_apart():
  codes = np.array([[0.0], [1.0], [9.0], [2.0]])
  assert hype_pictures._furthest(codes, np.array([4, 4, 0, 4])) == (0, 3)
  assert hype_pictures._furthest(codes, np.array([4, 4, 4, 4])) == (0, 2)
  assert hype_pictures._furthest(codes, np.array([0, 4, 0, 0])) is None
  assert hype_pictures._furthest(np.ones((4, 1)), np.full(4, 4)) is None


@pytest.mark.parametrize('empty', [0, 1])
def test_an_empty_client_is_of_no_domain(empty):
  sizes = np.array([4, 0]) if empty else np.array([0, 4])
  clients = SimpleNamespace(source=_source(), partition=_partition(sizes))
  domains, are_domains = hype_pictures._domains(clients)
  assert are_domains
  assert domains[empty] == 'empty'
  assert domains[1 - empty] == 'east'


def test_every_metric_is_explained_and_directed():
  clients = _clients(_source(), _partition())
  for name in _evaluated(clients).metrics:
    if name.startswith('local_'):
      name = name.removeprefix('local_')
    name = name.removeprefix('interpolated_')
    metric = hype_tables.explained(name)
    assert metric.explanation, name
    is_score = not name.endswith(('_stddev', '_lambda'))
    assert metric.better == ('higher' if is_score else ''), name
  alone = hype_tables.explained('synthetic_global_auc').explanation
  assert 'all clients together' in alone
  assert 'synthetic embeddings alone' in alone
  assert 'mean over' not in alone
  assert hype_tables.explained('class_mmd').better == 'lower'
  assert hype_tables.explained('anything').explanation == ''


@pytest.mark.parametrize(
  ('ours', 'expected'),
  [(0.6, 'Prefer ClassGaussians'), (0.8, 'DP-CVAE serves')],
)
def test_the_simplest_generator_is_recommended_where_it_is_best(ours, expected):
  score = 'synthetic_balanced_accuracy'
  metrics = {
    'ClassGaussians': {score: 0.7},
    'DP-MERF': {score: 0.9},  # one upload too
    'DP-CVAE': {score: ours},
    'FedHypeVAE': {score: 0.5},
    'FedAvg': {'balanced_accuracy': 0.99},
  }
  text = hype_tables.advice(metrics)
  assert text.startswith(expected)
  assert '70.0%' in text
  assert hype_tables.advice({'ClassGaussians': {score: 0.7}}) == ''


def test_what_an_audit_found_is_no_part_of_a_page_to_give_away():
  values = {'synthetic_balanced_accuracy': 0.5, 'audit_epsilon_lower': 0.2}
  released = hype_tables.released({'FedAvg': values})
  assert set(released['FedAvg']) == {'synthetic_balanced_accuracy'}
