"""The patch convolutions equal XLA's own, forward and backward."""

from absl.testing import absltest, parameterized
import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from fedjax_gen.errors import InputError
from fedjax_gen.models import layers

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
_SHAPES = [
  # size, window, stride, padding
  ((8, 8), (4, 4), (2, 2), 'SAME'),
  ((7, 9), (4, 4), (2, 2), 'SAME'),
  ((7, 7), (3, 3), (2, 2), 'SAME'),
  ((7, 8), (3, 3), (1, 1), 'SAME'),
  ((7, 8), (3, 3), (1, 1), 'VALID'),
  ((9, 8), (3, 5), (2, 1), 'VALID'),
  ((5, 5), (1, 1), (2, 2), 'SAME'),
  ((6, 6), (5, 5), (3, 3), 'SAME'),
]


def _inputs_and_kernel(size, window, num_in=3, num_out=5):
  keys = jax.random.split(jax.random.key(0))
  return (
    jax.random.normal(keys[0], (2, *size, num_in)),
    jax.random.normal(keys[1], (*window, num_in, num_out)),
  )


class ConvTest(parameterized.TestCase):
  @parameterized.parameters(*_SHAPES)
  def test_equals_lax_forward_and_backward(
    self, size, window, strides, padding
  ):
    inputs, kernel = _inputs_and_kernel(size, window)

    def ours(inputs, kernel):
      return layers.conv(inputs, kernel, strides, padding)

    def lax(inputs, kernel):
      return jax.lax.conv_general_dilated(
        inputs, kernel, strides, padding, dimension_numbers=_DIMENSIONS
      )

    out, vjp = jax.vjp(ours, inputs, kernel)
    expected, expected_vjp = jax.vjp(lax, inputs, kernel)
    chex.assert_trees_all_close(out, expected, atol=1e-4)
    cotangent = jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(
      out.shape
    )
    chex.assert_trees_all_close(
      vjp(cotangent), expected_vjp(cotangent), atol=1e-4
    )

  @parameterized.parameters(*_SHAPES)
  def test_transpose_is_the_linear_transpose(
    self, size, window, strides, padding
  ):
    # <conv(x), y> = <x, conv_transpose(y)>, where conv maps the output of the
    # transposed convolution back to its input.
    small, kernel = _inputs_and_kernel(size, window)
    out = layers.conv_transpose(small, kernel, strides, padding)
    probe = jax.random.normal(jax.random.key(2), out.shape)
    back = layers.conv(probe, kernel.swapaxes(2, 3), strides, padding)
    chex.assert_equal_shape((back, small))
    chex.assert_trees_all_close(
      jnp.vdot(out, probe), jnp.vdot(small, back), rtol=1e-4
    )

  @parameterized.parameters(
    ((7, 7), (4, 4), (2, 2), 'SAME'), ((6, 5), (3, 3), (1, 1), 'VALID')
  )
  def test_transpose_equals_flax(self, size, window, strides, padding):
    inputs, kernel = _inputs_and_kernel(size, window)
    expected = nn.ConvTranspose(
      kernel.shape[-1], window, strides, padding=padding, use_bias=False
    ).apply({'params': {'kernel': kernel[::-1, ::-1]}}, inputs)
    chex.assert_trees_all_close(
      layers.conv_transpose(inputs, kernel, strides, padding),
      expected,
      atol=1e-4,
    )

  def test_layer_has_flax_parameters(self):
    inputs, _ = _inputs_and_kernel((8, 8), (4, 4))
    args = {'features': 5, 'kernel_size': (4, 4), 'strides': (2, 2)}
    ours, flax = layers.Conv(**args), nn.Conv(**args)
    params = flax.init(jax.random.key(0), inputs)
    chex.assert_trees_all_equal_shapes(
      params, ours.init(jax.random.key(0), inputs)
    )
    chex.assert_trees_all_close(
      ours.apply(params, inputs), flax.apply(params, inputs), atol=1e-4
    )

  def test_mapped_over_clients_is_a_batched_matrix_product(self):
    inputs, kernel = _inputs_and_kernel((8, 8), (4, 4))
    stacked = jnp.stack([kernel, 2 * kernel])
    text = str(
        jax.make_jaxpr(lambda k: jax.vmap(
            lambda w: layers.conv(inputs, w, (2, 2)))(k))(stacked)
    )  # fmt: skip
    self.assertNotIn('conv_general', text)
    out = jax.vmap(lambda w: layers.conv(inputs, w, (2, 2)))(stacked)
    chex.assert_trees_all_close(out[1], 2 * out[0], rtol=1e-5)

  def test_unknown_padding_is_refused(self):
    inputs, kernel = _inputs_and_kernel((8, 8), (4, 4))
    with self.assertRaisesRegex(InputError, 'padding.*CIRCULAR'):
      layers.conv(inputs, kernel, (2, 2), 'CIRCULAR')


class DepthwiseConvTest(parameterized.TestCase):
  @parameterized.parameters(
    ((8, 8), (3, 3), (1, 1)), ((7, 9), (3, 3), (2, 2)), ((6, 6), (5, 3), (2, 1))
  )
  def test_equals_lax_forward_and_backward(self, size, window, strides):
    inputs, kernel = _inputs_and_kernel(size, window, num_in=3, num_out=1)

    def ours(inputs, kernel):
      return layers.depthwise_conv(inputs, kernel[..., 0], strides)

    def lax(inputs, kernel):
      return jax.lax.conv_general_dilated(
        inputs,
        jnp.swapaxes(kernel, 2, 3),
        strides,
        'SAME',
        dimension_numbers=_DIMENSIONS,
        feature_group_count=3,
      )

    out, vjp = jax.vjp(ours, inputs, kernel)
    expected, expected_vjp = jax.vjp(lax, inputs, kernel)
    chex.assert_trees_all_close(out, expected, atol=1e-4)
    chex.assert_trees_all_close(
      vjp(jnp.cos(out)), expected_vjp(jnp.cos(expected)), atol=1e-4
    )


class MaxPoolTest(absltest.TestCase):
  def test_equals_flax_and_drops_what_makes_no_cell(self):
    inputs, _ = _inputs_and_kernel((7, 8), (1, 1))

    def flax(inputs):
      return nn.max_pool(inputs, (2, 2), (2, 2))

    out, vjp = jax.vjp(layers.max_pool, inputs)
    expected, expected_vjp = jax.vjp(flax, inputs)
    chex.assert_trees_all_equal(out, expected)
    chex.assert_trees_all_equal(
      vjp(jnp.cos(out)), expected_vjp(jnp.cos(expected))
    )

  def test_the_largest_share_the_gradient(self):
    cell = jnp.array([[1.0, 3.0], [3.0, 2.0]])[None, :, :, None]
    gradient = jax.grad(lambda cell: 6 * layers.max_pool(cell).sum())(cell)
    chex.assert_trees_all_equal(
      gradient[0, :, :, 0], jnp.array([[0.0, 3.0], [3.0, 0.0]])
    )

  def test_has_forward_derivatives(self):
    inputs, _ = _inputs_and_kernel((6, 6), (1, 1))
    change = jnp.cos(inputs)
    _, out = jax.jvp(layers.max_pool, (inputs,), (change,))
    _, vjp = jax.vjp(layers.max_pool, inputs)
    chex.assert_trees_all_close(
      jnp.vdot(out, out), jnp.vdot(change, vjp(out)[0]), rtol=1e-5
    )


if __name__ == '__main__':
  absltest.main()
