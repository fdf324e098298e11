"""What rounds cost a device where clients keep much: its memory, and the time.

python -m benchmarks.client_memory --devices=2 --clients=64 --cohort=16

Clients train a VAE on handwritten digits and keep Adam's moments. Memory is of
one device, by the compiler's own account of a program of two rounds: its
arguments (state and data), what it needs besides, and results, which take the
place of the state that was given. Times are of calls after the first.
"""

import argparse
from collections.abc import Sequence
import json
import statistics


def main(argv: Sequence[str] | None = None) -> None:
  """Measures everyone's rounds and those of a cohort, and prints JSON."""
  flags = _flags(argv)
  import jax

  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', flags.devices)
  from fedjax_gen.federated import sampling

  samplers = {
    'everyone': sampling.everyone(),
    'cohort': sampling.uniform(flags.cohort),
  }
  found = {
    name: _measured(flags, sampler) for name, sampler in samplers.items()
  }
  print(json.dumps({'flags': vars(flags), **found}, indent=2))


def _measured(flags: argparse.Namespace, sampler) -> dict[str, float]:
  import jax

  from benchmarks import timing
  from fedjax_gen import trees
  from fedjax_gen.algorithms import fedvae
  from fedjax_gen.data import partition, sources
  from fedjax_gen.data.federated import federated_dataset
  from fedjax_gen.federated import rounds
  from fedjax_gen.federated.mapping import Mapping, clients_mesh
  from fedjax_gen.models.vae import DataSpec, VaeConfig, build_vae

  source = sources.load('digits')
  clients = partition.iid(len(source.train.labels), flags.clients, seed=0)
  data = federated_dataset(source.train.inputs, source.train.labels, clients)
  vae = build_vae(
    VaeConfig(model='mlp', hidden_size=flags.hidden_size),
    DataSpec(source.input_shape, source.num_classes),
  )
  algorithm = fedvae.fedvae(fedvae.Config(local_epochs=1.0), vae)
  mapping = Mapping(mesh=clients_mesh(flags.devices))
  run = rounds.round_runner(algorithm, samplers=[sampler], mapping=mapping)
  datasets = rounds.place([data], mapping)
  state = rounds.init_state(algorithm, datasets, jax.random.key(0))
  key = jax.random.key(1)
  memory = run.lowered(state, datasets, key, 2).compile().memory_analysis()
  kept = trees.num_bytes(state.fleets) / flags.clients

  def two_rounds():
    nonlocal state
    state, _ = run(state, datasets, key, 2)
    return state

  seconds = [timing.timed(two_rounds)[0] for _ in range(1 + flags.repeats)]
  return {
    'kept_bytes_a_client': kept,
    'argument_bytes': memory.argument_size_in_bytes,
    'temporary_bytes': memory.temp_size_in_bytes,
    'output_bytes': memory.output_size_in_bytes,
    'in_place_bytes': memory.alias_size_in_bytes,
    'round_milliseconds': 500 * statistics.median(seconds[1:]),
  }


def _flags(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--devices', type=int, default=2)
  parser.add_argument('--clients', type=int, default=64)
  parser.add_argument('--cohort', type=int, default=16)
  parser.add_argument('--hidden_size', type=int, default=512)
  parser.add_argument('--repeats', type=int, default=7)
  return parser.parse_args(argv)


if __name__ == '__main__':
  main()
