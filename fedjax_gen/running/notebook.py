"""For notebooks: progress during training, and tables.

Both are plain: lines instead of bars, which a notebook would keep, and text
where nothing displays HTML.
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import html
import numbers
import sys
from typing import TextIO

import numpy as np

from fedjax_gen import validate
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.errors import InputError
from fedjax_gen.federated import rounds
from fedjax_gen.federated.algorithm import FederatedState
from fedjax_gen.running import federated_step, progress
from fedjax_gen.running.compile_clock import CompileClock
from fedjax_gen.types import Key


def train(
  name: str,
  runner: rounds.Runner,
  state: FederatedState,
  datasets: Sequence[FederatedDataset],
  key: Key,
  num_rounds: int,
  *,
  rounds_per_call: int = 1,
  stream: TextIO | None = None,
) -> tuple[FederatedState, dict[str, np.ndarray]]:
  """Runs rounds and says how far they are.

  The rounds are those of one call of the runner: calls resume each other to the
  bit. Nothing is saved on the way; `training.train` does that.

  Args:
    name: of the method, as it is shown.
    runner: made by `rounds.round_runner`.
    state: what to begin with; it is donated.
    datasets: the clients of each fleet.
    key: the run's key.
    num_rounds: R.
    rounds_per_call: rounds in one call of the compiled program.
    stream: where to say it; None for standard output.

  Returns:
    The state after R rounds, and by name the numbers of each round, `[R]` or
    `[R, K]`: see `federated_step.summarise`.
  """
  validate.positive_int(num_rounds=num_rounds, rounds_per_call=rounds_per_call)
  datasets = rounds.place(list(datasets), runner.mapping)
  meters = rounds.traffic(runner.algorithm, datasets)
  shown = progress.progress(sys.stdout if stream is None else stream)
  parts = []
  with CompileClock() as clock, contextlib.closing(shown):
    shown.start(name, num_rounds, 0, clock)
    for done in range(0, num_rounds, rounds_per_call):
      now = min(rounds_per_call, num_rounds - done)
      state, metrics = runner(state, datasets, key, now)
      parts.append(federated_step.summarise(metrics, meters))
      loss = parts[-1].get('loss')
      shown.update(done + now, None if loss is None else float(loss[-1]))
  return state, {
    metric: np.concatenate([part[metric] for part in parts])
    for metric in parts[0]
  }


@dataclasses.dataclass(frozen=True, repr=False)
class Table:
  """Rows of text that a notebook displays as a table.

  Attributes:
    columns: their headings; the first is that of the rows' names.
    rows: a text for each column. Numbers become texts of four digits.

  Example:
    >>> Table(('', 'recorded', 'this run'), [('accuracy', 0.944, 0.94123)])
              recorded  this run
    accuracy  0.944     0.9412
  """

  columns: Sequence[str]
  rows: Sequence[Sequence[object]]

  def __post_init__(self):
    for row in self.rows:
      if len(row) != len(self.columns):
        raise InputError(
          f'Expected {len(self.columns)} cells in every row, one a column, got '
          f'{list(row)}.'
        )

  def __repr__(self) -> str:
    lines = [list(self.columns), *self._texts()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (
      '  '.join(
        cell.ljust(width) for cell, width in zip(line, widths, strict=True)
      )
      for line in lines
    )
    return '\n'.join(line.rstrip() for line in padded)

  def _repr_html_(self) -> str:
    """What a notebook shows."""
    return '<table>{}{}</table>'.format(
      _html_row('th', self.columns),
      ''.join(_html_row('td', row) for row in self._texts()),
    )

  def _texts(self) -> list[list[str]]:
    return [[_text(cell) for cell in row] for row in self.rows]


def compared(
  recorded: Mapping[str, float], measured: Mapping[str, float]
) -> Table:
  """A table of recorded numbers next to those of this run.

  Args:
    recorded: by name what a page of the documentation says.
    measured: by name what was measured; a name that is missing was not.
  """
  return Table(
    ('', 'recorded', 'this run'),
    [
      (name, value, measured.get(name, 'not measured'))
      for name, value in recorded.items()
    ],
  )


def _text(cell: object) -> str:
  """Four digits of a fraction, everything else as it is."""
  if isinstance(cell, numbers.Real) and not isinstance(cell, numbers.Integral):
    return f'{float(cell):.4g}'
  if isinstance(cell, int):
    return f'{cell:,}'
  return str(cell)


def _html_row(tag: str, cells: Sequence[str]) -> str:
  inner = ''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)
  return f'<tr>{inner}</tr>'
