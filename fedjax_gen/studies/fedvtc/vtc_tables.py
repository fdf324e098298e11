"""Tables of a comparison of personal classifiers: terminal and report."""

from collections.abc import Mapping, Sequence
import math
from typing import NamedTuple

from rich.console import Console
from rich.table import Table as TerminalTable

from fedjax_gen.running.pages import report, report_tables
from fedjax_gen.running.pages.report_tables import Metric
from fedjax_gen.studies.fedvtc import vtc_methods

# What does not tell how well classifiers predict, nor hangs on it.
COSTS = frozenset({
  'bytes_up', 'bytes_down', 'classifier_steps', 'seconds', 'round_memory_bytes',
  'client_state_bytes', 'epsilon', 'delta',
})  # fmt: skip
_ATTACKS = {'attack_decode': 'Decoded', 'attack_search': 'Searched'}

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
    'On classes that the client has no example of.', 'higher'
  ),
  'held_class_accuracy': Metric('On the other classes.', 'higher'),
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
  'classifier_steps': Metric(
    'Gradient steps of a client’s classifier in a round, fine-tuning included.'
  ),
  'seconds': Metric('Of training, without compilation.', 'lower'),
  'round_memory_bytes': Metric(
    'Temporary memory of the compiled rounds, besides state and data.', 'lower'
  ),
  'client_state_bytes': Metric('What a client keeps between rounds.', 'lower'),
}


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
  _Column('Steps', '', 'classifier_steps'),
  _Column('Seconds', 's', 'seconds', 'lower'),
  _Column('Memory', '', 'round_memory_bytes', 'lower', 'bytes'),
)  # fmt: skip


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
  if text := advice(metrics):
    console.print(text)


def advice(metrics: Mapping[str, Mapping[str, float]]) -> str:
  """Which trivial baseline to prefer to FedVTC; empty if none is better.

  Args:
    metrics: by row of the results.
  """
  scores = {
    row: metrics[row]['accuracy']
    for row in (vtc_methods.SUBJECT, *vtc_methods.TRIVIAL)
    if 'accuracy' in metrics.get(row, ())
  }
  best = max(scores, key=lambda row: scores[row], default='')
  if best in ('', vtc_methods.SUBJECT) or vtc_methods.SUBJECT not in scores:
    return ''
  return (
    f'Prefer {best} here ({vtc_methods.in_words(best)}): right on '
    f'{scores[best]:.1%}, {vtc_methods.SUBJECT} on '
    f'{scores[vtc_methods.SUBJECT]:.1%}.'
  )


def explained(name: str) -> Metric:
  """What a metric means."""
  if name in _EXPLAINED:
    return _EXPLAINED[name]
  if name.startswith('accuracy_'):
    kind = name.removeprefix('accuracy_')
    return Metric(f'Accuracy, mean over clients with {kind}.', 'higher')
  return Metric('')


def released(
  metrics: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, float]]:
  """What training cost, without what clients' classifiers came to."""
  return {
    name: {key: value for key, value in values.items() if key in COSTS}
    for name, values in metrics.items()
  }


def results(metrics: Mapping[str, Mapping[str, float]]) -> report.Table:
  """A row for each method, a star after the best of a column."""
  columns = _known(metrics)
  best = {
    column.metric: _best(
      [values.get(column.metric) for values in metrics.values()],
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
    for number, (name, values) in enumerate(metrics.items())
  ]
  headers = [
    column.header + (', %' if column.unit == 'percent' else '')
    for column in columns
  ]
  caption = (
    'Up and down are what a client '
    'sends and receives in a round. ★ marks the best of a column.'
  )
  if any(column.metric == 'accuracy' for column in columns):
    caption = (
      'Mean ± standard deviation over clients, of one run. Accuracy is of the '
      f'global test set, after the last round. {caption}'
    )
  return report.Table(['Method', *headers], rows, caption)


def attacks(own: Mapping[str, float]) -> report.Table | None:
  """What an attacker gets of the statistics; None if there was no attack.

  Args:
    own: metrics of FedVTC.
  """
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
    return None
  return report.Table(
    ['Attack, records behind a mean', 'Means', 'PSNR, dB', 'SSIM'],
    rows,
    'Similarity of what was drawn from a client’s class mean to the nearest of '
    'its records, and in brackets by how much that is above the nearest of as '
    'many held-out images of the class, ± standard error over means: 0 where '
    'nothing about the records is given away.',
  )


def _known(metrics: Mapping[str, Mapping[str, float]]) -> list[_Column]:
  """The columns that have a number."""
  return [c for c in _COLUMNS if any(c.metric in m for m in metrics.values())]


def _best(values: Sequence[float | None], better: str) -> int | None:
  known = [v for v in values if v is not None and math.isfinite(v)]
  if not better or len(known) < 2:
    return None
  return values.index(max(known) if better == 'higher' else min(known))


def _gain(own: Mapping[str, float], measure: str, band: str) -> str:
  gain = report_tables.number(own[f'{measure}_gain/{band}'])
  error = own.get(f'{measure}_gain_stderr/{band}')
  spread = '' if error is None else f' ± {report_tables.number(error)}'
  return f'{report_tables.number(own[f"{measure}/{band}"])} ({gain}{spread})'
