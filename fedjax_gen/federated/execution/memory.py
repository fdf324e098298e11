"""How many clients fit in memory at once, from the compiler's analysis."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax

from fedjax_gen.federated.mapping import Mapping

_SHARE = 0.9  # of what is free: allocators need room to move


def fitted(
  mapping: Mapping,
  num_clients: int,
  temporary_bytes: Callable[[Mapping], int],
  limit: int | None,
) -> Mapping:
  """The mapping with the largest block that fits, for `block_size='auto'`.

  The whole cohort is tried first, and its need gives the next guess; so it
  rarely compiles more than twice, and only once where all fit.

  Args:
    mapping: as asked for; returned as it is unless its block is `'auto'` and
      would hold more than one client.
    num_clients: of the largest cohort.
    temporary_bytes: what a program of a mapping needs on one device,
      without its arguments and results.
    limit: bytes available; None if unknown.
  """
  _, _, block = mapping.layout(num_clients)
  if mapping.block_size != 'auto' or limit is None or block == 1:
    return mapping
  while True:
    smaller = dataclasses.replace(mapping, block_size=block)
    needed = temporary_bytes(smaller)
    if needed <= limit or block == 1:
      return smaller
    block = max(1, min(block - 1, int(block * limit / needed)))


def needed_bytes(program: jax.stages.Lowered) -> int:
  """What a program needs on one device, without arguments and results."""
  compiled: Any = program.compile()
  return int(compiled.memory_analysis().temp_size_in_bytes)


def free_bytes() -> int | None:
  """Free memory of the first device; None if unknown, as on CPUs."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'bytes_limit' not in stats:
    return None
  free = stats['bytes_limit'] - stats.get('bytes_in_use', 0)
  return int(_SHARE * free)
