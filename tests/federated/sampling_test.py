"""Cohorts are distinct, of the right law, and weigh what they should."""

from absl.testing import absltest, parameterized
import jax
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.federated import sampling
from tests.federated import toys

_DATA = toys.dataset([1, 2, 3, 4, 0, 10])
_SAMPLERS = {
  'everyone': sampling.everyone(),
  'uniform': sampling.uniform(3),
  'by_size': sampling.by_size(3),
  'poisson': sampling.poisson(0.5),
  'poisson_small': sampling.poisson(0.9, capacity=2),
  'with_dropout': sampling.with_dropout(sampling.uniform(3), 0.5),
}


def _draws(sampler, count=4000, data=_DATA):
  keys = jax.random.split(jax.random.key(0), count)
  return jax.device_get(jax.jit(jax.vmap(lambda k: sampler(k, data)))(keys))


class SamplingTest(parameterized.TestCase):
  @parameterized.named_parameters(*_SAMPLERS.items())
  def test_indices_are_distinct_and_in_range(self, sampler):
    index = _draws(sampler, 200).row
    self.assertTrue(((index >= 0) & (index < 6)).all())
    self.assertTrue((np.diff(np.sort(index, axis=1), axis=1) > 0).all())

  def test_uniform_takes_each_client_equally_often(self):
    index = _draws(_SAMPLERS['uniform']).row
    share = np.bincount(index.ravel(), minlength=6) / len(index)
    np.testing.assert_allclose(share, 0.5, atol=0.03)

  def test_rows_drawn_again_are_uniform_over_all_tuples(self):
    keys = jax.random.split(jax.random.key(0), 6000)
    rows = jax.jit(jax.vmap(lambda key: sampling.redrawn(key, 3, 6)))(keys)
    tuples, counts = np.unique(np.asarray(rows), axis=0, return_counts=True)
    self.assertLen(tuples, 6 * 5 * 4)
    self.assertTrue((np.diff(np.sort(tuples, axis=1), axis=1) > 0).all())
    # Chi-squared of 119 degrees of freedom exceeds 180 once in 4000.
    self.assertLess(((counts - 50) ** 2 / 50).sum(), 180)

  def test_a_cohort_of_a_large_population_is_distinct_and_in_range(self):
    draw = jax.jit(lambda key: sampling.distinct(key, 2000, 4097))
    rows = np.asarray(draw(jax.random.key(0)))
    self.assertLen(np.unique(rows), 2000)
    self.assertBetween(rows.min(), 0, 20)
    self.assertBetween(rows.max(), 4076, 4096)

  def test_a_draw_costs_the_cohort_and_not_the_population(self):
    draw = jax.jit(lambda key: sampling.distinct(key, 10, 10**9))
    memory = draw.lower(jax.random.key(0)).compile().memory_analysis()
    self.assertLess(memory.temp_size_in_bytes, 10_000)

  def test_by_size_first_draw_is_proportional_to_size_and_counts_once(self):
    draws = _draws(sampling.by_size(1))
    share = np.bincount(draws.row.ravel(), minlength=6) / len(draws.row)
    np.testing.assert_allclose(
      share, np.array([1, 2, 3, 4, 0, 10]) / 20, atol=0.03
    )
    self.assertTrue((draws.weight == 1).all())

  def test_poisson_clients_come_independently(self):
    draws = _draws(sampling.poisson(0.3))
    present = np.zeros((len(draws.row), 6))
    np.put_along_axis(present, draws.row, draws.present, axis=1)
    np.testing.assert_allclose(present.mean(0), 0.3, atol=0.03)
    # A cohort of fixed size would have no variance: 6 * 0.3 * 0.7 = 1.26.
    np.testing.assert_allclose(present.sum(1).var(), 1.26, atol=0.1)

  def test_poisson_beyond_capacity_leaves_out_at_random(self):
    draws = _draws(sampling.poisson(1.0, capacity=3))
    self.assertTrue(draws.present.all())
    share = np.bincount(draws.row.ravel(), minlength=6) / len(draws.row)
    np.testing.assert_allclose(share, 0.5, atol=0.03)

  def test_dropout_hits_the_present_only_and_at_its_rate(self):
    draws = _draws(sampling.with_dropout(sampling.everyone(), 0.25))
    np.testing.assert_allclose(draws.present.mean(0), 0.75, atol=0.03)
    empty = sampling.with_dropout(sampling.poisson(0.0), 0.0)
    self.assertFalse(_draws(empty, 10).present.any())

  def test_clients_weigh_their_examples(self):
    cohort = sampling.everyone()(jax.random.key(0), _DATA)
    np.testing.assert_array_equal(cohort.weight, [1, 2, 3, 4, 0, 10])

  @parameterized.parameters(
    (lambda: sampling.uniform(0), 'cohort_size=0'),
    (lambda: sampling.by_size(-1), 'cohort_size=-1'),
    (lambda: sampling.poisson(1.5), 'rate=1.5'),
    (lambda: sampling.poisson(0.5, capacity=0), 'capacity=0'),
    (
      lambda: sampling.with_dropout(sampling.everyone(), -0.1),
      'dropout_rate=-0.1',
    ),
    (
      lambda: sampling.uniform(7)(jax.random.key(0), _DATA),
      'cohort_size <= 6.*cohort_size=7',
    ),
  )
  def test_bad_arguments_are_refused(self, build, message):
    with self.assertRaisesRegex(InputError, message):
      build()


if __name__ == '__main__':
  absltest.main()
