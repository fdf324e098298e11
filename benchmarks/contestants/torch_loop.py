"""PyTorch: a copy of the model a client, one client after the other.

As the published codes of the four systems do it: `copy.deepcopy`, an epoch of
steps, the mean of the state dicts. With the option `fused`, Adam in one kernel
(`fused=True`), which none of them uses. PyTorch uses all cores within a step.
FedVAE and FissionVAE, whose clients keep something, are in `torch_systems`.
"""

import copy

import torch

from benchmarks.contestants import torch_models, torch_systems


def build(task, option: str = ''):
  """Makes the clients' data; returns what runs a round."""
  if task.name in torch_systems.MODELS:
    return torch_systems.Rounds(task)
  return _Rounds(task, fused=option == 'fused')


class _Rounds:
  def __init__(self, task, *, fused: bool):
    torch.manual_seed(task.seed)
    self._task, self._fused = task, fused
    self._model = torch_models.model(task.name)
    self._data = torch_models.data(task)

  def __call__(self) -> None:
    states = []
    for row in range(self._task.clients):
      model = copy.deepcopy(self._model)
      torch_models.train(
        self._task.name,
        model,
        [values[row] for values in self._data],
        self._task.batch,
        fused=self._fused,
      )
      states.append(model.state_dict())
    self._model.load_state_dict(
      {
        name: torch.stack([state[name] for state in states]).mean(dim=0)
        for name in states[0]
      }
    )
    torch_models.finish()
