"""What every program owes its user. A new system adds a row to `systems`."""

import math
import signal

from PIL import Image
import pytest

from fedjax_gen.running import federated_step
from fedjax_gen.streaming import host_blocks
from tests.studies.runs import Links
from tests.studies.systems import SYSTEMS


# The tests of a system look at one run: one worker makes it.
@pytest.fixture(
  scope='module',
  params=[
    pytest.param(system, marks=pytest.mark.xdist_group(name), id=name)
    for name, system in SYSTEMS.items()
  ],
)
def system(request):
  return request.param


@pytest.fixture
def finished(system, finished_of):
  return finished_of(system)


def _names(folder):
  return {str(path.relative_to(folder)) for path in folder.rglob('*')}


def _snapshot(folder):
  return {path: path.stat().st_mtime_ns for path in folder.rglob('*')}


def _comparable(metrics):
  """Metrics without what the clock and the compiler's cache decide."""
  return {
    name: value
    for name, value in metrics.items()
    if name not in ('seconds', 'round_memory_bytes')
  }


def test_a_run_ends_well_and_says_where_its_results_lie(system, finished):
  assert finished.status == 0, finished.err
  assert f'Results: {finished.workdir}' in finished.out
  for method in system.methods:
    num = system.rounds(method)
    assert f'{method}: {num}/{num}' in finished.err
  first_words = {line.split()[0] for line in finished.out.splitlines() if line}
  assert set(system.methods) <= first_words | set(finished.out.split())
  assert 'Traceback' not in finished.err


def test_the_summary_keeps_the_contract(system, finished):
  summary = finished.summary()
  assert summary['experiment'] == system.name
  assert (summary['seed'], summary['rounds']) == (0, 2)
  assert summary['data'].endswith(system.data)
  assert len(summary['params_digest']) == 64
  assert summary['seconds'] > 0
  assert summary['compile_seconds'] > 0
  assert summary['bytes_up_per_client_round'] > 0
  assert summary['bytes_down_per_client_round'] > 0
  assert list(summary['methods']) == list(system.rows)
  for method, metrics in summary['methods'].items():
    assert metrics
    for name, value in metrics.items():
      assert math.isfinite(value), (method, name)


def test_the_directory_holds_everything_the_contract_names(system, finished):
  names = _names(finished.workdir)
  wanted = {
    'config.json', 'metrics.jsonl', 'summary.json', 'report.html',
    *system.models,
  } | system.files  # fmt: skip
  for method in system.methods:
    last = system.rounds(method)
    wanted.add(f'{system.log}checkpoints/{method}/{last}')
    log = f'{system.log}tensorboard/{method}/'
    assert any(name.startswith(log) for name in names), method
  assert wanted <= names
  assert not [name for name in names if 'tmp' in name]
  for path in finished.workdir.rglob('*.png'):
    with Image.open(path) as image:
      assert image.format == 'PNG'


def test_each_round_of_each_method_is_logged_once(system, finished):
  for method in system.methods:
    records = finished.records(method)
    rounds = list(range(1, system.rounds(method) + 1))
    assert [record['round'] for record in records] == rounds
    assert {'participants', 'bytes_up', 'bytes_down'} <= set(records[0])


def test_the_report_loads_nothing_from_elsewhere(system, finished):
  page = (finished.workdir / 'report.html').read_text(encoding='utf-8')
  links = Links()
  links.feed(page)
  assert links.images >= 4
  assert all(link.startswith(('#', 'data:')) for link in links.links)
  assert 'url(' not in page
  assert '@import' not in page
  for word in (*system.methods, *system.shown):
    assert word in links.text


def test_a_finished_run_is_only_pointed_at(
  system, finished, launch, no_training
):
  before = _snapshot(finished.workdir)
  again = launch(system, 'finished/run', *system.whole)
  assert (again.status, again.err) == (0, '')
  assert 'summary.json' in again.out
  assert _snapshot(finished.workdir) == before


def test_another_configuration_is_refused_with_the_difference(
  system, finished, launch, no_training
):
  before = _snapshot(finished.workdir)
  flag, difference = system.other
  other = launch(system, 'finished/run', *system.whole, flag)
  assert other.status == 2
  assert difference in other.err
  assert len(other.err.splitlines()) <= 15
  assert _snapshot(finished.workdir) == before


def _check_same(system, finished, run):
  """Of what both trained: bits, log and metrics."""
  assert run.status == 0, run.err
  for path in system.models:
    ours, theirs = (found.workdir / path for found in (run, finished))
    assert ours.read_bytes() == theirs.read_bytes(), path
  system.check_same(run.workdir, finished.workdir)
  assert run.records(system.subject) == finished.records(system.subject)
  measured = finished.summary()['methods']
  for row, metrics in run.summary()['methods'].items():
    if row in measured:
      ours, theirs = _comparable(metrics), _comparable(measured[row])
      # In `finished` some were attacked, too.
      assert ours == {name: theirs[name] for name in ours}, row


def test_stopped_and_resumed_a_method_ends_with_the_same_bits(
  system, finished, launch, monkeypatch
):
  """Whatever is trained beside it, too: the other run has more methods."""
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
    stopped = launch(system, 'stopped/run', *system.alone)
  assert stopped.status == 128 + signal.SIGTERM
  assert 'Run the same command again to resume' in stopped.err
  assert not (stopped.workdir / 'summary.json').exists()
  saved = stopped.workdir / system.log / 'checkpoints' / system.subject
  assert {path.name for path in saved.iterdir()} == {'1'}
  _check_same(system, finished, launch(system, 'stopped/run', *system.alone))


def test_a_population_on_the_host_gives_the_same_bits(
  system, finished, launch, monkeypatch
):
  monkeypatch.setattr(host_blocks, '_BLOCK_BYTES', 1)  # one client at a time
  flags = (*system.alone, *system.hosted, '--population_on_host=true')
  on_host = launch(system, 'on_host/run', *flags)
  _check_same(system, finished, on_host)
  rows = on_host.workdir / system.log / 'population'
  assert [path.name for path in rows.iterdir()] == [system.subject]
  assert not (finished.workdir / system.log / 'population').exists()


@pytest.mark.parametrize('kind', ['file', 'foreign', 'no_parent'])
def test_a_work_directory_of_something_else_is_left_alone(
  system, launch, no_training, tmp_path, kind
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
  refused = launch(system, path, *system.alone)
  assert refused.status == 2
  assert str(path) in refused.err
  assert _snapshot(tmp_path) == before


# Of every kind one that all programs have: what a flag accepts is a test of
# its configuration, what a system refuses stands in its own file.
@pytest.mark.parametrize(
  ('args', 'words'),
  [
    (['--seed=-1'], 'seed=-1'),
    (['--rounds=0'], 'rounds=0'),
    (['--data='], "got ''"),
    (['--data=/none/such'], '/none/such'),
    (['--num_devices=99'], 'num_devices=99'),
    (['--privacy=everyone'], 'privacy'),
    (['--epsilon=0', '--privacy=client'], 'epsilon=0'),
    (['--preset=none'], 'There are:'),
    (['--learnin_rate=1'], 'no flag --learnin_rate'),
  ],
  ids=lambda value: ' '.join(value) if isinstance(value, list) else '',
)
def test_a_mistake_is_answered_before_anything_begins(
  system, launch, no_training, tmp_path, monkeypatch, args, words
):
  monkeypatch.chdir(tmp_path)
  refused = launch(system, tmp_path / 'run', *args)
  assert (refused.status, refused.out) == (2, '')
  assert words in refused.err
  assert 'Traceback' not in refused.err
  assert len(refused.err.splitlines()) <= 5
  assert not list(tmp_path.iterdir())
