"""What the decoder's outputs say about a pixel: p(x | z).

A likelihood is a value of pure functions. Data x lie in [0, 1]; decoder
outputs are real numbers, `[..., C * outputs_per_value]` for data `[..., C]`.
"""

from collections.abc import Callable
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_gen import validate
from fedjax_gen.errors import InputError
from fedjax_gen.losses.gaussian import kept_in
from fedjax_gen.types import Array, Key


class Likelihood(NamedTuple):
  """p(x | z) as three functions of the decoder's outputs.

  Attributes:
    log_prob: `(outputs, data) -> [B]`, nats per example (summed over D).
    mean: `outputs -> data` of the same shape as the data, in [0, 1] for
      images; the noise-free picture to show.
    sample: `(key, outputs) -> data`, a draw of x itself, noise included.
    outputs_per_value: how many numbers the decoder gives for one data value.
    name: for reports.
  """

  log_prob: Callable[[Array, Array], Array]
  mean: Callable[[Array], Array]
  sample: Callable[[Key, Array], Array]
  outputs_per_value: int
  name: str


def bernoulli() -> Likelihood:
  """Cross-entropy of grey values in [0, 1] read as probabilities.

  The summed binary cross-entropy of the published FedVAE code. For values
  strictly between 0 and 1 it is not a normalised density: bounds made with it
  compare with each other, not with those of another likelihood.
  """

  def log_prob(logits, data):
    # optax's, with one exponential in place of four, and without log1p: it is
    # exact where the value is lost in the sum over pixels, and slower.
    softplus = jnp.maximum(logits, 0) + jnp.log(1 + jnp.exp(-jnp.abs(logits)))
    return _sum(data * logits - softplus)

  def sample(key, logits):
    return jax.random.bernoulli(key, jax.nn.sigmoid(logits)).astype(
      logits.dtype
    )

  return Likelihood(log_prob, jax.nn.sigmoid, sample, 1, 'bernoulli')


def gaussian(stddev: float = 0.5**0.5, *, bounded: bool = True) -> Likelihood:
  """Gaussian of fixed standard deviation: squared error / (2 stddev^2).

  Args:
    stddev: in units of the data. The default makes the loss the plain squared
      error, up to a constant that the log-density keeps.
    bounded: whether means go through a sigmoid (images); features do not.
  """
  validate.positive(stddev=stddev)
  if not 1e-6 <= stddev <= 1e6:  # float32 has no room for its square
    raise InputError(f'Expected 1e-6 <= stddev <= 1e6, got stddev={stddev!r}.')
  to_mean = jax.nn.sigmoid if bounded else lambda outputs: outputs
  log_scale = 0.5 * math.log(2 * math.pi * stddev**2)

  def log_prob(outputs, data):
    squared = (to_mean(outputs) - data) ** 2 / (2 * stddev**2)
    return -_sum(squared + log_scale)

  def sample(key, outputs):
    noise = jax.random.normal(key, outputs.shape, outputs.dtype)
    return to_mean(outputs) + stddev * noise

  return Likelihood(log_prob, to_mean, sample, 1, 'gaussian')


def discretised_logistic(num_levels: int = 256) -> Likelihood:
  """A logistic density integrated over each of the pixel's grey levels.

  A normalised distribution over 8-bit images (Kingma et al., "Improved
  variational inference with inverse autoregressive flow", 2016, appendix A;
  Salimans et al., "PixelCNN++", 2017, eq. 2). The decoder gives a mean and a
  log-scale per value. `mean` is the logistic's; the two outermost levels also
  hold its tails, which draws the mean of a wide one's samples to 1/2.

  Args:
    num_levels: number of grey levels, equally spaced on [0, 1].
  """
  validate.positive_int(num_levels=num_levels)
  if num_levels < 2:
    raise InputError(f'Expected num_levels > 1, got num_levels={num_levels}.')
  half = 0.5 / (num_levels - 1)

  def parameters(outputs):
    mean, log_scale = jnp.split(outputs, 2, axis=-1)
    # From exp(-7), a quarter of a grey level, up to the flattest useful; an
    # untrained decoder, giving 0, starts at exp(-2), about 35 levels.
    return jax.nn.sigmoid(mean), kept_in(log_scale - 2.0, -7.0, 3.0)

  def log_prob(outputs, data):
    mean, log_scale = parameters(outputs)
    centred = (data - mean) * jnp.exp(-log_scale)
    width = half * jnp.exp(-log_scale)
    upper, lower = centred + width, centred - width
    # log(sigmoid(upper) - sigmoid(lower)) without cancellation.
    inside = (
      jax.nn.log_sigmoid(upper)
      + jax.nn.log_sigmoid(-lower)
      + jnp.log(-jnp.expm1(-2 * width))
    )
    log_mass = jnp.where(
      data <= half,
      jax.nn.log_sigmoid(upper),
      jnp.where(data >= 1 - half, jax.nn.log_sigmoid(-lower), inside),
    )
    return _sum(log_mass)

  def mean(outputs):
    return parameters(outputs)[0]

  def sample(key, outputs):
    centre, log_scale = parameters(outputs)
    noise = jax.random.logistic(key, centre.shape, centre.dtype)
    value = centre + jnp.exp(log_scale) * noise
    levels = jnp.round(jnp.clip(value, 0, 1) * (num_levels - 1))
    return levels / (num_levels - 1)

  return Likelihood(log_prob, mean, sample, 2, 'discretised_logistic')


def by_name(name: str, *, stddev: float, is_image: bool) -> Likelihood:
  """The likelihood a configuration names; `stddev` is for the Gaussian.

  Raises:
    InputError: the name is none of bernoulli, gaussian, discretised_logistic,
      or needs images and the data are features; or `stddev` is not above zero.
  """
  builders = {
    'bernoulli': bernoulli,
    'gaussian': lambda: gaussian(stddev, bounded=is_image),
    'discretised_logistic': discretised_logistic,
  }
  validate.one_of(builders, likelihood=name)
  if not is_image and name != 'gaussian':
    raise InputError(
      f"Expected likelihood='gaussian' for features, got likelihood={name!r}, "
      'which needs images.'
    )
  return builders[name]()


def _sum(values: Array) -> Array:
  """Sums everything but the leading axis.

  As a product with ones: what is summed would be computed inside a reduction
  otherwise, one number after the other on CPU.
  """
  values = values.reshape(values.shape[0], -1)
  ones = jnp.ones(values.shape[1], values.dtype)
  return jnp.matmul(values, ones, precision=jax.lax.Precision.HIGHEST)
