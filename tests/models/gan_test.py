"""The two players' losses and gradients, each computed on its own."""

import dataclasses
import functools

from absl.testing import absltest, parameterized
import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

from fedjax_gen.data.federated import Batch
from fedjax_gen.errors import InputError
from fedjax_gen.models import gan as gans, vae
from fedjax_gen.models.gan import GanConfig
from fedjax_gen.models.vae import DataSpec

_DIGITS = DataSpec((8, 8, 1), 10)
_SMALL = GanConfig(gan_latent_size=4, gan_channels=(4, 8))
_KEY = jax.random.key(1)


@functools.cache
def _small():
  """A GAN of a thousand parameters, and variables away from the start."""
  gan = gans.build_gan(_SMALL, _DIGITS)
  shapes = jax.eval_shape(gan.init, _KEY)
  # Biases start at zero, where much that is wrong would go unnoticed.
  draws = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda leaf: jnp.asarray(0.3 * draws.normal(size=leaf.shape), jnp.float32),
    shapes,
  )
  return gan._replace(
    generate=jax.jit(gan.generate), discriminate=jax.jit(gan.discriminate)
  ), variables


@functools.cache
def _digits():
  images = datasets.load_digits().images[:, :, :, None]
  return np.round(images * 255 / 16).astype(np.uint8)


def _batch(mask):
  mask = np.asarray(mask, bool)
  inputs = jnp.asarray(_digits()[: mask.size])
  return Batch(inputs, jnp.zeros(mask.size, jnp.int32), jnp.asarray(mask))


@functools.cache
def _gradient_fn(r1=0.0):
  gan, _ = _small()
  return jax.jit(jax.value_and_grad(gans.gan_loss(gan, r1), has_aux=True))


class BuildTest(parameterized.TestCase):
  @parameterized.parameters(
    ((28, 28, 1),), ((32, 32, 3),), ((8, 8, 1),), ((30, 21, 3),), ((3, 2, 1),)
  )
  def test_images_of_any_size_are_made_and_judged(self, shape):
    gan = gans.build_gan(GanConfig(), DataSpec(shape, 10))

    def play(key):
      variables = gan.init(key)
      images = gan.generate(variables, jnp.zeros((5, gan.latent_size)))
      return images, gan.discriminate(variables, images)

    images, logits = jax.eval_shape(play, _KEY)
    chex.assert_shape([images, logits], [(5, *shape), (5,)])

  def test_images_lie_in_the_unit_interval_and_differ(self):
    gan, variables = _small()
    images = gan.generate(variables, 9 * jax.random.normal(_KEY, (20, 4)))
    images = np.asarray(images)
    self.assertBetween(images.min(), 0.0, 0.5)
    self.assertBetween(images.max(), 0.5, 1.0)
    self.assertGreater(images.std(axis=0).min(), 1e-3)

  def test_an_image_is_judged_without_regard_to_its_batch(self):
    gan, variables = _small()
    images = _digits()[:4].astype(np.float32) / 255
    together = gan.discriminate(variables, images)
    alone = [gan.discriminate(variables, image[None])[0] for image in images]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)

  @parameterized.parameters(
    ({'gan_latent_size': 0}, 'gan_latent_size=0'),
    ({'gan_channels': ()}, r'gan_channels=\(\)'),
    ({'gan_channels': (4, 0)}, 'gan_channels=0'),
  )
  def test_bad_fields_are_refused(self, fields, message):
    with self.assertRaisesRegex(InputError, message):
      gans.build_gan(dataclasses.replace(_SMALL, **fields), _DIGITS)

  def test_features_are_refused(self):
    with self.assertRaisesRegex(InputError, r'shape=\(13,\)'):
      gans.build_gan(_SMALL, DataSpec((13,), 2))


class LossTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 2.0)
  def test_the_gradient_of_the_sum_is_that_of_each_player_alone(self, r1):
    gan, variables = _small()
    mask = [True, True, True, False]
    batch = _batch(mask)
    # As the formulas have it, with probabilities, and without padding.
    reals = vae.to_unit(batch.inputs[:3])
    latents = jax.random.normal(_KEY, (4, 4))[:3]
    fakes = gan.generate(variables, latents)

    def real(discriminator, images):
      logits = gan.discriminate({'discriminator': discriminator}, images)
      return 1 / (1 + jnp.exp(-logits))

    def logit(image, discriminator):
      [value] = gan.discriminate({'discriminator': discriminator}, image[None])
      return value

    def discriminator_loss(discriminator):
      slopes = jax.vmap(jax.grad(logit), (0, None))(reals, discriminator)
      return -jnp.mean(
        jnp.log(real(discriminator, reals))
        + jnp.log(1 - real(discriminator, fakes))
      ) + r1 / 2 * jnp.mean(jnp.sum(slopes**2, axis=(1, 2, 3)))

    def generator_loss(generator):
      made = gan.generate({'generator': generator}, latents)
      return -jnp.mean(jnp.log(real(variables['discriminator'], made)))

    losses = {'discriminator': discriminator_loss, 'generator': generator_loss}
    (loss, (same, metrics)), gradient = _gradient_fn(r1)(variables, batch, _KEY)
    alone = {
      player: jax.jit(jax.value_and_grad(fn))(variables[player])
      for player, fn in losses.items()
    }
    chex.assert_trees_all_close(
      gradient,
      {player: value[1] for player, value in alone.items()},
      rtol=1e-3,
      atol=1e-5,
    )
    # The penalty is not a part of what is reported as the player's loss.
    penalty = r1 / 2 * metrics.get('slope', 0.0)
    np.testing.assert_allclose(
      [metrics['discriminator'] + penalty, metrics['generator']],
      [alone['discriminator'][0], alone['generator'][0]],
      rtol=1e-4,
    )
    np.testing.assert_allclose(
      loss, sum(value for value, _ in alone.values()), rtol=1e-4
    )
    chex.assert_trees_all_equal(same, variables)

  def test_masked_rows_change_nothing(self):
    _, variables = _small()
    batch = _batch([True, False, True, False])
    other = batch._replace(inputs=batch.inputs.at[1::2].set(255))
    self.assertTrue((batch.inputs != other.inputs).any())
    first, second = (
      _gradient_fn(2.0)(variables, b, _KEY) for b in (batch, other)
    )
    chex.assert_trees_all_equal(first, second)
    # Unmasked they do; and a batch of nothing is zero and not NaN.
    whole = other._replace(mask=jnp.ones(4, bool))
    (loss, _), _ = _gradient_fn(2.0)(variables, whole, _KEY)
    self.assertNotEqual(loss, first[0][0])
    nothing = other._replace(mask=jnp.zeros(4, bool))
    _, gradient = _gradient_fn(2.0)(variables, nothing, _KEY)
    chex.assert_trees_all_equal(
      gradient, jax.tree.map(jnp.zeros_like, gradient)
    )

  def test_a_negative_penalty_is_refused(self):
    with self.assertRaisesRegex(InputError, 'gan_r1=-1.0'):
      gans.gan_loss(_small()[0], -1.0)

  def test_training_brings_the_mean_image_closer_to_that_of_the_data(self):
    gan = gans.build_gan(
      GanConfig(gan_latent_size=4, gan_channels=(8, 16)), _DIGITS
    )
    optimizer = optax.adam(2e-3, b1=0.5)
    gradient_fn = jax.grad(gans.gan_loss(gan, 0.1), has_aux=True)
    inputs = jnp.asarray(_digits())

    @jax.jit
    def train(variables):
      def step(i, carry):
        variables, state = carry
        keys = jax.random.split(jax.random.fold_in(_KEY, i))
        rows = jax.random.randint(keys[0], (32,), 0, len(inputs))
        batch = Batch(inputs[rows], rows, jnp.ones(32, bool))
        gradient, _ = gradient_fn(variables, batch, keys[1])
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(variables, updates), state

      carry = (variables, optimizer.init(variables))
      return jax.lax.fori_loop(0, 400, step, carry)[0]

    start = jax.jit(gan.init)(jax.random.key(0))
    data = np.asarray(inputs, np.float32) / 255

    def made(variables):
      return gans.generate(gan, variables, 200, _KEY).astype(np.float32) / 255

    before, after = made(start), made(train(start))

    def distance(images):
      return np.abs(images.mean(axis=0) - data.mean(axis=0)).mean()

    self.assertLess(distance(after), 0.5 * distance(before))
    # And not by the same grey mean everywhere.
    self.assertGreater(after.std(axis=0).mean(), 0.5 * data.std(axis=0).mean())


class GenerateTest(parameterized.TestCase):
  def test_a_sample_depends_on_key_and_index_alone(self):
    gan, variables = _small()
    generator = {'generator': variables['generator']}
    many = gans.generate(gan, generator, 7, _KEY)
    few = gans.generate(gan, generator, 3, _KEY, batch_size=2)
    np.testing.assert_array_equal(many[:3], few)
    self.assertEqual(many.dtype, np.uint8)
    self.assertEqual(many.shape, (7, 8, 8, 1))
    self.assertLen({image.tobytes() for image in many}, 7)
    others = gans.generate(gan, generator, 3, jax.random.key(2))
    self.assertFalse((others == few).all(axis=(1, 2, 3)).any())

  def test_samples_are_what_the_generator_makes_of_normal_latents(self):
    gan, variables = _small()
    latents = jnp.concatenate(
      [jax.random.normal(jax.random.fold_in(_KEY, i), (1, 4)) for i in range(3)]
    )
    expected = 255 * gan.generate(variables, latents)
    samples = gans.generate(gan, variables, 3, _KEY)
    np.testing.assert_allclose(samples, expected, atol=0.51)

  @parameterized.parameters(({'num': 0}, 'num=0'), ({'batch_size': 0}, 'batch'))
  def test_bad_numbers_are_refused(self, arguments, message):
    gan, variables = _small()
    with self.assertRaisesRegex(InputError, message):
      gans.generate(gan, variables, **{'num': 2, 'key': _KEY, **arguments})


class EquilibriumTest(absltest.TestCase):
  def test_even_odds_cost_three_times_log_two(self):
    gan = gans.Gan(
      init=lambda key: {},
      generate=lambda variables, latents: jnp.zeros((len(latents), 8, 8, 1)),
      discriminate=lambda variables, images: images.sum(axis=(1, 2, 3)) * 0,
      latent_size=1,
    )
    batch = _batch([True, False])
    loss, (_, metrics) = gans.gan_loss(gan)({}, batch, _KEY)
    self.assertAlmostEqual(float(loss), 3 * np.log(2), places=5)
    self.assertAlmostEqual(
      float(metrics['generator']), float(nn.softplus(0.0)), places=5
    )


if __name__ == '__main__':
  absltest.main()
