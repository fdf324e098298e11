"""From a configuration to noise: what a run releases, and what it may cost.

A plan is made before anything is trained. It knows the schedule, so that noise
is chosen for the whole run and the ledger can say what every round costs.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import NamedTuple

import numpy as np

from fedjax_gen import fields, validate
from fedjax_gen.errors import InputError
from fedjax_gen.privacy import accounting, events, ledger as ledger_lib
from fedjax_gen.privacy.audit.canaries import Canaries
from fedjax_gen.privacy.events import Event
from fedjax_gen.privacy.ledger import Ledger
from fedjax_gen.privacy.steps import batches

LEVELS = ('none', 'record', 'client')
PLACEMENTS = ('local', 'distributed')
# Probability, over delta e^-epsilon, that a batch of the run lacks room.
_OVERFLOW = 1e-3
# What that may cost, over delta.
_SET_ASIDE = 2 * _OVERFLOW
_LABEL = 'training'


@dataclasses.dataclass(frozen=True)
class PrivacyConfig(fields.Configuration):
  """Differential privacy."""

  privacy: str = fields.option(
    'none',
    'What is protected: nothing, one record of a client, or one client with '
    'all its data',
    choices=LEVELS,
  )
  epsilon: float = fields.option(
    8.0,
    'Budget of all that is released about a client; inf clips and adds no '
    'noise, which protects nothing',
  )
  delta: float = fields.option(
    1e-4,
    'Its delta; at most one over ten times the number of records, or of '
    'clients',
  )
  clip_norm: float = fields.positive(
    1.0, 'C, the most that one record, or one client, adds to a sum'
  )
  noise_multiplier: float = fields.non_negative(
    0.0,
    'Noise on a sum over C; 0 for as much as epsilon asks for. If given, the '
    'run ends when the budget is spent',
  )
  noise_placement: str = fields.option(
    'local',
    'Of noise on records’ gradients: on what each client sends, or in shares '
    'on the sum that a secure summation would reveal (simulated). With '
    'privacy=client: by the server, or in shares (distributed)',
    choices=PLACEMENTS,
  )
  colluding: int = fields.non_negative_int(
    1,
    'With noise in shares: how many clients may pool what they know, their own '
    'shares of the noise included, and the guarantee still holds. 1: any other '
    'client by itself',
  )
  max_dropouts: int = fields.non_negative_int(
    0,
    'With noise in shares: how many clients may be missing in a sum, and the '
    'guarantee still holds; all add more noise for it',
  )
  accountant: str = fields.option(
    'pld', 'Who counts; pld is tight', choices=accounting.ACCOUNTANTS
  )
  noise_seed: int = fields.option(
    -1,
    'Seed of noise and sampling, for simulations that must repeat: then '
    'epsilon is nominal, since whoever knows the seed subtracts the noise. -1: '
    'from the operating system, kept in the folder private of the run',
  )
  show_real: bool = fields.option(
    False,
    'In a private run, also show what is not protected: real examples, exact '
    'numbers of labels by client, membership measures, training curves, '
    'models trained without privacy. The report then lies in private/ and '
    'must not be given away',
  )
  clip_chunk: int = fields.positive_int(
    16,
    'Gradients of records in memory at once; decides no number',
    recorded=False,
  )

  def __post_init__(self):
    super().__post_init__()
    accounting.check_epsilon(self.epsilon)
    accounting.check_delta(self.delta)
    if self.noise_seed < -1:
      raise InputError(
        f'Expected noise_seed >= -1, got noise_seed={self.noise_seed!r}.'
      )
    if self.noise_multiplier and self.epsilon == math.inf:
      raise InputError(
        'Expected no noise_multiplier with epsilon=inf, which adds no noise, '
        f'got noise_multiplier={self.noise_multiplier!r}.'
      )

  @property
  def is_private(self) -> bool:
    """Whether anything is clipped and noised."""
    return self.privacy != 'none'

  @property
  def is_nominal(self) -> bool:
    """Whether its noise follows from a public seed, and so hides nothing."""
    return self.noise_seed >= 0


class Plan(NamedTuple):
  """What a run releases about each client, decided in advance.

  Attributes:
    unit: `record` or `client`.
    max_norm: C.
    noise_multiplier: z, the noise on a sum over C; 0 for epsilon = infinity.
    rounds: that fit the budget, at most those asked for.
    event: what one round costs.
    ledger: with all rounds charged, before the first of them.
    before: the same before training; what else is released is charged in
      both.
    sampling_rate: q, of a client's records in a step, or of clients.
    steps: steps of a client in a round; with clients as the unit 0, since it
      does not matter there.
    capacity: rows of a record's batch; 0 with clients as the unit.
    share: part of the noise's standard deviation that each client adds to
      what it sends: 1, or less where noise is distributed, so that the shares
      of all but those who pool theirs add up to the noise that is charged.
    chunk_size: gradients of records in memory at once.
    expected_cohort: clients expected in a round, the denominator of clipped
      messages; 0 with records as the unit.
    num_shares: clients, the colluding included, that a sum must have for the
      shares of noise in it to suffice; 0 where noise is not in shares.
    canaries: of an audit, how records say that they are canaries; None outside
      audits, where no record does.
  """

  unit: str
  max_norm: float
  noise_multiplier: float
  rounds: int
  event: Event
  ledger: Ledger
  before: Ledger
  sampling_rate: float
  steps: int
  capacity: int
  share: float
  chunk_size: int
  expected_cohort: float = 0.0
  num_shares: int = 0
  canaries: Canaries | None = None

  def charged(self, rounds: int, label: str = _LABEL) -> Ledger:
    """The ledger after some rounds; `ledger` after all of them.

    Raises:
      BudgetSpentError: they cost more than the budget.
    """
    if not rounds:
      return self.before
    kept = dataclasses.replace(self.before, set_aside=self.ledger.set_aside)
    return kept.charge(label, self.event.repeated(rounds))


def usual_delta(num_units: int) -> float:
  """1 / (10 n): with a larger one some units may be published outright.

  Args:
    num_units: n, records or clients in all.
  """
  validate.positive_int(num_units=num_units)
  return 0.1 / num_units


def delta_warning(delta: float, num_units: int, unit: str = 'record') -> str:
  """A sentence for people if a delta promises little; else nothing."""
  most = usual_delta(num_units)
  if delta <= most:
    return ''
  return (
    f'With {num_units} {unit}s a delta of {delta:g} promises little: at most '
    f'{most:.1g}, a tenth of one over their number, is usual.'
  )


def record_sampling(
  sizes: np.ndarray, batch_size: int, epochs: float
) -> tuple[float, int]:
  """The sampling rate q, and the number of steps of every client in a round.

  The same q for all, B over the mean number of records, so that every client
  makes as many steps, every record is as well protected, and the weighted mean
  of noisy means is the noisy mean over all records.

  Args:
    sizes: `[N]` records of each client.
    batch_size: B, records that a client of mean size expects in a step.
    epochs: E, passes a round; 0 for one step.
  """
  validate.positive_int(batch_size=batch_size)
  validate.non_negative(local_epochs=epochs)
  rate = min(1.0, batch_size / float(np.mean(sizes)))
  return rate, max(round(epochs / rate), 1)


def record_plan(
  config: PrivacyConfig,
  sizes: np.ndarray,
  *,
  batch_size: int,
  epochs: float,
  rounds: int,
  cohort_size: int | None = None,
  ledger: Ledger | None = None,
) -> Plan:
  """DP-SGD on the records of every client (Abadi et al., 2016).

  Guarantees:
    Released: in each step of each round, the noised sum of the clipped
      gradients of a Poisson sample of the client's records, jointly over all
      that the client trains; with `noise_placement=distributed` the part that
      is sent is released in the sum over clients only, to the server and to
      `colluding` clients who subtract their own shares of its noise.
    Neighbouring: the ledger's relation; by default the contribution of one
      record of one client is there, or is zero. The numbers of records are
      public: the batch's expected size and the clients' weights follow from
      them.
    Sensitivity: `clip_norm`. Every client is charged for every round, whether
      it took part or not. Noise is such that every client, with what else was
      released about it, stays within the smaller of the configuration's and
      the ledger's epsilon. The event is that of untruncated samples; room in
      the batch is such that truncation costs two thousandths of delta at most,
      which `Plan.ledger` sets aside.

  Args:
    config: budget, norm, noise. Of the budget and that of `ledger` the smaller
      one holds; accountant, relation and delta are the ledger's.
    sizes: `[N]` records of each client.
    batch_size: see `record_sampling`.
    epochs: likewise.
    rounds: of training.
    cohort_size: clients with records that a round has at least, for the
      shares of distributed noise; all of them by default.
    ledger: what else was, or will be, released; an empty one by default.

  Raises:
    InputError: an argument is out of range, the ledger is of other clients or
      units, or as many collude as add noise.
    BudgetSpentError: not even one round fits.
  """
  validate.positive_int(rounds=rounds)
  rate, steps = record_sampling(sizes, batch_size, epochs)
  most = max(int(np.max(sizes)), 1)
  before = record_ledger(config, len(sizes)) if ledger is None else ledger
  _check_ledger(before, 'record', len(sizes))
  target, kept = min(config.epsilon, before.epsilon), before
  overflow = _OVERFLOW  # nothing is protected that truncation could break
  if target < math.inf:
    overflow = before.delta * _OVERFLOW * math.exp(-target)
    kept = before.setting_aside(before.delta * _SET_ASIDE)
  # The neighbour may have a record more.
  capacity = batches.capacity_for(
    most + 1, rate, rounds * steps, overflow=overflow
  )

  def event(noise_multiplier, count):
    if rate == 1:
      return events.gaussian(noise_multiplier, count)
    return events.poisson_gaussian(noise_multiplier, rate, count)

  share, num_shares = 1.0, 0
  if config.noise_placement == 'distributed':
    # A client without records adds no noise either.
    num_shares = cohort_size or int(np.count_nonzero(sizes))
    num_shares -= config.max_dropouts
    share = noise_share(num_shares, config.colluding)
  noise, event_of_round, rounds = _calibrated(
    config, kept, lambda z: event(z, steps), rounds
  )
  charged = kept.charge(_LABEL, event_of_round.repeated(rounds))
  return Plan(
    'record', config.clip_norm, noise, rounds, event_of_round, charged, before,
    rate, steps, capacity, share, config.clip_chunk, num_shares=num_shares,
  )  # fmt: skip


def noise_share(num_clients: int, colluding: int) -> float:
  """The part of the noise's standard deviation that each client adds.

  Guarantees:
    Of `num_clients` shares, those that remain when `colluding` clients subtract
    their own add up to the whole noise.

  Raises:
    InputError: nobody's noise would remain.
  """
  if colluding >= num_clients:
    raise InputError(
      f'Expected colluding < {num_clients}, the clients with records that add '
      f'shares of the noise, got colluding={colluding}.'
    )
  return 1 / math.sqrt(num_clients - colluding)


def record_ledger(config: PrivacyConfig, num_clients: int) -> Ledger:
  """An empty ledger with records as the unit.

  A plan sets aside what its truncated batches may cost; see `record_plan`.
  """
  return ledger_lib.ledger(
    num_clients, config.epsilon, config.delta, accountant=config.accountant
  )


def client_ledger(config: PrivacyConfig, num_clients: int) -> Ledger:
  """An empty ledger with clients as the unit."""
  return ledger_lib.ledger(
    num_clients,
    config.epsilon,
    config.delta,
    unit='client',
    accountant=config.accountant,
  )


def client_plan(
  config: PrivacyConfig,
  num_clients: int,
  *,
  rounds: int,
  sampling_rate: float = 1.0,
  expected_cohort: float | None = None,
  ledger: Ledger | None = None,
) -> Plan:
  """DP-FedAvg: whole messages clipped (McMahan et al., 2018).

  Guarantees:
    Released: in each round the noised sum of clipped messages; with
      `noise_placement=distributed` as `noise.with_private_clients` says.
    Neighbouring: the ledger's relation; by default the contribution of one
      client, with all its data, is there, or is zero; how many clients there
      are is public.
    Sensitivity: `clip_norm`, whatever a client computes. Rounds compose, local
      steps do not matter. What noise is made for is as in `record_plan`.

  Args:
    config: budget, norm, noise.
    num_clients: N.
    rounds: of training.
    sampling_rate: probability by which each client enters a round by its own
      coin (`sampling.poisson`, with room for all); 1 for any other sampler,
      which is not amplified.
    expected_cohort: clients expected in a round; `sampling_rate * num_clients`
      by default.
    ledger: what else is released about clients.

  Raises:
    InputError: an argument is out of range, or the ledger is of other clients
      or units.
    BudgetSpentError: not even one round fits.
  """
  validate.fraction(sampling_rate=sampling_rate)
  if ledger is None:
    ledger = client_ledger(config, num_clients)
  _check_ledger(ledger, 'client', num_clients)

  def event(noise_multiplier):
    if sampling_rate == 1:
      return events.gaussian(noise_multiplier)
    return events.poisson_gaussian(noise_multiplier, sampling_rate, 1)

  noise, event_of_round, rounds = _calibrated(config, ledger, event, rounds)
  charged = ledger.charge(_LABEL, event_of_round.repeated(rounds))
  share, num_shares = 1.0, 0
  if config.noise_placement == 'distributed':
    num_shares = num_clients - config.max_dropouts
    share = noise_share(num_shares, config.colluding)
  return Plan(
    'client', config.clip_norm, noise, rounds, event_of_round, charged, ledger,
    sampling_rate, 0, 0, share, config.clip_chunk,
    float(expected_cohort or sampling_rate * num_clients),
    num_shares=num_shares,
  )  # fmt: skip


def _check_ledger(ledger: Ledger, unit: str, num_clients: int) -> None:
  """Raises InputError if a ledger is not of these clients."""
  found = len(ledger.histories)
  if (ledger.unit, found) != (unit, num_clients):
    raise InputError(
      f'Expected a ledger with unit={unit!r} of {num_clients} clients, got '
      f'unit={ledger.unit!r} of {found} clients.'
    )


def _calibrated(
  config: PrivacyConfig,
  ledger: Ledger,
  event_of: Callable[[float], Event],
  rounds: int,
) -> tuple[float, Event, int]:
  """(noise multiplier, event of a round, rounds that fit)."""
  validate.positive_int(rounds=rounds)
  target = min(config.epsilon, ledger.epsilon)
  if target == math.inf:
    return 0.0, events.non_private(), rounds
  ledger = dataclasses.replace(ledger, epsilon=target)
  if config.noise_multiplier:
    event = event_of(config.noise_multiplier)
    if not ledger.would_exceed(event.repeated(rounds)):
      return config.noise_multiplier, event, rounds
    fits = ledger.remaining_steps(event)
    if not fits:
      ledger.charge('the first round', event)  # raises, and says what it costs
    return config.noise_multiplier, event, min(rounds, fits or rounds)
  noise = _least_noise(ledger, lambda z: event_of(z).repeated(rounds))
  return noise, event_of(noise), rounds


def _least_noise(ledger: Ledger, event_of: Callable[[float], Event]) -> float:
  """The least noise by which an event fits the history of every client."""
  spent = {
    tuple(entry.event for entry in history): cost
    for history, cost in zip(ledger.histories, ledger.spent(), strict=True)
  }
  noise = 0.0
  # Of two histories the one that costs more need not be the one with which
  # the event needs more noise: all are looked at.
  for others, cost in sorted(spent.items(), key=lambda item: -item[1]):
    if cost >= ledger.epsilon:
      raise ledger_lib.BudgetSpentError(
        f'Expected something of epsilon={ledger.epsilon:g} at delta='
        f'{ledger.delta:g} to be left for every client, got one of whom '
        f'{cost:.4g} are spent.'
      )
    if noise and _cost(ledger, (*others, event_of(noise))) <= ledger.epsilon:
      continue
    noise = accounting.calibrate(
      event_of,
      ledger.epsilon,
      ledger.accounted_delta,
      others=others,
      accountant=ledger.accountant,
      neighbouring=ledger.neighbouring,
    )
  return noise


def _cost(ledger: Ledger, released: Sequence[Event]) -> float:
  return accounting.epsilon(
    released,
    ledger.accounted_delta,
    accountant=ledger.accountant,
    neighbouring=ledger.neighbouring,
  )
