"""The report of a comparison of generators: summary.json, report.html.

Everything comes from one value, `Facts`; only the joint cost of all methods is
computed here. `hype_tables` has the tables, `hype_privacy` the text on privacy,
`hype_pictures` the pictures.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from fedjax_gen.models.hyper.hypernetwork import HyperVae
from fedjax_gen.running import leaves
from fedjax_gen.running.pages import report, report_tables
from fedjax_gen.studies import run_report
from fedjax_gen.studies.fedhypevae import (
  hype_pictures,
  hype_privacy,
  hype_tables,
)
from fedjax_gen.studies.fedhypevae.hype_budgets import HypePrivacyConfig
from fedjax_gen.studies.fedhypevae.hype_judge import (
  EmbeddingComparison,
  Measured,
)
from fedjax_gen.studies.fedhypevae.hype_uploads import OneUpload
from fedjax_gen.studies.run_report import Curve
from fedjax_gen.studies.shown import Shown
from fedjax_gen.studies.study import Results, Run

_OURS = 'FedHypeVAE'

_METHODS = {
  'ClassGaussians': 'ClassGaussians: clients send one noised sum, which '
  'gives Gaussians of the classes; nothing is trained.',
  'DP-MERF': 'DP-MERF: clients send one noised sum of random features, and a '
  'generator is fitted to it.',
  f'{_OURS}-pretrained': f'{_OURS}-pretrained: the same, from a start on '
  'samples of Gaussians that a part of the budget was spent on.',
  'DP-CVAE-pretrained': 'DP-CVAE-pretrained: likewise.',
  _OURS: 'FedHypeVAE: a shared hypernetwork turns each client’s code into a '
  'decoder and a class prior of its own.',
  f'{_OURS}-meta': 'FedHypeVAE-meta: its synthetic data from one neutral code.',
  f'{_OURS}-meta_by_class': 'FedHypeVAE-meta_by_class: from a neutral code for '
  'each class.',
  f'{_OURS}-clients': 'FedHypeVAE-clients: its synthetic data from the codes '
  'of the clients, each for the classes it holds; this publishes the codes.',
  'DP-CVAE': 'DP-CVAE: one conditional decoder for all.',
  'DP-CGAN': 'DP-CGAN: one conditional GAN for all.',
  'FedAvg': 'FedAvg: only a linear classifier is shared, and averaged.',
  'FedProx': 'FedProx: the same, with clients kept near the average.',
  'FedLambda': 'FedLambda: FedAvg’s classifier, interpolated with each '
  'client’s own.',
}
_LOCAL = 'local: each client’s own classifier, from its own records only.'

_SECTIONS = (
  (
    'embeddings',
    'Real and synthetic embeddings',
    'If generated points lie away from the real ones of their class, they are '
    'of no use to a classifier.',
  ),
  ('clients', 'Who gains', ''),
  (
    'codes',
    'Codes of the clients',
    'Decoders and priors of clients differ only by their codes. Clients with '
    'similar data should have similar codes. ',
  ),
  (
    'interpolations',
    'Between two clients',
    'What the hypernetwork generates for codes between those of two clients.',
  ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts(run_report.RunFacts):
  """All that a finished run knows."""

  privacy: HypePrivacyConfig
  confidence: float

  @property
  def rounds(self) -> int:
    """Rounds that the first method was trained for, if one has rounds."""
    methods = list(self.methods.values())
    trained = [method for method in methods if not method.is_one_upload]
    return (trained or methods)[0].rounds


def report_run(
  running: Run,
  compared: EmbeddingComparison,
  results: Results,
  measured: Measured,
) -> dict[str, Any]:
  """Draws, writes report.html, prints the results; returns the summary."""
  shown = running.shown
  drawn = hype_pictures.draw(
    shown, compared.clients, measured.synthetic, measured.reached,
    compared.methods, measured.codes, seed=running.seed,
  )  # fmt: skip
  facts = Facts(
    **run_report.of_run(running, compared, results, measured.metrics, drawn),
    privacy=running.asked.privacy,
    confidence=running.asked.audit.audit_confidence,
  )
  write(shown, facts)
  hype_tables.show(facts.metrics)
  return summary(facts, leaves.params_digest(measured.shared))


def summary(facts: Facts, params_digest: str) -> dict[str, Any]:
  """What summary.json holds.

  The one traffic is that of FedHypeVAE, or else of the first method; `bytes`
  has that of all.
  """
  [chosen] = facts.traffic.get(_OURS) or next(iter(facts.traffic.values()))
  made = run_report.summary(
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
    for name, [t] in facts.traffic.items()
  }
  return made


def write(shown: Shown, facts: Facts) -> None:
  """Writes report.html and the picture of the partition."""
  partition = run_report.draw_partition(shown, facts)
  whole = facts
  held = {name: facts.metrics[name] for name in shown.names(facts.metrics)}
  facts = shown.restricted(facts, metrics=hype_tables.released(held))
  sections = [
    *hype_privacy.warnings(whole.methods),
    _results(shown, facts),
    *_pictures(shown, facts, ['embeddings', 'clients']),
    *hype_privacy.sections(
      whole.methods,
      whole.privacy,
      whole.metrics,
      whole.confidence,
      whole.releases,
      with_audit=shown.everything,
    ),
    *_pictures(shown, facts, ['codes', 'interpolations']),
    *shown.log(_curves(facts)),
    _clients(facts, partition),
    report.Section(
      'All metrics', [run_report.all_metrics(facts, hype_tables.explained)]
    ),
    *_use(shown, facts),
    run_report.settings(facts),
  ]
  run_report.write(
    shown,
    whole,
    lead=_lead(facts),
    headlines=_headlines(facts),
    sections=sections,
  )


def _lead(facts: Facts) -> str:
  """Who holds what, what is shared, and what the numbers mean."""
  width, *_ = facts.source.input_shape
  return ' '.join(
    [
      run_report.who_holds_what(facts),
      f'They are embeddings of {width} features in '
      f'{facts.source.num_classes} classes. What clients need is a linear '
      'classifier; what they share is a generator of synthetic embeddings, or '
      'the classifier itself. The numbers say how well classifiers do on '
      'embeddings that each client held out.',
    ]
  )


def _headlines(facts: Facts) -> list[tuple[str, str]]:
  """The numbers of the first method, and of the clients’ own classifiers."""
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
    (label, f'{hype_tables.percent(value)}%')
    for label, value in wanted
    if value is not None
  ]
  if 'membership_auc' in values:
    text = report_tables.number(values['membership_auc'])
    headlines.append(('Membership AUC (0.5: guessing)', text))
  if any(method.is_nominal for method in facts.methods.values()):
    return headlines  # not all of the folder is protected
  return [*headlines, *run_report.headline(facts.releases)]


def _results(shown: Shown, facts: Facts) -> report.Section:
  methods = [text for name, text in _METHODS.items() if name in facts.metrics]
  if not shown.everything:
    return report.Section(
      'Results',
      hype_tables.results(facts.metrics),
      ' '.join(
        [
          hype_tables.advice(facts.metrics),
          *methods,
          'The scores are of classifiers made of what is shared alone. Clients '
          'interpolate these with classifiers of their own, which are not '
          'protected.',
        ]
      ),
    )
  text = ' '.join(
    [
      hype_tables.advice(facts.metrics),
      *methods,
      _LOCAL,
      'With a generator, a classifier is trained on synthetic embeddings and '
      'interpolated with each client’s own; the share is chosen on validation '
      'rows. Of FedAvg and FedProx the averaged classifier stands alone.',
    ]
  )
  return report.Section('Results', hype_tables.results(facts.metrics), text)


def _pictures(
  shown: Shown, facts: Facts, wanted: Sequence[str]
) -> list[report.Section]:
  sections = []
  for section, title, text in _SECTIONS:
    if section not in wanted:
      continue
    if section == 'codes':
      text += _who_knows_codes(facts)
    if section == 'embeddings' and not shown.everything:
      title, text = 'Synthetic embeddings', ''
    blocks = run_report.pictures(facts.drawn, section)
    sections.append(report.Section(title, blocks, text))
  return sections


def _who_knows_codes(facts: Facts) -> str:
  privacy = facts.privacy.privacy
  if privacy == 'client':
    return 'They stay with their clients, and are not protected.'
  if 'clients' in facts.config['synthesis']['codes']:
    return 'Synthetic data are made of them, too: they are published.'
  if privacy == 'record_server_code':
    return 'The server holds them.'
  text = 'None leaves its client: that they stand here is the simulation’s.'
  if privacy == 'record_joint':
    text += ' The noise on what trains them protects records in them, too.'
  return text


def _curves(facts: Facts) -> report.Section:
  # The losses of a GAN and of a classifier are other quantities.
  of_vaes = [
    name
    for name in facts.results
    if isinstance(facts.methods[name].model, HyperVae)
  ]
  return run_report.training(
    facts,
    [
      Curve(
        'loss', 'Training loss, nats per record',
        'Mean over clients; without what regularises codes and heads.', of_vaes,
      ),
      Curve(
        'reconstruction', 'Reconstruction, nats per record',
        '−log p(x | z, y).', of_vaes,
      ),
      Curve(
        'kl', 'KL term, nats per record',
        'Near zero means that the latent is not used.', of_vaes,
      ),
      Curve(
        'mmd', 'MMD term per record',
        'Up to a constant of the data; lower is nearer.', of_vaes,
      ),
      Curve(
        'share_clipped', 'Share of records that are clipped',
        'Near one, all records weigh alike; near zero, noise is wasted.',
      ),
      Curve(
        'update_norm', 'Norm of the update',
        'How far the server moved in the round.',
      ),
    ],
  )  # fmt: skip


def _clients(
  facts: Facts, partition: Sequence[report.Picture]
) -> report.Section:
  blocks: list[Any] = [*partition]
  rows = []
  for name, [traffic] in facts.traffic.items():
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
  if any(method.gaussians is not None for method in facts.methods.values()):
    caption += ' Nor are Gaussians that a training starts from, sent once.'
  if 'FedLambda' in facts.metrics:
    caption += ' FedLambda sends what FedAvg does.'
  header = ['Method', 'Up', 'Down', 'Rounds', 'In total']
  blocks.append(report.Table(header, rows, caption))
  return report.Section('Clients and communication', blocks)


def _use(shown: Shown, facts: Facts) -> list[report.Section]:
  """How to sample from the first generator that is saved."""
  saved = [
    name
    for name, method in facts.methods.items()
    if isinstance(method.model, (HyperVae, OneUpload))
  ]
  if not saved:
    return []
  codes = run_report.use(shown, method=saved[0], made='embeddings')
  return [report.Section('Use the model', codes)]
