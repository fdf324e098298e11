"""A ledger as a table for people."""

from collections.abc import Sequence

from fedjax_gen.privacy.ledger import Ledger

RELATIONS = {
  'zero_out': 'the contribution of one is there, or is zero; how many there '
  'are is public',
  'add_or_remove_one': 'one is added or removed',
  'replace_one': 'one is replaced by another',
}
"""What "one" means, in words."""

_HEADER = ('clients', 'released', 'mechanism', 'steps', 'q', 'noise multiplier')


def table(ledger: Ledger) -> str:
  """Markdown: what was released, about whom, at what cost.

  Clients to whom the same happened share their rows.

  Guarantees:
    Released: nothing; a ledger holds no data. It does tell which clients took
      part in what.
  """
  header, *released = rows(ledger)
  budget = f'Budget: epsilon={ledger.epsilon:g}; {ledger.accountant}, '
  relation = f'neighbours: {RELATIONS[ledger.neighbouring]}.'
  lines = [
    f'| {" | ".join(row)} |'
    for row in (header, ['---'] * len(header), *released)
  ]
  return '\n'.join([*lines, '', budget + relation])


def rows(ledger: Ledger) -> list[list[str]]:
  """The cells of `table`, the header first.

  Guarantees:
    As `table`.
  """
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
