"""Processes that work for a contestant: a round for each line they are sent.

They are lent a task and wait on their standard input, so that no round begins
before it is asked for and nothing is left when the one who asks has ended.
"""

from collections.abc import Mapping
import json
import os
import subprocess
import sys
import types

_FIELDS = ('name', 'clients', 'steps', 'batch', 'seed')


def start(
  module: str,
  task,
  environment: Mapping[str, str],
  stdout: int | None = None,
) -> subprocess.Popen:
  """Runs a module of the same interpreter.

  Args:
    module: its name, as `python -m` takes it.
    task: which `lent` gives to the module.
    environment: variables next to this process's.
    stdout: as `subprocess.Popen` takes it.
  """
  lent_task = json.dumps({field: getattr(task, field) for field in _FIELDS})
  return subprocess.Popen(
    [sys.executable, '-m', module, lent_task],
    stdin=subprocess.PIPE,
    stdout=stdout,
    text=True,
    env=os.environ | environment,
  )


def ask(process: subprocess.Popen) -> None:
  """Sends the line that asks for a round."""
  process.stdin.write('\n')
  process.stdin.flush()


def lent():
  """The task that this process was started with."""
  return types.SimpleNamespace(**json.loads(sys.argv[1]))
