"""One training on every layout of processes and devices: its bits, its time.

python -m benchmarks.topology --out=topology.json

Trains a small FedVAE on handwritten digits on 1, 2 and 8 devices of one process
and on 2 and 8 of two processes of this machine, each in the reproducible order
and by `psum`. The hash is of the server's parameters after the last round; in
the reproducible order there must be one, or the program fails. Times are of the
rounds after the first. Where devices share cores, they say what the order costs
and nothing of speed-up.
"""

import argparse
from collections.abc import Sequence
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys

LAYOUTS = ((1, 1), (1, 2), (1, 8), (2, 1), (2, 4))
"""Processes and devices of each."""


def main(argv: Sequence[str] | None = None) -> None:
  """Measures, prints and writes a JSON object."""
  flags = _flags(argv)
  if flags.process_id is not None:
    _train(flags)
    return
  result = {
    'clients': flags.clients,
    'rounds': flags.rounds,
    'cpus': os.cpu_count(),
    'load_average': os.getloadavg()[0],
    'layouts': {
      f'{processes}x{devices}': _run(flags, processes, devices)
      for processes, devices in LAYOUTS
    },
  }
  for order in ('reproducible', 'psum'):
    found = [layout[order]['sha256'] for layout in result['layouts'].values()]
    result[f'{order}_hashes'] = len(set(found))
  text = json.dumps(result, indent=2)
  print(text)
  if flags.out:
    pathlib.Path(flags.out).write_text(text + '\n')
  if result['reproducible_hashes'] != 1:
    sys.exit('The reproducible order gave different bits.')


def _run(flags: argparse.Namespace, processes: int, devices: int) -> dict:
  """Trains on one layout; what process 0 reports, all agreeing."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  command = [
    sys.executable, '-m', 'benchmarks.topology', f'--clients={flags.clients}',
    f'--rounds={flags.rounds}', f'--devices={devices}',
    f'--processes={processes}', f'--port={port}',
  ]  # fmt: skip
  children = [
    subprocess.Popen(
      [*command, f'--process_id={i}'], stdout=subprocess.PIPE, text=True
    )
    for i in range(processes)
  ]
  outputs = [child.communicate()[0] for child in children]
  if any(child.returncode for child in children):
    sys.exit(f'{processes} x {devices} failed.')
  # The last line: the collectives' library prints lines of its own.
  reports = [json.loads(output.splitlines()[-1]) for output in outputs]
  for order in ('reproducible', 'psum'):
    if len({report[order]['sha256'] for report in reports}) != 1:
      sys.exit(f'Processes of {processes} x {devices} disagree.')
  return reports[0]


def _train(flags: argparse.Namespace) -> None:
  """The work of one process: trains in both orders and prints a line."""
  import jax

  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', flags.devices)
  if flags.processes > 1:
    jax.distributed.initialize(
      f'127.0.0.1:{flags.port}', flags.processes, flags.process_id
    )
  print(
    json.dumps(
      {
        'reproducible': _rounds(flags, is_reproducible=True),
        'psum': _rounds(flags, is_reproducible=False),
      }
    )
  )


def _rounds(flags: argparse.Namespace, *, is_reproducible: bool) -> dict:
  # After `initialize`, which must precede the first use of a device.
  import jax

  from benchmarks import timing
  from fedjax_gen.algorithms import fedvae
  from fedjax_gen.data import partition, sources
  from fedjax_gen.data.federated import federated_dataset
  from fedjax_gen.federated import rounds
  from fedjax_gen.federated.mapping import Mapping, clients_mesh
  from fedjax_gen.models.vae import DataSpec, VaeConfig, build_vae
  from fedjax_gen.running import leaves

  source = sources.load('digits')
  data = federated_dataset(
    source.train.inputs,
    source.train.labels,
    partition.iid(len(source.train.labels), flags.clients, seed=0),
  )
  vae = build_vae(
    VaeConfig(model='mlp', hidden_size=128),
    DataSpec(source.input_shape, source.num_classes),
  )
  algorithm = fedvae.fedvae(fedvae.Config(), vae)
  mapping = Mapping(1, clients_mesh(), is_reproducible)
  run = rounds.round_runner(algorithm, mapping=mapping)
  datasets = rounds.place([data], mapping)
  state = rounds.init_state(algorithm, datasets, jax.random.key(0))
  measured = []

  def one_round():
    nonlocal state
    state, _ = run(state, datasets, jax.random.key(1), 1)
    return state

  for _ in range(flags.rounds):
    measured.append(timing.timed(one_round)[0])
  return {
    'sha256': leaves.params_digest(leaves.local(state.server.variables)),
    'median_round_seconds': statistics.median(measured[1:]),
  }


def _flags(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--clients', type=int, default=16)
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--out', help='JSON file to write')
  # Of the processes that this program starts.
  for name in ('processes', 'devices', 'port', 'process_id'):
    parser.add_argument(f'--{name}', type=int, help=argparse.SUPPRESS)
  return parser.parse_args(argv)


if __name__ == '__main__':
  main()
