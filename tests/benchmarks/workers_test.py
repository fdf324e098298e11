"""Contestants in processes of their own."""

import json
import subprocess
import sys

from benchmarks import workers
from benchmarks.tasks import Task


def test_who_dies_in_a_round_is_absent(monkeypatch):
  monkeypatch.setattr(workers, '_ANSWER_SECONDS', 60)
  contestant = workers.Worker('gemm', Task('mlp_vae', 1, 1, 1))
  contestant.wait()
  assert contestant.absent is None
  contestant._process.kill()
  contestant._process.wait()
  contestant.round()
  assert contestant.absent == 'no answer'
  assert not contestant.rounds


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


def test_a_worker_answers_with_times_and_costs():
  with workers.started([('ours:one', Task('mlp_vae', 1, 1, 2))]) as (worker,):
    worker.round()
    workers.analyse([worker])
  assert worker.rounds[0]['seconds'] > 0
  assert worker.costs['bytes_moved'] > 0
