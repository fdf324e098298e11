"""The common part of the reports of finished runs: facts, texts, sections.

A system adds sections of its own.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
import dataclasses
import shlex
from typing import Any, NamedTuple

import numpy as np

from fedjax_gen.data.partition import Partition
from fedjax_gen.data.sources import DataSource
from fedjax_gen.evaluation.drawing.gallery import LABELS, Drawn
from fedjax_gen.federated.rounds import Traffic
from fedjax_gen.privacy.releases import Releases
from fedjax_gen.running import environment
from fedjax_gen.running.pages import curves, report, report_tables
from fedjax_gen.running.training import TrainResult
from fedjax_gen.studies import audits, private_run, wording
from fedjax_gen.studies.private_run import Protection
from fedjax_gen.studies.shown import Shown
from fedjax_gen.studies.study import Comparison, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFacts:
  """What a report knows of any finished run.

  Attributes:
    experiment: name of the program.
    source: the data.
    partition: who held what.
    metrics: final metrics, by method.
    results: of training, by trained method.
    config: everything that decided the run.
    methods: what was trained, by name.
    traffic: bytes per client and round of each fleet, by trained method.
    drawn: the pictures.
    protection: differential privacy, if there was any and one for all.
    protected: methods that it is of.
    releases: all that the folder gives away, if there is privacy.
  """

  experiment: str
  source: DataSource
  partition: Partition
  metrics: Mapping[str, Mapping[str, float]]
  results: Mapping[str, TrainResult]
  config: Mapping[str, Any]
  methods: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  traffic: Mapping[str, Sequence[Traffic]]
  drawn: Sequence[Drawn] = ()
  protection: Protection | None = None
  protected: Sequence[str] = ()
  releases: Releases | None = None

  @property
  def rounds(self) -> int:
    """Rounds that were trained: those asked for, unless a budget ended."""
    if self.protection is not None:
      return self.protection.plan.rounds
    return self.config['run']['rounds']


def of_run(
  running: Run,
  compared: Comparison,
  results: Mapping[str, TrainResult],
  metrics: Mapping[str, Mapping[str, float]],
  drawn: Iterable[Drawn] = (),
) -> dict[str, Any]:
  """The fields of `RunFacts`, of a run.

  Args:
    running: the run.
    compared: what it compares.
    results: of training, by method.
    metrics: final ones, by row of the results.
    drawn: pictures, in the folder to keep; those that the report shows are
      placed where they belong.

  Raises:
    OSError: a picture cannot be moved.
  """
  return {
    'experiment': running.session.config['experiment'],
    'source': compared.source,
    'partition': compared.partition,
    'metrics': metrics,
    'results': results,
    'config': running.session.config,
    'methods': compared.methods,
    'traffic': {name: m.traffic for name, m in compared.methods.items()},
    'drawn': running.shown.placed(drawn),
    'protection': compared.protection,
    'protected': compared.private,
    'releases': compared.releases,
  }


def summary(
  facts: RunFacts, params_digest: str, *, up: float, down: float
) -> dict[str, Any]:
  """What the summary.json of every run holds."""
  results = facts.results.values()
  private = {}
  if facts.releases is not None:
    private = {'privacy': facts.releases.summary()}
  return {
    'experiment': facts.experiment,
    'seed': facts.config['run']['seed'],
    'rounds': facts.rounds,
    'data': facts.source.name,
    'params_digest': params_digest,
    'seconds': sum(result.seconds for result in results),
    'compile_seconds': sum(result.compile_seconds for result in results),
    'bytes_up_per_client_round': up,
    'bytes_down_per_client_round': down,
    'environment': environment.environment(),
    'methods': facts.metrics,
    **private,
  }


def headline(releases: Releases | None) -> list[tuple[str, str]]:
  """The epsilon of the folder, for the top of a report; none without."""
  if releases is None:
    return []
  label = f'ε of {private_run.UNITS[releases.unit]}, all that is released'
  if releases.is_nominal:
    label = f'{private_run.NOMINAL}, all that is released'
  return [(label, wording.number(releases.joint().epsilon))]


def write(
  shown: Shown,
  facts: RunFacts,
  *,
  lead: str,
  headlines: Sequence[tuple[str, str]],
  sections: Sequence[report.Section],
) -> None:
  """Writes report.html, without sections in which there is nothing.

  Of a private run it says first what it holds, and, where that is more than
  what is protected, each table says what is not.
  """
  methods = {*facts.metrics, *facts.results}
  report.write_report(
    shown.report_folder / 'report.html',
    report.Report(
      title=f'{facts.experiment} on {facts.source.name}',
      lead=shown.sentence() + lead,
      facts=headlines,
      sections=[
        shown.marked(section, methods) for section in sections if section.blocks
      ],
    ),
  )


def draw_partition(shown: Shown, facts: RunFacts) -> list[report.Picture]:
  """Draws what each client holds, where the report shows that."""
  if not shown.everything:
    return []
  path = shown.kept / 'samples' / 'partition.png'
  path.parent.mkdir(parents=True, exist_ok=True)
  source = facts.source
  facts.partition.plot(source.train.labels, source.class_names, path)
  drawn = Drawn(
    path,
    f'Examples of each class at each client: {facts.partition.description}.',
    'partition',
    unprotected=LABELS,
  )
  return [
    report.Picture(
      picture.path,
      picture.caption,
      'Chart of the number of examples of each class at each client.',
    )
    for picture in shown.placed([drawn])
  ]


def who_holds_what(facts: RunFacts) -> str:
  """The sentence that a report begins with."""
  sizes = np.asarray(facts.partition.sizes)
  held = f'{sizes.min()} to {sizes.max()}'
  if sizes.min() == sizes.max():
    held = str(sizes[0])
  return (
    f'{len(sizes)} clients hold {held} of the {len(facts.source.train.labels)} '
    f'training examples of {facts.source.name} ({facts.partition.description}) '
    'and never send them.'
  )


def privacy(shown: Shown, facts: RunFacts) -> list[report.Section]:
  """The section on privacy, if a method trained under any.

  An audit looks at training records: its table is there only if everything is
  shown.
  """
  protected = [name for name in facts.results if name in facts.protected]
  if facts.protection is None or facts.releases is None or not protected:
    return []
  others = [name for name in facts.results if name not in protected]
  section = facts.protection.section(protected, others, releases=facts.releases)
  if not shown.everything:
    return [section]
  audit = audits.blocks(
    dict.fromkeys(protected, facts.protection),
    facts.metrics,
    facts.config.get('audit', {}).get('audit_confidence', 0.0),
  )
  return [dataclasses.replace(section, blocks=[*section.blocks, *audit])]


def privacy_remark(facts: RunFacts) -> str:
  """What to keep in mind where protected methods stand next to others."""
  protected = [name for name in facts.results if name in facts.protected]
  if facts.protection is None or len(protected) == len(facts.results):
    return ''
  return (
    f' Trained under differential privacy: {", ".join(protected) or "none"}; '
    'the others are references without it.'
  )


class Curve(NamedTuple):
  """A metric over rounds, of the methods named; of all if `methods` is None."""

  metric: str
  title: str
  caption: str
  methods: Container[str] | None = None


def training(facts: RunFacts, wanted: Iterable[Curve]) -> report.Section:
  """Charts of what the log of training has, a line for each method."""
  charts = [
    curves.curves(
      {
        name: result.history
        for name, result in facts.results.items()
        if curve.methods is None or name in curve.methods
      },
      curve.metric,
      title=curve.title,
      caption=curve.caption,
    )
    for curve in wanted
  ]
  return report.Section('Training', [chart for chart in charts if chart])


def pictures(
  drawn: Iterable[Drawn], section: str, *, is_wide: bool = False
) -> list[report.Picture]:
  """Those of a section."""
  return [
    report.Picture(d.path, d.caption, d.alt or d.caption, is_wide)
    for d in drawn
    if d.section == section
  ]


def all_metrics(
  facts: RunFacts,
  explained: Callable[[str], report_tables.Metric],
  reference: str = '',
) -> report.Table:
  """Every number with what it means; `reference` is no competitor."""
  names = {name for values in facts.metrics.values() for name in values}
  return report_tables.metrics_table(
    facts.metrics,
    {name: explained(name) for name in names},
    reference=reference,
  )


def use(
  shown: Shown,
  *,
  method: str = '',
  group: str = '',
  made: str = 'images',
  what: str = 'Samples',
) -> list[report.Code]:
  """How to sample from a saved model, on the command line and in Python.

  Args:
    shown: says where the model lies.
    method: of the run; the default one if empty.
    group: of the model's groups; none if empty.
    made: what is sampled.
    what: the same for people.
  """
  folder = str(shown.path)
  flags = f' --method={method}' * bool(method)
  flags += f' --group={shlex.quote(group)}' * bool(group)
  named = f', {method!r}' * bool(method)
  asked = f', group={group!r}' * bool(group)
  return [
    report.Code(
      f'python -m experiments.generate --workdir={shlex.quote(folder)}{flags} '
      '--num=10000 --out=synthetic.npz',
      f'{what} into a file. {shown.where()}',
    ),
    report.Code(
      'import fedjax_gen\n\n'
      f'model = fedjax_gen.load({folder!r}{named})\n'
      f'{made}, labels = model.sample(10_000{asked}, seed=0)',
      f'{what} in Python',
    ),
  ]


def settings(facts: RunFacts) -> report.Section:
  """What was asked for, on what it ran, and how long that took."""
  seconds = {
    name: f'{result.seconds:.1f} s training, '
    f'{result.compile_seconds:.1f} s compiling'
    for name, result in facts.results.items()
  }
  return report.Section(
    'Settings and environment',
    [
      report_tables.settings_table(facts.config),
      report_tables.settings_table(
        seconds | environment.environment(), 'Environment'
      ),
    ],
  )
