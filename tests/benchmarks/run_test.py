"""The benchmark of a round: its ratios are ratios."""

import types

import pytest

from benchmarks import run
from benchmarks.tasks import Task


def test_rows_compare_with_the_loop_and_the_peak():
  def contestant(name, seconds, **costs):
    return types.SimpleNamespace(
      name=name,
      task=task,
      first={'compile_seconds': None},
      rounds=[{'seconds': s, 'peak_memory_mib': 1} for s in seconds],
      costs=costs,
    )

  task = Task('mlp_vae', 2, 3, 4)
  rows = run._rows(
    task,
    [
      # The median counts.
      contestant('ours:auto', [1.0, 2.0, 9.0], bytes_moved=48e9),
      contestant('torch_loop', [4.0]),
      # The best counts.
      contestant('gemm', [2.0, 1.0], flops=10 * task.flops),
      contestant('copy', [4.0, 1.0], bytes_moved=96e9),
    ],
  )
  auto, torch = rows
  assert auto['samples_per_second'] == 24 / 2
  assert auto['ratio_to_torch_loop'] == 2
  assert torch['ratio_to_naive_vmap'] is None
  assert auto['fraction_of_gemm_peak'] == pytest.approx(1 / 20)
  assert auto['gigabytes_per_second'] == pytest.approx(24)
  assert auto['fraction_of_copy'] == pytest.approx(1 / 4)
  assert torch['fraction_of_copy'] is None
  needed = task.bytes_needed / 96e9
  assert torch['needed_fraction_of_copy'] == pytest.approx(needed / 4)
  assert 'auto' in run._table(rows)
  # Of columns that nobody has, nothing is shown.
  assert '/ loop' not in run._table(rows)
