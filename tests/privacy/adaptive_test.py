"""The bound finds its quantile, and costs what it says."""

import math

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.privacy import accounting, events
from fedjax_gen.privacy.steps import adaptive

_COHORT = 200
_DELTA = 1e-5
# Norms of which the median is 3 and the 80 % quantile 12.
_NORMS = jnp.asarray(
  np.interp(np.linspace(0, 1, _COHORT), [0, 0.5, 0.8, 1], [1, 3, 12, 50]),
  jnp.float32,
)


def _run(rule, rounds, norms=_NORMS, seed=0):
  """Bounds of the rounds, and the last noised mean."""
  messages = jnp.outer(norms, jnp.array([0.6, 0.8]))

  def body(max_norm, key):
    reports = jax.vmap(rule.report, (0, None))(messages, max_norm)
    sums = jax.tree.map(lambda leaf: leaf.sum(0), reports)
    mean, moved = rule.update(max_norm, sums, key)
    return moved, (moved, mean)

  keys = jax.random.split(jax.random.key(seed), rounds)
  scan = jax.jit(lambda start: jax.lax.scan(body, start, keys)[1])
  bounds, means = scan(rule.init())
  return np.asarray(bounds), np.asarray(means)


class AdaptiveTest(parameterized.TestCase):
  @parameterized.parameters((0.5, 3.0, 0.0), (0.8, 12.0, 0.0), (0.5, 3.0, 1.0))
  def test_finds_the_quantile(self, quantile, norm, multiplier):
    rule = adaptive.adaptive_clipping(multiplier, _COHORT, quantile=quantile)
    bounds, _ = _run(rule, 300)
    np.testing.assert_allclose(bounds[-100:].mean(), norm, rtol=0.1)

  def test_one_step_is_the_published_one(self):
    rule = adaptive.adaptive_clipping(
      0.0, _COHORT, initial_norm=2.0, quantile=0.7, learning_rate=0.3
    )
    bounds, _ = _run(rule, 1)
    below = np.mean(np.asarray(_NORMS) <= 2.0)
    np.testing.assert_allclose(
      bounds[0], 2.0 * math.exp(-0.3 * (below - 0.7)), rtol=1e-5
    )

  def test_messages_and_count_have_the_noise_that_was_split(self):
    rule = adaptive.adaptive_clipping(
      1.5, _COHORT, initial_norm=2.0, learning_rate=1.0, count_stddev=1.0
    )
    sums = adaptive.Report(jnp.zeros(100), jnp.zeros(()))
    means, bounds = jax.vmap(rule.update, (None, None, 0))(
      rule.init(), sums, jax.random.split(jax.random.key(0), 4000)
    )
    np.testing.assert_allclose(
      means.std(), rule.message_noise_multiplier * 2.0 / _COHORT, rtol=0.02
    )
    np.testing.assert_allclose(np.log(bounds).std(), 1.0 / _COHORT, rtol=0.05)

  @parameterized.parameters((1.0, 10.0), (2.0, 1.2), (0.5, 0.3))
  def test_both_releases_together_cost_one_gaussian(self, multiplier, count):
    rule = adaptive.adaptive_clipping(multiplier, 50, count_stddev=count)
    # A client moves the count by one half: noise over sensitivity is twice it.
    both = (
      events.gaussian(rule.message_noise_multiplier, 20),
      events.gaussian(2 * count, 20),
    )
    asked = events.gaussian(multiplier, 20)
    together = accounting.epsilon(both, _DELTA)
    np.testing.assert_allclose(
      together, accounting.epsilon(asked, _DELTA), rtol=1e-3
    )
    # Messages with the noise asked for, and a count beside them, cost more.
    naive = (asked, both[1])
    self.assertGreater(accounting.epsilon(naive, _DELTA), 1.001 * together)

  def test_a_client_moves_both_sums_by_what_is_charged(self):
    rule = adaptive.adaptive_clipping(1.0, _COHORT)
    bound = jnp.asarray(2.0)
    for norm in (0.0, 1.0, 2.0, 99.0, np.nan, np.inf):
      report = rule.report({'w': jnp.array([norm, 0.0])}, bound)
      self.assertLessEqual(np.linalg.norm(report.message['w']), 2.0 + 1e-6)
      self.assertEqual(report.below, 0.5 if norm <= 2 else -0.5)

  def test_without_noise_the_mean_is_exact(self):
    rule = adaptive.adaptive_clipping(0.0, _COHORT, initial_norm=2.0)
    _, means = _run(rule, 1)
    clipped = np.minimum(np.asarray(_NORMS), 2.0)
    np.testing.assert_allclose(
      means[0], clipped.mean() * np.array([0.6, 0.8]), rtol=1e-5
    )

  @parameterized.parameters(
    ({'noise_multiplier': -1.0}, 'noise_multiplier=-1.0'),
    ({'expected_cohort': 0}, 'expected_cohort=0'),
    ({'initial_norm': 0.0}, 'initial_norm=0.0'),
    ({'quantile': 1.5}, 'quantile=1.5'),
    ({'learning_rate': 0.0}, 'learning_rate=0.0'),
    ({'count_stddev': 0.5}, 'count_stddev > .*0.5, got count_stddev=0.5'),
  )
  def test_bad_arguments_are_refused(self, change, message):
    arguments = {'noise_multiplier': 1.0, 'expected_cohort': 40, **change}
    with self.assertRaisesRegex(InputError, message):
      adaptive.adaptive_clipping(**arguments)


if __name__ == '__main__':
  absltest.main()
