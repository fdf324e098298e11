"""Tables of the docs are those that are recorded, and recording can go on."""

import json
import pathlib

import numpy as np
import pytest

from benchmarks import results, tables
from benchmarks.tables import Cell, Record, Table

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
