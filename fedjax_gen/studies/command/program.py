"""A program: the command line and everything around a study.

Reads the flags, answers mistakes in a few lines before anything is compiled,
prepares JAX, resumes or refuses the work directory, and exits with a status
that says what happened.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import hashlib
import io
import os
import pathlib
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO
import warnings

from absl import flags

from fedjax_gen import fields
from fedjax_gen.errors import InputError
from fedjax_gen.running import stopping
from fedjax_gen.running.distributed.processes import EndedError, Processes
from fedjax_gen.running.storage import (
  config_records,
  disk,
  workdir as workdir_lib,
)
from fedjax_gen.studies.command import (
  config_flags,
  help_page,
  preset_files,
  process_flags,
)

if TYPE_CHECKING:
  from fedjax_gen.deployment.remote_engine import Deployment
  from fedjax_gen.running.progress import Progress

COMMAND = 'fedjax-gen'  # of the installed package, for all programs
_MAX_INT = 2**31 - 1  # rounds are counted in 32 bits


@dataclasses.dataclass(frozen=True)
class RunConfig(fields.Configuration):
  """The run.

  The same for every program; each gives its own defaults.
  """

  workdir: str = fields.option(
    '',
    'Directory for everything the run leaves. Default: one under runs/ named '
    'by the configuration.',
    placeholder='DIR',
    recorded=False,
  )
  preset: str = fields.option(
    '',
    'Start from a recorded recipe; flags given with it win.',
    placeholder='NAME',
    recorded=False,
  )
  seed: int = fields.non_negative_int(0, 'Seed of everything random.')
  rounds: int = fields.positive_int(10, 'Communication rounds.')
  rounds_per_step: int = fields.positive_int(
    1,
    'Rounds in one compiled call, or fewer where they take longer than 10 s; '
    'more are faster. Evaluations and checkpoints wait for the last one.',
  )
  eval_every: int = fields.positive_int(
    5, 'Rounds from one evaluation to the next.'
  )
  checkpoint_every: int = fields.positive_int(
    5, 'Rounds from one checkpoint to the next.'
  )
  matmul_precision: str = fields.option(
    'default',
    'Precision of matrix products in models: bfloat16 and tensorfloat32 are '
    'faster on GPU and TPU. Parameters, sums over clients, clipping and noise '
    'stay float32. default: JAX’s choice for the device.',
    choices=('default', 'bfloat16', 'tensorfloat32', 'float32'),
  )
  compilation_cache: str = fields.option(
    '',
    'Where compiled programs are kept for the next run, or off. Default: '
    "$JAX_COMPILATION_CACHE_DIR or the user's cache directory.",
    placeholder='DIR',
    recorded=False,
  )
  debug: bool = fields.option(
    False, 'Show tracebacks of mistakes.', recorded=False
  )

  def __post_init__(self):
    super().__post_init__()
    # JAX would cut a larger seed to 32 bits: two seeds, one run.
    for name in ('seed', 'rounds'):
      if getattr(self, name) > _MAX_INT:
        raise InputError(
          f'Expected {name} < 2**31, got {name}={getattr(self, name)}.'
        )


@dataclasses.dataclass(frozen=True)
class Program:
  """A program as its user sees it.

  Attributes:
    name: of the program, and of the folder of its presets.
    sentence: what it does.
    examples: commands, without `python -m experiments.NAME`, each with what it
      gives.
    configs: the configurations with their defaults, by name; a tuple of names
      among them is a group of more. All their fields are flags. `run` is a
      `RunConfig`; a tool that trains nothing has none.
    main: the work, called as `main(session, configs)` with `configs` as the
      command line has them; without a session if there is no `run` among them.
  """

  name: str
  sentence: str
  examples: Sequence[tuple[str, str]]
  configs: NamedTuple
  main: Callable[..., None]

  @property
  def is_training(self) -> bool:
    """Whether it is a run that resumes, and not a tool."""
    return 'run' in self.configs._fields


@dataclasses.dataclass(frozen=True)
class Session:
  """What a program is given for its work.

  Attributes:
    path: the work directory, not yet opened.
    config: what is recorded there.
    stop: tells of signals.
    processes: of the run. All do the same up to `part`, but process 0 alone
      writes, says and evaluates.
    stream: where to say it; None for standard error.
    deployment: the sites that methods train on; None to simulate clients.
  """

  path: pathlib.Path
  config: dict[str, Any]
  stop: stopping.StopSignal
  processes: Processes
  stream: TextIO | None = None
  deployment: 'Deployment | None' = None

  @functools.cached_property
  def progress(self) -> 'Progress':
    """Shows the advance."""
    from fedjax_gen.running import progress  # not needed to answer a mistake

    if not self.processes.is_writer:
      return progress.NONE
    return progress.progress(self.stream)

  def say(self, text: str) -> None:
    """Prints a line between those of the progress."""
    if self.processes.is_writer:
      print(text, file=self.stream or sys.stderr, flush=True)

  def part(self) -> None:
    """Ends the work of all processes but the first, which measures and draws.

    To be called after the last training: no collective may follow.
    """
    self.processes.release()

  def open_workdir(self, *, is_private: bool = False) -> workdir_lib.Workdir:
    """Opens the work directory, a context manager.

    Call it when everything that may be refused has been read and built: a
    mistake mended would otherwise find a run of another configuration there.

    Raises:
      InputError: the directory cannot be used.
      FinishedError: another process, which was waited for, finished the run.
    """
    return workdir_lib.Workdir(
      self.path,
      self.config,
      on_wait=self.say,
      processes=self.processes,
      is_private=is_private,
    )


def run(program: Program) -> None:
  """Runs a program and exits."""
  sys.exit(execute(program, sys.argv))


def execute(program: Program, argv: Sequence[str]) -> int:
  """Runs a program with a command line and returns its exit status."""
  for stream in (sys.stdout, sys.stderr):
    # A terminal that cannot show an arrow is no reason to fail.
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='replace')
  try:
    status = _answered(program, argv)
    sys.stdout.flush()
  except BrokenPipeError:  # as in `... --help | head`
    # Else the interpreter complains when it flushes at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE
  return status


def _answered(program: Program, argv: Sequence[str]) -> int:
  """Shows a text that is asked for, or runs and answers what goes wrong."""
  if {'-h', '--help', '-help'} & set(argv[1:]):
    print(_help(program, argv[0]))
    return 0
  if '--list_presets' in argv[1:]:
    print(preset_files.list_presets(program.name))
    return 0
  is_debug = bool({'--debug', '--debug=true'} & set(argv[1:]))
  try:
    with stopping.StopSignal() as stop:
      perform(program, argv, stop)
      return 0
  except BaseException as error:
    if (answer := _answer(error, program.is_training)) is None:
      raise
    if is_debug:
      traceback.print_exc()
    status, message = answer
    if message:
      print(f'{program.name}: {message}', file=sys.stderr)
    return status


def _answer(
  error: BaseException, is_run: bool = True
) -> tuple[int, str] | None:
  """Exit status and words for what is no defect of the program."""
  match error:
    case InputError():
      return 2, str(error)
    case stopping.DivergedError() | disk.DiskFullError():
      return 1, str(error)
    case EndedError():
      return error.status, str(error) if error.status else ''
    case stopping.StoppedError():
      hint = ' Run the same command again to resume.' if is_run else ''
      return 128 + error.signum, f'{error}{hint}'
  # JAX has no exception of its own for memory, on any device.
  if isinstance(error, MemoryError) or (
    isinstance(error, Exception) and 'RESOURCE_EXHAUSTED' in str(error)
  ):
    return 1, (
      f'Out of memory. {str(error).partition(chr(10))[0]}\n'
      'Ask for less at once: a smaller model, batch, block or sample.'
    )
  return None


def perform(
  program: Program,
  argv: Sequence[str],
  stop: stopping.StopSignal,
  stream: TextIO | None = None,
) -> pathlib.Path | None:
  """Runs a program with a command line, unless the run is finished.

  Returns:
    The work directory; None of a tool.

  Raises:
    InputError: a mistake in the command or the data.
    DivergedError: a loss or a parameter is not finite.
    DiskFullError: the disk is full.
    StoppedError: a signal arrived, and all is saved.
    EndedError: another process ended.
  """
  asked, several = _parse(program, argv)
  if not program.is_training:
    program.main(asked)
    return None
  configs = _by_name(asked)
  record: dict[str, Any] = {'experiment': program.name}
  for name, config in configs.items():
    record[name] = config_records.to_record(config)
  path = pathlib.Path(configs['run'].workdir or _default_path(record))
  if not several.is_given and _is_finished(path, record):
    return path  # JAX need not start
  processes = process_flags.start(
    several, getattr(configs.get('federation'), 'num_devices', 1)
  )
  try:
    _train(program, asked, Session(path, record, stop, processes, stream))
  except BaseException as error:
    cause = processes.cause(error)
    processes.end(*(_answer(cause) or (1, f'{type(cause).__name__}: {cause}')))
    if cause is error:
      raise
    raise cause from error
  processes.end(0)
  return path


def _is_finished(path: pathlib.Path, record: dict[str, Any]) -> bool:
  """Tells so if the run is finished."""
  is_finished = workdir_lib.finished_summary(path, record) is not None
  if is_finished:
    print(f'This run is finished: {path / "summary.json"}')
  return is_finished


def _train(program: Program, asked: Any, session: Session) -> None:
  """Runs the program in a process that has met the others."""
  processes, path = session.processes, session.path
  _check_commands(processes, session.config)
  if processes.from_writer(lambda: _is_finished(path, session.config)):
    return
  _prepare_jax(asked.run)
  with disk.full_disk_named(path):
    try:
      program.main(session, asked)
    except workdir_lib.FinishedError:
      print('The other process finished this run.')
  if processes.is_writer:
    print(f'Results: {path}')


def _check_commands(processes: Processes, record: dict[str, Any]) -> None:
  """Raises InputError, in all processes, if their commands differ."""
  everyones = processes.exchange(record)
  for name, theirs in zip(processes.names, everyones, strict=True):
    if lines := workdir_lib.different_fields(everyones[0], theirs):
      raise InputError(
        f'Expected the same flags in all processes; of {processes.names[0]} '
        f'(there) and {name} (here) differ:\n{lines}'
      )


def _parse(
  program: Program, argv: Sequence[str]
) -> tuple[Any, process_flags.DistributedConfig]:
  """The configurations that the command line asks for, and its processes."""
  given = _flag_values(program, argv)
  if name := 'preset' in given and given['preset'].value:
    # In front of the others, which win: the last value of a flag counts.
    flagfile = f'--flagfile={preset_files.preset_path(program.name, name)}'
    given = _flag_values(program, [argv[0], flagfile, *argv[1:]])
  asked = _from_flags(given, program.configs)
  several = process_flags.DistributedConfig()
  if program.is_training:
    several = config_flags.from_flags(given, several)
  return asked, several


def _from_flags(given: flags.FlagValues, configs: Any) -> Any:
  """The same configurations with the values given on the command line."""
  return configs._make(
    _from_flags(given, config)
    if isinstance(config, tuple)
    else config_flags.from_flags(given, config)
    for config in configs
  )


def _by_name(configs: Any) -> dict[str, Any]:
  """Configurations by name, those of a group like the others."""
  named: dict[str, Any] = {}
  for name, config in configs._asdict().items():
    named |= _by_name(config) if isinstance(config, tuple) else {name: config}
  return named


def _defaults(program: Program) -> list[Any]:
  """Configurations of the program, and that of every program that trains."""
  configs = list(_by_name(program.configs).values())
  if program.is_training:
    configs.append(process_flags.DistributedConfig())
  return configs


def _flag_values(program: Program, argv: Sequence[str]) -> flags.FlagValues:
  # Not absl's global flags: they hold those of every module imported.
  flag_values = flags.FlagValues()
  config_flags.define_flags(flag_values, *_defaults(program))
  config_flags.parse(flag_values, argv)
  return flag_values


def _help(program: Program, called: str) -> str:
  is_installed = called.startswith(f'{COMMAND} ')
  return help_page.text(
    called if is_installed else f'python -m experiments.{program.name}',
    program.sentence,
    program.examples,
    _defaults(program),
    is_training=program.is_training,
  )


def _default_path(record: dict[str, Any]) -> str:
  digest = hashlib.sha256(disk.to_json(record).encode()).hexdigest()
  return os.path.join('runs', f'{record["experiment"]}-{digest[:8]}')


def _prepare_jax(run_config: RunConfig) -> None:
  """Sets precision, quietens JAX and lets it find programs compiled before."""
  import jax

  cache, precision = run_config.compilation_cache, run_config.matmul_precision
  if precision != 'default':
    jax.config.update('jax_default_matmul_precision', precision)
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
