"""PNG charts: scatter, curves over rounds, bars and histograms.

Every series differs in more than colour: by marker, line style or hatch, and
is named where it is drawn. Figures are made without pyplot: no global state,
no window, nothing to close.
"""

from collections.abc import Mapping, Sequence
import os

import matplotlib
from matplotlib import figure, lines, patheffects, ticker
import numpy as np
from sklearn import isotonic

from fedjax_gen import files
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks, theme

_DPI = 150


@matplotlib.rc_context(theme.CHART_STYLE)
def scatter(
  points: np.ndarray,
  classes: np.ndarray,
  path: str | os.PathLike,
  *,
  class_names: Sequence[str] | None = None,
  title: str = '',
) -> None:
  """Writes points of the plane, coloured, marked and named by class.

  Names of up to three letters are written among the points, longer ones
  beside the map.

  Args:
    points: `[n, 2]`, such as `embedding.tsne(...).points`.
    classes: `[n]` whole numbers >= 0.
    path: PNG file to write, atomically.
    class_names: names by class; the numbers if None.
    title: line above the chart.

  Raises:
    InputError: points or classes of other shapes or out of range.
  """
  checks.features(1, points=points)
  classes = np.asarray(classes)
  num_classes = len(class_names) if class_names else int(np.max(classes)) + 1
  checks.labels(len(points), num_classes, classes=classes)
  if points.shape[1] != 2:
    raise InputError(f'Expected points [n, 2], got {list(points.shape)}.')
  names = class_names or [str(label) for label in range(num_classes)]
  chart, axes = _chart(title, width=5.6, height=5.2)
  axes.set_axis_off()  # of a t-SNE map, neither axis has a meaning
  present = np.unique(classes)
  for label in present:
    axes.scatter(
      *points[classes == label].T,
      s=float(np.clip(30000 / len(points), 16, 40)),
      color=theme.colour(label),
      marker=theme.MARKERS[label % len(theme.MARKERS)],
      edgecolors=theme.PAPER,
      linewidths=0.25,
      alpha=0.85,
      label=names[label],
    )
  if max(len(names[label]) for label in present) > 3:
    _legend_beside(axes)
  else:
    for label in present:
      write_among(axes, points[classes == label], names[label])
  save(chart, path)


@matplotlib.rc_context(theme.CHART_STYLE)
def line_curves(
  curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
  path: str | os.PathLike,
  *,
  y_label: str,
  x_label: str = 'round',
  title: str = '',
) -> None:
  """Writes one line for each method, named in the order of their ends.

  Args:
    curves: `(x, y)` by name, equally long; values that are not finite are
      left out.
    path: PNG file to write, atomically.
    y_label: what the values are, with their unit.
    x_label: what they are plotted over.
    title: line above the chart.

  Raises:
    InputError: no curve, or x and y of different lengths.
  """
  _check_not_empty(curves=curves)
  chart, axes = _chart(title)
  axes.grid(axis='y')
  axes.set_xlabel(x_label)
  axes.set_ylabel(y_label)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, nbins=8))
  ends = []
  for position, (name, curve) in enumerate(curves.items()):
    x, y = (np.asarray(values, float) for values in curve)
    if x.shape != y.shape or x.ndim != 1:
      raise InputError(
        f'Expected x and y of curve {name!r} to be equally long, got shapes '
        f'{list(x.shape)} and {list(y.shape)}.'
      )
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.any():
      continue
    ends.append(y[finite][-1])
    axes.plot(
      x[finite],
      y[finite],
      color=theme.colour(position),
      linestyle=theme.LINES[position % len(theme.LINES)],
      marker=theme.MARKERS[position % len(theme.MARKERS)],
      markevery=max(1, int(finite.sum()) // 10),
      markersize=5,
      linewidth=1.8,
      markeredgecolor=theme.PAPER,
      markeredgewidth=0.5,
      label=name,
    )
  _legend_beside(axes, ends)
  save(chart, path)


@matplotlib.rc_context(theme.CHART_STYLE)
def bar_chart(
  values: Mapping[str, float],
  path: str | os.PathLike,
  *,
  x_label: str,
  errors: Mapping[str, float] | None = None,
  title: str = '',
) -> None:
  """Writes one horizontal bar for each name, with its value.

  Args:
    values: length of the bars; first at the top.
    path: PNG file to write, atomically.
    x_label: what the values are, with their unit.
    errors: half length of the error bars, for some or all names.
    title: line above the chart.

  Raises:
    InputError: no bar.
  """
  _check_not_empty(values=values)
  chart, axes = _chart(title, height=0.9 + 0.42 * len(values))
  names = list(values)
  spread = [(errors or {}).get(name, 0.0) for name in names]
  bars = axes.barh(
    names,
    list(values.values()),
    xerr=spread if errors else None,
    height=0.62,
    color=theme.COLOURS[0],
    error_kw={'ecolor': theme.INK, 'elinewidth': 1.2, 'capsize': 3},
  )
  texts = [
    f'{value:.4g}' + (f' ± {error:#.2g}' if error else '')
    for value, error in zip(values.values(), spread, strict=True)
  ]
  axes.bar_label(bars, texts, padding=5)
  axes.invert_yaxis()
  axes.grid(axis='x')
  axes.margins(x=0.18)
  axes.tick_params(axis='y', length=0)
  axes.set_xlabel(x_label)
  save(chart, path)


@matplotlib.rc_context(theme.CHART_STYLE)
def histogram(
  samples: Mapping[str, np.ndarray],
  path: str | os.PathLike,
  *,
  x_label: str,
  num_bins: int = 40,
  title: str = '',
) -> None:
  """Writes the distributions of some samples over one another.

  Args:
    samples: `[n]` finite values by name; n may differ, areas are equal.
    path: PNG file to write, atomically.
    x_label: what the values are, with their unit.
    num_bins: bins over the range of all values.
    title: line above the chart.

  Raises:
    InputError: no sample, or one that is empty or not finite.
  """
  _check_not_empty(samples=samples)
  for name, values in samples.items():
    checks.features(1, **{name: np.reshape(values, [-1, 1])})
  chart, axes = _chart(title)
  edges = np.histogram_bin_edges(
    np.concatenate([np.ravel(values) for values in samples.values()]), num_bins
  )
  for position, (name, values) in enumerate(samples.items()):
    axes.hist(
      np.ravel(values),
      edges,
      density=True,
      histtype='stepfilled',
      facecolor=(theme.colour(position), 0.25),
      edgecolor=theme.colour(position),
      hatch=theme.HATCHES[position % len(theme.HATCHES)],
      linestyle=theme.LINES[position % len(theme.LINES)],
      linewidth=1.6,
      label=name,
    )
  axes.set_xlabel(x_label)
  axes.set_ylabel('density')
  axes.legend()
  save(chart, path)


def name_at_right(
  axes, named: Mapping[str, lines.Line2D], *, bold: str = ''
) -> None:
  """Writes names right of the axes, led by a line from where each ends.

  Each name has the marker of its line before it, and stands as near to the
  height of the line's end as it can without touching another.

  Args:
    axes: with limits that are set, of a figure whose size is.
    named: what was drawn, by name.
    bold: the name to stress.
  """
  ends = {
    name: np.asarray(line.get_xydata())[-1] for name, line in named.items()
  }
  names = sorted(ends, key=lambda name: tuple(ends[name][::-1]))
  low, high = axes.get_ylim()
  height = 72 * axes.figure.get_figheight() * axes.get_position().height
  wanted = np.array([(ends[name][1] - low) / (high - low) for name in names])
  # Least squares with a gap from one to the next is a monotone regression.
  steps = (
    1.25 * matplotlib.rcParams['font.size'] / height * np.arange(len(ends))
  )
  at = steps + isotonic.isotonic_regression(
    wanted - steps, y_min=0.0, y_max=max(1 - steps[-1], 0.0)
  )
  for name, place in zip(names, at, strict=True):
    axes.annotate(
      '',
      ends[name],
      (1.05, place),
      textcoords='axes fraction',
      annotation_clip=False,
      arrowprops={
        'arrowstyle': '-',
        'color': theme.MUTED,
        'alpha': 0.6,
        'linewidth': 0.7,
        'shrinkA': 0,
        'shrinkB': 3,
      },
    )
    axes.plot(
      [1.07],
      [place],
      transform=axes.transAxes,
      clip_on=False,
      color=named[name].get_color(),
      marker=named[name].get_marker(),
      markersize=5,
    )
    axes.text(
      1.1,
      place,
      name,
      transform=axes.transAxes,
      va='center_baseline',
      fontweight='bold' if name == bold else 'normal',
    )


def write_among(axes, members: np.ndarray, name: str) -> None:
  """Writes a class name onto the member nearest to the median."""
  distances = np.sum((members - np.median(members, axis=0)) ** 2, axis=1)
  axes.annotate(
    name,
    members[np.argmin(distances)],
    ha='center',
    va='center',
    fontsize=13,
    fontweight='bold',
    path_effects=[patheffects.withStroke(linewidth=3, foreground=theme.PAPER)],
  )


def save(chart: figure.Figure, path: str | os.PathLike) -> None:
  """Writes the figure, cut to what is drawn, without a date or version."""
  with files.replacing(path) as temporary:
    chart.savefig(
      temporary,
      format='png',
      dpi=_DPI,
      bbox_inches='tight',
      pad_inches=0.12,
      metadata={'Software': None},
    )


def _chart(title: str, width: float = 6.4, height: float = 3.6):
  """Returns a figure of a size in inches, and its axes."""
  chart = figure.Figure(figsize=(width, height))
  axes = chart.add_subplot()
  axes.set_title(title)
  return chart, axes


def _legend_beside(axes, ends: Sequence[float] = ()) -> None:
  """Names the series to the right, from the highest to the lowest end."""
  handles, names = axes.get_legend_handles_labels()
  order = np.argsort(ends)[::-1] if ends else range(len(names))
  axes.legend(
    [handles[position] for position in order],
    [names[position] for position in order],
    loc='center left',
    bbox_to_anchor=(1.01, 0.5),
    handlelength=2.8,
    labelspacing=0.7,
  )


def _check_not_empty(**values: Mapping) -> None:
  for name, value in values.items():
    if not value:
      raise InputError(f'Expected {name} to hold something, got none.')
