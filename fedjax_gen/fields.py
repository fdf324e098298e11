"""Fields of configurations, which the programs turn into flags."""

from collections.abc import Collection
import dataclasses
from typing import Any, TypeVar

from fedjax_gen import validate

Value = TypeVar('Value')


def option(
  default: Value,
  help_text: str,
  *,
  choices: Collection[Any] | None = None,
  placeholder: str = '',
  recorded: bool = True,
) -> Value:
  """A field of a frozen dataclass, and what `--help` says of its flag.

  Args:
    default: of the field and the flag.
    help_text: one sentence.
    choices: the values allowed, None for any; a registry itself, and not a copy
      of its names, where rows may be added. The command line is held to them;
      values from Python are if the dataclass says so (`check_choices`) or what
      takes it.
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
  if placeholder:
    metadata['placeholder'] = placeholder
  if not recorded:
    metadata['recorded'] = False
  return dataclasses.field(default=default, metadata=metadata)


def check_choices(config: Any) -> None:
  """Checks that options of a configuration are among their choices.

  Raises:
    InputError: one is not.
  """
  for field in dataclasses.fields(config):
    if 'choices' in field.metadata:
      value = {field.name: getattr(config, field.name)}
      validate.one_of(field.metadata['choices'], **value)
