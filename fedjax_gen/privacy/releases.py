"""Everything that one folder gives away, and what all of it costs together.

Methods that are compared see the same data. Each may keep to a budget of its
own; whoever has the folder has all of them. A folder therefore has one ledger,
with a part for each method, and the epsilon of all parts together is computed
here and nowhere else.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json
import math
from typing import Any, NamedTuple

from fedjax_gen.errors import InputError
from fedjax_gen.privacy import accounting, ledger as ledger_lib
from fedjax_gen.privacy.events import Event
from fedjax_gen.privacy.ledger import Ledger


class Cost(NamedTuple):
  """A privacy loss.

  Attributes:
    epsilon: may be infinite.
    delta: its delta.
  """

  epsilon: float
  delta: float


@dataclasses.dataclass(frozen=True)
class Releases:
  """The ledgers of all methods of a folder.

  Guarantees:
    Released: what the ledgers of all parts list.
    Neighbouring: that of the ledgers, which is the same in all of them.
    What `joint` gives holds if the noise of every part is independent of that
    of the others and secret. With `is_nominal` the noise follows from a public
    seed, and nothing holds against who knows it.

  Attributes:
    parts: the ledger of each method, by name.
    is_nominal: see above.

  Raises:
    InputError: parts differ in unit, relation or number of clients.
  """

  parts: Mapping[str, Ledger]
  is_nominal: bool = False

  def __post_init__(self):
    for name, ledger in self.parts.items():
      kinds = {
        'unit': (self._first.unit, ledger.unit),
        'neighbouring': (self._first.neighbouring, ledger.neighbouring),
        'num_clients': (len(self._first.histories), len(ledger.histories)),
      }
      for field, (expected, got) in kinds.items():
        if got != expected:
          raise InputError(
            f'Expected all ledgers of a folder to have {field}={expected!r}, '
            f'got {got!r} for {name}.'
          )

  @property
  def unit(self) -> str:
    """What is protected, record or client; '' if nothing was released."""
    return self._first.unit if self.parts else ''

  @property
  def relation(self) -> str:
    """Of neighbours, as `accounting.NEIGHBOURING`."""
    return self._first.neighbouring if self.parts else ''

  def alone(self, name: str) -> Cost:
    """What one method costs somebody who sees nothing of the others."""
    ledger = self.parts[name]
    return Cost(ledger.worst(), ledger.delta)

  def joint(self) -> Cost:
    """What all of it costs: the epsilon of the folder.

    With records, clients hold disjoint data, and the client about whom most
    was released decides; with clients, the one with the largest epsilon.
    """
    if not self.parts:
      return Cost(0.0, 0.0)
    ledgers = list(self.parts.values())
    everyones = zip(*(ledger.histories for ledger in ledgers), strict=True)
    return _cost(ledgers, (sum(of_all, ()) for of_all in set(everyones)))

  def summary(self) -> dict[str, Any]:
    """The folder's epsilon with all that it needs to mean something.

    An infinite epsilon is None: nothing is promised.
    """
    joint = self.joint()
    return {
      'unit': self.unit,
      'relation': self.relation,
      'epsilon': _finite(joint.epsilon),
      'delta': joint.delta,
      'nominal': self.is_nominal,
    }

  def claim(self, name: str) -> dict[str, Any]:
    """What a file of one method says of its privacy, as JSON has it.

    An infinite epsilon is None: nothing is promised.
    """
    alone, joint = self.alone(name), self.joint()
    return {
      **self.summary(),
      'method': name,
      'epsilon': _finite(alone.epsilon),
      'delta': alone.delta,
      'folder_epsilon': _finite(joint.epsilon),
      'folder_delta': joint.delta,
    }

  def to_json(self) -> str:
    """As text; see `from_json`."""
    fields = {
      **self.summary(),
      'methods': {
        name: {
          'epsilon': _finite(self.alone(name).epsilon),
          'delta': ledger.delta,
          'ledger': json.loads(ledger.to_json()),
        }
        for name, ledger in self.parts.items()
      },
    }
    return json.dumps(fields, indent=1, allow_nan=False)

  @property
  def _first(self) -> Ledger:
    return next(iter(self.parts.values()))


def from_json(text: str) -> Releases:
  """What `Releases.to_json` wrote; its epsilons are computed anew.

  Raises:
    InputError: the text is not one.
  """
  try:
    found = json.loads(text)
    parts = {
      name: ledger_lib.from_json(json.dumps(part['ledger']))
      for name, part in found['methods'].items()
    }
    return Releases(parts, bool(found['nominal']))
  except InputError:
    raise
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(
      f'Expected a ledger as Releases.to_json writes it, got {text[:80]!r}.'
    ) from error


def together(folders: Sequence[Releases]) -> Cost:
  """What several folders cost that were made of the same data.

  Who holds which record may differ between them: of each folder, the client
  about whom most was released counts, and nothing is known of the others.

  Args:
    folders: with at least one release each.

  Raises:
    InputError: they protect different units, or under different relations.
  """
  kinds = {(folder.unit, folder.relation) for folder in folders}
  if len(kinds) != 1:
    raise InputError(
      f'Expected folders that protect one unit under one relation, got '
      f'{sorted(kinds)}.'
    )
  ledgers = [ledger for folder in folders for ledger in folder.parts.values()]
  released = sum((_costliest(folder) for folder in folders), ())
  return _cost(ledgers, [released])


def _costliest(folder: Releases) -> tuple[ledger_lib.Entry, ...]:
  """What was released about the client that costs most, by all methods."""
  ledgers = list(folder.parts.values())
  everyones = zip(*(ledger.histories for ledger in ledgers), strict=True)
  return max(
    (sum(of_all, ()) for of_all in set(everyones)),
    key=lambda history: _cost(ledgers, [history]).epsilon,
  )


def _cost(
  ledgers: Sequence[Ledger],
  histories: Iterable[tuple[ledger_lib.Entry, ...]],
) -> Cost:
  """Of the costliest history of releases that ledgers list."""
  delta = max(ledger.delta for ledger in ledgers)
  # Every method's batches may lack room.
  accounted = delta - sum(ledger.set_aside for ledger in ledgers)
  if accounted < accounting.LEAST_DELTA:
    return Cost(math.inf, delta)
  accountants = {ledger.accountant for ledger in ledgers}
  # Any accountant's epsilon is an upper bound; pld's is tight.
  accountant = accountants.pop() if len(accountants) == 1 else 'pld'
  epsilon = accounting.parallel(
    accounting.epsilon(
      _joined(entry.event for entry in history),
      accounted,
      accountant=accountant,
      neighbouring=ledgers[0].neighbouring,
    )
    for history in histories
  )
  return Cost(epsilon, delta)


def _joined(events: Iterable[Event]) -> list[Event]:
  """The same, in a fixed order: what is composed is a multiset."""
  return sorted(events, key=dataclasses.astuple)


def _finite(epsilon: float) -> float | None:
  return epsilon if math.isfinite(epsilon) else None
