"""Pictures that compare federated methods, each a PNG with its caption.

Accuracy over rounds, the accuracy of each client, and the cost in bytes. As in
`charts`, nothing is told by colour alone; names stand where a line ends; and
pictures are narrow enough to be read on a phone.

A method is recognised by its position: give every picture the same methods in
the same order. A method without a value is skipped, and keeps its position.
"""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

import matplotlib
from matplotlib import figure, ticker
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation.drawing import plots, theme
from fedjax_gen.evaluation.drawing.gallery import Drawn

_WIDTH = 3.6  # inches of a chart, without the names next to it
_NAME_HEIGHT = 0.2  # inches
_ACCURACY = 'generalisation accuracy'


@matplotlib.rc_context(theme.CHART_STYLE)
def draw_curves(
  curves: Mapping[str, tuple[Sequence[float], Sequence[float | None]]],
  path: pathlib.Path,
  *,
  subject: str = '',
  target: float | None = None,
  y_label: str = _ACCURACY,
  x_label: str = 'round',
) -> Drawn:
  """Draws accuracies of methods over rounds, each named where it ends.

  Args:
    curves: by method rounds and as many accuracies in [0, 1]; None and NaN are
      left out.
    path: PNG file to write, atomically.
    subject: the method to stress.
    target: an accuracy to mark by a line.
    y_label: what the accuracies are.
    x_label: what they are plotted over.
  """
  lines = {}
  for position, (name, (x, y)) in enumerate(curves.items()):
    if len(x) != len(y):
      raise InputError(
        f'Expected x and y of curve {name!r} to be equally long, got {len(x)} '
        f'and {len(y)}.'
      )
    points = np.array([(a, _number(b)) for a, b in zip(x, y, strict=True)])
    points = points.reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points):
      lines[name] = (position, points)
  _check_some(lines, 'curves')
  chart, axes = _chart(len(lines))
  axes.grid(axis='y')
  axes.set_xlabel(x_label)
  axes.set_ylabel(y_label)
  axes.xaxis.set_major_locator(_whole_numbers())
  axes.yaxis.set_major_formatter(ticker.PercentFormatter(1))
  named = {}
  for name, (position, points) in lines.items():
    text = f'{name} {points[-1, 1]:.1%}'
    [named[text]] = axes.plot(
      *points.T,
      **_look(position, size=5),
      linestyle=theme.LINES[position % len(theme.LINES)],
      linewidth=2.6 if name == subject else 1.5,
      markevery=max(1, len(points) // 6),
      zorder=3 if name == subject else 2,
      label=name,
    )
  if target is not None:
    axes.axhline(target, color=theme.MUTED, linewidth=1, linestyle=(0, (1, 2)))
  axes.set_ylim(axes.get_ylim())
  ends = {name: points[-1, 1] for name, (_, points) in lines.items()}
  stressed = f'{subject} {ends.get(subject, np.nan):.1%}'
  plots.name_at_right(axes, named, bold=stressed)
  plots.save(chart, path)
  order = sorted(ends, key=lambda name: -ends[name])
  dotted = '' if target is None else f' Dotted: the target of {target:.0%}.'
  return Drawn(
    path,
    f'The {y_label} of each method over rounds; numbers are those of the last '
    f'measurement.{dotted}',
    'curves',
    f'The {y_label} over rounds, first and last measured: '
    + '; '.join(
      f'{name} {lines[name][1][0, 1]:.1%} to {ends[name]:.1%}' for name in order
    )
    + '.',
  )


@matplotlib.rc_context(theme.CHART_STYLE)
def draw_methods(
  metrics: Mapping[str, Mapping[str, float]],
  path: pathlib.Path,
  *,
  metric: str = 'accuracy',
  subject: str = '',
  x_label: str = _ACCURACY,
) -> Drawn:
  """Draws the mean over clients of each method, its spread and the worst.

  Methods stand in the order of their means, the best at the top.

  Args:
    metrics: by method numbers as `generalisation_metrics` names them.
    path: PNG file to write, atomically.
    metric: which to draw; where there are `METRIC_stddev` and `METRIC_worst`,
      they are drawn too.
    subject: the method to stress.
    x_label: what the metric is.
  """
  means = {
    name: value
    for name, values in metrics.items()
    if np.isfinite(value := _number(values.get(metric)))
  }
  _check_some(means, metric)
  names = sorted(means, key=lambda name: means[name])
  chart = figure.Figure(figsize=(_WIDTH, 0.8 + 0.32 * len(names)))
  axes = chart.add_subplot()
  said = []
  for row, name in enumerate(names):
    mean = means[name]
    spread = _number(metrics[name].get(f'{metric}_stddev'))
    worst = _number(metrics[name].get(f'{metric}_worst'))
    said.append(f'{name} {mean:.1%}')
    if np.isfinite(spread):
      ends = [mean - spread, mean + spread]
      axes.plot(ends, [row, row], color=theme.colour(0), lw=2, alpha=0.6)
      said[-1] += f' ± {spread:.1%}'
    if np.isfinite(worst):
      axes.plot(worst, row, marker='x', color=theme.INK, ms=6, mew=1.5)
      said[-1] += f', worst {worst:.1%}'
    axes.plot(mean, row, marker='o', color=theme.colour(0), ms=8)
    axes.annotate(
      f'{mean:.1%}',
      (1.04, row),
      xycoords=axes.get_yaxis_transform(),
      va='center',
      fontweight='bold' if name == subject else 'normal',
      annotation_clip=False,
    )
  axes.set_yticks(range(len(names)), names)
  for text, name in zip(axes.get_yticklabels(), names, strict=True):
    text.set_fontweight('bold' if name == subject else 'normal')
  axes.tick_params(axis='y', length=0)
  axes.set_ylim(-0.6, len(names) - 0.4)
  axes.grid(axis='x')
  axes.xaxis.set_major_locator(ticker.MaxNLocator(nbins=5))
  axes.xaxis.set_major_formatter(ticker.PercentFormatter(1))
  axes.set_xlabel(x_label)
  plots.save(chart, path)
  return Drawn(
    path,
    f'Dot: mean over clients of the {x_label}, also in numbers. Line: one '
    'standard deviation over clients to either side. Cross: the client that '
    'does worst.',
    'methods',
    f'Mean over clients of the {x_label} ± standard deviation, and the worst '
    f'client: {"; ".join(said[::-1])}.',
  )


@matplotlib.rc_context(theme.CHART_STYLE)
def draw_bytes(
  points: Mapping[str, tuple[float | None, float | None]],
  path: pathlib.Path,
  *,
  subject: str = '',
  x_label: str = 'bytes sent, all clients and rounds',
  y_label: str = _ACCURACY,
) -> Drawn:
  """Draws accuracy against bytes, on a logarithmic axis.

  Args:
    points: by method bytes >= 0 and accuracy in [0, 1]; without either the
      method is passed over. No bytes at all are drawn apart at the left.
    path: PNG file to write, atomically.
    subject: the method to stress.
    x_label: what the bytes are.
    y_label: what the accuracies are.
  """
  found = {}
  for position, (name, pair) in enumerate(points.items()):
    sent, accuracy = map(_number, pair)
    if sent < 0:
      raise InputError(f'Expected bytes >= 0 of {name!r}, got {sent}.')
    if np.isfinite(sent) and np.isfinite(accuracy):
      found[name] = (position, sent, accuracy)
  _check_some(found, 'points')
  sent_some = sorted(sent for _, sent, _ in found.values() if sent)
  least, most = (sent_some[0], sent_some[-1]) if sent_some else (1.0, 1.0)
  is_apart = len(sent_some) < len(found)
  zero = least / 10  # where no bytes are drawn
  chart, axes = _chart(len(found))
  axes.set_xscale('log')
  axes.set_xlim(zero / 2 if is_apart else least / 2, 2 * most)
  named = {}
  for name, (position, sent, accuracy) in found.items():
    look = _look(position, size=10 if name == subject else 7)
    [named[name]] = axes.plot(
      [sent or zero], [accuracy], **look, linestyle='', label=name
    )
  _ticks_of_bytes(axes, zero if is_apart else None, bool(sent_some))
  axes.margins(y=0.1)
  axes.set_ylim(axes.get_ylim())
  axes.grid()
  axes.yaxis.set_major_formatter(ticker.PercentFormatter(1))
  axes.set_xlabel(x_label)
  axes.set_ylabel(y_label)
  plots.name_at_right(axes, named, bold=subject)
  plots.save(chart, path)
  order = sorted(found, key=lambda name: found[name][1])
  return Drawn(
    path,
    f'The {y_label} of each method against what it sent. Better is up, cheaper '
    'is left; the scale of bytes is logarithmic.',
    'bytes',
    f'{x_label.capitalize()}, and {y_label}: '
    + '; '.join(
      f'{name} {_bytes(found[name][1])}, {found[name][2]:.1%}' for name in order
    )
    + '.',
  )


def _number(value: float | None) -> float:
  return np.nan if value is None else float(value)


def _check_some(found: Mapping[str, Any], name: str) -> None:
  if not found:
    raise InputError(f'Expected {name} of one method at least, got none.')


def _chart(num_names: int):
  """A figure with room for names at its right, and its axes."""
  height = max(3.0, 0.8 + _NAME_HEIGHT * num_names)
  chart = figure.Figure(figsize=(_WIDTH, height))
  return chart, chart.add_subplot()


def _look(position: int, size: float) -> dict:
  """How the points of the method at a position look."""
  # From the eleventh, which has the colour of the first, with other markers.
  shifted = position + 3 * (position // len(theme.COLOURS))
  return {
    'color': theme.colour(position),
    'marker': theme.MARKERS[shifted % len(theme.MARKERS)],
    'markersize': size,
    'markeredgecolor': theme.PAPER,
    'markeredgewidth': 0.5,
  }


def _whole_numbers() -> ticker.Locator:
  return ticker.MaxNLocator(integer=True, nbins=6, min_n_ticks=1)


def _ticks_of_bytes(axes, zero: float | None, is_any: bool) -> None:
  """Decades, not too many, in units; and one for no bytes, drawn at `zero`."""
  low, high = axes.get_xlim()
  low = low if zero is None else 5 * zero
  ticks = np.array([])
  for steps in ((1,), (1, 2, 5)):  # within a decade the finer ones
    if len(ticks) < 2 and is_any:
      locator = ticker.LogLocator(subs=steps, numticks=5)
      ticks = np.asarray(locator.tick_values(low, high))
      ticks = ticks[(ticks >= low) & (ticks <= high)]
  names = [_bytes(tick) for tick in ticks]
  if zero is not None:
    ticks, names = np.array([zero, *ticks]), ['none', *names]
  axes.set_xticks(ticks, names)
  axes.minorticks_off()


def _bytes(value: float) -> str:
  """Some bytes in a unit that suits them."""
  return ticker.EngFormatter(unit='B', places=None)(float(f'{value:.3g}'))
