"""The report of a VAE run: summary.json, report.html, a table.

Everything comes from one value, `Facts`; nothing is computed here.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as TerminalTable

from fedjax_gen.evaluation.drawing import gallery
from fedjax_gen.evaluation.networks.features import FeatureExtractor
from fedjax_gen.federated.rounds import Traffic
from fedjax_gen.models.generators import GENERATORS
from fedjax_gen.running import leaves
from fedjax_gen.running.pages import report, report_tables
from fedjax_gen.running.pages.report_tables import Metric
from fedjax_gen.studies import audits, run_report
from fedjax_gen.studies.fedvae.vae_judge import Measured, VaeComparison
from fedjax_gen.studies.run_report import Curve, RunFacts
from fedjax_gen.studies.shown import Shown
from fedjax_gen.studies.study import Results, Run

_EXPLAINED = {
  'epsilon': Metric(
    'Privacy loss (epsilon) of the protected units; see Privacy.'
  ),
  'delta': Metric('Its delta.'),
  **audits.EXPLAINED,
  'test_elbo': Metric(
    'Lower bound on the log-likelihood of held-out data, nats per example.',
    'higher',
  ),
  'test_reconstruction': Metric('Its first term, −log p(x | z).', 'lower'),
  'test_kl': Metric('Its second term, KL(q(z | x) ‖ p(z)).'),
  'test_kl_z1': Metric('What z1 adds to it.'),
  'test_kl_z2': Metric('What z2 adds to it.'),
  'test_iw_bound': Metric('Tighter, importance-weighted bound.', 'higher'),
  'test_flow_error': Metric(
    'Mean squared error of the velocity on held-out data.', 'lower'
  ),
  'num_real': Metric('Held-out examples compared with.'),
  'num_generated': Metric('Generated examples; FID falls with their number.'),
  'kid': Metric(
    'Kernel distance of features; its mean does not depend on the number of '
    'images.',
    'lower',
  ),
  'kid_stddev': Metric('Its spread over subsets.'),
  'fid': Metric('Fréchet distance of features.', 'lower'),
  'inception_score': Metric(
    'Confident and varied classes; 1 to the number of classes.', 'higher'
  ),
  'inception_score_stddev': Metric('Its spread over ten parts.'),
  'precision': Metric('Generated images near real ones.', 'higher'),
  'recall': Metric('Real images near generated ones.', 'higher'),
  'density': Metric('Precision, less easily fooled by outliers.', 'higher'),
  'coverage': Metric('Real images with a generated neighbour.', 'higher'),
  'tstr_accuracy': Metric(
    'Of a classifier trained on generated, tested on real images.', 'higher'
  ),
  'tstr_accuracy_labels_by': Metric(
    'The same, the extractor’s classifier having labelled the samples.',
    'higher',
  ),
  'label_agreement': Metric(
    'Generated images that look like the class asked for.', 'higher'
  ),
  'memorised_share': Metric(
    'Generated images nearer to a training image than 99% of held-out ones; '
    '0.01 is what new images would give.'
  ),
  'dcr_share': Metric(
    'Generated images nearer to a training image than to any of as many '
    'held-out ones; 0.5 is no copying.'
  ),
  'discriminative_score': Metric(
    'Accuracy above one half of a classifier that tells generated from '
    'held-out examples.',
    'lower',
  ),
  'predictive_mae': Metric(
    'Error of a forecast of the next step that was learnt from generated '
    'series, on held-out ones, in standard deviations.',
    'lower',
  ),
  'autocorrelation_distance': Metric(
    'Mean difference of autocorrelations.', 'lower'
  ),
  'spectrum_distance': Metric(
    'Mean difference of log power spectra, decibels.', 'lower'
  ),
  'tstr_boosting': Metric(
    'Accuracy of gradient boosting trained on generated, tested on real rows.',
    'higher',
  ),
  'column_shapes': Metric(
    'Likeness of the distributions of columns (sdmetrics).', 'higher'
  ),
  'pair_trends': Metric(
    'Likeness of what pairs of columns have in common (sdmetrics).', 'higher'
  ),
  'group_mean_fid': Metric('Unweighted mean of the groups’ FID.', 'lower'),
  'group_leakage': Metric(
    'Share of examples asked for as one group that look like another.',
    'lower',
  ),
  'group_entropy': Metric(
    'Doubt about the group of an example, nats; high for blends.', 'lower'
  ),
  'latent_separation': Metric(
    'Accuracy of a linear classifier of groups on the latent means.'
  ),
}

_HEADLINES = {
  'test_elbo': 'Held-out ELBO, nats per example',
  'fid': 'FID',
  'inception_score': 'Inception Score',
  'tstr_accuracy': 'Accuracy, trained on generated, tested on real images',
  'tstr_accuracy_labels_by': 'Accuracy, trained on generated, tested on real '
  'images',
}

_AFTER_A_ROUND = 'Of the model at the end of the round.'

_SECTIONS = (
  ('samples', 'Generated images', ''),
  ('reconstructions', 'Reconstructions', ''),
  (
    'memory',
    'Does it remember?',
    'Each generated image stands above the training image nearest to it by '
    'pixel distance. The same image twice would be remembered, not made.',
  ),
  (
    'maps',
    'Maps',
    't-SNE of the held-out images, one point each, marked by class. Left, '
    'what the encoder makes of them; right, what the decoder makes of that.',
  ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts(RunFacts):
  """All that a finished run knows."""

  extractor: FeatureExtractor | None


def report_run(
  running: Run, compared: VaeComparison, results: Results, measured: Measured
) -> dict[str, Any]:
  """Draws, writes report.html, prints the results; returns the summary."""
  shown = running.shown
  drawn = gallery.draw_all(
    compared.generator,
    {name: trained[0] for name, trained in measured.models.items()},
    compared.source, shown.kept / 'samples', seed=running.seed,
    show_real=shown.everything,
  )  # fmt: skip
  facts = Facts(
    **run_report.of_run(running, compared, results, measured.metrics, drawn),
    extractor=measured.extractor,
  )
  write(shown, facts)
  show(facts.metrics)
  [traffic] = facts.traffic.get('federated', [Traffic(0, 0)])
  return run_report.summary(
    facts,
    leaves.params_digest(measured.models),
    up=traffic.bytes_up,
    down=traffic.bytes_down,
  )


def show(metrics: Mapping[str, Mapping[str, float]]) -> None:
  """Prints the metrics that are better high or low, methods side by side."""
  console = Console(highlight=False)
  console.width = min(console.width, 80)
  table = TerminalTable(box=None, pad_edge=False)
  table.add_column('')
  for method in metrics:
    table.add_column(method, justify='right')
  names = dict.fromkeys(name for values in metrics.values() for name in values)
  for name in names:
    if better := explained(name).better:
      arrow = '↑' if better == 'higher' else '↓'
      values = [report_tables.number(m.get(name)) for m in metrics.values()]
      table.add_row(f'{name} {arrow}', *values)
  console.print(table)


def write(shown: Shown, facts: Facts) -> None:
  """Writes report.html and the picture of the partition."""
  partition = run_report.draw_partition(shown, facts)
  privacy = run_report.privacy(shown, facts)
  seen = shown.restricted(facts)
  run_report.write(
    shown,
    facts,
    lead=_lead(seen),
    headlines=_headlines(seen),
    sections=[
      *_pictures(seen, ['samples']),
      _results(shown, seen),
      *privacy,
      *_pictures(seen, ['reconstructions', 'memory', 'maps']),
      *shown.log(_curves(seen)),
      _clients(seen, partition),
      report.Section('Use the model', run_report.use(shown)),
      run_report.settings(seen),
    ],
  )


def explained(name: str) -> Metric:
  """What a metric means, whatever extractor or group its name ends in."""
  return _EXPLAINED.get(_base(name.partition('/')[0]), Metric(''))


def _base(name: str) -> str:
  """A metric's name without that of the extractor it ends in."""
  while name and name not in _EXPLAINED:
    name = name.rpartition('_')[0]
  return name


def _lead(facts: Facts) -> str:
  who = run_report.who_holds_what(facts)
  return (
    f'{who} They train one {_title(facts)} together: '
    'in each round every participant trains the model it receives on its own '
    'examples, and the server averages what comes back. The numbers below are '
    f'of the {next(iter(facts.metrics))} model.'
  )


def _title(facts: Facts) -> str:
  """What the model is."""
  return GENERATORS[facts.config['generator']['generator']].title


def _headlines(facts: Facts) -> list[tuple[str, str]]:
  subject, values = next(iter(facts.metrics.items()))
  headlines = [
    (_HEADLINES[_base(name)], report_tables.number(value))
    for name, value in values.items()
    if _base(name) in _HEADLINES
  ]
  return [*headlines, *run_report.headline(facts.releases)]


def _results(shown: Shown, facts: Facts) -> report.Section:
  text = 'Measured on held-out examples.'
  if shown.everything:
    text += (
      ' federated is the averaged model, central '
      'one model trained on all data, local the mean over models of single '
      'clients; real_data measures real training images in place of generated '
      'ones, the best to hope for.'
    )
    if facts.source.kind.has_layout:
      text += (
        ' class_gaussians and marginal_copies are trivial generators, made of '
        'training examples in one place: the least that a model should beat.'
      )
  text += run_report.privacy_remark(facts)
  if facts.extractor is not None:
    text += f' Features: {facts.extractor.description}'
  return report.Section(
    'Results', [run_report.all_metrics(facts, explained, 'real_data')], text
  )


def _pictures(facts: Facts, wanted: Sequence[str]) -> list[report.Section]:
  return [
    report.Section(title, shown, text)
    for section, title, text in _SECTIONS
    if section in wanted
    and (
      shown := run_report.pictures(
        facts.drawn, section, is_wide=section not in ('samples', 'maps')
      )
    )
  ]


def _curves(facts: Facts) -> report.Section:
  is_vae = facts.config['generator']['generator'] == 'vae'
  return run_report.training(
    facts,
    [
      Curve(
        'loss', f'Training loss{", nats per example" * is_vae}',
        'Mean over the local steps of the round.',
      ),
      Curve(
        'test_flow_error', 'Held-out error of the velocity', _AFTER_A_ROUND
      ),
      Curve('test_elbo', 'Held-out ELBO, nats per example', _AFTER_A_ROUND),
      Curve(
        'kl', 'KL term, nats per example',
        'Near zero means that the latent is not used.',
      ),
      Curve(
        'update_norm', 'Norm of the mean update',
        'How far the server moved in the round.',
      ),
    ],
  )  # fmt: skip


def _clients(
  facts: Facts, partition: Sequence[report.Picture]
) -> report.Section:
  blocks: list[Any] = [*partition]
  if federated := facts.results.get('federated'):  # only it communicates
    [traffic] = facts.traffic['federated']
    blocks.append(
      report_tables.traffic_table(
        {'federated': (traffic.bytes_up, traffic.bytes_down)},
        float(np.mean([r['participants'] for r in federated.history])),
        facts.rounds,
      )
    )
  return report.Section('Clients and communication', blocks)
