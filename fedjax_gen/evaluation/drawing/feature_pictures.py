"""A map of the features of real and generated images, a PNG with its caption.

It shows whether a client's extractor puts generated images where it puts real
ones of their class. As in `charts`, nothing is told by colour alone, and the
picture is narrow enough to be read on a phone.
"""

from collections.abc import Sequence
import pathlib

import matplotlib
from matplotlib import figure
import numpy as np
from sklearn import neighbors

from fedjax_gen.data.examples import Examples
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks
from fedjax_gen.evaluation.drawing import (
  class_pictures,
  embedding,
  plots,
  theme,
)
from fedjax_gen.evaluation.drawing.gallery import Drawn

_SIZE = (5.0, 2.8)  # inches
_CLASSES = 10  # as many as there are markers
_SHORT = 3  # letters of a name that is written among the points


@matplotlib.rc_context(theme.CHART_STYLE)
def draw_feature_map(
  real: Examples,
  generated: Examples,
  path: pathlib.Path,
  *,
  class_names: Sequence[str],
  seed: int = 0,
  max_points: int = 1000,
) -> Drawn:
  """Draws features of real and of generated images in one t-SNE map.

  Two panels, alike but for what is marked in them. Distances in a map deceive;
  so its words say how often the nearest real feature, all dimensions counted,
  is of the class that the generated image was asked for.

  Args:
    real: `[n, F]` features of real held-out images, by a client's extractor.
    generated: `[m, F]` those of generated ones; n + m >= 4.
    path: PNG file to write, atomically.
    class_names: C names in label order; of more than 10 that occur, 10
      evenly spaced ones are drawn.
    seed: of the choice of points and the embedding.
    max_points: of both panels together, about.
  """
  both = {'real': real, 'generated': generated}
  for name, values in both.items():
    checks.features(1, **{'real': real.inputs, name: values.inputs})
    checks.labels(
      len(values.inputs),
      len(class_names),
      **{f'labels of {name}': values.labels},
    )
  right = _nearest_agree(real, generated)
  shown = class_pictures.some_labels(both, _CLASSES)
  kept = [np.isin(values.labels, shown) for values in both.values()]
  inputs = [v.inputs[k] for v, k in zip(both.values(), kept, strict=True)]
  labels = [v.labels[k] for v, k in zip(both.values(), kept, strict=True)]
  for name, chosen in zip(both, labels, strict=True):
    if not len(chosen):
      raise InputError(f'Expected {name} of the classes drawn, got none.')
  found = embedding.tsne(
    np.concatenate(inputs), seed=seed, max_points=max_points
  )
  is_real = found.indices < len(inputs[0])
  point_labels = np.concatenate(labels)[found.indices]
  chart = figure.Figure(figsize=_SIZE, layout='constrained')
  for axes, name, own in zip(
    chart.subplots(1, 2), both, (is_real, ~is_real), strict=True
  ):
    axes.set_title(name)
    axes.set_axis_off()  # neither axis has a meaning
    axes.plot(*found.points[~own].T, '.', color=theme.GRID, markersize=3)
    for position, label in enumerate(shown):
      members = found.points[own & (point_labels == label)]
      if len(members):
        _draw_members(axes, members, position, class_names[label])
  _name_members(chart)
  plots.save(chart, path)
  few = len(shown) < len(class_names)
  return Drawn(
    path,
    'Features of real and of generated images in one t-SNE map, marked and '
    'named by class; pale: the points of the other panel. '
    f'{right:.0%} of generated images have a real one of their class as '
    'the nearest'
    + (f'. {len(shown)} of {len(class_names)} classes.' if few else '.'),
    'maps',
  )


def _nearest_agree(real: Examples, generated: Examples) -> float:
  """Share of generated features with a nearest real one of their class."""
  model = neighbors.KNeighborsClassifier(1).fit(real.inputs, real.labels)
  return float(model.score(generated.inputs, generated.labels))


def _draw_members(axes, members: np.ndarray, position: int, name: str) -> None:
  axes.plot(
    *members.T,
    marker=theme.MARKERS[position % len(theme.MARKERS)],
    color=theme.colour(position),
    markersize=3.6,
    markeredgecolor=theme.PAPER,
    markeredgewidth=0.2,
    linestyle='',
    alpha=0.8,
    label=name,
  )


def _name_members(chart: figure.Figure) -> None:
  """Names the classes: short names among their points, long ones below."""
  named = {
    str(line.get_label()): line
    for axes in chart.axes
    for line in axes.lines
    if not str(line.get_label()).startswith('_')
  }
  if max(len(name) for name in named) > _SHORT:
    chart.set_figheight(_SIZE[1] + 0.2 * -(-len(named) // 3))
    chart.legend(
      list(named.values()),
      list(named),
      loc='outside lower center',
      ncols=3,
      markerscale=2,
    )
    return
  for axes in chart.axes:
    for line in axes.lines:
      if line.get_label() in named:
        points = np.asarray(line.get_xydata())
        plots.write_among(axes, points, str(line.get_label()))
