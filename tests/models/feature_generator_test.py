from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.models.classification import feature_generator


class FeatureGeneratorTest(absltest.TestCase):
  def test_features_depend_on_class_and_noise_and_not_on_the_batch(self):
    generator = feature_generator.build_feature_generator(3, 5, 2, 8)
    variables = generator.init(jax.random.key(0))
    labels = jnp.array([0, 1, 1, 1])
    noise = generator.draw(jax.random.key(1), 4).at[2].set(0.5).at[1].set(0.5)
    features = generator.generate(variables, labels, noise)
    self.assertEqual(features.shape, (4, 5))
    np.testing.assert_allclose(features[1], features[2])
    self.assertGreater(abs(features[2] - features[3]).max(), 1e-3)
    # A batch of one class still tells the class.
    alone = generator.generate(variables, labels[:1], noise[:1])
    other = generator.generate(variables, labels[1:2], noise[:1])
    np.testing.assert_allclose(alone[0], features[0], rtol=1e-5)
    self.assertGreater(abs(alone - other).max(), 1e-2)

  def test_noise_is_uniform_as_in_the_code_or_gaussian_as_its_comment(self):
    moments = {'uniform': (0.5, 12**-0.5), 'gaussian': (0.0, 1.0)}
    for law, expected in moments.items():
      generator = feature_generator.build_feature_generator(3, 5, noise=law)
      noise = generator.draw(jax.random.key(0), 500)
      self.assertEqual(noise.shape, (500, 32))
      np.testing.assert_allclose(
        [noise.mean(), noise.std()], expected, atol=0.03
      )
      self.assertEqual(noise.min() >= 0, law == 'uniform')

  def test_it_has_as_many_parameters_as_the_published_one(self):
    generator = feature_generator.build_feature_generator(100, 512)
    shapes = jax.eval_shape(generator.init, jax.random.key(0))
    self.assertEqual(sum(leaf.size for leaf in jax.tree.leaves(shapes)), 331776)

  def test_diversity_by_hand(self):
    # Two pairs of four differ: noise by 4, features by 2 on average.
    loss = feature_generator.diversity_loss(
      jnp.array([[0.0], [2.0]]), jnp.array([[0.0, 0.0], [1.0, 3.0]])
    )
    np.testing.assert_allclose(loss, np.exp(-4.0), rtol=1e-6)
    collapsed = feature_generator.diversity_loss(
      jnp.array([[0.0], [2.0]]), jnp.ones((2, 3))
    )
    self.assertEqual(collapsed, 1.0)

  def test_wrong_values_are_refused_by_name(self):
    for fields in ({'noise': 'pink'}, {'noise_size': 0}, {'hidden_size': -1}):
      [name] = fields
      with self.assertRaisesRegex(InputError, name):
        feature_generator.build_feature_generator(3, 5, **fields)


if __name__ == '__main__':
  absltest.main()
