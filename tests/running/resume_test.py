"""A run killed, stopped or mistaken, driven from outside as its user would."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_TOY = pathlib.Path(__file__).with_name('toy.py')


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def start(cache):
  """Returns a function that starts the program."""
  env = os.environ | {
    'PYTHONPATH': str(_ROOT),
    'JAX_COMPILATION_CACHE_DIR': str(cache),
    'JAX_PLATFORMS': 'cpu',
  }

  def start(workdir, *args):
    return subprocess.Popen(
      [sys.executable, str(_TOY), f'--workdir={workdir}', *args],
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  return start


@pytest.fixture(scope='module')
def finish(start):
  """Returns a function that runs the program, to its status and output."""

  def finish(workdir, *args):
    process = start(workdir, *args)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output

  return finish


@pytest.fixture(scope='module')
def uninterrupted(finish, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('uninterrupted') / 'run'
  code, output = finish(workdir, '--rounds_per_step=2')
  assert code == 0, output
  return workdir


def _lines(workdir):
  try:
    return (workdir / 'metrics.jsonl').read_text().splitlines()
  except FileNotFoundError:
    return []


def _wait_for_lines(process, workdir, num_lines):
  while len(_lines(workdir)) < num_lines:
    assert process.poll() is None, process.communicate()[0]
    time.sleep(0.005)


def _summary(workdir):
  return json.loads((workdir / 'summary.json').read_text())


def test_killed_at_any_moment_the_run_ends_with_the_same_bits(
  start, finish, uninterrupted, tmp_path
):
  workdir = tmp_path / 'run'
  args = '--rounds_per_step=2', '--checkpoint_every=2', '--pause=0.03'
  # checkpoint_every is part of the configuration but not of the arithmetic.
  for num_lines in (1, 8, 17):
    process = start(workdir, *args)
    _wait_for_lines(process, workdir, num_lines)
    process.kill()
    process.communicate()
  code, output = finish(workdir, *args)
  assert code == 0, output
  assert 'resumed after' in output
  digest = _summary(workdir)['params_digest']
  assert digest == _summary(uninterrupted)['params_digest']
  # The logs agree too: each round of each method once.
  assert _lines(workdir)[-1] == _lines(uninterrupted)[-1]
  rounds = [(r['method'], r['round']) for r in map(json.loads, _lines(workdir))]
  assert sorted(rounds) == sorted(
    (m, r) for m in ('federated', 'central') for r in range(1, 13)
  )


@pytest.mark.parametrize(
  ('signum', 'status'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_saves_and_the_run_resumes_from_there(
  start, finish, uninterrupted, tmp_path, signum, status
):
  workdir = tmp_path / 'run'
  process = start(workdir, '--rounds_per_step=2', '--pause=0.2')
  _wait_for_lines(process, workdir, 2)
  process.send_signal(signum)
  output, _ = process.communicate(timeout=20)
  assert process.returncode == status
  assert 'Traceback' not in output
  assert 'Run the same command again to resume' in output
  # Saved at the end of the running step, between two due checkpoints.
  saved = {p.name for p in (workdir / 'checkpoints/federated').iterdir()}
  assert saved & {'2', '4'}
  code, output = finish(workdir, '--rounds_per_step=2')
  assert code == 0
  assert 'federated: 12 rounds, resumed after' in output
  digest = _summary(workdir)['params_digest']
  assert digest == _summary(uninterrupted)['params_digest']


def test_a_second_signal_ends_at_once(start, tmp_path):
  workdir = tmp_path / 'run'
  process = start(workdir, '--pause=2', '--rounds_per_step=3')
  _wait_for_lines(process, workdir, 3)
  time.sleep(0.3)  # into the next step
  process.send_signal(signal.SIGTERM)
  time.sleep(0.2)
  process.send_signal(signal.SIGINT)
  sent = time.time()
  output, _ = process.communicate(timeout=20)
  assert process.returncode == 130
  assert time.time() - sent < 1
  assert 'Signal again to stop at once' in output


def test_a_finished_run_answers_at_once_and_changes_nothing(
  finish, uninterrupted
):
  before = _snapshot(uninterrupted)
  started = time.time()
  code, output = finish(uninterrupted, '--rounds_per_step=2')
  assert code == 0
  assert 'finished' in output
  assert time.time() - started < 2  # JAX was not even imported
  assert _snapshot(uninterrupted) == before


def test_another_configuration_is_refused_and_changes_nothing(
  finish, uninterrupted
):
  before = _snapshot(uninterrupted)
  code, output = finish(uninterrupted, '--learning_rate=0.2', '--seed=4')
  assert code == 2
  assert 'toy.learning_rate: 0.1 there, 0.2 here' in output
  assert 'run.seed: 0 there, 4 here' in output
  assert 'run.rounds_per_step: 2 there, 1 here' in output
  assert 'rounds:' not in output  # what agrees is not listed
  assert _snapshot(uninterrupted) == before


def _snapshot(directory):
  return {
    p: (p.stat().st_mtime_ns, p.stat().st_size) for p in directory.rglob('*')
  }


@pytest.mark.parametrize('is_killed', [True, False])
def test_a_second_run_in_one_directory_waits_for_the_first(
  start, finish, tmp_path, is_killed
):
  workdir = tmp_path / 'run'
  first = start(workdir, '--pause=0.3')
  _wait_for_lines(first, workdir, 1)
  second = start(workdir)
  output = second.stdout.readline()
  if is_killed:
    first.kill()
  first.communicate()
  output += second.communicate()[0]
  assert second.returncode == 0
  assert 'Another process is running' in output
  # It either finds the run finished or takes it from where the first fell.
  assert ('The other process finished' in output) == (not is_killed)
  assert (workdir / 'summary.json').exists()


def test_a_divergence_names_round_and_clients_and_keeps_the_checkpoint(
  finish, tmp_path
):
  workdir = tmp_path / 'run'
  code, output = finish(workdir, '--nan_round=8', '--rounds_per_step=2')
  assert code == 1
  assert 'Traceback' not in output
  assert 'federated diverged: loss is nan in round 8, from client 7' in output
  # Checkpoints fall due at 5, that is at the end of the step that passes it.
  assert f'{workdir}/checkpoints/federated/6' in output
  assert (workdir / 'checkpoints/federated/6').is_dir()
  assert not (workdir / 'checkpoints/federated/8').exists()
  assert json.loads(_lines(workdir)[-1])['loss'] is None


def test_a_damaged_checkpoint_is_named_and_can_be_deleted(
  start, finish, uninterrupted, tmp_path
):
  workdir = tmp_path / 'run'
  process = start(workdir, '--rounds_per_step=2', '--pause=0.1')
  _wait_for_lines(process, workdir, 8)
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=20)
  checkpoints = workdir / 'checkpoints/federated'
  last = max(checkpoints.iterdir(), key=lambda p: int(p.name))
  for file in last.rglob('*'):
    if file.is_file():
      file.write_bytes(b'rubbish')
  code, output = finish(workdir, '--rounds_per_step=2')
  assert code == 2
  assert str(last) in output
  assert 'Traceback' not in output
  subprocess.run(['rm', '-r', str(last)], check=True)
  code, output = finish(workdir, '--rounds_per_step=2')
  assert code == 0
  assert (
    _summary(workdir)['params_digest']
    == _summary(uninterrupted)['params_digest']
  )
