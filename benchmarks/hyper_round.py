"""One round of FedHypeVAE with many clients: time and memory.

python -m benchmarks.hyper_round --clients=1000 --out=hyper_round.json

Networks have the sizes of the paper's predecessor: embeddings of 768 features,
11 classes, three hidden layers of 256, 100 latents, codes of 32. A round is one
minibatch of every client, its records' gradients clipped and noised. The
embeddings are noise, which costs as much as others.

With `--peers` the same work is done by a Python loop over clients, which calls
one compiled step for each, as a script would. Both do the same to the bits of
the random numbers; the runs alternate, and the ratio is that of their medians.
"""

import argparse
import json
import os
import pathlib

import jax
import numpy as np

from benchmarks import timing
from fedjax_gen import trees
from fedjax_gen.algorithms import fedhypevae
from fedjax_gen.data import partition
from fedjax_gen.data.federated import FederatedDataset, federated_dataset
from fedjax_gen.federated import reference, rounds
from fedjax_gen.federated.algorithm import Algorithm, FederatedState
from fedjax_gen.federated.mapping import Mapping
from fedjax_gen.models.hyper.hypernetwork import HyperVaeConfig, build_hyper_vae
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.privacy import plan as plan_lib
from fedjax_gen.running.compile_clock import CompileClock

FEATURES, CLASSES = 768, 11
_SEED = 1  # of rounds; a key would start JAX


def main(argv: list[str] | None = None) -> None:
  """Measures, prints and writes a JSON object."""
  flags = _flags(argv)
  data = noise_data(flags.clients, flags.records)
  algorithm = build_algorithm(data, flags.batch)
  state = rounds.init_state(algorithm, [data], jax.random.key(0))
  jax.block_until_ready(state)
  result = {
    'clients': flags.clients,
    'records_per_client': flags.records,
    'batch_size': flags.batch,
    'block_size': flags.block_size,
    'jax': jax.__version__,
    'device': jax.devices()[0].device_kind,
    'cpus': os.cpu_count(),
    'load_average': os.getloadavg()[0],
    **_bytes(algorithm, data, state),
    'peak_rss_bytes_after_init': timing.peak_rss(),
  }
  run = rounds.round_runner(algorithm, mapping=Mapping(flags.block_size))
  loop = reference.round_loop(algorithm)
  loop_state = None

  def ours():
    nonlocal state
    state, _ = run(state, [data], jax.random.key(_SEED), 1)
    return state

  def theirs():
    nonlocal loop_state
    loop_state, _ = loop(loop_state, [data], jax.random.key(_SEED), 1)
    return loop_state

  with CompileClock() as clock:
    timing.timed(ours)
  result['compile_seconds'] = clock.seconds
  result['peak_rss_bytes'] = timing.peak_rss()
  if flags.peers:
    # After the peak was read: the loop holds clients of its own.
    loop_state = rounds.init_state(algorithm, [data], jax.random.key(0))
    with CompileClock() as clock:
      timing.timed(theirs)
    result['loop_compile_seconds'] = clock.seconds
    result['largest_difference'] = timing.largest_difference(
      state.server.variables, loop_state.server.variables
    )
  times: dict[str, list] = {'round': [], 'loop': []}
  for _ in range(flags.repeats):
    times['round'].append(timing.timed(ours))
    if flags.peers:
      times['loop'].append(timing.timed(theirs))
  for name, measured in times.items():
    if not measured:
      continue
    result[name] = timing.summary(measured)
  if flags.peers:
    for kind in ('seconds', 'cpu_seconds'):
      result[f'loop_over_round_{kind}'] = (
        result['loop'][f'median_{kind}'] / result['round'][f'median_{kind}']
      )
  text = json.dumps(result, indent=2)
  print(text)
  if flags.out:
    pathlib.Path(flags.out).write_text(text + '\n', encoding='utf-8')


def _flags(argv):
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--clients', type=int, default=1000)
  parser.add_argument('--records', type=int, default=64, help='of a client')
  parser.add_argument('--batch', type=int, default=32)
  parser.add_argument(
    '--block_size',
    type=lambda text: int(text) if text.isdigit() else text,
    default='auto',
    help="clients computed at once, or 'auto' or 'all'",
  )
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--peers', action='store_true', help='run the loop too')
  parser.add_argument('--out', help='JSON file to write')
  return parser.parse_args(argv)


def noise_data(clients: int, records: int) -> FederatedDataset:
  """Embeddings of so many clients, so many records each."""
  count = clients * records
  rng = np.random.default_rng(0)
  inputs = rng.standard_normal((count, FEATURES), np.float32)
  labels = np.arange(count, dtype=np.int32) % CLASSES
  return federated_dataset(
    inputs, labels, partition.iid(count, clients, seed=0)
  )


def build_algorithm(data: FederatedDataset, batch_size: int) -> Algorithm:
  """FedHypeVAE, one private minibatch a round."""
  model = build_hyper_vae(
    HyperVaeConfig(
      latent_size=100,
      hidden_sizes=(256, 256, 256),
      code_size=32,
      hyper_size=128,
    ),
    DataSpec((FEATURES,), CLASSES),
  )
  plan = plan_lib.record_plan(
    plan_lib.PrivacyConfig(
      privacy='record', noise_multiplier=1.0, accountant='rdp'
    ),
    np.asarray(data.sizes),
    batch_size=batch_size,
    epochs=0,
    rounds=1,
  )
  config = fedhypevae.Config(batch_size=batch_size)
  return fedhypevae.fedhypevae(config, model, 'record_joint', plan)


def _bytes(
  algorithm: Algorithm, data: FederatedDataset, state: FederatedState
) -> dict:
  """What a client keeps and moves, and what the server holds."""
  [kept], [traffic] = state.fleets, rounds.traffic(algorithm, [data])
  return {
    'client_parameter_bytes': trees.num_bytes(kept.own) // data.num_clients,
    'client_optimizer_bytes': (
      trees.num_bytes(kept.own_state) // data.num_clients
    ),
    'population_bytes': trees.num_bytes(kept),
    'server_parameter_bytes': trees.num_bytes(state.server.variables),
    'bytes_down': traffic.bytes_down,
    'bytes_up': traffic.bytes_up,
  }


if __name__ == '__main__':
  main()
