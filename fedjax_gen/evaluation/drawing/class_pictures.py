"""Pictures of classes, each a PNG with its caption.

Which classes clients predict that they never saw, and how generated images of a
class look next to real ones. As in `charts`, nothing is told by colour alone,
and pictures are narrow enough to be read on a phone.
"""

from collections.abc import Mapping, Sequence
import pathlib

import matplotlib
from matplotlib import cm, figure, ticker
import numpy as np

from fedjax_gen import validate
from fedjax_gen.data.examples import Examples
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks, generalisation
from fedjax_gen.evaluation.drawing import group_pictures, plots, theme
from fedjax_gen.evaluation.drawing.gallery import REAL, Drawn

_WIDTH = 5.0  # inches of a picture
_FEW_CLASSES = 12  # so that heat maps of as many stand side by side
_CLIENTS = {True: 40, False: 20}  # rows of a heat map of few classes, of many
_NAMED_CLASSES = 30  # columns of a heat map that are named
_NAME_LENGTH = 30  # letters that fit below one of two heat maps
_IMAGE_CLASSES = 12  # rows of images


@matplotlib.rc_context(theme.CHART_STYLE)
def draw_missing_classes(
  correct: Mapping[str, np.ndarray],
  asked: np.ndarray,
  counts: np.ndarray,
  path: pathlib.Path,
  *,
  class_names: Sequence[str],
  client_names: Sequence[str] | None = None,
) -> Drawn:
  """Draws each client's accuracy on each class, and marks those it never saw.

  Args:
    correct: by method `[N, C]` right answers on the global test set; the method
      of interest and what it is compared with.
    asked: `[C]` examples of each class in it; a class without any stays empty.
    counts: `[N, C]` training examples of each client.
    path: PNG file to write, atomically.
    class_names: C names in label order; more than 30 are numbered.
    client_names: N names, the numbers if None; of more than 40 clients, or 20
      where classes are more than 12, as many evenly spaced ones are drawn.
  """
  if not correct:
    raise InputError('Expected correct of one method at least, got none.')
  found = {
    name: generalisation.generalisation_metrics(right, asked, counts)
    for name, right in correct.items()
  }
  asked, counts = np.asarray(asked, float), np.asarray(counts)
  num_clients, num_classes = counts.shape
  if client_names is None:
    client_names = [str(client) for client in range(num_clients)]
  checks.lengths(num_classes, class_names=class_names)
  checks.lengths(num_clients, client_names=client_names)
  shown = spread(num_clients, _CLIENTS[num_classes <= _FEW_CLASSES])
  missing = counts[shown] == 0
  chart, grid = _heat_maps(len(correct), len(shown), num_classes)
  said = []
  for axes, (name, right) in zip(grid, correct.items(), strict=True):
    known = np.where(asked, asked, np.nan)
    shares = (np.asarray(right, float) / known)[shown]
    image = _draw_heat_map(axes, shares, missing)
    share = found[name].get('missing_class_accuracy')
    never = 'every class seen' if share is None else f'{share:.1%} on unseen'
    said.append(f'{name} {never}')
    axes.set_title(f'{name}: {never}', fontsize=10)
    _name_classes(axes, class_names)
  names = [client_names[client] for client in shown]
  for axes in grid:
    is_first = axes.get_subplotspec().is_first_col()
    axes.set_yticks(range(len(names)), names if is_first else [''] * len(names))
    axes.tick_params(length=0)
    axes.set_ylabel('client' if is_first else '')
  bar = chart.colorbar(
    image,
    ax=list(grid),
    location='bottom',
    fraction=0.15 / chart.get_figheight(),
    pad=0.1 / chart.get_figheight(),
    aspect=30,
    shrink=0.8,
    format=ticker.PercentFormatter(1),
    label='right answers on the class',
  )
  bar.outline.set_visible(False)
  plots.save(chart, path)
  empty = ' Grey: no test example.' if not asked.all() else ''
  return Drawn(
    path,
    'What share of each class each client gets right. Marked: a class that the '
    'client has no training example of; the numbers above are the mean over '
    f'clients on such classes.{empty}',
    'missing',
    f'Accuracy on classes that clients never saw: {"; ".join(said)}.',
  )


def draw_class_images(
  real: Examples | None,
  generated: Mapping[str, Examples],
  path: pathlib.Path,
  *,
  class_names: Sequence[str],
  columns: int = 5,
) -> Drawn:
  """Draws real and generated images side by side, a row for each class.

  Args:
    real: uint8 `[n, H, W, C]` images, held out; a class may have none. None
      to draw generated ones alone.
    generated: images by what made them; a class may have none.
    path: PNG file to write, atomically.
    class_names: C names in label order; of more than 12 that have an image,
      12 evenly spaced ones are drawn.
    columns: images of a class and origin at most, the first ones.
  """
  validate.positive_int(columns=columns)
  origins = dict(generated) if real is None else {'real': real, **generated}
  if not generated or 'real' in generated:
    raise InputError(
      f"Expected generated by names other than 'real', got {list(generated)}."
    )
  for name, values in origins.items():
    checks.images(**{name: np.asarray(values.inputs)})
    checks.labels(
      len(values.inputs),
      len(class_names),
      **{f'labels of {name}': values.labels},
    )
  shown = some_labels(origins, _IMAGE_CLASSES)
  rows = {
    class_names[label]: {
      name: np.asarray(values.inputs)[chosen]
      for name, values in origins.items()
      if (chosen := np.flatnonzero(values.labels == label)[:columns]).size
    }
    for label in shown
  }
  group_pictures.group_rows(rows, path, columns=columns, groups=list(origins))
  few = len(shown) < len(class_names)
  listed = ', '.join(generated)
  return Drawn(
    path,
    ('Generated' if real is None else 'Real held-out images and generated ones')
    + f' ({listed}), one class a row'
    + (f'; {len(shown)} of {len(class_names)} classes.' if few else '.'),
    'samples',
    unprotected='' if real is None else REAL,
    made_by=tuple(generated),
  )


def some_labels(origins: Mapping[str, Examples], most: int) -> np.ndarray:
  """Labels that occur; of more than `most`, as many evenly spaced ones."""
  found = np.unique(np.concatenate([v.labels for v in origins.values()]))
  return found[spread(len(found), most)]


def spread(num: int, most: int) -> np.ndarray:
  """All of `num` positions, or `most` evenly spaced ones."""
  return np.linspace(0, num - 1, min(num, most)).round().astype(int)


def _heat_maps(num_maps: int, num_rows: int, num_classes: int):
  """A figure of heat maps, side by side if they are narrow; its axes."""
  is_beside = num_classes <= _FEW_CLASSES
  columns = min(num_maps, 2) if is_beside else 1
  down = -(-num_maps // columns)
  chart = figure.Figure(
    figsize=(_WIDTH, 0.7 + down * (0.6 + 0.19 * max(num_rows, 3))),
    layout='constrained',
  )
  grid = chart.subplots(down, columns, squeeze=False).ravel()
  for axes in grid[num_maps:]:
    axes.set_axis_off()
  return chart, grid[:num_maps]


def _draw_heat_map(
  axes, shares: np.ndarray, missing: np.ndarray
) -> cm.ScalarMappable:
  """Shades `[N, C]` shares, NaN grey, and marks the cells that are missing."""
  colours = matplotlib.colormaps['Blues'].with_extremes(bad=theme.GRID)
  image = axes.imshow(shares, colours, aspect='auto', vmin=0, vmax=1)
  is_dark = np.nan_to_num(shares) > 0.6
  is_narrow = shares.shape[1] > _NAMED_CLASSES
  mark = {
    'marker': '.' if is_narrow else 'x',
    'markersize': 2 if is_narrow else 4,
  }
  for ink, cells in (
    (theme.INK, missing & ~is_dark),
    (theme.PAPER, missing & is_dark),
  ):
    rows, columns = np.nonzero(cells)
    axes.plot(columns, rows, color=ink, **mark, mew=0.8, linestyle='')
  axes.spines[:].set_visible(False)
  return image


def _name_classes(axes, class_names: Sequence[str]) -> None:
  """Names the columns, on end if the names are long; numbers of many."""
  axes.set_xlabel('class')
  if len(class_names) > _NAMED_CLASSES:
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    return
  longest = max(len(name) for name in class_names)
  is_long = longest * len(class_names) > _NAME_LENGTH
  axes.set_xticks(
    range(len(class_names)), class_names, rotation=90 if is_long else 0
  )
