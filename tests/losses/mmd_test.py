"""MMD agrees with a loop over pairs, and splits into terms of records."""

import itertools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.losses import mmd

_REAL = jax.random.normal(jax.random.key(0), (7, 4))
_GENERATED = 0.5 + 2 * jax.random.normal(jax.random.key(1), (5, 4))


def _kernel(a, b):
  """The kernel as written, of two vectors, in float64."""
  distance = np.sum((np.float64(a) - np.float64(b)) ** 2)
  return np.mean(
    [np.exp(-distance / (2 * s * len(a))) for s in (0.25, 0.5, 1, 2, 4)]
  )


def _loop(real, generated):
  pairs = [(real, real), (generated, generated), (real, generated)]
  within, among, across = (
    np.mean([_kernel(a, b) for a in left for b in right])
    for left, right in pairs
  )
  return within + among - 2 * across


class MmdTest(parameterized.TestCase):
  def test_kernel_equals_the_formula_pair_by_pair(self):
    values = mmd.multi_kernel(_REAL, _GENERATED)
    expected = [[_kernel(a, b) for b in _GENERATED] for a in _REAL]
    np.testing.assert_allclose(values, expected, rtol=1e-5)

  def test_kernel_is_one_of_a_vector_and_itself_and_follows_the_scales(self):
    far = 100 * jnp.ones((2, 4))
    np.testing.assert_array_equal(mmd.multi_kernel(far, far), np.ones((2, 2)))
    # |a - b|^2 / F is 1.
    value = mmd.multi_kernel(jnp.zeros((1, 4)), jnp.ones((1, 4)), (2.0,))
    np.testing.assert_allclose(value, [[np.exp(-0.25)]], rtol=1e-6)

  def test_squared_equals_a_loop_over_pairs(self):
    value = mmd.squared(_REAL, _GENERATED)
    np.testing.assert_allclose(value, _loop(_REAL, _GENERATED), rtol=1e-5)
    self.assertGreater(value, 0.05)

  def test_squared_is_zero_of_equal_sets_and_not_below_zero_of_close_ones(self):
    shuffled = _REAL[::-1]
    np.testing.assert_allclose(mmd.squared(_REAL, shuffled), 0, atol=1e-6)
    # Repeating a sample changes no mean.
    twice = jnp.concatenate([_REAL, _REAL])
    np.testing.assert_allclose(mmd.squared(_REAL, twice), 0, atol=1e-6)
    noise = jax.random.normal(jax.random.key(2), _REAL.shape)
    squared = jax.jit(mmd.squared)
    for size in (1e-3, 1e-2, 1e-1):
      self.assertGreaterEqual(squared(_REAL, _REAL + size * noise), -1e-6)

  @parameterized.parameters(False, True)
  def test_masked_out_examples_do_not_count(self, swap):
    some = jnp.array([True, False, True, True, False, False, True])
    kept = _REAL[np.asarray(some)]
    wild = jnp.where(some[:, None], _REAL, 1e3)
    left, right = (_GENERATED, wild) if swap else (wild, _GENERATED)
    masks = (None, some) if swap else (some, None)
    np.testing.assert_allclose(
      mmd.squared(left, right, *masks), _loop(kept, _GENERATED), rtol=1e-5
    )

  def test_a_mask_of_nothing_gives_a_number_and_finite_gradients(self):
    nothing = jnp.zeros(7, bool)
    value_and_grad = jax.jit(jax.value_and_grad(mmd.squared))
    value = value_and_grad(_REAL, _GENERATED, nothing)
    chex.assert_tree_all_finite(value)

  def test_record_terms_are_the_mmd_less_what_no_generator_changes(self):
    terms = jax.vmap(mmd.record_term, (0, None))(_REAL, _GENERATED)
    among = mmd.multi_kernel(_REAL, _REAL)
    constant = (among.sum() - jnp.trace(among)) / (7 * 6)
    np.testing.assert_allclose(
      terms.mean() + constant, mmd.unbiased(_REAL, _GENERATED), atol=1e-6
    )

  def test_without_pairs_of_itself_it_equals_a_loop(self):
    pairs = [
      np.mean([_kernel(a, b) for a, b in itertools.permutations(values, 2)])
      for values in (_REAL, _GENERATED)
    ]
    across = np.mean([_kernel(a, b) for a in _REAL for b in _GENERATED])
    np.testing.assert_allclose(
      mmd.unbiased(_REAL, _GENERATED), sum(pairs) - 2 * across, rtol=1e-5
    )

  @parameterized.parameters(2, 4)
  def test_the_optimal_spread_of_a_generator_is_the_true_one(self, num):
    """Of the term alone, whatever the number of samples."""
    size, draws = 32, 3000
    keys = jax.random.split(jax.random.key(5), 2)
    records = jax.random.normal(keys[0], (draws, size))
    samples = jax.random.normal(keys[1], (draws, num, size))

    @jax.jit
    def means(stddevs):
      def of(stddev):
        return jax.vmap(mmd.record_term)(records, stddev * samples).mean()

      return jax.lax.map(of, stddevs)

    stddevs = jnp.linspace(0.7, 1.3, 61)
    best = stddevs[jnp.argmin(means(stddevs))]
    self.assertBetween(float(best), 0.95, 1.05)

  def test_of_one_generated_example_there_is_no_pair(self):
    with self.assertRaisesRegex(InputError, '2 or more generated'):
      mmd.record_term(_REAL[0], _GENERATED[:1])

  def test_gradients_of_record_terms_average_to_that_of_the_mmd(self):
    latents = jax.random.normal(jax.random.key(3), (6, 3))
    weights = jax.random.normal(jax.random.key(4), (3, 4))

    def generate(weights):
      return jnp.tanh(latents @ weights)

    def term(weights, record):
      return mmd.record_term(record, generate(weights))

    @jax.jit
    def gradients(weights):
      each = jax.vmap(jax.grad(term), (None, 0))(weights, _REAL)
      whole = jax.grad(lambda w: mmd.unbiased(_REAL, generate(w)))(weights)
      return each, whole

    each, whole = gradients(weights)
    self.assertGreater(jnp.abs(whole).max(), 1e-3)
    # Clipping each would be idle if they were all alike.
    self.assertGreater(jnp.std(each, axis=0).max(), 1e-3)
    np.testing.assert_allclose(each.mean(axis=0), whole, atol=1e-6)

  def test_gradients_are_finite_where_examples_coincide(self):
    gradients = jax.jit(jax.grad(mmd.squared, argnums=(0, 1)))(_REAL, _REAL)
    chex.assert_tree_all_finite(gradients)


if __name__ == '__main__':
  absltest.main()
