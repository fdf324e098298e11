"""Programs in several processes on this machine, as their user starts them."""

import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
TIMEOUT = 300  # seconds; a broken rendezvous would wait for ever


def free_port():
  """A port that nobody listens at, as far as one can know."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def start(command, num_processes, num_devices=1, cache=None):
  """Starts `python COMMAND` in every process, each with so many devices."""
  # The last of two equal flags counts; all else is as in the tests.
  flags = os.environ.get('XLA_FLAGS', '')
  flags += f' --xla_force_host_platform_device_count={num_devices}'
  environment = os.environ | {
    'XLA_FLAGS': flags,
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': str(ROOT),
  }
  if cache is not None:
    environment['JAX_COMPILATION_CACHE_DIR'] = str(cache)
  address = f'--coordinator=127.0.0.1:{free_port()}'
  several = [address, f'--num_processes={num_processes}']
  return [
    subprocess.Popen(
      [sys.executable, *command]
      + ([*several, f'--process_id={i}'] if num_processes > 1 else []),
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(num_processes)
  ]


def finish(processes):
  """Waits for processes; returns status and output of each."""
  try:
    outputs = [p.communicate(timeout=TIMEOUT)[0] for p in processes]
  finally:
    for process in processes:
      process.kill()
  return [
    (process.returncode, output)
    for process, output in zip(processes, outputs, strict=True)
  ]
