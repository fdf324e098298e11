"""One look for all pictures: light, sober, and readable without colour."""

import functools
from pathlib import Path
from typing import Any

import matplotlib
from PIL import ImageFont

PAPER = '#ffffff'
INK = '#26282b'
MUTED = '#6a6f76'
GRID = '#e3e5e8'

COLOURS = (
  '#3f90da',
  '#e76300',
  '#832db6',
  '#bd1f01',
  '#ffa90e',
  '#a96b59',
  '#26282b',
  '#94a4a2',
  '#b9ac70',
  '#717581',
)
"""Told apart under colour-vision deficiencies: those of Petroff, "Accessible
Color Sequences for Data Visualization", 2021 (https://arxiv.org/abs/2107.02270),
strong ones first, and ink for its lightest."""
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '<', '>', 'p')
LINES = ('-', '--', '-.', ':', (0, (5, 1)), (0, (3, 1, 1, 1)))


def colour(index: int) -> str:
  """Returns the colour of the class or method at a position, cyclically."""
  return COLOURS[index % len(COLOURS)]


def marker(position: int, size: float) -> dict:
  """Returns how points of a series look; hollow where markers repeat."""
  fill = colour(position)
  is_hollow = position // len(MARKERS) % 2
  return {
    'marker': MARKERS[position % len(MARKERS)],
    'markersize': size,
    'markerfacecolor': 'none' if is_hollow else fill,
    'markeredgecolor': fill if is_hollow else PAPER,
    'markeredgewidth': 1.0 if is_hollow else 0.4,
  }


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
  """Returns the font of the charts for Pillow; Matplotlib carries the file."""
  path = Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')
  return ImageFont.truetype(path, size)


CHART_STYLE: dict[Any, Any] = {
  'figure.facecolor': PAPER,
  'axes.facecolor': PAPER,
  'axes.edgecolor': MUTED,
  'axes.labelcolor': INK,
  'axes.titlecolor': INK,
  'axes.titlelocation': 'left',
  'axes.titlesize': 11,
  'axes.titlepad': 10,
  'axes.labelsize': 10,
  'axes.linewidth': 0.8,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.axisbelow': True,
  'font.family': 'DejaVu Sans',
  'font.size': 9.5,
  'grid.color': GRID,
  'grid.linewidth': 0.8,
  'hatch.linewidth': 0.7,
  'legend.frameon': False,
  'text.color': INK,
  'xtick.color': MUTED,
  'ytick.color': MUTED,
  'xtick.labelcolor': INK,
  'ytick.labelcolor': INK,
}
"""Matplotlib settings of `charts`."""
