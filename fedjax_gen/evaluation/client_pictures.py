"""Charts of what clients get, and of what privacy costs, with their captions.

As in `charts`, nothing is told by colour alone.
"""

from collections.abc import Mapping, Sequence
import pathlib

import matplotlib
from matplotlib import figure
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import charts, checks, theme
from fedjax_gen.evaluation.gallery import Drawn

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

  Raises:
    InputError: no regime, or values that are not M.
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
  charts.save(chart, path)
  return Drawn(
    path,
    'Each client’s classifier by what it was trained on; the client that is '
    'served worst at the bottom.',
    'clients',
  )


@matplotlib.rc_context(theme.CHART_STYLE)
def draw_privacy(
  curves: Mapping[str, Sequence[tuple[float, float]]],
  path: pathlib.Path,
  *,
  references: Mapping[str, float] | None = None,
  y_label: str = 'balanced accuracy',
) -> Drawn:
  """Draws what is reached at each epsilon, on a logarithmic axis.

  Args:
    curves: by method pairs of epsilon > 0 and value, in any order; epsilon
      inf, without privacy, is drawn apart at the right.
    path: PNG file to write, atomically.
    references: values to compare with that have no epsilon, as horizontal
      lines: local training for instance.
    y_label: what the values are, with their unit.

  Raises:
    InputError: no curve, an empty one, or an epsilon that is not above zero.
  """
  _check_curves(curves)
  found = {e for pairs in curves.values() for e, _ in pairs}
  finite = sorted(found - {np.inf})
  end = 3 * finite[-1] if finite else 1.0  # where inf is drawn
  chart = figure.Figure(figsize=(6.0, 3.6))
  axes = chart.add_subplot()
  axes.set_xscale('log')
  for position, (name, pairs) in enumerate(curves.items()):
    epsilons, values = np.array(sorted(pairs), float).T
    style = theme.marker(position, size=6) | {'color': theme.colour(position)}
    last = np.isinf(epsilons)
    axes.plot(
      epsilons[~last],
      values[~last],
      **style,
      linestyle=theme.LINES[position % len(theme.LINES)],
      linewidth=1.8,
      label=name,
    )
    axes.plot(np.full(last.sum(), end), values[last], **style, linestyle='')
  for position, (name, value) in enumerate((references or {}).items()):
    line = theme.LINES[(position + 3) % len(theme.LINES)]
    axes.axhline(
      value, color=theme.MUTED, linestyle=line, linewidth=1.2, label=name
    )
  _tick_epsilons(axes, finite, end if np.inf in found else None)
  axes.grid(axis='y')
  axes.set_xlabel('ε (less is more private; ∞: no privacy)')
  axes.set_ylabel(y_label)
  axes.legend(loc='center left', bbox_to_anchor=(1.01, 0.5), handlelength=2.8)
  charts.save(chart, path)
  return Drawn(
    path, f'What is reached at each privacy budget: {y_label}.', 'privacy'
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


def _check_curves(curves: Mapping[str, Sequence[tuple[float, float]]]) -> None:
  if not curves:
    raise InputError('Expected curves of one method at least, got none.')
  for name, pairs in curves.items():
    if not len(pairs) or not all(epsilon > 0 for epsilon, _ in pairs):
      raise InputError(
        f'Expected pairs of epsilon > 0 and value in curve {name!r}, got '
        f'{list(pairs)}.'
      )


def _tick_epsilons(axes, finite: Sequence[float], end: float | None) -> None:
  """Names every epsilon, and the infinite one at `end`, set off by a line."""
  ticks, names = list(finite), [f'{epsilon:g}' for epsilon in finite]
  if end is not None:
    ticks, names = [*ticks, end], [*names, '∞']
  axes.set_xticks(ticks, names)
  axes.minorticks_off()
  if finite and end is not None:
    axes.axvline((finite[-1] * end) ** 0.5, color=theme.GRID)
