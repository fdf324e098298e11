"""Command-line flags derived from frozen dataclasses, and their help.

A field becomes a flag with its name, type and default, so that no default is
written twice. Other properties of a flag are in the field's metadata, which
`fields.option` writes:

    help: one sentence for `--help`.
    choices: the values allowed.
    placeholder: what `--help` writes in place of a value.
    recorded: False if the value cannot change the run's numbers; such fields
      are left out of the work directory's config.json.

Fields are int, float, bool, str, tuples of one of them ('1,2,3' on the command
line), or one of these or None.
"""

from collections.abc import Collection, Sequence
import dataclasses
import difflib
import inspect
import textwrap
import types
import typing
from typing import Any, TypeVar

from absl import flags

from fedjax_gen.errors import InputError

Config = TypeVar('Config')

_WIDTH = 80
_INDENT = 26  # where the explanations begin
# Of each type, the word for a value in help and the noun in an error.
_KINDS = {
  int: ('N', 'a whole number'),
  float: ('X', 'a number'),
  str: ('TEXT', 'text'),
}


def define_flags(flag_values: flags.FlagValues, *defaults: Any) -> None:
  """Defines one flag per field of the configurations `defaults`.

  Args:
    flag_values: where to define them.
    *defaults: dataclass instances; their values are the flags' defaults.

  Raises:
    absl.flags.DuplicateFlagError: two fields have one name.
    TypeError: a field's type cannot be written on a command line.
  """
  # absl gets no help texts: its own listing of flags is never shown.
  for config in defaults:
    for field, kind in _fields(config):
      default = getattr(config, field.name)
      if kind is bool:
        flag = flags.BooleanFlag(field.name, default, '')
        flag.parser = _Switch()
        flags.DEFINE_flag(flag, flag_values=flag_values)
      else:
        flags.DEFINE(
          _Parser(kind, field.metadata.get('choices')),
          field.name,
          default,
          '',
          flag_values=flag_values,
        )


def from_flags(flag_values: flags.FlagValues, defaults: Config) -> Config:
  """Returns `defaults` with the values given on the command line."""
  values = {
    field.name: flag_values[field.name].value for field, _ in _fields(defaults)
  }
  return type(defaults)(**values)


def parse(flag_values: flags.FlagValues, argv: Sequence[str]) -> None:
  """Parses a command line, the program's name first.

  Raises:
    InputError: a flag is unknown or its value unusable.
  """
  try:
    rest = flag_values(list(argv))
  except flags.UnrecognizedFlagError as error:
    close = difflib.get_close_matches(
      error.flagname.replace('-', '_'), list(flag_values), n=1
    )
    hint = f' Did you mean --{close[0]}?' if close else ''
    raise InputError(f'There is no flag --{error.flagname}.{hint}') from error
  except UnicodeDecodeError as error:
    raise InputError('Expected --flagfile to be a text file.') from error
  except flags.Error as error:
    message = str(error).removeprefix('ERROR:: ').rstrip('.?')
    raise InputError(f'{message}.') from error
  if len(rest) > 1:
    raise InputError(f'Cannot use {rest[1]!r}: flags are written --name=value.')


def help_text(defaults: Sequence[Any]) -> str:
  """Returns the flags of the configurations, one paragraph each."""
  return '\n\n'.join(_paragraph(config) for config in defaults)


def _paragraph(config: Any) -> str:
  title = (inspect.getdoc(type(config)) or '').partition('\n')[0].rstrip('.')
  entries = [
    _flag_entry(field, kind, getattr(config, field.name))
    for field, kind in _fields(config)
  ]
  return '\n'.join([f'{title}:', *entries])


def _flag_entry(field: dataclasses.Field, kind: Any, default: Any) -> str:
  words = [_sentence(field.metadata.get('help', ''))]
  if choices := field.metadata.get('choices'):
    words.append(f'One of: {", ".join(map(str, choices))}.')
  if kind is bool:
    words.append(f'Default: {"on" if default else "off"}.')
    return _entry(f'--[no]{field.name}', ' '.join(words))
  if default not in ('', (), None):
    shown = _serialize(default)
    words.append(f'Default: {shown}.')
  placeholder, _ = _KINDS[_item(kind)]
  if typing.get_origin(kind) is tuple:
    placeholder = f'{placeholder},...'
  return _entry(
    f'--{field.name}={field.metadata.get("placeholder", placeholder)}',
    ' '.join(words),
  )


def _sentence(text: str) -> str:
  """Returns the text with a full stop, and a capital where a word begins it."""
  first = text.split(' ', 1)[0]
  if first.isalpha() and first.islower():
    text = text[0].upper() + text[1:]
  return text if not text or text[-1] in '.!?' else f'{text}.'


def _entry(left: str, right: str) -> str:
  """Returns a flag and, next to or below it, what it does."""
  lines = textwrap.wrap(right, _WIDTH - _INDENT) or ['']
  left = f'  {left}'
  if len(left) > _INDENT - 2:
    return '\n'.join([left, *(' ' * _INDENT + line for line in lines)])
  first = left.ljust(_INDENT) + lines[0]
  return '\n'.join([first, *(' ' * _INDENT + line for line in lines[1:])])


class _Switch(flags.BooleanParser):
  """Parses a boolean and says what it expected."""

  def parse(self, argument: Any) -> bool:
    try:
      return super().parse(argument)
    except ValueError:
      raise ValueError('expected true or false') from None


class _Parser(flags.ArgumentParser):
  """Parses one value, or a tuple of them, and says what it expected."""

  def __init__(self, kind: Any, choices: Collection[Any] | None):
    self._item = _item(kind)
    self._is_tuple = typing.get_origin(kind) is tuple
    self._choices = choices

  def parse(self, argument: Any) -> Any:
    if not isinstance(argument, str):
      return argument  # a default
    if self._is_tuple:
      items = argument.split(',') if argument else []
      return tuple(self._parse_item(item.strip()) for item in items)
    return self._parse_item(argument)

  def flag_type(self) -> str:
    return self._item.__name__

  def _parse_item(self, text: str) -> Any:
    _, expected = _KINDS[self._item]
    try:
      value = self._item(text)
    except ValueError:
      raise ValueError(f'expected {expected}') from None
    if self._choices and value not in self._choices:
      close = difflib.get_close_matches(text, map(str, self._choices), n=1)
      hint = f'; did you mean {close[0]}' if close else ''
      raise ValueError(
        f'expected one of {", ".join(map(str, self._choices))}{hint}'
      )
    return value


def _serialize(value: Any) -> str:
  return ','.join(map(str, value)) if isinstance(value, tuple) else str(value)


def _fields(config: Any) -> list[tuple[dataclasses.Field, Any]]:
  """Returns the fields of a configuration with their types, None stripped."""
  hints = typing.get_type_hints(type(config))
  result = []
  for field in dataclasses.fields(config):
    kind = hints[field.name]
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
      [kind] = set(typing.get_args(kind)) - {type(None)}
    if kind is not bool and _item(kind) not in _KINDS:
      raise TypeError(f'Field {field.name} of type {kind} cannot be a flag.')
    result.append((field, kind))
  return result


def _item(kind: Any) -> Any:
  """Returns the type of one item of a tuple, or the type itself."""
  return typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind
