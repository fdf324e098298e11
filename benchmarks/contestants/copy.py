"""Not a contestant: the rate at which all cores copy a large array in memory.

A round reads 256 MiB and writes as much, from one array into another that was
there before; what the contestants move is told as a fraction of its rate.
"""

import functools

import jax
import jax.numpy as jnp

_NUMBERS, _COPIES = 2**26, 4


class _Copies:
  """Copies to and fro, one after the other."""

  def __init__(self):
    self._arrays = jnp.zeros(_NUMBERS), jnp.ones(_NUMBERS)

    # The sign is turned lest the compiler see that nothing is to be done. The
    # target is given, for its memory: fresh pages would cost more than a copy.
    @functools.partial(jax.jit, donate_argnums=1, keep_unused=True)
    def copied(source, target):
      del target
      return -source

    self._copied = copied

  def __call__(self) -> None:
    for _ in range(_COPIES):
      source, target = self._arrays
      self._arrays = self._copied(source, target), source
    jax.block_until_ready(self._arrays)

  def costs(self) -> dict[str, int]:
    """What a round reads and writes."""
    return {'bytes_moved': _COPIES * 2 * 4 * _NUMBERS}


def build(task):
  """Ignores the task."""
  del task
  return _Copies()
