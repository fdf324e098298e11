"""Tables of a comparison of generators: on the terminal, and in the report."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table as TerminalTable

from fedjax_gen.running.pages import report, report_tables
from fedjax_gen.running.pages.report_tables import Metric
from fedjax_gen.studies import audits, private_run

NOMINAL = private_run.NOMINAL

_SCORES = {
  'accuracy': 'Test rows that are classified right',
  'balanced_accuracy': 'The same, all classes counting alike',
  'auc': 'Area under the ROC curve of a class against the rest, averaged',
}

_SUFFIXES = {
  '_stddev': (', spread over clients.', ''),
  '_worst': (', of the worst client.', 'higher'),
  '': (', mean over clients.', 'higher'),
}

_EXPLAINED = {
  'interpolation_lambda': Metric(
    'Share of the client’s own classifier, chosen on validation rows.'
  ),
  'mmd': Metric(
    'Squared maximum mean discrepancy of real and synthetic.', 'lower'
  ),
  'wasserstein': Metric(
    'Wasserstein-2 distance of real and synthetic, root mean square over '
    'features, in units of the real spread.',
    'lower',
  ),
  'class_mmd': Metric('mmd within a class, averaged.', 'lower'),
  'class_wasserstein': Metric('wasserstein within a class, averaged.', 'lower'),
  'class_mean_error': Metric(
    'Distance of the means of a class, averaged.', 'lower'
  ),
  'class_stddev_error': Metric(
    'Distance of the standard deviations of a class, averaged.', 'lower'
  ),
  'membership_auc': Metric(
    'How well the distance to synthetic data tells who was trained on; 0.5 is '
    'guessing. An audit by one attack, no guarantee.'
  ),
  'epsilon': Metric(
    'Privacy loss of the protected units by this method alone; see Privacy.'
  ),
  'nominal_epsilon': Metric(
    'What an accountant says of the published formulas, or of noise from a '
    f'public seed, which protect nothing: {NOMINAL}.'
  ),
  'delta': Metric('Its delta.'),
  **audits.EXPLAINED,
}


class _Column(NamedTuple):
  """A column of numbers.

  Attributes:
    header: what stands above it in the report.
    short: what stands above it on the terminal; '' if it is not there.
    metric: where the numbers come from.
    better: as `Metric`.
  """

  header: str
  short: str
  metric: str
  better: str = ''

  def text(self, values: Mapping[str, float]) -> str:
    """The cell; scores in percent, with their spread over clients."""
    value = values.get(self.metric)
    if value is None or self.metric not in _PERCENT:
      return report_tables.number(value)
    spread = values.get(f'{self.metric}_stddev')
    return percent(value) + ('' if spread is None else f' ± {percent(spread)}')

  def short_text(self, values: Mapping[str, float]) -> str:
    """The cell on the terminal, without the spread."""
    value = values.get(self.metric)
    if value is None or self.metric not in _PERCENT:
      return report_tables.number(value)
    return percent(value)


ONE_UPLOAD = ('ClassGaussians', 'DP-MERF')
_ALONE = 'synthetic_balanced_accuracy'

_PERCENT = (
  'accuracy',
  'balanced_accuracy',
  'balanced_accuracy_worst',
  'synthetic_balanced_accuracy',
  'auc',
)

_COLUMNS = (
  _Column('Accuracy', '', 'accuracy', 'higher'),
  _Column('Balanced accuracy', 'balanced', 'balanced_accuracy', 'higher'),
  _Column('AUC', '', 'auc', 'higher'),
  _Column('Worst client', 'worst', 'balanced_accuracy_worst', 'higher'),
  _Column('ε', 'ε', 'epsilon'),
  _Column(NOMINAL, 'ε nominal', 'nominal_epsilon'),
)

_OF_DATA = (
  _Column('Synthetic alone', 'alone', 'synthetic_balanced_accuracy', 'higher'),
  _Column('MMD', 'MMD', 'class_mmd', 'lower'),
  _Column('Wasserstein', '', 'class_wasserstein', 'lower'),
  _Column('Error of means', '', 'class_mean_error', 'lower'),
  _Column('Membership AUC', 'members', 'membership_auc'),
)


def show(metrics: Mapping[str, Mapping[str, float]]) -> None:
  """Prints a row for each method and a column for each of the main metrics."""
  console = Console(highlight=False)
  console.width = min(console.width, 80)
  table = TerminalTable(box=None, pad_edge=False, collapse_padding=True)
  table.add_column('', no_wrap=True)  # names are told apart by their ends
  shown = [column for column in (*_COLUMNS, *_OF_DATA) if column.short]
  columns = _known(shown, metrics)
  for column in columns:
    arrow = {'lower': ' ↓', 'higher': ' ↑'}.get(column.better, '')
    table.add_column(column.short + arrow, justify='right')
  for method, values in metrics.items():
    table.add_row(method, *(c.short_text(values) for c in columns))
  console.print(table)
  if text := advice(metrics):
    console.print(text)


def advice(metrics: Mapping[str, Mapping[str, float]]) -> str:
  """Which generator to prefer, by the score that generators are made for.

  Args:
    metrics: by row; empty text unless one upload of class Gaussians is compared
      with a generator that is trained.
  """
  scores = {
    name: values[_ALONE] for name, values in metrics.items() if _ALONE in values
  }
  trained = {
    name: score for name, score in scores.items() if name not in ONE_UPLOAD
  }
  simple = scores.get('ClassGaussians')
  if simple is None or not trained:
    return ''
  best = max(trained, key=lambda name: trained[name])
  compared = (
    f'synthetic data alone are right on {percent(simple)}% with '
    f'ClassGaussians and on {percent(trained[best])}% with {best}, the best '
    'generator that is trained'
  )
  if simple >= trained[best]:
    return (
      f'Prefer ClassGaussians here: {compared}. It is one upload, with nothing '
      'to train or to tune.'
    )
  return f'{best} serves better here than one upload: {compared}.'


def explained(name: str) -> Metric:
  """What a metric means."""
  if name in _EXPLAINED:
    return _EXPLAINED[name]
  rest = name.removeprefix('synthetic_')
  base = rest.removeprefix('global_')
  score, suffix = base, ''
  for ending in _SUFFIXES:
    if ending and base.endswith(ending):
      score, suffix = base.removesuffix(ending), ending
  if score not in _SCORES:
    return Metric('')
  text, better = _SUFFIXES[suffix]
  is_alone, is_global = rest != name, base != rest
  if is_alone and is_global:
    text = '.'  # one classifier, one set of rows
  explanation = _SCORES[score]
  if is_global:
    explanation += ', of the test rows of all clients together'
  if is_alone:
    explanation += ', by synthetic embeddings alone'
  return Metric(explanation + text, better)


def released(
  metrics: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, float]]:
  """The same without what the clients' own classifiers have a part in.

  These train on the clients' records without noise. In the place of scores of
  both together stand those of synthetic data alone.
  """
  found = {}
  for row, values in metrics.items():
    values = {n: v for n, v in values.items() if n not in audits.EXPLAINED}
    found[row] = values
    if 'interpolation_lambda' in values:
      alone = {
        name.removeprefix('synthetic_'): value
        for name, value in values.items()
        if name.startswith('synthetic_')
      }
      found[row] = alone | {
        name: value
        for name, value in values.items()
        if name != 'interpolation_lambda' and not _is_score(name)
      }
  return found


def _is_score(name: str) -> bool:
  return name.removeprefix('global_').startswith(tuple(_SCORES))


def results(
  metrics: Mapping[str, Mapping[str, float]],
) -> list[report.Table]:
  """What classifiers reach, as in the table of the paper; then generators."""
  caption = (
    'Scores in percent on the clients’ own test rows, mean ± standard '
    'deviation over clients, of one run; worst client is of balanced accuracy. '
    '★ marks the best of a column.'
  )
  of_data = (
    'Synthetic alone: balanced accuracy of a classifier that saw nothing '
    'else. MMD, Wasserstein distance and error of means are within classes; '
    'lower is better. Membership AUC: how well one attack tells from synthetic '
    'embeddings who was trained on; 0.5 is guessing, which proves nothing of '
    'other attacks.'
  )
  tables = [
    _table(metrics, 'Method', _COLUMNS, caption),
    _table(metrics, 'Generator', _OF_DATA, of_data),
  ]
  return [table for table in tables if table.rows]


def _table(
  metrics: Mapping[str, Mapping[str, float]],
  title: str,
  columns: Sequence[_Column],
  caption: str,
) -> report.Table:
  """Methods down, columns across; without those that have no number."""
  columns = _known(columns, metrics)
  cells = [_marked(metrics, column) for column in columns]
  rows = [
    report.Row(name, [of_column[name] for of_column in cells])
    for name, values in metrics.items()
    if any(column.metric in values for column in columns)
  ]
  return report.Table([title, *map(_headed, columns)], rows, caption)


def percent(value: float) -> str:
  """A share as it is shown, without the sign."""
  return f'{100 * value:.1f}'


def _known(
  columns: Sequence[_Column], metrics: Mapping[str, Mapping[str, float]]
) -> list[_Column]:
  """The columns that have a number."""
  return [c for c in columns if any(c.metric in m for m in metrics.values())]


def _marked(
  metrics: Mapping[str, Mapping[str, float]], column: _Column
) -> dict[str, str]:
  """The cells of a column by method, a star before the best of them."""
  texts = {name: column.text(values) for name, values in metrics.items()}
  known = {
    name: values[column.metric]
    for name, values in metrics.items()
    if column.metric in values
  }
  if not column.better or len(known) < 2:
    return texts
  best = (max if column.better == 'higher' else min)(known.values())
  # As it is shown: what looks alike is not told apart.
  shown = column.text({column.metric: best})
  winners = [
    name
    for name, value in known.items()
    if column.text({column.metric: value}) == shown
  ]
  if len(winners) == len(known):
    return texts
  return texts | {name: f'★ {texts[name]}' for name in winners}


def _headed(column: _Column) -> str:
  return column.header + (', %' if column.metric in _PERCENT else '')
