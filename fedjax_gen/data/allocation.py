"""How many examples of each class each client gets, and which.

Axis letters: C classes, N clients, n examples.
"""

import heapq

import numpy as np

_MAX_TRIES = 10
# Beyond this shares are equal to float precision, and near the largest float
# NumPy's draw loses them altogether.
_MAX_ALPHA = 1e12


def evenly(total: int, num_clients: int) -> np.ndarray:
  """Returns `[N]` counts that sum to `total` and differ by at most one.

  Example:
    >>> evenly(7, 3)
    array([3, 2, 2])
  """
  counts = np.full(num_clients, total // num_clients)
  counts[: total % num_clients] += 1
  return counts


def by_dirichlet(
  class_sizes: np.ndarray,
  num_clients: int,
  alpha: float,
  min_size: int,
  rng: np.random.Generator,
) -> tuple[np.ndarray, int]:
  """Splits each class by its own Dirichlet draw.

  Args:
    class_sizes: `[C]` examples per class; a class may have none.
    num_clients: N.
    alpha: Concentration, above zero.
    min_size: Fewest examples of a client, N * min_size <= n.
    rng: Source of the draws.

  Returns:
    `[C, N]` counts, and how many examples were moved after `_MAX_TRIES` draws
    had left a client below `min_size`.
  """
  concentration = np.full(num_clients, min(alpha, _MAX_ALPHA))
  for _ in range(_MAX_TRIES):
    counts = np.stack(
      [_by_shares(rng.dirichlet(concentration), size) for size in class_sizes]
    )
    if counts.sum(axis=0).min() >= min_size:
      return counts, 0
  return fill(counts, min_size)


def by_classes(
  class_sizes: np.ndarray,
  num_clients: int,
  classes: int,
  rng: np.random.Generator,
) -> tuple[np.ndarray, int]:
  """Gives each client up to `classes` classes, each split over its holders.

  Args:
    class_sizes: `[C]` examples per class, at least `classes` of them not 0.
    num_clients: N.
    classes: Classes per client.
    rng: Source of the draws.

  Returns:
    `[C, N]` counts, and how many examples were moved to clients that had none.
  """
  present = np.flatnonzero(class_sizes)
  num_holders = np.zeros(len(present))
  held = np.zeros((len(class_sizes), num_clients), bool)
  for client in range(num_clients):
    # Fewest holders first; the fraction breaks ties at random.
    ranks = num_holders + rng.random(len(present))
    chosen = np.argsort(ranks)[:classes]
    num_holders[chosen] += 1
    held[present[chosen], client] = True
  counts = np.zeros(held.shape, np.int64)
  for label in present:
    # In random order, so that the remainders do not all go to early clients.
    holders = rng.permutation(np.flatnonzero(held[label]))
    counts[label, holders] = evenly(class_sizes[label], len(holders))
  return fill(counts, min_size=1)


def fill(counts: np.ndarray, min_size: int) -> tuple[np.ndarray, int]:
  """Moves single examples from the largest clients to those below `min_size`.

  Deterministic, and always ends: while one client is below `min_size` and
  N * min_size <= n, the largest client is above it. A donor gives from its
  most frequent class.

  Args:
    counts: `[C, N]` counts.
    min_size: Fewest examples of a client.

  Returns:
    `[C, N]` new counts, and how many examples were moved.

  Example:
    >>> fill(np.array([[4, 0], [1, 0]]), min_size=1)
    (array([[3, 1], [1, 0]]), 1)
  """
  counts = counts.copy()
  sizes = counts.sum(axis=0)
  largest = [(-size, client) for client, size in enumerate(sizes)]
  heapq.heapify(largest)
  moved = 0
  for client in np.flatnonzero(sizes < min_size):
    for _ in range(min_size - sizes[client]):
      size, donor = largest[0]
      label = counts[:, donor].argmax()
      counts[label, donor] -= 1
      counts[label, client] += 1
      heapq.heapreplace(largest, (size + 1, donor))
      moved += 1
  return counts, moved


def rows(
  counts: np.ndarray, labels: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
  """Draws the rows that `counts` ask for.

  Args:
    counts: `[C, N]` counts; row c sums to the number of labels c.
    labels: `[n]` labels, None if C is one.
    rng: Source of the shuffle within each class.

  Returns:
    `[n]` rows, client after client.

  Example:
    >>> counts = np.array([[0, 1], [2, 0]])
    >>> order = rows(counts, np.array([1, 0, 1]), np.random.default_rng(0))
    >>> sorted(order[:2].tolist()), order[2]
    ([0, 2], np.int64(1))
  """
  order = rng.permutation(counts.sum())
  if labels is None:  # one class: client ranges of the shuffle are enough
    return order
  order = order[np.argsort(labels[order], kind='stable')]
  num_classes, num_clients = counts.shape
  owners = np.repeat(
    np.tile(np.arange(num_clients), num_classes), counts.ravel()
  )
  return order[np.argsort(owners, kind='stable')]


def _by_shares(shares: np.ndarray, total: int) -> np.ndarray:
  """Rounds `shares * total` to counts that sum to `total`."""
  cuts = np.rint(np.cumsum(shares[:-1]) * total).astype(np.int64)
  return np.diff(np.clip(cuts, 0, total), prepend=0, append=total)
