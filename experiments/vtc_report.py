"""What a finished comparison of personal classifiers says.

Everything comes from one value, `Facts`; nothing is computed here.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import pathlib
import shlex
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table as TerminalTable

from experiments import vae_report, vtc_methods
from experiments.vtc_methods import SUBJECT
from fedjax_gen.evaluation.gallery import Drawn
from fedjax_gen.federated.rounds import Traffic
from fedjax_gen.running import charts, report, report_tables
from fedjax_gen.running.report_tables import Metric

_SECTIONS = (
  (
    'methods',
    'Methods beside each other',
    'Accuracy on data of all classes, of which each client saw a few.',
  ),
  (
    'classes',
    'What clients know of classes that they never saw',
    'A client alone is never right about a class that it has no example of.',
  ),
  (
    'synthetic',
    'Synthetic images',
    'Drawn from what the server knows of a class: a Gaussian of features, '
    'through the generator. Clients are fine-tuned with such images.',
  ),
  (
    'features',
    'Features',
    'Where one client’s extractor puts real and synthetic images.',
  ),
)

_EXPLAINED = {
  'accuracy': Metric(
    'On the global test set, mean over clients: generalization accuracy.',
    'higher',
  ),
  'accuracy_stddev': Metric('Its spread over clients.'),
  'accuracy_worst': Metric('Of the worst client.', 'higher'),
  'best_accuracy': Metric(
    'The highest mean at any evaluation; chosen on the test set, so for '
    'comparison with papers that report it.'
  ),
  'balanced_accuracy': Metric('All classes counting alike.', 'higher'),
  'local_accuracy': Metric(
    'On each client’s own held-out examples, mean over clients.', 'higher'
  ),
  'local_accuracy_stddev': Metric('Its spread over clients.'),
  'local_accuracy_worst': Metric('Of the worst client.', 'higher'),
  'missing_class_accuracy': Metric(
    'On classes of which the client has no example.', 'higher'
  ),
  'held_class_accuracy': Metric('On classes of which it has some.', 'higher'),
  'head_accuracy': Metric(
    'By the classifier’s head, where the method predicts otherwise.', 'higher'
  ),
  'bytes_up': Metric('What a client sends in a round, on average.', 'lower'),
  'bytes_down': Metric('What it receives.', 'lower'),
  'bytes_to_target': Metric(
    'What a client sent and received until the target accuracy was first '
    'measured.',
    'lower',
  ),
  'seconds': Metric('Of training, without compilation.', 'lower'),
  'round_memory_bytes': Metric(
    'Temporary memory of the compiled rounds, beside state and data.', 'lower'
  ),
  'client_state_bytes': Metric('What a client keeps between rounds.', 'lower'),
}


@dataclasses.dataclass(frozen=True)
class Facts(vae_report.RunFacts):
  """All that a finished run knows.

  Attributes:
    traffic: bytes per client and round, of each fleet, by method.
    architectures: of each client.
    drawn: the pictures.
  """

  traffic: Mapping[str, Sequence[Traffic]]
  architectures: Sequence[str]
  drawn: Sequence[Drawn]


def show(metrics: Mapping[str, Mapping[str, float]]) -> None:
  """Prints a row for each method and a column for each of the main metrics."""
  console = Console(highlight=False)
  console.width = min(console.width, 80)
  table = TerminalTable(box=None, pad_edge=False, collapse_padding=True)
  table.add_column('', no_wrap=True)  # names are told apart by their ends
  columns = [column for column in _known(metrics) if column.short]
  for column in columns:
    arrow = {'lower': ' ↓', 'higher': ' ↑'}.get(column.better, '')
    table.add_column(column.short + arrow, justify='right')
  for method, values in metrics.items():
    table.add_row(method, *(column.text(values) for column in columns))
  console.print(table)


def summary(facts: Facts, params_digest: str) -> dict[str, Any]:
  """What summary.json holds; the traffic is that of FedVTC."""
  own = facts.metrics[SUBJECT]
  made = vae_report.run_summary(
    facts, params_digest, up=own['bytes_up'], down=own['bytes_down']
  )
  made['architectures'] = list(facts.architectures)
  return made


def write(workdir: pathlib.Path, facts: Facts) -> None:
  """Writes report.html and the picture of the partition.

  Raises:
    DiskFullError: the disk is full.
  """
  partition_png = workdir / 'samples' / 'partition.png'
  partition_png.parent.mkdir(parents=True, exist_ok=True)
  facts.partition.plot(
    facts.source.train.labels, facts.source.class_names, partition_png
  )
  sections = [
    _results(facts),
    *_pictures(facts, ['methods', 'classes', 'synthetic']),
    *_attacks(facts),
    *vae_report.privacy(facts),
    *_pictures(facts, ['features']),
    _curves(facts),
    _clients(facts, partition_png),
    _all_metrics(facts),
    _use(workdir, facts),
    vae_report.settings(facts),
  ]
  report.write_report(
    workdir / 'report.html',
    report.Report(
      title=f'{facts.experiment} on {facts.source.name}',
      lead=_lead(facts),
      facts=_headlines(facts),
      sections=[section for section in sections if section.blocks],
    ),
  )


class _Column(NamedTuple):
  """A column of numbers: its headers, in long and in short, and its metric."""

  header: str
  short: str
  metric: str
  better: str = ''
  unit: str = ''

  def text(self, values: Mapping[str, float]) -> str:
    """The cell; scores in percent, with their spread over clients."""
    value = values.get(self.metric)
    if value is None:
      return report_tables.number(None)
    if self.unit == 'bytes':
      return report_tables.num_bytes(value)
    if self.unit != 'percent':
      return report_tables.number(value)
    spread = values.get(f'{self.metric}_stddev')
    text = f'{100 * value:.1f}'
    return text if spread is None else f'{text} ± {100 * spread:.1f}'


_COLUMNS = (
  _Column('Accuracy', 'accuracy', 'accuracy', 'higher', 'percent'),
  _Column('Worst client', 'worst', 'accuracy_worst', 'higher', 'percent'),
  _Column('Classes never seen', 'unseen', 'missing_class_accuracy', 'higher',
          'percent'),
  _Column('Own test', 'own test', 'local_accuracy', 'higher', 'percent'),
  _Column('Up', 'up', 'bytes_up', 'lower', 'bytes'),
  _Column('Down', '', 'bytes_down', 'lower', 'bytes'),
  _Column('To target', '', 'bytes_to_target', 'lower', 'bytes'),
  _Column('Seconds', 's', 'seconds', 'lower'),
  _Column('Memory', '', 'round_memory_bytes', 'lower', 'bytes'),
)  # fmt: skip


def _known(metrics: Mapping[str, Mapping[str, float]]) -> list[_Column]:
  """Those of which there is a number."""
  return [c for c in _COLUMNS if any(c.metric in m for m in metrics.values())]


def _lead(facts: Facts) -> str:
  names = dict.fromkeys(facts.architectures)
  return (
    f'{vae_report.who_holds_what(facts)} Each has a classifier of its own '
    f'({", ".join(names)} in turn) and keeps it. The numbers say how well '
    'these do on test images of all classes.'
  )


def _headlines(facts: Facts) -> list[tuple[str, str]]:
  headlines = []
  for name in (SUBJECT, 'local'):
    for metric, label in (
      ('accuracy', 'Accuracy'),
      ('missing_class_accuracy', 'Accuracy on classes never seen'),
    ):
      value = facts.metrics.get(name, {}).get(metric)
      if value is not None:
        headlines.append((f'{label}, {name}', f'{100 * value:.1f}%'))
  return headlines


def _results(facts: Facts) -> report.Section:
  columns = _known(facts.metrics)
  best = {
    column.metric: _best(
      [values.get(column.metric) for values in facts.metrics.values()],
      column.better,
    )
    for column in columns
  }
  rows = [
    report.Row(
      name,
      [
        column.text(values) + (' ★' if best[column.metric] == number else '')
        for column in columns
      ],
      vtc_methods.in_words(name),
    )
    for number, (name, values) in enumerate(facts.metrics.items())
  ]
  headers = [
    column.header + (', %' if column.unit == 'percent' else '')
    for column in columns
  ]
  caption = (
    'Mean ± standard deviation over clients, of one run. Accuracy is of the '
    'global test set, after the last round. Up and down are what a client '
    'sends and receives in a round. ★ marks the best of a column.'
  )
  return report.Section(
    'Results', [report.Table(['Method', *headers], rows, caption)]
  )


def _best(values: Sequence[float | None], better: str) -> int | None:
  known = [v for v in values if v is not None and math.isfinite(v)]
  if not better or len(known) < 2:
    return None
  return values.index(max(known) if better == 'higher' else min(known))


def _pictures(facts: Facts, wanted: Sequence[str]) -> list[report.Section]:
  return [
    report.Section(
      title,
      [
        report.Picture(drawn.path, drawn.caption, drawn.alt or drawn.caption)
        for drawn in facts.drawn
        if drawn.section == section
      ],
      text,
    )
    for section, title, text in _SECTIONS
    if section in wanted
  ]


def _attacks(facts: Facts) -> list[report.Section]:
  """What an attacker gets of the statistics, if there was an attack."""
  own = facts.metrics[SUBJECT]
  rows = []
  for attack, words in _ATTACKS.items():
    for name in own:
      head, _, band = name.partition('/')
      if head == f'{attack}_means':
        rows.append(
          report.Row(
            f'{words}, {band.replace("_", " ")}',
            [
              report_tables.number(own[name]),
              *(
                _gain(own, f'{attack}_{measure}', band)
                for measure in ('psnr', 'ssim')
              ),
            ],
          )
        )
  if not rows:
    return []
  return [
    report.Section(
      'What the statistics give away',
      [
        report.Table(
          ['Attack, records behind a mean', 'Means', 'PSNR, dB', 'SSIM'],
          rows,
          'Similarity of what was drawn from a client’s class mean to the '
          'nearest of its records, and in brackets by how much that is above '
          'the nearest of as many held-out images of the class, ± standard '
          'error over means: 0 where nothing about the records is given away.',
        )
      ],
      'Means of features of single clients, as one sees them who reads a '
      'message, were turned into images. Decoding needs the generator alone; '
      'searching needs the client’s extractor too, which is never sent. An '
      'attack that finds nothing is no guarantee.',
    )
  ]


def _gain(own: Mapping[str, float], measure: str, band: str) -> str:
  gain = report_tables.number(own[f'{measure}_gain/{band}'])
  error = own.get(f'{measure}_gain_stderr/{band}')
  spread = '' if error is None else f' ± {report_tables.number(error)}'
  return f'{report_tables.number(own[f"{measure}/{band}"])} ({gain}{spread})'


_ATTACKS = {'attack_decode': 'Decoded', 'attack_search': 'Searched'}


def _curves(facts: Facts) -> report.Section:
  histories = {name: r.history for name, r in facts.results.items()}
  of_generators = {
    name: history
    for name, history in histories.items()
    if name.startswith(SUBJECT)
  }
  blocks = [
    charts.curves(
      histories, 'accuracy', title='Accuracy on the global test set',
      caption='Mean over clients, as each would predict after the round.',
    ),
    charts.curves(
      histories, 'cross_entropy', title='Cross-entropy of training, nats',
      caption='On the clients’ own examples, mean over the round.',
    ),
    charts.curves(
      of_generators, 'reconstruction',
      title='Squared error of the generator, summed over pixels',
      caption='Of images made from the features of real ones.',
    ),
    charts.curves(
      of_generators, 'matching', title='Distribution matching',
      caption='How far features of generated images are from their class.',
    ),
  ]  # fmt: skip
  return report.Section('Training', [block for block in blocks if block])


def _clients(facts: Facts, partition_png: pathlib.Path) -> report.Section:
  rows = [
    report.Row(str(number), [name, str(size)])
    for number, (name, size) in enumerate(
      zip(facts.architectures, facts.partition.sizes, strict=True)
    )
  ]
  participants = np.mean(
    [r['participants'] for r in facts.results[SUBJECT].history]
  )
  blocks: list[Any] = [
    report.Picture(
      partition_png,
      f'Examples of each class at each client: {facts.partition.description}.',
      'Chart of the number of examples of each class at each client.',
    ),
    report.Table(['Client', 'Architecture', 'Examples'], rows[:100]),
    report_tables.traffic_table(
      {
        name: (round(values['bytes_up']), round(values['bytes_down']))
        for name, values in facts.metrics.items()
      },
      float(participants),
      facts.rounds,
    ),
  ]
  return report.Section('Clients and communication', blocks)


def _all_metrics(facts: Facts) -> report.Section:
  names = {name for values in facts.metrics.values() for name in values}
  return report.Section(
    'All metrics',
    [
      report_tables.metrics_table(
        facts.metrics, {name: _explained(name) for name in names}
      )
    ],
  )


def _explained(name: str) -> Metric:
  if name in _EXPLAINED:
    return _EXPLAINED[name]
  if name.startswith('accuracy_'):
    kind = name.removeprefix('accuracy_')
    return Metric(f'Accuracy, mean over clients with {kind}.', 'higher')
  return Metric('')


def _use(workdir: pathlib.Path, facts: Facts) -> report.Section:
  """How to sample from the generator, and to ask a client's classifier."""
  folder = shlex.quote(str(workdir))
  said = (
    'A client’s classifier and, with vtc_scope=local, its generator are what '
    'it keeps: a simulation can write them side by side.'
  )
  if facts.protection is not None:
    said += ' ε is of what FedVTC’s clients send, and covers none of these.'
  methods = ', '.join(facts.metrics)
  return report.Section(
    'Use the models',
    [
      report.Code(
        f'python -m experiments.generate --workdir={folder} --num=10000 '
        '--out=synthetic.npz',
        f'Synthetic images into a file. {workdir} is the folder that holds '
        'this page.',
      ),
      report.Code(
        'import fedjax_gen\n\n'
        f'model = fedjax_gen.load({str(workdir)!r})\n'
        'images, labels = model.sample(10_000, seed=0)\n\n'
        f'clients = fedjax_gen.load_clients({str(workdir)!r}, {SUBJECT!r})\n'
        'probabilities = clients.predict(images, client=0)\n'
        'classes = clients.classify(images, client=0)',
        'The same in Python, and what a client’s classifier says. Classifiers '
        f'are of {methods}; all predict by their heads.',
      ),
    ],
    said,
  )
