"""One training in two processes: equal, killed, resumed, stopped, mistaken."""

import functools
import json
import pathlib
import shutil
import signal
import tempfile
import time

import pytest

from tests.running import several

_SECONDS = 6  # of silence until a process counts as dead
_ROUNDS = 60  # so many that an interruption comes in their midst
_FLAGS = (
  '-m', 'experiments.fedvae', '--methods=federated', '--num_devices=0',
  '--reproducible', f'--rounds={_ROUNDS}', f'--eval_every={_ROUNDS}',
  '--checkpoint_every=2', f'--silence_seconds={_SECONDS}',
  '--data=digits_features', '--model=mlp', '--hidden_size=16',
  '--num_clients=5', '--num_examples=100', '--num_test_examples=40',
  '--latent_size=2', '--num_samples=20',
  '--importance_samples=0',
)  # fmt: skip


@functools.cache
def _home():
  """A folder for all runs and for what they compile."""
  return pathlib.Path(tempfile.mkdtemp(prefix='several_processes_test_'))


@pytest.fixture(scope='module', autouse=True)
def _clean():
  yield
  shutil.rmtree(_home(), ignore_errors=True)


def _start(name, num_processes, num_devices=1):
  return several.start(
    [*_FLAGS, f'--workdir={_home() / name}'],
    num_processes, num_devices, _home() / 'cache',
  )  # fmt: skip


def _digest(workdir):
  return json.loads((workdir / 'summary.json').read_text())['params_digest']


def _records(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def _last_saved():
  path = _home() / 'run' / 'checkpoints' / 'federated'
  return max(
    (int(p.name) for p in path.glob('*') if p.name.isdigit()), default=0
  )


def _interrupted(victim, signum):
  """Signals one of two processes as soon as they have saved something new."""
  before, deadline = _last_saved(), time.time() + several.TIMEOUT
  processes = _start('run', 2)
  while _last_saved() == before:
    running = [process.poll() is None for process in processes]
    assert all(running) and time.time() < deadline, several.finish(processes)
    time.sleep(0.02)
  processes[victim].send_signal(signum)
  return several.finish(processes)


# One run in two processes, interrupted three times: each step is where the one
# before left it. A test of any step runs those that it needs.


@functools.cache
def _stopped():
  """One process gets a signal; returns what both say, and the last round."""
  results = _interrupted(1, signal.SIGTERM)
  return results, _records(_home() / 'run')[-1]['round']


@functools.cache
def _killed(victim):
  """One process is killed; returns status and output of the other."""
  _stopped() if victim else _killed(1)
  return _interrupted(victim, signal.SIGKILL)[1 - victim]


@functools.cache
def _resumed():
  """To the end, now on four devices; returns what both say."""
  _killed(0)
  return several.finish(_start('run', 2, num_devices=2))


def test_a_signal_to_one_process_stops_all_at_one_round_and_saves_it():
  results, last = _stopped()
  assert [status for status, _ in results] == [143, 143], results
  assert last < _ROUNDS
  assert (_home() / f'run/checkpoints/federated/{last}').is_dir()


@pytest.mark.parametrize('victim', [1, 0])
def test_the_other_process_names_the_one_that_was_killed(victim):
  status, output = _killed(victim)
  assert status == 1, output
  assert f'Lost process {victim} (' in output
  assert 'run the same commands again' in output
  assert 'Traceback' not in output
  assert len(output.splitlines()) < 40


def test_resumed_in_two_processes_a_run_ends_with_the_bits_of_one():
  results = _resumed()
  assert [status for status, _ in results] == [0, 0], results
  assert 'resumed after' in results[0][1]
  assert 'resumed after' not in results[1][1]  # one process tells for all
  [alone] = several.finish(_start('alone', 1))
  assert alone[0] == 0, alone
  assert _digest(_home() / 'run') == _digest(_home() / 'alone')
  # Every round once, with the same numbers, whoever computed it.
  ours, theirs = (_records(_home() / name) for name in ('run', 'alone'))
  assert [r['round'] for r in ours] == list(range(1, _ROUNDS + 1))
  assert [r['loss'] for r in ours] == [r['loss'] for r in theirs]


def test_another_command_in_one_process_is_refused_in_all():
  address = f'--coordinator=127.0.0.1:{several.free_port()}'
  processes = [
    several.start(
      [*_FLAGS, f'--workdir={_home() / "other"}', f'--seed={i}',
       address, '--num_processes=2', f'--process_id={i}'],
      1, cache=_home() / 'cache',
    )[0]
    for i in range(2)
  ]  # fmt: skip
  for status, output in several.finish(processes):
    assert status == 2
    assert 'run.seed: 0 there, 1 here' in output
  assert not (_home() / 'other').exists()


def test_a_coordinator_that_is_not_there_is_named():
  port = several.free_port()
  [process] = several.start(
    [*_FLAGS, f'--coordinator=127.0.0.1:{port}', '--num_processes=2',
     '--process_id=1', '--start_seconds=1'],
    1,
  )  # fmt: skip
  [(status, output)] = several.finish([process])
  assert status == 2
  assert f'Cannot reach --coordinator=127.0.0.1:{port} within 1 s' in output
