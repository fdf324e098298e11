"""What a study adds to train under differential privacy, and says about it.

The same for every system: the noise for a configuration, before any training;
sentences on the terminal; the ledger; metrics of the summary; and the report's
section. With `privacy=none` nothing here is used.
"""

from collections.abc import Iterable, Mapping, Sequence
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.errors import InputError
from fedjax_gen.federation import FederationConfig
from fedjax_gen.privacy import plan as plan_lib, releases as releases_lib
from fedjax_gen.privacy.ledger import Entry, Ledger
from fedjax_gen.privacy.ledger_rows import rows
from fedjax_gen.privacy.plan import Plan, PrivacyConfig
from fedjax_gen.privacy.releases import Releases
from fedjax_gen.running.pages import report
from fedjax_gen.running.storage import run_secrets
from fedjax_gen.running.storage.workdir import RELEASE
from fedjax_gen.studies import wording

UNITS = {
  'record': 'one record of one client',
  'client': 'one client with all its data',
}
SHARES = (
  'Clients add shares of the noise: this rests on a secure sum that reveals '
  'nothing else (simulated where one machine holds all data), on every client '
  'taking part but those that may drop out, '
  'and on no more than {} of the clients pooling what they know.'
)
NOMINAL = 'nominal epsilon, NOT a guarantee'
_PUBLIC_SEED = 'nominal, since --noise_seed makes the noise public'


class Protection(NamedTuple):
  """How the protected methods of a run train, and what that guarantees.

  Attributes:
    config: what was asked for.
    plan: noise, schedule and budget, for the algorithms.
    ledger: with all that one finished method released.
    asked: rounds that were asked for; `plan.rounds` fit the budget.
    num_units: records, or clients, of the whole federation.
  """

  config: PrivacyConfig
  plan: Plan
  ledger: Ledger
  asked: int
  num_units: int

  @property
  def epsilon(self) -> float:
    """Of a finished method, at `config.delta`; may be infinite."""
    return self.ledger.worst()

  @property
  def is_finite(self) -> bool:
    """Whether there is noise, and so a guarantee."""
    return math.isfinite(self.epsilon)

  def sentence(self) -> str:
    """What is about to happen, in a few lines for the terminal."""
    plan, config = self.plan, self.config
    noise = f'noise multiplier {plan.noise_multiplier:.4g}'
    if config.epsilon == math.inf:
      noise = 'no noise, which protects nothing'
    steps = f' of {plan.steps} steps' if plan.steps else ''
    said = (
      f'Privacy of {UNITS[plan.unit]}: sums clipped to {plan.max_norm:g}, '
      f'{noise}, {plan.rounds} rounds{steps}: epsilon={self.epsilon:.4g} at '
      f'delta={config.delta:g}{", " * config.is_nominal}'
      f'{_PUBLIC_SEED * config.is_nominal}.'
    )
    if plan.share < 1:
      said += f' {SHARES.format(config.colluding)}'
    if plan.rounds < self.asked:
      said += (
        f' {self.asked} rounds were asked for: the budget epsilon='
        f'{config.epsilon:g} ends before.'
      )
    warning = plan_lib.delta_warning(config.delta, self.num_units, plan.unit)
    return f'{said} {warning}' if warning else said

  def metrics(self) -> dict[str, float]:
    """`epsilon` (if finite) and `delta`, for a method's final metrics.

    With noise of a public seed it is `nominal_epsilon`.
    """
    name = 'nominal_epsilon' if self.config.is_nominal else 'epsilon'
    finite = {name: self.epsilon} if math.isfinite(self.epsilon) else {}
    return {**finite, 'delta': self.config.delta}

  def section(
    self,
    protected: Sequence[str],
    others: Sequence[str] = (),
    *,
    releases: Releases,
    remarks: str = '',
  ) -> report.Section:
    """The report's section `Privacy`."""
    texts = [
      self._claim(protected), folder_sentence(releases), remarks,
      self._limits(others),
    ]  # fmt: skip
    header, *table = rows(releases)
    ledger = report.Table(
      header,
      [report.Row(head, cells) for head, *cells in table],
      'What each method released about each client, and what it costs. A '
      'noise multiplier is the standard deviation of the noise on a sum over '
      'the most that one contribution adds to it.' + self._set_aside(),
    )
    return report.Section(
      'Privacy',
      [report.Table(['Privacy', 'Value'], self._facts()), ledger],
      ' '.join(text for text in texts if text),
    )

  def _facts(self) -> list[report.Row]:
    plan, config = self.plan, self.config
    facts: list[tuple[Any, ...]] = [
      ('Protected', UNITS[plan.unit]),
      ('Neighbouring data', self.ledger.relation),
      (
        NOMINAL if config.is_nominal else 'ε',
        wording.number(self.epsilon),
        'Of what one method released.',
      ),
      ('δ', f'{config.delta:g}'),
      ('Budget', f'ε = {wording.number(config.epsilon)}'),
      ('Accountant', config.accountant),
      ('Noise multiplier', wording.number(plan.noise_multiplier)),
      ('Clipping norm C', f'{plan.max_norm:g}'),
      ('Rounds', f'{plan.rounds} of {self.asked}'),
    ]
    rate = f'{plan.sampling_rate:.4g}'
    if plan.unit == 'record':
      facts += [
        ('Steps of a client in a round', str(plan.steps)),
        ('Sampling rate of records', rate, 'In each step, by its own coin.'),
      ]
    else:
      note = 'By its own coin; 1 where the sampler does not amplify privacy.'
      facts += [
        ('Sampling rate of clients', rate, note),
        ('Denominator of sums', f'{plan.expected_cohort:.4g}'),
      ]
    return [
      report.Row(name, [value], *note) for name, value, *note in facts
    ]  # fmt: skip

  def _claim(self, protected: Sequence[str]) -> str:
    """Who is protected from whom, by which methods."""
    names = wording.listed(protected)
    if not math.isfinite(self.epsilon):
      return (
        f'{names} trained with clipping and without noise (epsilon=inf): '
        'nothing is protected.'
      )
    if self.config.is_nominal:
      return (
        f'{names} trained with noise from the public seed --noise_seed='
        f'{self.config.noise_seed}: whoever knows it subtracts the noise, and '
        'nothing is protected. Every ε here is nominal: what it would be with '
        'secret noise.'
      )
    claim = (
      f'What {names} released in training is differentially private: whether '
      f'{UNITS[self.plan.unit]} was there or not changes the probability of '
      'anything that can be concluded from it by a factor of '
      f'e^{wording.number(self.epsilon)} at most, but for δ. '
    )
    if self.plan.unit == 'record' and self.plan.share < 1:
      claim += (
        f'{SHARES.format(self.config.colluding)} Whoever is in several records '
        'is protected less.'
      )
    elif self.plan.unit == 'record':
      claim += (
        'Clients add the noise themselves, to all that they send: it holds '
        'against the server too. Whoever is in several records is protected '
        'less.'
      )
    elif self.plan.num_shares:
      claim += SHARES.format(self.config.colluding)
    else:
      claim += (
        'The server adds the noise to sums over clients: it holds against '
        'all who see models, and trusts the server. It does not cover what '
        'clients keep. With sampling=uniform or by_size a client that is not '
        'there counts as drawn and silent.'
      )
    return claim

  def _limits(self, others: Sequence[str]) -> str:
    """What the guarantee does not cover."""
    limits = (
      'Not protected: how many examples each client holds, and its group; '
      'held-out examples, on which everything is measured; all that '
      'lies in the folder private of this run, such as the log, which a '
      'deployment would not have; summary.json, for it has numbers of all '
      'methods; and settings chosen by looking at earlier runs. Noise is drawn '
      'in 32-bit floats.'
    )
    if others:
      is_one = len(others) == 1
      limits += (
        f' {wording.listed(others)} trained without privacy, for comparison: '
        f'{"its model lies" if is_one else "their models lie"} in private '
        'and must not be published.'
      )
    return limits

  def _set_aside(self) -> str:
    """Why the accountant is not given the whole of delta."""
    if not self.ledger.set_aside:
      return ''
    share = self.ledger.set_aside / self.ledger.delta
    return (
      f' {share:.1%} of δ is kept for the chance that a sample of records '
      'does not fit its batch.'
    )


def releases_of(protections: Mapping[str, Protection]) -> Releases | None:
  """All that a folder gives away, a part for each protected method."""
  if not protections:
    return None
  parts = {name: protection.ledger for name, protection in protections.items()}
  is_nominal = any(p.config.is_nominal for p in protections.values())
  return Releases(parts, is_nominal)


def folder_sentence(releases: Releases) -> str:
  """What all that a folder gives away costs together."""
  joint = releases.joint()
  if not math.isfinite(joint.epsilon):
    return ''
  nominal = f' ({_PUBLIC_SEED})' * releases.is_nominal
  if len(releases.parts) == 1:
    return (
      f'All that this folder releases: epsilon={joint.epsilon:.4g} at '
      f'delta={joint.delta:g}{nominal}.'
    )
  return (
    f'All that this folder releases, {len(releases.parts)} methods together: '
    f'epsilon={joint.epsilon:.4g} at delta={joint.delta:g}{nominal}. Who gives '
    'away one method alone, and deletes the others, has released that one '
    'only.'
  )


def other_runs(
  releases: Releases, folders: Iterable[pathlib.Path]
) -> list[str]:
  """Warnings of other private runs on the same data, with the sum."""
  found, unread = [releases], []
  for folder in folders:
    try:
      path = folder / RELEASE / run_secrets.LEDGER
      found.append(releases_lib.from_json(path.read_text()))
    except (OSError, InputError):
      unread.append(folder)
  texts = []
  if len(found) > 1:
    try:
      cost = releases_lib.together(found)
      texts.append(
        f'Warning: {len(found) - 1} other private runs on the same data lie '
        'next to this one. All together they cost '
        f'epsilon={cost.epsilon:.4g} at delta={cost.delta:g}.'
      )
    except InputError as error:
      texts.append(
        'Warning: other private runs on the same data lie next to this one; '
        f'what all cost together cannot be told: {error}'
      )
  texts += [
    f'Warning: {folder} holds another private run on the same data, and its '
    'ledger cannot be read: both together cost more than each.'
    for folder in unread
  ]
  return texts


def protection(
  config: PrivacyConfig,
  plan: Plan,
  *,
  rounds: int,
  num_units: int,
  ledger: Ledger | None = None,
) -> Protection:
  """The protection that a plan gives.

  Args:
    config: what was asked for.
    plan: made from it.
    rounds: asked for.
    num_units: records, or clients, in all.
    ledger: of one finished method; by default the plan's with its rounds.

  Raises:
    BudgetSpentError: the rounds cost more than the budget.
  """
  charged = plan.ledger if ledger is None else ledger
  return Protection(config, plan, charged, rounds, num_units)


def protect(
  config: PrivacyConfig,
  federation: FederationConfig,
  data: FederatedDataset,
  *,
  batch_size: int,
  epochs: float,
  rounds: int,
  before: Sequence[Entry] = (),
  may_share: bool = False,
) -> Protection | None:
  """The protection that the command line asks for; None for none.

  Args:
    config: what is protected, and the budget.
    federation: how clients are sampled.
    data: the clients.
    batch_size: B of a client's steps.
    epochs: E, passes of a client in a round.
    rounds: asked for.
    before: what is released of all clients before training.
    may_share: whether clients, where they are protected, may add the noise in
      shares.

  Raises:
    InputError: a value does not fit, or not one round fits the budget.
  """
  if not config.is_private:
    return None
  if config.noise_placement != 'local':
    check_shares(config, federation, may_share=may_share)
  if config.privacy == 'record':
    sizes = np.asarray(data.sizes)
    plan = plan_lib.record_plan(
      config, sizes, batch_size=batch_size, epochs=epochs, rounds=rounds,
      ledger=_charged(plan_lib.record_ledger(config, len(sizes)), before),
    )  # fmt: skip
    num_units = int(sizes.sum())
  else:
    num_units = data.num_clients
    plan = client_plan(
      config, federation, num_units, rounds=rounds,
      ledger=_charged(plan_lib.client_ledger(config, num_units), before),
    )  # fmt: skip
  return protection(config, plan, rounds=rounds, num_units=num_units)


def check_shares(
  config: PrivacyConfig, federation: FederationConfig, *, may_share: bool
) -> None:
  """Checks that clients who train a model can add its noise in shares.

  Raises:
    InputError: they cannot.
  """
  if config.privacy == 'record' or not may_share:
    raise InputError(
      'Expected noise_placement=local where clients train a model and send '
      f'it, got noise_placement={config.noise_placement!r}: '
      + (
        'each gradient is used before any sum.'
        if config.privacy == 'record'
        else 'here the server adds the noise.'
      )
    )
  if federation.sampling != 'all' or federation.dropout_rate:
    raise InputError(
      'Expected sampling=all and dropout_rate=0 with '
      'noise_placement=distributed, where every client adds a share of the '
      f'noise, got sampling={federation.sampling!r} and '
      f'dropout_rate={federation.dropout_rate:g}.'
    )


def _charged(ledger: Ledger, released: Iterable[Entry]) -> Ledger:
  for entry in released:
    ledger = ledger.charge(entry.label, entry.event)
  return ledger


def client_plan(
  config: PrivacyConfig,
  federation: FederationConfig,
  num_clients: int,
  *,
  rounds: int,
  ledger: Ledger | None = None,
) -> Plan:
  """`plan.client_plan` for the sampler that a federation uses."""
  share = expected_share(federation, num_clients)
  return plan_lib.client_plan(
    config,
    num_clients,
    rounds=rounds,
    # Clients that fail make it rarer still, which is not charged for.
    sampling_rate=(
      federation.participation if federation.sampling == 'poisson' else 1.0
    ),
    expected_cohort=share * num_clients,
    ledger=ledger,
  )


def expected_share(federation: FederationConfig, num_clients: int) -> float:
  """The part of the clients that a round expects, known in advance."""
  share = {
    'all': 1.0,
    'poisson': federation.participation,
    'uniform': federation.cohort_size / num_clients,
    'by_size': federation.cohort_size / num_clients,
  }[federation.sampling]
  return share * (1 - federation.dropout_rate)
