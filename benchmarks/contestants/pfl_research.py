"""pfl-research: users one after the other in each of several processes.

  python -m venv venv-pfl
  venv-pfl/bin/pip install "pfl[pytorch]==0.6.0"

An environment of its own: pfl 0.6.0 wants absl-py, dp-accounting and packaging
of versions older than the library does.

One process a core, each with one thread of PyTorch, as in pfl's guide to
distributed simulation: each trains its part of the users, and their sums are
reduced at the end of the round. (Measured on 2 cores: faster than one process
with two threads, for both models.)

Otherwise as in pfl's benchmarks: `FederatedAveraging`, `SimulatedBackend`,
users weighted by their examples, a server that descends with rate 1. The first
round is run while building: it alone evaluates, and nothing switches that off.
"""

import os
import socket
import sys

import numpy as np
import pfl  # noqa: F401  without it nothing is started
import torch

from benchmarks.contestants import processes, torch_models


def build(task):
  """Starts the processes; returns what runs a round and waits for it."""
  return _Federation(task).round


class _Federation:
  """The part of this process, and the others, which do theirs when told to.

  Attributes:
    model: pfl's; the same in all processes between rounds.
    metrics: of the last round, by name.
  """

  def __init__(self, task):
    self._others = _start_others(task)
    self._part = _Part(task, rank=0)
    self.model = self._part.model
    self.round()

  @property
  def metrics(self):
    return self._part.metrics

  def round(self) -> None:
    """One round of all clients."""
    for other in self._others:
      processes.ask(other)
    self._part.round()


def _start_others(task):
  """One process for each further core; says to pfl, here too, who is who."""
  count = min(os.cpu_count(), task.clients)
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  os.environ['PFL_WORKER_ADDRESSES'] = ','.join([address] * count)
  os.environ['PFL_WORKER_RANK'] = '0'
  return [
    processes.start(__name__, task, {'PFL_WORKER_RANK': str(rank)})
    for rank in range(1, count)
  ]


class _Part:
  """What every process has; pfl itself shares the users out."""

  def __init__(self, task, rank):
    # Not before the environment says who is who, which pfl reads on import.
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.hyperparam import NNTrainHyperParams

    torch.set_num_threads(1)
    # The same users' order and first parameters everywhere, then other noise.
    np.random.seed(task.seed)  # noqa: NPY002  pfl draws from this one
    torch.manual_seed(task.seed)
    self.model, rate = _model(task)
    self._backend = _backend(task)
    torch.manual_seed(task.seed + rank)
    self._algorithm = FederatedAveraging()
    self._algorithm_params = NNAlgorithmParams(
      central_num_iterations=sys.maxsize,
      evaluation_frequency=sys.maxsize,
      train_cohort_size=task.clients,
      val_cohort_size=None,
    )
    self._train_params = NNTrainHyperParams(
      local_num_epochs=1,
      local_learning_rate=rate,
      local_batch_size=task.batch,
    )
    self._callback = _one_round()

  @property
  def metrics(self):
    return self._callback.metrics

  def round(self):
    """One of pfl's central iterations; the next call goes on from there."""
    self._algorithm.run(
      self._algorithm_params,
      self._backend,
      self.model,
      self._train_params,
      callbacks=[self._callback],
      send_metrics_to_platform=False,
    )


def _model(task):
  """The task's model as pfl takes it, and the clients' learning rate."""
  from pfl.metrics import Weighted
  from pfl.model.pytorch import PyTorchModel

  class Measured(torch.nn.Module):
    """With the metrics that pfl wants a model to have."""

    def __init__(self, model):
      super().__init__()
      self.model = model

    def loss(self, *batch):
      return self.model(*batch)

    def metrics(self, *batch):
      count = len(batch[0])
      return {'loss': Weighted(self.loss(*batch).item() * count, count)}

  model = Measured(torch_models.model(task.name))
  create = torch_models.optimizer(task.name)
  server = torch.optim.SGD(model.parameters(), lr=1.0)
  return PyTorchModel(model, create, server), create.keywords['lr']


def _backend(task):
  """All users, in their order, each of whom is drawn once a round."""
  from pfl.aggregate.simulate import SimulatedBackend
  from pfl.aggregate.weighting import WeightByDatapoints
  from pfl.data.federated_dataset import FederatedDataset
  from pfl.data.pytorch import PyTorchTensorDataset
  from pfl.data.sampling import MinimizeReuseUserSampler

  data = torch_models.data(task)
  users = [
    PyTorchTensorDataset(tuple(part[row] for part in data), user_id=str(row))
    for row in range(task.clients)
  ]
  everyone = FederatedDataset(
    users.__getitem__, MinimizeReuseUserSampler(range(task.clients))
  )
  return SimulatedBackend(everyone, everyone, [WeightByDatapoints()])


def _one_round():
  """A callback that stops pfl's loop after a round and keeps its metrics."""
  from pfl.callback.base import TrainingProcessCallback
  from pfl.metrics import Metrics

  class OneRound(TrainingProcessCallback):
    metrics: dict = {}

    def after_central_iteration(
      self, aggregate_metrics, model, *, central_iteration
    ):
      self.metrics = aggregate_metrics.to_simple_dict()
      return True, Metrics()

  return OneRound()


def _follow():
  """What another process does: its part of a round for each line."""
  part = _Part(processes.lent(), int(os.environ['PFL_WORKER_RANK']))
  for _ in sys.stdin:
    part.round()


if __name__ == '__main__':
  _follow()
