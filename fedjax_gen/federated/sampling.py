"""Who takes part in a round.

A sampler is a function `(key, data) -> Cohort` of fixed size K, drawn inside
the compiled round from the round's own key. Indices are distinct, absent
slots included, because the clients' states are written back by index.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import validate
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.errors import InputError
from fedjax_gen.types import Array, Key


class Cohort(NamedTuple):
  """The clients of one round.

  Attributes:
    row: `[K]` int32 distinct rows of the population; NumPy's, if they are the
      same in every round.
    present: `[K]` bool, False for a slot that is not filled or a client that
      fails during the round.
    weight: `[K]` float32 weight in weighted means.
  """

  row: Array
  present: Array
  weight: Array


Sampler = Callable[[Key, FederatedDataset], Cohort]


def everyone() -> Sampler:
  """All clients, every round, in order."""

  def sample(key, data):
    del key  # nothing is random
    return _cohort(data, np.arange(data.num_clients, dtype=np.int32))

  return sample


def uniform(cohort_size: int) -> Sampler:
  """`cohort_size` clients without replacement, all equally likely.

  What a draw costs depends on the cohort, not on the population.

  Raises:
    InputError: `cohort_size` is not a whole number above zero; when first
      used, also if it exceeds the number of clients.
  """
  validate.positive_int(cohort_size=cohort_size)

  def sample(key, data):
    _check_fits(cohort_size, data)
    return _cohort(data, distinct(key, cohort_size, data.num_clients))

  return sample


def by_size(cohort_size: int) -> Sampler:
  """Without replacement, in proportion to size; those drawn count equally.

  Sampling already favours large clients, so weighting by size again would
  count it twice (Li et al., "On the convergence of FedAvg on non-IID data",
  2020, scheme I, which draws with replacement). Drawn by the Gumbel top-k
  trick; clients without examples come last.
  """
  validate.positive_int(cohort_size=cohort_size)

  def sample(key, data):
    _check_fits(cohort_size, data)
    scores = jnp.log(data.sizes) + jax.random.gumbel(key, data.sizes.shape)
    cohort = _cohort(data, _largest(scores, cohort_size))
    return cohort._replace(weight=(cohort.weight > 0).astype(jnp.float32))

  return sample


def poisson(rate: float, capacity: int | None = None) -> Sampler:
  """Each client by its own coin, as differential-privacy accounting assumes.

  Args:
    rate: probability of taking part.
    capacity: slots of a cohort; all clients by default. A round in which more
      than that are drawn leaves some out, so choose it generously.

  Raises:
    InputError: `rate` lies outside [0, 1], `capacity` is not above zero; when
      first used, also if it exceeds the number of clients.
  """
  validate.fraction(rate=rate)
  if capacity is not None:
    validate.positive_int(capacity=capacity)

  def sample(key, data):
    slots = data.num_clients if capacity is None else capacity
    _check_fits(slots, data)
    coin_key, order_key = jax.random.split(key)
    drawn = jax.random.bernoulli(coin_key, rate, data.sizes.shape)
    # Those drawn come first; ties in random order, so that a cohort too small
    # leaves out clients at random.
    scores = drawn + jax.random.uniform(order_key, data.sizes.shape)
    cohort = _cohort(data, _largest(scores, slots))
    return cohort._replace(present=drawn[cohort.row])

  return sample


def with_dropout(sampler: Sampler, rate: float) -> Sampler:
  """Lets each sampled client fail with probability `rate`.

  A client that fails contributes nothing and loses nothing: its state stays.
  """
  validate.fraction(dropout_rate=rate)

  def sample(key, data):
    sample_key, dropout_key = jax.random.split(key)
    cohort = sampler(sample_key, data)
    alive = jax.random.bernoulli(dropout_key, 1 - rate, cohort.present.shape)
    return cohort._replace(present=cohort.present & alive)

  return sample


def distinct(key: Key, count: int, population: int) -> Array:
  """`[count]` distinct rows of a population, all sets of them equally likely.

  Of a large population every slot draws by itself, and slots that repeat
  another draw again. Who draws again depends on which slots are equal and on
  nothing else; so no row is treated unlike another, and every tuple of
  distinct rows is as likely. A slot repeats another with a probability below
  one half, so that a few passes do. Of a small population the largest of one
  uniform number for each are taken, which costs no more there.

  Args:
    key: consumed.
    count: at most `population`.
    population: rows to choose from.
  """
  if population <= max(_FEW_CLIENTS, 2 * count):
    return _largest(jax.random.uniform(key, (population,)), count)
  return redrawn(key, count, population)


_FEW_CLIENTS = 4096
"""A population for which one draw for each client is nothing."""


def redrawn(key: Key, count: int, population: int) -> Array:
  """`distinct` by drawing repeated rows again."""

  def draw(carry):
    key, rows, is_open = carry
    key, draw_key = jax.random.split(key)
    drawn = jax.random.randint(draw_key, (count,), 0, population, jnp.int32)
    rows = jnp.where(is_open, drawn, rows)
    # Equal rows side by side, one that was settled before in front.
    order = jnp.lexsort((is_open, rows))
    ordered = rows[order]
    repeats = ordered == jnp.roll(ordered, 1)
    return key, rows, is_open.at[order].set(repeats.at[0].set(False))

  carry = (key, jnp.zeros(count, jnp.int32), jnp.ones(count, bool))
  return jax.lax.while_loop(lambda carry: carry[2].any(), draw, carry)[1]


def _cohort(data: FederatedDataset, index: Any) -> Cohort:
  """Everyone in `index`, weighted by number of examples."""
  weight = data.sizes[index].astype(jnp.float32)
  return Cohort(index, jnp.ones(index.shape, bool), weight)


def _largest(scores: Array, count: int) -> Array:
  return jax.lax.top_k(scores, count)[1].astype(jnp.int32)


def _check_fits(cohort_size: int, data: FederatedDataset) -> None:
  if cohort_size > data.num_clients:
    raise InputError(
      f'Expected cohort_size <= {data.num_clients}, the number of clients, '
      f'got cohort_size={cohort_size}.'
    )
