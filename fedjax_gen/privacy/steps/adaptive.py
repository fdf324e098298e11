"""A clipping norm that follows a quantile of the messages' norms, privately.

Andrew, Thakkar, McMahan and Ramaswamy, "Differentially private learning with
adaptive clipping", 2021, Algorithm 1. The norm of round t clips the messages
of round t; with its message a client says whether its norm was below, and
the noised share of those who were moves the norm of round t + 1.
"""

from collections.abc import Callable
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_gen import validate
from fedjax_gen.errors import InputError
from fedjax_gen.privacy import clipping, noise
from fedjax_gen.types import Array, Key, Tree


class Report(NamedTuple):
  """What a client sends, and, summed over clients, what the server sees.

  Attributes:
    message: clipped.
    below: one half if the norm was at most the bound, minus one half if not;
      about zero, so that a client moves the sum by one half and not by one.
  """

  message: Tree
  below: Array


class AdaptiveClipping(NamedTuple):
  """The pure functions of adaptive clipping.

  Attributes:
    init: `() -> max_norm`, the first bound.
    report: `(message, max_norm) -> Report`, of one client; sums of reports
      over the clients present (`aggregates.total`) are what the server takes.
    update: `(max_norm, sums, key) -> (mean, max_norm)`: the noised mean of the
      messages, and the bound of the next round.
    message_noise_multiplier: of the noise on the sum of messages alone,
      more than was asked for: the difference pays for the count.
  """

  init: Callable[[], Array]
  report: Callable[[Tree, Array], Report]
  update: Callable[[Array, Report, Key], tuple[Tree, Array]]
  message_noise_multiplier: float


def adaptive_clipping(
  noise_multiplier: float,
  expected_cohort: float,
  *,
  initial_norm: float = 0.1,
  quantile: float = 0.5,
  learning_rate: float = 0.2,
  count_stddev: float | None = None,
) -> AdaptiveClipping:
  """Adaptive clipping at the cost of one Gaussian mechanism a round.

  Guarantees:
    Released: in each round the sum of clipped messages, with noise, and the
      sum of `below`, with noise N(0, count_stddev^2); the next bound is made
      from the latter, and is public.
    Neighbouring: one client added or removed. Both sums are over the same
      sample of clients.
    Sensitivity: of the first sum the bound C, which is known before the round;
      of the second 1/2. Both together, each over its noise, are one Gaussian
      mechanism with 1 / z^2 = 1 / z_message^2 + 1 / (2 count_stddev)^2. The
      noise on messages is raised so that z is `noise_multiplier`: charge one
      event with that, nothing more, for a round (the paper's Theorem 1).

  Args:
    noise_multiplier: z, of the two releases together; 0 adds no noise at all,
      and is charged as infinity.
    expected_cohort: fixed denominator, sampling rate times population.
    initial_norm: the first C; the paper's is 0.1.
    quantile: the share of messages that should be below the bound.
    learning_rate: of the geometric updates; the paper's is 0.2.
    count_stddev: of the noise on the count; a twentieth of the cohort, as in
      the paper, if not given.

  Raises:
    InputError: an argument is out of range, or the count's noise alone would
      spend more than `noise_multiplier` allows (`2 * count_stddev` must
      exceed it).
  """
  validate.non_negative(noise_multiplier=noise_multiplier)
  validate.positive(
    expected_cohort=expected_cohort,
    initial_norm=initial_norm,
    learning_rate=learning_rate,
  )
  validate.fraction(quantile=quantile)
  if count_stddev is None:
    count_stddev = expected_cohort / 20
  validate.non_negative(count_stddev=count_stddev)
  if noise_multiplier == 0:
    count_stddev = message_noise = 0.0
  else:
    message_noise = _message_noise(noise_multiplier, count_stddev)

  def init():
    return jnp.asarray(initial_norm, jnp.float32)

  def report(message, max_norm):
    clipped, norm = clipping.clip(message, max_norm)
    # A norm that is not a number is not below anything.
    return Report(clipped, jnp.where(norm <= max_norm, 0.5, -0.5))

  def update(max_norm, sums, key):
    message_key, count_key = jax.random.split(key)
    mean = noise.noisy_mean(
      message_key,
      sums.message,
      max_norm=max_norm,
      noise_multiplier=message_noise,
      expected_size=expected_cohort,
    )
    count = sums.below + noise.gaussian(count_key, sums.below, count_stddev)
    share = count / expected_cohort + 0.5
    moved = max_norm * jnp.exp(-learning_rate * (share - quantile))
    return mean, moved

  return AdaptiveClipping(init, report, update, message_noise)


def _message_noise(noise_multiplier: float, count_stddev: float) -> float:
  """What is left for the messages of one Gaussian mechanism's privacy."""
  if 2 * count_stddev <= noise_multiplier:
    raise InputError(
      f'Expected count_stddev > noise_multiplier / 2 = {noise_multiplier / 2}, '
      f'got count_stddev={count_stddev!r}: the count alone would cost more '
      'than messages and count may together.'
    )
  return math.sqrt(1 / (noise_multiplier**-2 - (2 * count_stddev) ** -2))
