"""Several processes give the bits that one gives."""

import functools
import os
import socket
import subprocess
import sys

from absl.testing import absltest
import numpy as np

_TIMEOUT = 240  # seconds; a broken rendezvous would wait for ever


@functools.cache
def _bits(num_processes, num_devices):
  """Runs processes; returns the devices that each sees and both results."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  # The last of two equal flags counts; all else is as in the tests.
  flags = os.environ.get('XLA_FLAGS', '')
  flags += f' --xla_force_host_platform_device_count={num_devices}'
  environment = os.environ | {'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
  command = [sys.executable, '-m', 'tests.federated.process', str(port)]
  processes = [
    subprocess.Popen(
      [*command, str(num_processes), str(rank)],
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
    [(devices, bits, _)] = _bits(1, 1)
    self.assertEqual(devices, '1')
    # Both processes ended with the bits of the one, on eight devices.
    self.assertEqual({result[:2] for result in _bits(2, 4)}, {('8', bits)})

  def test_a_psum_over_processes_agrees_to_float_tolerance(self):
    first, second = (
      np.frombuffer(bytes.fromhex(bits), np.float32)
      for [(_, _, bits)] in (_bits(1, 1), _bits(2, 4))
    )
    np.testing.assert_allclose(first, second, rtol=1e-5)


if __name__ == '__main__':
  absltest.main()
