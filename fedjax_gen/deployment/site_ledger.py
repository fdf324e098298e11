"""A site's own account of what it has released, over all runs and servers."""

import json
import os
import pathlib

from fedjax_gen.errors import InputError
from fedjax_gen.privacy import ledger as ledger_lib
from fedjax_gen.privacy.events import Event
from fedjax_gen.privacy.ledger import BudgetSpentError, Ledger
from fedjax_gen.running.storage import disk


class SiteLedger:
  """A ledger in a file, charged before each release and once for each.

  Guarantees:
    Released: what was charged, over everything that this file has seen. Rounds
      are charged before they are computed: a site that is killed in between
      has paid and not released, and pays nothing when that round is asked for
      again, since it gives the reply that was stored or computes the first.
      Rounds only go up: one below the last that was charged was not paid for.
    Unit, neighbours: those of the budget, for all methods of all runs. It does
      not know what the site's data released elsewhere.
  """

  def __init__(self, path: str | os.PathLike, budget: Ledger | None):
    """Reads the file, or begins one.

    Args:
      path: the file.
      budget: epsilon, delta and accountant of one client; None for none, and
        then everything may be released, and is counted by rounds alone.

    Raises:
      InputError: the file is damaged, or of another budget.
    """
    self._path = pathlib.Path(path)
    self._rounds: dict[str, int] = {}
    self.ledger = budget
    if not self._path.exists():
      return
    try:
      found = json.loads(self._path.read_text(encoding='utf-8'))
      self._rounds = {name: int(n) for name, n in found['rounds'].items()}
      kept = found['ledger']
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise InputError(
        f'Expected the ledger of a site, got another text in {self._path}. '
        'Without it nobody knows what was released: bring it back.'
      ) from error
    if kept is not None and budget is not None:
      spent = ledger_lib.from_json(kept)
      if _terms(spent) != _terms(budget):
        raise InputError(
          f'Expected the budget that {self._path} began with, {_terms(spent)}, '
          f'got {_terms(budget)}.'
        )
      self.ledger = spent
    elif (kept is None) != (budget is None) and self._rounds:
      raise InputError(
        f'Expected {"no" if kept is None else "the"} budget, as {self._path} '
        'began with: rounds were released before.'
      )

  def charge(
    self, run: str, method: str, round_number: int, event: Event | None
  ) -> None:
    """Charges a round before it is computed, and writes that down.

    Raises:
      BudgetSpentError: the budget does not cover it, or it has no protection
        and there is a budget. Nothing was charged.
      InputError: a later round was charged before.
      DiskFullError: the disk is full; nothing was charged.
    """
    name = f'{run}/{method}'
    last = self._rounds.get(name, -1)
    if round_number == last:
      return  # charged before
    if round_number < last:
      raise InputError(
        f'Expected a round after {last} of {name}, which was charged, got '
        f'round {round_number}.'
      )
    charged = self.ledger
    if charged is not None:
      if event is None:
        raise BudgetSpentError(
          f'Expected a method under differential privacy, got {method!r} '
          'without: this site has a budget.'
        )
      charged = charged.charge(name, event)
    rounds = {**self._rounds, name: round_number}
    text = {
      'rounds': rounds,
      'ledger': None if charged is None else charged.to_json(),
    }
    disk.write_atomically(self._path, json.dumps(text, indent=1) + '\n')
    self.ledger, self._rounds = charged, rounds


def _terms(ledger: Ledger) -> str:
  return (
    f'epsilon={ledger.epsilon:g} delta={ledger.delta:g} unit={ledger.unit} '
    f'accountant={ledger.accountant} neighbouring={ledger.neighbouring} '
    f'set_aside={ledger.set_aside:g}'
  )
