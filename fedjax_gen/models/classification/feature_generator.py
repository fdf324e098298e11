"""A generator of features, given a class: what FedGen's server trains.

As the generator of Zhu et al. (2021): class and noise, a hidden layer that is
normalised, ReLU, and a layer to the features. Theirs has BatchNorm; here it is
LayerNorm, with as many parameters. There are no statistics to keep, and a batch
may hold one class: a client with one class generates such batches, and of them
the mean over the batch takes away what tells the class.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from fedjax_gen import validate
from fedjax_gen.types import Array, Key, Variables

NOISES = ('uniform', 'gaussian')


class FeatureGenerator(NamedTuple):
  """A generator as pure functions.

  Attributes:
    init: `key -> variables`.
    generate: `(variables, labels [B], noise [B, Z]) -> [B, F]`.
    draw: `(key, num) -> [num, Z]` noise.
  """

  init: Callable[[Key], Variables]
  generate: Callable[[Variables, Array, Array], Array]
  draw: Callable[[Key, int], Array]

  def sample(self, variables: Variables, labels: Array, key: Key) -> Array:
    """Features `[B, F]` of labels `[B]`."""
    return self.generate(variables, labels, self.draw(key, len(labels)))

  def sample_each(self, variables: Variables, labels: Array, key: Key) -> Array:
    """As `sample`, but feature i depends on the key, i and its label alone."""
    return _sample_each(self, variables, jnp.asarray(labels), key)


@functools.partial(jax.jit, static_argnums=0)
def _sample_each(generator, variables, labels, key):
  def draw(index):
    return generator.draw(jax.random.fold_in(key, index), 1)[0]

  noise = jax.vmap(draw)(jnp.arange(labels.shape[0]))
  return generator.generate(variables, labels, noise)


@functools.cache  # equal models are one value
def build_feature_generator(
  num_classes: int,
  feature_size: int,
  noise_size: int = 32,
  hidden_size: int = 512,
  noise: str = 'uniform',
) -> FeatureGenerator:
  """A generator G(y, epsilon) of features.

  Args:
    num_classes: C.
    feature_size: F.
    noise_size: Z.
    hidden_size: of the hidden layer.
    noise: 'uniform' in [0, 1) or 'gaussian'.
  """
  validate.positive_int(
    num_classes=num_classes,
    feature_size=feature_size,
    noise_size=noise_size,
    hidden_size=hidden_size,
  )
  validate.one_of(NOISES, noise=noise)
  module = _Network(num_classes, hidden_size, feature_size)
  law = jax.random.uniform if noise == 'uniform' else jax.random.normal

  def init(key):
    empty = jnp.zeros((1, noise_size))
    return module.init(key, jnp.zeros(1, jnp.int32), empty)['params']

  def generate(variables, labels, noise):
    return module.apply({'params': variables}, labels, noise)

  return FeatureGenerator(
    init, generate, lambda key, num: law(key, (num, noise_size))
  )


def diversity_loss(noise: Array, features: Array) -> Array:
  """`exp(-mean |noise|^2 |features|)` over pairs, in (0, 1]; 1 if collapsed.

  Distances are means over axes: squared ones of the noise `[B, Z]`, absolute
  ones of the features `[B, F]`; the pairs include those of a draw with itself.
  As the code of Zhu et al. (2021) has it (after Mao et al., 2019).
  """
  noise_gaps = jnp.mean((noise[:, None] - noise[None]) ** 2, axis=-1)
  feature_gaps = jnp.mean(jnp.abs(features[:, None] - features[None]), axis=-1)
  return jnp.exp(-jnp.mean(noise_gaps * feature_gaps))


class _Network(nn.Module):
  """Class and noise to features, by one hidden layer."""

  num_classes: int
  hidden_size: int
  feature_size: int

  @nn.compact
  def __call__(self, labels: Array, noise: Array) -> Array:
    """Maps `[B]` and `[B, Z]` to `[B, F]`."""
    given = jax.nn.one_hot(labels, self.num_classes)
    hidden = nn.Dense(self.hidden_size)(jnp.concatenate([noise, given], -1))
    hidden = nn.relu(nn.LayerNorm()(hidden))
    return nn.Dense(self.feature_size)(hidden)
