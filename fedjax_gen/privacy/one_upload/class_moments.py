"""Sums over classes, released once: counts, first and second moments.

Sums add up over records, clients and blocks of clients, so that they can be
summed securely. One record touches one class, in three parts that are clipped
together; see `contribution`.
"""

import functools
import math

import jax
import jax.numpy as jnp

from fedjax_gen import trees, validate
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.federated.statistics.class_sums import ClassSums
from fedjax_gen.privacy import noise
from fedjax_gen.types import Array, Key

# Squares of features with mean square 1 that are about Gaussian have a norm of
# sqrt(3 F); few have one beyond this multiple of sqrt(F).
_SQUARES_BOUND = 2.0
# A class that nobody holds has a count beyond so many standard deviations of
# the noise once in 30,000 releases.
_LEVELS = 4.0
_LEAST = 1e-3  # without noise; counts of clients that count alike are shares


def class_sums(
  key: Key,
  data: FederatedDataset,
  num_classes: int,
  *,
  noise_multiplier: float,
  unit: str = 'record',
  share: float = 1.0,
  rows: Array | None = None,
  before: ClassSums | None = None,
) -> ClassSums:
  """The sums over all clients; each adds noise to its own.

  `class_sums_by_client` has them apart.

  Guarantees:
    Released: the noised sums of every client; with a share below 1, their sum
      over clients alone.
    Neighbouring: unit=record: one record added or removed. unit=client: one
      client added or removed; each sends means over its records in place of
      sums, so that clients count alike and `counts` are expected shares.
    Sensitivity: 1 in units where the three parts of a record have norm 1
      together. Charge `events.gaussian(noise_multiplier)`.

  Args:
    key: consumed.
    data: the clients; features of mean square about 1 (`sqrt(F)` is the bound
      on their norm; longer ones are clipped).
    num_classes: C.
    noise_multiplier: noise over sensitivity; 0 for none.
    unit: record or client.
    share: of the noise's standard deviation that each client adds, for
      instance `1 / sqrt(N)`; see `noise.placement`.
    rows: `[N]` of the clients in a larger population, by which they draw their
      noise; by default `data` are all.
    before: what the clients before these added up to, to go on from.
  """
  _check(num_classes, noise_multiplier, unit)
  stddev = jnp.asarray(noise_multiplier * share)
  if before is None:
    before = _nothing(data, num_classes)
  return _class_sums(
    key, data, _rows(data, rows), before, num_classes, unit, stddev
  )


def class_sums_by_client(
  key: Key,
  data: FederatedDataset,
  num_classes: int,
  *,
  noise_multiplier: float,
  unit: str = 'record',
  rows: Array | None = None,
) -> ClassSums:
  """What `class_sums` adds up, one row a client: leaves `[N, ...]`.

  Guarantees:
    Released: the noised sums of every client by itself, and hence how many
      records of each class it holds, with noise. Otherwise as `class_sums`
      with a share of 1; the sum over clients of the result is its result.

  Args:
    key: consumed.
    data: see `class_sums`.
    num_classes: C.
    noise_multiplier: noise over sensitivity; 0 for none.
    unit: record or client.
    rows: see `class_sums`.
  """
  _check(num_classes, noise_multiplier, unit)
  stddev = jnp.asarray(noise_multiplier)
  return _sums_by_client(
    key, data, _rows(data, rows), num_classes, unit, stddev
  )


def contribution(features: Array, label: Array, num_classes: int) -> ClassSums:
  """What one record adds, of norm 1 at most, whatever it holds.

  Features are clipped to a norm of sqrt(F), their squares to 2 sqrt(F); each
  over its bound and over sqrt(3), as is the count.

  Args:
    features: `[F]`.
    label: its class.
    num_classes: C.
  """
  scales = _scales(features.size)
  member = jax.nn.one_hot(label, num_classes)
  parts = ClassSums(
    jnp.ones(()),
    _clipped(features / scales.first),
    _clipped(features**2 / scales.second),
  )
  return jax.tree.map(
    lambda part: (
      member.reshape(-1, *(1,) * part.ndim) * part[None] / jnp.sqrt(3.0)
    ),
    parts,
  )


def restored(sums: ClassSums) -> ClassSums:
  """Sums of contributions in units of counts and features, noise or not."""
  return jax.tree.map(
    lambda leaf, scale: leaf * scale * jnp.sqrt(3.0),
    sums,
    _scales(sums.first.shape[-1]),
  )


def count_stddev(stddev: float) -> float:
  """Of the noise on restored counts, if `stddev` is that on contributions."""
  return stddev * math.sqrt(3.0)


def least_count(
  noise_multiplier: float, num_clients: int, share: float = 1.0
) -> float:
  """The least count that tells a class from one that nobody holds.

  For `ClassSums.moments` of noised sums. Below it the noise may be all that
  there is, and a mean of noise over noise may be anything.

  Args:
    noise_multiplier: of `class_sums`.
    num_clients: over which the sums are; 1 for what one client released.
    share: of `class_sums`.
  """
  stddev = noise_multiplier * share * math.sqrt(num_clients)
  return least_noised(count_stddev(stddev))


def least_noised(stddev: float) -> float:
  """`_LEVELS` standard deviations of the noise on counts, above zero."""
  return max(_LEVELS * stddev, _LEAST)


def _check(num_classes: int, noise_multiplier: float, unit: str) -> None:
  validate.positive_int(num_classes=num_classes)
  validate.non_negative(noise_multiplier=noise_multiplier)
  validate.one_of(('record', 'client'), unit=unit)


def _rows(data, rows):
  return jnp.arange(data.num_clients) if rows is None else rows


def _nothing(data, num_classes) -> ClassSums:
  """The sums of nobody."""
  shape = (num_classes, data.inputs.shape[-1])
  return ClassSums(jnp.zeros(num_classes), jnp.zeros(shape), jnp.zeros(shape))


def _of_client(slot, row, key, data, num_classes, unit, stddev):
  """The noised sums of one client, in units of counts and features."""
  records = data.client(slot).everything()
  contributions = jax.vmap(contribution, (0, 0, None))(
    records.inputs.astype(jnp.float32), records.labels, num_classes
  )
  sums = trees.weighted_sum(contributions, records.mask.astype(jnp.float32))
  if unit == 'client':
    size = jnp.maximum(records.mask.sum(), 1)
    sums = jax.tree.map(lambda leaf: leaf / size, sums)
  drawn = noise.gaussian(jax.random.fold_in(key, row), sums, stddev)
  return restored(trees.add(sums, drawn))


@functools.partial(jax.jit, static_argnames=('num_classes', 'unit'))
def _sums_by_client(key, data, rows, num_classes, unit, stddev):
  def of_client(client):
    slot, row = client
    return _of_client(slot, row, key, data, num_classes, unit, stddev)

  return jax.lax.map(of_client, (jnp.arange(data.num_clients), rows))


@functools.partial(jax.jit, static_argnames=('num_classes', 'unit'))
def _class_sums(key, data, rows, before, num_classes, unit, stddev):
  def step(total, client):
    slot, row = client
    sums = _of_client(slot, row, key, data, num_classes, unit, stddev)
    return trees.add(total, sums), None

  clients = jnp.arange(data.num_clients), rows
  return jax.lax.scan(step, before, clients)[0]


def _scales(num_features: int) -> ClassSums:
  """Bounds of the three parts of a record."""
  root = jnp.sqrt(jnp.asarray(num_features, jnp.float32))
  return ClassSums(jnp.ones(()), root, _SQUARES_BOUND * root)


def _clipped(vector: Array) -> Array:
  """Scaled to a norm of 1 at most; zero if it is not finite."""
  norm = jnp.sqrt(jnp.sum(vector**2))
  scaled = vector / jnp.maximum(norm, 1.0)
  return jnp.where(jnp.isfinite(norm), scaled, 0.0)
