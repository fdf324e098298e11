"""Winograd's products are the correlation, its gradients are its transposes."""

from unittest import mock

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.models import layers
from fedjax_gen.models.convolutions import winograd

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def _lax(inputs, kernel, low, size):
  padding = [
    (before, out + 2 - extent - before)
    for before, out, extent in zip(low, size, inputs.shape[1:3], strict=True)
  ]
  return jax.lax.conv_general_dilated(
    inputs, kernel, (1, 1), padding, dimension_numbers=_DIMENSIONS
  )


def _operands(batch, extent, num_in, num_out):
  keys = jax.random.split(jax.random.key(0))
  return (
    jax.random.normal(keys[0], (batch, *extent, num_in)),
    jax.random.normal(keys[1], (3, 3, num_in, num_out)),
  )


class WinogradTest(parameterized.TestCase):
  @parameterized.parameters(
    # extent, low, size, I, O
    ((8, 6), (0, 0), (6, 4), 3, 5),
    ((7, 8), (1, 1), (7, 8), 5, 3),
    ((5, 9), (2, 2), (7, 11), 3, 3),
    ((6, 6), (-1, 0), (3, 5), 4, 2),
    ((3, 3), (0, 0), (1, 1), 2, 2),
  )
  def test_equals_lax_and_its_gradients(self, extent, low, size, i, o):
    inputs, kernel = _operands(2, extent, i, o)
    expected, vjp = jax.vjp(lambda x, k: _lax(x, k, low, size), inputs, kernel)
    out = winograd.correlate(inputs, kernel, low, size)
    chex.assert_trees_all_close(out, expected, atol=2e-5)
    gradient = jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)
    found = (
      winograd.spread(gradient, kernel, low, extent),
      winograd.kernel_gradient(inputs, gradient, low),
    )
    chex.assert_trees_all_close(found, vjp(gradient), atol=2e-5)

  def test_a_large_layer_is_computed_so_and_equals_lax(self):
    inputs, kernel = _operands(20, (26, 26), 32, 64)
    self.assertTrue(winograd.suits(kernel.shape, (1, 1), 20, (24, 24)))

    def ours(inputs, kernel):
      with mock.patch.object(
        winograd, 'correlate', wraps=winograd.correlate
      ) as used:
        out = layers.conv(inputs, kernel, (1, 1), 'VALID')
      used.assert_called_once()
      return out

    out, vjp = jax.vjp(ours, inputs, kernel)
    expected, expected_vjp = jax.vjp(
      lambda x, k: _lax(x, k, (0, 0), (24, 24)), inputs, kernel
    )
    gradient = jnp.cos(expected)
    for found, wanted in zip(
      (out, *vjp(gradient)), (expected, *expected_vjp(gradient)), strict=True
    ):
      scale = float(jnp.std(wanted))
      chex.assert_trees_all_close(found / scale, wanted / scale, atol=2e-5)

  def test_rounds_about_as_well_as_a_product_of_patches(self):
    inputs, kernel = _operands(4, (10, 10), 32, 32)
    with jax.enable_x64(True):
      doubles = [
        jnp.asarray(values, jnp.float64) for values in (inputs, kernel)
      ]
      exact = np.asarray(_lax(*doubles, (0, 0), (8, 8)))
    errors = [
      np.sqrt(np.mean((np.asarray(found, np.float64) - exact) ** 2))
      for found in (
        winograd.correlate(inputs, kernel, (0, 0), (8, 8)),
        layers.conv(inputs, kernel, (1, 1), 'VALID'),
      )
    ]
    self.assertLess(errors[0], 4 * errors[1])
    self.assertLess(errors[0], 1e-6 * np.std(exact))

  def test_mapped_over_clients_is_batched_products(self):
    inputs, kernel = _operands(2, (6, 6), 3, 4)
    stacked = jnp.stack([kernel, 2 * kernel])
    out = jax.vmap(
      lambda kernel: winograd.correlate(inputs, kernel, (0, 0), (4, 4))
    )(stacked)
    chex.assert_trees_all_close(out[1], 2 * out[0], rtol=1e-5)

  @parameterized.parameters(
    ((3, 3, 32, 64), (2, 2), 20, (24, 24)),  # stride
    ((5, 5, 32, 64), (1, 1), 20, (24, 24)),  # window
    ((3, 3, 1, 64), (1, 1), 2000, (24, 24)),  # narrow
    ((3, 3, 32, 64), (1, 1), 1, (8, 8)),  # small
  )
  def test_other_layers_stay_with_patches(self, shape, strides, batch, size):
    self.assertFalse(winograd.suits(shape, strides, batch, size))


if __name__ == '__main__':
  absltest.main()
