"""A contestant in a process of its own: a round for each line it is sent.

python -m benchmarks.worker CONTESTANT TASK_AS_JSON

Answers in lines of JSON: the first when a round has been run untimed, then one
for each line of standard input: the time of a round, or, of the line `costs`,
what the contestant says that a round costs, if it knows.
"""

import importlib
import json
import os
import resource
import sys
import time

from benchmarks.tasks import Task


def main(name: str, task: str) -> None:
  """Builds the contestant and serves until standard input ends."""
  # What libraries print must not come between the answers.
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)

  def answer(**values) -> None:
    answers.write(json.dumps(values) + '\n')
    answers.flush()

  module, _, option = name.partition(':')
  try:
    build = importlib.import_module(f'benchmarks.contestants.{module}').build
    started = time.perf_counter()
    run = build(Task(**json.loads(task)), *([option] if option else []))
  except ImportError as error:
    answer(absent=str(error))
    return
  run()
  answer(
    first_seconds=time.perf_counter() - started,
    compile_seconds=getattr(run, 'compile_seconds', None),
    device=getattr(run, 'device', None),
  )
  for line in sys.stdin:
    if line.strip() == 'costs':
      answer(**getattr(run, 'costs', dict)())
      continue
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    answer(
      seconds=time.perf_counter() - wall,
      cpu_seconds=time.process_time() - cpu,
      peak_memory_mib=_peak_bytes() / 2**20,
    )


def _peak_bytes() -> int:
  """Of the accelerator, if it is one that this process uses; else resident."""
  # By what the contestant imported: to import either here would start it.
  if (torch := sys.modules.get('torch')) and torch.cuda.is_initialized():
    return torch.cuda.max_memory_allocated()
  if jax := sys.modules.get('jax'):
    stats = jax.local_devices()[0].memory_stats() or {}
    if peak := stats.get('peak_bytes_in_use'):
      return peak
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == '__main__':
  main(*sys.argv[1:])
