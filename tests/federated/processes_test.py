"""Several processes give the bits that one gives."""

import os
import socket
import subprocess
import sys

from absl.testing import absltest
import numpy as np

_TIMEOUT = 240  # seconds; a broken rendezvous would wait for ever


def _bits(num_processes, devices_each, mode):
  """Runs the processes; returns the devices they saw and their bits."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  flags = f'--xla_force_host_platform_device_count={devices_each}'
  environment = os.environ | {'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
  command = [sys.executable, '-m', 'tests.federated.process', str(port)]
  processes = [
    subprocess.Popen(
      [*command, str(num_processes), str(rank), mode],
      env=environment,
      stdout=subprocess.PIPE,
      text=True,
    )
    for rank in range(num_processes)
  ]
  try:
    outputs = [p.communicate(timeout=_TIMEOUT)[0] for p in processes]
  finally:
    for process in processes:
      process.kill()
  # The last line: the collectives' library prints lines of its own.
  return {tuple(output.splitlines()[-1].split()) for output in outputs}


class ProcessesTest(absltest.TestCase):
  def test_reproducible_bits_do_not_depend_on_processes(self):
    alone, pair = (_bits(n, 1, 'reproducible') for n in (1, 2))
    [(devices, bits)] = alone
    self.assertEqual(devices, '1')
    # Both processes ended with the bits of the one, on two devices.
    self.assertEqual(pair, {('2', bits)})

  def test_a_psum_over_processes_agrees_to_float_tolerance(self):
    alone, pair = (_bits(n, 1, 'psum') for n in (1, 2))
    first, second = (
      np.frombuffer(bytes.fromhex(bits), np.float32)
      for [(_, bits)] in (alone, pair)
    )
    np.testing.assert_allclose(first, second, rtol=1e-5)


if __name__ == '__main__':
  absltest.main()
