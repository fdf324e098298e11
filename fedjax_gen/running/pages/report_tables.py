"""The tables of a report (results, communication, settings), and units."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

from fedjax_gen.running.pages.report import Row, Table


@dataclasses.dataclass(frozen=True)
class Metric:
  """What a metric means.

  Attributes:
    explanation: a few plain words.
    better: 'higher', 'lower', or '' if neither is.
  """

  explanation: str
  better: str = ''


def metrics_table(
  methods: Mapping[str, Mapping[str, float]],
  metrics: Mapping[str, Metric],
  *,
  reference: str = '',
) -> Table:
  """Returns final metrics side by side, the best of each marked.

  Args:
    methods: per method its metrics by name.
    metrics: what they mean; one that is missing is shown without a word.
    reference: a method that does not compete, such as real data.
  """
  names = dict.fromkeys(name for values in methods.values() for name in values)
  rows = []
  for name in names:
    metric = metrics.get(name, Metric(''))
    values = [method.get(name) for method in methods.values()]
    competing = [
      None if method == reference else value
      for method, value in zip(methods, values, strict=True)
    ]
    direction = f'{metric.better.capitalize()} is better.'
    rows.append(
      Row(
        name,
        [number(value) for value in values],
        f'{metric.explanation} {direction if metric.better else ""}',
        _best(competing, metric.better),
      )
    )
  return Table(['Metric', *methods], rows)


def traffic_table(
  methods: Mapping[str, tuple[int, int]], num_clients: float, num_rounds: int
) -> Table:
  """Returns what the clients sent and received.

  Args:
    methods: per method the bytes up and down, per client and round.
    num_clients: participants of a round, on average.
    num_rounds: of the run.
  """
  times = num_clients * num_rounds
  rows = [
    Row(name, [num_bytes(up), num_bytes(down), num_bytes((up + down) * times)])
    for name, (up, down) in methods.items()
  ]
  return Table(
    ['Method', 'Up', 'Down', 'In total'],
    rows,
    'Up and down are what one client sends and receives in one round; the '
    f'total is over {num_clients:g} clients a round and {num_rounds} rounds.',
  )


def settings_table(
  settings: Mapping[str, Any], header: str = 'Setting'
) -> Table:
  """Returns nested settings, one row each."""
  return Table([header, 'Value'], list(_setting_rows(settings)))


def number(value: float | None) -> str:
  """Returns a number with four significant digits.

  Example:
    >>> number(0.91234), number(12345.678), number(None)
    ('0.9123', '12,346', '–')
  """
  if value is None:
    return '–'
  if isinstance(value, int) or abs(value) >= 1000:
    return f'{value:,.0f}'
  return f'{value:.4g}'


def num_bytes(count: float) -> str:
  """Returns a number of bytes in the unit that fits.

  Example:
    >>> num_bytes(44_350_924)
    '44.4 MB'
  """
  for unit in ('B', 'kB', 'MB', 'GB', 'TB'):
    if count < 1000 or unit == 'TB':
      break
    count /= 1000
  return f'{count:.3g} {unit}'


def _best(values: Sequence[float | None], better: str) -> int | None:
  known = [value for value in values if value is not None]
  if not better or len(known) < 2:
    return None  # nothing to compare
  return values.index(max(known) if better == 'higher' else min(known))


def _setting_rows(
  settings: Mapping[str, Any], prefix: str = ''
) -> Iterator[Row]:
  for name, value in settings.items():
    if isinstance(value, Mapping):
      yield from _setting_rows(value, f'{prefix}{name}.')
    elif isinstance(value, (list, tuple)):
      yield Row(f'{prefix}{name}', [', '.join(map(str, value)) or 'none'])
    else:
      yield Row(
        f'{prefix}{name}', ['none' if value in ('', None) else str(value)]
      )
