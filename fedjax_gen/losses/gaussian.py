"""Diagonal Gaussians over the latent space, in closed form."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_gen.types import Array, Key

LOGVAR_RANGE = (-10.0, 10.0)
"""Log-variances are clipped to this range, standard deviations from 0.007 to
148: wider and narrower ones buy nothing, and their exponentials overflow."""


class Gaussian(NamedTuple):
  """A diagonal Gaussian.

  Attributes:
    mean: `[..., Z]`.
    logvar: `[..., Z]` log-variances (natural logarithm).
  """

  mean: Array
  logvar: Array


def standard(shape: tuple[int, ...]) -> Gaussian:
  """N(0, I) of the given shape."""
  return Gaussian(jnp.zeros(shape), jnp.zeros(shape))


def relative(step: Gaussian, base: Gaussian) -> Gaussian:
  """N(m_b + m_s, exp(l_b + l_s)), a Gaussian given relative to another.

  The residual Normal of NVAE (Vahdat & Kautz, 2020, section 3.2): KL to the
  base is zero where the step is N(0, I), wherever the base is.
  """
  return clipped(base.mean + step.mean, base.logvar + step.logvar)


def clipped(mean: Array, logvar: Array) -> Gaussian:
  """A Gaussian with its log-variance kept in `LOGVAR_RANGE`; see `kept_in`."""
  return Gaussian(mean, kept_in(logvar, *LOGVAR_RANGE))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def kept_in(value: Array, low: float, high: float) -> Array:
  """`clip`, with a gradient outside the range that only leads back into it.

  With that of `clip`, which is zero outside, what a step threw out of the range
  would stay there: a first step of Adam does that to hundreds of latents of a
  wide encoder, and they were lost. So the loss at the end of the range pulls
  the value back. It does not push it further out: where descent would, the
  gradient is zero, or a value that wants to be beyond the end would drift off
  without limit, and need as many steps to come back.

  For losses, which are descended; it has no forward-mode derivative.
  """
  return jnp.clip(value, low, high)


def _kept_in_forward(value, low, high):
  return kept_in(value, low, high), value


def _kept_in_backward(low, high, value, gradient):
  # Descent subtracts the gradient.
  leaves = (value > high) & (gradient < 0) | (value < low) & (gradient > 0)
  return (jnp.where(leaves, 0.0, gradient),)


kept_in.defvjp(_kept_in_forward, _kept_in_backward)


def sample(key: Key, gaussian: Gaussian) -> Array:
  """One reparameterised draw, `[..., Z]`."""
  noise = jax.random.normal(key, gaussian.mean.shape, gaussian.mean.dtype)
  return gaussian.mean + jnp.exp(gaussian.logvar / 2) * noise


def log_prob(gaussian: Gaussian, value: Array) -> Array:
  """Log-density in nats, summed over the last axis."""
  squared = (value - gaussian.mean) ** 2 * jnp.exp(-gaussian.logvar)
  return -0.5 * jnp.sum(
    squared + gaussian.logvar + math.log(2 * math.pi), axis=-1
  )


def kl(posterior: Gaussian, prior: Gaussian) -> Array:
  """KL(posterior || prior) in nats, summed over the last axis.

  With posterior N(m, exp(l)) and prior N(p, exp(lp)) it is
  1/2 sum_d [lp_d - l_d + (exp(l_d) + (m_d - p_d)^2) / exp(lp_d) - 1].

  Example:
    >>> kl(Gaussian(jnp.ones(2), jnp.zeros(2)), standard((2,)))
    Array(1., dtype=float32)
  """
  ratio = jnp.exp(posterior.logvar - prior.logvar)
  distance = (posterior.mean - prior.mean) ** 2 * jnp.exp(-prior.logvar)
  return 0.5 * jnp.sum(
    prior.logvar - posterior.logvar + ratio + distance - 1, axis=-1
  )
