"""A generator with given mean embeddings: the second part of DP-MERF.

Harder, Adamczewski, Park, AISTATS 2021; the first part, the release, is
`privacy.one_upload.kernel_release`. The generator descends, over classes that
are known, the squared distance of the mean of phi(G(y, epsilon)) from what was
released: the MMD of the kernel that the random features stand for.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from fedjax_gen import fields
from fedjax_gen.errors import InputError
from fedjax_gen.models.classification.feature_generator import (
  FeatureGenerator,
  build_feature_generator,
)
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.privacy.one_upload.kernel_release import (
  KernelStatistic,
  MeanEmbeddings,
)
from fedjax_gen.types import Array, Key, Variables


@dataclasses.dataclass(frozen=True)
class MerfConfig(fields.Configuration):
  """DP-MERF: the features that are released, and the generator."""

  merf_features: int = fields.positive_int(500, 'D, random features; even')
  merf_noise_size: int = fields.positive_int(32, 'inputs of the generator')
  merf_hidden_size: int = fields.positive_int(128, 'width of its hidden layer')
  merf_steps: int = fields.positive_int(
    1000, 'steps of its Adam, which spend no privacy'
  )
  merf_learning_rate: float = fields.positive(5e-3, 'of its Adam')
  merf_batch_size: int = fields.positive_int(
    50, 'generated embeddings of each class in a step'
  )

  def __post_init__(self):
    super().__post_init__()
    if self.merf_features % 2:
      raise InputError(
        'Expected an even number of features, sines and cosines, got '
        f'merf_features={self.merf_features}.'
      )

  def statistic(self, spec: DataSpec) -> KernelStatistic:
    """What clients sum."""
    return KernelStatistic(spec.num_classes, self.merf_features)

  def generator(self, spec: DataSpec) -> FeatureGenerator:
    """What is trained."""
    [size] = spec.shape
    return build_feature_generator(
      spec.num_classes,
      size,
      self.merf_noise_size,
      self.merf_hidden_size,
      'gaussian',
    )


def fit_generator(
  config: MerfConfig, spec: DataSpec, embeddings: MeanEmbeddings, key: Key
) -> tuple[Variables, Array]:
  """The generator with the mean embeddings given, by Adam.

  Guarantees:
    Released: nothing more; post-processing.

  Returns:
    Its variables, and the loss before each step, `[steps]`.
  """
  return _fit_generator(config, spec, MeanEmbeddings(*embeddings), key)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _fit_generator(config, spec, embeddings, key):
  generator, statistic = config.generator(spec), config.statistic(spec)
  schedule = optax.cosine_decay_schedule(
    config.merf_learning_rate, config.merf_steps
  )
  optimizer = optax.adam(schedule)
  labels = jnp.repeat(jnp.arange(spec.num_classes), config.merf_batch_size)

  def loss_fn(variables, key):
    made = generator.sample(variables, labels, key)
    features = statistic.features(made)
    means = features.reshape(spec.num_classes, config.merf_batch_size, -1)
    errors = jnp.sum((means.mean(axis=1) - embeddings.means) ** 2, axis=-1)
    return jnp.sum(jnp.where(embeddings.known, errors, 0.0))

  def step(carry, key):
    variables, state = carry
    loss, gradient = jax.value_and_grad(loss_fn)(variables, key)
    updates, state = optimizer.update(gradient, state, variables)
    return (optax.apply_updates(variables, updates), state), loss

  init_key, run_key = jax.random.split(key)
  variables = generator.init(init_key)
  keys = jax.random.split(run_key, config.merf_steps)
  (variables, _), losses = jax.lax.scan(
    step, (variables, optimizer.init(variables)), keys
  )
  return variables, losses
