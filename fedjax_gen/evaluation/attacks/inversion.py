"""Attacks that draw images from means and deviations of their features.

An attacker who holds a client's mean features of a class tries to draw the
images behind the mean: by decoding the mean; or by searching for a latent such
that its image has that mean as its features. The search needs the client's
extractor, which FedVTC does not send: it is the worst case. `inversion_audit`
measures the result.

Mahendran and Vedaldi, 2015 (https://arxiv.org/abs/1412.0035) showed that
features can be inverted; searching the latents of a generator is from Creswell
and Bharath, 2016 (https://arxiv.org/abs/1611.05644).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_gen import validate
from fedjax_gen.models.classification.classifiers import to_pixels
from fedjax_gen.types import Array, Key, Tree


class Inverted(NamedTuple):
  """What a search found for each mean.

  Attributes:
    images: uint8 `[M, H, W, C]`.
    mismatches: `[M]` squared distance of their features to the mean, as a share
      of the mean's own square.
  """

  images: Array
  mismatches: Array


def decode_statistics(
  decode: Callable[[Tree, Array], Array],
  generator: Tree,
  means: Array,
  stddevs: Array,
  key: Key,
  *,
  num_images: int = 4,
) -> Array:
  """Decodes means, and draws about them: an attack that searches nothing.

  Args:
    decode: `(generator, latents [B, F]) -> images [B, H, W, C]` in [-1, 1].
    generator: its variables.
    means: `[M, F]`.
    stddevs: `[M, F]`, or `[1, F]` for all alike.
    key: of the draws.
    num_images: R, of each mean; the first is that of the mean itself.

  Returns:
    uint8 `[M, R, H, W, C]`.
  """
  validate.positive_int(num_images=num_images)
  offsets = _offsets(key, means, num_images)
  images = decode(generator, _latents(means, stddevs, offsets))
  return to_pixels(_by_mean(images, num_images))


def latent_search(
  features: Callable[[Tree, Array], Array],
  decode: Callable[[Tree, Array], Array],
  *,
  num_steps: int = 300,
  num_starts: int = 4,
  learning_rate: float = 0.1,
) -> Callable[[Tree, Tree, Array, Array, Key], Inverted]:
  """Compiles a search for a latent: its image has a mean as its features.

  Adam descends the mismatch from the mean itself and from draws about it; of
  the ends the best one counts.

  Args:
    features: `(classifier, images in [-1, 1]) -> [B, F]`, of the client.
    decode: as for `decode_statistics`.
    num_steps: of Adam.
    num_starts: of each mean, the mean itself included.
    learning_rate: at first, in standard deviations a step; it falls to 0.

  Returns:
    `run(classifier, generator, means [M, F], stddevs, key)`; `stddevs` is
    `[M, F]`, or `[1, F]` for all alike, and a feature with a standard deviation
    of 0 stays where the mean has it.
  """
  _check_search(num_steps, num_starts, learning_rate)

  @jax.jit
  def run(classifier, generator, means, stddevs, key):
    def images_of(offsets):
      return decode(generator, _latents(means, stddevs, offsets))

    def mismatch(offsets):
      return _mismatch(features(classifier, images_of(offsets)), means)

    starts = _offsets(key, means, num_starts)
    offsets = _descend(mismatch, starts, num_steps, learning_rate)
    images = _by_mean(images_of(offsets), num_starts)
    return _chosen(images, mismatch(offsets))

  return run


def _check_search(num_steps, num_starts, learning_rate) -> None:
  validate.positive_int(num_steps=num_steps, num_starts=num_starts)
  validate.positive(learning_rate=learning_rate)


def _offsets(key: Key, means: Array, num: int) -> Array:
  """`[M, num, F]` draws from N(0, I), of each mean the first 0."""
  num_means, size = means.shape
  return jax.random.normal(key, (num_means, num, size)).at[:, 0].set(0.0)


def _latents(means: Array, stddevs: Array, offsets: Array) -> Array:
  """`[M S, F]` latents, `[M, S, F]` offsets in standard deviations away."""
  latents = means[:, None] + stddevs[:, None] * offsets
  return latents.reshape(-1, means.shape[1])


def _by_mean(images: Array, num: int) -> Array:
  return images.reshape(-1, num, *images.shape[1:])


def _mismatch(features: Array, means: Array) -> Array:
  """`[M, S]` squared distances of `[M S, F]` to means, relative to theirs."""
  features = features.reshape(len(means), -1, means.shape[1])
  distances = jnp.sum((features - means[:, None]) ** 2, axis=-1)
  squares = jnp.maximum(jnp.sum(means**2, axis=-1), 1e-12)
  return distances / squares[:, None]


def _descend(loss, start, num_steps, learning_rate):
  """Adam on each of `[M, S, ...]` by itself: Adam's steps are elementwise."""
  optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

  def step(carry, _):
    values, state = carry
    gradient = jax.grad(lambda v: jnp.sum(loss(v)))(values)
    updates, state = optimizer.update(gradient, state)
    return (optax.apply_updates(values, updates), state), None

  carry = start, optimizer.init(start)
  (values, _), _ = jax.lax.scan(step, carry, length=num_steps)
  return values


def _chosen(images: Array, mismatches: Array) -> Inverted:
  """Of `[M, S, ...]` the start of least mismatch for each mean."""
  best = (jnp.arange(len(mismatches)), mismatches.argmin(axis=1))
  return Inverted(to_pixels(images[best]), mismatches[best])
