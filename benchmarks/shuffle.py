"""What the random order of an epoch costs, next to the epoch itself.

python -m benchmarks.shuffle

The order is an argsort of random numbers, for each client and each epoch anew.
It is timed alone, of the same number of examples in all dealt to few clients
or to many, and as a share of the time in which the dense VAE of
`benchmarks.run --task=mlp_vae`, the cheapest model there, trains on as many:
what a shuffle that costs nothing would save at the most.
"""

import argparse
from collections.abc import Callable, Sequence
import statistics
import time

import jax
import jax.numpy as jnp

from benchmarks import tasks
from benchmarks.contestants import ours
from fedjax_gen.data.federated import ClientData

_TASK = next(task for task in tasks.ALL if task.name == 'mlp_vae')


def main(argv: Sequence[str] | None = None) -> None:
  """Prints a row for each number of examples of a client."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--sizes',
    type=lambda text: [int(size) for size in text.split(',')],
    default=[32, 320, 3_200, 32_000],
    help='examples of a client, separated by commas',
  )
  parser.add_argument('--repeats', type=int, default=7)
  flags = parser.parse_args(argv)
  training = ours.build(_TASK, 'one')
  count = _TASK.clients * _TASK.steps * _TASK.batch
  trained = _seconds(training, flags.repeats) / count
  print(f'{_TASK.name} trains on an example in {1e9 * trained:,.0f} ns')
  print('{:>20}{:>12}{:>8}'.format('examples a client', 'ns an order', 'share'))
  for size in flags.sizes:
    clients = max(count // size, 1)
    run = orders(size, clients)
    ordered = _seconds(run, flags.repeats) / (clients * size)
    print(f'{size:20,}{1e9 * ordered:12.1f}{ordered / trained:8.2%}')


def orders(size: int, clients: int) -> Callable[[], jax.Array]:
  """A program that orders one epoch of each client, one after the other."""
  rows = jnp.zeros(size, jnp.int32)
  data = ClientData(
    inputs=rows,
    labels=rows,
    order=rows,
    offset=jnp.int32(0),
    size=jnp.int32(size),
    min_size=size,
    max_size=size,
  )
  ordered = jax.jit(lambda keys: jax.lax.map(data.shuffled, keys))
  keys = jax.random.split(jax.random.key(0), clients)
  return lambda: ordered(keys).block_until_ready()


def _seconds(run: Callable[[], object], repeats: int) -> float:
  run()  # compiles
  seconds = []
  for _ in range(repeats):
    started = time.perf_counter()
    run()
    seconds.append(time.perf_counter() - started)
  return statistics.median(seconds)


if __name__ == '__main__':
  main()
