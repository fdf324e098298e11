"""PyTorch: `torch.func.vmap` of a client's gradient, all clients at once.

Models are stacked along the clients, one Adam (or SGD) descends the stack: what
one would write in PyTorch to map clients.
"""

import torch
from torch import func

from benchmarks.contestants import torch_models


def build(task):
  """Makes the clients' data; returns what runs a round."""
  return _Rounds(task)


class _Rounds:
  def __init__(self, task):
    torch.manual_seed(task.seed)
    self._task = task
    self._model = torch_models.model(task.name)
    self._data = torch_models.data(task)
    self._names = [name for name, _ in self._model.named_parameters()]

  def __call__(self) -> None:
    clients, batch = self._task.clients, self._task.batch
    stacked = [
      one.detach().expand(clients, *one.shape).clone().requires_grad_()
      for one in self._model.parameters()
    ]
    descent = torch_models.optimizer(self._task.name)(stacked)
    gradients = func.vmap(func.grad(self._loss), randomness='different')
    for step in range(self._task.steps):
      part = [v[:, step * batch : (step + 1) * batch] for v in self._data]
      for one, gradient in zip(stacked, gradients(stacked, *part), strict=True):
        one.grad = gradient
      descent.step()
    with torch.no_grad():
      for own, one in zip(self._model.parameters(), stacked, strict=True):
        own.copy_(one.mean(dim=0))
    torch_models.finish()

  def _loss(self, parameters, *part):
    named = dict(zip(self._names, parameters, strict=True))
    return func.functional_call(self._model, named, part)
