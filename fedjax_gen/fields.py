"""Fields of configurations, which the programs turn into flags."""

from collections.abc import Callable, Collection
import dataclasses
from typing import Any, TypeVar

from fedjax_gen import validate

Value = TypeVar('Value')


def option(
  default: Value,
  help_text: str,
  *,
  choices: Collection[Any] | None = None,
  check: Callable[..., None] | None = None,
  placeholder: str = '',
  recorded: bool = True,
) -> Value:
  """A field of a frozen dataclass, and what `--help` says of its flag.

  Args:
    default: of the field and the flag.
    help_text: one sentence.
    choices: the values allowed, None for any; a registry itself, and not a copy
      of its names, where rows may be added.
    check: a function of `validate`, or one that takes the value by the field's
      name as they do and raises `InputError`.
    placeholder: what `--help` writes in place of a value, as in --workdir=DIR;
      '' for the word for its type.
    recorded: False for what cannot change a run's numbers.

  Returns:
    The field, declared as the default's type, as `dataclasses.field` is.

  Example:
    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...   rate: float = option(0.1, 'step size')
    >>> Config()
    Config(rate=0.1)
    >>> dict(dataclasses.fields(Config)[0].metadata)
    {'help': 'step size'}
  """
  metadata: dict[str, Any] = {'help': help_text}
  if choices is not None:
    metadata['choices'] = choices
  if check is not None:
    metadata['check'] = check
  if placeholder:
    metadata['placeholder'] = placeholder
  if not recorded:
    metadata['recorded'] = False
  return dataclasses.field(default=default, metadata=metadata)


def positive(default: Value, help_text: str, **more: Any) -> Value:
  """A number above zero; see `option`."""
  return option(default, help_text, check=validate.positive, **more)


def non_negative(default: Value, help_text: str, **more: Any) -> Value:
  """A number at or above zero; see `option`."""
  return option(default, help_text, check=validate.non_negative, **more)


def positive_int(default: Value, help_text: str, **more: Any) -> Value:
  """A whole number above zero; see `option`."""
  return option(default, help_text, check=validate.positive_int, **more)


def non_negative_int(default: Value, help_text: str, **more: Any) -> Value:
  """A whole number at or above zero; see `option`."""
  return option(default, help_text, check=validate.non_negative_int, **more)


def fraction(default: Value, help_text: str, **more: Any) -> Value:
  """A number in [0, 1]; see `option`."""
  return option(default, help_text, check=validate.fraction, **more)


class Configuration:
  """Base of frozen dataclasses of options: each is checked when one is made.

  Values from Python and from the command line are held to the same choices and
  bounds.

  Example:
    >>> @dataclasses.dataclass(frozen=True)
    ... class Config(Configuration):
    ...   rate: float = positive(0.1, 'step size')
    >>> Config(rate=0.0)
    Traceback (most recent call last):
    ...
    fedjax_gen.errors.InputError: Expected rate > 0, got rate=0.0.
  """

  def __post_init__(self) -> None:
    check_choices(self)
    for field in dataclasses.fields(self):  # type: ignore[arg-type]
      if 'check' in field.metadata:
        field.metadata['check'](**{field.name: getattr(self, field.name)})


def check_choices(config: Any) -> None:
  """Raises `InputError` unless all options are among their choices."""
  for field in dataclasses.fields(config):
    if 'choices' in field.metadata:
      value = {field.name: getattr(config, field.name)}
      validate.one_of(field.metadata['choices'], **value)
