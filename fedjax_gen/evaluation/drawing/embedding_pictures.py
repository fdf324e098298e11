"""Pictures of embeddings and of codes in a plane, each a PNG with its caption.

Embeddings cannot be looked at one by one. The pictures show whether generated
ones lie where real ones of their class do, whether the codes of clients follow
their domains, and what a code changes. As in `charts`, nothing is told by
colour alone.
"""

from collections.abc import Mapping, Sequence
import pathlib
from typing import NamedTuple

import matplotlib
from matplotlib import figure, patches
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks
from fedjax_gen.evaluation.drawing import plots, theme
from fedjax_gen.evaluation.drawing.gallery import LABELS, REAL, Drawn

_CLASSES = 12  # that the way is drawn for
_POINTS = 400  # of a panel
_CLIENTS = 40  # rows of a chart
_OUTLINE = 2.0  # standard deviations


class LabelledEmbeddings(NamedTuple):
  """`inputs` `[n, F]` and their `labels` `[n]`."""

  inputs: np.ndarray
  labels: np.ndarray


@matplotlib.rc_context(theme.CHART_STYLE)
def draw_embeddings(
  real: LabelledEmbeddings | None,
  generated: Mapping[str, LabelledEmbeddings],
  path: pathlib.Path,
  *,
  class_names: Sequence[str],
  seed: int = 0,
) -> Drawn:
  """Draws real and generated embeddings, one panel a method.

  Every panel has the first two principal components of the real embeddings,
  and the outline of each real class at two standard deviations. Without real
  ones those of the first method stand for them, and no outline is drawn.

  Args:
    real: real embeddings, held out; two at least. None to draw generated ones
      alone.
    generated: by method what it generated; of more than 400 in all, 400 are
      drawn.
    path: PNG file to write, atomically.
    class_names: C names in label order.
    seed: of the choice of points.
  """
  panels = dict(generated) if real is None else {'real': real, **generated}
  if 'real' in generated or not panels:
    raise InputError(
      f"Expected names of methods other than 'real', got {list(generated)}."
    )
  first, spanning = next(iter(panels.items()))
  checks.features(2, **{first: spanning.inputs})
  for name, values in panels.items():
    _check(spanning.inputs, name, values, len(class_names), like=first)
  plane = _Plane.of(spanning.inputs)
  points = plane.points(spanning.inputs)
  low, high = points.min(axis=0), points.max(axis=0)
  margin = 0.15 * np.maximum(high - low, 1e-6)
  columns = 2 if len(panels) == 4 else 3
  chart, grid = _panels(len(panels), columns=columns, side=3.2)
  rng = np.random.default_rng(seed)
  for axes, (name, values) in zip(grid, panels.items(), strict=False):
    _draw_some(axes, plane, values, class_names, rng)
    if real is not None:
      _draw_outlines(axes, points, np.asarray(real.labels), len(class_names))
    axes.set_title(name)
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
  grid[0].set_xlabel(_component(0, plane.shares))
  grid[0].set_ylabel(_component(1, plane.shares))
  _legend_below(chart, grid[0])
  plots.save(chart, path)
  if real is None:
    return Drawn(
      path,
      'Generated embeddings in the first two principal components of those of '
      f'{first}.',
      'embeddings',
      unprotected='',
      made_by=tuple(generated),
    )
  return Drawn(
    path,
    'Real and generated embeddings in the first two principal components of '
    'the real ones. Dashed: two standard deviations of each real class, which '
    'the points of a good generator fill.',
    'embeddings',
  )


@matplotlib.rc_context(theme.CHART_STYLE)
def draw_codes(
  codes: np.ndarray,
  domains: Sequence[str] | None,
  path: pathlib.Path,
  *,
  client_names: Sequence[str] | None = None,
) -> Drawn:
  """Draws the codes of clients by domain.

  Args:
    codes: `[N, V]`, N at least two.
    domains: N names of the domain that each client's data are of; None to mark
      all alike.
    path: PNG file to write, atomically.
    client_names: N names; up to 40 clients are named by their numbers if None,
      more are not named.
  """
  checks.features(2, codes=codes)
  marks = ['client'] * len(codes) if domains is None else domains
  checks.lengths(len(codes), domains=marks)
  if client_names is None:
    few = len(codes) <= _CLIENTS
    client_names = [str(i) if few else '' for i in range(len(codes))]
  checks.lengths(len(codes), client_names=client_names)
  plane = _Plane.of(codes)
  points = plane.points(codes)
  chart = figure.Figure(figsize=(5.4, 4.4))
  axes = chart.add_subplot()
  for position, domain in enumerate(dict.fromkeys(marks)):
    members = [i for i, name in enumerate(marks) if name == domain]
    axes.plot(
      *points[members].T,
      **theme.marker(position, size=8),
      linestyle='',
      label=domain,
    )
  for point, name in zip(points, client_names, strict=True):
    axes.annotate(name, point, (5, 5), textcoords='offset points', fontsize=8.5)
  axes.margins(0.12)
  axes.grid()
  axes.set_xlabel(_component(0, plane.shares))
  axes.set_ylabel(_component(1, plane.shares))
  axes.legend(loc='center left', bbox_to_anchor=(1.01, 0.5))
  plots.save(chart, path)
  caption = 'Codes of the clients in their first two principal components'
  if domains is None:
    return Drawn(path, f'{caption}.', 'codes', unprotected='')
  return Drawn(
    path,
    f'{caption}, marked by the domain of the client’s data, which training is '
    'not told.',
    'codes',
    unprotected=LABELS,
  )


@matplotlib.rc_context(theme.CHART_STYLE)
def draw_way(
  means: np.ndarray,
  ends: tuple[LabelledEmbeddings, LabelledEmbeddings] | None,
  path: pathlib.Path,
  *,
  end_names: tuple[str, str],
  class_names: Sequence[str],
) -> Drawn:
  """Draws how generated class means move from one code to another.

  One panel a class, in the two directions in which classes move most: the
  principal components of all means, each less the middle of its class. Of more
  than 12 classes the first 12 are drawn.

  Args:
    means: `[T, C, F]` mean of what is generated of each class at each of T
      steps, the first at the one code, the last at the other.
    ends: real embeddings of the two clients or domains, to compare with; None
      to draw generated means alone.
    path: PNG file to write, atomically.
    end_names: what the two are called.
    class_names: C names in label order.
  """
  means = np.asarray(means, float)
  if means.ndim != 3 or len(means) < 2 or means.shape[1] != len(class_names):
    raise InputError(
      f'Expected means [T, C, F] with T >= 2 and C = {len(class_names)}, got '
      f'{list(means.shape)}.'
    )
  num_steps, num_classes, width = means.shape
  for name, values in zip(end_names, ends or (), strict=ends is not None):
    flat = means.reshape(-1, width)
    _check(flat, name, values, num_classes, like='means')
  table = means
  if ends is not None:
    both = [_class_means(values, num_classes) for values in ends]
    table = np.concatenate([means, both])  # [T + 2, C, F]
  table = (table - np.nanmean(table, axis=0))[:, :_CLASSES]
  flat = table.reshape(-1, width)
  plane = _Plane.of(flat[np.isfinite(flat).all(axis=1)])
  points = plane.points(table)
  size = 1.15 * np.nanmax(np.abs(points)) or 1.0
  chart, grid = _panels(points.shape[1], columns=4, side=2.1)
  for label, axes in enumerate(grid[: points.shape[1]]):
    if ends is not None:
      _draw_ends(axes, points[num_steps:, label], end_names)
    _draw_arrow(axes, points[:num_steps, label])
    axes.set_title(class_names[label])
    axes.set_xlim(-size, size)
    axes.set_ylim(-size, size)
  _legend_below(chart, grid[0])
  plots.save(chart, path)
  return Drawn(
    path,
    'Means of what is generated of each class on the way from the code of '
    f'{end_names[0]} to that of {end_names[1]}, in {num_steps} steps'
    + (
      '' if ends is None else ', and the means of the real classes at both ends'
    )
    + '. The plane is that of the two directions in which classes move most '
    f'({100 * plane.shares.sum():.0f}% of the movement).',
    'interpolations',
    unprotected='' if ends is None else REAL,
  )


class _Plane(NamedTuple):
  """The first two principal components of some points."""

  mean: np.ndarray
  axes: np.ndarray
  """`[F, 2]`, the second zero where points lie on a line."""
  shares: np.ndarray
  """`[2]` of the variance."""

  @classmethod
  def of(cls, values: np.ndarray) -> '_Plane':
    values = np.asarray(values, float)
    mean = values.mean(axis=0)
    _, lengths, rows = np.linalg.svd(values - mean, full_matrices=False)
    axes = np.zeros([values.shape[1], 2])
    shares = np.zeros(2)
    total = max(float(np.sum(lengths**2)), 1e-30)
    for position, row in enumerate(rows[:2]):
      # A sign of its own, which the decomposition does not have.
      sign = np.sign(row[np.argmax(np.abs(row))])
      axes[:, position] = sign * row
      shares[position] = lengths[position] ** 2 / total
    return cls(mean, axes, shares)

  def points(self, values: np.ndarray) -> np.ndarray:
    return (np.asarray(values, float) - self.mean) @ self.axes


def _component(position: int, shares: np.ndarray) -> str:
  name = ('first', 'second')[position]
  return f'{name} principal component ({100 * shares[position]:.0f}%)'


def _check(
  others: np.ndarray,
  name: str,
  values: LabelledEmbeddings,
  num_classes: int,
  *,
  like: str,
) -> None:
  """Raises `InputError` unless embeddings fit `others`, called `like`."""
  checks.features(1, **{like: others, name: values.inputs})
  checks.labels(
    len(values.inputs),
    num_classes,
    **{f'labels of {name}': np.asarray(values.labels)},
  )


def _draw_some(
  axes,
  plane: _Plane,
  values: LabelledEmbeddings,
  class_names: Sequence[str],
  rng: np.random.Generator,
) -> None:
  """Draws embeddings by class, some of them if there are many."""
  points, labels = plane.points(values.inputs), np.asarray(values.labels)
  shown = rng.permutation(len(labels))[:_POINTS]
  for label, name in enumerate(class_names):
    axes.plot(
      *points[shown[labels[shown] == label]].T,
      **theme.marker(label, size=4.2),
      linestyle='',
      alpha=0.75,
      label=name,
    )


def _draw_outlines(
  axes, points: np.ndarray, labels: np.ndarray, num_classes: int
) -> None:
  """Draws the outline of each class of two points or more."""
  for label in range(num_classes):
    members = points[labels == label]
    if len(members) > 1:
      axes.add_patch(_outline(members, theme.colour(label)))


def _draw_ends(axes, points: np.ndarray, names: Sequence[str]) -> None:
  """Draws the real means of a class at both ends, `[2, 2]`."""
  for point, name, marker, face in zip(
    points, names, 'os', ('none', theme.MUTED), strict=True
  ):
    axes.plot(
      *point,
      linestyle='',
      marker=marker,
      markersize=10,
      markerfacecolor=face,
      markeredgecolor=theme.INK,
      label=f'{name}, real',
    )


def _draw_arrow(axes, way: np.ndarray) -> None:
  """Draws the generated means of a class, `[T, 2]`, from first to last."""
  style = theme.marker(0, size=4) | {'color': theme.colour(0)}
  axes.plot(*way.T, **style, linewidth=1.4, label='generated')
  arrow = {
    'arrowstyle': '-|>',
    'color': theme.colour(0),
    'shrinkA': 0,
    'shrinkB': 0,
  }
  axes.annotate('', way[-1], way[-2], arrowprops=arrow)


def _outline(members: np.ndarray, colour: str) -> patches.Ellipse:
  """The ellipse of two standard deviations of some points."""
  variances, axes = np.linalg.eigh(np.cov(members.T))
  width, height = 2 * _OUTLINE * np.sqrt(np.maximum(variances, 0))
  return patches.Ellipse(
    tuple(members.mean(axis=0)),
    width,
    height,
    angle=float(np.degrees(np.arctan2(axes[1, 0], axes[0, 0]))),
    fill=False,
    edgecolor=colour,
    linestyle='--',
    linewidth=1.3,
  )


def _class_means(values: LabelledEmbeddings, num_classes: int) -> np.ndarray:
  """`[C, F]` means; NaN, which is not drawn, of a class without examples."""
  inputs, labels = np.asarray(values.inputs, float), np.asarray(values.labels)
  means = np.full([num_classes, inputs.shape[1]], np.nan)
  for label in np.unique(labels):
    means[label] = inputs[labels == label].mean(axis=0)
  return means


def _panels(num: int, *, columns: int, side: float):
  """Returns a figure of panels of a side in inches, and its axes in order."""
  columns = min(columns, num)
  num_rows = -(-num // columns)
  chart = figure.Figure(
    figsize=(side * columns, (side + 0.3) * num_rows), layout='constrained'
  )
  grid = chart.subplots(num_rows, columns, squeeze=False).ravel()
  for axes in grid:
    axes.set_xticks([])
    axes.set_yticks([])
  for axes in grid[num:]:
    axes.set_axis_off()
  return chart, grid


def _legend_below(chart: figure.Figure, axes) -> None:
  """Names the series of the first panel once for all, under them."""
  handles, names = axes.get_legend_handles_labels()
  longest = max(len(name) for name in names)
  letters = 11 * chart.get_figwidth()
  chart.legend(
    handles,
    names,
    loc='outside lower left',
    ncols=max(1, min(len(names), int(letters / (longest + 6)))),
  )
