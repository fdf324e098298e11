"""Configurations as JSON: what a work directory records, read back."""

from collections.abc import Mapping
import dataclasses
import inspect
from typing import Any, TypeVar

from fedjax_gen.errors import InputError

Config = TypeVar('Config')


def to_record(config: Any) -> dict[str, Any]:
  """Returns the fields of a dataclass that decide a run's numbers.

  Fields whose metadata hold `recorded=False` are left out: where results go,
  how they are shown.
  """
  return {
    field.name: getattr(config, field.name)
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
  # JSON has lists where a frozen dataclass has tuples.
  values = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in record.items()
  }
  return config_class(**values)
