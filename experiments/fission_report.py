"""What a finished run over groups says: summary.json, report.html, tables.

Everything comes from one value, `Facts`; but for pictures, which are drawn from
its generators, nothing is computed here.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import pathlib
import shlex
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table as TerminalTable

from experiments import vae_report
from experiments.fission_discovery import Found
from fedjax_gen.evaluation import group_gallery, groups as groups_lib
from fedjax_gen.evaluation.gallery import Drawn
from fedjax_gen.evaluation.group_models import GroupGenerator
from fedjax_gen.evaluation.groups import GroupReference
from fedjax_gen.federated.rounds import Traffic
from fedjax_gen.running import charts, report, report_tables

_REAL = 'real_data'
_PLAIN = 'FedVAE'

_PARTS = {
  'L': 'L gives each group a prior of its own.',
  'D': 'D gives each group a decoder of its own.',
  'H': 'H puts a second level of latents in between.',
  'het': 'het makes the groups’ decoders of different architectures.',
}

_OTHERS = {
  'group_vaes': 'group_vaes is a FedVAE of each group alone.',
  'local': 'local are VAEs of single clients; numbers are means over the first '
  'clients of each group, pictures are of the first.',
  'central': 'central is one VAE trained on all data in one place.',
  'fedgan': 'fedgan is one GAN, averaged over all clients.',
}

# In 80 columns, with two that hold numbers of all groups.
_MAX_GROUPS_SHOWN = 5
_MAX_CLIENTS_LISTED = 100


@dataclasses.dataclass(frozen=True)
class Facts(vae_report.RunFacts):
  """All that a finished run knows.

  Attributes:
    reference: of the real images; None where there are too few to compare.
    traffic: bytes per client and round of each fleet, by trained method.
    generators: by trained method what is asked for images of a group.
    discovery: None if the groups were given.
  """

  reference: GroupReference | None
  traffic: Mapping[str, Sequence[Traffic]]
  generators: Mapping[str, GroupGenerator]
  discovery: Found | None


def summary(facts: Facts, params_digest: str) -> dict[str, Any]:
  """What summary.json holds.

  The one traffic is that of L+D, or else of the first method that sends
  anything; `bytes` has that of all. Of several fleets it is their plain mean,
  however many clients each has.

  Args:
    facts: of the run.
    params_digest: of all that was trained.
  """
  traffic = {name: _mean_traffic(t) for name, t in facts.traffic.items()}
  senders = [name for name, (up, _) in traffic.items() if up]
  chosen = 'L+D' if 'L+D' in senders else next(iter(senders), '')
  up, down = traffic.get(chosen, (0, 0))
  made = vae_report.run_summary(facts, params_digest, up=up, down=down) | {
    'bytes': {
      name: {'up': up, 'down': down} for name, (up, down) in traffic.items()
    }
  }
  if found := facts.discovery:
    made['discovery'] = {
      name: np.asarray(value).tolist()
      for name, value in found._asdict().items()
    }
  return made


def show(facts: Facts) -> None:
  """Prints a row for each method and a column for each group."""
  console = Console(highlight=False)
  console.width = min(console.width, 80)
  for measure in _measures(facts, _MAX_GROUPS_SHOWN):
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


def write(workdir: pathlib.Path, facts: Facts) -> None:
  """Writes report.html and the pictures in it.

  Raises:
    DiskFullError: the disk is full.
  """
  folder = workdir / 'samples'
  between = dict.fromkeys([_variant(facts), _PLAIN])
  drawn = group_gallery.draw_all(
    facts.generators,
    facts.source,
    folder,
    between=[name for name in between if _has_models(facts, name)],
    seed=facts.config['run']['seed'],
  )
  facts.partition.plot(
    facts.source.train.labels,
    facts.source.class_names,
    folder / 'partition.png',
  )
  sections = [
    _samples(facts, drawn),
    _results(facts),
    *vae_report.privacy(facts),
    _curves(facts),
    _pictures(
      drawn,
      'interpolations',
      'Between the groups',
      'From the latent means of a held-out image of one group to those of one '
      'of another, in equal steps along a straight line. Where groups share '
      'a decoder, it decodes what lies between them too; where each has its '
      'own, each decodes the whole way.',
    ),
    _pictures(drawn, 'reconstructions', 'Reconstructions', ''),
    _discovery(facts),
    _clients(facts, folder / 'partition.png'),
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
  """A column of numbers: what stands above it, and where they come from."""

  header: str
  metric: str
  better: str
  text: Callable[[float | None], str] = report_tables.number


class _Measure(NamedTuple):
  """A table of one measure, by method and group."""

  table: report.Table
  better: str


def _measures(facts: Facts, max_groups: int | None = None) -> list[_Measure]:
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
      _Column('All images', metric, better, text),
    ]

  separation = _Column('Latent separation', 'latent_separation', '', _percent)
  leakage = columns('group_leakage', 'lower', _percent)
  elbo = columns('test_elbo', 'higher')
  # Beside what it explains, if that was measured.
  (elbo if facts.reference is None else leakage).append(separation)
  wanted = [
    ('Group leakage', 'lower', leakage),
    ('Held-out ELBO', 'higher', elbo),
  ]
  if fid := _fid(facts):
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
    f'{counts["num_real"]:,.0f} real images; FID falls with their number.'
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


def _percent(value: float | None) -> str:
  return '–' if value is None else f'{value:.1%}'


def _shown(method: str) -> str:
  return 'real data' if method == _REAL else method


def _fid(facts: Facts) -> str:
  """The name of FID among the metrics; empty if it was not measured."""
  if facts.reference is None or facts.reference.extractors.classes is None:
    return ''
  return f'fid_{facts.reference.extractors.classes.name}'


def _parts(method: str) -> set[str]:
  return set() if method in (_PLAIN, *_OTHERS) else set(method.split('+'))


def _variant(facts: Facts) -> str:
  """The method that the report is about: L and D, or what is next to it."""

  def nearness(name):
    parts = _parts(name)
    return len({'L', 'D'} & parts), bool(parts)

  return max(facts.results, key=nearness)


def _has_models(facts: Facts, name: str) -> bool:
  return name in facts.generators and bool(facts.generators[name].models)


def _lead(facts: Facts) -> str:
  """Who holds what, and what the letters mean."""
  parts = {part for name in facts.results for part in _parts(name)}
  sentences = [
    vae_report.who_holds_what(facts),
    f'Their images are of {len(facts.source.group_names)} kinds, the groups: '
    f'{", ".join(facts.source.group_names)}.',
  ]
  if facts.discovery:
    sentences.append('Who is of which group was not told but discovered.')
  if _PLAIN in facts.results:
    sentences.append(f'{_PLAIN} is one variational autoencoder for all.')
  sentences += [text for part, text in _PARTS.items() if part in parts]
  return ' '.join(sentences)


def _headlines(facts: Facts) -> list[tuple[str, str]]:
  """The numbers of the main method, each with that of FedVAE."""
  wanted = [
    (_fid(facts), 'FID', report_tables.number),
    ('group_leakage', 'Group leakage', _percent),
    ('latent_separation', 'Latent separation', _percent),
  ]
  if facts.reference is None:
    wanted.append(('test_elbo', 'Held-out ELBO', report_tables.number))
  methods = dict.fromkeys([_variant(facts), _PLAIN])
  headlines = [
    (f'{label}, {name}', text(facts.metrics[name][metric]))
    for metric, label, text in wanted
    for name in methods
    if metric in facts.metrics.get(name, ())
  ]
  if facts.protection is not None and _variant(facts) in facts.protected:
    headlines.append(facts.protection.headline())
  if facts.discovery:
    share = _percent(facts.discovery.accuracy)
    headlines.append(('Clients in their own group', share))
  return headlines


def _samples(facts: Facts, drawn: Sequence[Drawn]) -> report.Section:
  baselines = [text for name, text in _OTHERS.items() if name in facts.results]
  return _pictures(
    drawn,
    'samples',
    'Generated images',
    ' '.join(
      [
        'Every column should look like the real images above it, and like no '
        'other column.',
        *baselines,
      ]
    ),
  )


def _results(facts: Facts) -> report.Section:
  text = 'Measured on held-out data.'
  if facts.reference is not None:
    text += (
      ' Group leakage is the share of images asked for as one group that a '
      'classifier of groups takes for another. Real data show what is the '
      'best to hope for: the FID of real training images, and how often the '
      'classifier is wrong about real held-out ones. A method that cannot be '
      'asked for a group leaks by chance; if all that it makes looks like one '
      'group, it leaks nothing there and everything elsewhere.'
    )
  text += (
    ' Latent separation is how often a linear classifier reads the group off '
    'the latent means; higher tells of latents further apart, not of better '
    'images.'
  )
  text += vae_report.privacy_remark(facts)
  return report.Section('Results', [m.table for m in _measures(facts)], text)


def _curves(facts: Facts) -> report.Section:
  histories = {name: r.history for name, r in facts.results.items()}
  # The loss of a GAN is another quantity.
  of_vaes = {n: h for n, h in histories.items() if _has_models(facts, n)}
  blocks = [
    charts.curves(
      histories, 'group_leakage', title='Group leakage',
      caption='Share of images that look like another group.',
    ),
    charts.curves(
      histories, 'latent_separation', title='Latent separation',
      caption='Accuracy of a linear classifier of groups on latent means.',
    ),
    charts.curves(
      histories, _fid(facts), title='FID of all images',
      caption='Of few images, hence above the final one.',
    ),
    charts.curves(
      histories, 'test_elbo', title='Held-out ELBO, nats per example',
      caption='Of the model at the end of the round.',
    ),
    charts.curves(
      of_vaes, 'loss', title='Training loss, nats per example',
      caption='Mean over the local steps of the round.',
    ),
  ]  # fmt: skip
  return report.Section('Training', [block for block in blocks if block])


def _pictures(
  drawn: Sequence[Drawn], section: str, title: str, text: str
) -> report.Section:
  shown = [picture for picture in drawn if picture.section == section]
  is_wide = section != 'reconstructions' or len(shown) == 1
  return report.Section(
    title,
    [report.Picture(d.path, d.caption, d.caption, is_wide) for d in shown],
    text,
  )


def _discovery(facts: Facts) -> report.Section:
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
    usual = counts.argmax(axis=1)
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
    blocks.append(
      report.Table(['Client', 'True group', 'Found group', 'Remark'], rows)
    )
  sent = report_tables.num_bytes(found.bytes_per_client)
  text = (
    f'After {found.warmup_rounds} rounds of FedVAE every client sent one '
    f'statistic of its data, {sent}, and the server clustered the clients by '
    f'it into {found.num_groups} groups, whose numbers mean nothing. '
    f'{_percent(found.accuracy)} of the clients are in their own group; the '
    f'adjusted Rand index is {found.adjusted_rand_index:.3f}, 1 if perfect '
    'and 0 by chance. The models asked for images of a true group are those '
    'of the found group that most of its clients are in.'
  )
  if found.newcomers:
    text += (
      f' {found.newcomers} more clients took no part in anything and joined '
      f'after it: {_percent(found.newcomer_accuracy)} of them found the group '
      'of their kind by the same statistic.'
    )
  return report.Section(title, blocks, text)


def _clients(facts: Facts, partition_png: pathlib.Path) -> report.Section:
  picture = report.Picture(
    partition_png,
    f'Examples of each class at each client: {facts.partition.description}.',
    'Chart of the number of examples of each class at each client.',
  )
  return report.Section(
    'Clients and communication', [picture, _traffic_table(facts)]
  )


def _traffic_table(facts: Facts) -> report.Table:
  """What clients sent and received: of a method, and of each of its fleets."""
  rows = []
  for name, fleets in facts.traffic.items():
    total = sum(
      record['bytes_up'] + record['bytes_down']
      for record in facts.results[name].history
    )
    rows.append(_traffic_row(name, *_mean_traffic(fleets), total))
    if len(fleets) > 1:
      rows += [
        _traffic_row(f'{name}, fleet {number}', *_mean_traffic([fleet]))
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


def _mean_traffic(fleets: Sequence[Traffic]) -> tuple[int, int]:
  """Bytes up and down, the plain mean over fleets in whole bytes."""
  up = round(sum(fleet.bytes_up for fleet in fleets) / len(fleets))
  down = round(sum(fleet.bytes_down for fleet in fleets) / len(fleets))
  return up, down


def _all_metrics(facts: Facts) -> report.Section:
  """Every number: a table of all images, and one of each group."""
  suffixes = ['', *groups_lib.metric_names(facts.source.group_names)]
  titles = ['Metric', *facts.source.group_names]
  tables = [
    _metrics_of(facts, suffix, title)
    for suffix, title in zip(suffixes, titles, strict=True)
  ]
  text = 'Of all images, then of each group. ★ marks the best of a row.'
  if (reference := facts.reference) is not None:
    used = [e.description for e in reference.extractors if e is not None]
    text += f' Features and groups are those of {" ".join(used)}'
  return report.Section(
    'All metrics',
    [table for table in tables if table.rows],
    text,
  )


def _metrics_of(facts: Facts, group: str, title: str) -> report.Table:
  """Metrics whose names end in a group, explained where they end in none."""
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


def _use(workdir: pathlib.Path, facts: Facts) -> report.Section:
  method, group = _variant(facts), facts.source.group_names[0]
  folder = shlex.quote(str(workdir))
  command = f'python -m experiments.generate --workdir={folder}'
  if method in ('central', 'fedgan'):  # which know no groups
    return report.Section(
      'Use the model',
      [report.Code(f'{command} --method={method} --num=10000')],
    )
  return report.Section(
    'Use the model',
    [
      report.Code(
        f'{command} --method={method} --group={shlex.quote(group)} '
        '--num=10000 --out=synthetic.npz',
        f'Samples of one group into a file. {workdir} is the folder that holds '
        'this page.',
      ),
      report.Code(
        'import fedjax_gen\n\n'
        f'model = fedjax_gen.load({str(workdir)!r}, {method!r})\n'
        f'images, labels = model.sample(10_000, group={group!r}, seed=0)',
        'Samples in Python',
      ),
    ],
  )
