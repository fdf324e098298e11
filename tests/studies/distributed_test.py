"""Mistakes in the flags of several processes, answered before JAX starts."""

import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.federated import mapping, rounds
from fedjax_gen.federated.algorithm import FederatedState
from fedjax_gen.federated.execution import placement
from fedjax_gen.running import leaves
from fedjax_gen.running.distributed import processes, rendezvous
from fedjax_gen.studies.command import process_flags


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (
      {'coordinator': 'a:1', 'process_id': 0},
      'together, got no --num_processes.',
    ),
    ({'num_processes': 2}, 'got no --coordinator and no --process_id.'),
    (
      {'coordinator': 'a:1', 'num_processes': 2, 'process_id': 2},
      'Expected 0 <= process_id < 2, the number of processes, got process_id=2',
    ),
    (
      {'coordinator': 'a', 'num_processes': 2, 'process_id': 1},
      "HOST:PORT, the address of process 0, got coordinator='a'",
    ),
    (
      {'coordinator': 'a:70000', 'num_processes': 2, 'process_id': 1},
      'HOST:PORT',
    ),
    (
      {'distributed': 'auto', 'process_id': 1},
      'either --distributed=auto or --coordinator',
    ),
    ({'silence_seconds': 0}, 'silence_seconds'),
  ],
)
def test_a_mistake_is_named(flags, message):
  with pytest.raises(InputError, match=message):
    process_flags.DistributedConfig(**flags)


def test_a_port_that_is_taken_is_named():
  with socket.create_server(('', 0)) as taken:
    port = taken.getsockname()[1]
    with pytest.raises(InputError, match=f'Cannot listen at port {port}'):
      rendezvous.connect(f'localhost:{port}', 2, 0, patience=1, start_seconds=1)


def test_without_flags_a_process_is_alone_and_agrees_with_itself():
  alone = process_flags.start(process_flags.DistributedConfig(), num_devices=1)
  assert alone is processes.ALONE
  assert alone.exchange((1, 'a')) == [[1, 'a']]  # as JSON has it, as for many
  assert alone.from_writer(lambda: {'b': 2.0}) == {'b': 2.0}
  alone.release()
  alone.end(0)


def test_more_cpu_devices_than_cores_are_refused_or_warned_of(
  monkeypatch, capsys
):
  monkeypatch.setattr(mapping, 'cpu_cores', lambda: 2)
  alone = process_flags.DistributedConfig()
  for num_devices in (0, 1, 2):
    process_flags.start(alone, num_devices)
  assert capsys.readouterr().err == ''
  process_flags.start(alone, 4)
  assert 'num_devices=4 on a CPU of 2 cores' in capsys.readouterr().err
  with pytest.raises(InputError, match='num_devices <= 8 .* num_devices=99'):
    process_flags.start(alone, 99)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  process_flags.start(alone, 99)  # devices that are there, or are not


def test_no_more_cpu_devices_are_made_than_can_work(monkeypatch):
  made = {}
  monkeypatch.setenv('XLA_FLAGS', '')
  monkeypatch.setattr(mapping, 'cpu_cores', lambda: 2)
  monkeypatch.setattr(jax.config, 'update', made.__setitem__)
  for num_devices, expected in ((2, 2), (8, 8), (99, 8)):
    process_flags._make_cpu_devices(num_devices, 1)
    assert made == {'jax_num_cpu_devices': expected}


def test_replicated_leaves_are_seen_as_one_device_has_them():
  placed = rounds.place(
    {'w': jnp.arange(3.0), 'key': jax.random.key(1)},
    mapping.Mapping(mesh=mapping.clients_mesh(2)),
  )
  assert len(placed['w'].devices()) == 2
  own = leaves.local(placed)
  assert [len(leaf.devices()) for leaf in jax.tree.leaves(own)] == [1, 1]
  np.testing.assert_array_equal(own['w'], np.arange(3.0))
  assert (
    jax.random.uniform(own['key']) == jax.random.uniform(jax.random.key(1))
  ).item()


def test_split_leaves_come_to_the_host_whole():
  kept = {'w': jnp.arange(8.0), 'key': jax.random.split(jax.random.key(1), 8)}
  placed = placement.place_state(
    FederatedState(jnp.int32(0), {}, (kept,)),
    mapping.Mapping(mesh=mapping.clients_mesh(4)),
  )
  assert not placed.fleets[0]['w'].is_fully_replicated
  [own] = leaves.local(placed).fleets
  assert isinstance(own['w'], np.ndarray)
  np.testing.assert_array_equal(own['w'], np.arange(8.0))
  assert (own['key'] == kept['key']).all()
  assert leaves.params_digest(own) == leaves.params_digest(kept)
