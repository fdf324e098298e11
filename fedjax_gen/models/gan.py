"""A generative adversarial network as a value of pure functions.

DCGAN: Radford, Metz, Chintala, "Unsupervised representation learning with deep
convolutional generative adversarial networks", ICLR 2016, arXiv 1511.06434,
scaled to small images.

Published: a generator of one dense layer and transposed convolutions with
ReLU, a discriminator of stride-2 convolutions with LeakyReLU(0.2), batch
normalisation in both but at the generator's output and the discriminator's
input, images in [-1, 1], Adam with 2e-4 and beta 1 of 0.5, weights drawn from
N(0, 0.02^2), latents from a uniform distribution.

Ours: GroupNorm in place of batch normalisation. Statistics of the latter are of
a client's own images: their average over clients is that of no client. The
penalty R1 on the discriminator, see `gan_loss`: with neither of the two in the
discriminator, on 8 x 8 digits, all images were alike after 900 steps a client.
Adam with 1e-3, weights scaled to the fan-in (LeCun), latents from N(0, I), and
images in [0, 1], as everywhere in this library, of any height and width.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import math
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen import fields, trees, validate
from fedjax_gen.errors import InputError
from fedjax_gen.models import generator as generator_lib, layers, networks
from fedjax_gen.models.generator import Adam, Family
from fedjax_gen.models.vae import DataSpec, to_pixels, to_unit
from fedjax_gen.types import Array, Key, LossFn, Variables


class Gan(NamedTuple):
  """Generator and discriminator over variables by module.

  Modules are `'generator'` and `'discriminator'`. Neither knows labels, and
  neither has statistics: what becomes of an example does not depend on its
  batch.

  Attributes:
    init: `key -> variables`.
    generate: `(variables, latents) -> images`, `[B, Z]` to `[B, H, W, C]` in
      [0, 1]; reads the generator only.
    discriminate: `(variables, images) -> logits`, `[B, H, W, C]` in [0, 1] to
      `[B]` log-odds of being real; reads the discriminator only.
    latent_size: Z.
  """

  init: Callable[[Key], Variables]
  generate: Callable[[Variables, Array], Array]
  discriminate: Callable[[Variables, Array], Array]
  latent_size: int


@dataclasses.dataclass(frozen=True)
class GanConfig(fields.Configuration):
  """The networks and the step sizes; the values of DCGAN in brackets."""

  gan_latent_size: int = fields.positive_int(
    64, 'dimensions of the latents of a GAN [100]'
  )
  gan_channels: tuple[int, ...] = fields.option(
    (32, 64),
    'Channels of each stride-2 layer of the discriminator; the '
    'generator mirrors them [128,256,512,1024]',
    check=validate.each(validate.positive_int),
  )
  gan_learning_rate: float = fields.option(1e-3, 'of the Adam of a GAN [2e-4]')
  gan_discriminator_speed: float = fields.option(
    1.0, 'learning rate of the discriminator, in units of gan_learning_rate [1]'
  )
  gan_b1: float = fields.option(0.5, 'beta 1 of the Adam of a GAN [0.5]')
  gan_r1: float = fields.option(
    0.1, 'weight of the penalty on the discriminator’s slope at real images [0]'
  )


def build_gan(config: GanConfig, spec: DataSpec) -> Gan:
  """The GAN that a configuration asks for."""
  if not spec.is_image:
    raise InputError(
      f'Expected images of shape (H, W, C) for a GAN, got shape={spec.shape}.'
    )
  if not config.gan_channels:
    raise InputError(
      'Expected gan_channels to name at least one layer, got gan_channels=().'
    )
  channels = tuple(config.gan_channels)
  generator = Generator(spec.shape, channels)
  discriminator = Discriminator(channels)

  def init(key):
    keys = jax.random.split(key)
    latents = jnp.zeros((1, config.gan_latent_size))
    return {
      'generator': generator.init(keys[0], latents),
      'discriminator': discriminator.init(keys[1], jnp.zeros((1, *spec.shape))),
    }

  def generate(variables, latents):
    return generator.apply(variables['generator'], latents)

  def discriminate(variables, images):
    return discriminator.apply(variables['discriminator'], images)

  return Gan(init, generate, discriminate, config.gan_latent_size)


class Generator(nn.Module):
  """One dense layer, then doublings."""

  image_shape: Sequence[int]
  channels: Sequence[int] = (32, 64)

  @nn.compact
  def __call__(self, latents: Array) -> Array:
    """Maps `[B, Z]` to images `[B, H, W, C]` in [0, 1]."""
    height, width, image_channels = self.image_shape
    scale = 2 ** len(self.channels)
    # Rounded up and cut at the end, so that any image size will do.
    base = (-(-height // scale), -(-width // scale), self.channels[-1])
    hidden = nn.Dense(math.prod(base))(latents).reshape(-1, *base)
    for features in (*reversed(self.channels[:-1]), image_channels):
      hidden = nn.relu(networks.Norm('group')(hidden, None))
      hidden = layers.ConvTranspose(features)(hidden)
    return nn.sigmoid(hidden[:, :height, :width])


class Discriminator(nn.Module):
  """Stride-2 convolutions, the first not normalised, and one dense layer."""

  channels: Sequence[int] = (32, 64)

  @nn.compact
  def __call__(self, images: Array) -> Array:
    """Maps images `[B, H, W, C]` in [0, 1] to logits `[B]`."""
    hidden = 2 * images - 1
    for i, features in enumerate(self.channels):
      hidden = layers.Conv(features)(hidden)
      if i > 0:
        hidden = networks.Norm('group')(hidden, None)
      hidden = nn.leaky_relu(hidden, 0.2)
    return nn.Dense(1)(hidden.reshape(hidden.shape[0], -1))[:, 0]


def gan_loss(gan: Gan, r1: float = 0.0) -> LossFn:
  """The losses of both players as one; each descends its own.

  Goodfellow et al., "Generative adversarial nets", 2014: the discriminator
  descends -log D(x) - log(1 - D(G(z))), the generator -log D(G(z)), the
  non-saturating loss of section 3. Each sees the other's variables as
  constants, so that one gradient of the sum is both players' gradients at the
  same point, and one optimizer takes both steps at once. Both players see the
  same fakes, as many as there are unmasked examples.

  R1 (Mescheder et al., "Which training methods for GANs do actually
  converge?", 2018) adds `r1 / 2 * ||gradient of the logit||^2` at real images
  to the discriminator's loss.

  Metrics are the two losses, `discriminator` (less the penalty) and
  `generator`, in nats; `slope`, the squared norm that the penalty weighs, if
  there is one; and the mean log-odds of being real of either kind of image,
  `real_logit` and `fake_logit`. The loss itself says little: at the
  equilibrium, where all odds are even, it is 3 log 2.

  Args:
    gan: the model.
    r1: weight of the penalty, for images in [0, 1]; 0 is without.
  """
  validate.non_negative(gan_r1=r1)

  def loss_fn(variables, batch, key):
    constants = jax.lax.stop_gradient(variables)
    num = batch.mask.shape[0]
    latents = jax.random.normal(key, (num, gan.latent_size))
    fakes = gan.generate(variables, latents)
    real_logits, pull_back = jax.vjp(
      functools.partial(gan.discriminate, variables), to_unit(batch.inputs)
    )
    fake_logits = gan.discriminate(variables, jax.lax.stop_gradient(fakes))
    fooled_logits = gan.discriminate(constants, fakes)
    mean = functools.partial(trees.masked_mean, mask=batch.mask)

    # -log D = softplus(-logit) and -log(1 - D) = softplus(logit).
    discriminator = mean(nn.softplus(-real_logits) + nn.softplus(fake_logits))
    generator = mean(nn.softplus(-fooled_logits))
    loss = discriminator + generator
    metrics = {
      'discriminator': discriminator,
      'generator': generator,
      'real_logit': mean(real_logits),
      'fake_logit': mean(fake_logits),
    }
    if r1:
      # A logit depends on its own image only.
      [gradient] = pull_back(jnp.ones_like(real_logits))
      metrics['slope'] = mean(jnp.sum(gradient**2, axis=(1, 2, 3)))
      loss += r1 / 2 * metrics['slope']
    return loss, (variables, metrics)

  return loss_fn


def generate(
  gan: Gan,
  variables: Variables,
  num: int,
  key: Key,
  *,
  batch_size: int = 500,
) -> np.ndarray:
  """Images of latents drawn from N(0, I).

  Args:
    gan: the model.
    variables: its variables; the generator's suffice.
    num: how many.
    key: consumed. Sample i depends on the key and i alone.
    batch_size: samples computed at once.

  Returns:
    `[num, H, W, C]` uint8.
  """
  validate.positive_int(num=num, batch_size=batch_size)
  return np.asarray(_generate(gan, num, batch_size, variables, key))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _generate(gan, num, batch_size, variables, key):
  def one(index):
    latents = jax.random.normal(
      jax.random.fold_in(key, index), (1, gan.latent_size)
    )
    return to_pixels(gan.generate(variables, latents)[0])

  return jax.lax.map(one, jnp.arange(num), batch_size=batch_size)


def optimizer(config: GanConfig, adam: Adam) -> optax.GradientTransformation:
  """An Adam for each player.

  Args:
    config: learning rates and beta 1.
    adam: makes one of a learning rate and beta 1.

  Raises:
    InputError: a learning rate is not above zero, or beta 1 not in [0, 1).
  """
  validate.positive(
    gan_learning_rate=config.gan_learning_rate,
    gan_discriminator_speed=config.gan_discriminator_speed,
  )
  validate.fraction(gan_b1=config.gan_b1)
  if config.gan_b1 == 1:
    raise InputError(f'Expected gan_b1 < 1, got gan_b1={config.gan_b1!r}.')
  speeds = {'generator': 1.0, 'discriminator': config.gan_discriminator_speed}
  return optax.partition(
    {
      player: adam(speed * config.gan_learning_rate, b1=config.gan_b1)
      for player, speed in speeds.items()
    },
    {player: player for player in speeds},
  )


def of_gan(gan: Gan, config: GanConfig) -> generator_lib.Generator:
  """A GAN as a generator: latents from N(0, I); labels are not used.

  Args:
    gan: the model.
    config: of the players' training.

  Raises:
    InputError: a field of the configuration is out of range.
  """
  return generator_lib.Generator(
    init=gan.init,
    loss=gan_loss(gan, config.gan_r1),
    sample=lambda variables, labels, key: generate(
      gan, variables, len(labels), key
    ),
    conditional=False,
    optimizer=functools.partial(optimizer, config),
    sampled=('generator',),
    model=gan,
  )


def _build(config: GanConfig, spec: DataSpec) -> generator_lib.Generator:
  return of_gan(build_gan(config, spec), config)


FAMILY = Family((GanConfig,), (), _build, 'generative adversarial network')
