"""Checks of arrays from outside, and their one canonical form.

`what` is always the reader's name of the array, `data.npz: array 'x_train'`,
and starts every message.
"""

from collections.abc import Sequence

import numpy as np

from fedjax_gen.errors import InputError

_ROWS_AT_ONCE = 4096
_MAX_LABEL = 2**53  # beyond it floats skip whole numbers


def inputs(array: np.ndarray, what: str) -> tuple[np.ndarray, list[str]]:
  """Checks one array of inputs and brings it to its canonical form.

  Args:
    array: Images `[n, H, W]`, `[n, H, W, C]` or `[n, C, H, W]` with C in
      (1, 3): whole numbers in [0, 255], booleans, or floats in [0, 1]. Or
      features `[n, F]` of any real type.
    what: Name of the array in messages.

  Returns:
    `[n, H, W, C]` uint8 or `[n, F]` float32, and notes on what was changed.

  Example:
    >>> images, notes = inputs(np.ones((2, 4, 4)), 'x')
    >>> images.shape, images.dtype, images.max(), notes
    ((2, 4, 4, 1), dtype('uint8'), np.uint8(255), \
['x: float images in [0, 1] rounded to 256 levels'])
  """
  if array.dtype.kind not in 'buif':
    raise InputError(f'{what}: expected real numbers, got {array.dtype}.')
  if array.ndim not in (2, 3, 4) or 0 in array.shape:
    raise InputError(
      f'{what}: expected images [n, H, W(, C)] or features [n, F] with at '
      f'least one row, got shape {list(array.shape)}.'
    )
  finite(array, what)
  if array.ndim == 2:
    with np.errstate(over='ignore'):
      features = array.astype(np.float32, copy=False)
    finite(features, f'{what} as float32')
    return features, []
  return _images(array, what)


def finite(array: np.ndarray, what: str) -> None:
  """Raises `InputError` if any value is NaN or infinite, with the first row."""
  if array.dtype.kind != 'f' or _all_finite(array):
    return
  bad = ~np.isfinite(np.atleast_1d(array))
  row = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
  raise InputError(
    f'{what}: expected finite values, got {bad.sum()} NaN or infinite, '
    f'first in row {row}.'
  )


def whole_numbers(array: np.ndarray, what: str, rows: int) -> np.ndarray:
  """`[rows]` whole numbers in [0, 2**53] from `[rows]` or `[rows, 1]`."""
  if array.ndim == 2 and array.shape[1] == 1:
    array = array[:, 0]
  if array.ndim != 1 or len(array) != rows:
    raise InputError(
      f'{what}: expected one value per example, [{rows}] or [{rows}, 1], '
      f'got shape {list(array.shape)}.'
    )
  if array.dtype.kind not in 'buif':
    raise InputError(f'{what}: expected whole numbers, got {array.dtype}.')
  finite(array, what)
  bad = (array != np.floor(array)) | (array < 0) | (array > _MAX_LABEL)
  if bad.any():
    row = int(np.argmax(bad))
    raise InputError(
      f'{what}: expected whole numbers from 0 to 2**53, got {array[row]} in '
      f'row {row}.'
    )
  return array.astype(np.int64)


def labels(
  columns: Sequence[tuple[str, np.ndarray, int]],
  class_names: Sequence[str] | None = None,
) -> tuple[list[np.ndarray], tuple[str, ...], list[str]]:
  """Brings label columns of one data set to one range of int32 labels.

  Args:
    columns: `what`, the labels and the number of examples of each split.
    class_names: Names in label order; None keeps labels 0..C-1 and renumbers
      any others in rising order, named by their values.

  Returns:
    One `[n]` int32 array per column, the class names, and notes.

  Raises:
    InputError: As `whole_numbers`; a label without a class name.

  Example:
    >>> labels([('y', np.array([7, 3, 7]), 3)])
    ([array([1, 0, 1], dtype=int32)], ('3', '7'), \
['labels 3, 7 renumbered 0 to 1'])
  """
  whole = [whole_numbers(array, what, rows) for what, array, rows in columns]
  if class_names is not None:
    for (what, *_), array in zip(columns, whole, strict=True):
      row = int(np.argmax(array))
      if array[row] >= len(class_names):
        raise InputError(
          f'{what}: expected labels below {len(class_names)}, the number of '
          f'classes, got {array[row]} in row {row}.'
        )
    return [a.astype(np.int32) for a in whole], tuple(class_names), []
  renumbered, names = ids(whole)
  notes = []
  if names != tuple(map(str, range(len(names)))):
    shown = ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')
    notes = [f'labels {shown} renumbered 0 to {len(names) - 1}']
  return renumbered, names, notes


def ids(
  columns: Sequence[np.ndarray],
) -> tuple[list[np.ndarray], tuple[str, ...]]:
  """Numbers the distinct values of `columns` from zero, in rising order.

  Example:
    >>> ids([np.array(['b', 'a']), np.array(['c'])])
    ([array([1, 0], dtype=int32), array([2], dtype=int32)], ('a', 'b', 'c'))
  """
  values, inverse = np.unique(np.concatenate(columns), return_inverse=True)
  ends = np.cumsum([len(column) for column in columns])[:-1]
  numbered = np.split(inverse.astype(np.int32), ends)
  return numbered, tuple(str(value) for value in values)


def _all_finite(array: np.ndarray) -> bool:
  """Whether all is finite, by rows: of a file no copy is ever whole."""
  rows = np.atleast_1d(array)
  parts = range(0, len(rows), _ROWS_AT_ONCE)
  return all(np.isfinite(rows[i : i + _ROWS_AT_ONCE]).all() for i in parts)


def _images(array: np.ndarray, what: str) -> tuple[np.ndarray, list[str]]:
  """Brings `[n, H, W]` or `[n, H, W, C]` numbers to uint8 images."""
  notes = []
  if array.ndim == 3:
    array = array[..., None]
  elif array.shape[-1] not in (1, 3) and array.shape[1] in (1, 3):
    array = np.moveaxis(array, 1, -1)
    notes.append(f'{what}: channels moved from second place to last')
  if array.shape[-1] not in (1, 3):
    raise InputError(
      f'{what}: expected 1 or 3 channels, got shape {list(array.shape)}.'
    )
  if array.dtype.kind == 'b':
    array = array.astype(np.uint8) * np.uint8(255)
  top = 1 if array.dtype.kind == 'f' else 255
  low, high = array.min(), array.max()
  if low < 0 or high > top:
    raise InputError(
      f'{what}: expected {array.dtype} images in [0, {top}], got values '
      f'from {low} to {high}.'
    )
  if array.dtype.kind == 'f':
    array = np.rint(array * 255)
    notes.append(f'{what}: float images in [0, 1] rounded to 256 levels')
  # Without a copy if it is that already: it may be a file's.
  return np.require(array, np.uint8, ['C_CONTIGUOUS']), notes
