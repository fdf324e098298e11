"""The four systems at their published or default sizes, on noise.

`system:auto`, `system:one` and `system:all` map clients as the contestants of
`ours` do. `system:loop` is the same algorithm as a script would run it: a
Python loop that calls one compiled step for each client, with its buffers to
reuse (`benchmarks.loop`); it draws the same random numbers.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from benchmarks import fedvtc_round, hyper_round
from benchmarks.loop import Loop
from fedjax_gen.algorithms import fedvae, fissionvae
from fedjax_gen.data.federated import FederatedDataset, federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.federated import rounds
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.federated.mapping import (
  Mapping,
  clients_mesh,
  default_cpu_devices,
)
from fedjax_gen.models.vae import DataSpec, VaeConfig, build_vae
from fedjax_gen.running.compile_clock import CompileClock

_SEED = 1  # of rounds; a key would start JAX


class System(NamedTuple):
  """What is mapped: an algorithm, and the clients of each fleet."""

  algorithm: Algorithm
  datasets: list[FederatedDataset]


def build(task, option: str):
  """Compiles the round of a task, or the steps of a loop."""
  if option == 'auto':  # before a device is used
    jax.config.update('jax_num_cpu_devices', default_cpu_devices())
  system = _SYSTEMS[task.name](task)
  if option == 'loop':
    return _Timed(_loop(system))
  is_spread = option == 'auto' and jax.device_count() > 1
  mesh = clients_mesh() if is_spread else None
  block_size = {'auto': 'auto', 'one': 1, 'all': 'all'}[option]
  return _Timed(_rounds(system, Mapping(block_size, mesh)))


class _Timed:
  """A round; `compile_seconds` is what its first run spent in the compiler."""

  def __init__(self, run: Callable[[], object]):
    self._run = run
    with CompileClock() as clock:
      self()
    self.compile_seconds = clock.seconds

  def __call__(self) -> None:
    jax.block_until_ready(self._run())


def _rounds(system: System, mapping: Mapping) -> Callable[[], object]:
  data = rounds.place(system.datasets, mapping)
  runner = rounds.round_runner(system.algorithm, mapping=mapping)
  state = rounds.init_state(system.algorithm, data, jax.random.key(0))

  def run():
    nonlocal state
    state, _ = runner(state, data, jax.random.key(_SEED), 1)
    return state

  return run


def _loop(system: System) -> Callable[[], object]:
  return Loop(system.algorithm, system.datasets, jax.random.key(_SEED)).round


def fedvae_paper(task) -> System:
  """The published FedVAE: 11,087,731 parameters, Adam's moments kept."""
  spec = DataSpec((28, 28, 1), 10)
  model = build_vae(
    VaeConfig(
      model='dugdale2023',
      norm='batch',
      latent_size=200,
      conditional=False,
    ),
    spec,
  )
  config = fedvae.Config(local_epochs=1, batch_size=task.batch)
  return System(fedvae.fedvae(config, model), [_noise(task, spec)])


def fission(task) -> System:
  """FissionVAE+L+D at its defaults: two groups of 32 x 32 RGB images."""
  spec = DataSpec((32, 32, 3), 10)
  model = build_vae(VaeConfig(conditional=False), spec)
  config = fissionvae.Config(local_epochs=1, batch_size=task.batch)
  built = fissionvae.fissionvae(
    config, [model, model], fissionvae.Sharing(priors=True, decoders=True)
  )
  data = _noise(task, spec, num_groups=2)
  return System(built.algorithm, fissionvae.fleet_datasets(built, data))


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
  return System(setting.algorithm(), setting.datasets)


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
