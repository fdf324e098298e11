"""A ledger, or all releases of a folder, as a table for people."""

from collections.abc import Sequence

from fedjax_gen.privacy.ledger import Ledger
from fedjax_gen.privacy.releases import Releases

_HEADER = ('clients', 'released', 'mechanism', 'steps', 'q', 'noise multiplier')


def table(released: Ledger | Releases) -> str:
  """Markdown: what was released, about whom, at what cost.

  Clients to whom the same happened share their rows.

  Guarantees:
    Released: nothing; a ledger holds no data. It does tell which clients took
      part in what.
  """
  header, *cells = rows(released)
  lines = [
    f'| {" | ".join(row)} |' for row in (header, ['---'] * len(header), *cells)
  ]
  return '\n'.join([*lines, '', promise(released)])


def rows(released: Ledger | Releases) -> list[list[str]]:
  """The cells of `table`, the header first; of releases by method.

  Guarantees:
    As `table`.
  """
  if isinstance(released, Ledger):
    return _ledger_rows(released)
  made: list[list[str]] = []
  for name, part in released.parts.items():
    header, *cells = _ledger_rows(part)
    made = made or [['Method', *header]]
    # The method is said in its first row.
    heads = [name, *[''] * (len(cells) - 1)]
    made += [[head, *row] for head, row in zip(heads, cells, strict=True)]
  return made or [['Method', *_HEADER, 'epsilon']]


def promise(released: Ledger | Releases) -> str:
  """In a few sentences: the budget or the joint cost, and who are neighbours.

  Guarantees:
    As `table`.
  """
  if isinstance(released, Ledger):
    kept = ''
    if released.set_aside:
      kept = (
        f'; {released.set_aside:.3g} of it are kept for batches that lack room'
      )
    return (
      f'Budget: epsilon={released.epsilon:g} at delta={released.delta:g}{kept}'
      f'; {released.accountant}. Neighbouring data: {released.relation}.'
    )
  if not released.parts:
    return 'Nothing was released under differential privacy.'
  epsilon, delta = released.joint()
  first = next(iter(released.parts.values()))
  said = (
    f'All together: epsilon={epsilon:.4g} at delta={delta:g}. Neighbouring '
    f'data: {first.relation}.'
  )
  if released.is_nominal:
    said += ' Nominal: the noise is from a public seed.'
  return said


def _ledger_rows(ledger: Ledger) -> list[list[str]]:
  unit = f'epsilon of one {ledger.unit} (delta={ledger.delta:g})'
  made = [[*_HEADER, unit]]
  spent = ledger.spent()
  for history in dict.fromkeys(ledger.histories):
    clients = [
      client
      for client, theirs in enumerate(ledger.histories)
      if theirs == history
    ]
    # Who and how much are said in the first row of each history.
    who, cost = _ranges(clients), f'{spent[clients[0]]:.4g}'
    if not history:
      made.append([who, 'nothing', *[''] * 4, cost])
    for label, event in history:
      made.append(
        [
          who,
          label,
          event.kind.replace('_', ' '),
          str(event.steps),
          f'{event.sampling_probability:.4g}',
          f'{event.noise_multiplier:.4g}',
          cost,
        ]
      )
      who = cost = ''
  return made


def _ranges(clients: Sequence[int]) -> str:
  """'0-2, 7' for [0, 1, 2, 7]."""
  parts: list[list[int]] = []
  for client in clients:
    if parts and client == parts[-1][1] + 1:
      parts[-1][1] = client
    else:
      parts.append([client, client])
  return ', '.join(str(a) if a == b else f'{a}-{b}' for a, b in parts)
