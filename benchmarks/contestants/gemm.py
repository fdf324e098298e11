"""Not a contestant: the machine's matrix product, in float32 (or TF32).

The best rate that the compiler reaches on all cores; what the contestants reach
is told as a fraction of it.
"""

import jax

_PRODUCTS = 4


class _Products:
  """Products one after the other; a round is the fastest of them.

  Attributes:
    device: what JAX calls the device.
  """

  def __init__(self):
    self.device = jax.devices()[0].device_kind
    # Large enough to keep all of an accelerator busy.
    size = 2048 if jax.default_backend() == 'cpu' else 8192
    self._flops = 2 * size**3 * _PRODUCTS
    self._matrix = jax.random.normal(jax.random.key(0), (size, size))
    self._product = jax.jit(lambda a, b: a @ b * size**-0.5)

  def __call__(self) -> None:
    product = self._matrix
    for _ in range(_PRODUCTS):
      product = self._product(self._matrix, product)
    product.block_until_ready()

  def costs(self) -> dict[str, int]:
    """Operations of a round."""
    return {'flops': self._flops}


def build(task):
  """Ignores the task."""
  del task
  return _Products()
