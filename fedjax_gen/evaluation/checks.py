"""Argument checks for images, labels and features, as in `validate`."""

from collections.abc import Mapping, Sized
from typing import Any

import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.kinds import KINDS

# Of arrays of examples that are no images.
_AXES = {kind.num_axes + 1 for kind in KINDS.values() if not kind.is_bounded}


def images(**values: np.ndarray) -> None:
  """Raises `InputError` unless every value is uint8 `[n, H, W, C]`, n > 0.

  Example:
    >>> images(inputs=np.zeros([2, 8, 8, 1]))
    Traceback (most recent call last):
    ...
    fedjax_gen.errors.InputError: Expected inputs to be uint8 images \
[n, H, W, C] with n > 0 and C = 1 or 3, got float64 [2, 8, 8, 1].
  """
  for name, value in values.items():
    shape = tuple(getattr(value, 'shape', ()))
    fits = len(shape) == 4 and min(shape) > 0 and shape[-1] in (1, 3)
    if not fits or value.dtype != np.uint8:
      raise InputError(
        f'Expected {name} to be uint8 images [n, H, W, C] with n > 0 and '
        f'C = 1 or 3, got {_describe(value)}.'
      )


def examples(**values: np.ndarray) -> None:
  """Raises `InputError` unless values are images, or finite and of a kind.

  Of a kind are encoded series `[n, T, F]` and rows or features `[n, F]`, n > 0.
  """
  for name, value in values.items():
    is_float = np.issubdtype(getattr(value, 'dtype', int), np.floating)
    if not is_float or np.ndim(value) not in _AXES:
      images(**{name: value})
    elif not np.size(value) or not np.isfinite(value).all():
      raise InputError(
        f'Expected {name} to be finite and not empty, got {_describe(value)}.'
      )


def examples_alike(**values: np.ndarray) -> None:
  """Raises `InputError` unless all values are `examples` of one shape."""
  examples(**values)
  _alike('examples of one shape', values)


def images_alike(**values: np.ndarray) -> None:
  """Raises `InputError` unless all values are images of one size and depth."""
  images(**values)
  _alike('images of one shape [H, W, C]', values)


def _alike(expected: str, values: Mapping[str, np.ndarray]) -> None:
  shapes = {name: list(value.shape[1:]) for name, value in values.items()}
  if len({tuple(shape) for shape in shapes.values()}) > 1:
    raise InputError(
      f'Expected {expected}, got '
      + ', '.join(f'{name} {shape}' for name, shape in shapes.items())
      + '.'
    )


def labels(num_examples: int, num_classes: int, **values: np.ndarray) -> None:
  """Raises `InputError` unless values are whole `[num_examples]` in range.

  Example:
    >>> labels(2, 10, train_labels=np.array([3, 10]))
    Traceback (most recent call last):
    ...
    fedjax_gen.errors.InputError: Expected train_labels in 0..9, got 3..10.
  """
  for name, value in values.items():
    whole = np.issubdtype(getattr(value, 'dtype', float), np.integer)
    if np.shape(value) != (num_examples,) or not whole:
      raise InputError(
        f'Expected {name} to be {num_examples} whole numbers, one for each '
        f'image, got {_describe(value)}.'
      )
    low, high = int(np.min(value)), int(np.max(value))
    if low < 0 or high >= num_classes:
      raise InputError(
        f'Expected {name} in 0..{num_classes - 1}, got {low}..{high}.'
      )


def features(min_examples: int, **values: np.ndarray) -> None:
  """Raises `InputError` unless all values are finite `[n, F]` with equal F.

  Args:
    min_examples: the least n that the caller can work with.
    **values: the arrays, named as the caller's arguments are.
  """
  for name, value in values.items():
    if np.ndim(value) != 2 or np.size(value) == 0:
      raise InputError(
        f'Expected {name} to be features [n, F], got {_describe(value)}.'
      )
    if len(value) < min_examples:
      raise InputError(
        f'Expected at least {min_examples} examples in {name}, '
        f'got {len(value)}.'
      )
    if not np.all(np.isfinite(value)):
      raise InputError(f'Expected {name} to be finite, got NaN or infinity.')
  widths = {name: np.shape(value)[1] for name, value in values.items()}
  if len(set(widths.values())) > 1:
    raise InputError(f'Expected equally many features, got {widths}.')


def lengths(num: int, **values: Sized) -> None:
  """Raises `InputError` unless every value has `num` items.

  Example:
    >>> lengths(3, client_names=['a', 'b'])
    Traceback (most recent call last):
    ...
    fedjax_gen.errors.InputError: Expected 3 of client_names, got 2.
  """
  for name, value in values.items():
    if len(value) != num:
      raise InputError(f'Expected {num} of {name}, got {len(value)}.')


def _describe(value: Any) -> str:
  """Names what was given: dtype and shape of an array, else the type."""
  if hasattr(value, 'dtype'):
    return f'{value.dtype} {list(value.shape)}'
  return type(value).__name__
