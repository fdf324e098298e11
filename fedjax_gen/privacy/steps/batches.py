"""Poisson batches of one client's records, in shapes that do not change.

Accountants amplify by the law of the sample: every record by its own coin. A
shuffled pass has another law and gets no amplification from it. For clients
there is `federated.sampling.poisson`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from fedjax_gen import validate
from fedjax_gen.data.federated import Batch, ClientData
from fedjax_gen.errors import InputError
from fedjax_gen.types import Array, Key


class PoissonBatch(NamedTuple):
  """The records of one step.

  Attributes:
    batch: `[capacity]` rows, the mask True for records that were drawn.
    left_out: int32 scalar, records drawn for which there was no room.
  """

  batch: Batch
  left_out: Array


def poisson_batch(
  key: Key,
  data: ClientData,
  sampling_probability: float | Array,
  capacity: int,
) -> PoissonBatch:
  """Each record of a client by its own coin, in at most `capacity` rows.

  If more are drawn than there is room for, a uniformly random part of them is
  kept. That is another law than Poisson's, and it must be accounted for, in
  one of two ways: charge `events.truncated_poisson_gaussian`, which knows the
  capacity and holds whatever it is; or choose the capacity by `capacity_for`,
  charge `events.poisson_gaussian` and add `overflow_delta` to delta.

  Guarantees:
    Released: nothing. How many records were drawn, and so the mask and
      `left_out`, is data: divide by the expected size, not by their number.
    Neighbouring: one record added or removed. A record's coin depends on
      nothing but the key, so the others' draws have the same law without it.

  Args:
    key: consumed.
    data: the client's records.
    sampling_probability: q in [0, 1]; may be traced, as it is where clients
      of unequal sizes expect the same batch.
    capacity: rows of the batch.
  """
  if not isinstance(sampling_probability, jax.Array):
    validate.fraction(sampling_probability=sampling_probability)
  validate.positive_int(capacity=capacity)
  coin_key, order_key = jax.random.split(key)
  shape = (data.max_size,)
  drawn = jax.random.bernoulli(coin_key, sampling_probability, shape)
  drawn &= jnp.arange(data.max_size) < data.size
  # Those drawn come first, in random order, so that those left out are random.
  scores = drawn + jax.random.uniform(order_key, shape)
  positions = jax.lax.top_k(scores, data.max_size)[1]
  count = drawn.sum()
  batch = data.batch(positions, 0, capacity)
  mask = batch.mask & (jnp.arange(capacity) < count)
  left_out = jnp.maximum(count - capacity, 0).astype(jnp.int32)
  return PoissonBatch(batch._replace(mask=mask), left_out)


def overflow_probability(
  num_records: int, sampling_probability: float, capacity: int
) -> float:
  """Probability that one Poisson draw exceeds `capacity`.

  Guarantees:
    Released: nothing; exact for the law of the draw, whatever the records.
  """
  validate.non_negative_int(num_records=num_records)
  validate.fraction(sampling_probability=sampling_probability)
  validate.positive_int(capacity=capacity)
  return float(stats.binom.sf(capacity, num_records, sampling_probability))


def capacity_for(
  num_records: int,
  sampling_probability: float,
  steps: int,
  *,
  overflow: float = 1e-12,
) -> int:
  """The smallest capacity that is rarely exceeded in a whole run.

  Guarantees:
    Released: nothing but n, which the capacity depends on. With
      probability 1 - `overflow` no draw of the run is truncated; what the
      rest costs says `overflow_delta`.

  Args:
    num_records: n.
    sampling_probability: q.
    steps: T, draws in the run.
    overflow: bound on the probability that any of them exceeds the capacity.

  Returns:
    A capacity of at least 1; n, at most.
  """
  validate.positive_int(num_records=num_records, steps=steps)
  validate.fraction(sampling_probability=sampling_probability)
  if not 0 < overflow < 1:
    raise InputError(f'Expected 0 < overflow < 1, got overflow={overflow!r}.')
  least = stats.binom.isf(overflow / steps, num_records, sampling_probability)
  capacity = max(int(least), 1)
  # The quantile function is not exact so far out; the tail is.
  while (
    overflow_probability(num_records, sampling_probability, capacity) * steps
    > overflow
  ):
    capacity += 1
  return min(capacity, num_records)


def overflow_delta(
  epsilon: float,
  num_records: int,
  sampling_probability: float,
  capacity: int,
  steps: int,
) -> float:
  """What truncation adds to delta if it was accounted as Poisson sampling.

  Guarantees:
    Neighbouring: one record added to, or removed from, `num_records`.
    A run with truncation differs from one without only if a draw overflows,
    which has probability p of at most `steps` times that of one draw, on the
    larger of the two data sets. If the one without is (epsilon, delta)-DP,
    the one with is (epsilon, delta + (1 + e^epsilon) p)-DP: each of the two
    outputs is within p of its ideal in total variation.

  Args:
    epsilon: of the run without truncation.
    num_records: n; the bound is taken with n + 1.
    sampling_probability: q.
    capacity: rows of a batch.
    steps: T.
  """
  validate.non_negative(epsilon=epsilon)
  validate.positive_int(steps=steps)
  once = overflow_probability(num_records + 1, sampling_probability, capacity)
  return min(float((1 + np.exp(epsilon)) * steps * once), 1.0)
