import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_gen import validate
from fedjax_gen.errors import InputError
from fedjax_gen.running.stopping import DivergedError
from fedjax_gen.running.storage.disk import DiskFullError
from fedjax_gen.studies.command import config_flags, preset_files, program


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The model.

  More words, which the help leaves out.
  """

  alpha: float = dataclasses.field(
    default=0.5, metadata={'help': 'Concentration of labels on clients.'}
  )
  likelihood: str = dataclasses.field(
    default='bernoulli',
    metadata={'help': 'Of a pixel.', 'choices': ('bernoulli', 'gaussian')},
  )
  widths: tuple[int, ...] = (512, 256)
  limit: int | None = None
  conditional: bool = False

  def __post_init__(self):
    validate.positive(alpha=self.alpha)


class Configs(NamedTuple):
  run: program.RunConfig = program.RunConfig(rounds=15)
  model: ModelConfig = ModelConfig()


class ToolConfigs(NamedTuple):
  model: ModelConfig = ModelConfig()


@pytest.fixture
def execute(tmp_path, monkeypatch, capsys):
  """Runs a command line; returns status, output, errors, configurations."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(program, '_prepare_jax', lambda cache: None)

  def execute(*args, main=None):
    seen = {}

    def remember(session, asked):
      seen.update(asked._asdict(), session=session)
      if main:
        main(session)

    remembering = dataclasses.replace(PROGRAM, main=remember)
    code = program.execute(remembering, ['toy', *args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err, seen

  return execute


@pytest.fixture
def preset(tmp_path, monkeypatch):
  folder = tmp_path / 'presets' / 'toy'
  folder.mkdir(parents=True)
  (folder / 'paper.flags').write_text(
    '# As published: 3 min on 2 cores, ELBO -30.\n#\n'
    '--rounds=7\n# a reason\n--alpha=0.1\n'
  )
  monkeypatch.setattr(preset_files, '_ROOT', tmp_path / 'presets')


def test_no_flag_gives_the_programs_own_defaults(execute):
  code, _, _, seen = execute()
  assert code == 0
  assert seen['run'].rounds == 15
  assert seen['model'] == ModelConfig()


def test_each_type_of_field_is_read(execute):
  *_, seen = execute(
    '--alpha=2',
    '--likelihood=gaussian',
    '--widths=8,4',
    '--limit=3',
    '--conditional',
  )
  assert seen['model'] == ModelConfig(2.0, 'gaussian', (8, 4), 3, True)
  assert execute('--noconditional', '--widths=')[-1]['model'] == ModelConfig(
    widths=()
  )


@pytest.mark.parametrize(
  ('args', 'words'),
  [
    (['--seed=abc'], '--seed=abc: expected a whole number'),
    (['--seed=-1'], 'seed'),
    (['--rounds=0'], 'rounds'),
    (['--alpha=much'], '--alpha=much: expected a number'),
    (['--alpha=nan'], 'Expected alpha > 0'),
    (['--widths=1,x'], 'expected a whole number'),
    (['--likelihood=gausian'], 'did you mean gaussian'),
    (['--conditional=perhaps'], 'conditional'),
    (['--learnin_rate=1'], 'There is no flag --learnin_rate'),
    (['--eval-every=1'], 'Did you mean --eval_every?'),
    (['--seed'], 'Missing value'),
    (['digits'], "Cannot use 'digits'"),
    (['--flagfile=/none/such'], '/none/such'),
    (['--preset=nope'], "no preset 'nope' of toy. There are: paper."),
    (['--workdir=/dev/null'], '/dev/null'),
  ],
)
def test_a_mistake_is_answered_in_a_line(execute, preset, args, words):
  code, out, err, seen = execute(*args)
  assert code == 2
  assert not seen  # the program did not start
  assert out == ''
  assert err.startswith('toy: ')
  assert words in err
  assert len(err.splitlines()) == 1


def test_a_preset_gives_defaults_and_explicit_flags_win(execute, preset):
  *_, seen = execute('--preset=paper')
  assert (seen['run'].rounds, seen['model'].alpha) == (7, 0.1)
  *_, seen = execute('--rounds=2', '--preset', 'paper')
  assert (seen['run'].rounds, seen['model'].alpha) == (2, 0.1)


def test_presets_are_listed_with_their_recipe(execute, preset):
  code, out, _, _ = execute('--list_presets')
  assert code == 0
  assert (
    out == '--preset=paper\n  As published: 3 min on 2 cores, ELBO -30.\n\n'
  )


def test_a_flagfile_is_read(execute, tmp_path):
  (tmp_path / 'my.flags').write_text('--rounds=4\n')
  assert execute('--flagfile=my.flags')[-1]['run'].rounds == 4


def test_help_is_for_newcomers(execute):
  code, out, _, _ = execute('--help')
  assert code == 0
  assert out.startswith('Trains nothing.\n\nExamples:\n')
  assert out.count('python -m experiments.toy') == 3
  assert (
    '--likelihood=TEXT       Of a pixel. One of: bernoulli, gaussian.' in out
  )
  assert 'The model:\n' in out
  assert '--[no]conditional' in out
  assert 'Default: 512,256.' in out
  assert max(map(len, out.splitlines())) <= 80
  assert 'alsologtostderr' not in out  # none of absl's own flags


@pytest.mark.parametrize(
  ('error', 'status'),
  [
    (InputError('no such data'), 2),
    (DivergedError('loss is nan'), 1),
    (DiskFullError('no space'), 1),
  ],
)
def test_each_error_has_its_status_and_no_traceback(execute, error, status):
  def main(session):
    raise error

  code, _, err, _ = execute(main=main)
  assert code == status
  assert err == f'toy: {error}\n'
  code, _, err, _ = execute('--debug', main=main)
  assert code == status
  assert 'Traceback' in err


def test_a_defect_is_not_hidden(execute):
  def main(session):
    raise KeyError('defect')

  with pytest.raises(KeyError):
    execute(main=main)


@pytest.mark.parametrize(
  ('signum', 'status'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_outside_of_training_ends_at_once(execute, signum, status):
  def main(session):
    os.kill(os.getpid(), signum)
    raise AssertionError('went on')

  code, _, err, _ = execute(main=main)
  assert code == status
  assert 'to resume' in err
  assert len(err.splitlines()) == 1


def test_a_tool_that_is_stopped_has_nothing_to_resume(capsys):
  def main(asked):
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError('went on')

  tool = dataclasses.replace(PROGRAM, configs=ToolConfigs(), main=main)
  assert program.execute(tool, ['toy']) == 143
  assert capsys.readouterr().err == 'toy: Stopped by SIGTERM.\n'


def test_the_default_directory_follows_the_configuration(execute):
  def path(*args):
    return execute(*args)[-1]['session'].path

  assert path() == path()
  assert path().parts[0] == 'runs'
  assert path('--seed=1') != path()
  # What cannot change the numbers does not change the directory.
  assert path('--debug', '--compilation_cache=off') == path()


def test_a_mistake_in_the_data_leaves_no_directory(execute, tmp_path):
  def main(session):
    raise InputError('no such data')

  execute('--workdir=run', main=main)
  assert not (tmp_path / 'run').exists()


def test_a_finished_run_is_not_started_again(execute):
  def main(session):
    with session.open_workdir() as workdir:
      workdir.write_summary({})

  assert execute('--workdir=run', main=main)[-1]
  code, out, _, seen = execute('--workdir=run', '--debug', main=main)
  assert code == 0
  assert not seen
  assert 'finished' in out
  code, _, err, seen = execute('--workdir=run', '--alpha=1', main=main)
  assert code == 2
  assert not seen
  assert 'model.alpha: 0.5 there, 1.0 here' in err


def test_common_is_quick_because_it_does_not_import_jax():
  root = pathlib.Path(__file__).parents[2]
  subprocess.run(
    [
      sys.executable,
      '-c',
      'import sys; from fedjax_gen.studies.command import program; '
      'assert "jax" not in sys.modules',
    ],
    cwd=root,
    check=True,
  )


def test_two_fields_of_one_name_are_a_defect():
  from absl import flags

  with pytest.raises(flags.DuplicateFlagError):
    config_flags.define_flags(flags.FlagValues(), ModelConfig(), ModelConfig())


def test_a_field_that_no_command_line_can_write_is_a_defect():
  from absl import flags

  @dataclasses.dataclass(frozen=True)
  class Odd:
    table: dict

  with pytest.raises(TypeError, match='table'):
    config_flags.define_flags(flags.FlagValues(), Odd({}))


_prepare_jax = program._prepare_jax


@pytest.mark.parametrize(
  'precision, expected', [('float32', 'HIGHEST'), ('bfloat16', 'DEFAULT')]
)
def test_precision_of_products_is_that_of_the_flag(precision, expected):
  config = program.RunConfig(
    matmul_precision=precision, compilation_cache='off'
  )
  square = np.ones((2, 2), np.float32)
  names = ('jax_default_matmul_precision', 'jax_enable_compilation_cache')
  before = {name: getattr(jax.config, name) for name in names}
  try:
    _prepare_jax(config)
    text = jax.jit(jnp.matmul).lower(square, square).as_text()
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
  assert f'precision = [{expected}, {expected}]' in text


def test_an_unknown_precision_is_a_mistake(execute):
  code, _, err, _ = execute('--matmul_precision=float8')
  assert code == 2
  assert 'float8' in err


PROGRAM = program.Program(
  name='toy',
  sentence='Trains nothing.',
  examples=[
    ('', 'everything by default'),
    ('--rounds=3', 'three rounds'),
    ('--preset=paper', 'as published'),
  ],
  configs=Configs(),
  main=lambda session, asked: None,
)
