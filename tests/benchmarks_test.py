"""The benchmark of a round: its work is work, its ratios are ratios."""

import json
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from benchmarks import run
from benchmarks.contestants import dense, naive_vmap, ours
from benchmarks.tasks import Task


def test_operations_are_those_of_the_layers():
  # Forward, and backward twice that, but no gradient of the pixels.
  macs = 784 * 256 + 256 * 32 + 16 * 256 + 256 * 784
  expected = 2 * (3 * macs - 784 * 256) * 2 * 3 * 4
  assert Task('mlp_vae', clients=2, steps=3, batch=4).flops == expected


@pytest.mark.parametrize('option', ['one', 'all'])
def test_a_round_of_ours_descends(option):
  contestant = ours.build(Task('mlp_vae', 2, 2, 8), option)
  before = jax.tree.map(np.asarray, contestant._state.server.variables)
  contestant()
  after = contestant._state.server.variables
  moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), before, after)
  assert min(jax.tree.leaves(moved)) > 0


def test_the_others_in_jax_train_the_same_model():
  task = Task('conv_vae', 2, 2, 2)
  shapes = [
    sorted(leaf.shape for leaf in jax.tree.leaves(tree))
    for tree in (
      naive_vmap.build(task)._variables,
      dense.build(task)._variables,
      ours.build(task, 'one')._state.server.variables,
    )
  ]
  assert shapes[0] == shapes[1] == shapes[2]


def test_who_dies_in_a_round_is_absent(monkeypatch):
  monkeypatch.setattr(run, '_START_SECONDS', 60)
  contestant = run._Contestant('gemm', Task('mlp_vae', 1, 1, 1), sys.executable)
  contestant.wait()
  assert contestant.absent is None
  contestant._process.kill()
  contestant._process.wait()
  contestant.round()
  assert contestant.absent == 'no answer'
  assert not contestant.rounds


def test_rows_compare_with_the_loop_and_the_peak():
  def contestant(name, seconds, **more):
    answers = [{'seconds': s, 'peak_memory_mib': 1, **more} for s in seconds]
    return types.SimpleNamespace(
      name=name, task=task, rounds=answers, first={'compile_seconds': None}
    )

  task = Task('mlp_vae', 2, 3, 4)
  rows = run._rows(
    task,
    [
      contestant('ours:auto', [1.0, 2.0, 9.0]),  # the median counts
      contestant('torch_loop', [4.0]),
      contestant('gemm', [2.0, 1.0], flops=10 * task.flops),  # the best
    ],
  )
  auto, torch = rows
  assert auto['samples_per_second'] == 24 / 2
  assert auto['ratio_to_torch_loop'] == 2
  assert torch['ratio_to_naive_vmap'] is None
  assert auto['fraction_of_gemm_peak'] == pytest.approx(1 / 20)
  assert 'auto' in run._table(rows)


def test_what_is_not_installed_is_left_out():
  script = (
    "import sys; sys.modules['torch'] = None\n"
    'from benchmarks import worker\n'
    "worker.main('torch_loop', sys.argv[1])\n"
  )
  record = json.dumps(Task('mlp_vae', 2, 1, 2).record())
  done = subprocess.run(
    [sys.executable, '-c', script, record],
    capture_output=True,
    text=True,
    check=True,
    timeout=60,
  )
  assert 'torch' in json.loads(done.stdout)['absent']
