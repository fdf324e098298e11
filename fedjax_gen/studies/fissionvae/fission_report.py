"""The report of a run over groups: summary.json and report.html.

Everything comes from one value, `Facts`; only pictures are drawn here, with its
generators. Tables are in `fission_tables`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedjax_gen.evaluation import groups as groups_lib
from fedjax_gen.evaluation.drawing import group_gallery
from fedjax_gen.evaluation.drawing.gallery import Drawn
from fedjax_gen.running import leaves
from fedjax_gen.running.pages import report, report_tables
from fedjax_gen.studies import run_report
from fedjax_gen.studies.fissionvae import fission_tables
from fedjax_gen.studies.fissionvae.fission_judge import (
  GroupComparison,
  Measured,
)
from fedjax_gen.studies.fissionvae.fission_tables import Facts
from fedjax_gen.studies.run_report import Curve
from fedjax_gen.studies.shown import Shown
from fedjax_gen.studies.study import Results, Run

_examples = fission_tables.examples
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


def report_run(
  running: Run, compared: GroupComparison, results: Results, measured: Measured
) -> dict[str, Any]:
  """Draws, writes report.html, prints the results; returns the summary."""
  facts = Facts(
    **run_report.of_run(running, compared, results, measured.metrics),
    reference=compared.reference,
    generators={name: made[0] for name, made in measured.generators.items()},
    discovery=compared.discovery,
  )
  write(running.shown, facts)
  fission_tables.show(facts)
  return summary(facts, leaves.params_digest(measured.trained))


def summary(facts: Facts, params_digest: str) -> dict[str, Any]:
  """What summary.json holds.

  The one traffic is that of L+D, or else of the first method that sends
  anything; `bytes` has that of all. Of several fleets it is their plain mean,
  however many clients each has.
  """
  traffic = {
    name: fission_tables.mean_traffic(t) for name, t in facts.traffic.items()
  }
  senders = [name for name, (up, _) in traffic.items() if up]
  chosen = 'L+D' if 'L+D' in senders else next(iter(senders), '')
  up, down = traffic.get(chosen, (0, 0))
  made = run_report.summary(facts, params_digest, up=up, down=down) | {
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


def write(shown: Shown, facts: Facts) -> None:
  """Writes report.html and the pictures in it."""
  partition = run_report.draw_partition(shown, facts)
  privacy = run_report.privacy(shown, facts)
  whole, facts = facts, shown.restricted(facts)
  between = dict.fromkeys([_variant(facts), _PLAIN])
  drawn = shown.placed(
    group_gallery.draw_all(
      facts.generators,
      shown.source(facts.source),
      shown.kept / 'samples',
      between=[name for name in between if _has_models(facts, name)],
      seed=facts.config['run']['seed'],
      show_real=shown.everything,
    )
  )
  sections = [
    _samples(shown, facts, drawn),
    _results(shown, facts),
    *privacy,
    *shown.log(_curves(facts)),
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
    fission_tables.discovery(facts),
    _clients(facts, partition),
    _all_metrics(facts),
    _use(shown, facts),
    run_report.settings(facts),
  ]
  run_report.write(
    shown,
    whole,
    lead=_lead(facts),
    headlines=_headlines(facts),
    sections=sections,
  )


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
    run_report.who_holds_what(facts),
    f'Their {_examples(facts)} are of {len(facts.source.group_names)} kinds, '
    f'the groups: {", ".join(facts.source.group_names)}.',
  ]
  if facts.discovery:
    sentences.append('The groups of clients were not given but discovered.')
  if _PLAIN in facts.results:
    sentences.append(f'{_PLAIN} is one variational autoencoder for all.')
  sentences += [text for part, text in _PARTS.items() if part in parts]
  return ' '.join(sentences)


def _headlines(facts: Facts) -> list[tuple[str, str]]:
  """The numbers of the main method, each with that of FedVAE."""
  wanted = [
    (fission_tables.fid_name(facts), 'FID', report_tables.number),
    ('group_leakage', 'Group leakage', fission_tables.percent),
    ('latent_separation', 'Latent separation', fission_tables.percent),
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
  headlines += run_report.headline(facts.releases)
  if facts.discovery:
    share = fission_tables.percent(facts.discovery.accuracy)
    headlines.append(('Clients in their own group', share))
  return headlines


def _samples(
  shown: Shown, facts: Facts, drawn: Sequence[Drawn]
) -> report.Section:
  texts = [text for name, text in _OTHERS.items() if name in facts.results]
  if facts.source.is_image:
    alike = 'the real images above it, and like ' if shown.everything else ''
    texts.insert(0, f'Every column should look like {alike}no other column.')
  title = f'Generated {_examples(facts)}'
  return _pictures(drawn, 'samples', title, ' '.join(texts))


def _results(shown: Shown, facts: Facts) -> report.Section:
  text = 'Measured on held-out data.'
  if facts.reference is not None:
    text += (
      f' Group leakage is the share of {_examples(facts)} asked for as one '
      'group that a classifier of groups takes for another.'
    )
  if shown.everything and facts.reference is not None:
    text += (
      f' Real data show what is the best to hope for: the FID of real training '
      f'{_examples(facts)}, and how often the classifier is wrong about real '
      'held-out ones. A method that cannot be asked for a group leaks by '
      'chance; if all that it makes looks like one '
      'group, it leaks nothing there and everything elsewhere.'
    )
  if shown.everything:
    text += (
      ' Latent separation is how often a linear classifier reads the group off '
      'the latent means; higher tells of latents further apart, not of better '
      f'{_examples(facts)}.'
    )
  text += run_report.privacy_remark(facts)
  return report.Section(
    'Results', [m.table for m in fission_tables.measures(facts)], text
  )


def _curves(facts: Facts) -> report.Section:
  # The loss of a GAN is another quantity.
  of_vaes = [name for name in facts.results if _has_models(facts, name)]
  return run_report.training(
    facts,
    [
      Curve(
        'group_leakage', 'Group leakage',
        f'Share of {_examples(facts)} that look like another group.',
      ),
      Curve(
        'latent_separation', 'Latent separation',
        'Accuracy of a linear classifier of groups on latent means.',
      ),
      Curve(
        fission_tables.fid_name(facts), f'FID of all {_examples(facts)}',
        f'Of few {_examples(facts)}, hence above the final one.',
      ),
      Curve(
        'test_elbo', 'Held-out ELBO, nats per example',
        'Of the model at the end of the round.',
      ),
      Curve(
        'loss', 'Training loss, nats per example',
        'Mean over the local steps of the round.', of_vaes,
      ),
    ],
  )  # fmt: skip


def _pictures(
  drawn: Sequence[Drawn], section: str, title: str, text: str
) -> report.Section:
  found = run_report.pictures(drawn, section, is_wide=True)
  if section == 'reconstructions' and len(found) > 1:
    found = run_report.pictures(drawn, section)
  return report.Section(title, found, text)


def _clients(
  facts: Facts, partition: Sequence[report.Picture]
) -> report.Section:
  return report.Section(
    'Clients and communication', [*partition, fission_tables.traffic(facts)]
  )


def _all_metrics(facts: Facts) -> report.Section:
  """Every number: a table of all examples, and one of each group."""
  suffixes = ['', *groups_lib.metric_names(facts.source.group_names)]
  titles = ['Metric', *facts.source.group_names]
  tables = [
    fission_tables.metrics_of(facts, suffix, title)
    for suffix, title in zip(suffixes, titles, strict=True)
  ]
  text = (
    f'Of all {_examples(facts)}, then of each group. ★ marks the best of a row.'
  )
  if (reference := facts.reference) is not None:
    used = [e.description for e in reference.extractors if e is not None]
    text += f' Features and groups are those of {" ".join(used)}'
  return report.Section(
    'All metrics',
    [table for table in tables if table.rows],
    text,
  )


def _use(shown: Shown, facts: Facts) -> report.Section:
  method, group = _variant(facts), facts.source.group_names[0]
  if method in ('central', 'fedgan'):  # which know no groups
    group = ''
  what = 'Samples of one group' if group else 'Samples'
  codes = run_report.use(
    shown, method=method, group=group, made=_examples(facts), what=what
  )
  return report.Section('Use the model', codes)
