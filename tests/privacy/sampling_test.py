"""Batches have Poisson's law, and overflow is what is said of it."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from fedjax_gen.errors import InputError
from fedjax_gen.privacy.steps import batches
from tests.federated import toys

_DATA = toys.dataset([4, 10, 0], num_features=1)
_DRAWS = 4000


def _draws(client, probability, capacity):
  """`[draws, max_size]` which of the client's records came; and the draws."""

  def draw(key):
    data = _DATA.client(jnp.asarray(client))
    return batches.poisson_batch(key, data, probability, capacity)

  keys = jax.random.split(jax.random.key(0), _DRAWS)
  drawn = jax.device_get(jax.jit(jax.vmap(draw))(keys))
  offset, size = int(_DATA.offsets[client]), int(_DATA.sizes[client])
  own = np.asarray(_DATA.inputs)[_DATA.order[offset : offset + size], 0]
  came = drawn.batch.inputs[..., 0, None] == own
  # A record's value names it; no row of another client may be among them.
  assert (came.any(-1) | ~drawn.batch.mask).all()
  return (came & drawn.batch.mask[..., None]).sum(1), drawn


class PoissonBatchTest(parameterized.TestCase):
  @parameterized.parameters((0, 0.3), (1, 0.3), (1, 0.8))
  def test_records_come_by_their_own_coins(self, client, probability):
    came, drawn = _draws(client, probability, 12)
    self.assertLessEqual(came.max(), 1)
    np.testing.assert_allclose(came.mean(0), probability, atol=0.03)
    # A batch of fixed size would have no variance, and correlated records.
    size = came.shape[1]
    law = size * probability * (1 - probability)
    np.testing.assert_allclose(came.sum(1).var(), law, rtol=0.1)
    between = np.cov(came.T)[~np.eye(size, dtype=bool)]
    np.testing.assert_allclose(between, 0, atol=0.02)
    self.assertEqual(drawn.left_out.max(), 0)

  def test_extremes_take_all_or_nothing(self):
    self.assertEqual(_draws(1, 0.0, 12)[0].max(), 0)
    self.assertEqual(_draws(1, 1.0, 12)[0].min(), 1)
    _, drawn = _draws(2, 1.0, 3)  # holds nothing
    self.assertFalse(drawn.batch.mask.any())

  def test_beyond_capacity_a_random_part_is_kept(self):
    came, drawn = _draws(1, 0.8, 5)
    self.assertEqual(came.sum(1).max(), 5)
    np.testing.assert_allclose(
      (came.sum(1) + drawn.left_out).mean(), 8, rtol=0.02
    )
    kept = came[drawn.left_out > 0].mean(0)
    np.testing.assert_allclose(kept, 0.5, atol=0.04)

  def test_the_rate_may_be_traced(self):
    came, _ = _draws(1, jnp.asarray(0.3), 12)
    np.testing.assert_allclose(came.mean(0), 0.3, atol=0.03)

  def test_the_expected_size_keeps_the_bound_and_the_size_drawn_does_not(self):
    # Contributions of norm C = 1, eight expected. Two of them agree, the
    # third is against them: without it the mean over those drawn moves by
    # more than C / 8, the mean over those expected does not.
    values, expected = np.array([1.0, 1.0, -1.0]), 8
    fixed = abs(values.sum() - values[:2].sum()) / expected
    drawn = abs(values.mean() - values[:2].mean())
    self.assertLessEqual(fixed, 1 / expected)
    self.assertGreater(drawn, 1 / expected)

  @parameterized.parameters((1613, 0.04, 520), (1613, 0.16, 50), (7, 0.5, 3))
  def test_a_capacity_is_rarely_exceeded_and_not_larger(self, n, q, steps):
    capacity = batches.capacity_for(n, q, steps, overflow=1e-6)
    exceeded = steps * batches.overflow_probability(n, q, capacity)
    self.assertLessEqual(exceeded, 1e-6)
    if capacity < n:
      self.assertLess(capacity, 2.5 * n * q)
    less = steps * batches.overflow_probability(n, q, capacity - 1)
    self.assertGreater(less, 1e-6)

  def test_overflow_is_what_happens(self):
    _, drawn = _draws(1, 0.5, 6)
    expected = batches.overflow_probability(10, 0.5, 6)
    np.testing.assert_allclose(np.mean(drawn.left_out > 0), expected, atol=0.03)

  def test_what_overflow_adds_to_delta(self):
    added = batches.overflow_delta(1.0, 100, 0.1, 30, 50)
    # On the larger neighbour, both ways, in every step.
    once = stats.binom.sf(30, 101, 0.1)
    np.testing.assert_allclose(added, (1 + np.e) * 50 * once, rtol=1e-6)
    self.assertEqual(batches.overflow_delta(1.0, 100, 0.9, 30, 50), 1.0)
    self.assertEqual(batches.overflow_delta(9.0, 100, 0.9, 101, 50), 0.0)

  @parameterized.parameters(
    (lambda data: batches.poisson_batch(jax.random.key(0), data, 1.1, 2),
     'sampling_probability=1.1'),
    (lambda data: batches.poisson_batch(jax.random.key(0), data, 0.1, 0),
     'capacity=0'),
    (lambda data: batches.capacity_for(9, 0.1, 2, overflow=0.0),
     'overflow=0.0'),
    (lambda data: batches.capacity_for(9, 0.1, 0), 'steps=0'),
    (lambda data: batches.overflow_probability(9, 2.0, 1),
     'sampling_probability=2.0'),
    (lambda data: batches.overflow_delta(-1.0, 9, 0.1, 1, 1), 'epsilon=-1.0'),
  )  # fmt: skip
  def test_bad_arguments_are_refused(self, build, message):
    with self.assertRaisesRegex(InputError, message):
      build(_DATA.client(jnp.asarray(0)))


if __name__ == '__main__':
  absltest.main()
