"""PNG pictures of samples of each group."""

from collections.abc import Mapping, Sequence
import os

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fedjax_gen import files, validate
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks, pictures
from fedjax_gen.evaluation.drawing import theme

_WIDTH = 640  # pixels that all images of a row take together, about
_CELL = 72  # pixels an image side is enlarged to at most, about
_GAP = 2  # between images of a cell
_MARGIN = 12  # around the picture and between cells


def by_group(
  images: np.ndarray,
  requested: np.ndarray,
  names: Sequence[str],
  *,
  num: int = 16,
) -> dict[str, np.ndarray]:
  """Sorts images by the group that they were asked for.

  Args:
    images: uint8 `[n, H, W, C]`.
    requested: `[n]` the group each was asked for.
    names: of the groups.
    num: images of a group at most, the first ones.

  Returns:
    images by group name; a group without images is left out.
  """
  images, requested = np.asarray(images), np.asarray(requested)
  checks.images(images=images)
  checks.labels(len(images), len(names), requested=requested)
  validate.positive_int(num=num)
  if len(set(names)) < len(names):
    raise InputError(f'Expected distinct names of groups, got {list(names)}.')
  return {
    name: images[requested == group][:num]
    for group, name in enumerate(names)
    if (requested == group).any()
  }


def group_rows(
  rows: Mapping[str, Mapping[str, np.ndarray]],
  path: str | os.PathLike,
  *,
  columns: int = 4,
  groups: Sequence[str] = (),
  title: str = '',
) -> None:
  """Writes a small grid of samples for each method (row) and group (column).

  The letters grow with the picture, so that they can still be read where it
  is shown at the width of a phone.

  Args:
    rows: by method, by group (`by_group`), uint8 `[n, H, W, C]` images; n may
      differ, and the cell of a group that a method lacks is empty.
    path: PNG file to write, atomically.
    columns: images in a row of a cell; 16 images make 4 x 4.
    groups: all there are, in the order of their columns; that in which they
      occur if empty.
    title: line above all.
  """
  found = list(dict.fromkeys(group for row in rows.values() for group in row))
  if not found:
    raise InputError('Expected rows with images of at least one group.')
  groups = groups or found
  if unknown := [group for group in found if group not in groups]:
    raise InputError(f'Expected groups to name {unknown}, got {list(groups)}.')
  validate.positive_int(columns=columns)
  images = {
    f'{method}/{group}': inputs
    for method, row in rows.items()
    for group, inputs in row.items()
  }
  checks.images_alike(**images)
  columns = min(columns, max(len(inputs) for inputs in images.values()))

  height, width = next(iter(images.values())).shape[1:3]
  scale = min(
    round(_CELL / max(height, width)), _WIDTH // (len(groups) * columns * width)
  )
  grids = {
    (method, group): _grid(inputs, columns, max(1, scale))
    for method, row in rows.items()
    for group, inputs in row.items()
  }
  cell = next(iter(grids.values())).width
  wide = len(groups) * (cell + _MARGIN)
  font = theme.font(max(14, wide // 32))
  words = [word for method in rows for word in method.split()]
  longest = max((font.getlength(word) for word in words), default=0)
  margin = min(int(longest) + 1, wide // 3)
  labels = {method: _wrapped(method, font, margin) for method in rows}
  heads = {group: _wrapped(group, font, cell) for group in groups}
  title = _wrapped(title, font, margin + wide)

  left = 2 * _MARGIN + margin
  heads_top = _MARGIN + _height(title, font)
  top = heads_top + max(_height(head, font) for head in heads.values())
  heights = {
    method: max(
      _height(labels[method], font),
      *(grids[method, group].height for group in row),
    )
    for method, row in rows.items()
  }
  bottom = top + sum(heights.values()) + _MARGIN * len(rows)
  canvas = Image.new('RGB', (left + wide, bottom), theme.PAPER)
  draw = ImageDraw.Draw(canvas)
  draw.text((_MARGIN, _MARGIN), title, theme.INK, font)
  lefts = {g: left + i * (cell + _MARGIN) for i, g in enumerate(groups)}
  for group, x in lefts.items():
    above = (x + cell // 2, heads_top)
    draw.text(above, heads[group], theme.INK, font, anchor='ma', align='center')
  for method, row in rows.items():
    middle = (_MARGIN, top + heights[method] // 2)
    draw.text(middle, labels[method], theme.INK, font, anchor='lm')
    for group in row:
      canvas.paste(grids[method, group], (lefts[group], top))
    top += heights[method] + _MARGIN
  with files.replacing(path) as temporary:
    canvas.save(temporary, format='PNG')


def interpolations(
  rows: Mapping[str, np.ndarray],
  path: str | os.PathLike,
  *,
  title: str = '',
) -> None:
  """Writes ways from one group's latents to another's, a step a column.

  Args:
    rows: uint8 `[steps, H, W, C]` images by what they are, such as 'mnist to
      fashion_mnist, decoder of mnist'; equally many and equidistant, the
      first all of the one end and the last all of the other.
    path: PNG file to write, atomically.
    title: line above the rows.
  """
  lengths = {name: len(images) for name, images in rows.items()}
  if rows and (len(set(lengths.values())) > 1 or min(lengths.values()) < 2):
    raise InputError(
      f'Expected rows of equally many steps, at least 2, got {lengths}.'
    )
  num_steps = max(lengths.values(), default=0)
  shares = np.linspace(0, 100, num_steps)
  captions = [f'{share:.0f}%' for share in shares]
  pictures.image_rows(rows, path, captions=captions, title=title)


def _grid(inputs: np.ndarray, columns: int, scale: int) -> Image.Image:
  """Lays the images of a cell out in reading order."""
  num, height, width, _ = inputs.shape
  step_x, step_y = width * scale + _GAP, height * scale + _GAP
  size = (columns * step_x - _GAP, -(-num // columns) * step_y - _GAP)
  grid = Image.new('RGB', size, theme.PAPER)
  enlarged = np.asarray(inputs).repeat(scale, axis=1).repeat(scale, axis=2)
  for position, pixels in enumerate(enlarged):
    row, column = divmod(position, columns)
    colours = np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy()
    grid.paste(Image.fromarray(colours), (column * step_x, row * step_y))
  return grid


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
  """Breaks a text into lines of a width; words that are wider are cut."""
  lines: list[str] = []
  for word in text.split():
    if font.getlength(word) > width:
      while word and font.getlength(word + '…') > width:
        word = word[:-1]
      word += '…'
    if lines and font.getlength(f'{lines[-1]} {word}') <= width:
      lines[-1] += f' {word}'
    else:
      lines.append(word)
  return '\n'.join(lines)


def _height(text: str, font: ImageFont.FreeTypeFont) -> int:
  """Returns what the lines of a text take, and a gap; nothing without any."""
  num_lines = len(text.splitlines())
  return num_lines * round(1.4 * font.size) + (_MARGIN // 2 if text else 0)
