"""What was released about each client, and whether more may be.

A ledger is a value: `charge` gives a new one. Charge *before* releasing; a run
with a spent budget stops there (`BudgetSpentError`). Everything that leaves
is to be charged: training steps, moments, histograms, and choices made by
looking at the data.

Budgets hold for schedules fixed in advance, and for stopping when they are
spent. If noise is chosen by what was released before, use `rdp`: its budget
is known to hold then too (Feldman and Zrnic, "Individual privacy accounting
via a Renyi filter", 2021).
"""

from collections.abc import Iterable, Sequence
import dataclasses
import json
import math
from typing import NamedTuple

import numpy as np

from fedjax_gen import validate
from fedjax_gen.errors import InputError
from fedjax_gen.privacy import accounting
from fedjax_gen.privacy.events import Event

UNITS = ('record', 'client')
# How neighbouring data differ, in words for people, by unit and relation.
RELATIONS = {
  ('record', 'zero_out'): (
    "one record's contribution zeroed; the number of records of each client "
    'is public'
  ),
  ('client', 'zero_out'): (
    "one client's contribution zeroed; the number of clients is public"
  ),
  ('record', 'add_or_remove_one'): 'one record of one client added or removed',
  ('client', 'add_or_remove_one'): (
    'one client with all its data added or removed'
  ),
  ('record', 'replace_one'): (
    'one record of one client replaced by another; the number of records of '
    'each client is public'
  ),
  ('client', 'replace_one'): (
    'one client with all its data replaced by another; the number of clients '
    'is public'
  ),
}
_MOST_STEPS = 1 << 24


class BudgetSpentError(InputError):
  """A release would exceed the privacy budget; nothing was released."""


class Entry(NamedTuple):
  """One kind of release.

  Attributes:
    label: what it was, for people: 'training', 'class moments'.
    event: how it is charged.
  """

  label: str
  event: Event


@dataclasses.dataclass(frozen=True)
class Ledger:
  """All releases about each client, and their budget.

  Guarantees:
    Released: what `histories` list, about each client.
    Neighbouring: `neighbouring`, of a `unit`: one record of one client, or one
      client with all its data. With records, clients' data are disjoint, and
      the whole is as private as the client with the largest epsilon
      (`accounting.parallel`). With clients, each has its own epsilon.
    Sensitivity: of every event, the norm its contributions are clipped to.

  Attributes:
    epsilon: the budget of each client; infinity for none.
    delta: its delta, all that was asked for.
    histories: one tuple of entries a client.
    unit: record or client.
    accountant: of `accounting.epsilon`.
    neighbouring: likewise; `relation` says it in words.
    set_aside: the part of delta that the accountant is not given, kept for
      samples that do not fit their batch.
  """

  epsilon: float
  delta: float
  histories: tuple[tuple[Entry, ...], ...]
  unit: str = 'record'
  accountant: str = 'pld'
  neighbouring: str = 'zero_out'
  set_aside: float = 0.0

  def __post_init__(self):
    accounting.check_epsilon(self.epsilon)
    accounting.check_delta(self.delta)
    validate.positive_int(num_clients=len(self.histories))
    validate.one_of(UNITS, unit=self.unit)
    validate.non_negative(set_aside=self.set_aside)
    if self.accounted_delta < accounting.LEAST_DELTA:
      raise InputError(
        f'Expected set_aside to leave a part of delta={self.delta!r} to the '
        f'accountant, got set_aside={self.set_aside!r}.'
      )
    accounting.epsilon(
      (),
      self.accounted_delta,
      accountant=self.accountant,
      neighbouring=self.neighbouring,
    )  # checks the rest

  @property
  def accounted_delta(self) -> float:
    """What of delta the accountant is given."""
    return self.delta - self.set_aside

  @property
  def relation(self) -> str:
    """How neighbouring data differ, in words for people."""
    return RELATIONS[self.unit, self.neighbouring]

  def setting_aside(self, delta: float) -> 'Ledger':
    """The ledger with more of its delta kept for samples that do not fit.

    Raises:
      InputError: nothing is left for the accountant.
    """
    return dataclasses.replace(self, set_aside=self.set_aside + delta)

  def spent(self, delta: float | None = None) -> np.ndarray:
    """`[N]` epsilon of each client, at the budget's delta or another.

    Args:
      delta: in place of the ledger's; what is set aside is taken from it too.
    """
    return np.array([self._cost(h, delta) for h in self.histories])

  def worst(self, delta: float | None = None) -> float:
    """The epsilon of the whole: that of the client who spent most."""
    return accounting.parallel(self.spent(delta))

  def remaining(self) -> np.ndarray:
    """`[N]` budget less what was spent, not below 0.

    For the log: epsilons do not add up, so that whether a release fits is
    known by `would_exceed` alone.
    """
    if self.epsilon == math.inf:
      return np.full(len(self.histories), math.inf)
    return np.maximum(self.epsilon - self.spent(), 0.0)

  def would_exceed(
    self, event: Event, clients: Iterable[int] | None = None
  ) -> bool:
    """Whether a release about some clients (all by default) costs too much."""
    return bool(self._exceeding(event, clients))

  def remaining_steps(
    self, event: Event, clients: Iterable[int] | None = None
  ) -> int | None:
    """How often an event still fits for all of `clients`; `None` if always."""
    if self.epsilon == math.inf:
      return None
    chosen = self._checked(clients)
    fits, fails = 0, 1
    while not self._exceeding(event.repeated(fails), chosen):
      fits, fails = fails, 2 * fails
      if fails > _MOST_STEPS:
        return None
    while fails - fits > 1:
      middle = (fits + fails) // 2
      if self._exceeding(event.repeated(middle), chosen):
        fails = middle
      else:
        fits = middle
    return fits

  def charge(
    self, label: str, event: Event, clients: Iterable[int] | None = None
  ) -> 'Ledger':
    """The ledger after a release about some clients, all by default.

    With Poisson-sampled clients as the unit, all clients are charged in every
    round, drawn or not: the sampled event already knows that they may not be.

    Args:
      label: what is released.
      event: how it is charged.
      clients: about whom.

    Raises:
      BudgetSpentError: a client's budget does not cover it.
      InputError: a client does not exist.
    """
    chosen = set(self._checked(clients))
    exceeding = self._exceeding(event, chosen)
    if exceeding:
      client = exceeding[0]
      history = _added(self.histories[client], Entry(label, event))
      raise BudgetSpentError(
        f'Expected {label!r} to fit the privacy budget epsilon='
        f'{self.epsilon:g} at delta={self.delta:g}, got '
        f'{self._cost(history):.4g} for client {client} '
        f'({len(exceeding)} clients in all would exceed it); '
        f'{self._cost(self.histories[client]):.4g} are spent.'
      )
    histories = (
      _added(history, Entry(label, event)) if client in chosen else history
      for client, history in enumerate(self.histories)
    )
    return dataclasses.replace(self, histories=tuple(histories))

  def to_json(self) -> str:
    """The ledger as text, for checkpoints and reports; see `from_json`."""
    distinct = list(dict.fromkeys(self.histories))
    places = {history: place for place, history in enumerate(distinct)}
    fields = {
      **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)},
      # JSON has no infinity.
      'epsilon': str(self.epsilon),
      'histories': [
        [[entry.label, dataclasses.asdict(entry.event)] for entry in history]
        for history in distinct
      ],
      'history_of': [places[history] for history in self.histories],
    }
    return json.dumps(fields, indent=1, allow_nan=False)

  def _cost(self, history: Sequence[Entry], delta: float | None = None):
    return accounting.epsilon(
      (entry.event for entry in history),
      (self.delta if delta is None else delta) - self.set_aside,
      accountant=self.accountant,
      neighbouring=self.neighbouring,
    )

  def _exceeding(
    self, event: Event, clients: Iterable[int] | None
  ) -> list[int]:
    return [
      client
      for client in sorted(self._checked(clients))
      if self._cost(_added(self.histories[client], Entry('', event)))
      > self.epsilon
    ]

  def _checked(self, clients: Iterable[int] | None) -> list[int]:
    everyone = range(len(self.histories))
    chosen = [int(c) for c in (everyone if clients is None else clients)]
    unknown = [client for client in chosen if client not in everyone]
    if unknown:
      raise InputError(
        f'Expected clients to be indices in [0, {len(everyone)}), got '
        f'{unknown}.'
      )
    return chosen


def ledger(
  num_clients: int,
  epsilon: float,
  delta: float,
  *,
  unit: str = 'record',
  accountant: str = 'pld',
  neighbouring: str = 'zero_out',
  set_aside: float = 0.0,
) -> Ledger:
  """A ledger in which nothing was released.

  Guarantees:
    See `Ledger`, for its arguments too.
  """
  validate.positive_int(num_clients=num_clients)
  histories: tuple[tuple[Entry, ...], ...] = ((),) * num_clients
  return Ledger(
    epsilon, delta, histories, unit, accountant, neighbouring, set_aside
  )


def from_json(text: str) -> Ledger:
  """The ledger that `Ledger.to_json` wrote.

  Guarantees:
    What was charged is charged: a run that resumes goes on from what is
    spent, and does not start anew.
  """
  try:
    fields = json.loads(text)
    distinct = [
      tuple(Entry(label, Event(**event)) for label, event in history)
      for history in fields.pop('histories')
    ]
    histories = tuple(distinct[place] for place in fields.pop('history_of'))
    fields['epsilon'] = float(fields['epsilon'])
    return Ledger(histories=histories, **fields)
  except InputError:
    raise
  except (KeyError, TypeError, IndexError, ValueError) as error:
    raise InputError(
      f'Expected a ledger as Ledger.to_json writes it, got {text[:80]!r}.'
    ) from error


def _added(history: tuple[Entry, ...], entry: Entry) -> tuple[Entry, ...]:
  """A history and one entry more; like ones are joined by their steps."""
  once = dataclasses.replace(entry.event, steps=1)
  for place, known in enumerate(history):
    event = known.event
    if known.label == entry.label and once == dataclasses.replace(
      event, steps=1
    ):
      steps = event.steps + entry.event.steps
      joined = known._replace(event=dataclasses.replace(event, steps=steps))
      return (*history[:place], joined, *history[place + 1 :])
  return (*history, entry)
