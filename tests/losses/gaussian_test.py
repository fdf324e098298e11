"""Gaussians agree with SciPy, with integrals and with their own samples."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, stats

from fedjax_gen.losses import gaussian
from fedjax_gen.losses.gaussian import Gaussian

_POSTERIOR = Gaussian(jnp.array([0.5, -1.0]), jnp.array([-1.0, 0.3]))
_PRIOR = Gaussian(jnp.array([0.0, 0.2]), jnp.array([0.4, -0.5]))


def _norm(distribution, i):
  """SciPy's one-dimensional normal of coordinate i."""
  mean, logvar = (float(field[i]) for field in distribution)
  return stats.norm(mean, np.exp(logvar / 2))


class GaussianTest(parameterized.TestCase):
  def test_kl_equals_the_numerical_integral_of_each_coordinate(self):
    expected = 0.0
    for i in range(2):
      q, p = _norm(_POSTERIOR, i), _norm(_PRIOR, i)
      expected += integrate.quad(
        lambda x, q=q, p=p: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), -15, 15
      )[0]
    np.testing.assert_allclose(
      gaussian.kl(_POSTERIOR, _PRIOR), expected, rtol=1e-5
    )
    # It is not symmetric, so the order of the arguments is tested too.
    self.assertGreater(abs(gaussian.kl(_PRIOR, _POSTERIOR) - expected), 0.01)

  def test_kl_equals_the_mean_log_ratio_of_samples(self):
    wide = jax.tree.map(
      lambda leaf: jnp.broadcast_to(leaf, (100_000, 2)), _POSTERIOR
    )
    samples = gaussian.sample(jax.random.key(0), wide)
    prior = jax.tree.map(lambda leaf: leaf[None], _PRIOR)
    ratios = gaussian.log_prob(wide, samples) - gaussian.log_prob(
      prior, samples
    )
    standard_error = ratios.std() / ratios.size**0.5
    self.assertLess(
      abs(ratios.mean() - gaussian.kl(_POSTERIOR, _PRIOR)), 4 * standard_error
    )

  def test_kl_of_a_gaussian_from_itself_is_zero_at_any_width(self):
    logvar = jnp.array([[-10.0, 0.0], [3.3, 10.0]])
    same = Gaussian(jnp.full((2, 2), 100.0), logvar)
    chex.assert_trees_all_equal(gaussian.kl(same, same), jnp.zeros(2))

  def test_kl_is_finite_with_finite_gradients_at_the_ends_of_the_range(self):
    ends = gaussian.clipped(jnp.array([50.0, -50.0]), jnp.array([1e9, -1e9]))
    prior = gaussian.clipped(jnp.zeros(2), jnp.array([-1e9, 1e9]))
    value, gradient = jax.value_and_grad(gaussian.kl)(ends, prior)
    chex.assert_tree_all_finite((value, gradient))

  def test_log_prob_equals_scipy(self):
    value = jnp.array([[0.1, 0.2], [-3.0, 4.0]])
    wide = jax.tree.map(lambda leaf: leaf[None], _POSTERIOR)
    expected = sum(_norm(_POSTERIOR, i).logpdf(value[:, i]) for i in range(2))
    np.testing.assert_allclose(
      gaussian.log_prob(wide, value), expected, rtol=1e-5
    )

  def test_standard_is_zero_mean_and_unit_variance(self):
    prior = gaussian.standard((3, 2))
    np.testing.assert_allclose(
      gaussian.log_prob(prior, jnp.ones((3, 2))),
      np.full(3, 2 * stats.norm.logpdf(1.0)),
      rtol=1e-6,
    )

  def test_clipping_keeps_means_and_log_variances_inside_the_range(self):
    mean = jnp.array([1e6, 0.0, -1e6])
    logvar = jnp.array([-10.5, 1.5, 10.5])
    kept = gaussian.clipped(mean, logvar)
    chex.assert_trees_all_equal(kept.mean, mean)
    chex.assert_trees_all_equal(kept.logvar, jnp.array([-10.0, 1.5, 10.0]))

  def test_the_divergence_pulls_lost_log_variances_back(self):
    logvar = jnp.array([-50.0, 1.5, 50.0])

    def divergence(logvar):
      kept = gaussian.clipped(jnp.zeros(3), logvar)
      return gaussian.kl(kept, gaussian.standard((3,)))

    slopes = jax.grad(divergence)(logvar)
    # (exp(l) - 1) / 2 at the end of the range.
    at = np.array([-10.0, 1.5, 10.0])
    np.testing.assert_allclose(slopes, (np.exp(at) - 1) / 2, rtol=1e-6)

  def test_nothing_pushes_a_value_further_out_of_the_range(self):
    value = jnp.array([-50.0, -10.0, 1.5, 10.0, 50.0])

    def slopes(direction):
      return jax.grad(
        lambda v: direction * gaussian.kept_in(v, -10.0, 10.0).sum()
      )(value)

    # Descent of the sum leads down, of its negative up.
    np.testing.assert_array_equal(slopes(1.0), [0, 1, 1, 1, 1])
    np.testing.assert_array_equal(slopes(-1.0), [-1, -1, -1, -1, 0])
    clipped = jax.vmap(lambda v: gaussian.kept_in(v, -10.0, 10.0))(value)
    np.testing.assert_array_equal(clipped, [-10, -10, 1.5, 10, 10])

  def test_samples_have_the_mean_and_the_variance(self):
    wide = jax.tree.map(
      lambda leaf: jnp.broadcast_to(leaf, (100_000, 2)), _POSTERIOR
    )
    samples = np.asarray(gaussian.sample(jax.random.key(1), wide))
    for i in range(2):
      fit = stats.kstest(samples[:, i], _norm(_POSTERIOR, i).cdf)
      self.assertGreater(fit.pvalue, 1e-3)
      # The mistake of taking the log-variance for a log-deviation is seen.
      wrong = stats.norm(
        float(_POSTERIOR.mean[i]), np.exp(float(_POSTERIOR.logvar[i]))
      )
      self.assertLess(stats.kstest(samples[:, i], wrong.cdf).pvalue, 1e-6)
    self.assertLess(abs(np.corrcoef(samples.T)[0, 1]), 0.02)

  def test_a_sample_is_differentiable_in_mean_and_log_variance(self):
    def first(distribution):
      return gaussian.sample(jax.random.key(2), distribution)[0]

    value, gradient = jax.value_and_grad(first)(_POSTERIOR)
    chex.assert_trees_all_close(gradient.mean, jnp.array([1.0, 0.0]))
    # d/dl [m + exp(l / 2) e] = (sample - m) / 2.
    chex.assert_trees_all_close(
      gradient.logvar[0], (value - _POSTERIOR.mean[0]) / 2, rtol=1e-5
    )


if __name__ == '__main__':
  absltest.main()
