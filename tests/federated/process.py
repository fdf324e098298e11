"""One process of a federation on several: runs rounds, prints the bits.

python -m tests.federated.process PORT NUM_PROCESSES RANK
"""

import sys

import jax
import numpy as np


def main(port: str, num_processes: str, rank: str) -> None:
  """Runs three rounds on all devices of all processes, each sum in turn."""
  if int(num_processes) > 1:
    jax.distributed.initialize(
      f'127.0.0.1:{port}', int(num_processes), int(rank)
    )
  # After `initialize`, which must precede the first use of a device.
  from fedjax_gen.federated import mapping, rounds, sampling
  from fedjax_gen.running import leaves
  from tests.federated import mapping_test, toys

  def kept(num_clients):
    """Hash of what clients keep, which devices of all processes hold."""
    data = [toys.dataset([2] * num_clients)]
    algorithm = mapping_test.keeping(8)
    layout = mapping.Mapping(1, mapping.clients_mesh(), reproducible=True)
    run = rounds.round_runner(algorithm, mapping=layout)
    state = rounds.init_state(algorithm, data, jax.random.key(0), layout)
    state, _ = run(state, data, jax.random.key(1), 2)
    return leaves.params_digest(leaves.local(state.fleets))

  data = [toys.dataset([3, 0, 5, 1, 4, 2, 6])]
  algorithm = toys.mean_estimation()
  results = []
  for reproducible in (True, False):
    run = rounds.round_runner(
      algorithm,
      samplers=[sampling.with_dropout(sampling.everyone(), 0.2)],
      mapping=mapping.Mapping(
        1, mapping.clients_mesh(), reproducible=reproducible
      ),
    )
    state = rounds.init_state(algorithm, data, jax.random.key(0))
    state, _ = run(state, data, jax.random.key(1), 3)
    results.append(np.asarray(state.server.variables['w']).tobytes().hex())
  # As rows of 8 clients, and as parts of the rows of 7.
  results[0] += kept(8) + kept(7)
  print(len(jax.devices()), *results)


if __name__ == '__main__':
  main(*sys.argv[1:])
