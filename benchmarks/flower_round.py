"""What a round over Flower costs without training, and an empty exchange.

python -m benchmarks.flower_round --sites=3 --rounds=5

SuperLink, SuperNodes and sites on this machine, without TLS. Empty exchanges
and rounds of FedVAE take turns, so that both see the same load.
"""

import contextlib
import pathlib
import tempfile
import time

from absl import app, flags
import jax
import numpy as np

from fedjax_gen.algorithms import fedvae
from fedjax_gen.data import partition, sources
from fedjax_gen.data.federated import federated_dataset
from fedjax_gen.deployment import roster as rosters
from fedjax_gen.deployment.agreement import Task
from fedjax_gen.deployment.collecting import Collector, Patience
from fedjax_gen.deployment.flower import flower_processes, loopback
from fedjax_gen.deployment.flower.transport import FlowerTransport
from fedjax_gen.deployment.remote_engine import Deployment
from fedjax_gen.deployment.site import Site
from fedjax_gen.federated import rounds
from fedjax_gen.models.vae import DataSpec, VaeConfig, build_vae

_SITES = flags.DEFINE_integer('sites', 3, 'how many')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'after one that compiles')
_PATIENCE = 300.0
_METHOD = 'federated'


class _Worker:
  """A site that also answers nothing with nothing, and tells its time."""

  def __init__(self, site: Site):
    self.site, self.seconds = site, 0.0

  def answer(self, message: bytes) -> bytes:
    """The reply of the site."""
    if not message:
      return b''
    started = time.perf_counter()
    reply = self.site.answer(message)
    self.seconds = time.perf_counter() - started
    return reply


def measured(folder: pathlib.Path) -> tuple[list[float], list[float], int]:
  """Seconds of empty exchanges, of rounds without training, bytes up."""
  source = sources.load('digits')
  data = federated_dataset(
    source.train.inputs,
    source.train.labels,
    partition.iid(len(source.train.labels), _SITES.value, seed=0),
  )
  spec = DataSpec(source.input_shape, source.num_classes)
  algorithm = fedvae.fedvae(
    fedvae.Config(local_epochs=1), build_vae(VaeConfig('mlp'), spec)
  )
  with contextlib.ExitStack() as stack:
    port = flower_processes.free_port()
    stack.enter_context(
      flower_processes.superlink(folder / 'server', '127.0.0.1', port, None)
    )
    workers = []
    for i in range(_SITES.value):
      site = Site(
        folder / f'site{i}',
        data.select(np.array([i])),
        lambda config: {_METHOD: Task(algorithm)},
        name=f'site{i}',
      )
      workers.append(_Worker(stack.enter_context(site)))
      meeting, listener = stack.enter_context(loopback.listening())
      loopback.serve(listener, workers[-1].answer)
      stack.enter_context(
        flower_processes.supernode(
          folder / f'node{i}',
          f'127.0.0.1:{port}',
          meeting,
          authority=None,
          private_key=None,
        )
      )
    meeting, listener = stack.enter_context(loopback.listening())
    flower_processes.submit(folder / 'server', meeting)
    transport = FlowerTransport(loopback.accepted(listener, _PATIENCE), print)
    stack.callback(transport.close)
    roster = rosters.gathered(
      transport, folder / 'federation.json', _SITES.value
    )
    roster.agree({'study': 'benchmark'})
    collector = Collector(
      roster, transport, Patience(_PATIENCE), lambda _: None
    )
    engine = Deployment(collector, folder / 'sums', _SITES.value).engine(
      _METHOD,
      algorithm,
      [data],
      jax.random.key(0),
      traffic=rounds.traffic(algorithm, [data]),
    )
    state, metrics = engine.step(engine.init(), 1)
    empty, beside = [], []
    for _ in range(_ROUNDS.value):
      started = time.perf_counter()
      asked = dict.fromkeys(roster.addresses.values(), b'')
      assert len(dict(transport.exchange(asked, _PATIENCE))) == _SITES.value
      empty.append(time.perf_counter() - started)
      started = time.perf_counter()
      state, metrics = engine.step(state, 1)
      jax.block_until_ready(state)
      total = time.perf_counter() - started
      beside.append(total - max(worker.seconds for worker in workers))
    return empty, beside, int(metrics['bytes_up'][0])


def main(unused_argv) -> None:
  """Prints medians."""
  with tempfile.TemporaryDirectory() as folder:
    empty, beside, bytes_up = measured(pathlib.Path(folder))
  print(
    f'{_SITES.value} sites, {bytes_up / _SITES.value:,.0f} bytes up each: '
    f'an empty exchange {np.median(empty):.1f} s ({min(empty):.1f} to '
    f'{max(empty):.1f}), a round less its training {np.median(beside):.1f} s '
    f'({min(beside):.1f} to {max(beside):.1f}), medians of {len(empty)}.'
  )


if __name__ == '__main__':
  app.run(main)
