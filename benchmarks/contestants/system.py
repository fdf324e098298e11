"""The four systems at their published or default sizes, on noise.

`system:auto`, `system:one` and `system:all` map clients as the contestants of
`ours` do. `system:loop` is the same algorithm as a script would run it: a
Python loop that calls one compiled step for each client, with its buffers to
reuse (`federated.reference`); it draws the same random numbers.
"""

from typing import NamedTuple

import jax
import numpy as np

from benchmarks import fedvtc_round, hlo, hyper_round, products
from fedjax_gen.algorithms import fedvae, fissionvae
from fedjax_gen.data.federated import FederatedDataset, federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.federated import reference, rounds, sampling
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.federated.mapping import (
  Mapping,
  clients_mesh,
  default_cpu_devices,
)
from fedjax_gen.models.vae import DataSpec, Vae, VaeConfig, build_vae
from fedjax_gen.running.compile_clock import CompileClock

_SEED = 1  # of rounds; a key would start JAX
_GREY, _COLOURED = DataSpec((28, 28, 1), 10), DataSpec((32, 32, 3), 10)


class System(NamedTuple):
  """What is mapped.

  Attributes:
    algorithm: what runs.
    datasets: the clients of each fleet.
    unknown_turns: of the loops whose length the program itself decides.
  """

  algorithm: Algorithm
  datasets: list[FederatedDataset]
  unknown_turns: int | None = None


def build(task, option: str):
  """Compiles the round of a task, or the steps of a loop."""
  if option == 'auto':  # before a device is used
    jax.config.update('jax_num_cpu_devices', default_cpu_devices())
  system = build_system(task)
  if option == 'loop':
    return _Looped(system)
  is_spread = option == 'auto' and jax.device_count() > 1
  mesh = clients_mesh() if is_spread else None
  block_size = {'auto': 'auto', 'one': 1, 'all': 'all'}[option]
  return _Mapped(system, Mapping(block_size, mesh))


def build_system(task) -> System:
  """The system of a task, with its clients."""
  return _SYSTEMS[task.name](task)


class _Mapped:
  """Rounds one after the other, each one compiled program.

  Attributes:
    compile_seconds: what the first round spent in the compiler.
  """

  def __init__(self, system: System, mapping: Mapping):
    self._system = system
    self._data = rounds.place(system.datasets, mapping)
    self._run = rounds.round_runner(system.algorithm, mapping=mapping)
    self._state = rounds.init_state(
      system.algorithm, self._data, jax.random.key(0)
    )
    self._key = jax.random.key(_SEED)
    with CompileClock() as clock:
      self()
    self.compile_seconds = clock.seconds

  def __call__(self) -> None:
    self._state, _ = self._run(self._state, self._data, self._key, 1)
    jax.block_until_ready(self._state)

  def costs(self) -> dict[str, float | None]:
    """Of a round its products, and the bytes that the program moves."""
    lowered = self._run.lowered(self._state, self._data, self._key, 1)
    return {
      'flops': flops(self._system),
      'bytes_moved': _bytes(self._system, lowered),
    }


class _Looped:
  """Rounds one after the other, each a loop over clients.

  Attributes:
    compile_seconds: what the first round spent in the compiler.
  """

  def __init__(self, system: System):
    self._system = system
    self._run = reference.round_loop(system.algorithm)
    self._data, self._key = system.datasets, jax.random.key(_SEED)
    self._state = rounds.init_state(
      system.algorithm, system.datasets, jax.random.key(0)
    )
    with CompileClock() as clock:
      self()
    self.compile_seconds = clock.seconds

  def __call__(self) -> None:
    self._state, _ = self._run(self._state, self._data, self._key, 1)
    jax.block_until_ready(self._state)

  def costs(self) -> dict[str, float | None]:
    """Of a round its products, and the bytes that all steps move."""
    moved = [
      (_bytes(self._system, lowered), calls)
      for lowered, calls in self._run.lowered(
        self._state, self._data, self._key
      )
    ]
    is_known = all(number is not None for number, _ in moved)
    return {
      'flops': flops(self._system),
      'bytes_moved': sum(n * calls for n, calls in moved) if is_known else None,
    }


def flops(system: System) -> int:
  """Of the products of a round, all clients one after the other."""
  algorithm, datasets, unknown_turns = system
  key = jax.random.key(0)

  def one_round(state):
    return rounds.federated_round(
      algorithm,
      state,
      datasets,
      key,
      samplers=[sampling.everyone()] * len(datasets),
      mapping=Mapping(1),
    )

  state = jax.eval_shape(lambda: rounds.init_state(algorithm, datasets, key))
  return products.product_flops(one_round, state, unknown_turns=unknown_turns)


def _bytes(system: System, lowered: jax.stages.Lowered) -> float | None:
  return hlo.bytes_moved(lowered.compile(), unknown_turns=system.unknown_turns)


def fedvae_paper(task) -> System:
  """The published FedVAE: 11,087,731 parameters, Adam's moments kept."""
  config = fedvae.Config(local_epochs=1, batch_size=task.batch)
  return System(fedvae.fedvae(config, paper_vae()), [_noise(task, _GREY)])


def paper_vae() -> Vae:
  """The model of `fedvae_paper`."""
  config = VaeConfig(
    model='dugdale2023', norm='batch', latent_size=200, conditional=False
  )
  return build_vae(config, _GREY)


def fission(task) -> System:
  """FissionVAE+L+D at its defaults: two groups of 32 x 32 RGB images."""
  model = fission_vae()
  config = fissionvae.Config(local_epochs=1, batch_size=task.batch)
  built = fissionvae.fissionvae(
    config, [model, model], fissionvae.Sharing(priors=True, decoders=True)
  )
  data = _noise(task, _COLOURED, num_groups=2)
  return System(built.algorithm, fissionvae.fleet_datasets(built, data))


def fission_vae() -> Vae:
  """The model of either group of `fission`, but for the prior."""
  return build_vae(VaeConfig(conditional=False), _COLOURED)


def fedhypevae(task) -> System:
  """FedHypeVAE, records clipped and noised; sizes as in `hyper_round`."""
  data = hyper_round.noise_data(task.clients, task.steps * task.batch)
  return System(hyper_round.build_algorithm(data, task.batch), [data])


def fedvtc(task) -> System:
  """FedVTC of clients of three architectures; sizes as in `fedvtc_round`."""
  setting = fedvtc_round.build_setting(
    [
      f'--clients={task.clients}',
      f'--records={task.steps * task.batch}',
      f'--batch={task.batch}',
    ]
  )
  config = setting.config
  # Steps of fine-tuning, from the second round on: before, no class is known.
  images = config.synthetic_per_class * fedvtc_round.CLASSES
  steps = round(images * config.passes / task.batch)
  return System(setting.algorithm(), setting.datasets, steps)


def _noise(task, spec: DataSpec, num_groups: int = 1) -> FederatedDataset:
  each = task.steps * task.batch
  count = task.clients * each
  rng = np.random.default_rng(task.seed)
  return federated_dataset(
    rng.integers(0, 256, (count, *spec.shape), np.uint8),
    np.arange(count) % spec.num_classes,
    Partition(
      np.arange(count),
      np.full(task.clients, each),
      np.arange(task.clients) % num_groups,
      'alike',
    ),
  )


_SYSTEMS = {
  'fedvae_paper': fedvae_paper,
  'fissionvae': fission,
  'fedhypevae': fedhypevae,
  'fedvtc': fedvtc,
}
