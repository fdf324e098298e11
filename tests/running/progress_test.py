import contextlib
import io
import time

import jax
import jax.numpy as jnp
import pytest

from fedjax_gen.running import progress as progress_lib
from fedjax_gen.running.compile_clock import CompileClock


class Terminal(io.StringIO):
  def isatty(self):
    return True


def _run(stream, num_rounds=200):
  progress = progress_lib.progress(stream)
  progress.start('federated', num_rounds, 0)
  for i in range(1, num_rounds + 1):
    progress.update(i, 100 / i)
  progress.close()
  return stream.getvalue()


def test_without_a_terminal_there_are_few_plain_lines():
  lines = _run(io.StringIO()).splitlines()
  assert 10 < len(lines) <= 22
  assert '\x1b' not in ''.join(lines)
  assert lines[-1].startswith('federated: 200/200  loss 0.5  0 s left')


def test_a_terminal_gets_a_bar_of_80_columns(monkeypatch):
  monkeypatch.setenv('TERM', 'xterm')
  monkeypatch.setenv('COLUMNS', '200')
  monkeypatch.delenv('NO_COLOR', raising=False)
  output = _run(Terminal())
  assert '\x1b[' in output
  assert '200/200' in output
  last = output.rsplit('\r', 1)[-1]
  assert len(_plain(last).strip('\n')) <= 80


def test_no_color_is_respected(monkeypatch):
  monkeypatch.setenv('TERM', 'xterm')
  monkeypatch.setenv('NO_COLOR', '1')
  assert '\x1b[3' not in _run(Terminal())


def test_a_dumb_terminal_gets_lines(monkeypatch):
  monkeypatch.setenv('TERM', 'dumb')
  assert '\x1b' not in _run(Terminal())


class Clock:
  """Stands for a `CompileClock`."""

  def __init__(self):
    self.seconds, self.is_compiling = 0.0, True


@pytest.fixture
def quick_pulse(monkeypatch):
  """Half minutes that are over in no time."""
  monkeypatch.setattr(progress_lib, '_SILENCE', 0.0)
  pulse = progress_lib._Pulse
  monkeypatch.setattr(
    progress_lib, '_Pulse', lambda seconds, beat: pulse(0.01, beat)
  )


def _wait_for(stream, words):
  for _ in range(500):
    if words in stream.getvalue():
      return
    time.sleep(0.01)
  raise AssertionError(f'{words!r} not in {stream.getvalue()!r}')


def test_where_rounds_are_slow_it_says_what_goes_on(quick_pulse):
  stream, clock = io.StringIO(), Clock()
  progress = progress_lib.progress(stream)
  with contextlib.closing(progress):
    progress.start('m', 3, 0, clock)
    _wait_for(stream, 'm: 0/3  compiling for ')
    clock.is_compiling, clock.seconds = False, 90.0
    _wait_for(stream, 'm: 0/3  running for ')
    progress.update(1, 2.0)
    _wait_for(stream, 'm: 1/3  loss 2  compiled for 1 min 30 s, ran for 0 s')
    _wait_for(stream, 'm: 1/3  running for ')
    progress.doing('evaluating')
    _wait_for(stream, 'm: 1/3  evaluating for ')
    clock.is_compiling = True
    _wait_for(stream, 'm: 1/3  evaluating, compiling for ')
  ended = stream.getvalue()
  time.sleep(0.1)
  assert stream.getvalue() == ended


def test_a_bar_says_what_goes_on(quick_pulse, monkeypatch):
  monkeypatch.setenv('TERM', 'xterm')
  monkeypatch.setattr(
    progress_lib._Phase, 'seconds', property(lambda phase: 40.0)
  )
  stream, clock = Terminal(), Clock()
  progress = progress_lib.progress(stream)
  with contextlib.closing(progress):
    progress.start('m', 3, 0, clock)
    _wait_for(stream, 'compiling for 40 s')
    clock.is_compiling = False
    _wait_for(stream, 'running for 40 s')


def test_a_clock_knows_what_jax_does():
  with CompileClock() as clock:
    assert clock.is_compiling
    seen = []

    def traced(x):
      seen.append(clock.is_compiling)
      return jnp.sin(x)

    jax.jit(traced)(1.0)
    assert not clock.is_compiling
    jax.jit(lambda x: jnp.cos(x)).lower(1.0)  # and not compiled
    assert clock.is_compiling
  assert seen == [True]


def test_the_first_step_which_compiles_is_no_estimate():
  times = iter([100.0, 103.0, 106.0])
  timer = progress_lib._Timer(10, lambda: next(times))
  assert timer.seconds_left(1) is None
  assert timer.seconds_left(2) == 3 * 8
  assert timer.seconds_left(4) == 2 * 6


def _plain(text):
  import re

  return re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', text)
