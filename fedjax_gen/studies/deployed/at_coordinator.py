"""What a coordinator measures where a simulated study reads clients' data.

FedHypeVAE's study measures classifiers of clients on their own records, and
FedVTC's the classifiers that clients keep. Between machines both lie at the
sites. Here a study ends with what the coordinator has: the model, what it
generates, the coordinator's own held-out data, bytes and privacy.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import heads
from fedjax_gen.evaluation.embeddings import embedding_quality, linear_heads
from fedjax_gen.evaluation.embeddings.linear_heads import Head
from fedjax_gen.running import leaves
from fedjax_gen.running.pages import report, report_tables
from fedjax_gen.studies import run_report, study
from fedjax_gen.studies.fedhypevae import (
  hype_methods,
  hype_privacy,
  hype_study,
  hype_synthesis,
)
from fedjax_gen.studies.fedhypevae.hype_judge import EmbeddingComparison
from fedjax_gen.studies.fedhypevae.hype_synthesis import Synthetic
from fedjax_gen.studies.fedvtc import (
  vtc_pictures,
  vtc_saving,
  vtc_study,
  vtc_synthesis,
)
from fedjax_gen.studies.fedvtc.vtc_comparison import VtcComparison
from fedjax_gen.studies.fedvtc.vtc_methods import SUBJECT
from fedjax_gen.studies.study import Comparison, Results, Run

_LEFT_OUT = {
  'fedhypevae': (
    'Left out, since it needs the records or the codes of sites: classifiers '
    'of the sites, alone and interpolated; synthetic data from their codes. '
    'Accuracies are those of one linear classifier, trained on synthetic '
    'embeddings, on held-out embeddings of the coordinator.'
  ),
  'fedvtc': (
    'Left out, since classifiers lie at the sites and do not leave them: their '
    'accuracies. Each site has its own in its state folder.'
  ),
}


class Made(NamedTuple):
  """What was made and measured.

  Attributes:
    metrics: by row of the results.
    digest: of what the server holds.
    synthetic: of FedHypeVAE's methods, by row; empty for others.
    state: of FedVTC after training; None for others.
    images: that FedVTC's generator makes; None without.
  """

  metrics: dict[str, dict[str, float]]
  digest: str
  synthetic: Mapping[str, Synthetic] = {}
  state: Any = None
  images: Any = None


# FedHypeVAE.


def _with_moments(
  running: Run, compared: EmbeddingComparison
) -> EmbeddingComparison:
  """Asks the sites for class moments, which neutral codes are fitted to."""
  asked = running.asked
  if 'clients' in asked.synthesis.codes:
    raise InputError(
      'Expected codes=meta or meta_by_class between machines, got '
      'codes=clients: codes stay at the sites.'
    )
  setting = hype_study.setting_of(
    asked, compared.source.spec, compared.clients.data
  )
  methods = dict(compared.methods)
  for name, method in compared.methods.items():
    release = hype_methods.moments_release(setting, method)
    if release is None:
      continue
    label = f'{name}-moments'
    state = running.train(label, study.traced(label, release)).state
    found = hype_methods.released_moments(setting, method, state)
    methods[name] = dataclasses.replace(method, gaussians=found)
  return dataclasses.replace(compared, methods=methods)


def _of_embeddings(
  running: Run,
  compared: EmbeddingComparison,
  results: Results,
  audited: Mapping[str, Any],
) -> Made:
  """How well a classifier of synthetic embeddings does on held-out ones."""
  del audited  # an audit trains on records
  test, asked = compared.source.test, running.asked
  metrics: dict[str, dict[str, float]] = {}
  synthetic: dict[str, Synthetic] = {}
  shared = {}
  for name, method in compared.methods.items():
    state = results[name].state
    shared[name] = method.trained(state)
    rows: Mapping[str, Synthetic] = {}
    if method.model is not None:
      rows = hype_synthesis.of_method(
        name, method, running.engine(name, method), state, asked.meta,
        compared.synthesis, running.seed, None,
      )  # fmt: skip
    for row, made in rows.items():
      head = linear_heads.train_head(
        made.inputs, made.labels, compared.source.num_classes, asked.head
      )
      metrics[row] = _scores(head, test) | embedding_quality.quality(
        test.inputs, test.labels, made.inputs, made.labels, running.seed
      )
    if not rows:
      head = Head(shared[name]['kernel'], shared[name]['bias'])
      metrics[name] = _scores(head, test)
    synthetic |= rows
  metrics = {
    row: values | compared.spent(row) for row, values in metrics.items()
  }
  return Made(metrics, leaves.params_digest(shared), synthetic)


def _scores(head: Head, test: Any) -> dict[str, float]:
  inputs = np.asarray(test.inputs, np.float32)
  probabilities = linear_heads.probabilities(head, inputs)
  found = heads.scores(test.labels, probabilities)
  return {name: float(value) for name, value in found.items()}


def _report_embeddings(
  running: Run, compared: EmbeddingComparison, results: Results, made: Made
) -> dict[str, Any]:
  facts = _facts(running, compared, results, made)
  asked = running.asked
  privacy = [
    *hype_privacy.warnings(compared.methods),
    *hype_privacy.sections(
      compared.methods, asked.privacy, made.metrics, 0.0, compared.releases,
      with_audit=False,
    ),
  ]  # fmt: skip
  return _written(running, facts, made, _LEFT_OUT['fedhypevae'], [], privacy)


# FedVTC.


def _of_classifiers(
  running: Run,
  compared: VtcComparison,
  results: Results,
  audited: Mapping[str, Any],
) -> Made:
  """What the server's generator makes, and what was sent."""
  del audited
  state = results[SUBJECT].state
  images = None
  if compared.subject.is_shared:
    images = vtc_synthesis.synthesise(
      compared.subject, state, compared.clients, running.seed
    )
  digest = leaves.params_digest(
    {name: result.state.server for name, result in results.items()}
  )
  metrics = {name: compared.spent(name) for name in compared.methods}
  return Made(metrics, digest, state=state, images=images)


def _save_generator(running: Run, compared: VtcComparison, made: Made) -> None:
  if compared.subject.is_shared:
    vtc_saving.save_generator(
      running.shown.folder(SUBJECT), running.asked.vtc, compared.subject,
      made.state, compared.clients,
    )  # fmt: skip


def _report_classifiers(
  running: Run, compared: VtcComparison, results: Results, made: Made
) -> dict[str, Any]:
  drawn = []
  if made.images is not None:
    drawn = vtc_pictures.draw_synthetic(
      running.shown, compared.clients, made.images
    )
  facts = _facts(running, compared, results, made, drawn)
  pictures = [
    report.Picture(one.path, one.caption, 'Synthetic images.')
    for one in facts.drawn
  ]
  return _written(
    running, facts, made, _LEFT_OUT['fedvtc'],
    [report.Section('Synthetic images', pictures)],
    run_report.privacy(running.shown, facts),
  )  # fmt: skip


# Both.


def _facts(
  running: Run,
  compared: Comparison,
  results: Results,
  made: Made,
  drawn: Sequence[Any] = (),
) -> run_report.RunFacts:
  """With bytes of a round of each method among the metrics."""
  metrics = {
    row: dict(values)
    | _bytes(compared.methods[compared.rows.get(row, row)].traffic)
    for row, values in made.metrics.items()
  }
  return run_report.RunFacts(
    **run_report.of_run(running, compared, results, metrics, drawn)
  )


def _bytes(traffic: Sequence[Any]) -> dict[str, float]:
  """Of a site and round, the mean over architectures."""
  return {
    f'bytes_{way}': float(
      np.mean([getattr(t, f'bytes_{way}') for t in traffic])
    )
    for way in ('up', 'down')
  }


def _written(
  running: Run,
  facts: run_report.RunFacts,
  made: Made,
  left_out: str,
  sections: Sequence[report.Section],
  privacy: Sequence[report.Section],
) -> dict[str, Any]:
  """Writes report.html; the summary."""
  names = sorted({name for values in facts.metrics.values() for name in values})
  table = report.Table(
    ['Method', *names],
    [
      report.Row(
        row, [report_tables.number(values.get(name)) for name in names]
      )
      for row, values in facts.metrics.items()
    ],
    left_out,
  )
  run_report.write(
    running.shown,
    facts,
    lead=f'{facts.partition.description[0].upper()}'
    f'{facts.partition.description[1:]}.',
    headlines=run_report.headline(facts.releases),
    sections=[
      report.Section('Results', [table]),
      *sections,
      *privacy,
      run_report.settings(facts),
    ],
  )
  running.session.say(left_out)
  first = next(iter(facts.metrics.values()))
  return run_report.summary(
    facts, made.digest, up=first['bytes_up'], down=first['bytes_down']
  )


EMBEDDINGS = study.main_of(
  hype_study.STUDY._replace(
    prepare=_with_moments,
    measure=_of_embeddings,
    report=_report_embeddings,
  )
)
"""Runs FedHypeVAE's study over sites."""

CLASSIFIERS = study.main_of(
  vtc_study.STUDY._replace(
    follow=lambda running, compared, name: None,
    measure=_of_classifiers,
    save=_save_generator,
    report=_report_classifiers,
  )
)
"""Runs FedVTC's study over sites."""
