"""Rounds of a large population next to those of a small one: time and memory.

python -m benchmarks.population --clients=1000000 --cohort=1000 --out=F.json

Clients have ten images of 8 x 8 pixels, drawn at random, or `--examples`, and
train a small VAE of one hidden layer on ten of them. Measured are

  memory        everything on the device, clients keep nothing
  host          streamed, the images in a file, Adam's moments in files
  host_waiting  the same, the next cohort fetched when the round is over

and, if `--paths` names it, memory_kept, with what everyone keeps on the device;
each in a process of its own with `--small` clients and with `--clients`, in
turns, `--repeats` times. A round's seconds are those between its call and its
metrics; the first ones, which compile, are left out. Peaks are of the whole
process, examples and compiler included.

With `--system=fedvtc` clients train FedVTC's classifiers, of three
architectures in turn, and keep them; `memory` is then `memory_kept`.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from benchmarks import population_systems, timing
from fedjax_gen import trees
from fedjax_gen.data.federated import FederatedDataset, federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.federated import rounds
from fedjax_gen.streaming import host_blocks, streamed

PATHS = ('memory', 'host', 'host_waiting')
_WARM_UP = 3  # rounds; the first two compile
_CHUNK = 1_000_000  # images drawn at once


def main(argv: list[str] | None = None) -> None:
  """Measures, prints and writes a JSON object; or measures one process."""
  flags = _flags(argv)
  if flags.worker:
    print(json.dumps(_measure(flags)))
    return
  measured: dict[str, list] = {}
  for _ in range(flags.repeats):
    for path in flags.paths.split(','):
      for clients in (flags.small, flags.clients):
        found = _process(flags, path, clients)
        measured.setdefault(f'{path}_{clients}', []).append(found)
        print(path, clients, found, file=sys.stderr, flush=True)
  result = {
    'system': flags.system,
    'cohort': flags.cohort,
    'examples_per_client': flags.examples,
    'rounds': flags.rounds,
    'jax': jax.__version__,
    'device': jax.devices()[0].device_kind,
    'cpus': os.cpu_count(),
    'load_average': os.getloadavg()[0],
    **{name: _summary(runs) for name, runs in measured.items()},
  }
  for path in flags.paths.split(','):
    small, large = (
      result[f'{path}_{clients}']['median_seconds']
      for clients in (flags.small, flags.clients)
    )
    result[f'{path}_ratio'] = large / small
  text = json.dumps(result, indent=2)
  print(text)
  if flags.out:
    pathlib.Path(flags.out).write_text(text + '\n', encoding='utf-8')


def _summary(runs):
  """Of several processes the median round and the largest peak."""
  seconds = [second for run in runs for second in run['seconds']]
  return {
    'median_seconds': statistics.median(seconds),
    'seconds': [run['seconds'] for run in runs],
    'peak_rss_bytes': max(run['peak_rss_bytes'] for run in runs),
    **{k: runs[0][k] for k in ('data_bytes', 'kept_bytes', 'disk_bytes')},
  }


def _process(flags, path, clients):
  """What a process of its own measures."""
  command = [
    sys.executable, '-m', 'benchmarks.population', f'--worker={path}',
    f'--clients={clients}', f'--cohort={flags.cohort}',
    f'--rounds={flags.rounds}', f'--examples={flags.examples}',
    f'--system={flags.system}',
  ]  # fmt: skip
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    raise RuntimeError(f'{" ".join(command)}:\n{done.stderr[-2000:]}')
  return json.loads(done.stdout)


def _measure(flags):
  """Times rounds of one path and population in this process."""
  with tempfile.TemporaryDirectory() as folder:
    data = _data(
      pathlib.Path(folder, 'images.npy'), flags.clients, flags.examples
    )
    if not flags.worker.startswith('host'):
      data = data.on_device()
    algorithm, datasets, samplers = population_systems.SYSTEMS[flags.system](
      data, flags.cohort, is_kept=flags.worker != 'memory'
    )
    init_key, key = jax.random.split(jax.random.key(0))
    if flags.worker.startswith('host'):
      run = streamed.streamed_runner(
        algorithm, datasets, init_key, folder=pathlib.Path(folder, 'rows'),
        samplers=samplers, prefetch=flags.worker == 'host',
      )  # fmt: skip
      state = run.init_state()
    else:
      run = rounds.round_runner(algorithm, samplers=samplers)
      state = rounds.init_state(algorithm, datasets, init_key)
    seconds = []
    for _ in range(_WARM_UP + flags.rounds):
      started = time.perf_counter()
      state, metrics = run(state, datasets, key, 1)
      jax.block_until_ready((state, metrics))
      seconds.append(time.perf_counter() - started)
    files = pathlib.Path(folder, 'rows').rglob('*.npy')
    return {
      'seconds': [round(second, 4) for second in seconds[_WARM_UP:]],
      'peak_rss_bytes': timing.peak_rss(),
      'data_bytes': trees.num_bytes(data),
      'kept_bytes': _kept_bytes(algorithm, datasets),
      'disk_bytes': sum(file.stat().st_blocks * 512 for file in files),
    }


def _data(
  path: pathlib.Path, num_clients: int, examples: int
) -> FederatedDataset:
  """Clients of so many random images each, which lie in a file."""
  size = num_clients * examples
  images = np.lib.format.open_memmap(
    path, 'w+', np.uint8, (size, *population_systems.SHAPE)
  )
  rng = np.random.default_rng(0)
  for start in range(0, size, _CHUNK):
    part = images[start : start + _CHUNK]
    part[:] = rng.integers(0, 256, part.shape, np.uint8)
  images.flush()
  # Read through a map of its own: the one written through stays resident.
  del images, part
  clients = Partition(
    np.arange(size, dtype=np.int32),
    np.full(num_clients, examples, np.int32),
    np.zeros(num_clients, np.int32),
    'alike',
  )
  labels = rng.integers(0, population_systems.NUM_CLASSES, size, np.int32)
  return federated_dataset(
    np.load(path, mmap_mode='r'), labels, clients, on_host=True
  )


def _kept_bytes(algorithm, datasets):
  """What all clients keep."""
  return sum(
    data.num_clients * trees.num_bytes(host_blocks.one_client(program))
    for program, data in zip(algorithm.fleets, datasets, strict=True)
  )


def _flags(argv):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--clients', type=int, default=1_000_000)
  parser.add_argument('--small', type=int, default=1_000)
  parser.add_argument('--cohort', type=int, default=1_000)
  parser.add_argument('--examples', type=int, default=10)
  parser.add_argument('--rounds', type=int, default=10)
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument(
    '--system', default='fedvae', choices=tuple(population_systems.SYSTEMS)
  )
  parser.add_argument('--paths', default=','.join(PATHS))
  parser.add_argument(
    '--worker', default='', choices=('', *PATHS, 'memory_kept')
  )
  parser.add_argument('--out', default='')
  return parser.parse_args(argv)


if __name__ == '__main__':
  main()
