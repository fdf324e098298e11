"""The library: a round is one compiled program.

`ours:auto` is what the experiments do without being told; the others are
mappings of one's choice: `one` after the other on one device, blocks of 8 on
one device, `all` clients mapped at once on one device, or, as in `2 devices`,
what `auto` does on so many.
"""

import jax
import numpy as np

from benchmarks import hlo, models
from benchmarks.contestants import noise
from fedjax_gen.data.federated import FederatedDataset, federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.federated import averaging, rounds
from fedjax_gen.federated.mapping import (
  Mapping,
  clients_mesh,
  default_cpu_devices,
)
from fedjax_gen.running.compile_clock import CompileClock

_MAPPINGS = {'one': 1, 'blocks of 8': 8, 'all': 'all'}


class _Rounds:
  """Rounds one after the other.

  Attributes:
    compile_seconds: of the round.
    device: what JAX calls the device.
  """

  def __init__(self, task, mapping: Mapping):
    model = models.build(task.name)
    config = averaging.Config(
      local_epochs=1, batch_size=task.batch, keep_optimizer_state=False
    )
    algorithm = averaging.averaged(
      config, model.init, model.loss_fn, model.optimizer
    )
    self._data = rounds.place([_dataset(task, model.shape)], mapping)
    self._run = rounds.round_runner(algorithm, mapping=mapping)
    self._state = rounds.init_state(algorithm, self._data, jax.random.key(0))
    self._key = jax.random.key(1)
    with CompileClock() as clock:
      self()
    self.compile_seconds = clock.seconds
    self.device = jax.devices()[0].device_kind

  def __call__(self) -> None:
    self._state, _ = self._run(self._state, self._data, self._key, 1)
    jax.block_until_ready(self._state)

  def costs(self) -> dict[str, float | None]:
    """Bytes that the compiled round moves."""
    lowered = self._run.lowered(self._state, self._data, self._key, 1)
    return {'bytes_moved': hlo.bytes_moved(lowered.compile())}

  def text(self) -> str:
    """The compiled round, as HLO."""
    lowered = self._run.lowered(self._state, self._data, self._key, 1)
    return lowered.compile().as_text()


def build(task, option: str):
  """Compiles the round."""
  if option in _MAPPINGS:
    return _Rounds(task, Mapping(_MAPPINGS[option]))
  number = None if option == 'auto' else int(option.removesuffix(' devices'))
  # Before a device is used: a core is a device, as in the experiments.
  jax.config.update('jax_num_cpu_devices', number or default_cpu_devices())
  mesh = clients_mesh(number) if jax.device_count() > 1 else None
  return _Rounds(task, Mapping(mesh=mesh))


def _dataset(task, shape) -> FederatedDataset:
  images = noise.images(task)
  count = task.steps * task.batch
  return federated_dataset(
    images.reshape(-1, *shape),
    noise.labels(task).reshape(-1),
    Partition(
      np.arange(task.clients * count),
      np.full(task.clients, count),
      np.zeros(task.clients, int),
      'alike',
    ),
  )
