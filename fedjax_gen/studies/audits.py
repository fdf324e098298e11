"""The audit of a run: one more training, with canaries, to look for a leak.

Off by default. An audited training also follows the gradients of canaries, so
its model serves for nothing else: an audited method is trained twice, and its
results are those of the training without canaries.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_gen import fields, keys
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.errors import InputError
from fedjax_gen.federated import rounds
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.federation import FederationConfig, build_mapping, build_sampler
from fedjax_gen.privacy.audit import audited, auditing, canaries
from fedjax_gen.privacy.plan import Plan
from fedjax_gen.privacy.secret_keys import Secrets
from fedjax_gen.running import federated_step, training
from fedjax_gen.running.pages import report, report_tables
from fedjax_gen.running.pages.report_tables import Metric
from fedjax_gen.running.storage.workdir import Workdir
from fedjax_gen.studies import wording
from fedjax_gen.studies.command import program
from fedjax_gen.studies.private_run import Protection
from fedjax_gen.types import Key

EXPLAINED = {
  'audit_epsilon_lower': Metric(
    'Lower bound on ε by an attack on canaries; see Privacy. Below the '
    'accountant’s ε it proves nothing, above it there is a defect.'
  ),
  'audit_canaries': Metric('Canaries that the audit hid.'),
}


@dataclasses.dataclass(frozen=True)
class AuditConfig(fields.Configuration):
  """An empirical audit of differential privacy."""

  audit_canaries: int = fields.non_negative_int(
    0,
    'Train each method that protects records once more, with so many '
    'of the records replaced by canaries; a coin decides which canaries are '
    'present. How well the coins can be guessed from what clients send bounds '
    'epsilon from below. An audited training serves for nothing else: all '
    'results are those of the first. 0 for no audit. Needs the extra dp',
  )
  audit_confidence: float = fields.option(0.95, 'of that bound')

  def __post_init__(self):
    super().__post_init__()
    if not 0.5 < self.audit_confidence < 1:
      raise InputError(
        'Expected 0.5 < audit_confidence < 1, got '
        f'audit_confidence={self.audit_confidence!r}.'
      )


class Target(NamedTuple):
  """A training that can be audited."""

  algorithm_of: Callable[[Plan], Algorithm]
  protection: Protection


def check(
  config: AuditConfig,
  targets: Mapping[str, Target],
  data: FederatedDataset,
) -> None:
  """Refuses what could not be audited, before anything is trained.

  Raises:
    InputError: an audit is asked for, and there is nothing to audit, too many
      canaries, noise in shares, or no jax-privacy.
  """
  if not config.audit_canaries:
    return
  auditing.jax_privacy_auditing()
  if not targets:
    raise InputError(
      'Expected audit_canaries=0 where no method protects records '
      f'(--privacy), got audit_canaries={config.audit_canaries}.'
    )
  canaries.check_number(config.audit_canaries, int(np.sum(data.sizes)))
  if any(target.protection.plan.share < 1 for target in targets.values()):
    raise InputError(
      'Expected noise_placement=local with audit_canaries, got distributed: '
      'the audit looks at messages, which hold a share of the noise.'
    )


def audit(
  config: AuditConfig,
  targets: Mapping[str, Target],
  data: FederatedDataset,
  num_classes: int,
  *,
  run: program.RunConfig,
  federation: FederationConfig,
  session: program.Session,
  workdir: Workdir,
  secrets: Secrets | None,
) -> dict[str, dict[str, float]]:
  """Trains methods with canaries; what that says of their epsilon.

  Args:
    config: whether there is to be an audit, and how.
    targets: by method, what is trained again.
    data: the clients' training records.
    num_classes: C.
    run: seed and schedule.
    federation: how clients are sampled and laid out.
    session: to say what comes out.
    workdir: where checkpoints lie, under the name and '-audit'.
    secrets: of the private run; an audit draws noise of its own from them.

  Returns:
    By method `audit_epsilon_lower` and `audit_canaries`; nothing if no audit is
    asked for.
  """
  found: dict[str, dict[str, float]] = {}
  if not config.audit_canaries or secrets is None:
    return found
  data = data.on_device()
  hide_key, init_key, public_key = jax.random.split(
    keys.derive(run.seed, 'audit'), 3
  )
  hidden = canaries.hide(hide_key, data, config.audit_canaries, num_classes)
  for name, target in targets.items():
    run_keys = rounds.RunKeys(secrets.key(name, 'audit'), public_key)
    state = _trained(
      name, target, hidden, (init_key, run_keys), run, federation, session,
      workdir,
    )  # fmt: skip
    lower = audited.lower_bound(
      hidden,
      state,
      target.protection.config.delta,
      confidence=config.audit_confidence,
    )
    session.say(_sentence(name, lower, target.protection, config))
    found[name] = {
      'audit_epsilon_lower': lower,
      'audit_canaries': float(config.audit_canaries),
    }
  return found


def _trained(
  name: str,
  target: Target,
  hidden: canaries.Hidden,
  keys: tuple[Key, rounds.RunKeys],
  run: program.RunConfig,
  federation: FederationConfig,
  session: program.Session,
  workdir: Workdir,
) -> Any:
  """What a method has come to with canaries among the records."""
  init_key, run_key = keys
  plan = target.protection.plan._replace(canaries=hidden.canaries)
  algorithm = audited.audited(target.algorithm_of(plan), hidden)
  mapping = build_mapping(federation)
  [placed] = rounds.place([hidden.data], mapping)
  runner = rounds.round_runner(
    algorithm,
    samplers=[build_sampler(federation, hidden.data.num_clients)],
    mapping=mapping,
  )
  name = f'{name}-audit'
  traffic = federated_step.dry_run(name, algorithm, [placed])
  result = training.train(
    method=name,
    init=lambda: rounds.init_state(algorithm, [placed], init_key, mapping),
    step=federated_step.federated_step(runner, traffic, [placed], run_key),
    schedule=training.Schedule(
      plan.rounds, run.rounds_per_step, run.eval_every, run.checkpoint_every
    ),
    workdir=workdir,
    progress=session.progress,
    trained=lambda state: state.server,
    stop=session.stop,
    loss_may_stop=False,
  )
  return result.state


def blocks(
  protections: Mapping[str, Protection],
  metrics: Mapping[str, Mapping[str, float]],
  confidence: float,
) -> list[Any]:
  """The audit's table in the section `Privacy`; none if there was none."""
  rows = []
  for name, protection in protections.items():
    values = metrics.get(name, {})
    if 'audit_epsilon_lower' not in values:
      continue
    lower = values['audit_epsilon_lower']
    note = 'Above the claim: a defect.' if lower > protection.epsilon else ''
    rows.append(
      report.Row(
        name,
        [
          report_tables.number(lower),
          wording.number(protection.epsilon),
          f'{protection.config.delta:g}',
          f'{values["audit_canaries"]:.0f}',
        ],
        note,
      )
    )
  if not rows:
    return []
  return [
    report.Table(
      ['Audit', 'ε at least', 'ε at most, accountant', 'δ', 'Canaries'],
      rows,
      'Lower bounds, each with a confidence of '
      f'{confidence:.0%}, on the ε of one record added or removed, from a '
      'second training with canaries in the place of records, by an attack on '
      'what clients send (Steinke et al., 2023). A bound below the '
      'accountant’s proves nothing: the attack may be weak, and with M '
      'canaries no bound exceeds about log(M / 9).',
    )
  ]


def _sentence(
  name: str, lower: float, protection: Protection, config: AuditConfig
) -> str:
  said = (
    f'Audit of {name}: epsilon >= {lower:.3g} with a confidence of '
    f'{config.audit_confidence:.0%}, by {config.audit_canaries} canaries; the '
    f'accountant says epsilon <= {protection.epsilon:.4g} (one record added or '
    f'removed, delta={protection.config.delta:g}).'
  )
  if lower > protection.epsilon:
    said += ' WARNING: what is released is less private than is claimed.'
  return said
