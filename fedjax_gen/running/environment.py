"""The environment of a run, for the record: versions and devices."""

import importlib.metadata
import os
import platform

import jax

_PACKAGES = ('fedjax_gen', 'jax', 'jaxlib', 'flax', 'optax', 'numpy')


def environment() -> dict[str, str]:
  """Returns versions and devices by name, as text."""
  devices = jax.devices()
  return {
    'Python': platform.python_version(),
    **{name: _version(name) for name in _PACKAGES},
    'Devices': f'{len(devices)} x {devices[0].device_kind} '
    f'({devices[0].platform})',
    'CPU cores': str(os.cpu_count()),
    'System': f'{platform.system()} {platform.machine()}',
  }


def memory_bytes() -> int:
  """Returns the memory of the first device; of the machine if it shares it."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'bytes_limit' in stats:
    return stats['bytes_limit']
  return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return 'not installed'
