"""Tables of a run over groups: on the terminal, and in the report.

They are made from one value, `Facts`; nothing is computed here.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table as TerminalTable

from fedjax_gen.evaluation import groups as groups_lib
from fedjax_gen.evaluation.group_models import GroupGenerator
from fedjax_gen.evaluation.groups import GroupReference
from fedjax_gen.federated.rounds import Traffic
from fedjax_gen.running.pages import report, report_tables
from fedjax_gen.studies.fedvae import vae_report
from fedjax_gen.studies.fissionvae.fission_discovery import DiscoveryResult
from fedjax_gen.studies.run_report import RunFacts

_REAL = 'real_data'
_MAX_GROUPS_SHOWN = 5
_MAX_CLIENTS_LISTED = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts(RunFacts):
  """All that a finished run knows.

  Attributes:
    reference: of the real images; None where there are too few to compare.
    generators: by trained method what is asked for images of a group.
    discovery: None if the groups were given.
  """

  reference: GroupReference | None
  generators: Mapping[str, GroupGenerator]
  discovery: DiscoveryResult | None


class _Column(NamedTuple):
  """A column of numbers: what stands above it, and where they come from."""

  header: str
  metric: str
  better: str
  text: Callable[[float | None], str] = report_tables.number


class _Measure(NamedTuple):
  """A table of one measure, by method and group."""

  table: report.Table
  better: str


def examples(facts: Facts) -> str:
  """What the data are called."""
  return 'images' if facts.source.is_image else 'examples'


def show(facts: Facts) -> None:
  """Prints a row for each method and a column for each group."""
  console = Console(highlight=False)
  console.width = min(console.width, 80)
  for measure in measures(facts, _MAX_GROUPS_SHOWN):
    arrow = {'lower': ' ↓', 'higher': ' ↑'}[measure.better]
    name, *columns = measure.table.header
    rows = measure.table.rows
    first = max(len(row.head) for row in rows)
    share = (console.width - first) // len(columns) - 1
    table = TerminalTable(box=None, pad_edge=False, collapse_padding=True)
    table.add_column(name + arrow, overflow='fold')
    for position, column in enumerate(columns):
      # Long names of groups are broken, numbers are not.
      longest = max(len(row.cells[position]) for row in rows)
      width = max(longest, min(len(column), share))
      table.add_column(column, justify='right', overflow='fold', width=width)
    for row in rows:
      table.add_row(row.head, *row.cells)
    console.print(table)
    console.print()


def measures(facts: Facts, max_groups: int | None = None) -> list[_Measure]:
  """Tables of FID, leakage and ELBO, of those that were measured.

  Args:
    facts: of the run.
    max_groups: with more than so many, groups have no columns of their own.
  """
  names = facts.source.group_names
  suffixes = groups_lib.metric_names(names)
  groups = list(zip(names, suffixes, strict=True))
  if max_groups is not None and len(groups) > max_groups:
    groups = []

  def columns(metric, better, text=report_tables.number):
    return [
      *(_Column(n, f'{metric}/{suffix}', better, text) for n, suffix in groups),
      _Column(f'All {examples(facts)}', metric, better, text),
    ]

  separation = _Column('Latent separation', 'latent_separation', '', percent)
  leakage = columns('group_leakage', 'lower', percent)
  elbo = columns('test_elbo', 'higher')
  # Next to what it explains, if that was measured.
  (elbo if facts.reference is None else leakage).append(separation)
  wanted = [
    ('Group leakage', 'lower', leakage),
    ('Held-out ELBO', 'higher', elbo),
    ('Told from real', 'lower', columns('discriminative_score', 'lower')),
    ('Column shapes', 'higher', columns('column_shapes', 'higher', percent)),
    ('Pair trends', 'higher', columns('pair_trends', 'higher', percent)),
  ]
  if fid := fid_name(facts):
    mean = _Column('Mean of groups', f'group_mean_{fid}', 'lower')
    wanted.insert(0, ('FID', 'lower', [*columns(fid, 'lower'), mean]))
  return [
    _Measure(table, better)
    for title, better, shown in wanted
    if (table := _table(facts, title, shown, better)).rows
  ]


def _table(
  facts: Facts, title: str, columns: Sequence[_Column], better: str
) -> report.Table:
  """Methods down, columns across; without those that have no number."""
  columns = [
    c for c in columns if any(c.metric in m for m in facts.metrics.values())
  ]
  cells = {c.header: _marked(facts, c) for c in columns}
  rows = [
    report.Row(_shown(name), [cells[c.header][name] for c in columns])
    for name, values in facts.metrics.items()
    if any(c.metric in values for c in columns)
  ]
  caption = f'{better.capitalize()} is better; ★ marks the best of a column.'
  if title == 'FID' and rows:
    caption += _how_many(facts)
  return report.Table([title, *(c.header for c in columns)], rows, caption)


def _how_many(facts: Facts) -> str:
  """What FID is to be read with: it falls with the number of images."""
  counts = next(m for m in facts.metrics.values() if 'num_generated' in m)
  return (
    f' Of {counts["num_generated"]:,.0f} generated and '
    f'{counts["num_real"]:,.0f} real {examples(facts)}; FID falls with their '
    'number.'
  )


def _marked(facts: Facts, column: _Column) -> dict[str, str]:
  """The cells of a column by method, a star before the best of them.

  Before and not after, so that numbers stay in line. Real data do not compete,
  and where all are alike none is best.
  """
  values = {name: m.get(column.metric) for name, m in facts.metrics.items()}
  texts = {name: column.text(value) for name, value in values.items()}
  known = {n: v for n, v in values.items() if v is not None and n != _REAL}
  if not column.better or not known:
    return texts
  best = (max if column.better == 'higher' else min)(known.values())
  winners = [name for name in known if texts[name] == column.text(best)]
  if len(winners) < len(known):
    texts |= {name: f'★ {texts[name]}' for name in winners}
  return texts


def discovery(facts: Facts) -> report.Section:
  """Which clients were put together; without blocks if groups were given."""
  found, title = facts.discovery, 'Discovered groups'
  if found is None:
    return report.Section(title, [])
  names = facts.source.group_names
  counts = np.zeros((len(names), found.num_groups), int)
  np.add.at(counts, (found.true, found.groups), 1)
  headers = [f'Found group {g}' for g in range(found.num_groups)]
  blocks = [
    report.Table(
      ['True group', *headers],
      [
        report.Row(name, [str(count) for count in row])
        for name, row in zip(names, counts, strict=True)
      ],
      'Clients, by true and by found group.',
    )
  ]
  if len(found.groups) <= _MAX_CLIENTS_LISTED:
    blocks.append(_clients_in_groups(found, names, counts.argmax(axis=1)))
  return report.Section(title, blocks, _how_discovered(found))


def _clients_in_groups(
  found: DiscoveryResult, names: Sequence[str], usual: np.ndarray
) -> report.Table:
  """A row for each client; `usual` is where most of a true group are."""
  rows = [
    report.Row(
      str(client),
      [
        names[true],
        str(group),
        '' if group == usual[true] else 'not with most of its group',
      ],
    )
    for client, (true, group) in enumerate(
      zip(found.true, found.groups, strict=True)
    )
  ]
  return report.Table(['Client', 'True group', 'Found group', 'Remark'], rows)


def _how_discovered(found: DiscoveryResult) -> str:
  """What clients sent, and how well that told them apart."""
  sent = report_tables.num_bytes(found.bytes_per_client)
  text = (
    f'After {found.warmup_rounds} rounds of FedVAE every client sent one '
    f'statistic of its data, {sent}, and the server clustered the clients by '
    f'it into {found.num_groups} groups, numbered in any order. '
    f'{percent(found.accuracy)} of the clients are in their own group; the '
    f'adjusted Rand index is {found.adjusted_rand_index:.3f}, 1 if perfect '
    'and 0 by chance. Images of a true group come from the models of the found '
    'group with most of its clients.'
  )
  if found.newcomers:
    text += (
      f' {found.newcomers} more clients took no part in anything and joined '
      f'after it: {percent(found.newcomer_accuracy)} of them found the group '
      'of their kind by the same statistic.'
    )
  return text


def traffic(facts: Facts) -> report.Table:
  """What clients sent and received: of a method, and of each of its fleets."""
  rows = []
  for name, fleets in facts.traffic.items():
    total = sum(
      record['bytes_up'] + record['bytes_down']
      for record in facts.results[name].history
    )
    rows.append(_traffic_row(name, *mean_traffic(fleets), total))
    if len(fleets) > 1:
      rows += [
        _traffic_row(f'{name}, fleet {number}', *mean_traffic([fleet]))
        for number, fleet in enumerate(fleets, start=1)
      ]
  caption = (
    'Up and down are what one client sends and receives in one round; the '
    'total is over all clients and rounds.'
  )
  if len(rows) > len(facts.traffic):
    caption += (
      ' Clients with decoders of one architecture are a fleet; of several '
      'fleets the mean is given, and each.'
    )
  if 'central' in facts.traffic:
    caption += ' central sends nothing but needs all data in one place.'
  return report.Table(['Method', 'Up', 'Down', 'In total'], rows, caption)


def _traffic_row(
  name: str, up: float, down: float, total: float | None = None
) -> report.Row:
  cells = [report_tables.num_bytes(up), report_tables.num_bytes(down)]
  return report.Row(
    name, [*cells, '–' if total is None else report_tables.num_bytes(total)]
  )


def mean_traffic(fleets: Sequence[Traffic]) -> tuple[int, int]:
  """Bytes up and down, the plain mean over fleets in whole bytes."""
  up = round(sum(fleet.bytes_up for fleet in fleets) / len(fleets))
  down = round(sum(fleet.bytes_down for fleet in fleets) / len(fleets))
  return up, down


def metrics_of(facts: Facts, group: str, title: str) -> report.Table:
  """Metrics named with a group at the end, explained where none is there."""
  methods: dict[str, dict[str, float]] = {
    method: {
      base: value
      for name, value in metrics.items()
      if (parts := name.partition('/'))[2] == group and (base := parts[0])
    }
    for method, metrics in facts.metrics.items()
  }
  names = {name for values in methods.values() for name in values}
  table = report_tables.metrics_table(
    methods,
    {name: vae_report.explained(name) for name in names},
    reference=_REAL,
  )
  rows = table.rows
  if group:  # the words stand in the first table
    rows = [dataclasses.replace(row, note='') for row in rows]
  header = [title, *(_shown(method) for method in methods)]
  return dataclasses.replace(table, header=header, rows=rows)


def fid_name(facts: Facts) -> str:
  """The name of FID among the metrics; empty if it was not measured."""
  if facts.reference is None or facts.reference.extractors.classes is None:
    return ''
  return f'fid_{facts.reference.extractors.classes.name}'


def percent(value: float | None) -> str:
  """A share; a dash where there is none."""
  return '–' if value is None else f'{value:.1%}'


def _shown(method: str) -> str:
  return 'real data' if method == _REAL else method
