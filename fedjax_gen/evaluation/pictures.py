"""PNG pictures made of images: grids, and rows to compare.

Small images are enlarged by a whole number without smoothing: you see the
pixels that the model made.
"""

from collections.abc import Mapping, Sequence
import os
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from fedjax_gen import files, validate
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks
from fedjax_gen.evaluation.drawing import theme

_CELL = 72  # pixels an image side is enlarged to, about
_GAP = 6
_MARGIN = 12
_TITLE_SIZE = 17
_TEXT_SIZE = 14


def image_grid(
  inputs: np.ndarray,
  path: str | os.PathLike,
  *,
  columns: int = 10,
  captions: Sequence[object] | None = None,
  title: str = '',
) -> None:
  """Writes images as a grid, in reading order.

  Args:
    inputs: uint8 `[n, H, W, C]`.
    path: PNG file to write, atomically.
    columns: images in a row.
    captions: n short texts under the images, such as labels; long ones are
      cut.
    title: line above the grid.
  """
  checks.images(inputs=inputs)
  validate.positive_int(columns=columns)
  captions = _captions(captions, len(inputs))
  starts = range(0, len(inputs), columns)
  rows = [
    _Row('', inputs[start : start + columns], captions[start : start + columns])
    for start in starts
  ]
  _write(rows, title, path)


def image_rows(
  rows: Mapping[str, np.ndarray],
  path: str | os.PathLike,
  *,
  captions: Sequence[object] | None = None,
  title: str = '',
) -> None:
  """Writes one row of images for each title, to be compared column by column.

  Originals above reconstructions, generated images above their nearest
  training images, one row for each group or method.

  Args:
    rows: uint8 `[n, H, W, C]` images by row title; n may differ.
    path: PNG file to write, atomically.
    captions: short texts under the columns, one for each image of the
      longest row.
    title: line above the rows.
  """
  if not rows:
    raise InputError('Expected at least one row of images, got none.')
  checks.images_alike(**rows)
  last = len(rows) - 1
  num_columns = max(len(inputs) for inputs in rows.values())
  captions = _captions(captions, num_columns)
  _write(
    [
      _Row(name, inputs, captions if position == last else [])
      for position, (name, inputs) in enumerate(rows.items())
    ],
    title,
    path,
  )


class _Row(NamedTuple):
  """A row of the picture."""

  title: str
  inputs: np.ndarray
  captions: Sequence[str]


def _captions(captions: Sequence[object] | None, num: int) -> list[str]:
  """Returns texts, none at all where there are no captions."""
  if captions is None:
    return []
  if len(captions) != num:
    raise InputError(f'Expected {num} captions, got {len(captions)}.')
  return [str(caption) for caption in captions]


def _write(rows: list[_Row], title: str, path: str | os.PathLike) -> None:
  """Lays the rows out and writes the picture."""
  height, width = rows[0].inputs.shape[1:3]
  scale = max(1, round(_CELL / max(height, width)))
  cell = (width * scale, height * scale)
  num_columns = max(len(row.inputs) for row in rows)
  row_titles = max(theme.font(_TEXT_SIZE).getlength(row.title) for row in rows)
  left = _MARGIN + (int(row_titles) + 2 * _GAP if row_titles else 0)
  top = _MARGIN + (2 * _TITLE_SIZE if title else 0)
  right = max(
    left + num_columns * (cell[0] + _GAP) - _GAP,
    _MARGIN + int(theme.font(_TITLE_SIZE).getlength(title)),
  )
  heights = [
    cell[1] + _GAP + (_TEXT_SIZE + _GAP if row.captions else 0) for row in rows
  ]
  bottom = top + sum(heights) - _GAP  # the last gap is a part of the margin
  canvas = Image.new('RGB', (right + _MARGIN, bottom + _MARGIN), theme.PAPER)
  ImageDraw.Draw(canvas).text(
    (_MARGIN, _MARGIN - 2), title, theme.INK, theme.font(_TITLE_SIZE)
  )
  for row, row_height in zip(rows, heights, strict=True):
    _paste(canvas, row, left, top, cell)
    top += row_height
  with files.replacing(path) as temporary:
    canvas.save(temporary, format='PNG')


def _paste(
  canvas: Image.Image, row: _Row, left: int, top: int, cell: tuple[int, int]
) -> None:
  """Draws a row: its title left of `left`, its images at the size `cell`."""
  width, height = cell
  draw, font = ImageDraw.Draw(canvas), theme.font(_TEXT_SIZE)
  corner = (left - 2 * _GAP, top + height // 2)
  draw.text(corner, row.title, theme.INK, font, anchor='rm')
  for column, pixels in enumerate(row.inputs):
    x = left + column * (width + _GAP)
    enlarged = _image(pixels).resize(cell, Image.Resampling.NEAREST)
    canvas.paste(enlarged, (x, top))
    if row.captions:
      caption = _shortened(row.captions[column], width)
      below = (x + width // 2, top + height + 4)
      draw.text(below, caption, theme.MUTED, font, anchor='mt')


def _image(pixels: np.ndarray) -> Image.Image:
  """Makes an RGB image of `[H, W, C]` pixels."""
  pixels = np.asarray(pixels)
  return Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy())


def _shortened(caption: str, width: int) -> str:
  """Cuts a caption to the width of its image."""
  font = theme.font(_TEXT_SIZE)
  if font.getlength(caption) <= width:
    return caption
  while caption and font.getlength(caption + '…') > width:
    caption = caption[:-1]
  return caption + '…'
