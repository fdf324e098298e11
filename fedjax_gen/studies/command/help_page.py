"""The text of `--help`."""

from collections.abc import Sequence
import textwrap
from typing import Any

from fedjax_gen.studies.command import config_flags

_END_OF_A_RUN = """\
Anywhere:
  --flagfile=PATH         Read flags from a file, one on each line.
  --list_presets          Show the presets with their recorded results.
  --help                  Show this text.

Run the same command again to resume an interrupted run. Exit status: 0 done,
1 diverged, disk full, out of memory or another process lost, 2 mistake in the
command or the data, 130 or 143 stopped by a signal with everything saved."""

_END_OF_A_TOOL = """\
Anywhere:
  --flagfile=PATH         Read flags from a file, one on each line.
  --help                  Show this text.

Exit status: 0 done, 1 disk full or out of memory, 2 mistake in the command or
the data, 130 or 143 stopped by a signal. A file is written whole or not at
all."""


def text(
  command: str,
  sentence: str,
  examples: Sequence[tuple[str, str]],
  configs: Sequence[Any],
  *,
  is_training: bool,
) -> str:
  """The page.

  Args:
    command: how the program is called.
    sentence: what it does.
    examples: arguments, each with what they give.
    configs: all that are flags.
    is_training: whether it is a run that resumes, and not a tool.
  """
  commands = [
    '\n'.join(
      [*_wrapped(f'  {command} {arguments}'.rstrip()), f'      {result}']
    )
    for arguments, result in examples
  ]
  parts = [
    textwrap.fill(sentence, 80),
    '\n'.join(['Examples:', *commands]),
    config_flags.help_text(configs),
    _END_OF_A_RUN if is_training else _END_OF_A_TOOL,
  ]
  return '\n\n'.join(parts)


def _wrapped(command: str) -> list[str]:
  """Breaks a command into lines that a shell joins again."""
  lines = textwrap.wrap(
    command,
    78,
    subsequent_indent='    ',
    break_long_words=False,
    break_on_hyphens=False,
  )
  return [f'{line} \\' for line in lines[:-1]] + lines[-1:]
