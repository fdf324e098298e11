"""The report of a comparison of personal classifiers.

Everything comes from one value, `Facts`; nothing is computed here.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from fedjax_gen.running.pages import report, report_tables
from fedjax_gen.studies import run_report
from fedjax_gen.studies.fedvtc import vtc_tables
from fedjax_gen.studies.fedvtc.vtc_methods import SUBJECT
from fedjax_gen.studies.run_report import Curve
from fedjax_gen.studies.shown import Shown

_SECTIONS = (
  (
    'methods',
    'Methods compared',
    'Accuracy on data of all classes; each client saw only a few of them.',
  ),
  (
    'classes',
    'Classes that clients never saw',
    'A client alone is never right about a class that it has no example of.',
  ),
  (
    'synthetic',
    'Synthetic images',
    'Drawn from what the server knows about a class, a Gaussian of features, '
    'through the generator. Clients are fine-tuned with such images.',
  ),
  (
    'features',
    'Features',
    'Where one client’s extractor puts real and synthetic images.',
  ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts(run_report.RunFacts):
  """All that a finished run knows.

  Attributes:
    architectures: of each client.
  """

  architectures: Sequence[str]


def summary(facts: Facts, params_digest: str) -> dict[str, Any]:
  """What summary.json holds; the traffic is that of FedVTC."""
  own = facts.metrics[SUBJECT]
  made = run_report.summary(
    facts, params_digest, up=own['bytes_up'], down=own['bytes_down']
  )
  made['architectures'] = list(facts.architectures)
  return made


def write(shown: Shown, facts: Facts) -> None:
  """Writes report.html and the picture of the partition.

  Args:
    shown: what the report shows.
    facts: of the whole run.

  Raises:
    DiskFullError: the disk is full.
  """
  partition = run_report.draw_partition(shown, facts)
  privacy = run_report.privacy(shown, facts)
  whole = facts
  held = {name: facts.metrics[name] for name in shown.names(facts.metrics)}
  facts = shown.restricted(facts, metrics=vtc_tables.released(held))
  sections = [
    _results(shown, facts),
    *_pictures(facts, ['methods', 'classes', 'synthetic']),
    _attacks(facts),
    *privacy,
    *_pictures(facts, ['features']),
    *shown.log(_curves(facts)),
    _clients(facts, partition),
    report.Section(
      'All metrics', [run_report.all_metrics(facts, vtc_tables.explained)]
    ),
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


def _results(shown: Shown, facts: Facts) -> report.Section:
  text = ''
  if not shown.everything:
    text = (
      'How well clients predict is not told here: their classifiers train '
      'without noise, and so numbers of them are not protected.'
    )
  else:
    text = vtc_tables.advice(facts.metrics)
  return report.Section('Results', [vtc_tables.results(facts.metrics)], text)


def _lead(facts: Facts) -> str:
  names = dict.fromkeys(facts.architectures)
  return (
    f'{run_report.who_holds_what(facts)} Each has a classifier of its own '
    f'({", ".join(names)} in turn) and keeps it.'
    + (
      ' The numbers say how well these do on test images of all classes.'
      if 'accuracy' in facts.metrics[SUBJECT]
      else ''
    )
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
  return [*headlines, *run_report.headline(facts.releases)]


def _pictures(facts: Facts, wanted: Sequence[str]) -> list[report.Section]:
  return [
    report.Section(title, run_report.pictures(facts.drawn, section), text)
    for section, title, text in _SECTIONS
    if section in wanted
  ]


def _attacks(facts: Facts) -> report.Section:
  """What an attacker gets of the statistics; empty without an attack."""
  table = vtc_tables.attacks(facts.metrics[SUBJECT])
  return report.Section(
    'What the statistics give away',
    [] if table is None else [table],
    'Means of features of single clients, as one sees them who reads a '
    'message, were turned into images. Decoding needs the generator alone; '
    'searching needs the client’s extractor too, which is never sent. An '
    'attack that finds nothing is no guarantee.',
  )


def _curves(facts: Facts) -> report.Section:
  with_generator = [name for name in facts.results if name.startswith(SUBJECT)]
  return run_report.training(
    facts,
    [
      Curve(
        'accuracy', 'Accuracy on the global test set',
        'Mean over clients, as each would predict after the round.',
      ),
      Curve(
        'cross_entropy', 'Cross-entropy of training, nats',
        'On the clients’ own examples, mean over the round.',
      ),
      Curve(
        'reconstruction', 'Squared error of the generator, summed over pixels',
        'Of images made from the features of real ones.', with_generator,
      ),
      Curve(
        'matching', 'Distribution matching',
        'How far features of generated images are from their class.',
        with_generator,
      ),
    ],
  )  # fmt: skip


def _clients(
  facts: Facts, partition: Sequence[report.Picture]
) -> report.Section:
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
    *partition,
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


def _use(shown: Shown, facts: Facts) -> report.Section:
  """How to sample from the generator, and to ask a client's classifier."""
  said = (
    'A client’s classifier and, with vtc_scope=local, its generator are what '
    'it keeps: a simulation can write them side by side.'
  )
  if facts.protection is not None:
    said += ' ε is of what FedVTC’s clients send, and covers none of these.'
  methods = ', '.join(facts.metrics)
  command, sample = run_report.use(shown, what='Synthetic images')
  if not shown.everything:
    # Of clients nothing is given away, be it generators or classifiers.
    is_shared = facts.config['fedvtc']['vtc_scope'] == 'federated'
    return report.Section(
      'Use the models', [command, sample] if is_shared else []
    )
  return report.Section(
    'Use the models',
    [
      command,
      report.Code(
        f'{sample.text}\n\n'
        f'clients = fedjax_gen.load_clients({str(shown.path)!r}, {SUBJECT!r})\n'
        'probabilities = clients.predict(images, client=0)\n'
        'classes = clients.classify(images, client=0)',
        'The same in Python, and what a client’s classifier says. Classifiers '
        f'are of {methods}; all predict by their heads.',
      ),
    ],
    said,
  )
