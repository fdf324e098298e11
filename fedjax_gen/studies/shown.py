"""What a run shows, and in which of its folders.

A run under differential privacy has a folder to give away. It holds what the
protected methods released and nothing else. What a user asks to see in addition
(`--show_real`) lies, with the report that shows it, in the folder to keep.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Any, NamedTuple, TypeVar

from fedjax_gen.data.sources import DataSource
from fedjax_gen.evaluation.drawing.gallery import TRAINED, Drawn
from fedjax_gen.running.pages import report
from fedjax_gen.running.storage.workdir import Workdir
from fedjax_gen.studies import audits

_READS_TRAINING = (
  'memorised_share',
  'membership_auc',
  'Membership AUC',
  'latent_separation',
  'Latent separation',
)
# Fields of facts that have methods, or rows of the results, for keys.
_BY_METHOD = ('metrics', 'results', 'traffic', 'generators', 'methods')

_Facts = TypeVar('_Facts')


class Shown(NamedTuple):
  """What may be seen of a run.

  Without privacy everything may, and all folders are one.

  Attributes:
    path: the work directory.
    released: folder of what may be given away.
    kept: folder of what must stay.
    protected: methods, and rows of the results, with a privacy that holds.
    show_real: whether the user asked for what is not protected.
  """

  path: pathlib.Path
  released: pathlib.Path
  kept: pathlib.Path
  protected: Sequence[str] = ()
  show_real: bool = False

  @property
  def is_private(self) -> bool:
    """Whether there is a folder to give away."""
    return self.released != self.kept

  @property
  def everything(self) -> bool:
    """Whether the report shows what no privacy protects, too.

    It does where nothing is protected, for then nothing may be given away.
    """
    return not (self.is_private and self.protected) or self.show_real

  @property
  def is_marked(self) -> bool:
    """Whether the report has to say what in it is not protected."""
    return self.is_private and self.everything

  @property
  def report_folder(self) -> pathlib.Path:
    """The folder of report.html."""
    return self.kept if self.everything else self.released

  def folder(self, method: str) -> pathlib.Path:
    """Where what a method made belongs."""
    return self.released if method in self.protected else self.kept

  def names(self, methods: Iterable[str]) -> list[str]:
    """Those of some methods that the report shows."""
    return [m for m in methods if self.everything or m in self.protected]

  def source(self, source: DataSource) -> DataSource:
    """The data that measures and pictures may look at."""
    return source if self.everything else without_training(source)

  def placed(self, drawn: Iterable[Drawn]) -> list[Drawn]:
    """The pictures that the report shows, each where it belongs.

    Returns:
      Protected ones from the folder to give away, where they have been moved;
      others only if everything is shown, and then they say so.
    """
    placed = []
    for picture in drawn:
      others = set(picture.made_by) - set(self.protected)
      what = picture.unprotected or (TRAINED if others else '')
      if self.is_private and not what:
        path = self.released / 'samples' / picture.path.name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(picture.path, path)
        placed.append(picture._replace(path=path))
      elif self.everything:
        mark = f' Shows {what}: not protected.' if self.is_marked else ''
        placed.append(picture._replace(caption=picture.caption + mark))
    return placed

  def restricted(self, facts: _Facts, **fields: Any) -> _Facts:
    """The facts that the report shows.

    Args:
      facts: a dataclass of a finished run.
      **fields: values in place of its own where not everything is shown.
    """
    if self.everything:
      return facts
    held: dict[str, Any] = {}
    for field in dataclasses.fields(facts):  # type: ignore[arg-type]
      if field.name in _BY_METHOD:
        values: Mapping[str, Any] = getattr(facts, field.name)
        held[field.name] = {n: values[n] for n in self.names(values)}
    held['metrics'] = {
      method: {n: v for n, v in values.items() if n not in audits.EXPLAINED}
      for method, values in held['metrics'].items()
    }
    if expected := _expected_cohort(facts):
      held['results'] = {
        method: result._replace(
          history=_expected_log(
            result.history, held['traffic'][method], expected
          )
        )
        for method, result in held['results'].items()
      }
    return dataclasses.replace(facts, **(held | fields))  # type: ignore[type-var]

  def log(self, section: report.Section) -> list[report.Section]:
    """A section of the training log, which no privacy protects."""
    if not self.everything:
      return []
    if self.is_marked and section.blocks:
      text = f'{section.text} The log of the simulation: not protected.'
      section = dataclasses.replace(section, text=text.strip())
    return [section]

  def marked(
    self, section: report.Section, methods: Iterable[str]
  ) -> report.Section:
    """A section in which each table names what in it is not protected."""
    if not self.is_marked:
      return section
    others = {m for m in methods if m not in self.protected}
    others |= {m.replace('_', ' ') for m in others}
    blocks = [
      _marked(block, others) if isinstance(block, report.Table) else block
      for block in section.blocks
    ]
    return dataclasses.replace(section, blocks=blocks)

  def sentence(self) -> str:
    """What the report of a private run begins with; empty without privacy."""
    if not self.is_private:
      return ''
    if self.everything:
      return (
        'This report shows real examples and numbers that are not protected: '
        'do not give it away. '
      )
    return (
      'This page shows what the methods released that trained under '
      'differential privacy. Scores are exact: they are measured on held-out '
      'records, some by networks that were trained on real ones, and are not '
      'protected. Nothing else in it is made of real data. '
    )

  def where(self) -> str:
    """What the folder in the commands of the report is."""
    if not self.is_private:
      return f'{self.path} is the folder that holds this page.'
    return (
      f'{self.path} is the directory of the run; whoever has its folder '
      'release alone names that folder in its place.'
    )


def shown(
  workdir: Workdir, protected: Sequence[str], *, show_real: bool
) -> Shown:
  """What may be seen of a run; points its link to the report.

  Args:
    workdir: of the run.
    protected: methods, and rows of the results, with a privacy that holds.
    show_real: whether the user asks for what is not protected.
  """
  found = Shown(
    workdir.path, workdir.released, workdir.kept, tuple(protected), show_real
  )
  workdir.report_folder(is_releasable=not found.everything)
  return found


def without_training(source: DataSource) -> DataSource:
  """The data, held-out records in the place of those that clients train on.

  What is read of it, such as the proportions of classes, tells nothing of
  training records.
  """
  return dataclasses.replace(source, train=source.test)


def all_of(path: str | os.PathLike) -> Shown:
  """Everything, of a run without privacy in a folder."""
  folder = pathlib.Path(path)
  return Shown(folder, folder, folder)


def _expected_cohort(facts: Any) -> float:
  """Clients expected in a round, where clients are protected; else 0.

  Who came is decided by secret coins: amplification rests on them.
  """
  found = [m.protection.plan for m in facts.methods.values() if m.protection]
  return max(
    (p.expected_cohort for p in found if p.unit == 'client'), default=0
  )


def _expected_log(
  history: Sequence[Mapping[str, float]], fleets: Sequence, expected: float
) -> list[dict[str, float]]:
  """A log of rounds as they are expected, from constants alone."""
  up = sum(fleet.bytes_up for fleet in fleets) / len(fleets)
  down = sum(fleet.bytes_down for fleet in fleets) / len(fleets)
  return [
    {
      'round': record['round'],
      'participants': expected,
      'bytes_up': expected * up,
      'bytes_down': expected * down,
    }
    for record in history
  ]


def _marked(table: report.Table, others: set[str]) -> report.Table:
  """A table, with a word on its rows and columns that are not protected."""
  rows = [
    dataclasses.replace(
      row, note=f'{row.note} Reads training records: not protected.'.strip()
    )
    if row.head in _READS_TRAINING
    else row
    for row in table.rows
  ]
  heads = [*(row.head for row in table.rows), *table.header[1:]]
  found = [
    head
    for head in dict.fromkeys(heads)
    if head in others or head in table.header and head in _READS_TRAINING
  ]
  caption = table.caption
  if found:
    caption = f'{caption} Not protected: {", ".join(found)}.'.strip()
  return dataclasses.replace(table, rows=rows, caption=caption)
