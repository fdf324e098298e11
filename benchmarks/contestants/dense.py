"""Not federated: one model that takes all clients' batches in one step.

As many examples in as many steps and operations, with one set of weights in
place of one for each client: what mapping clients costs is its distance from
this. In Flax's own layers, that is `lax` convolutions, or with the option
`patches` in the library's.
"""

import jax
import jax.numpy as jnp
import optax

from benchmarks import hlo, models
from benchmarks.contestants import naive_vmap, noise
from fedjax_gen.data.federated import Batch
from fedjax_gen.running.compile_clock import CompileClock


def build(task, option: str = ''):
  """Compiles the epoch."""
  if option == 'patches':
    return _Epochs(task, models.conv_vae())
  return _Epochs(task, models.conv_vae(naive_vmap.conv, naive_vmap.transposed))


class _Epochs:
  """Epochs one after the other; `compile_seconds` is that of an epoch."""

  def __init__(self, task, model: models.Model):
    images = noise.images(task).reshape(
      task.clients, task.steps, task.batch, *model.shape
    )
    # [steps, clients * batch, ...]: a step takes one batch of every client.
    self._images = jnp.asarray(images.swapaxes(0, 1)).reshape(
      task.steps, -1, *model.shape
    )
    self._variables = jax.jit(model.init)(jax.random.key(0))
    self._key = jax.random.key(1)

    def step(carry, images_and_key):
      variables, state = carry
      images, key = images_and_key
      size = len(images)
      batch = Batch(images, jnp.zeros(size), jnp.ones(size))
      gradient, _ = jax.grad(model.loss_fn, has_aux=True)(variables, batch, key)
      updates, state = model.optimizer.update(gradient, state)
      return (optax.apply_updates(variables, updates), state), ()

    @jax.jit
    def run(variables, images, key):
      carry = variables, model.optimizer.init(variables)
      keys = jax.random.split(key, task.steps)
      return jax.lax.scan(step, carry, (images, keys))[0][0]

    self._run = run
    with CompileClock() as clock:
      self()
    self.compile_seconds = clock.seconds

  def __call__(self) -> None:
    self._variables = jax.block_until_ready(
      self._run(self._variables, self._images, self._key)
    )

  def costs(self) -> dict[str, float | None]:
    """Bytes that the compiled epoch moves."""
    lowered = self._run.lower(self._variables, self._images, self._key)
    return {'bytes_moved': hlo.bytes_moved(lowered.compile())}
