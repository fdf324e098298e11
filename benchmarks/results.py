"""The results book: tables of the docs, from runs that anyone can repeat.

    python -m benchmarks.results --list
    python -m benchmarks.results fedhypevae_embeddings --inputs=DIR
    python -m benchmarks.results --render

A table is a set of cells, a command of a program each, run once a seed. Every
run leaves a JSON file in `docs/results/TABLE`: command, commit, machine, date,
seconds and the numbers. A recording that was interrupted goes on where it
stood. `--render` writes each table into its page, between two marks, from these
files alone; `tests/benchmarks/results_test.py` fails if a page says something
else. Tables are in `benchmarks/tables.py`.
"""

import argparse
from collections.abc import Mapping, Sequence
import datetime
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import tables
from benchmarks.tables import Cell, Record, Table

_ROOT = pathlib.Path(__file__).parents[1]
_FOLDER = _ROOT / 'docs' / 'results'


def record(
  table: Table,
  cell: Cell,
  seed: int,
  inputs: pathlib.Path,
  folder: pathlib.Path = _FOLDER,
) -> bool:
  """Runs a cell with one seed, unless that is recorded; whether it ran.

  Args:
    table: of the cell.
    cell: what to run.
    seed: of the run.
    inputs: folder with the files that commands name.
    folder: where to write.

  Raises:
    CalledProcessError: the program failed; what it said was shown.
  """
  path = folder / table.name / f'{cell.name}-{seed}.json'
  if path.exists():
    return False
  arguments = [*cell.arguments, f'--seed={seed}']
  module = cell.module or f'experiments.{table.program}'
  started = time.perf_counter()
  with tempfile.TemporaryDirectory() as workdir:
    subprocess.run(
      [
        sys.executable, '-m', module,
        *(argument.format(inputs=inputs) for argument in arguments),
        f'--workdir={workdir}/run',
      ],
      cwd=_ROOT, check=True, stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
    )  # fmt: skip
    summary = json.loads(pathlib.Path(workdir, 'run/summary.json').read_text())
  found = {
    'table': table.name,
    'cell': cell.name,
    'seed': seed,
    'command': shlex.join(
      argument.replace('{inputs}/', '').replace('{inputs}', 'DIR')
      for argument in ('python', '-m', module, *arguments)
    ),
    'commit': _git('rev-parse', '--short', 'HEAD'),
    'date': datetime.date.today().isoformat(),
    'seconds': round(time.perf_counter() - started),
    'machine': _machine(summary['environment']),
    'methods': {
      method: {
        name: float(f'{values[name]:.5g}')
        for name in table.metrics
        if name in values
      }
      for method, values in summary['methods'].items()
    },
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  unfinished = path.with_suffix('.unfinished')
  unfinished.write_text(json.dumps(found, indent=1) + '\n')
  unfinished.replace(path)
  return True


def recorded(table: Table, folder: pathlib.Path = _FOLDER) -> list[Record]:
  """All runs of a table that there are files of, in a fixed order."""
  found = []
  for path in sorted((folder / table.name).glob('*.json')):
    fields = json.loads(path.read_text())
    if fields['cell'] in {cell.name for cell in table.cells}:
      found.append(Record(**fields))
  return found


def rendered(table: Table, records: Sequence[Record]) -> str:
  """The table with how it was made, as it stands in its page."""
  commits = sorted({r.commit for r in records})
  machines = sorted({r.machine for r in records})
  dates = sorted({r.date for r in records})
  made = (
    f'{len(records)} runs, commit {", ".join(commits)}, '
    f'{dates[0]}{"" if len(dates) == 1 else f" to {dates[-1]}"}, '
    f'{"; ".join(machines)}. Again: `python -m benchmarks.results '
    f'{table.name} --inputs=DIR`; the files are in `docs/results/{table.name}`.'
  )
  return f'{table.render(records).strip()}\n\n*{made}*'


def written(page: str, table: Table, text: str) -> str:
  """A page with a table between its marks.

  Raises:
    ValueError: the page has no marks for it.
  """
  first, last = marks(table)
  before, found, rest = page.partition(first)
  old, ended, after = rest.partition(last)
  if not found or not ended:
    raise ValueError(f'Expected {first!r} and {last!r} in {table.page}.')
  del old
  return f'{before}{first}\n{text}\n{last}{after}'


def marks(table: Table) -> tuple[str, str]:
  """What stands around a table in its page."""
  return f'<!-- results {table.name} -->', f'<!-- end {table.name} -->'


def render_all(root: pathlib.Path = _ROOT) -> dict[pathlib.Path, str]:
  """By page its text with all tables that there are records of."""
  pages: dict[pathlib.Path, str] = {}
  for table in tables.TABLES.values():
    records = recorded(table)
    if not records:
      continue
    path = root / table.page
    page = pages.get(path) or path.read_text(encoding='utf-8')
    pages[path] = written(page, table, rendered(table, records))
  return pages


def overview() -> str:
  """A line for each table: its runs, its age in commits, its hours."""
  lines = []
  for table in tables.TABLES.values():
    records = recorded(table)
    wanted = sum(len(cell.seeds) for cell in table.cells)
    ages = [
      int(age)
      for commit in {r.commit for r in records}
      if (age := _git('rev-list', '--count', f'{commit}..HEAD')).isdigit()
    ]
    hours = sum(r.seconds for r in records) / 3600
    lines.append(
      f'{table.name:32} {len(records)} of {wanted} runs, '
      f'{max(ages, default=0)} commits old, {hours:.1f} h, {table.page}'
    )
  return '\n'.join(lines)


def _machine(environment: Mapping[str, Any]) -> str:
  return (
    f'{environment["CPU cores"]} CPU cores ({platform.machine()}), '
    f'JAX {environment["jax"]}'
  )


def _git(*arguments: str) -> str:
  found = subprocess.run(
    ['git', *arguments], cwd=_ROOT, capture_output=True, text=True
  )
  return found.stdout.strip()


def main(arguments: Sequence[str] | None = None) -> None:
  """Lists, records or renders."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('table', nargs='?', choices=list(tables.TABLES))
  parser.add_argument('--list', action='store_true')
  parser.add_argument('--render', action='store_true')
  parser.add_argument('--inputs', type=pathlib.Path, default=pathlib.Path('.'))
  parser.add_argument('--cell', default='', help='only cells that begin so')
  parser.add_argument('--seed', type=int, help='only this one')
  asked = parser.parse_args(arguments)
  if asked.list:
    print(overview())
  if asked.table:
    table = tables.TABLES[asked.table]
    for cell in table.cells:
      seeds = [s for s in cell.seeds if asked.seed in (None, s)]
      for seed in seeds if cell.name.startswith(asked.cell) else ():
        try:
          ran = record(table, cell, seed, asked.inputs.absolute())
        except subprocess.CalledProcessError as error:
          sys.exit(error.stderr.decode())
        print(f'{cell.name} {seed}: {"recorded" if ran else "there"}')
  if asked.render:
    for path, text in render_all().items():
      path.write_text(text, encoding='utf-8')
      print(os.path.relpath(path))


if __name__ == '__main__':
  main()
