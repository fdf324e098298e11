"""Where a client's step spends its time."""

import functools
import os
import re

from benchmarks import profile
from benchmarks.contestants import ours
from benchmarks.hlo import Program
from benchmarks.tasks import Task

_TASK = Task('mlp_vae', 2, 2, 8)


@functools.cache
def _contestant():
  return ours.build(_TASK, 'one')


def test_a_profile_counts_the_operations_of_the_layers():
  contestant = _contestant()
  program = Program(contestant.text())
  costs = profile.by_label(program, profile.traced(contestant), 4)
  # Besides them stand sums that are written as products with ones.
  total = sum(cost.flops for cost in costs.values())
  assert 1 <= total / (_TASK.flops / 4) < 1.01
  assert costs['Dense_0 forward, products'].flops == 2 * 8 * 784 * 256
  # Reads images and weights and writes activations, each once.
  numbers = 8 * 784 + 784 * 256 + 8 * 256
  assert costs['Dense_0 forward, products'].bytes == 4 * numbers
  assert min(cost.seconds for cost in costs.values()) > 0
  rows = profile.table(costs, 1e9, 1e9).splitlines()
  assert len(rows) == 1 + len(costs) + 1
  assert rows[-1].startswith('all')


def test_the_table_stands_beside_what_the_machine_can_do(monkeypatch, capsys):
  # On all cores, for whatever is tested next in this process.
  monkeypatch.delattr(os, 'sched_setaffinity', raising=False)
  monkeypatch.setitem(profile._PROFILED, 'mlp_vae', _TASK)
  monkeypatch.setattr(ours, 'build', lambda task, option: _contestant())
  profile.main(['--task=mlp_vae'])
  first, second, *rows = capsys.readouterr().out.splitlines()
  assert f'{_TASK.flops / 4e6:,.0f} MFLOP' in first
  product, memory = re.findall(r'(\d+) G', second)
  assert int(product) > 0 and int(memory) > 0
  labels = {row[:36].strip() for row in rows}
  assert {'Dense_0 forward, products', 'optimizer, sums and loops'} <= labels
