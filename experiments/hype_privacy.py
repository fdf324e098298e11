"""What a comparison of generators says of privacy, and of what has none."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import pathlib
from typing import Any

from experiments import audits, wording
from experiments.hype_budgets import HypePrivacyConfig
from experiments.hype_methods import Method
from experiments.hype_synthesis import Synthetic
from experiments.hype_tables import NOMINAL
from experiments.private_run import Protection
from fedjax_gen.privacy import accounting
from fedjax_gen.privacy.report import rows as ledger_rows
from fedjax_gen.running import report

_OURS = 'FedHypeVAE'


def sentences(methods: Mapping[str, Method]) -> list[str]:
  """What protects whom, for the terminal; nothing where nothing does.

  Methods of which the same is to be said share a sentence.
  """
  said: dict[str, list[str]] = {}
  for name, method in methods.items():
    if protection := method.budget.protection:
      text = protection.sentence()
      if method.is_nominal:
        text = _warning(protection)
      said.setdefault(text, []).append(name)
  return [f'{wording.listed(names)}: {text}' for text, names in said.items()]


def protected(
  methods: Mapping[str, Method], synthetic: Mapping[str, Synthetic]
) -> list[str]:
  """Methods, and rows of what they share, of which their privacy holds.

  Args:
    methods: what was trained, by name.
    synthetic: by row what a generator shares.
  """
  held = [
    name
    for name, protection in _protections(methods).items()
    if not methods[name].is_nominal and protection.held([name])
  ]
  rows = [row for row, made in synthetic.items() if made.method in held]
  return list(dict.fromkeys([*held, *rows]))


def spent(method: Method) -> dict[str, float]:
  """What a method's training told of whom it protects, for its metrics.

  Args:
    method: that was trained.

  Returns:
    `delta`, and `epsilon` if it is finite; `nominal_epsilon` in its place
    where the published formulas, which protect nothing, are charged for.
    Nothing without protection.
  """
  if method.budget.protection is None:
    return {}
  found = method.budget.protection.metrics()
  if not method.is_nominal:
    return found
  return {
    {'epsilon': 'nominal_epsilon'}.get(name, name): value
    for name, value in found.items()
  }


def write(
  workdir: pathlib.Path, method: Method, privacy: HypePrivacyConfig
) -> None:
  """Writes `ledger.json` of a method, unless what it says would not hold.

  Args:
    workdir: folder of the run.
    method: that was trained.
    privacy: what was asked for.

  Raises:
    DiskFullError: the disk is full.
  """
  protection = method.budget.protection
  if protection is not None and privacy.privacy != 'paper':
    protection.write(workdir)


def warnings(methods: Mapping[str, Method]) -> list[report.Section]:
  """Of what holds nothing, though it has an epsilon."""
  return [
    _nominal_section(name, protection)
    for name, protection in _protections(methods).items()
    if methods[name].is_nominal
  ]


def sections(
  methods: Mapping[str, Method],
  privacy: HypePrivacyConfig,
  metrics: Mapping[str, Mapping[str, float]],
  confidence: float,
  *,
  with_audit: bool = True,
) -> list[report.Section]:
  """The section `Privacy`, of what holds, if anything does.

  Args:
    methods: what was trained, by name.
    privacy: what was asked for.
    metrics: of the table's rows; an audit's bounds are among them.
    confidence: of these.
    with_audit: whether to show them: an audit looks at training records.
  """
  held = {
    name: protection
    for name, protection in _protections(methods).items()
    if not methods[name].is_nominal
  }
  if not held:
    return []
  others = [name for name in methods if name not in held]
  remarks = _remarks(held, privacy, has_lambda='FedLambda' in metrics)
  section = _held_section(held, others, remarks)
  if not with_audit:
    return [section]
  audit = audits.blocks(held, metrics, confidence)
  return [dataclasses.replace(section, blocks=[*section.blocks, *audit])]


def _protections(methods: Mapping[str, Method]) -> dict[str, Protection]:
  return {
    name: method.budget.protection
    for name, method in methods.items()
    if method.budget.protection is not None
  }


def _nominal_section(name: str, protection: Protection) -> report.Section:
  plan, config = protection.plan, protection.config
  header, *table = ledger_rows(protection.ledger)
  values = [
    (NOMINAL, wording.number(protection.epsilon)),
    ('Nominal δ', f'{config.delta:g}'),
    ('Noise multiplier', wording.number(plan.noise_multiplier)),
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
        [*header[:-1], NOMINAL],
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
  held: Mapping[str, Protection], others: Sequence[str], remarks: str
) -> report.Section:
  """The section `Privacy`: the first method in full, the others in a row."""
  subject, *beside = held
  section = held[subject].section([subject], others, remarks=remarks)
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
      wording.number(protection.epsilon),
      f'{protection.config.delta:g}',
      wording.number(plan.noise_multiplier),
      f'{plan.sampling_rate:.4g}',
      f'{plan.rounds} of {protection.asked}',
    ],
  )


def _remarks(
  held: Mapping[str, Protection],
  privacy: HypePrivacyConfig,
  *,
  has_lambda: bool,
) -> str:
  """What is particular to what is compared here."""
  texts = []
  if len(held) > 1:
    subject, *beside = held
    texts.append(
      f'{wording.listed(beside)} had the same budget for the same records, '
      'each by itself.'
    )
    together = _together(list(held.values()))
    if math.isfinite(together):
      texts.append(
        f'All {len(held)} together, as this folder holds them, cost ε = '
        f'{wording.number(together)}.'
      )
  if has_lambda:
    texts.append('FedLambda releases what FedAvg does.')
  if _OURS in held and privacy.privacy == 'record_server_code':
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


def _warning(protection: Protection) -> str:
  """What is said in place of `Protection.sentence` where nothing holds."""
  return (
    'NOT private: the published formulas protect no record. '
    f'{NOMINAL}: {protection.epsilon:.4g} at '
    f'delta={protection.config.delta:g}, noise multiplier '
    f'{protection.plan.noise_multiplier:.4g}, {protection.plan.rounds} rounds '
    f'of {protection.asked}.'
  )
