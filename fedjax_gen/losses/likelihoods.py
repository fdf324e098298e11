"""What the decoder's outputs say about a pixel: p(x | z).

A likelihood is a value of pure functions. Data x lie in [0, 1]; decoder
outputs are real numbers, `[..., C * outputs_per_value]` for data `[..., C]`.
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import validate
from fedjax_gen.errors import InputError
from fedjax_gen.kinds import Block, DataSpec
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
    num_scales: log-scales that the decoder gives next to them, in the last
      places, which no latent decides; see `decoders.LearnedScales`.
    generated: `(key, outputs) -> data`, what a generated example is; None for
      `mean`, the noise-free picture.
  """

  log_prob: Callable[[Array, Array], Array]
  mean: Callable[[Array], Array]
  sample: Callable[[Key, Array], Array]
  outputs_per_value: int
  name: str
  num_scales: int = 0
  generated: Callable[[Key, Array], Array] | None = None


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


def mixed(layout: Sequence[Block], *, draws_numbers: bool) -> Likelihood:
  """A density for each block of the last axis: columns, or channels.

  A number is Gaussian with a scale that is learned for its place, over all
  examples; numbers that were not observed count nothing. A category is one of
  its values by a softmax, a flag is Bernoulli. Outputs are `[..., F + S]`, F
  places and S log-scales, those of numbers in their order.

  Args:
    layout: blocks of the last axis, F places in all.
    draws_numbers: whether generated numbers are draws, as in rows of a table,
      or means, which leave out the noise of a series. Categories and flags are
      drawn.

  Raises:
    InputError: the layout has no block, a size is not above zero, or a flag is
      no place of a flag.

  Example:
    >>> layout = [Block('number'), Block('category', 3)]
    >>> likelihood = mixed(layout, draws_numbers=True)
    >>> data = jnp.array([[0.0, 0.0, 1.0, 0.0]])  # 4 places, and 1 log-scale
    >>> float(likelihood.log_prob(jnp.zeros((1, 5)), data)[0])
    -2.01...
  """
  parts = _parts(layout)
  return Likelihood(
    parts.log_prob,
    parts.mean,
    functools.partial(parts.drawn, with_noise=True),
    1,
    'mixed',
    len(parts.numbers),
    functools.partial(parts.drawn, with_noise=draws_numbers),
  )


class _Parts(NamedTuple):
  """Where the blocks of a layout lie.

  Attributes:
    numbers: places of numbers.
    observed: of each number the place of its flag, or -1.
    flags: places of flags.
    categories: where each begins and ends.
    size: places in all.
  """

  numbers: tuple[int, ...]
  observed: tuple[int, ...]
  flags: tuple[int, ...]
  categories: tuple[tuple[int, int], ...]
  size: int

  def log_prob(self, outputs, data):
    total = jnp.zeros(data.shape[0])
    if self.numbers:
      at, flags = np.asarray(self.numbers), np.asarray(self.observed)
      log_scale = self._log_scale(outputs)
      error = (data[..., at] - outputs[..., at]) * jnp.exp(-log_scale)
      density = -0.5 * (error**2 + math.log(2 * math.pi)) - log_scale
      total += _sum(density * jnp.where(flags < 0, 1.0, data[..., flags]))
    for low, high in self.categories:
      log_shares = jax.nn.log_softmax(outputs[..., low:high])
      total += _sum(log_shares * data[..., low:high])
    if self.flags:
      at = np.asarray(self.flags)
      logits = outputs[..., at]
      total += _sum(data[..., at] * logits - jax.nn.softplus(logits))
    return total

  def mean(self, outputs):
    return self._with(
      outputs,
      outputs[..., np.asarray(self.numbers, int)],
      lambda _, logits: jax.nn.softmax(logits),
      jax.nn.sigmoid,
    )

  def drawn(self, key, outputs, with_noise):
    number_key, category_key, flag_key = jax.random.split(key, 3)
    numbers = outputs[..., np.asarray(self.numbers, int)]
    if with_noise:
      noise = jax.random.normal(number_key, numbers.shape, numbers.dtype)
      numbers += jnp.exp(self._log_scale(outputs)) * noise

    def category(index, logits):
      own_key = jax.random.fold_in(category_key, index)
      chosen = jax.random.categorical(own_key, logits)
      return jax.nn.one_hot(chosen, logits.shape[-1], dtype=logits.dtype)

    def flag(logits):
      drawn = jax.random.bernoulli(flag_key, jax.nn.sigmoid(logits))
      return drawn.astype(logits.dtype)

    return self._with(outputs, numbers, category, flag)

  def _with(self, outputs, numbers, category, flag):
    """Data with these numbers, and functions of logits for the rest."""
    data = outputs[..., : self.size]
    data = data.at[..., np.asarray(self.numbers, int)].set(numbers)
    for index, (low, high) in enumerate(self.categories):
      data = data.at[..., low:high].set(category(index, data[..., low:high]))
    at = np.asarray(self.flags, int)
    return data.at[..., at].set(flag(data[..., at]))

  def _log_scale(self, outputs):
    # From a thirtieth of a standard deviation: the density of a constant
    # column would else have no bound.
    return kept_in(outputs[..., self.size :], -3.5, 1.5)


def _parts(layout: Sequence[Block]) -> _Parts:
  """Places of blocks that follow each other."""
  numbers, observed, flags, categories, start = [], [], [], [], 0
  for block in layout:
    validate.one_of(('number', 'category', 'flag'), block=block.kind)
    validate.positive_int(size=block.size)
    if block.kind == 'number':
      numbers.append(start)
      observed.append(block.flag)
    elif block.kind == 'flag':
      flags.append(start)
    else:
      categories.append((start, start + block.size))
    start += block.size
  if not start or not set(observed) <= {-1, *flags}:
    raise InputError(
      'Expected a layout of blocks, numbers with -1 or the place of a flag, '
      f'got {tuple(layout)}.'
    )
  return _Parts(
    tuple(numbers), tuple(observed), tuple(flags), tuple(categories), start
  )


NAMES = ('bernoulli', 'gaussian', 'discretised_logistic', 'mixed')
"""Those of `by_name`."""


def by_name(name: str, *, stddev: float, spec: DataSpec) -> Likelihood:
  """The likelihood a configuration names.

  Args:
    name: one of `NAMES`.
    stddev: of the Gaussian.
    spec: of the data.

  Raises:
    InputError: the name is unknown or does not fit the kind of the data, or
      `stddev` is not above zero.
  """
  kind = spec.kind
  validate.one_of(NAMES, likelihood=name)
  if name not in kind.likelihoods:
    fitting = ' or '.join(map(repr, kind.likelihoods))
    raise InputError(
      f'Expected likelihood={fitting} for {kind.name}, got likelihood={name!r}.'
    )
  builders: dict[str, Callable[[], Likelihood]] = {
    'bernoulli': bernoulli,
    'gaussian': lambda: gaussian(stddev, bounded=kind.is_bounded),
    'discretised_logistic': discretised_logistic,
    'mixed': lambda: mixed(spec.layout, draws_numbers=kind.trunk != 'series'),
  }
  return builders[name]()


def _sum(values: Array) -> Array:
  """Sums everything but the leading axis.

  As a product with ones: what is summed would be computed inside a reduction
  otherwise, one number after the other on CPU.
  """
  values = values.reshape(values.shape[0], -1)
  ones = jnp.ones(values.shape[1], values.dtype)
  return jnp.matmul(values, ones, precision=jax.lax.Precision.HIGHEST)
