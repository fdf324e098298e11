"""Rendered shapes: images of a second kind that need no file.

Dark discs, squares, triangles, crosses and rings on a bright ground, at random
places, sizes, angles and grey levels. Digits are bright on dark, so the two
make groups of clients with clearly different kinds of images.
"""

from collections.abc import Callable

import numpy as np

from fedjax_gen import validate

CLASS_NAMES = ('disc', 'square', 'triangle', 'cross', 'ring')

_FINE = 8  # points along each side of a pixel at which a shape is sampled
_BLOCK = 1 << 21  # points computed at once, at most

# Lengths in shares of the image's size.
_RADII = (0.31, 0.44)  # of the circle around a shape, or nearly
_MARGIN = 0.02  # of the ground, around that circle
# Half the angle; its tangent is drawn; about 17 degrees either way.
# More would make squares of 8 x 8 pixels into discs.
_MAX_TANGENT = 0.15
_GROUND = (176, 256)  # grey levels, the last one excluded
_INK = (0, 80)


def render(num: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Draws images of shapes, their edges smoothed.

  A pixel is the mean over 8 x 8 points in it. Everything between the random
  numbers and the grey levels is sums, products, quotients and comparisons,
  which IEEE 754 rounds alike everywhere (rotations need no sine), and the mean
  is one of whole numbers: with NumPy's random numbers the same, so are the
  images, to the byte.

  Args:
    num: n, number of images.
    size: height and width in pixels; shapes can be told apart from 8 on.
    seed: of all that is random.

  Returns:
    Images uint8 `[n, size, size, 1]`, and labels `[n]` int32, positions in
    `CLASS_NAMES`, in turns.

  Example:
    >>> images, labels = render(6, 8, seed=0)
    >>> images.shape, labels
    ((6, 8, 8, 1), array([0, 1, 2, 3, 4, 0], dtype=int32))
  """
  validate.positive_int(num=num, size=size)
  validate.non_negative_int(seed=seed)
  labels = (np.arange(num) % len(CLASS_NAMES)).astype(np.int32)
  rng = np.random.default_rng(seed)
  radius, place_y, place_x, turn = rng.random((4, num))
  radius = _RADII[0] + (_RADII[1] - _RADII[0]) * radius
  room = 0.5 - _MARGIN - radius
  center_y = 0.5 + room * (2 * place_y - 1)
  center_x = 0.5 + room * (2 * place_x - 1)
  tangent = _MAX_TANGENT * (2 * turn - 1)
  ground = rng.integers(*_GROUND, size=num)
  ink = rng.integers(*_INK, size=num)

  covered = np.empty((num, size, size), np.int64)
  block = max(1, _BLOCK // (size * _FINE) ** 2)
  for label, inside in enumerate(_INSIDE):
    rows = np.flatnonzero(labels == label)
    for start in range(0, len(rows), block):
      part = rows[start : start + block]
      points = _points(
        size, center_y[part], center_x[part], radius[part], tangent[part]
      )
      covered[part] = _counts(inside(*points), size)
  total = _FINE * _FINE
  ground, ink = ground[:, None, None], ink[:, None, None]
  # Half of the divisor is added: rounding to nearest, in whole numbers.
  pixels = (ground * (total - covered) + ink * covered + total // 2) // total
  return pixels.astype(np.uint8)[..., None], labels


def _points(
  size: int,
  center_y: np.ndarray,
  center_x: np.ndarray,
  radius: np.ndarray,
  tangent: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Sample points `[n, P, P]` as a shape of radius one, upright, sees them."""
  fine = (np.arange(size * _FINE) + 0.5) / (size * _FINE)
  center_y, center_x, radius, tangent = (
    values[:, None, None] for values in (center_y, center_x, radius, tangent)
  )
  y = (fine[None, :, None] - center_y) / radius
  x = (fine[None, None, :] - center_x) / radius
  # Sine and cosine of an angle from the tangent of its half.
  norm = 1 + tangent * tangent
  cosine, sine = (1 - tangent * tangent) / norm, 2 * tangent / norm
  return cosine * y - sine * x, sine * y + cosine * x


def _counts(inside: np.ndarray, size: int) -> np.ndarray:
  """Number of points inside, of every pixel: `[n, P, P]` to `[n, H, W]`."""
  cells = inside.reshape(-1, size, _FINE, size, _FINE)
  return np.count_nonzero(cells, axis=(2, 4))


def _disc(y: np.ndarray, x: np.ndarray) -> np.ndarray:
  return y * y + x * x <= 0.81


def _square(y: np.ndarray, x: np.ndarray) -> np.ndarray:
  return np.maximum(abs(y), abs(x)) <= 0.82


def _triangle(y: np.ndarray, x: np.ndarray) -> np.ndarray:
  """The equilateral one, its tip up, moved down to the middle."""
  y = y - 0.2
  return (y <= 0.55) & (0.8660254 * abs(x) - 0.5 * y <= 0.55)


def _cross(y: np.ndarray, x: np.ndarray) -> np.ndarray:
  short, long = np.minimum(abs(y), abs(x)), np.maximum(abs(y), abs(x))
  return (short <= 0.28) & (long <= 0.95)


def _ring(y: np.ndarray, x: np.ndarray) -> np.ndarray:
  squared = y * y + x * x
  return (squared >= 0.25) & (squared <= 1)


# In the order of `CLASS_NAMES`.
_INSIDE: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = (
  _disc,
  _square,
  _triangle,
  _cross,
  _ring,
)
