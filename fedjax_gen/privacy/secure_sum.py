"""A SIMULATION of secure summation: right sums, and no security.

After Bonawitz et al., "Practical secure aggregation for privacy-preserving
machine learning", 2017: messages become whole numbers modulo a power of two,
every pair of clients shares a mask that one adds and the other subtracts, and
the masks of clients that dropped out are taken off again. Here all masks come
from one seed in one process; there is no key agreement, no secret sharing and
no second mask against a server that lies about who dropped out. It shows what
the sum costs in precision and range, and that algorithms need the sum alone.
The protocol between machines, `deployment.masked_sum`, gives the same sums.

The sum is exact and is not private by itself: it needs noise as any sum does.
"""

from collections.abc import Collection, Sequence
import dataclasses
import math

import jax
import numpy as np

from fedjax_gen import validate
from fedjax_gen.errors import InputError
from fedjax_gen.types import Tree


@dataclasses.dataclass(frozen=True)
class FixedPoint:
  """Numbers as whole multiples of a resolution, modulo a power of two.

  Attributes:
    value_range: values lie in [-value_range, value_range].
    levels: whole numbers from 0 to `value_range`; the resolution is
      `value_range / levels`.
    max_clients: the most messages in a sum.
    modulus_bits: the modulus is 2 to this; at most 62.

  Raises:
    InputError: a field is out of range, or a sum of `max_clients` could wrap
      around the modulus, which would go unnoticed.
  """

  value_range: float
  levels: int
  max_clients: int
  modulus_bits: int = 32

  def __post_init__(self):
    validate.positive(value_range=self.value_range)
    validate.positive_int(
      levels=self.levels,
      max_clients=self.max_clients,
      modulus_bits=self.modulus_bits,
    )
    if self.modulus_bits > 62:
      raise InputError(
        f'Expected modulus_bits <= 62, got modulus_bits={self.modulus_bits}.'
      )
    if 2 * self.levels * self.max_clients >= self.modulus:
      raise InputError(
        f'Expected sums within 2^{self.modulus_bits}, got levels='
        f'{self.levels} and max_clients={self.max_clients}: '
        f'{2 * self.levels * self.max_clients + 1} sums are possible.'
      )

  @property
  def modulus(self) -> int:
    """2 to the modulus bits."""
    return 1 << self.modulus_bits

  @property
  def resolution(self) -> float:
    """The distance of neighbouring numbers."""
    return self.value_range / self.levels

  def encode(self, values: np.ndarray) -> np.ndarray:
    """The nearest multiples, as int64 in [-levels, levels].

    Raises:
      InputError: a value is not finite or out of range. To clip it silently
        would make the sum another one.
    """
    values = np.asarray(values, np.float64)
    largest = np.abs(values).max(initial=0.0)
    if not largest <= self.value_range:  # NaN fails too
      raise InputError(
        f'Expected values in [-{self.value_range}, {self.value_range}], got '
        f'one of size {largest}.'
      )
    return np.rint(values / self.resolution).astype(np.int64)

  def decode(self, total: np.ndarray) -> np.ndarray:
    """A sum modulo the modulus, back to float64."""
    half = self.modulus // 2
    signed = (np.asarray(total, np.int64) + half) % self.modulus - half
    return signed * self.resolution

  def sensitivity(self, max_norm: float, num_values: int) -> float:
    """L2 bound of an encoded message with a norm of at most `max_norm`.

    Rounding moves every value by half a resolution at most.

    Guarantees:
      Released: nothing. A sum of encoded messages of `num_values` values has
        this sensitivity, if one client is added or removed; noise in
        proportion to `max_norm` alone falls short of its multiplier.
    """
    validate.non_negative(max_norm=max_norm)
    validate.positive_int(num_values=num_values)
    return max_norm + math.sqrt(num_values) * self.resolution / 2


def masked(
  number: FixedPoint,
  encoded: np.ndarray,
  client: int,
  clients: Collection[int],
  seed: int,
) -> np.ndarray:
  """What one client sends: its numbers plus the masks shared with others.

  Guarantees:
    Released: uniform modulo the modulus, whatever was encoded, to one who
      knows no mask shared between this client and another. With `clients`
      being one alone there is no mask. Simulated: who knows `seed` knows all.

  Args:
    number: the representation.
    encoded: `[d]` int64.
    client: who sends.
    clients: all who agreed on masks, `client` among them.
    seed: of all masks of this sum; another for every sum.
  """
  total = encoded.astype(np.int64) % number.modulus
  for other in clients:
    if other != client:
      mask = _mask(number, client, other, seed, encoded.size)
      total = (total + (mask if client < other else -mask)) % number.modulus
  return total


def secure_sum(
  number: FixedPoint,
  messages: Sequence[Tree],
  *,
  seed: int,
  dropped: Collection[int] = (),
) -> Tree:
  """The sum of messages as the server would come to know it.

  Clients are numbered by their place. Everyone agrees on masks with everyone;
  those who drop out do so before sending. Survivors then disclose the masks
  they shared with those, and the server takes them off.

  Guarantees:
    Released: exactly the sum of the survivors' encoded messages, which differs
      from the sum of their messages by half a resolution a client at most.
      Neither who sent a message, nor a message by itself, if two or more
      survive. No differential privacy.
    Sensitivity: `FixedPoint.sensitivity` for messages clipped before.

  Args:
    number: the representation.
    messages: one tree a client, all alike, those who drop out included.
    seed: of the masks.
    dropped: places of clients that sent nothing.

  Returns:
    The sum, float64 arrays.

  Raises:
    InputError: there are more messages than `number` allows or none, a place
      does not exist, nobody survives, or a value is out of range.
  """
  clients = range(len(messages))
  if not 0 < len(messages) <= number.max_clients:
    raise InputError(
      f'Expected between 1 and max_clients={number.max_clients} messages, got '
      f'{len(messages)}.'
    )
  gone = set(dropped)
  survivors = [client for client in clients if client not in gone]
  if not survivors or not gone <= set(clients):
    raise InputError(
      f'Expected dropped to name some of {len(messages)} clients and not all, '
      f'got {sorted(gone)}.'
    )
  structure = jax.tree.structure(messages[0])
  shapes = [np.shape(leaf) for leaf in jax.tree.leaves(messages[0])]
  total = np.zeros(sum(math.prod(shape) for shape in shapes), np.int64)
  for client in survivors:
    encoded = number.encode(_flat(messages[client]))
    sent = masked(number, encoded, client, clients, seed)
    total = (total + sent) % number.modulus
  for client in survivors:
    for other in gone:
      mask = _mask(number, client, other, seed, total.size)
      total = (total - (mask if client < other else -mask)) % number.modulus
  parts = np.split(
    number.decode(total), np.cumsum([math.prod(shape) for shape in shapes])[:-1]
  )
  arrays = [
    part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)
  ]
  return jax.tree.unflatten(structure, arrays)


def _flat(tree: Tree) -> np.ndarray:
  leaves = [np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)]
  return np.concatenate(leaves).astype(np.float64)


def _mask(
  number: FixedPoint, client: int, other: int, seed: int, size: int
) -> np.ndarray:
  """The mask of a pair, the same for both."""
  pair = [seed, min(client, other), max(client, other)]
  return np.random.default_rng(pair).integers(
    number.modulus, size=size, dtype=np.int64
  )
