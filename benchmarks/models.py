"""The models of the tasks, of the library's own layers."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from fedjax_gen.federated import optimizers
from fedjax_gen.losses import likelihoods
from fedjax_gen.models import layers
from fedjax_gen.types import Key, LossFn, Tree

_LATENTS, _CLASSES = 16, 62


class Model(NamedTuple):
  """What a contestant trains.

  Attributes:
    init: `key -> variables`.
    loss_fn: the mean over a batch.
    optimizer: of a client.
    shape: of one example.
  """

  init: Callable[[Key], Tree]
  loss_fn: LossFn
  optimizer: optax.GradientTransformation
  shape: tuple[int, ...]


class _ConvVae(nn.Module):
  conv: Any
  conv_transpose: Any

  @nn.compact
  def __call__(self, images, key):
    hidden = nn.relu(self.conv(32)(images))
    hidden = nn.relu(self.conv(64)(hidden))
    code, kl = _draw(hidden.reshape(len(images), -1), key)
    hidden = nn.relu(nn.Dense(7 * 7 * 64)(code)).reshape(-1, 7, 7, 64)
    hidden = nn.relu(self.conv_transpose(32)(hidden))
    return self.conv_transpose(1)(hidden), kl


class _MlpVae(nn.Module):
  @nn.compact
  def __call__(self, images, key):
    code, kl = _draw(nn.relu(nn.Dense(256)(images)), key)
    return nn.Dense(784)(nn.relu(nn.Dense(256)(code))), kl


class _EmnistConv(nn.Module):
  @nn.compact
  def __call__(self, images, key):
    keys = jax.random.split(key)
    hidden = nn.relu(layers.Conv(32, (3, 3), (1, 1), 'VALID')(images))
    hidden = nn.relu(layers.Conv(64, (3, 3), (1, 1), 'VALID')(hidden))
    hidden = _dropped(keys[0], layers.max_pool(hidden), 0.25)
    hidden = nn.relu(nn.Dense(128)(hidden.reshape(len(images), -1)))
    return nn.Dense(_CLASSES)(_dropped(keys[1], hidden, 0.5))


def conv_vae(conv=layers.Conv, conv_transpose=layers.ConvTranspose) -> Model:
  """A convolutional VAE of 28 x 28 images, with layers of one's choice."""
  return _vae(_ConvVae(conv, conv_transpose), (28, 28, 1))


def build(name: str) -> Model:
  """The model of a task."""
  return {'conv_vae': conv_vae, 'mlp_vae': _mlp_vae, 'emnist_conv': _emnist}[
    name
  ]()


def _mlp_vae() -> Model:
  return _vae(_MlpVae(), (784,))


def _emnist() -> Model:
  module = _EmnistConv()

  def loss_fn(variables, batch, key):
    logits = module.apply(variables, batch.inputs, key)
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch.labels
    )
    return _mean(losses, batch.mask), (variables, {})

  shape = (28, 28, 1)
  return Model(_init(module, shape), loss_fn, optax.sgd(10**-1.5), shape)


def _vae(module: nn.Module, shape: tuple[int, ...]) -> Model:
  log_prob = likelihoods.bernoulli().log_prob

  def loss_fn(variables, batch, key):
    logits, kl = module.apply(variables, batch.inputs, key)
    losses = kl - log_prob(logits, batch.inputs)
    return _mean(losses, batch.mask), (variables, {})

  return Model(_init(module, shape), loss_fn, optimizers.adam(1e-3), shape)


def _init(module, shape):
  def init(key):
    return module.init(key, jnp.zeros((1, *shape)), key)

  return init


def _draw(hidden, key):
  """A draw of the code and its KL divergence, within a module's `__call__`."""
  mean, logvar = jnp.split(nn.Dense(2 * _LATENTS)(hidden), 2, axis=-1)
  code = mean + jnp.exp(logvar / 2) * jax.random.normal(key, mean.shape)
  return code, 0.5 * (jnp.exp(logvar) + mean**2 - 1 - logvar).sum(-1)


def _dropped(key, values, rate):
  """Dropout at a rate of so many 256ths, by a byte of randomness a value."""
  # The bytes of a word lie a quarter of the batch apart: rows stay rows.
  words = jax.random.bits(key, (-(-len(values) // 4), *values.shape[1:]))
  shifts = jnp.arange(0, 32, 8, dtype=words.dtype)
  draws = words[None] >> shifts.reshape(-1, *[1] * values.ndim) & 255
  draws = draws.reshape(-1, *values.shape[1:])[: len(values)]
  return jnp.where(draws >= int(rate * 256), values / (1 - rate), 0)


def _mean(losses, mask):
  return jnp.where(mask, losses, 0).sum() / jnp.maximum(mask.sum(), 1)
