"""The benchmark of a round: its work is work, its ratios are ratios."""

import json
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from benchmarks import profile, run
from benchmarks.contestants import naive_vmap, ours
from benchmarks.hlo import Cost, Program
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


def test_the_naive_round_trains_the_same_model():
  task = Task('conv_vae', 2, 2, 2)
  naive, mapped = naive_vmap.build(task), ours.build(task, 'one')
  shapes = [
    sorted(leaf.shape for leaf in jax.tree.leaves(tree))
    for tree in (naive._variables, mapped._state.server.variables)
  ]
  assert shapes[0] == shapes[1]


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


def test_a_profile_counts_the_operations_of_the_layers():
  task = Task('mlp_vae', 2, 2, 8)
  contestant = ours.build(task, 'one')
  program = Program(contestant.text())
  costs = profile.by_label(program, profile.traced(contestant), 4)
  # Besides them stand sums that are written as products with ones.
  total = sum(cost.flops for cost in costs.values())
  assert 1 <= total / (task.flops / 4) < 1.01
  assert costs['Dense_0 forward, products'].flops == 2 * 8 * 784 * 256
  # Reads images and weights and writes activations, each once.
  numbers = 8 * 784 + 784 * 256 + 8 * 256
  assert costs['Dense_0 forward, products'].bytes == 4 * numbers
  assert min(cost.seconds for cost in costs.values()) > 0
  rows = profile.table(costs, 1e9, 1e9).splitlines()
  assert len(rows) == 1 + len(costs) + 1
  assert rows[-1].startswith('all')


def test_a_loop_that_reads_a_part_is_charged_for_the_part():
  program = Program("""
%fused (param_0.1: f32[8,4], param_1.2: f32[2,4]) -> f32[2,4] {
  %param_0.1 = f32[8,4]{1,0} parameter(0)
  %slice.1 = f32[2,4]{1,0} slice(%param_0.1), slice={[0:2], [0:4]}
  %param_1.2 = f32[2,4]{1,0} parameter(1)
  ROOT %add.1 = f32[2,4]{1,0} add(%slice.1, %param_1.2)
}

ENTRY %main (a.1: f32[8,4], b.1: f32[2,4]) -> f32[2,4] {
  %a.1 = f32[8,4]{1,0} parameter(0)
  %b.1 = f32[2,4]{1,0} parameter(1)
  ROOT %fusion.1 = f32[2,4]{1,0} fusion(%a.1, %b.1), kind=kLoop, calls=%fused
}
""")
  assert program.cost('fusion.1') == Cost(0.0, 0.0, 3 * 8 * 4)
