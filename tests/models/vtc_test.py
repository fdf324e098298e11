"""The generator's shapes and sizes, and its losses in closed form."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.models import vtc, vtc_losses
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.models.vtc import VtcConfig, build_vtc


class VtcTest(parameterized.TestCase):
  @parameterized.parameters(
    ((8, 8, 1), ()),
    ((28, 28, 1), ()),
    ((32, 32, 3), ()),
    ((64, 64, 3), ()),
    ((30, 25, 3), (8, 4)),
  )
  def test_images_have_the_shape_and_lie_in_range(self, shape, channels):
    made = build_vtc(VtcConfig(channels, 0.125), 6, DataSpec(shape, 10))
    variables = made.init(jax.random.key(0))
    latents = 10 * jax.random.normal(jax.random.key(1), (2, 6))
    images = made.decode(variables, latents)
    self.assertEqual(images.shape, (2, *shape))
    self.assertLessEqual(float(abs(images).max()), 1.0)
    self.assertTrue((images[0] != images[1]).any())

  # The layouts of the specification, for 512 features.
  @parameterized.parameters(
    ((28, 28, 1), 1_642_240), ((32, 32, 3), 2_760_064), ((64, 64, 3), 2_791_360)
  )
  def test_parameters_are_as_many_as_they_should(self, shape, number):
    made = build_vtc(VtcConfig(), 512, DataSpec(shape, 10))
    shapes = jax.eval_shape(made.init, jax.random.key(0))
    found = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    self.assertLess(abs(found - number), 0.001 * number)

  def test_total_variation_by_hand(self):
    image = jnp.array([[0.0, 1.0], [0.0, 1.0]])[None, :, :, None]
    np.testing.assert_allclose(vtc.total_variation(image), [1.0])

  def test_mistakes_are_named(self):
    with self.assertRaisesRegex(InputError, 'images'):
      build_vtc(VtcConfig(), 4, DataSpec((3,), 2))
    with self.assertRaisesRegex(InputError, 'at most 3 vtc_channels'):
      build_vtc(VtcConfig((8, 8, 8, 8)), 4, DataSpec((8, 8, 1), 2))


class LossesTest(absltest.TestCase):
  def test_divergence_equals_monte_carlo(self):
    rng = np.random.default_rng(0)
    means, stddev = rng.normal(size=(1, 8)), rng.uniform(0.5, 2, (1, 8))
    log_stddev = rng.normal(size=8) * 0.3
    features = rng.normal(size=(1, 8))
    latent = vtc_losses.Latent(jnp.asarray(features), jnp.asarray(log_stddev))
    found = vtc_losses.divergence(latent, jnp.asarray(means), stddev)
    own = np.exp(log_stddev)
    draws = features + own * rng.normal(size=(200_000, 8))

    def log_density(values, centre, spread):
      return np.sum(
        -0.5 * ((values - centre) / spread) ** 2 - np.log(spread), axis=1
      )

    estimate = np.mean(
      log_density(draws, features, own) - log_density(draws, means, stddev)
    )
    np.testing.assert_allclose(found[0], estimate, rtol=0.01)

  def test_divergence_of_a_gaussian_from_itself_is_zero(self):
    latent = vtc_losses.Latent(jnp.ones((2, 3)), jnp.log(jnp.full(3, 0.5)))
    found = vtc_losses.divergence(
      latent, jnp.ones((2, 3)), jnp.full((2, 3), 0.5)
    )
    np.testing.assert_allclose(found, 0.0, atol=1e-6)

  def test_reconstruction_is_the_squared_error_over_pixels(self):
    made = vtc.Vtc(None, lambda scale, z: jnp.full((len(z), 2, 2, 1), scale))
    latent = vtc_losses.Latent(jnp.zeros((1, 3)), jnp.zeros(3))
    images = jnp.full((1, 2, 2, 1), 255, jnp.uint8)  # 1 in [-1, 1]
    found = vtc_losses.reconstruction(
      made, 0.5, latent, images, jax.random.key(0)
    )
    np.testing.assert_allclose(found, [4 * 0.25], rtol=1e-6)


if __name__ == '__main__':
  absltest.main()
