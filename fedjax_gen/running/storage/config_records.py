"""Configurations as JSON: what a work directory records, read back."""

from collections.abc import Mapping
import dataclasses
import inspect
import math
import typing
from typing import Any, TypeVar

from fedjax_gen.errors import InputError

Config = TypeVar('Config')


def to_record(config: Any) -> dict[str, Any]:
  """Returns the fields of a dataclass that decide a run's numbers.

  Fields with `recorded=False` in their metadata are left out: where results go,
  how they are shown. JSON has no infinity: it is recorded as the text 'inf'.
  """
  return {
    field.name: _in_json(getattr(config, field.name))
    for field in dataclasses.fields(config)
    if field.metadata.get('recorded', True)
  }


def from_record(
  config_class: type[Config], record: Mapping[str, Any]
) -> Config:
  """Returns the configuration that `to_record` made `record` of.

  Raises:
    InputError: a field is unknown, as in a record of another version, or a
      value is refused.

  Example:
    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...   widths: tuple[int, ...] = (512, 256)
    >>> from_record(Config, {'widths': [8, 4]})
    Config(widths=(8, 4))
  """
  known = set(inspect.signature(config_class).parameters)
  if unknown := sorted(set(record) - known):
    raise InputError(
      f'Expected the fields of {config_class.__name__}, got {unknown[0]!r}: '
      'the run was made by another version of fedjax_gen.'
    )
  floats = {
    name
    for name, kind in typing.get_type_hints(config_class).items()
    if kind is float
  }
  return config_class(
    **{
      name: _from_json(value, name in floats) for name, value in record.items()
    }
  )


def _in_json(value: Any) -> Any:
  is_float = isinstance(value, float)
  return str(value) if is_float and not math.isfinite(value) else value


def _from_json(value: Any, is_float: bool) -> Any:
  if is_float and isinstance(value, str):
    return float(value)
  # JSON has lists where a frozen dataclass has tuples.
  return tuple(value) if isinstance(value, list) else value
