"""Likelihoods are the densities they claim, and agree with their samples."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special, stats

from fedjax_gen.errors import InputError
from fedjax_gen.kinds import Block, DataSpec
from fedjax_gen.losses import likelihoods

_ALL = {
  'bernoulli': likelihoods.bernoulli,
  'gaussian': likelihoods.gaussian,
  'unbounded_gaussian': lambda: likelihoods.gaussian(0.3, bounded=False),
  'discretised_logistic': likelihoods.discretised_logistic,
}
_IMAGE, _FEATURES = DataSpec((4, 4, 1), 2), DataSpec((5,), 2)
_LAYOUT = (
  Block('number'),
  Block('category', 3),
  Block('number', flag=5),
  Block('flag'),
)
_TABLE = DataSpec((6,), 2, _LAYOUT)
_LEVELS = np.arange(256, dtype=np.float32) / 255


def _outputs(*parameters, num=1):
  """`[num, number of parameters]` outputs for one data value each."""
  return jnp.broadcast_to(jnp.array(parameters), (num, len(parameters)))


class LikelihoodsTest(parameterized.TestCase):
  def test_bernoulli_is_the_summed_cross_entropy_of_each_example(self):
    logits = jnp.array([[[-1.0, 0.5], [2.0, 0.0]], [[0.1, 3.0], [-4.0, 1.0]]])
    data = jnp.array([[[0.0, 1.0], [0.25, 0.5]], [[1.0, 0.0], [0.9, 0.1]]])
    p = special.expit(np.asarray(logits, np.float64))
    entropy = -(data * np.log(p) + (1 - data) * np.log(1 - p))
    np.testing.assert_allclose(
      likelihoods.bernoulli().log_prob(logits, data),
      -entropy.sum(axis=(1, 2)),
      rtol=1e-5,
    )

  def test_bernoulli_sums_to_one_over_black_and_white(self):
    logits = _outputs(1.3, num=2)
    mass = jnp.exp(likelihoods.bernoulli().log_prob(logits, _column([0, 1])))
    self.assertAlmostEqual(float(mass.sum()), 1.0, places=5)

  @parameterized.parameters(True, False)
  def test_gaussian_log_density_equals_scipy(self, bounded):
    likelihood = likelihoods.gaussian(0.3, bounded=bounded)
    outputs = jnp.array([[-2.0, 0.5, 1.0], [0.0, 3.0, -1.0]])
    data = jnp.array([[0.0, 0.5, 1.0], [0.3, 0.2, 0.9]])
    mean = special.expit(outputs) if bounded else outputs
    expected = stats.norm.logpdf(data, mean, 0.3).sum(axis=1)
    np.testing.assert_allclose(
      likelihood.log_prob(outputs, data), expected, rtol=1e-5
    )

  def test_default_stddev_gives_the_squared_error_up_to_a_constant(self):
    outputs = jnp.array([[0.0, 0.0], [0.0, 9.0]])
    data = jnp.array([[0.5, 0.5], [0.0, 1.0]])
    squared = ((jax.nn.sigmoid(outputs) - data) ** 2).sum(axis=1)

    def constant(likelihood):
      return -likelihood.log_prob(outputs, data) - squared

    plain = constant(likelihoods.gaussian())
    self.assertAlmostEqual(float(plain[0]), np.log(np.pi), places=5)
    self.assertAlmostEqual(float(plain[1]), np.log(np.pi), places=5)
    other = constant(likelihoods.gaussian(1.0))
    self.assertGreater(abs(float(other[0] - other[1])), 0.1)

  @parameterized.product(
    mean=[-1e4, -20.0, -3.0, 0.0, 0.7, 20.0, 1e4],
    log_scale=[-1e4, -4.0, 0.0, 3.0, 1e4],
  )
  def test_discretised_logistic_sums_to_one_over_the_grey_levels(
    self, mean, log_scale
  ):
    likelihood = likelihoods.discretised_logistic()
    outputs = _outputs(mean, log_scale, num=256)
    log_mass = likelihood.log_prob(outputs, _LEVELS[:, None])
    self.assertAlmostEqual(
      float(special.logsumexp(np.asarray(log_mass, np.float64))), 0, places=4
    )

  def test_discretised_logistic_without_its_edge_levels_is_short_of_one(self):
    # Black and white hold the tails; were they like the others, mass is lost.
    likelihood = likelihoods.discretised_logistic()
    outputs = _outputs(0.0, 1.0, num=256)
    mass = np.exp(likelihood.log_prob(outputs, _LEVELS[:, None]))
    self.assertGreater(mass[0], 10 * mass[1])
    self.assertAlmostEqual(mass[0], mass[255], places=5)

  def test_discretised_logistic_mass_is_the_difference_of_the_cdf(self):
    likelihood = likelihoods.discretised_logistic()
    outputs = _outputs(0.4, 0.5, num=1)
    centre, scale = special.expit(0.4), np.exp(0.5 - 2.0)
    cdf = stats.logistic(centre, scale).cdf
    for level in (1, 128, 254):
      expected = np.log(cdf((level + 0.5) / 255) - cdf((level - 0.5) / 255))
      np.testing.assert_allclose(
        likelihood.log_prob(outputs, jnp.full((1, 1), level / 255)),
        [expected],
        rtol=1e-4,
      )

  @parameterized.parameters(2, 4, 256)
  def test_discretised_logistic_samples_are_grey_levels_of_their_mass(
    self, num_levels
  ):
    likelihood = likelihoods.discretised_logistic(num_levels)
    outputs = _outputs(0.5, 0.3, num=50_000)
    samples = likelihood.sample(jax.random.key(0), outputs)[:, 0]
    levels = np.arange(num_levels, dtype=np.float32) / (num_levels - 1)
    log_mass = likelihood.log_prob(outputs[:num_levels], levels[:, None])
    nearest = np.round(np.asarray(samples) * (num_levels - 1)).astype(int)
    np.testing.assert_allclose(samples, levels[nearest], atol=1e-6)
    counts = np.bincount(nearest, minlength=num_levels)
    mass = np.exp(np.asarray(log_mass, np.float64))
    expected = mass / mass.sum() * counts.sum()
    self.assertGreater(stats.chisquare(counts, expected).pvalue, 1e-3)
    wrong = np.roll(expected, 1)
    self.assertLess(stats.chisquare(counts, wrong).pvalue, 1e-3)

  @parameterized.parameters(
    ('bernoulli', (0.8,)),
    ('gaussian', (0.8,)),
    ('unbounded_gaussian', (0.8,)),
    # Narrow and central, so that hardly any mass is clipped.
    ('discretised_logistic', (0.3, -2.0)),
  )
  def test_samples_have_the_mean(self, name, parameters):
    likelihood = _ALL[name]()
    outputs = _outputs(*parameters, num=50_000)
    samples = likelihood.sample(jax.random.key(1), outputs)
    mean = likelihood.mean(outputs)
    chex.assert_equal_shape([samples, mean])
    standard_error = float(samples.std()) / samples.size**0.5
    self.assertLess(abs(float(samples.mean() - mean[0, 0])), 4 * standard_error)

  @parameterized.product(name=list(_ALL), data=[0.0, 0.5, 1.0])
  def test_values_and_gradients_are_finite_at_extreme_outputs(self, name, data):
    likelihood = _ALL[name]()
    extremes = jnp.array([-1e6, -90.0, 0.0, 90.0, 1e6])
    outputs = jnp.stack(
      jnp.meshgrid(*[extremes] * likelihood.outputs_per_value), axis=-1
    ).reshape(-1, likelihood.outputs_per_value)
    data = jnp.full((len(outputs), 1), data)
    value, gradient = jax.value_and_grad(
      lambda outputs: likelihood.log_prob(outputs, data).sum()
    )(outputs)
    chex.assert_tree_all_finite((value, gradient))

  @parameterized.parameters(*_ALL)
  def test_shapes_fit_images_with_outputs_per_value_times_the_channels(
    self, name
  ):
    likelihood = _ALL[name]()
    data = jnp.zeros((1, 2, 2, 3))
    outputs = jnp.zeros((1, 2, 2, 3 * likelihood.outputs_per_value))
    self.assertEqual(likelihood.log_prob(outputs, data).shape, (1,))
    self.assertEqual(likelihood.mean(outputs).shape, data.shape)
    sample = likelihood.sample(jax.random.key(0), outputs)
    self.assertEqual(sample.shape, data.shape)

  @parameterized.parameters('bernoulli', 'gaussian', 'discretised_logistic')
  def test_image_means_stay_in_the_unit_interval(self, name):
    likelihood = likelihoods.by_name(name, stddev=0.5, spec=_IMAGE)
    self.assertEqual(likelihood.name, name)
    outputs = _outputs(*[50.0] * likelihood.outputs_per_value)
    for sign in (-1, 1):
      mean = float(likelihood.mean(sign * outputs)[0, 0])
      self.assertBetween(mean, 0, 1)

  def test_feature_means_are_unbounded_and_stddev_reaches_the_gaussian(self):
    likelihood = likelihoods.by_name('gaussian', stddev=0.1, spec=_FEATURES)
    outputs = jnp.array([[7.0, -7.0]])
    chex.assert_trees_all_equal(likelihood.mean(outputs), outputs)
    self.assertAlmostEqual(
      float(likelihood.log_prob(outputs, outputs)[0]),
      2 * stats.norm.logpdf(0, 0, 0.1),
      places=4,
    )

  @parameterized.parameters(
    ('poisson', _IMAGE, "likelihood='poisson'"),
    ('poisson', _FEATURES, "likelihood='poisson'"),
    ('bernoulli', _FEATURES, "features, got likelihood='bernoulli'"),
    ('mixed', _IMAGE, "'gaussian' or .* for image, got likelihood='mixed'"),
    ('gaussian', _TABLE, "'mixed' for table, got likelihood='gaussian'"),
  )
  def test_by_name_refuses_what_is_unknown_or_does_not_fit(
    self, name, spec, message
  ):
    with self.assertRaisesRegex(InputError, message):
      likelihoods.by_name(name, stddev=1.0, spec=spec)

  def test_mixed_is_the_product_of_the_densities_of_its_blocks(self):
    likelihood = likelihoods.mixed(_LAYOUT, draws_numbers=True)
    outputs = jnp.array([[0.5, 0.2, -1.0, 0.4, 2.0, 0.7, -0.3, 0.6]])
    seen = jnp.array([[1.0, 0.0, 1.0, 0.0, -0.5, 1.0]])
    unseen = jnp.array([[1.0, 0.0, 1.0, 0.0, 0.0, 0.0]])
    first = stats.norm.logpdf(1.0, 0.5, np.exp(-0.3))
    second = stats.norm.logpdf(-0.5, 2.0, np.exp(0.6))
    category = np.log(special.softmax([0.2, -1.0, 0.4])[1])
    flag = special.log_expit(0.7)
    np.testing.assert_allclose(
      likelihood.log_prob(
        jnp.tile(outputs, (2, 1)), jnp.vstack([seen, unseen])
      ),
      [
        first + category + flag + second,
        first + category + special.log_expit(-0.7),
      ],
      rtol=1e-5,
    )
    # What was not observed has no gradient, whatever is stored in its place.
    gradient = jax.grad(
      lambda o: likelihood.log_prob(o, unseen.at[0, 4].set(9.0))[0]
    )(outputs)
    self.assertEqual(float(gradient[0, 4]), 0)

  def test_mixed_draws_have_its_moments(self):
    outputs = jnp.tile(
      jnp.array([0.5, 0.2, -1.0, 0.4, 2.0, 0.7, -0.3, 0.6]), (20_000, 1)
    )
    likelihood = likelihoods.mixed(_LAYOUT, draws_numbers=False)
    drawn = likelihood.sample(jax.random.key(0), outputs)
    np.testing.assert_allclose(
      drawn.mean(axis=0), likelihood.mean(outputs)[0], atol=0.04
    )
    np.testing.assert_allclose(
      drawn[:, np.array([0, 4])].std(axis=0), np.exp([-0.3, 0.6]), rtol=0.03
    )
    generated = likelihood.generated(jax.random.key(0), outputs)
    np.testing.assert_array_equal(generated[:, 4], 2.0)
    self.assertContainsSubset(np.unique(generated[:, 1:4]), [0.0, 1.0])

  def test_mixed_refuses_a_layout_without_a_flag_where_one_is_said_to_be(self):
    with self.assertRaisesRegex(InputError, 'place of a flag'):
      likelihoods.mixed([Block('number', flag=1)], draws_numbers=True)

  def test_builders_refuse_numbers_out_of_range(self):
    with self.assertRaisesRegex(InputError, 'stddev=0'):
      likelihoods.gaussian(0)
    with self.assertRaisesRegex(InputError, 'stddev=-1'):
      likelihoods.by_name('gaussian', stddev=-1, spec=_IMAGE)
    # One grey level has no width.
    with self.assertRaisesRegex(InputError, 'num_levels=1'):
      likelihoods.discretised_logistic(1)


def _column(values):
  return jnp.array(values, jnp.float32)[:, None]


if __name__ == '__main__':
  absltest.main()
