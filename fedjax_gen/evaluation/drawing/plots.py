"""PNG charts: a scatter plot, and what other charts use to label and save.

Series differ by marker or line style, not only by colour, and are named where
they are drawn. Figures are made without pyplot: no global state, no window,
nothing to close.
"""

from collections.abc import Mapping, Sequence
import os

import matplotlib
from matplotlib import figure, lines, patheffects
import numpy as np
from sklearn import isotonic

from fedjax_gen import files
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks
from fedjax_gen.evaluation.drawing import theme

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
  next to the map.

  Args:
    points: `[n, 2]`, such as `embedding.tsne(...).points`.
    classes: `[n]` whole numbers >= 0.
    path: PNG file to write, atomically.
    class_names: names by class; the numbers if None.
    title: line above the chart.
  """
  checks.features(1, points=points)
  classes = np.asarray(classes)
  num_classes = len(class_names) if class_names else int(np.max(classes)) + 1
  checks.labels(len(points), num_classes, classes=classes)
  if points.shape[1] != 2:
    raise InputError(f'Expected points [n, 2], got {list(points.shape)}.')
  names = class_names or [str(label) for label in range(num_classes)]
  chart = figure.Figure(figsize=(5.6, 5.2))
  axes = chart.add_subplot()
  axes.set_title(title)
  axes.set_axis_off()  # of a t-SNE map, neither axis has a meaning
  present = np.unique(classes)
  for label in present:
    x, y = points[classes == label].T
    axes.scatter(
      x,
      y,
      s=float(np.clip(30000 / len(points), 16, 40)),
      color=theme.colour(label),
      marker=theme.MARKERS[label % len(theme.MARKERS)],
      edgecolors=theme.PAPER,
      linewidths=0.25,
      alpha=0.85,
      label=names[label],
    )
  if max(len(names[label]) for label in present) > 3:
    axes.legend(
      loc='center left',
      bbox_to_anchor=(1.01, 0.5),
      handlelength=2.8,
      labelspacing=0.7,
    )
  else:
    for label in present:
      write_among(axes, points[classes == label], names[label])
  save(chart, path)


def name_at_right(
  axes, named: Mapping[str, lines.Line2D], *, bold: str = ''
) -> None:
  """Writes names right of the axes, led by a line from where each ends.

  Each name has the marker of its line before it, and stands as near to the
  height of the line's end as it can without touching another.

  Args:
    axes: limits and the size of the figure are set.
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
