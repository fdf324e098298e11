"""Studies called from Python and notebooks, with the names of the flags."""

import base64
from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
import sys
from typing import Any

from fedjax_gen.errors import InputError
from fedjax_gen.running import stopping
from fedjax_gen.running.notebook import Table
from fedjax_gen.running.saves import saved, saved_clients
from fedjax_gen.running.storage.workdir import RELEASE
from fedjax_gen.studies.command import main as command, program

_MOST_PICTURES = 4  # that a notebook shows


@dataclasses.dataclass(frozen=True, repr=False)
class Finished:
  """A finished run, as `run` returns it."""

  path: pathlib.Path
  summary: Mapping[str, Any]

  @property
  def metrics(self) -> Mapping[str, Mapping[str, float]]:
    """Final metrics, by row of the results."""
    return self.summary['methods']

  @property
  def report(self) -> pathlib.Path:
    """The page that shows the run."""
    return (self.path / 'report.html').resolve()

  @property
  def pictures(self) -> list[pathlib.Path]:
    """The pictures of the finished run.

    Of a private run those of the folder that may be given away.
    """
    released = self.path / RELEASE
    folder = released if released.is_dir() else self.path
    found = (folder / 'samples').glob('*.png')
    return sorted(p for p in found if '_round_' not in p.name)

  def load(self, method: str | None = None) -> Any:
    """A model that was trained; see `fedjax_gen.load`."""
    return saved.load_model(self.path, method)

  def load_clients(self, method: str = '') -> Any:
    """Clients' own classifiers; see `fedjax_gen.load_clients`."""
    return saved_clients.load_clients(self.path, method)

  def table(self) -> Table:
    """Metrics as a table, a row for each."""
    rows = dict.fromkeys(m for v in self.metrics.values() for m in v)
    return Table(
      ('', *self.metrics),
      [
        (row, *(values.get(row, '–') for values in self.metrics.values()))
        for row in rows
      ],
    )

  def __repr__(self) -> str:
    return f'{self.table()}\nReport: {self.report}'

  def _repr_html_(self) -> str:
    """What a notebook shows: metrics and the first pictures."""
    pictures = ''.join(
      f'<p><img style="max-width: 100%" alt="{path.stem}" '
      f'src="data:image/png;base64,{_base64(path)}"></p>'
      for path in self.pictures[:_MOST_PICTURES]
    )
    return f'{self.table()._repr_html_()}{pictures}<p>{self.report}</p>'


def run(name: str, **flags: Any) -> Finished:
  """Runs a study, resumes it, or returns it if it is finished.

  Args:
    name: of the study: fedvae, fissionvae, fedhypevae or fedvtc.
    **flags: as on the command line, by their names there.

  Raises:
    InputError: there is no such study or flag, or a value does not fit; as the
      command line says it.
    DivergedError: a loss or a parameter is not finite.
    DiskFullError: the disk is full.
    StoppedError: it was interrupted, and all is saved: call it again to go on.
  """
  studies = [n for n in command.PROGRAMS if n not in ('embed', 'generate')]
  if name not in studies:
    raise InputError(
      f'Expected a study, one of {", ".join(studies)}, got name={name!r}.'
    )
  argv = [name, *(f'--{flag}={_text(v)}' for flag, v in flags.items())]
  with stopping.StopSignal() as stop:
    path = program.perform(
      command.program_of(name), argv, stop, stream=sys.stdout
    )
  assert path is not None  # as it trains
  summary = json.loads((path / 'summary.json').read_text(encoding='utf-8'))
  return Finished(path, summary)


def _text(value: Any) -> str:
  """A value as on the command line."""
  if isinstance(value, Sequence) and not isinstance(value, str):
    return ','.join(map(str, value))
  return str(value).lower() if isinstance(value, bool) else str(value)


def _base64(path: pathlib.Path) -> str:
  return base64.b64encode(path.read_bytes()).decode()
