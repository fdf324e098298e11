"""Flower's simulation: clients are messages to PyTorch processes, by Ray.

  pip install "flwr[simulation]>=1.41" torch

One Ray actor a core, each with one thread of PyTorch; two a core where clients
make a single step and the wait for messages is most of a round. (Measured on 2
cores: with 2 and 4 actors 1.5 and 1.8 s for 100 clients of 10 steps of the VAE,
21 and 13 s for 1,000 of one step.) The strategy is Flower's `FedAvg` of all
nodes, weighted by examples. The engine is the one that `flwr run` starts for a
simulation, called by its Python function.

The simulation has a process of its own, which starts up once, serves a round
for each line that it is sent, and ends when there will be no more. A round is
what `FedAvg.start` does to train, called by the server's app itself, for
`start` cannot wait between rounds: `configure_train`, `send_and_receive` and
`aggregate_train`.
"""

import json
import logging
import os
import pathlib
import subprocess
import sys
import tempfile

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
import numpy as np
import torch

from benchmarks.contestants import flower_client, processes, torch_models

# Read by Flower and Ray when imported.
_QUIET = {'FLWR_TELEMETRY_ENABLED': '0', 'RAY_USAGE_STATS_ENABLED': '0'}


def build(task):
  """Starts the simulation; returns what runs a round and waits for it."""
  return _Federation(task).round


class _Federation:
  """The way to the simulation.

  Attributes:
    report: the simulation's of the last round: how many clients replied, and
      their mean loss and steps.
  """

  def __init__(self, task):
    self._simulation = processes.start(
      __name__, task, _QUIET, stdout=subprocess.PIPE
    )
    self.report = {}

  def round(self) -> None:
    """One round of all clients.

    Raises:
      RuntimeError: when a client failed, or the simulation has ended.
    """
    processes.ask(self._simulation)
    answer = self._simulation.stdout.readline()
    if not answer:
      raise RuntimeError('The simulation has ended.')
    self.report = json.loads(answer)


def _simulate():
  """What the simulation's process does."""
  task = processes.lent()
  # Answers alone go to where they are read; what Flower prints goes elsewhere.
  answers = os.fdopen(os.dup(sys.stdout.fileno()), 'w')
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
  logging.getLogger('flwr').setLevel(logging.WARNING)
  server_app = ServerApp()
  with tempfile.TemporaryDirectory() as folder:
    files = _saved(task, pathlib.Path(folder))

    @server_app.main()
    def main(grid, context):
      del context  # nothing of it is needed
      for report in _rounds(task, files, grid):
        print(json.dumps(report), file=answers, flush=True)

    run_simulation(
      server_app,
      flower_client.app,
      task.clients,
      backend_config={
        'client_resources': {'num_cpus': _cores(task), 'num_gpus': 0.0},
        'init_args': {'num_cpus': os.cpu_count(), 'include_dashboard': False},
      },
    )


def _cores(task):
  """Of an actor."""
  return 1 if task.steps > 1 else 0.5


def _rounds(task, files, grid):
  """A round for each line of the standard input."""
  strategy = FedAvg(
    fraction_evaluate=0.0,
    min_train_nodes=task.clients,
    min_available_nodes=task.clients,
  )
  config = ConfigRecord(
    {'name': task.name, 'batch': task.batch, 'files': files}
  )
  torch.manual_seed(task.seed)
  arrays = ArrayRecord(torch_models.model(task.name).state_dict())
  for number, _ in enumerate(sys.stdin, start=1):
    messages = strategy.configure_train(number, arrays, config, grid)
    replies = list(grid.send_and_receive(messages))
    arrays, metrics = strategy.aggregate_train(number, replies)
    good = sum(not reply.has_error() for reply in replies)
    if good < task.clients:
      raise RuntimeError(f'Expected {task.clients} replies, got {good}.')
    yield {'clients': good} | dict(metrics)


def _saved(task, folder):
  """Writes what clients have; the files' names, separated by commas."""
  names = []
  for number, array in enumerate(torch_models.data(task)):
    names.append(str(folder / f'{number}.npy'))
    np.save(names[-1], array.numpy())
  return ','.join(names)


if __name__ == '__main__':
  _simulate()
