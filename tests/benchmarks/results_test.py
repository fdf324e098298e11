"""Tables of the docs are those that are recorded, and recording can go on."""

import json
import pathlib

import numpy as np
import pytest

from benchmarks import central_table, results, tables
from benchmarks.tables import Cell, Record, Table
from fedjax_gen import encoding
from fedjax_gen.data import partition, sources

_ROOT = pathlib.Path(__file__).parents[2]


def _record(seed, **scores):
  return Record(
    'toy', 'a', seed, 'python', 'abc1234', '2026-12-01', 60, 'a machine',
    {name: {'score': score} for name, score in scores.items()},
  )  # fmt: skip


def test_pages_say_what_is_recorded():
  pages = results.render_all(_ROOT)
  for path, text in pages.items():
    assert path.read_text(encoding='utf-8') == text, (
      f'{path}: python -m benchmarks.results --render'
    )


@pytest.mark.parametrize('table', tables.TABLES.values(), ids=lambda t: t.name)
def test_recorded_runs_are_of_the_commands_of_today(table):
  cells = {cell.name: cell for cell in table.cells}
  assert len(cells) == len(table.cells)
  for record in results.recorded(table):
    cell = cells[record.cell]
    for argument in (*cell.arguments, f'--seed={record.seed}'):
      said = argument.replace('{inputs}/', '').replace('{inputs}', 'DIR')
      assert said in record.command
    assert record.seed in cell.seeds


def test_a_page_changes_between_its_marks_alone():
  table = Table('toy', 'page.md', 'fedvae', (), (), lambda records: '')
  first, last = results.marks(table)
  page = f'before\n{first}\nold\n{last}\nafter\n'
  new = results.written(page, table, 'new')
  assert new == page.replace('old', 'new')
  with pytest.raises(ValueError, match='page.md'):
    results.written('no marks', table, 'new')


def test_a_recorded_run_is_not_run_again(tmp_path, monkeypatch):
  table = Table(
    'toy', 'page.md', 'fedvae', ('score',),
    (Cell('a', ('--data={inputs}/x.npz',), (0, 1)),), lambda records: '',
  )  # fmt: skip
  commands = []

  def run(command, **settings):
    found = type('Found', (), {'stdout': 'abc1234\n'})
    if command[0] == 'git':
      return found
    commands.append(command)
    workdir = pathlib.Path(command[-1].removeprefix('--workdir='))
    workdir.mkdir()
    summary = {
      'environment': {'CPU cores': '2', 'jax': '0.10.2'},
      'methods': {'m': {'score': 0.5, 'other': 1.0}},
    }
    (workdir / 'summary.json').write_text(json.dumps(summary))
    return found

  monkeypatch.setattr(results.subprocess, 'run', run)
  for expected in (True, False):
    found = results.record(
      table, table.cells[0], 1, pathlib.Path('/in'), tmp_path
    )
    assert found == expected
  [command] = commands
  assert '--data=/in/x.npz' in command
  [record] = results.recorded(table, tmp_path)
  assert record.methods == {'m': {'score': 0.5}}
  assert record.command == (
    'python -m experiments.fedvae --data=x.npz --seed=1'
  )
  assert '1 runs, commit abc1234' in results.rendered(table, [record])


def test_differences_are_paired_over_seeds():
  first = {0: 10.0, 1: 20.0, 2: 30.0, 7: 99.0}
  second = {0: 9.0, 1: 18.5, 2: 28.5}
  found = tables.difference(first, second)
  assert found.seeds == 3
  np.testing.assert_allclose(found.mean, 4 / 3)
  deltas = np.array([1.0, 1.5, 1.5])
  np.testing.assert_allclose(found.error, deltas.std(ddof=1) / 3**0.5)
  assert found.p_value < 0.05
  assert tables.difference({0: 1.0}, {0: 1.0}).p_value == 1.0
  assert tables.mean_and_spread({0: 1.0, 1: 3.0}) == '2.0 ± 1.4'


def _run_of(cell, seed, **methods):
  return Record(
    'watch', cell, seed, 'python', 'abc1234', '2026-12-01', 60, 'a machine',
    methods,
  )  # fmt: skip


def test_a_table_of_scores_is_of_those_who_were_measured():
  records = [
    _run_of(f'flow-{seed}', seed, federated={'tstr_accuracy': score})
    for seed, score in ((0, 0.5), (1, 0.7))
  ]
  text = tables.TABLES['watch'].render(records)
  assert 'Seeds: 2 (flow), 0 (VAE)' in text
  assert '| federated flow in latents | 60.0 ± 14.1 | – | – | – |' in text
  assert 'central' not in text


def test_people_that_settings_were_tried_on_are_not_held_out():
  for cell in tables.TABLES['watch'].cells:
    [held_out] = [a for a in cell.arguments if 'test_clients' in a]
    assert 'person 9' not in held_out and 'person 10' not in held_out


def test_a_central_model_makes_rows_of_the_same_columns():
  pytest.importorskip('ctgan', reason='needs the extra `peers`')
  pytest.importorskip('pandas', reason='needs the extra `tables`')
  source = sources.load('wine', seed=0)
  clients = partition.iid(len(source.train.labels), 2, seed=0)
  source = encoding.encode(source, clients)
  made = central_table.drawn(source, 'TVAE', epochs=1, seed=0, num=7)
  assert made.shape == (7, 13)
  again = central_table.drawn(source, 'TVAE', epochs=1, seed=0, num=7)
  np.testing.assert_array_equal(made, again)
