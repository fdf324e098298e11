"""Sample, clip, add noise: the pieces together, in a client's step."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.privacy import clipping, noise, sampling
from tests.federated import toys

_DATA = toys.dataset([6, 10, 0])
_BOUND, _RATE, _CAPACITY = 1.5, 0.5, 12


def _loss(variables, record, key):
  del key
  return jnp.sum((variables['w'] - record.inputs) ** 2) / 2, {}


def _gradients(client, key, noise_multiplier):
  """One noised gradient of each client, mapped over clients."""

  def one(row, key):
    data = _DATA.client(row)
    sample_key, loss_key, noise_key = jax.random.split(key, 3)
    drawn = sampling.poisson_batch(sample_key, data, _RATE, _CAPACITY)
    total = clipping.clipped_sum(
      _loss, {'w': jnp.zeros(3)}, drawn.batch, loss_key, _BOUND, chunk_size=5
    ).total
    return noise.noisy_mean(
      noise_key,
      total,
      max_norm=_BOUND,
      noise_multiplier=noise_multiplier,
      expected_size=jnp.maximum(_RATE * data.size, 1.0),
    )['w']

  return jax.vmap(one)(client, key)


class DescentTest(absltest.TestCase):
  def test_a_step_is_right_on_average_whatever_the_sizes(self):
    draws = 4000
    step = jax.jit(
      jax.vmap(lambda key: _gradients(
        jnp.arange(3), jax.random.split(key, 3), 0.7
      ))
    )  # fmt: skip
    got = np.asarray(step(jax.random.split(jax.random.key(0), draws)))
    inputs, order = np.asarray(_DATA.inputs), np.asarray(_DATA.order)
    for client, (begin, size) in enumerate(((0, 6), (6, 10))):
      gradients = -inputs[order[begin : begin + size]]
      norms = np.linalg.norm(gradients, axis=1, keepdims=True)
      clipped = gradients * np.minimum(1, _BOUND / norms)
      expected = size * _RATE
      # Over the expected size the step is unbiased: the mean of the clipped.
      np.testing.assert_allclose(
        got[:, client].mean(0), clipped.mean(0), atol=0.04
      )
      variance = (0.7 * _BOUND / expected) ** 2 + (
        _RATE * (1 - _RATE) * (clipped**2).sum(0) / expected**2
      )
      np.testing.assert_allclose(got[:, client].var(0), variance, rtol=0.1)
    # A client without records sends noise, as anyone who drew none does.
    np.testing.assert_allclose(got[:, 2].std(), 0.7 * _BOUND, rtol=0.03)


if __name__ == '__main__':
  absltest.main()
