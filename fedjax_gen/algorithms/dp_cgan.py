"""DP-CGAN: a conditional GAN over embeddings with an averaged generator.

The baseline of Di Salvo, Nguyen, Ledig, MICCAI 2025
(https://github.com/myng15/federated-dp-cvae), with which FedHypeVAE is
compared too. Published code: generator 111-512-1024-768, discriminator
779-1024-512-1, latents of 100, Adam 2e-4 with beta_1 = 0.5, DP-SGD on the
discriminator alone, the generator averaged.

Not taken over: there both players are made anew in every round, so that all but
the last round's training is thrown away, and the noise is that of 20 epochs
where 250 are run. Here the discriminator stays with its client from round to
round, and the plan counts every step.

Only the discriminator reads records, in the term -log D(x, y), which is a sum
over them: its gradient is clipped by record and noised. The term of generated
examples, and all of the generator's training, hold no record, so that they are
post-processing.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from fedjax_gen import fields, trees, validate
from fedjax_gen.federated import aggregates, servers
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.privacy.plan import Plan
from fedjax_gen.privacy.steps import descent, parts
from fedjax_gen.privacy.steps.descent import Parts
from fedjax_gen.privacy.steps.parts import StepResult
from fedjax_gen.types import Array, Key


@dataclasses.dataclass(frozen=True)
class CganConfig(fields.Configuration):
  """The conditional GAN of the comparison (DP-CGAN)."""

  gan_latent_size: int = fields.positive_int(16, 'Latent dimensions')
  gan_hidden_sizes: tuple[int, ...] = fields.option(
    (128, 128),
    'Widths of the generator; reversed for the discriminator',
    check=validate.each(validate.positive_int),
  )
  gan_learning_rate: float = fields.positive(
    2e-3, 'Learning rate of both Adams'
  )
  gan_b1: float = fields.fraction(0.5, 'Beta 1 of both Adams')


class Cgan(NamedTuple):
  """Both players, as pure functions; labels are `[B]` int32.

  Attributes:
    init: `key -> Parts`: the generator shared, the discriminator own.
    generate: `(generator, labels, key) -> [B, F]`.
    logits: `(discriminator, inputs [B, F], labels) -> [B]`, positive for real.
    spec: of the data.
  """

  init: Callable[[Key], Parts]
  generate: Callable[[dict[str, Any], Array, Key], Array]
  logits: Callable[[dict[str, Any], Array, Array], Array]
  spec: DataSpec


def build_cgan(config: CganConfig, spec: DataSpec) -> Cgan:
  """The networks."""
  (num_features,) = spec.shape
  generator = _Mlp((*config.gan_hidden_sizes, num_features))
  discriminator = _Mlp((*config.gan_hidden_sizes[::-1], 1))

  def with_class(values, labels):
    one_hot = jax.nn.one_hot(labels, spec.num_classes)
    return jnp.concatenate([values, one_hot], axis=-1)

  def init(key):
    generator_key, discriminator_key = jax.random.split(key)
    width = spec.num_classes
    latents = jnp.zeros((1, config.gan_latent_size + width))
    inputs = jnp.zeros((1, num_features + width))
    return Parts(
      shared=generator.init(generator_key, latents),
      own=discriminator.init(discriminator_key, inputs),
    )

  def generate(variables, labels, key):
    latents = jax.random.normal(key, (*labels.shape, config.gan_latent_size))
    return generator.apply(variables, with_class(latents, labels))

  def logits(variables, inputs, labels):
    scored = jnp.asarray(
      discriminator.apply(variables, with_class(inputs, labels))
    )
    return scored[..., 0]

  return Cgan(init, generate, logits, spec)


def dp_cgan(
  config: CganConfig, gan: Cgan, plan: Plan, *, is_private: bool
) -> Algorithm:
  """The algorithm: FedSGD on the generator, discriminators at home.

  A step moves the discriminator, then takes the generator's gradient against
  it, which is sent.

  Guarantees:
    With `is_private`, as `descent.private_gradient` with the discriminator as
    the client's own part. What is sent is made of it and of noise.

  Args:
    config: the players' Adam.
    gan: the networks.
    plan: made by `plan.record_plan`; its sampling is used in any case.
    is_private: whether records are clipped and noised.
  """
  optimizer = optax.adam(config.gan_learning_rate, b1=config.gan_b1)

  def real_loss(variables, record, key):
    del key  # nothing is random
    logit = gan.logits(
      variables['own'], record.inputs[None], record.labels[None]
    )
    loss = jnp.sum(jax.nn.softplus(-logit))
    return loss, {'loss': loss}

  if is_private:
    gradient_fn = descent.private_gradient(real_loss, plan)
  else:
    gradient_fn = descent.plain_gradient(
      real_loss, plan.sampling_rate, plan.capacity
    )
  # As many generated examples as records are expected.
  size = plan.capacity

  def generated(generator, key):
    label_key, latent_key = jax.random.split(key)
    labels = jax.random.randint(label_key, (size,), 0, gan.spec.num_classes)
    return gan.generate(generator, labels, latent_key), labels

  def step(shared, own, own_state, data, key):
    real_key, fake_key, generator_key = jax.random.split(key, 3)
    real, metrics = gradient_fn(Parts(shared=(), own=own), data, real_key)
    fakes, labels = generated(shared, fake_key)

    def fake_loss(own):
      return jax.nn.softplus(gan.logits(own, fakes, labels)).mean()

    fake = jax.grad(fake_loss)(own)
    updates, own_state = optimizer.update(
      trees.add(real['own'], fake), own_state, own
    )
    own = optax.apply_updates(own, updates)

    def generator_loss(shared):
      inputs, labels = generated(shared, generator_key)
      return jax.nn.softplus(-gan.logits(own, inputs, labels)).mean()

    gradient = jax.grad(generator_loss)(shared)
    return StepResult(gradient, own, own_state, metrics)

  client = parts.client_program(
    step,
    init=gan.init,
    own_optimizer=optimizer,
    shared_optimizer=None,
    num_steps=1,
  )
  server = servers.learned_server(
    lambda key: gan.init(key)['shared'], aggregates.weighted_mean(), optimizer
  )
  return Algorithm(server, (client,))


class _Mlp(nn.Module):
  """Dense layers with leaky rectifiers between them."""

  sizes: Sequence[int]

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    for size in self.sizes[:-1]:
      inputs = nn.leaky_relu(nn.Dense(size)(inputs), 0.2)
    return nn.Dense(self.sizes[-1])(inputs)
