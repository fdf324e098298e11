"""Spectral norms agree with NumPy's SVD, penalties with what they bound."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.losses import lipschitz


def _kernel(rows, columns, seed=0):
  return jax.random.normal(jax.random.key(seed), (rows, columns))


def _largest(kernel):
  return np.linalg.svd(np.asarray(kernel), compute_uv=False)[0]


class SpectralNormTest(parameterized.TestCase):
  @parameterized.parameters((3, 8), (8, 3), (5, 5), (1, 4))
  def test_largest_singular_value_equals_numpy(self, rows, columns):
    kernel = _kernel(rows, columns)
    np.testing.assert_allclose(
      lipschitz.largest_singular_value(kernel), _largest(kernel), rtol=1e-5
    )

  @parameterized.parameters((3, 8), (8, 3))
  def test_its_gradient_is_the_outer_product_of_singular_vectors(
    self, rows, columns
  ):
    kernel = _kernel(rows, columns)
    left, _, right = np.linalg.svd(np.asarray(kernel))
    gradient = jax.grad(lipschitz.largest_singular_value)(kernel)
    np.testing.assert_allclose(
      gradient, np.outer(left[:, 0], right[0]), atol=1e-5
    )

  @parameterized.parameters(
    (jnp.zeros((3, 4)), 0.0), (2 * jnp.eye(3), 2.0), (jnp.ones((2, 2)), 2.0)
  )
  def test_degenerate_kernels_have_finite_gradients(self, kernel, expected):
    value, gradient = jax.value_and_grad(lipschitz.largest_singular_value)(
      kernel
    )
    np.testing.assert_allclose(value, expected, atol=1e-6)
    chex.assert_tree_all_finite(gradient)

  @parameterized.parameters(0.3, 1.0, 100.0)
  def test_constrained_kernels_do_not_exceed_the_target(self, target):
    kernel = _kernel(6, 9)
    cut = lipschitz.constrained(kernel, target)
    expected = min(target, _largest(kernel))
    np.testing.assert_allclose(_largest(cut), expected, rtol=1e-5)
    # Scaled, and so turned nowhere.
    np.testing.assert_allclose(
      cut / cut[0, 0], kernel / kernel[0, 0], rtol=1e-4
    )

  def test_only_leaves_named_kernel_are_constrained(self):
    variables = {
      'params': {
        'Dense_0': {'kernel': 9 * _kernel(3, 4), 'bias': jnp.full(4, 9.0)},
        'labels': 9 * _kernel(2, 3),
      }
    }
    cut = lipschitz.constrained_kernels(variables, 0.5)['params']
    np.testing.assert_allclose(_largest(cut['Dense_0']['kernel']), 0.5, 1e-5)
    original = variables['params']
    chex.assert_trees_all_equal(cut['labels'], original['labels'])
    chex.assert_trees_all_equal(
      cut['Dense_0']['bias'], original['Dense_0']['bias']
    )

  def test_a_network_of_constrained_layers_contracts_distances(self):
    kernels = [
      lipschitz.constrained(3 * _kernel(5, 5, seed), 1.0) for seed in (0, 1)
    ]
    points = 4 * _kernel(50, 5, seed=2)
    outputs = jnp.tanh(points @ kernels[0]) @ kernels[1]
    shrunk = np.linalg.norm(outputs[1:] - outputs[:-1], axis=1)
    apart = np.linalg.norm(points[1:] - points[:-1], axis=1)
    self.assertLessEqual(np.max(shrunk / apart), 1 + 1e-5)


class PenaltyTest(absltest.TestCase):
  def test_kernel_penalty_adds_up_squared_excesses(self):
    over, under = _kernel(4, 6), 0.01 * _kernel(6, 2)
    variables = {
      'a': {'kernel': over, 'bias': jnp.full(6, 50.0)},
      'b': {'kernel': under},
    }
    expected = (_largest(over) - 1.5) ** 2
    value = lipschitz.kernel_penalty(variables, 1.5)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    twice = lipschitz.kernel_penalty({'one': variables, 'two': variables}, 1.5)
    np.testing.assert_allclose(twice, 2 * expected, rtol=1e-4)

  def test_kernel_penalty_of_no_kernels_is_zero(self):
    self.assertEqual(lipschitz.kernel_penalty({}, 1.0), 0.0)

  def test_descending_the_penalty_ends_at_the_target(self):
    kernel = _kernel(4, 6)
    gradient = jax.grad(lambda k: lipschitz.kernel_penalty({'kernel': k}, 1.0))
    kernel = jax.lax.fori_loop(
      0, 200, lambda _, k: k - 0.1 * gradient(k), kernel
    )
    np.testing.assert_allclose(_largest(kernel), 1.0, rtol=1e-2)

  def test_jacobian_penalty_is_the_squared_jacobian_on_average(self):
    first, second = _kernel(4, 6), _kernel(6, 3, seed=1)

    def function(x):
      hidden = jnp.tanh(x @ first)
      # A tree with a leaf that does not depend on the input.
      return {'a': hidden @ second, 'b': (hidden[:2] ** 2,), 'c': jnp.ones(3)}

    point = jnp.linspace(-1.0, 1.0, 4)
    jacobian = jax.tree.leaves(jax.jacobian(function)(point))
    expected = sum(jnp.sum(leaf**2) for leaf in jacobian)
    keys = jax.random.split(jax.random.key(2), 20_000)
    values = jax.jit(
      jax.vmap(lambda key: lipschitz.jacobian_penalty(function, point, key))
    )(keys)
    standard_error = values.std() / len(keys) ** 0.5
    self.assertLess(standard_error, 0.02 * expected)
    self.assertLess(abs(values.mean() - expected), 4 * standard_error)

  def test_each_leaf_has_a_probe_of_its_own(self):
    def function(x):
      return x, x

    # J^T u is the sum of both probes: had they been one, 4 |u|^2 and not 2.
    keys = jax.random.split(jax.random.key(0), 20_000)
    values = jax.vmap(
      lambda key: lipschitz.jacobian_penalty(function, jnp.zeros(2), key)
    )(keys)
    np.testing.assert_allclose(values.mean(), 4.0, rtol=0.05)


if __name__ == '__main__':
  absltest.main()
