"""What one would write first: `vmap` over clients of a `scan` over steps.

The model of `conv_vae` in Flax's own layers, that is `lax` convolutions.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from benchmarks import hlo, models
from benchmarks.contestants import noise
from fedjax_gen.data.federated import Batch
from fedjax_gen.running.compile_clock import CompileClock


def build(task):
  """Compiles the round."""
  return _Rounds(task)


class _Rounds:
  """Rounds one after the other; `compile_seconds` is that of the round."""

  def __init__(self, task):
    model = models.conv_vae(conv, transposed)
    images = jnp.asarray(
      noise.images(task).reshape(
        task.clients, task.steps, task.batch, *model.shape
      )
    )

    def train(variables, images, key):
      def step(carry, images_and_key):
        variables, state = carry
        images, key = images_and_key
        batch = Batch(images, jnp.zeros(task.batch), jnp.ones(task.batch))
        gradient = jax.grad(model.loss_fn, has_aux=True)(variables, batch, key)
        updates, state = model.optimizer.update(gradient[0], state)
        return (optax.apply_updates(variables, updates), state), ()

      carry = variables, model.optimizer.init(variables)
      keys = jax.random.split(key, task.steps)
      return jax.lax.scan(step, carry, (images, keys))[0][0]

    @jax.jit
    def run(variables, images, key):
      keys = jax.random.split(key, task.clients)
      trained = jax.vmap(train, (None, 0, 0))(variables, images, keys)
      return jax.tree.map(lambda leaf: leaf.mean(axis=0), trained)

    self._run, self._images = run, images
    self._variables = jax.jit(model.init)(jax.random.key(0))
    self._key = jax.random.key(1)
    with CompileClock() as clock:
      self()
    self.compile_seconds = clock.seconds

  def __call__(self) -> None:
    self._variables = jax.block_until_ready(
      self._run(self._variables, self._images, self._key)
    )

  def costs(self) -> dict[str, float | None]:
    """Bytes that the compiled round moves."""
    lowered = self._run.lower(self._variables, self._images, self._key)
    return {'bytes_moved': hlo.bytes_moved(lowered.compile())}


def conv(features: int) -> nn.Module:
  """A convolution of the task, as Flax has it."""
  return nn.Conv(features, (4, 4), (2, 2))


def transposed(features: int) -> nn.Module:
  """A transposed convolution of the task, as Flax has it."""
  return nn.ConvTranspose(features, (4, 4), (2, 2))
