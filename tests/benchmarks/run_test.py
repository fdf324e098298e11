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


def test_only_what_is_asked_for_takes_part(capsys):
  flags = run._flags(['--contestants=ours:auto,torch_loop', '--quick'])
  task = Task('conv_vae', 100, 4, 128)
  assert run._names(task, flags) == ['ours:auto', 'torch_loop', 'gemm', 'copy']
  assert capsys.readouterr().out == ''  # nothing was left out
  with pytest.raises(SystemExit):
    run._flags(['--contestants=torch_lop'])
  assert 'torch_lop' in capsys.readouterr().err


def test_what_holds_all_clients_at_once_is_left_out_where_they_are_many(capsys):
  flags = run._flags(['--contestants=ours:auto,ours:all'])
  names = run._names(Task('conv_vae', 1000, 4, 128), flags)
  assert names == ['ours:auto', 'gemm', 'copy']
  assert capsys.readouterr().out == '  without ours:all: memory\n'
