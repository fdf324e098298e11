"""Everything that one folder gives away, and what all of it costs together.

Methods that are compared see the same data. Each may keep to a budget of its
own; whoever has the folder has all of them. A folder therefore has one ledger,
with a part for each method, and the epsilon of all parts together is computed
here and nowhere else.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import itertools
import json
import math
import types
from typing import Any, NamedTuple

from fedjax_gen import validate
from fedjax_gen.errors import InputError
from fedjax_gen.privacy import accounting, ledger as ledger_lib
from fedjax_gen.privacy.events import Event
from fedjax_gen.privacy.ledger import Entry, Ledger


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
    seed, and nothing holds against who knows it. Methods without protection
    are no part of it.

  Attributes:
    parts: the ledger of each method, by name; not to be changed.
    is_nominal: see above.

  Raises:
    InputError: parts differ in unit, relation or number of clients.
  """

  parts: Mapping[str, Ledger]
  is_nominal: bool = False

  def __post_init__(self):
    parts = types.MappingProxyType(dict(self.parts))
    object.__setattr__(self, 'parts', parts)
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
    validate.one_of(self.parts, name=name)
    ledger = self.parts[name]
    return Cost(ledger.worst(), ledger.delta)

  def joint(self) -> Cost:
    """What all of it costs: the epsilon of the folder.

    Guarantees:
      Whoever sees all of it is bounded by it, about any one unit. Of each
      client the releases of all parts are composed by one accountant, at the
      delta of the parts (the largest, if they differ), and the client that
      costs most counts: with records, clients hold disjoint data. Every part
      may lack room in a batch, so that the accountant is given what is left of
      delta when all have set their part aside; that a batch lacks room is
      decided by coins that fall alike for neighbouring data, so that the
      probabilities add up whatever epsilon is. If one part is counted by
      `rdp`, all are: it is looser, and holds if noise was chosen by what was
      released before. Infinite if a part is not private or if nothing is left
      of delta. Nothing released costs (0, 0).

    Raises:
      InputError: accountants differ, and `rdp` does not know an event of the
        other parts.
    """
    if not self.parts:
      return Cost(0.0, 0.0)
    ledgers = list(self.parts.values())
    return _cost(ledgers, self.histories(), max(part.delta for part in ledgers))

  def histories(self) -> set[tuple[Entry, ...]]:
    """All that was released about a client, once for each that differs."""
    of_parts = (part.histories for part in self.parts.values())
    return {
      tuple(itertools.chain.from_iterable(of_client))
      for of_client in zip(*of_parts, strict=True)
    }

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
  """What `Releases.to_json` wrote; its epsilons are computed anew."""
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

  Guarantees:
    Whoever sees all folders is bounded by it, about any one unit. Who holds
    which record may differ between them: whatever one folder released about a
    client is composed with whatever the others did, and the most counts. The
    delta is that of the first folder that released something; what all parts
    of all folders set aside is taken off it. Otherwise as `Releases.joint`.

  Args:
    folders: in which nothing was released cost nothing.

  Raises:
    InputError: they protect different units, or under different relations.
  """
  folders = [folder for folder in folders if folder.parts]
  if not folders:
    return Cost(0.0, 0.0)
  kinds = {(folder.unit, folder.relation) for folder in folders}
  if len(kinds) != 1:
    raise InputError(
      f'Expected folders that protect one unit under one relation, got '
      f'{sorted(kinds)}.'
    )
  ledgers = [ledger for folder in folders for ledger in folder.parts.values()]
  histories = {
    tuple(itertools.chain.from_iterable(of_folders))
    for of_folders in itertools.product(
      *(_greatest(folder.histories()) for folder in folders)
    )
  }
  return _cost(
    ledgers, histories, max(part.delta for part in folders[0].parts.values())
  )


def _greatest(
  histories: Iterable[tuple[Entry, ...]],
) -> list[tuple[Entry, ...]]:
  """Histories without those that are a part of another.

  Any of the others may be the one that costs most together with what other
  folders released, whatever each costs alone.
  """
  found: list[tuple[tuple[Entry, ...], dict[Event, int]]] = []
  for history in histories:
    steps = _steps(history)
    if any(_is_within(steps, known) for _, known in found):
      continue
    found = [(h, known) for h, known in found if not _is_within(known, steps)]
    found.append((history, steps))
  return [history for history, _ in found]


def _steps(history: Iterable[Entry]) -> dict[Event, int]:
  """How often each event was done."""
  steps: dict[Event, int] = {}
  for entry in history:
    once = dataclasses.replace(entry.event, steps=1)
    steps[once] = steps.get(once, 0) + entry.event.steps
  return steps


def _is_within(few: Mapping[Event, int], many: Mapping[Event, int]) -> bool:
  return all(count <= many.get(event, 0) for event, count in few.items())


def _cost(
  ledgers: Sequence[Ledger],
  histories: Iterable[tuple[Entry, ...]],
  delta: float,
) -> Cost:
  """Cost of the client with the most expensive release history."""
  accounted = delta - math.fsum(ledger.set_aside for ledger in ledgers)
  if accounted < accounting.LEAST_DELTA:
    return Cost(math.inf, delta)
  is_mixed = len({ledger.accountant for ledger in ledgers}) > 1
  epsilon = accounting.parallel(
    accounting.epsilon(
      (entry.event for entry in history),
      accounted,
      accountant='rdp' if is_mixed else ledgers[0].accountant,
      neighbouring=ledgers[0].neighbouring,
    )
    for history in histories
  )
  return Cost(epsilon, delta)


def _finite(epsilon: float) -> float | None:
  return epsilon if math.isfinite(epsilon) else None
