"""Keyword-named argument checks; each message is built from the name.

Called by builders, outside jit, before anything compiles.
"""

from collections.abc import Callable, Collection, Iterable
import math
import numbers

from fedjax_gen.errors import InputError


def positive(**values: float) -> None:
  """Raises `InputError` unless every value is a finite number above zero.

  Example:
    >>> positive(alpha=0.0)
    Traceback (most recent call last):
    ...
    fedjax_gen.errors.InputError: Expected alpha > 0, got alpha=0.0.
  """
  for name, value in values.items():
    if not _is_finite(value) or value <= 0:
      raise InputError(f'Expected {name} > 0, got {name}={value!r}.')


def non_negative(**values: float) -> None:
  """Raises `InputError` unless every value is a finite number at or above 0."""
  for name, value in values.items():
    if not _is_finite(value) or value < 0:
      raise InputError(f'Expected {name} >= 0, got {name}={value!r}.')


def positive_int(**values: int) -> None:
  """Raises `InputError` unless every value is a whole number above zero."""
  for name, value in values.items():
    if not _is_whole(value) or value <= 0:
      raise InputError(
        f'Expected {name} to be a whole number > 0, got {name}={value!r}.'
      )


def non_negative_int(**values: int) -> None:
  """Raises `InputError` unless every value is a whole number at or above 0."""
  for name, value in values.items():
    if not _is_whole(value) or value < 0:
      raise InputError(
        f'Expected {name} to be a whole number >= 0, got {name}={value!r}.'
      )


def fraction(**values: float) -> None:
  """Raises `InputError` unless every value lies in [0, 1]."""
  for name, value in values.items():
    if not _is_finite(value) or not 0 <= value <= 1:
      raise InputError(f'Expected 0 <= {name} <= 1, got {name}={value!r}.')


def one_of(choices: Collection[str], **values: str) -> None:
  """Raises `InputError` unless every value is one of `choices`.

  Example:
    >>> one_of(('iid', 'dirichlet'), partition='random')
    Traceback (most recent call last):
    ...
    fedjax_gen.errors.InputError: Expected partition to be one of iid, \
dirichlet, got partition='random'.
  """
  for name, value in values.items():
    if value not in choices:
      raise InputError(
        f'Expected {name} to be one of {", ".join(choices)}, '
        f'got {name}={value!r}.'
      )


def each(check: Callable[..., None]) -> Callable[..., None]:
  """A check of every value of a sequence, named as the sequence is."""

  def check_each(**sequences: Iterable) -> None:
    for name, values in sequences.items():
      for value in values:
        check(**{name: value})

  return check_each


def _is_finite(value: object) -> bool:
  return isinstance(value, numbers.Real) and math.isfinite(value)


def _is_whole(value: object) -> bool:
  return isinstance(value, numbers.Integral) and not isinstance(value, bool)
