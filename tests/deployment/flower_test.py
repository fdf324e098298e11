"""Real SuperLink and SuperNode processes on this machine."""

import contextlib
import functools
import json
import os
import subprocess
import sys
import threading

import chex
import jax
import numpy as np
import pytest

pytest.importorskip('flwr', reason='needs the extra flower')
pytest.importorskip('Crypto', reason='needs the extra flower')

from sklearn import datasets  # noqa: E402

import fedjax_gen  # noqa: E402
from fedjax_gen.deployment.collecting import Patience  # noqa: E402
from fedjax_gen.deployment.flower import (
  certificates,
  flower_processes,
  loopback,
)
from fedjax_gen.deployment.flower.transport import FlowerTransport  # noqa: E402
from tests.algorithms import contract_test  # noqa: E402
from tests.deployment import bad_network, federations  # noqa: E402


@contextlib.contextmanager
def _kept_up(connect):
  """Connects again whenever the connection is lost, as the command does."""
  is_over = threading.Event()

  def serve():
    while not is_over.is_set():
      with connect() as node:
        while node.poll() is None and not is_over.wait(0.2):
          pass

  thread = threading.Thread(target=serve)
  thread.start()
  yield
  is_over.set()
  thread.join()


@contextlib.contextmanager
def _over_flower(federation, folder, network=lambda port: port):
  """Puts Flower, with TLS and node authentication, between its parts.

  Sites reach it at the port that `network` makes of its own.
  """
  with contextlib.ExitStack() as stack:
    port = flower_processes.free_port()
    tls = certificates.coordinator_tls(folder / 'tls', [])
    stack.enter_context(
      flower_processes.superlink(folder / 'server', '127.0.0.1', port, tls)
    )
    reached = network(port)
    for place in federation.sites:
      private, public = certificates.node_key(folder / f'node{place}')
      flower_processes.register(folder / 'server', str(public))
      meeting, listener = stack.enter_context(loopback.listening())
      # Looked up at each message: a site may have started anew.
      loopback.serve(
        listener,
        lambda message, place=place: federation.sites[place].answer(message),
      )
      connect = functools.partial(
        flower_processes.supernode,
        folder / f'node{place}',
        f'127.0.0.1:{reached}',
        meeting,
        authority=tls.authority,
        private_key=str(private),
      )
      stack.enter_context(_kept_up(connect))
    meeting, listener = stack.enter_context(loopback.listening())
    flower_processes.submit(folder / 'server', meeting)
    transport = FlowerTransport(
      loopback.accepted(listener, 300.0), federation.notes.append
    )
    stack.callback(transport.close)
    federation.network = transport
    yield


def test_fedvae_over_flower_has_the_bits_of_the_simulation(tmp_path):
  algorithm, data = contract_test.ALGORITHMS['fedvae']()
  federation = federations.Federation(tmp_path, algorithm, data)
  federation.patience = Patience(300.0, 600.0)
  with _over_flower(federation, tmp_path / 'flower'):
    coordinator = federation.coordinator(patience=300.0)
    state, _ = coordinator.round(coordinator.init(federations.INIT))
    # Sites that are killed and start again give what they gave.
    for place in range(3):
      federation.start(place)
    again, _ = coordinator.round(coordinator.init(federations.INIT))
    chex.assert_trees_all_equal(state, again)
    for _ in range(4):
      state, _ = coordinator.round(state)
  expected, _ = federations.simulated(algorithm, data, 5)
  chex.assert_trees_all_equal(jax.device_get(state.server), expected.server)


def test_delays_and_broken_connections_change_nothing_but_time(tmp_path):
  algorithm, data = contract_test.ALGORITHMS['fedvae']()
  federation = federations.Federation(tmp_path, algorithm, data)
  federation.patience = Patience(15.0, 600.0)  # then it asks again
  relays = []

  def network(port):
    relays.append(bad_network.Relay(port))
    return relays[0].port

  with _over_flower(federation, tmp_path / 'flower', network):
    coordinator = federation.coordinator(patience=300.0)
    state = coordinator.init(federations.INIT)
    for _ in range(3):
      state, _ = coordinator.round(state)
    relays[0].close()
  assert relays[0].num_delays > 10 and relays[0].num_cuts > 0
  expected, _ = federations.simulated(algorithm, data, 3)
  chex.assert_trees_all_equal(jax.device_get(state.server), expected.server)


_COMMAND = (
  'import sys; from fedjax_gen.studies.command.main import execute; '
  'sys.exit(execute(sys.argv[1:]))'
)

# Compiling is most of what the processes do; without the tests' eight devices.
_FLAGS = {'XLA_FLAGS': '--xla_backend_optimization_level=0'}


def _command(*args):
  return [sys.executable, '-c', _COMMAND, *map(str, args)]


def _write_digits(folder):
  """A third of the digits for each site, and all of them."""
  digits = datasets.load_digits()
  images = (digits.images * 15).astype(np.uint8)
  for k in range(3):
    np.savez(folder / f'{k}.npz', x=images[k::3], y=digits.target[k::3])
  np.savez(folder / 'all.npz', x=images[::9], y=digits.target[::9])


def _write_kinds(folder):
  """Two sites with digits, two with their negatives; some of both."""
  digits = datasets.load_digits()
  images, labels = (digits.images * 15).astype(np.uint8), digits.target
  for k in range(4):
    part = images[k:200:4]
    kind = part if k < 2 else 255 - part
    np.savez(folder / f'{k}.npz', x=kind, y=labels[k:200:4])
  half = images[200:260]
  np.savez(
    folder / 'all.npz',
    x=np.concatenate([half, 255 - half]),
    y=np.tile(labels[200:260], 2),
    groups=np.repeat(['digits', 'negatives'], len(half)),
  )


def _write_embeddings(folder):
  draws = np.random.default_rng(0)
  for name in ('0', '1', '2', 'all'):
    labels = np.arange(80) % 2
    inputs = draws.normal(size=(80, 4)) + 3 * np.eye(2, 4)[labels]
    np.savez(folder / f'{name}.npz', x=inputs.astype(np.float32), y=labels)


_VAE = ('--model=mlp', '--hidden_size=8', '--latent_size=2')


@pytest.mark.parametrize(
  ('study', 'write', 'groups', 'flags', 'method', 'metric'),
  [
    ('fedvae', _write_digits, (0, 0, 0), (*_VAE, '--num_samples=50'),
     'federated', 'test_elbo'),
    ('fissionvae', _write_kinds, (0, 0, 1, 1), (*_VAE, '--num_samples=50'),
     'L+D', 'test_elbo'),
    ('fedhypevae', _write_embeddings, (0, 0, 0),
     ('--privacy=record_joint', '--epsilon=50', '--hidden_sizes=8'),
     'FedHypeVAE', 'accuracy'),
    ('fedvtc', _write_kinds, (0, 0, 1, 1),
     ('--architectures=mlp,cnn', '--feature_size=4', '--width=0.1',
      '--synthetic_per_class=2'),
     'FedVTC', 'bytes_up'),
  ],
)  # fmt: skip
def test_the_commands_end_with_report_and_model(
  tmp_path, study, write, groups, flags, method, metric
):
  write(tmp_path)
  port, environment = flower_processes.free_port(), os.environ | _FLAGS
  workdir = tmp_path / 'run'
  with contextlib.ExitStack() as stack:
    for k, group in enumerate(groups):
      log = stack.enter_context((tmp_path / f'{k}.log').open('w'))
      site = subprocess.Popen(
        _command(
          'site', f'--coordinator=127.0.0.1:{port}', '--insecure',
          f'--data={tmp_path / f"{k}.npz"}', f'--state={tmp_path / str(k)}',
          f'--name=site{k}', f'--group={group}', '--allow_metrics=loss',
        ),
        env=environment, stdout=log, stderr=log,
      )  # fmt: skip
      stack.callback(site.wait, 30)
      stack.callback(site.terminate)
    run = subprocess.run(
      _command(
        'coordinate', study, f'--sites={len(groups)}', f'--port={port}',
        '--insecure', '--secured', f'--workdir={workdir}', '--rounds=1',
        '--eval_every=1', f'--data={tmp_path / "all.npz"}',
        '--give_up_after=600', *flags,
      ),
      env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
  summary = json.loads((workdir / 'summary.json').read_text())
  assert np.isfinite(summary['methods'][method][metric])
  report = workdir / 'report.html'
  if study != 'fedvae':
    assert ('Left out' in report.read_text()) == (study != 'fissionvae')
  if study in ('fedvae', 'fissionvae', 'fedvtc'):
    images, _ = fedjax_gen.load(workdir).sample(4)
    assert images.shape[1:3] == (8, 8)
  [*_, event] = [
    json.loads(line)
    for line in (tmp_path / 'run.federation' / 'events.jsonl').open()
    if '"round": 1' in line
  ]
  assert event['node'] == ', '.join(f'site{k}' for k in range(len(groups)))
  logged = (tmp_path / '0' / 'log.jsonl').read_text()
  assert '"step": "unmask"' in logged and 'refused' not in logged
  assert 'failed' not in logged
