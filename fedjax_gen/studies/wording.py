"""Numbers and lists as the reports write them."""

from collections.abc import Sequence
import math

from fedjax_gen.running.pages import report_tables


def listed(names: Sequence[str]) -> str:
  """Names in a sentence.

  Example:
    >>> listed(['a', 'b', 'c']), listed(['a'])
    ('a, b and c', 'a')
  """
  *most, last = names
  return f'{", ".join(most)} and {last}' if most else last


def number(value: float) -> str:
  """A number as in tables, which may be infinite, as an epsilon may.

  Example:
    >>> number(2.71828), number(math.inf)
    ('2.718', '∞')
  """
  return '∞' if math.isinf(value) else report_tables.number(value)
