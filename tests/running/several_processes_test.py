"""One training in two processes: equal, killed, resumed, stopped, mistaken."""

import functools
import json
import pathlib
import shutil
import signal
import tempfile
import time

import numpy as np
import pytest

from tests.running import several

_SECONDS = 10  # of silence until a process counts as dead
_FLAGS = (
  '-m', 'experiments.fedvae', '--data=digits', '--num_clients=5',
  '--num_examples=100', '--num_test_examples=40', '--channels=2,4',
  '--latent_size=2', '--methods=federated', '--num_devices=0', '--rounds=6',
  '--eval_every=6', '--checkpoint_every=2', '--num_samples=20',
  '--importance_samples=0', f'--silence_seconds={_SECONDS}',
)  # fmt: skip


@functools.cache
def _home():
  """A folder for all runs and for what they compile."""
  return pathlib.Path(tempfile.mkdtemp(prefix='several_processes_test_'))


@pytest.fixture(scope='module', autouse=True)
def _clean():
  yield
  shutil.rmtree(_home(), ignore_errors=True)


def _start(name, num_processes, *flags):
  command = [*_FLAGS, f'--workdir={_home() / name}', *flags]
  return several.start(command, num_processes, cache=_home() / 'cache')


@functools.cache
def _trained(num_processes, *flags):
  """Trains to the end; returns the work directory."""
  name = f'run{num_processes}{"".join(flags)}'
  results = several.finish(_start(name, num_processes, *flags))
  assert [status for status, _ in results] == [0] * num_processes, results
  return _home() / name


def _digest(workdir):
  return json.loads((workdir / 'summary.json').read_text())['params_digest']


def _records(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def _wait_for_checkpoint(processes, workdir, number):
  path = workdir / 'checkpoints' / 'federated' / str(number)
  deadline = time.time() + several.TIMEOUT
  while not path.is_dir():
    running = [process.poll() is None for process in processes]
    assert all(running) and time.time() < deadline, several.finish(processes)
    time.sleep(0.02)


def test_two_processes_give_the_bits_of_one():
  one, two = (_trained(n, '--reproducible') for n in (1, 2))
  assert _digest(one) == _digest(two)


def test_two_processes_agree_with_one_to_float_tolerance():
  # By all metrics of all rounds, and the last of what is measured at the end.
  one, two = (_records(path) for path in (_trained(1, '--reproducible'),
                                          _trained(2)))  # fmt: skip
  assert len(one) == len(two) == 6  # written once, by one process
  for ours, theirs in zip(one, two, strict=True):
    assert ours.keys() == theirs.keys()
    del ours['method'], theirs['method']
    np.testing.assert_allclose(
      list(ours.values()), list(theirs.values()), rtol=1e-4
    )


@pytest.mark.parametrize('victim', [0, 1])
def test_a_killed_process_is_named_and_the_run_resumes_to_the_same_bits(victim):
  name = f'killed{victim}'
  # So many rounds that the kill comes in their midst.
  processes = _start(name, 2, '--reproducible', '--rounds=5000')
  _wait_for_checkpoint(processes, _home() / name, 4)
  processes[victim].kill()
  results = several.finish(processes)
  status, output = results[1 - victim]
  assert status == 1, output
  assert f'Lost process {victim} (' in output
  assert 'run the same commands again' in output
  assert 'Traceback' not in output
  assert len(output.splitlines()) < 40


def test_a_resumed_run_ends_with_the_bits_of_the_uninterrupted_one():
  name = 'resumed'
  processes = _start(name, 2, '--reproducible')
  _wait_for_checkpoint(processes, _home() / name, 2)
  processes[1].kill()
  several.finish(processes)
  # In one process, and then to the end: the topology may change.
  results = several.finish(_start(name, 2, '--reproducible'))
  assert [status for status, _ in results] == [0, 0], results
  assert 'resumed after' in results[0][1]
  assert _digest(_home() / name) == _digest(_trained(1, '--reproducible'))


def test_a_signal_to_one_process_stops_all_and_saves():
  name = 'stopped'
  processes = _start(name, 2, '--reproducible', '--rounds=5000')
  _wait_for_checkpoint(processes, _home() / name, 2)
  processes[1].send_signal(signal.SIGTERM)
  results = several.finish(processes)
  assert [status for status, _ in results] == [143, 143], results
  rounds = [record['round'] for record in _records(_home() / name)]
  path = _home() / name / 'checkpoints' / 'federated' / str(rounds[-1])
  assert path.is_dir()  # at the round where they stopped, due or not


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
