"""What every program here does around its own work.

Reads the command line, answers mistakes in a few lines and before anything is
compiled, prepares JAX, resumes or refuses the work directory, and exits with a
status that says what happened.
"""

from collections.abc import Callable, Sequence
import dataclasses
import hashlib
import io
import os
import pathlib
import signal
import sys
import textwrap
import traceback
from typing import TYPE_CHECKING, Any
import warnings

from absl import flags

from experiments import config_flags, recipes
from fedjax_gen import validate
from fedjax_gen.errors import InputError
from fedjax_gen.running import (
  config_records,
  files,
  stopping,
  workdir as workdir_lib,
)

if TYPE_CHECKING:
  from fedjax_gen.running.progress import Progress

COMMAND = 'fedjax-gen'  # of the installed package, for all programs

_HELP_END_OF_A_RUN = """\
Anywhere:
  --flagfile=PATH         Read flags from a file, one on each line.
  --list_presets          Show the presets with their recorded results.
  --help                  Show this text.

Run the same command again to resume an interrupted run. Exit status: 0 done,
1 diverged, disk full or out of memory, 2 mistake in the command or the data,
130 or 143 stopped by a signal with everything saved."""

_HELP_END_OF_A_TOOL = """\
Anywhere:
  --flagfile=PATH         Read flags from a file, one on each line.
  --help                  Show this text.

Exit status: 0 done, 1 disk full or out of memory, 2 mistake in the command or
the data, 130 or 143 stopped by a signal. A file is written whole or not at
all."""

_MAX_INT = 2**31 - 1  # rounds are counted in 32 bits


def _field(default: Any, help_text: str, **metadata: Any) -> Any:
  return dataclasses.field(
    default=default, metadata={'help': help_text, **metadata}
  )


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """The run.

  The same for every program; each gives its own defaults.

  Raises:
    InputError: a value is out of range.
  """

  workdir: str = _field(
    '',
    'Directory for everything the run leaves. Default: one under runs/ named '
    'by the configuration.',
    placeholder='DIR',
    recorded=False,
  )
  preset: str = _field(
    '',
    'Start from a recorded recipe; flags given beside it win.',
    placeholder='NAME',
    recorded=False,
  )
  seed: int = _field(0, 'Decides everything random.')
  rounds: int = _field(10, 'Communication rounds.')
  rounds_per_step: int = _field(
    1, 'Rounds in one compiled call; more are faster, and stop later.'
  )
  eval_every: int = _field(5, 'Rounds from one evaluation to the next.')
  checkpoint_every: int = _field(5, 'Rounds from one checkpoint to the next.')
  compilation_cache: str = _field(
    '',
    'Where compiled programs are kept for the next run, or off. Default: '
    "$JAX_COMPILATION_CACHE_DIR or the user's cache directory.",
    placeholder='DIR',
    recorded=False,
  )
  debug: bool = _field(False, 'Show tracebacks of mistakes.', recorded=False)

  def __post_init__(self):
    validate.non_negative_int(seed=self.seed)
    validate.positive_int(
      rounds=self.rounds,
      rounds_per_step=self.rounds_per_step,
      eval_every=self.eval_every,
      checkpoint_every=self.checkpoint_every,
    )
    # JAX would cut a larger seed to 32 bits: two seeds, one run.
    for name in ('seed', 'rounds'):
      if getattr(self, name) > _MAX_INT:
        raise InputError(
          f'Expected {name} < 2**31, got {name}={getattr(self, name)}.'
        )


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A program as its user sees it.

  Attributes:
    name: of the module in `experiments`, and of the presets' folder.
    sentence: what it does.
    examples: commands, without `python -m experiments.NAME`, each with what it
      gives.
    configs: by name the configurations with their defaults. All their fields
      are flags. 'run' is a `RunConfig`; a tool that trains nothing has none.
  """

  name: str
  sentence: str
  examples: Sequence[tuple[str, str]]
  configs: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Session:
  """What a program is given for its work.

  Attributes:
    path: the work directory, not yet opened.
    config: what is recorded there.
    stop: tells of signals.
    progress: shows the advance.
  """

  path: pathlib.Path
  config: dict[str, Any]
  stop: stopping.StopSignal
  progress: 'Progress'

  def say(self, text: str) -> None:
    """Tells what is going on, beside the progress of training."""
    print(text, file=sys.stderr, flush=True)

  def open_workdir(self) -> workdir_lib.Workdir:
    """Opens the work directory, a context manager.

    Call it when everything that may be refused has been read and built: a
    mistake mended would otherwise find a run of another configuration there.

    Raises:
      InputError: the directory cannot be used.
      FinishedError: another process, which was waited for, finished the run.
    """
    return workdir_lib.Workdir(self.path, self.config, on_wait=self.say)


def run(experiment: Experiment, main: Callable[..., None]) -> None:
  """Runs a program and exits.

  Args:
    experiment: the program.
    main: called as `main(session, **configs)` with the configurations that the
      command line gives; without a session if there is no 'run' among them.
  """
  sys.exit(execute(experiment, main, sys.argv))


def execute(
  experiment: Experiment, main: Callable[..., None], argv: Sequence[str]
) -> int:
  """Runs a program with a command line and returns its exit status."""
  for stream in (sys.stdout, sys.stderr):
    # A terminal that cannot show an arrow is no reason to fail.
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='replace')
  try:
    status = _answered(experiment, main, argv)
    sys.stdout.flush()
  except BrokenPipeError:  # as in `... --help | head`
    # Else the interpreter complains when it flushes at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE
  return status


def _answered(
  experiment: Experiment, main: Callable[..., None], argv: Sequence[str]
) -> int:
  """Shows a text that is asked for, or runs and answers what goes wrong."""
  if {'-h', '--help', '-help'} & set(argv[1:]):
    print(_help(experiment, argv[0]))
    return 0
  if '--list_presets' in argv[1:]:
    print(recipes.list_presets(experiment.name))
    return 0
  is_debug = bool({'--debug', '--debug=true'} & set(argv[1:]))
  try:
    with stopping.StopSignal() as stop:
      return _execute(experiment, main, argv, stop)
  except (InputError, stopping.DivergedError, files.DiskFullError) as error:
    if is_debug:
      traceback.print_exc()
    print(f'{experiment.name}: {error}', file=sys.stderr)
    return 2 if isinstance(error, InputError) else 1
  except Exception as error:
    # JAX has no exception of its own for memory, on any device.
    if not isinstance(error, MemoryError) and (
      'RESOURCE_EXHAUSTED' not in str(error)
    ):
      raise
    if is_debug:
      traceback.print_exc()
    print(
      f'{experiment.name}: Out of memory. {str(error).partition(chr(10))[0]}\n'
      'Ask for less at once: a smaller model, batch, block or sample.',
      file=sys.stderr,
    )
    return 1
  except stopping.StoppedError as error:
    resume = ' Run the same command again to resume.'
    hint = resume if 'run' in experiment.configs else ''
    print(f'{error}{hint}', file=sys.stderr)
    return 128 + error.signum


def _execute(
  experiment: Experiment,
  main: Callable[..., None],
  argv: Sequence[str],
  stop: stopping.StopSignal,
) -> int:
  configs = _parse(experiment, argv)
  if 'run' not in configs:
    main(**configs)
    return 0
  run_config: RunConfig = configs['run']
  record: dict[str, Any] = {'experiment': experiment.name}
  for name, config in configs.items():
    record[name] = config_records.to_record(config)
  path = pathlib.Path(run_config.workdir or _default_path(record))
  if workdir_lib.finished_summary(path, record) is not None:
    print(f'This run is finished: {path / "summary.json"}')
    return 0
  _prepare_jax(run_config.compilation_cache)
  from fedjax_gen.running.progress import progress

  with files.full_disk_named(path):
    try:
      main(Session(path, record, stop, progress()), **configs)
    except workdir_lib.FinishedError:
      print('The other process finished this run.')
  print(f'Results: {path}')
  return 0


def _parse(experiment: Experiment, argv: Sequence[str]) -> dict[str, Any]:
  """Returns the configurations that the command line asks for."""
  given = _flag_values(experiment, argv)
  if name := 'preset' in given and given['preset'].value:
    # In front of the others, which win: the last value of a flag counts.
    flagfile = f'--flagfile={recipes.preset_path(experiment.name, name)}'
    given = _flag_values(experiment, [argv[0], flagfile, *argv[1:]])
  return {
    name: config_flags.from_flags(given, defaults)
    for name, defaults in experiment.configs.items()
  }


def _flag_values(
  experiment: Experiment, argv: Sequence[str]
) -> flags.FlagValues:
  # Not absl's global flags: they hold those of every module imported.
  flag_values = flags.FlagValues()
  config_flags.define_flags(flag_values, *experiment.configs.values())
  config_flags.parse(flag_values, argv)
  return flag_values


def _help(experiment: Experiment, called: str) -> str:
  is_installed = called.startswith(f'{COMMAND} ')
  command = (
    called if is_installed else f'python -m experiments.{experiment.name}'
  )
  examples = [
    '\n'.join(
      [*_wrapped(f'  {command} {arguments}'.rstrip()), f'      {result}']
    )
    for arguments, result in experiment.examples
  ]
  parts = [
    textwrap.fill(experiment.sentence, 80),
    '\n'.join(['Examples:', *examples]),
    config_flags.help_text(list(experiment.configs.values())),
  ]
  is_run = 'run' in experiment.configs
  parts.append(_HELP_END_OF_A_RUN if is_run else _HELP_END_OF_A_TOOL)
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


def _default_path(record: dict[str, Any]) -> str:
  digest = hashlib.sha256(files.to_json(record).encode()).hexdigest()
  return os.path.join('runs', f'{record["experiment"]}-{digest[:8]}')


def _prepare_jax(cache: str) -> None:
  """Quietens JAX and lets it find programs that it compiled before."""
  import jax

  # A cache that cannot be read or written costs time, not results.
  warnings.filterwarnings('ignore', '.*persistent compilation cache.*')
  if cache == 'off':
    jax.config.update('jax_enable_compilation_cache', False)
    return
  if cache or 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    home = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    default = pathlib.Path(home) / 'fedjax_gen' / 'jax'
    jax.config.update('jax_compilation_cache_dir', cache or str(default))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
