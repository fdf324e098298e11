"""Picture files to arrays, and images of any size to one size."""

from collections.abc import Iterator, Sequence
import contextlib
import io
import os
import warnings

import numpy as np
from PIL import Image, ImageOps

# The formats photographs and figures come in. Pillow opens more, some through
# outside programs (EPS), which a stray file must never start.
_FORMATS = ('PNG', 'JPEG', 'BMP', 'GIF', 'TIFF', 'WEBP', 'PPM')
_GREY_MODES = ('1', 'L', 'LA', 'La', 'I', 'I;16', 'I;16B', 'I;16L', 'I;16N')
_ORIENTATION_TAG = 0x0112  # EXIF 2.32, table 4
DEFAULT_SIZE = 32


class BadImage(Exception):
  """A file that is no readable image; the message is the reason, a few words.

  Readers of many files catch it, skip the file and say so.
  """


@contextlib.contextmanager
def _large_allowed() -> Iterator[None]:
  """Has Pillow read up to twice its limit of pixels without a warning."""
  with warnings.catch_warnings():
    # It warns of attacks; these are pictures of the user's own.
    warnings.simplefilter('ignore', Image.DecompressionBombWarning)
    yield


@_large_allowed()
def open_image(file: str | os.PathLike | bytes) -> Image.Image:
  """Decodes one picture, upright, in mode L or RGB.

  EXIF orientation is applied, transparency is laid over white, 16-bit grey is
  cut to its upper 8 bits, and of an animation the first frame is taken.

  Raises:
    BadImage: The file is no picture, is broken, or cannot be read.
  """
  try:
    with _open(file) as image:
      image.load()
      return _to_eight_bits(ImageOps.exif_transpose(image))
  except BadImage:
    raise
  # Decoders raise nearly anything (SyntaxError, struct.error, IndexError,
  # zlib.error, ...) on broken bytes; all of it means the same to the caller.
  except Exception as error:
    raise BadImage(f'broken: {error}') from error


@_large_allowed()
def probe(file: str | os.PathLike) -> tuple[tuple[int, int], int]:
  """Returns `(width, height)` upright and channels (1 or 3), from the header.

  Raises:
    BadImage: As `open_image`, as far as the header tells.
  """
  try:
    with _open(file) as image:
      turned = image.getexif().get(_ORIENTATION_TAG, 1) in (5, 6, 7, 8)
      width, height = image.size
      channels = 1 if image.mode in _GREY_MODES else 3
  except BadImage:
    raise
  except Exception as error:  # as in open_image
    raise BadImage(f'broken: {error}') from error
  return ((height, width) if turned else (width, height)), channels


@_large_allowed()
def to_array(
  image: Image.Image, size: tuple[int, int], channels: int
) -> np.ndarray:
  """Brings one picture to `[height, width, channels]` uint8.

  A picture that has `size` (width, height) already keeps its pixels; any
  other is cut to its centre square (`size` must then be square) and resized,
  bilinear with antialiasing.

  Example:
    >>> to_array(Image.new('L', (6, 4), 9), (2, 2), 3).shape
    (2, 2, 3)
  """
  if image.size != size:
    side = min(image.size)
    left, top = ((extent - side) // 2 for extent in image.size)
    image = image.crop((left, top, left + side, top + side))
    image = image.resize(size, Image.Resampling.BILINEAR)
  array = np.asarray(image.convert('L' if channels == 1 else 'RGB'))
  return array.reshape(*array.shape[:2], channels)


def common_size(
  sizes: Sequence[tuple[int, int]], image_size: int | None
) -> tuple[tuple[int, int], str | None]:
  """Chooses the one size for pictures of `sizes`, (width, height) each.

  Returns:
    `image_size` squared if given; else the size that all share; else 32 x 32.
    And a note if any picture changes size, None if none does.

  Example:
    >>> common_size([(8, 8), (8, 8)], None)
    ((8, 8), None)
    >>> common_size([(8, 8), (9, 5)], None)
    ((32, 32), 'images of 2 sizes, from 8x8 to 9x5 pixels, cropped to the \
centre square and resized to 32x32; image_size chooses another size')
  """
  distinct = sorted(set(sizes))
  if image_size is not None:
    size = (image_size, image_size)
  else:
    size = distinct[0] if len(distinct) == 1 else (DEFAULT_SIZE, DEFAULT_SIZE)
  if distinct == [size]:
    return size, None
  (width, height), (last_width, last_height) = distinct[0], distinct[-1]
  if len(distinct) == 1:
    found = f'images of {width}x{height} pixels'
  else:
    found = (
      f'images of {len(distinct)} sizes, from {width}x{height} to '
      f'{last_width}x{last_height} pixels,'
    )
  hint = '' if image_size else '; image_size chooses another size'
  note = (
    f'{found} cropped to the centre square and resized to '
    f'{size[0]}x{size[1]}{hint}'
  )
  return size, note


def resize(images: np.ndarray, image_size: int) -> np.ndarray:
  """Brings `[n, H, W, C]` uint8 images to `[n, image_size, image_size, C]`.

  Example:
    >>> resize(np.zeros((2, 8, 8, 1), np.uint8), 4).shape
    (2, 4, 4, 1)
  """
  channels = images.shape[-1]
  size = (image_size, image_size)
  if images.shape[1:3] == size:
    return images
  out = np.empty((len(images), *size, channels), np.uint8)
  for row, image in enumerate(images):
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    out[row] = to_array(picture, size, channels)
  return out


def _open(file: str | os.PathLike | bytes) -> Image.Image:
  """Reads the header; any refusal is a `BadImage` with a short reason."""
  try:
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    return Image.open(stream, formats=_FORMATS)
  except Image.UnidentifiedImageError as error:
    raise BadImage('not an image') from error
  except Image.DecompressionBombError as error:
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    raise BadImage(f'more than {limit:,} pixels') from error
  except OSError as error:
    raise BadImage(error.strerror or str(error)) from error
  except Exception as error:  # as in open_image
    raise BadImage(f'broken: {error}') from error


def _to_eight_bits(image: Image.Image) -> Image.Image:
  """Converts any mode to a new image in mode L or RGB."""
  grey = image.mode in _GREY_MODES
  if image.mode.startswith('I'):
    # Mode I holds 32 bits, but the files that open in it (PGM) carry 16.
    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype('u1'))
  if image.mode == 'F':
    raise ValueError('floating-point pixels')
  if image.has_transparency_data:
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image)
  return image.convert('L' if grey else 'RGB')
