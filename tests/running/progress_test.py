import io

from fedjax_gen.running import progress as progress_lib


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


def test_the_first_step_which_compiles_is_no_estimate():
  times = iter([100.0, 103.0, 106.0])
  timer = progress_lib._Timer(10, lambda: next(times))
  assert timer.seconds_left(1) is None
  assert timer.seconds_left(2) == 3 * 8
  assert timer.seconds_left(4) == 2 * 6


def _plain(text):
  import re

  return re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', text)
