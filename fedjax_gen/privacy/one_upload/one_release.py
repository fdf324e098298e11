"""A sum over records that each client releases once, with Gaussian noise.

What is summed is a *statistic*: a function of a client's records, a sum over
them of parts that have a norm of 1 at most, whatever the record holds. So one
Gaussian mechanism is all there is, and what anyone computes afterwards from the
sum is post-processing. Sums of clients, and of blocks of clients, add up, so
that a secure summation serves as well.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp

from fedjax_gen import trees, validate
from fedjax_gen.data.federated import Batch, ClientData, FederatedDataset
from fedjax_gen.privacy import noise
from fedjax_gen.types import Array, Key, Tree

UNITS = ('record', 'client')

Statistic = Callable[[Array, Array, Array], Tree]
"""`(inputs [n, F], labels [n], mask [n]) -> sums`, in units of sensitivity.

A record that is masked in adds a tree of norm 1 at most, others nothing. It
must be hashable: equal ones are compiled once.
"""


def release(
  key: Key,
  data: FederatedDataset,
  statistic: Statistic,
  *,
  noise_multiplier: float,
  unit: str = 'record',
  share: float = 1.0,
  rows: Array | None = None,
  before: Tree | None = None,
) -> Tree:
  """The sum of a statistic over all clients; each adds noise.

  Guarantees:
    Released: the noised sums of every client; with a share below 1, their sum
      over clients alone.
    Neighbouring: unit=record: one record added or removed. unit=client: the
      data of one client added or removed, the client still taking part; each
      sends means over its records in place of sums.
    Sensitivity: 1, the most that a record adds to `statistic`. Charge
      `events.gaussian(noise_multiplier)`.

  Args:
    key: consumed.
    data: the clients.
    statistic: what is summed.
    noise_multiplier: noise over sensitivity; 0 for none.
    unit: record or client.
    share: of the noise's standard deviation that each client adds, for
      instance `1 / sqrt(N)`; see `noise.placement`.
    rows: `[N]` of the clients in a larger population, by which they draw their
      noise; by default `data` are all.
    before: what the clients before these added up to, to go on from.

  Returns:
    The sum, with noise of a standard deviation of `summed_stddev(...)`.
  """
  _check(noise_multiplier, unit)
  rows = jnp.arange(data.num_clients) if rows is None else rows
  if before is None:
    shapes = jax.eval_shape(functools.partial(_of_first, statistic), data)
    before = trees.zeros_like(shapes)
  stddev = jnp.asarray(noise_multiplier * share, jnp.float32)
  return _release(key, data, rows, before, stddev, statistic, unit)


def of_client(
  key: Key,
  data: ClientData,
  statistic: Statistic,
  *,
  stddev: float | Array,
  unit: str = 'record',
) -> Tree:
  """What one client releases, as `release` has it of each.

  Guarantees:
    As `release`, of one client; `stddev` is the noise on every value.
  """
  records = data.everything()
  sums = _of_records(statistic, records)
  if unit == 'client':
    size = jnp.maximum(records.mask.sum(), 1)
    sums = jax.tree.map(lambda leaf: leaf / size, sums)
  return trees.add(sums, noise.gaussian(key, sums, stddev))


def summed_stddev(
  noise_multiplier: float, num_clients: int, share: float = 1.0
) -> float:
  """Of the noise on the sum over so many clients."""
  return noise_multiplier * share * num_clients**0.5


def _check(noise_multiplier: float, unit: str) -> None:
  validate.non_negative(noise_multiplier=noise_multiplier)
  validate.one_of(UNITS, unit=unit)


def _of_records(statistic: Statistic, records: Batch) -> Tree:
  inputs = records.inputs.astype(jnp.float32)
  return statistic(inputs, records.labels, records.mask)


def _of_first(statistic: Statistic, data: FederatedDataset) -> Tree:
  return _of_records(statistic, data.client(jnp.int32(0)).everything())


@functools.partial(jax.jit, static_argnames=('statistic', 'unit'))
def _release(key, data, rows, before, stddev, statistic, unit):
  def step(total, client):
    slot, row = client
    sums = of_client(
      jax.random.fold_in(key, row),
      data.client(slot),
      statistic,
      stddev=stddev,
      unit=unit,
    )
    return trees.add(total, sums), None

  clients = jnp.arange(data.num_clients), rows
  return jax.lax.scan(step, before, clients)[0]
