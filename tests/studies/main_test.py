"""`fedjax-gen`, the one command for all programs, and every program's help."""

import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

import fedjax_gen
from fedjax_gen.studies.command import main as command, program

_ROOT = pathlib.Path(__file__).parents[2]
# Those between machines are commands of the installed package alone.
_BINARIES = [n for n in command.PROGRAMS if n not in ('coordinate', 'site')]


@pytest.fixture
def execute(capsys):
  """Runs a command line; returns its status, output and errors."""

  def execute(*args):
    status = command.execute(args)
    captured = capsys.readouterr()
    return status, captured.out, captured.err

  return execute


def _help_of_fedvae(stdout, **environment):
  """Has a process of its own show a help; returns status, output, errors."""
  ended = subprocess.run(
    [sys.executable, '-m', 'experiments', 'fedvae', '--help'],
    cwd=_ROOT,
    env=os.environ | environment,
    stdout=stdout,
    stderr=subprocess.PIPE,
    check=False,
  )
  return ended.returncode, ended.stdout, ended.stderr


def test_its_help_lists_every_program(execute):
  status, out, err = execute('--help')
  assert (status, err) == (0, '')
  assert execute() == (0, out, '')
  files = _ROOT.glob('experiments/[!_]*.py')
  assert set(_BINARIES) == {path.stem for path in files}
  assert all(f'\n  {name} ' in out for name in command.PROGRAMS)
  assert max(map(len, out.splitlines())) <= 80
  assert execute('--version')[1] == f'fedjax-gen {fedjax_gen.__version__}\n'


def _flags(configs):
  """Names of all flags of a program, whose configurations may be nested."""
  for config in configs:
    if isinstance(config, tuple):
      yield from _flags(config)
    else:
      yield from (field.name for field in dataclasses.fields(config))


@pytest.mark.parametrize('name', _BINARIES)
@pytest.mark.parametrize('is_installed', [True, False])
def test_help_is_a_sentence_examples_flags_and_exit_codes(
  execute, capsys, name, is_installed
):
  found = command.program_of(name)
  assert found.sentence == command.PROGRAMS[name]
  if is_installed:
    status, out, _ = execute(name, '--help')
  else:
    argv = [f'experiments/{name}.py', '--help']
    status = program.execute(found, argv)
    out = capsys.readouterr().out
  assert status == 0
  sentence, examples, *_, end = out.split('\n\n')
  assert ' '.join(sentence.split()) == command.PROGRAMS[name]
  called = (
    f'  {"fedjax-gen " if is_installed else "python -m experiments."}{name}'
  )
  assert examples.count(called) >= 3
  for words in ('0 done', '1 ', '2 mistake', '130 or 143'):
    assert words in end
  lines = out.splitlines()
  assert max(map(len, lines)) <= 80
  # Every flag is there, and explained in a sentence.
  shown = set(re.findall(r'^ +--(?:\[no\])?(\w+)', out, flags=re.MULTILINE))
  assert set(_flags(found.configs)) <= shown
  assert not [line for line in lines if line.strip() == 'Default: off.']


def test_a_program_is_run_with_its_flags(execute):
  status, _, err = execute('generate', '--num=0')
  assert status == 2
  assert err == 'generate: Expected num to be a whole number > 0, got num=0.\n'
  status, out, _ = execute('fedvae', '--list_presets')
  assert status == 0
  assert '--preset=paper_mnist' in out


def test_a_mistaken_name_is_answered_in_a_line(execute):
  status, out, err = execute('fedva', '--rounds=1')
  assert (status, out) == (2, '')
  assert "no program 'fedva'. Did you mean fedvae?" in err
  assert len(err.splitlines()) == 1


def test_a_reader_that_goes_away_sees_no_traceback():
  reader, writer = os.pipe()
  os.close(reader)
  assert _help_of_fedvae(writer) == (141, None, b'')
  os.close(writer)


def test_a_signal_while_a_program_is_imported_leaves_no_traceback():
  script = """
import os, signal
from fedjax_gen.studies.command import main as command, program
stop = lambda name: os.kill(os.getpid(), signal.SIGINT)
command.importlib.import_module = stop
command.main()
"""
  ended = subprocess.run(
    [sys.executable, '-c', script, 'fedvae'],
    cwd=_ROOT,
    capture_output=True,
    check=False,
  )
  # A shell says 130 of it.
  assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b'')


def test_what_a_terminal_cannot_show_is_replaced():
  status, out, err = _help_of_fedvae(subprocess.PIPE, PYTHONIOENCODING='ascii')
  assert (status, err) == (0, b'')
  assert out.isascii() and out.startswith(b'Trains one VAE')
