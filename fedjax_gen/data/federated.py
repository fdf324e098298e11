"""The federated data set: examples once, clients as index ranges.

A million clients cost two integers each and a permutation of the examples.
Nothing is copied per client: a client's batch is gathered inside the compiled
round, at the step that uses it. Examples lie on the device, or, where rounds
are streamed (`fedjax_gen.streaming`), on the host or in a file.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import validate
from fedjax_gen.data.partition import Partition
from fedjax_gen.errors import InputError
from fedjax_gen.types import Array, Key


class Batch(NamedTuple):
  """Examples of one step.

  Attributes:
    inputs: `[B, ...]` as stored: uint8 images or float32 features.
    labels: `[B]` int32.
    mask: `[B]` bool, False where the row is padding and must not count.
  """

  inputs: Array
  labels: Array
  mask: Array


class ClientData(NamedTuple):
  """What one client can see: its own rows of the shared examples.

  Made inside a traced function by `FederatedDataset.client`.

  Attributes:
    inputs: `[n, ...]` examples of all clients; a client reads its rows only.
    labels: `[n]`.
    order: `[m]` rows of the examples, client after client.
    offset: scalar, where this client's rows begin in `order`.
    size: scalar, how many they are.
    min_size: the smallest size of any client of the data set (static).
    max_size: the largest (static); shapes are laid out for it.
  """

  inputs: Array
  labels: Array
  order: Array
  offset: Array
  size: Array
  min_size: int
  max_size: int

  def steps_per_epoch(self, batch_size: int) -> int | Array:
    """Steps of one pass; a Python number if it is the same for all clients."""
    fewest, most = (
      -(-size // batch_size) for size in (self.min_size, self.max_size)
    )
    return most if fewest == most else -(-self.size // batch_size)

  def shuffled(self, key: Key) -> Array:
    """`[max_size]` positions; the first `size` are a permutation."""
    slots = jnp.arange(self.max_size)
    draws = jax.random.uniform(key, (self.max_size,))
    return jnp.argsort(jnp.where(slots < self.size, draws, jnp.inf))

  def batch(
    self, positions: Array, step: int | Array, batch_size: int
  ) -> Batch:
    """The `step`-th batch of a pass in the order that `positions` gives."""
    slots = step * batch_size + jnp.arange(batch_size)
    mask = slots < self.size
    return self._at(positions[jnp.minimum(slots, self.max_size - 1)], mask)

  def everything(self) -> Batch:
    """All of this client's examples, `[max_size]` rows with their mask."""
    slots = jnp.arange(self.max_size)
    return self._at(slots, slots < self.size)

  def _at(self, positions: Array, mask: Array) -> Batch:
    # Padding reads the client's own first row, or, if it has none, a row that
    # the mask hides: never out of bounds, never NaN.
    slots = self.offset + jnp.where(mask, positions, 0)
    rows = self.order[jnp.minimum(slots, self.order.size - 1)]
    return Batch(self.inputs[rows], self.labels[rows], mask)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FederatedDataset:
  """Examples once, clients as ranges of a permutation.

  Arrays are JAX's, on the device, or all of them NumPy's, on the host.

  Attributes:
    inputs: `[n, ...]` uint8 images or float32 features.
    labels: `[n]` int32.
    order: `[m]` int32 rows of the examples, client after client.
    offsets: `[N]` int32 start of each client's range in `order`.
    sizes: `[N]` int32 number of examples of each client; zero is allowed.
    groups: `[N]` int32 group of each client; zeros where there are none.
    min_size: smallest entry of `sizes` (static: shapes depend on it).
    max_size: largest.
  """

  inputs: Array
  labels: Array
  order: Array
  offsets: Array
  sizes: Array
  groups: Array
  min_size: int = dataclasses.field(metadata={'static': True})
  max_size: int = dataclasses.field(metadata={'static': True})

  @property
  def num_clients(self) -> int:
    """N."""
    return self.sizes.shape[0]

  @property
  def is_on_host(self) -> bool:
    """Whether the arrays are NumPy's; `inputs` may be a file's (`memmap`)."""
    return isinstance(self.inputs, np.ndarray)

  def on_device(self) -> 'FederatedDataset':
    """The same data set with its arrays on the device."""
    return jax.tree.map(jnp.asarray, self)

  def client(self, index: Array) -> ClientData:
    """The data of one client (a traced scalar index)."""
    return ClientData(
      self.inputs,
      self.labels,
      self.order,
      self.offsets[index],
      self.sizes[index],
      self.min_size,
      self.max_size,
    )

  def select(self, clients: np.ndarray) -> 'FederatedDataset':
    """The data set of a subset of clients, sharing the examples.

    Args:
      clients: indices of the clients to keep, for instance those of one
        fleet.
    """
    clients = np.asarray(clients)
    if (
      clients.size == 0
      or not ((clients >= 0) & (clients < self.num_clients)).all()
    ):
      raise InputError(
        f'Expected clients to be indices in [0, {self.num_clients}), got '
        f'{clients.tolist()}.'
      )
    sizes = np.asarray(self.sizes)[clients]
    return dataclasses.replace(
      self,
      offsets=self.offsets[clients],
      sizes=self.sizes[clients],
      groups=self.groups[clients],
      min_size=int(sizes.min()),
      max_size=max(int(sizes.max()), 1),
    )

  def merged(self) -> 'FederatedDataset':
    """One client that holds the data of all: what central training sees."""
    order = np.asarray(self.order)
    ranges = zip(np.asarray(self.offsets), np.asarray(self.sizes), strict=True)
    rows = np.concatenate(
      [order[start : start + size] for start, size in ranges]
    )
    size = len(rows)
    return dataclasses.replace(
      self,
      order=jnp.asarray(rows),
      offsets=jnp.zeros(1, jnp.int32),
      sizes=jnp.full(1, size, jnp.int32),
      groups=jnp.zeros(1, jnp.int32),
      min_size=size,
      max_size=max(size, 1),
    )


def federated_dataset(
  inputs: np.ndarray,
  labels: np.ndarray,
  partition: Partition,
  *,
  on_host: bool = False,
) -> FederatedDataset:
  """Places examples on the device and lays the clients over them.

  Args:
    inputs: `[n, ...]` uint8 images or float32 features.
    labels: `[n]` whole numbers.
    partition: which rows belong to which client.
    on_host: whether to leave everything where it is, for streamed rounds;
      `inputs` may then be a `np.memmap` larger than memory.

  Raises:
    InputError: there is no example or no client, no client has any, lengths
      differ, or the partition names rows that do not exist.

  Example:
    >>> from fedjax_gen.data import partition
    >>> halves = partition.iid(6, 2, seed=0)
    >>> data = federated_dataset(np.zeros((6, 4), np.float32),
    ...                          np.zeros(6, np.int32), halves)
    >>> data.num_clients, data.max_size
    (2, 3)
  """
  validate.positive_int(num_examples=len(inputs))
  if len(inputs) != len(labels):
    raise InputError(
      'Expected as many labels as inputs, got '
      f'{len(labels)} labels and {len(inputs)} inputs.'
    )
  order = np.asarray(partition.order, np.int32)
  if order.size and not 0 <= order.min() <= order.max() < len(inputs):
    raise InputError(
      f'Expected partition.order to name rows in [0, {len(inputs)}), got '
      f'rows from {order.min()} to {order.max()}.'
    )
  sizes = np.asarray(partition.sizes, np.int32)
  validate.positive_int(num_clients=len(sizes), num_rows=order.size)
  if sizes.min() < 0 or sizes.sum() != order.size:
    raise InputError(
      f'Expected partition.sizes to be sizes that sum to its {order.size} '
      f'rows, got {sizes.sum()} with a smallest size of {sizes.min()}.'
    )
  if len(partition.groups) != len(sizes):
    raise InputError(
      f'Expected a group for each of {len(sizes)} clients, got '
      f'{len(partition.groups)}.'
    )
  arrays: dict[str, Any] = {
    'inputs': np.asanyarray(inputs) if on_host else inputs,
    'labels': np.asarray(labels, np.int32),
    'order': order,
    'offsets': np.asarray(np.cumsum(sizes) - sizes, np.int32),
    'sizes': sizes,
    'groups': np.asarray(partition.groups, np.int32),
  }
  data = FederatedDataset(
    **arrays, min_size=int(sizes.min()), max_size=max(int(sizes.max()), 1)
  )
  return data if on_host else data.on_device()
