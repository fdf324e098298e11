"""A chart of what clients get, with its caption.

As in `charts`, nothing is told by colour alone.
"""

from collections.abc import Mapping, Sequence
import pathlib

import matplotlib
from matplotlib import figure
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks
from fedjax_gen.evaluation.drawing import plots, theme
from fedjax_gen.evaluation.drawing.gallery import Drawn

_CLIENTS = 40  # rows of a chart


@matplotlib.rc_context(theme.CHART_STYLE)
def draw_clients(
  values: Mapping[str, np.ndarray],
  path: pathlib.Path,
  *,
  client_names: Sequence[str],
  x_label: str = 'balanced accuracy on the client’s test rows',
) -> Drawn:
  """Draws what each client gets, by regime, clients from worst to best.

  Args:
    values: by regime `[M]` numbers of the clients; NaN is left out.
    path: PNG file to write, atomically.
    client_names: M names; of more than 40 clients, 40 evenly spaced ones are
      drawn.
    x_label: what the values are, with their unit.
  """
  if not values or not client_names:
    raise InputError('Expected values of one client at least, got none.')
  checks.lengths(len(client_names), **values)
  table = np.array([np.asarray(row, float) for row in values.values()])
  order = _from_the_worst_served(table)
  chart = figure.Figure(figsize=(6.0, 1.1 + 0.26 * len(order)))
  axes = chart.add_subplot()
  rows = np.arange(len(order))
  for row, client in zip(rows, order, strict=True):
    found = table[:, client][np.isfinite(table[:, client])]
    if found.size:
      axes.plot(
        [found.min(), found.max()], [row, row], color=theme.GRID, linewidth=3
      )
  for position, (name, row) in enumerate(zip(values, table, strict=True)):
    axes.plot(
      row[order],
      rows,
      **theme.marker(position, size=7),
      linestyle='',
      label=name,
    )
  axes.set_yticks(rows, [client_names[client] for client in order])
  axes.tick_params(axis='y', length=0)
  axes.set_ylim(-0.7, len(order) - 0.3)
  axes.grid(axis='x')
  axes.set_xlabel(x_label)
  axes.legend(
    loc='lower left', bbox_to_anchor=(0, 1), ncols=len(values), borderpad=0
  )
  plots.save(chart, path)
  return Drawn(
    path,
    'Each client’s classifier by what it was trained on; the client that is '
    'served worst at the bottom.',
    'clients',
  )


def _from_the_worst_served(table: np.ndarray) -> np.ndarray:
  """Positions of clients `[M]` by their best regime, evenly spaced if many.

  Whom nothing serves comes first.
  """
  best = np.where(np.isfinite(table), table, -np.inf).max(axis=0)
  order = np.argsort(best, kind='stable')
  if len(order) <= _CLIENTS:
    return order
  return order[np.linspace(0, len(order) - 1, _CLIENTS).round().astype(int)]
