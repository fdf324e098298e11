"""A population in files survives a kill, and the run ends with its bits."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import chex
import jax
import numpy as np

from fedjax_gen.federated import sampling
from fedjax_gen.running import leaves
from fedjax_gen.running.storage.population_checkpoints import (
  PopulationCheckpoints,
)
from fedjax_gen.streaming import streamed
from tests.streaming import toys

_ROOT = pathlib.Path(__file__).parents[2]


def _start(path, cache, pause):
  env = os.environ | {
    'PYTHONPATH': str(_ROOT),
    'JAX_COMPILATION_CACHE_DIR': str(cache),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PLATFORMS': 'cpu',
  }
  return subprocess.Popen(
    [sys.executable, '-m', 'tests.streaming.program', path, str(pause)],
    env=env,
    cwd=_ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _finish(process, path):
  output, _ = process.communicate(timeout=60)
  assert process.returncode == 0, output
  return (path / 'digest.txt').read_text()


def _num_rounds(path):
  log = path / 'metrics.jsonl'
  return len(log.read_text().splitlines()) if log.exists() else 0


def test_killed_and_resumed_the_population_has_the_same_bits(tmp_path):
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  expected = _finish(_start(whole, tmp_path / 'cache', 0), whole)
  process = _start(killed, tmp_path / 'cache', 0.05)
  while _num_rounds(killed) < 11:  # two after a checkpoint
    assert process.poll() is None, process.communicate()[0]
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert not (killed / 'digest.txt').exists()
  assert _finish(_start(killed, tmp_path / 'cache', 0), killed) == expected


def test_every_checkpoint_keeps_its_population(tmp_path):
  _, data = toys.datasets()
  init_key, key = jax.random.split(jax.random.key(0))
  samplers = [sampling.uniform(7)]

  def opened():
    run = streamed.streamed_runner(
      toys.keeping(), [data], init_key, folder=tmp_path, samplers=samplers
    )
    return run, PopulationCheckpoints(
      tmp_path / 'checkpoints', population=run, best_metric='score'
    )

  run, checkpoints = opened()
  everyone = np.arange(len(toys.SIZES))
  state, then = run.init_state(), {}
  for number, score in enumerate((0, 9, 1, 2, 3), start=1):
    state, _ = run(state, [data], key, 1)
    checkpoints.save(number, state, metrics={'score': score})
    then[number] = run.client_states(state, everyone)
    state, _ = run(state, [data], key, 1)
  assert checkpoints.rounds() == [2, 4, 5]

  # Another process goes on from the last, and the other two stay as well.
  target = leaves.abstract(jax.tree.map(jax.numpy.asarray, state))
  run, checkpoints = opened()
  run(checkpoints.restore(target).state, [data], key, 5)
  for number in checkpoints.rounds():
    restored = checkpoints.restore(target, number).state
    kept = run.client_states(restored, everyone)
    chex.assert_trees_all_equal(kept, then[number])
