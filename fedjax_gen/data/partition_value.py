"""`Partition`: which client holds which examples, as a value."""

from collections.abc import Sequence
import dataclasses
import functools
import os

import numpy as np

from fedjax_gen import files
from fedjax_gen.data.formats import npz
from fedjax_gen.errors import InputError

_FIELDS = ('order', 'sizes', 'groups', 'description')


@dataclasses.dataclass(frozen=True, eq=False)
class Partition:
  """Index ranges of clients in a reordering of the examples.

  Attributes:
    order: `[n]` int32 rows of the example arrays, client after client.
    sizes: `[N]` int32 examples per client, summing to n; zero is allowed.
    groups: `[N]` int32 group of each client, 0 where there are no groups.
    description: How it was made, for reports.

  Example:
    >>> p = Partition(np.array([2, 0, 1]), np.array([1, 2]), np.zeros(2), 'toy')
    >>> p.num_clients, p.offsets, p.rows(1)
    (2, array([0, 1]), array([0, 1]))
  """

  order: np.ndarray
  sizes: np.ndarray
  groups: np.ndarray
  description: str

  @property
  def num_clients(self) -> int:
    """N, the number of clients, empty ones included."""
    return len(self.sizes)

  @functools.cached_property
  def offsets(self) -> np.ndarray:
    """`[N]` where each client's range begins in `order`."""
    return np.cumsum(self.sizes, dtype=self.sizes.dtype) - self.sizes

  def rows(self, client: int) -> np.ndarray:
    """Returns the `[sizes[client]]` rows of one client."""
    start = self.offsets[client]
    return self.order[start : start + self.sizes[client]]

  def select(self, clients: np.ndarray) -> 'Partition':
    """The partition of some clients, numbered anew; rows keep their names.

    Args:
      clients: `[k]` their numbers.
    """
    chosen = [self.rows(client) for client in clients]
    return Partition(
      np.concatenate([self.order[:0], *chosen]),
      self.sizes[clients],
      self.groups[clients],
      f'{len(chosen)} clients of {self.description}',
    )

  def counts(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts examples per client and class.

    Args:
      labels: `[n]` labels of the examples, in [0, num_classes).
      num_classes: C.

    Returns:
      `[N, C]` int64 counts.

    Raises:
      InputError: A label is out of range, or the partition names rows that
        `labels` does not have.

    Example:
      >>> zeros = np.zeros(2, int)
      >>> p = Partition(np.array([2, 0, 1]), np.array([1, 2]), zeros, 'toy')
      >>> p.counts(np.array([0, 1, 1]), num_classes=2)
      array([[0, 1],
             [1, 1]])
    """
    labels = checked_ids('labels', labels)
    if len(self.order) and self.order.max() >= len(labels):
      raise InputError(
        f'Expected labels for row {self.order.max()}, got {len(labels)} '
        'labels: the partition belongs to other data.'
      )
    if labels.max() >= num_classes:
      raise InputError(
        f'Expected labels below num_classes={num_classes}, got {labels.max()}.'
      )
    owners = np.repeat(np.arange(self.num_clients), self.sizes)
    cells = owners * num_classes + labels[self.order]
    table = np.bincount(cells, minlength=self.num_clients * num_classes)
    return table.reshape(self.num_clients, num_classes)

  def save(self, path: str | os.PathLike) -> None:
    """Writes an npz file that `load` reads back.

    Raises:
      InputError: The file cannot be written; an older one stays as it was.
    """
    try:
      with files.replacing(path) as partial, open(partial, 'wb') as file:
        np.savez(file, **{name: getattr(self, name) for name in _FIELDS})
    except OSError as error:
      raise InputError(
        f'{path}: the partition cannot be written: {error.strerror}.'
      ) from error

  @classmethod
  def load(
    cls, path: str | os.PathLike, *, is_layout: bool = False
  ) -> 'Partition':
    """Reads a partition that `save` wrote.

    Args:
      path: the file.
      is_layout: whether its sizes alone mean something, and rows may repeat.

    Raises:
      InputError: The file cannot be read or is no partition: a field is
        missing, sizes do not sum to the rows, a row is there twice.
    """
    arrays = npz.load_arrays(path, _FIELDS)
    missing = [name for name in _FIELDS if name not in arrays]
    if missing:
      raise InputError(
        f'{path}: expected a saved partition with {", ".join(_FIELDS)}, got '
        f'{", ".join(arrays) or "nothing"}.'
      )
    order, sizes, groups = (
      checked_ids(f'{path}: {name}', arrays[name]) for name in _FIELDS[:3]
    )
    if sizes.sum() != len(order) or len(groups) != len(sizes):
      raise InputError(
        f'{path}: expected sizes that sum to {len(order)} rows and a group '
        f'for each, got {len(sizes)} sizes with sum {sizes.sum()} and '
        f'{len(groups)} groups.'
      )
    for name, values in (('order', order), ('groups', groups)):
      if values.max() > np.iinfo(np.int32).max:
        raise InputError(
          f'{path}: expected {name} below 2**31, got {values.max()}.'
        )
    if not is_layout and len(np.unique(order)) != len(order):
      raise InputError(f'{path}: expected each row once, got rows twice.')
    return cls(
      order.astype(np.int32),
      sizes.astype(np.int32),
      groups.astype(np.int32),
      str(arrays['description']),
    )

  def plot(
    self,
    labels: np.ndarray,
    class_names: Sequence[str],
    path: str | os.PathLike,
  ) -> None:
    """Draws clients x classes as a picture file.

    Each column is a client: above its number of examples, below the share of
    every class in them. Of more than 1000 clients, 1000 evenly spaced ones are
    drawn.

    Args:
      labels: `[n]` labels of the examples.
      class_names: C names in label order.
      path: Where to write; the ending chooses the format, PNG for instance.

    Raises:
      InputError: As `counts`; the file cannot be written.
    """
    from fedjax_gen.data import partition_plot  # noqa: PLC0415, loads Matplotlib

    counts = self.counts(labels, len(class_names))
    partition_plot.draw(
      counts, self.groups, class_names, self.description, path
    )


def checked_ids(what: str, values: np.ndarray) -> np.ndarray:
  """Returns `[n]` whole numbers >= 0, n > 0, or raises naming `what`.

  Example:
    >>> checked_ids('labels', np.array([0.5]))
    Traceback (most recent call last):
    ...
    fedjax_gen.errors.InputError: Expected labels to be a list of whole \
numbers, got float64 of shape [1].
  """
  values = np.asarray(values)
  if values.ndim != 1 or not len(values) or values.dtype.kind not in 'iu':
    raise InputError(
      f'Expected {what} to be a list of whole numbers, got {values.dtype} of '
      f'shape {list(values.shape)}.'
    )
  if values.min() < 0:
    row = int(np.argmax(values < 0))
    raise InputError(f'Expected {what} >= 0, got {values[row]} in row {row}.')
  return values
