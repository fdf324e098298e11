"""What a comparison of generators says about privacy, and about its absence."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from fedjax_gen.privacy.ledger_rows import rows as ledger_rows
from fedjax_gen.privacy.releases import Releases
from fedjax_gen.running.pages import report
from fedjax_gen.studies import audits, wording
from fedjax_gen.studies.fedhypevae.hype_budgets import HypePrivacyConfig
from fedjax_gen.studies.fedhypevae.hype_methods import HypeMethod
from fedjax_gen.studies.fedhypevae.hype_tables import NOMINAL
from fedjax_gen.studies.private_run import Protection

_OURS = 'FedHypeVAE'


def sentences(methods: Mapping[str, HypeMethod]) -> list[str]:
  """What protects whom, for the terminal; nothing where nothing does.

  Methods with the same protection share a sentence.
  """
  said: dict[str, list[str]] = {}
  for name, method in methods.items():
    if protection := method.protection:
      text = protection.sentence()
      if method.is_nominal:
        text = _warning(protection)
      said.setdefault(text, []).append(name)
  return [f'{wording.listed(names)}: {text}' for text, names in said.items()]


def warnings(methods: Mapping[str, HypeMethod]) -> list[report.Section]:
  """Of what holds nothing, though it has an epsilon."""
  return [
    _nominal_section(name, method.protection)
    for name, method in methods.items()
    if method.protection is not None and method.is_nominal
  ]


def sections(
  methods: Mapping[str, HypeMethod],
  privacy: HypePrivacyConfig,
  metrics: Mapping[str, Mapping[str, float]],
  confidence: float,
  given: Releases | None,
  *,
  with_audit: bool = True,
) -> list[report.Section]:
  """The section `Privacy`, of what holds, if anything does."""
  held = _held(methods)
  if not held or given is None:
    return []
  others = [name for name in methods if name not in held]
  remarks = _remarks(held, privacy, has_lambda='FedLambda' in metrics)
  section = _held_section(held, others, remarks, given)
  if not with_audit:
    return [section]
  audit = audits.blocks(held, metrics, confidence)
  return [dataclasses.replace(section, blocks=[*section.blocks, *audit])]


def _held(methods: Mapping[str, HypeMethod]) -> dict[str, Protection]:
  """The protections of the methods that are protected."""
  return {
    name: method.protection
    for name, method in methods.items()
    if method.protection is not None and not method.is_nominal
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
  held: Mapping[str, Protection],
  others: Sequence[str],
  remarks: str,
  given: Releases,
) -> report.Section:
  """The section `Privacy`: the first method in full, the others in a row."""
  subject, *rest = held
  section = held[subject].section(
    [subject], others, releases=given, remarks=remarks
  )
  about, ledger = section.blocks
  blocks = [
    _headed_by(about, f'Privacy of {subject}'),
    ledger,
  ]
  if rest:
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
    subject, *rest = held
    texts.append(
      f'{wording.listed(rest)} had the same budget for the same records, '
      'each by itself.'
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


def _warning(protection: Protection) -> str:
  """What is said in place of `Protection.sentence` where nothing holds."""
  return (
    'NOT private: the published formulas protect no record. '
    f'{NOMINAL}: {protection.epsilon:.4g} at '
    f'delta={protection.config.delta:g}, noise multiplier '
    f'{protection.plan.noise_multiplier:.4g}, {protection.plan.rounds} rounds '
    f'of {protection.asked}.'
  )
