"""What a finished comparison of generators of embeddings says.

Everything comes from one value, `Facts`; but for pictures, which `draw` makes
of what was trained, and for what all methods cost together, nothing is computed
here.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math
import pathlib
import shlex
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table as TerminalTable

from experiments import hype_synthesis, vae_report
from experiments.hype_methods import HypePrivacyConfig, Method
from experiments.hype_synthesis import Synthetic
from experiments.private_run import Protection
from fedjax_gen import trees
from fedjax_gen.evaluation import embedding_pictures, heads
from fedjax_gen.evaluation.embedding_pictures import LabelledEmbeddings
from fedjax_gen.evaluation.gallery import Drawn
from fedjax_gen.federated.rounds import Traffic
from fedjax_gen.models import meta_code
from fedjax_gen.models.hypernetwork import HyperVae
from fedjax_gen.privacy import accounting
from fedjax_gen.privacy.plan import PrivacyConfig
from fedjax_gen.privacy.report import rows as ledger_rows
from fedjax_gen.running import charts, report, report_tables
from fedjax_gen.running.report_tables import Metric
from fedjax_gen.running.training import TrainResult

_OURS = 'FedHypeVAE'
_NOMINAL = 'nominal epsilon, NOT a guarantee'
_WAY_STEPS = 7
_WAY_SAMPLES = 256

_METHODS = {
  _OURS: 'FedHypeVAE: a shared hypernetwork turns each client’s code into a '
  'decoder and a class prior of its own.',
  f'{_OURS}-meta': 'FedHypeVAE-meta: its synthetic data from one neutral code.',
  f'{_OURS}-meta_by_class': 'FedHypeVAE-meta_by_class: from a neutral code for '
  'each class.',
  f'{_OURS}-clients': 'FedHypeVAE-clients: its synthetic data from the codes '
  'of the clients, each for the classes it holds; codes are published for it.',
  'DP-CVAE': 'DP-CVAE: one conditional decoder for all.',
  'DP-CGAN': 'DP-CGAN: one conditional GAN for all.',
  'FedAvg': 'FedAvg: no data are shared but a linear classifier, averaged.',
  'FedProx': 'FedProx: the same, clients kept near what is averaged.',
  'FedLambda': 'FedLambda: FedAvg’s classifier, interpolated with each '
  'client’s own.',
}
_LOCAL = 'local: each client’s own classifier, of its own records alone.'

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

_SECTIONS = (
  (
    'embeddings',
    'Real and synthetic embeddings',
    'A generator whose points lie elsewhere than the real ones of their class '
    'is of no use to a classifier.',
  ),
  ('clients', 'Who gains', ''),
  (
    'codes',
    'Codes of the clients',
    'A client’s code is all that its decoder and prior differ by from those '
    'of others. Clients of like data should have like codes. ',
  ),
  (
    'interpolations',
    'Between two clients',
    'What the hypernetwork makes of codes that belong to nobody.',
  ),
)

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
  'epsilon': Metric('What training told of those protected; see Privacy.'),
  'nominal_epsilon': Metric(
    'What an accountant says of the published formulas, which protect nothing: '
    f'{_NOMINAL}.'
  ),
  'delta': Metric('Its delta.'),
}


@dataclasses.dataclass(frozen=True)
class Facts(vae_report.RunFacts):
  """All that a finished run knows.

  Attributes:
    traffic: bytes per client and round, by trained method.
    drawn: the pictures.
    methods: what was trained, by name.
    privacy: what was asked for.
  """

  traffic: Mapping[str, Traffic]
  drawn: Sequence[Drawn]
  methods: Mapping[str, Method]
  privacy: HypePrivacyConfig

  @property
  def rounds(self) -> int:
    """Rounds that the first method was trained for."""
    return next(iter(self.methods.values())).rounds


def sentences(methods: Mapping[str, Method]) -> list[str]:
  """What protects whom, for the terminal; nothing where nothing does.

  Methods of which the same is to be said share a sentence.
  """
  said: dict[str, list[str]] = {}
  for name, method in methods.items():
    if protection := method.budget.protection:
      is_nominal = _is_nominal(method, protection.config)
      text = _warning(protection) if is_nominal else protection.sentence()
      said.setdefault(text, []).append(name)
  return [f'{_listed(names)}: {text}' for text, names in said.items()]


def spent(method: Method, privacy: HypePrivacyConfig) -> dict[str, float]:
  """What a method's training told of whom it protects, for its metrics.

  Args:
    method: that was trained.
    privacy: what was asked for.

  Returns:
    `delta`, and `epsilon` if it is finite; `nominal_epsilon` in its place
    where the published formulas, which protect nothing, are charged for.
    Nothing without protection.
  """
  if method.budget.protection is None:
    return {}
  found = method.budget.protection.metrics()
  if not _is_nominal(method, privacy):
    return found
  return {
    {'epsilon': 'nominal_epsilon'}.get(name, name): value
    for name, value in found.items()
  }


def show(metrics: Mapping[str, Mapping[str, float]]) -> None:
  """Prints a row for each method and a column for each of the main metrics."""
  console = Console(highlight=False)
  console.width = min(console.width, 80)
  table = TerminalTable(box=None, pad_edge=False, collapse_padding=True)
  table.add_column('')
  shown = [column for column in (*_COLUMNS, *_OF_DATA) if column.short]
  columns = _known(shown, metrics)
  for column in columns:
    arrow = {'lower': ' ↓', 'higher': ' ↑'}.get(column.better, '')
    table.add_column(column.short + arrow, justify='right')
  for method, values in metrics.items():
    table.add_row(
      method, *(report_tables.number(values.get(c.metric)) for c in columns)
    )
  console.print(table)


def summary(facts: Facts, params_digest: str) -> dict[str, Any]:
  """What summary.json holds.

  The one traffic is that of FedHypeVAE, or else of the first method; `bytes`
  has that of all.

  Args:
    facts: of the run.
    params_digest: of all that was trained.
  """
  chosen = facts.traffic.get(_OURS) or next(iter(facts.traffic.values()))
  made = vae_report.run_summary(
    facts, params_digest, up=chosen.bytes_up, down=chosen.bytes_down
  )
  # JSON has no NaN.
  made['methods'] = {
    method: {
      name: float(value)
      for name, value in values.items()
      if math.isfinite(value)
    }
    for method, values in facts.metrics.items()
  }
  made['bytes'] = {
    name: {'up': t.bytes_up, 'down': t.bytes_down}
    for name, t in facts.traffic.items()
  }
  return made


def draw(
  folder: pathlib.Path,
  clients: Any,
  synthetic: Mapping[str, Synthetic],
  evaluations: Mapping[str, heads.Evaluation],
  shared: Mapping[str, Any],
  methods: Mapping[str, Method],
  results: Mapping[str, TrainResult],
  *,
  seed: int,
) -> list[Drawn]:
  """Draws what there is to be seen of the methods that ran.

  Args:
    folder: where to write; made if it is not there.
    clients: with `source`, `partition` and `rows`, who holds what.
    synthetic: by generator what it shares.
    evaluations: by method what classifiers reach.
    shared: by trained method what the server holds; not needed.
    methods: what was trained, by name.
    results: of training, by trained method.
    seed: of draws and of the choice of points.

  Returns:
    the pictures: real and synthetic embeddings, what each client gets of the
    first method, and of FedHypeVAE, if it has codes, these and the way from
    one of them to another.

  Raises:
    DiskFullError: the disk is full.
  """
  del shared
  folder.mkdir(parents=True, exist_ok=True)
  drawn = []
  rows = clients.rows
  if synthetic and len(rows.test.order) > 1:
    drawn.append(
      embedding_pictures.draw_embeddings(
        _of_rows(rows, rows.test.order),
        {
          name: LabelledEmbeddings(made.inputs, made.labels)
          for name, made in synthetic.items()
        },
        folder / 'embeddings.png',
        class_names=clients.source.class_names,
        seed=seed,
      )
    )
  domains, are_domains = _domains(clients)
  subject = next(iter(evaluations))
  drawn.append(
    _draw_clients(
      evaluations[subject], subject, domains, folder / 'clients.png'
    )
  )
  made, method = synthetic.get(_OURS), methods.get(_OURS)
  if made is None or method is None or not method.model.config.uses_code:
    return drawn
  codes = np.asarray(hype_synthesis.client_codes(method, results[_OURS].state))
  ends = _furthest(codes, clients.partition.sizes)
  if ends is None:
    return drawn
  found = embedding_pictures.draw_codes(codes, domains, folder / 'codes.png')
  if not are_domains:
    found = found._replace(
      caption='Codes of the clients in their first two principal components, '
      'marked by the client’s most frequent class.'
    )
  way_codes = meta_code.interpolated(codes[ends[0]], codes[ends[1]], _WAY_STEPS)
  personals = jax.jit(
    jax.vmap(functools.partial(method.model.personalise, made.hyper))
  )(way_codes)
  means = [
    meta_code.generated_moments(
      method.model,
      made.hyper,
      trees.take(personals, step),
      jax.random.key(seed),  # the same latents all the way
      _WAY_SAMPLES,
    ).means
    for step in range(_WAY_STEPS)
  ]
  first, last = (_of_rows(rows, clients.partition.rows(end)) for end in ends)
  way = embedding_pictures.draw_way(
    np.stack(means),
    (first, last),
    folder / 'way.png',
    end_names=(_client(ends[0], domains), _client(ends[1], domains)),
    class_names=clients.source.class_names,
  )
  return [*drawn, found, way]


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
    *_warnings(facts),
    _results(facts),
    *_pictures(facts, ['embeddings', 'clients']),
    *_privacy(facts),
    *_pictures(facts, ['codes', 'interpolations']),
    _curves(facts),
    _clients(facts, partition_png),
    _all_metrics(facts),
    *_use(workdir, facts),
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
    return _percent(value) + (
      '' if spread is None else f' ± {_percent(spread)}'
    )


_PERCENT = (
  'accuracy',
  'balanced_accuracy',
  'balanced_accuracy_worst',
  'synthetic_balanced_accuracy',
  'auc',
)
_COLUMNS = (
  _Column('Accuracy', 'accuracy', 'accuracy', 'higher'),
  _Column('Balanced accuracy', 'balanced', 'balanced_accuracy', 'higher'),
  _Column('AUC', 'AUC', 'auc', 'higher'),
  _Column('Worst client', 'worst', 'balanced_accuracy_worst', 'higher'),
  _Column('ε', 'ε', 'epsilon'),
  _Column(_NOMINAL, _NOMINAL, 'nominal_epsilon'),
)
_OF_DATA = (
  _Column(
    'Synthetic alone', 'synthetic', 'synthetic_balanced_accuracy', 'higher'
  ),
  _Column('MMD', 'MMD', 'class_mmd', 'lower'),
  _Column('Wasserstein', '', 'class_wasserstein', 'lower'),
  _Column('Error of means', '', 'class_mean_error', 'lower'),
  _Column('Membership AUC', 'members', 'membership_auc'),
)


def _known(
  columns: Sequence[_Column], metrics: Mapping[str, Mapping[str, float]]
) -> list[_Column]:
  """Those of which there is a number."""
  return [c for c in columns if any(c.metric in m for m in metrics.values())]


def _percent(value: float) -> str:
  return f'{100 * value:.1f}'


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


def _explained(name: str) -> Metric:
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


def _lead(facts: Facts) -> str:
  """Who holds what, what is shared, and what the numbers mean."""
  width, *_ = facts.source.input_shape
  return ' '.join(
    [
      vae_report.who_holds_what(facts),
      f'They are embeddings of {width} features in '
      f'{facts.source.num_classes} classes. What clients need is a linear '
      'classifier; what they share is a generator of synthetic embeddings, or '
      'the classifier itself. The numbers say how well classifiers do on '
      'embeddings that each client held out.',
    ]
  )


def _headlines(facts: Facts) -> list[tuple[str, str]]:
  """The numbers of the first method, beside the clients’ own classifiers."""
  subject, values = next(iter(facts.metrics.items()))
  wanted = [
    (f'Balanced accuracy, {subject}', values.get('balanced_accuracy')),
    (
      'Balanced accuracy, local',
      facts.metrics.get('local', {}).get('balanced_accuracy'),
    ),
    (
      f'Synthetic alone, {subject}', values.get('synthetic_balanced_accuracy')
    ),
  ]  # fmt: skip
  headlines = [
    (label, f'{_percent(value)}%')
    for label, value in wanted
    if value is not None
  ]
  if 'membership_auc' in values:
    text = report_tables.number(values['membership_auc'])
    headlines.append(('Membership AUC (0.5: guessing)', text))
  method = facts.methods.get(subject)
  if method and (protection := method.budget.protection):
    label, text = protection.headline()
    is_nominal = _is_nominal(method, facts.privacy)
    headlines.append((_NOMINAL if is_nominal else label, text))
  return headlines


def _results(facts: Facts) -> report.Section:
  """What classifiers reach, as in the table of the paper; then generators."""
  text = ' '.join(
    [
      *(text for name, text in _METHODS.items() if name in facts.metrics),
      _LOCAL,
      'With a generator, a classifier is trained on synthetic embeddings and '
      'interpolated with each client’s own; the share is chosen on validation '
      'rows. Of FedAvg and FedProx the averaged classifier stands alone.',
    ]
  )
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
    _table(facts.metrics, 'Method', _COLUMNS, caption),
    _table(facts.metrics, 'Generator', _OF_DATA, of_data),
  ]
  return report.Section('Results', [t for t in tables if t.rows], text)


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


def _headed(column: _Column) -> str:
  return column.header + (', %' if column.metric in _PERCENT else '')


def _pictures(facts: Facts, wanted: Sequence[str]) -> list[report.Section]:
  sections = []
  for section, title, text in _SECTIONS:
    blocks = [
      report.Picture(drawn.path, drawn.caption, drawn.caption)
      for drawn in facts.drawn
      if drawn.section == section and section in wanted
    ]
    if section == 'codes':
      text += _who_knows_codes(facts)
    sections.append(report.Section(title, blocks, text))
  return sections


def _who_knows_codes(facts: Facts) -> str:
  if facts.config['synthesis']['codes'] == 'clients':
    return 'Synthetic data are made of them: they are published.'
  if facts.privacy.privacy == 'record_server_code':
    return 'The server holds them.'
  return 'None leaves its client: that they stand here is the simulation’s.'


def _warnings(facts: Facts) -> list[report.Section]:
  """Of what holds nothing, though it has an epsilon."""
  return [
    _nominal_section(name, protection)
    for name, protection in _protections(facts).items()
    if _is_nominal(facts.methods[name], facts.privacy)
  ]


def _privacy(facts: Facts) -> list[report.Section]:
  """What holds, if anything does."""
  held = {
    name: protection
    for name, protection in _protections(facts).items()
    if not _is_nominal(facts.methods[name], facts.privacy)
  }
  others = [name for name in facts.methods if name not in held]
  return [_held_section(facts, held, others)] if held else []


def _protections(facts: Facts) -> dict[str, Protection]:
  return {
    name: method.budget.protection
    for name, method in facts.methods.items()
    if method.budget.protection is not None
  }


def _nominal_section(name: str, protection: Protection) -> report.Section:
  plan, config = protection.plan, protection.config
  header, *table = ledger_rows(protection.ledger)
  values = [
    (_NOMINAL, _number(protection.epsilon)),
    ('Nominal δ', f'{config.delta:g}'),
    ('Noise multiplier', _number(plan.noise_multiplier)),
    ('Clipping norm C', f'{plan.max_norm:g}'),
    ('Rounds', f'{plan.rounds} of {protection.asked}'),
  ]
  return report.Section(
    f'Warning: {name} is NOT private',
    [
      report.Table(
        ['Published formulas', 'Value'],
        [report.Row(label, [value]) for label, value in values],
      ),
      report.Table(
        [*header[:-1], _NOMINAL],
        [report.Row(head, cells) for head, *cells in table],
        'What an accountant charges for, as if it held.',
      ),
    ],
    f'privacy=paper trains {name} by the published formulas. They move a '
    'client’s encoder and code without noise, and these decide the gradients '
    'of all its other records: one record can move what is released by more '
    'than the noise is made for. The ε here is nominal, what an accountant '
    'says if that is overlooked. Whoever publishes this model or its samples '
    'publishes them unprotected; privacy=record_joint protects records.',
  )


def _held_section(
  facts: Facts, held: Mapping[str, Protection], others: Sequence[str]
) -> report.Section:
  """The section `Privacy`: the first method in full, the others in a row."""
  subject, *beside = held
  section = held[subject].section(
    [subject], others, remarks=_remarks(facts, held)
  )
  about, ledger = section.blocks
  blocks = [
    _headed_by(about, f'Privacy of {subject}'),
    ledger,
  ]
  if beside:
    rows = [_protection_row(name, p) for name, p in held.items()]
    blocks.append(
      report.Table(
        ['Method', 'ε', 'δ', 'Noise multiplier', 'Sampling rate', 'Rounds'],
        rows,
        'Each method by itself, under the same budget.',
      )
    )
  return dataclasses.replace(section, blocks=blocks)


def _headed_by(table: Any, name: str) -> report.Table:
  return dataclasses.replace(table, header=[name, *table.header[1:]])


def _protection_row(name: str, protection: Protection) -> report.Row:
  plan = protection.plan
  return report.Row(
    name,
    [
      _number(protection.epsilon),
      f'{protection.config.delta:g}',
      _number(plan.noise_multiplier),
      f'{plan.sampling_rate:.4g}',
      f'{plan.rounds} of {protection.asked}',
    ],
  )


def _remarks(facts: Facts, held: Mapping[str, Protection]) -> str:
  """What is particular to what is compared here."""
  texts = []
  if len(held) > 1:
    subject, *beside = held
    texts.append(
      f'{_listed(beside)} had the same budget for the same records, each by '
      'itself.'
    )
    together = _together(list(held.values()))
    if math.isfinite(together):
      texts.append(
        f'All {len(held)} together, as this folder holds them, cost ε = '
        f'{_number(together)}.'
      )
  if 'FedLambda' in facts.metrics:
    texts.append('FedLambda releases what FedAvg does.')
  by_clients = facts.config['synthesis']['codes'] == 'clients'
  if _OURS in held and by_clients and facts.privacy.privacy == 'client':
    texts.append(
      'But codes=clients publishes the clients’ codes, on which there is no '
      'noise: FedHypeVAE’s synthetic embeddings are NOT protected.'
    )
  elif _OURS in held and facts.privacy.privacy == 'record_server_code':
    texts.append(
      'The server holds a code of each client, made of what it sent with '
      'noise, and the clients are told apart by them.'
    )
  texts.append(
    'The clients’ own classifiers are trained without noise: they are not '
    'protected, and never leave their client. interpolation_lambda is chosen '
    'on validation rows, without noise.'
  )
  return ' '.join(texts)


def _together(protections: Sequence[Protection]) -> float:
  """Epsilon of all that these released, of the client who pays most."""
  first = protections[0]
  delta = first.config.delta - sum(
    # What is kept for samples that do not fit, by every method.
    p.config.delta - p.ledger.delta
    for p in protections
  )
  if delta <= 0:
    return math.inf
  histories = set(zip(*(p.ledger.histories for p in protections), strict=True))
  return accounting.parallel(
    accounting.epsilon(
      [entry.event for history in of_client for entry in history],
      delta,
      accountant=first.config.accountant,
    )
    for of_client in histories
  )


def _curves(facts: Facts) -> report.Section:
  histories = {name: r.history for name, r in facts.results.items()}
  # The losses of a GAN and of a classifier are other quantities.
  of_vaes = {
    name: history
    for name, history in histories.items()
    if isinstance(facts.methods[name].model, HyperVae)
  }
  blocks = [
    charts.curves(
      of_vaes, 'loss', title='Training loss, nats per record',
      caption='Mean over clients; without what regularises codes and heads.',
    ),
    charts.curves(
      of_vaes, 'reconstruction', title='Reconstruction, nats per record',
      caption='−log p(x | z, y).',
    ),
    charts.curves(
      of_vaes, 'kl', title='KL term, nats per record',
      caption='Near zero means that the latent is not used.',
    ),
    charts.curves(
      of_vaes, 'mmd', title='MMD term per record',
      caption='Up to a constant of the data; lower is nearer.',
    ),
    charts.curves(
      histories, 'share_clipped', title='Share of records that are clipped',
      caption='Near one, all records weigh alike; near zero, noise is wasted.',
    ),
    charts.curves(
      histories, 'update_norm', title='Norm of the update',
      caption='How far the server moved in the round.',
    ),
  ]  # fmt: skip
  return report.Section('Training', [block for block in blocks if block])


def _clients(facts: Facts, partition_png: pathlib.Path) -> report.Section:
  blocks: list[Any] = [
    report.Picture(
      partition_png,
      f'Examples of each class at each client: {facts.partition.description}.',
      'Chart of the number of examples of each class at each client.',
    )
  ]
  rows = []
  for name, traffic in facts.traffic.items():
    up, down = traffic.bytes_up, traffic.bytes_down
    history = facts.results[name].history
    times = facts.methods[name].rounds * float(
      np.mean([record['participants'] for record in history])
    )
    rows.append(
      report.Row(
        name,
        [
          report_tables.num_bytes(up),
          report_tables.num_bytes(down),
          str(facts.methods[name].rounds),
          report_tables.num_bytes((up + down) * times),
        ],
      )
    )
  caption = (
    'Up and down are what one client sends and receives in one round; the '
    'total is over all clients and rounds. In the end clients receive the '
    'synthetic embeddings too, or the generator, which is not counted'
  )
  sends_moments = _OURS in facts.traffic
  caption += '; nor are class moments, sent once.' if sends_moments else '.'
  if 'FedLambda' in facts.metrics:
    caption += ' FedLambda sends what FedAvg does.'
  header = ['Method', 'Up', 'Down', 'Rounds', 'In total']
  blocks.append(report.Table(header, rows, caption))
  return report.Section('Clients and communication', blocks)


def _all_metrics(facts: Facts) -> report.Section:
  names = {name for values in facts.metrics.values() for name in values}
  table = report_tables.metrics_table(
    facts.metrics, {name: _explained(name) for name in names}
  )
  return report.Section('All metrics', [table])


def _use(workdir: pathlib.Path, facts: Facts) -> list[report.Section]:
  """How to sample from the first generator that is saved."""
  saved = [
    name
    for name, method in facts.methods.items()
    if isinstance(method.model, HyperVae)
  ]
  if not saved:
    return []
  folder = shlex.quote(str(workdir))
  return [
    report.Section(
      'Use the model',
      [
        report.Code(
          f'python -m experiments.generate --workdir={folder} '
          f'--method={saved[0]} --num=10000 --out=synthetic.npz',
          f'Samples into a file. {workdir} is the folder that holds this page.',
        ),
        report.Code(
          'import fedjax_gen\n\n'
          f'model = fedjax_gen.load({str(workdir)!r}, {saved[0]!r})\n'
          'embeddings, labels = model.sample(10_000, seed=0)',
          'Samples in Python',
        ),
      ],
    )
  ]


def _draw_clients(
  found: heads.Evaluation,
  name: str,
  domains: Sequence[str],
  path: pathlib.Path,
) -> Drawn:
  """What each client gets, of what is shared, of its own, and of both."""
  regimes = {
    'synthetic': f'{name}, shared alone',
    'local': 'own alone',
    'interpolated': 'both',
  }
  return embedding_pictures.draw_clients(
    {
      label: found.values[f'{regime}_balanced_accuracy']
      for regime, label in regimes.items()
    },
    path,
    client_names=[_client(client, domains) for client in found.clients],
  )


def _domains(clients: Any) -> tuple[list[str], bool]:
  """Of each client the commonest domain of its rows, or else class.

  Returns:
    N names, and whether they are of domains.
  """
  source, train = clients.source, clients.source.train
  are_domains = train.groups is not None and len(source.group_names) > 1
  ids = train.groups if are_domains else train.labels
  names = source.group_names if are_domains else source.class_names
  found = []
  for client in range(clients.partition.num_clients):
    held = ids[clients.partition.rows(client)]
    found.append(names[np.bincount(held).argmax()] if len(held) else 'empty')
  return found, are_domains


def _furthest(codes: np.ndarray, sizes: np.ndarray) -> tuple[int, int] | None:
  """The two clients, of those with rows, whose codes are furthest apart."""
  held = np.flatnonzero(sizes)
  if len(held) < 2:
    return None
  points = codes[held]
  # From the one furthest out, not over all pairs, which may be millions.
  out = np.linalg.norm(points - points.mean(axis=0), axis=1).argmax()
  other = np.linalg.norm(points - points[out], axis=1).argmax()
  if out == other:  # all alike
    return None
  first, last = sorted((int(held[out]), int(held[other])))
  return first, last


def _of_rows(rows: heads.ClientRows, which: np.ndarray) -> LabelledEmbeddings:
  return LabelledEmbeddings(rows.inputs[which], rows.labels[which])


def _client(client: int, domains: Sequence[str]) -> str:
  return f'client {client} ({domains[client]})'


def _is_nominal(method: Method, privacy: PrivacyConfig) -> bool:
  """Whether a method descends the formulas as printed: FedHypeVAE alone."""
  protection = method.budget.protection
  return (
    privacy.privacy == 'paper'
    and protection is not None
    and any(
      entry.label == 'class moments'
      for history in protection.ledger.histories
      for entry in history
    )
  )


def _warning(protection: Protection) -> str:
  """What is said in place of `Protection.sentence` where nothing holds."""
  return (
    'NOT private: the published formulas protect no record. '
    f'{_NOMINAL}: {protection.epsilon:.4g} at '
    f'delta={protection.config.delta:g}, noise multiplier '
    f'{protection.plan.noise_multiplier:.4g}, {protection.plan.rounds} rounds '
    f'of {protection.asked}.'
  )


def _listed(names: Sequence[str]) -> str:
  """'a, b and c'."""
  *most, last = names
  return f'{", ".join(most)} and {last}' if most else last


def _number(value: float) -> str:
  return '∞' if math.isinf(value) else report_tables.number(value)
