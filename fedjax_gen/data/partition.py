"""Partitions of a data set over clients: iid, skewed, grouped, natural.

Each is a pure function of labels, groups or user ids and a seed to a
`Partition`, in which every example belongs to exactly one client. The same
seed gives the same partition.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from fedjax_gen import validate
from fedjax_gen.data import allocation
from fedjax_gen.data.partition_value import Partition, checked_ids
from fedjax_gen.errors import InputError

__all__ = [
  'Partition',
  'by_group',
  'classes_per_client',
  'dirichlet',
  'iid',
  'natural',
  'quantity_skew',
]


def iid(num_examples: int, num_clients: int, *, seed: int) -> Partition:
  """Deals shuffled examples evenly; sizes differ by at most one.

  Args:
    num_examples: n.
    num_clients: N, at most n.
    seed: Whole number >= 0.

  Example:
    >>> iid(7, 3, seed=0).sizes
    array([3, 2, 2], dtype=int32)
  """
  rng = _generator(seed)
  _check_clients(num_clients, num_examples)
  counts = allocation.evenly(num_examples, num_clients)[None]
  name = f'iid, {num_clients} clients, seed {seed}'
  return _partition(counts, None, rng, name)


def dirichlet(
  labels: np.ndarray,
  num_clients: int,
  *,
  alpha: float,
  seed: int,
  min_size: int = 1,
) -> Partition:
  """Deals each class by shares drawn from a symmetric Dirichlet.

  Small `alpha` gives clients few classes and unequal sizes; large `alpha`
  nears iid. Shares are drawn again, a bounded number of times, until every
  client has `min_size` examples; then the largest clients hand single
  examples, of their most frequent class, to those that still lack some.

  Args:
    labels: `[n]` labels of the examples, whole numbers >= 0.
    num_clients: N.
    alpha: Concentration, above zero.
    seed: Whole number >= 0.
    min_size: Fewest examples of a client; N * min_size is at most n.

  Reference:
    Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution
    for Federated Visual Classification", 2019, https://arxiv.org/abs/1909.06335
    (here classes are dealt to clients, as Yurochkin et al., 2019, do, so that
    every example is used).

  Example:
    >>> p = dirichlet(np.arange(100) % 10, 20, alpha=0.1, seed=0)
    >>> p.sizes.sum(), p.sizes.min()
    (np.int64(100), np.int32(1))
  """
  rng = _generator(seed)
  labels = checked_ids('labels', labels)
  validate.positive(alpha=alpha)
  validate.non_negative_int(min_size=min_size)
  _check_clients(num_clients, len(labels), min_size)
  counts, moved = allocation.by_dirichlet(
    np.bincount(labels), num_clients, alpha, min_size, rng
  )
  name = f'dirichlet(alpha={alpha}), {num_clients} clients, seed {seed}'
  return _partition(counts, labels, rng, name, moved)


def classes_per_client(
  labels: np.ndarray, num_clients: int, *, classes: int, seed: int
) -> Partition:
  """Gives each client examples of at most `classes` classes.

  Clients choose in turn the classes that fewest have chosen, at random among
  equals, so the numbers of holders differ by at most one however the division
  comes out. Each class is then dealt evenly to its holders: every example is
  used, and clients of frequent classes have more. A class with fewer examples
  than holders leaves some of them without it; a client left with nothing gets
  one example from the largest client.

  Args:
    labels: `[n]` labels of the examples, whole numbers >= 0.
    num_clients: N; N * classes is at least the number of classes present.
    classes: Classes per client, at most the number present.
    seed: Whole number >= 0.

  Example:
    >>> labels = np.arange(30) % 3
    >>> p = classes_per_client(labels, 4, classes=2, seed=0)
    >>> (p.counts(labels, 3) > 0).sum(axis=1)
    array([2, 2, 2, 2])
  """
  rng = _generator(seed)
  labels = checked_ids('labels', labels)
  validate.positive_int(classes=classes)
  _check_clients(num_clients, len(labels))
  class_sizes = np.bincount(labels)
  num_present = np.count_nonzero(class_sizes)
  if classes > num_present:
    raise InputError(
      f'Expected classes <= {num_present}, the number of classes in labels, '
      f'got classes={classes}.'
    )
  if num_clients * classes < num_present:
    raise InputError(
      f'Expected num_clients * classes >= {num_present}, so that every class '
      f'has a client, got num_clients={num_clients} and classes={classes}.'
    )
  counts, moved = allocation.by_classes(class_sizes, num_clients, classes, rng)
  name = f'{classes} classes per client, {num_clients} clients, seed {seed}'
  return _partition(counts, labels, rng, name, moved)


def quantity_skew(
  num_examples: int, num_clients: int, *, alpha: float, seed: int
) -> Partition:
  """Deals shuffled examples in unequal amounts, shares from a Dirichlet.

  Each client gets at least one example, as in `dirichlet`.

  Args:
    num_examples: n.
    num_clients: N, at most n.
    alpha: Concentration, above zero; small is unequal.
    seed: Whole number >= 0.

  Example:
    >>> p = quantity_skew(100, 4, alpha=0.5, seed=0)
    >>> p.sizes.sum(), p.sizes.min() >= 1
    (np.int64(100), np.True_)
  """
  rng = _generator(seed)
  validate.positive(alpha=alpha)
  _check_clients(num_clients, num_examples)
  counts, moved = allocation.by_dirichlet(
    np.array([num_examples]), num_clients, alpha, 1, rng
  )
  name = f'quantity skew(alpha={alpha}), {num_clients} clients, seed {seed}'
  return _partition(counts, None, rng, name, moved)


def by_group(
  groups: np.ndarray,
  clients_per_group: int | Sequence[int],
  *,
  seed: int,
  labels: np.ndarray | None = None,
  alpha: float | None = None,
) -> Partition:
  """Gives each group clients of its own, group after group.

  Args:
    groups: `[n]` group of each example, in [0, G).
    clients_per_group: Clients of every group, or one number for each.
    seed: Whole number >= 0.
    labels: `[n]` labels, needed with `alpha`.
    alpha: None deals a group's examples iid, a number as `dirichlet` does.

  Raises:
    InputError: An argument is out of range; a group has fewer examples than
      clients.

  Example:
    >>> p = by_group(np.array([0, 1, 1, 0, 1, 1]), [1, 2], seed=0)
    >>> p.groups, p.sizes
    (array([0, 1, 1], dtype=int32), array([2, 2, 2], dtype=int32))
  """
  rng = _generator(seed)
  groups = checked_ids('groups', groups)
  num_groups = int(groups.max()) + 1
  clients = _clients_of_groups(clients_per_group, num_groups)
  if alpha is None:
    labels = np.zeros(len(groups), np.int32)
  else:
    validate.positive(alpha=alpha)
    labels = _labels_for_alpha(labels, len(groups), alpha)
  orders, sizes, moved = [], [], 0
  for group, num_clients in enumerate(clients):
    rows = np.flatnonzero(groups == group)
    _check_clients(num_clients, len(rows), where=f' in group {group}')
    if alpha is None:
      counts, moves = allocation.evenly(len(rows), num_clients)[None], 0
    else:
      counts, moves = allocation.by_dirichlet(
        np.bincount(labels[rows]), num_clients, alpha, 1, rng
      )
    orders.append(rows[allocation.rows(counts, labels[rows], rng)])
    sizes.append(counts.sum(axis=0))
    moved += moves
  kind = 'iid' if alpha is None else f'dirichlet(alpha={alpha})'
  return Partition(
    np.concatenate(orders).astype(np.int32),
    np.concatenate(sizes).astype(np.int32),
    np.repeat(np.arange(num_groups, dtype=np.int32), clients),
    f'{kind} within {num_groups} groups of '
    f'{", ".join(map(str, clients))} clients, seed {seed}'
    f'{_moved_note(moved)}',
  )


def natural(
  users: np.ndarray, *, max_clients: int | None = None, seed: int = 0
) -> Partition:
  """Makes each user a client, in the order of user ids.

  Args:
    users: `[n]` user of each example, whole numbers >= 0, gaps allowed.
    max_clients: Most clients; with more users, that many are drawn at random
      and the examples of the others belong to nobody. None takes all.
    seed: Seed of that draw, a whole number >= 0.

  Example:
    >>> p = natural(np.array([7, 3, 7]))
    >>> p.rows(0), p.rows(1)
    (array([1], dtype=int32), array([0, 2], dtype=int32))
  """
  rng = _generator(seed)
  users = checked_ids('users', users)
  order = np.argsort(users, kind='stable').astype(np.int32)
  in_order = users[order]
  starts = np.flatnonzero(np.diff(in_order, prepend=-1))
  sizes = np.diff(starts, append=len(users)).astype(np.int32)
  name = f'natural, {len(sizes)} clients'
  if max_clients is not None:
    validate.positive_int(max_clients=max_clients)
    if max_clients < len(sizes):
      name = f'natural, {max_clients} of {len(sizes)} clients, seed {seed}'
      chosen = np.zeros(len(sizes), bool)
      chosen[rng.choice(len(sizes), max_clients, replace=False)] = True
      order = order[np.repeat(chosen, sizes)]
      sizes = sizes[chosen]
  return Partition(order, sizes, np.zeros(len(sizes), np.int32), name)


def _partition(
  counts: np.ndarray,
  labels: np.ndarray | None,
  rng: np.random.Generator,
  description: str,
  moved: int = 0,
) -> Partition:
  """Draws the examples that `[C, N]` counts ask for."""
  return Partition(
    allocation.rows(counts, labels, rng).astype(np.int32),
    counts.sum(axis=0).astype(np.int32),
    np.zeros(counts.shape[1], np.int32),
    description + _moved_note(moved),
  )


def _generator(seed: int) -> np.random.Generator:
  """Names the bit generator, so that partitions outlive NumPy's default."""
  validate.non_negative_int(seed=seed)
  return np.random.Generator(np.random.PCG64(seed))


def _check_clients(
  num_clients: int, num_examples: int, min_size: int = 1, where: str = ''
) -> None:
  """Raises `InputError` unless every client can get `min_size` examples."""
  validate.positive_int(num_clients=num_clients)
  validate.non_negative_int(num_examples=num_examples)
  if num_clients * min_size > num_examples:
    each = '' if min_size == 1 else f' with min_size={min_size}'
    raise InputError(
      f'Expected num_clients <= the {num_examples} examples{where}, got '
      f'num_clients={num_clients}{each}.'
    )


def _clients_of_groups(
  clients_per_group: int | Sequence[int], num_groups: int
) -> list[int]:
  """Returns one number of clients for each group."""
  if not isinstance(clients_per_group, Iterable):
    return [clients_per_group] * num_groups
  clients = list(clients_per_group)
  if len(clients) != num_groups:
    raise InputError(
      f'Expected one number of clients for each of {num_groups} groups, got '
      f'clients_per_group={clients}.'
    )
  return clients


def _labels_for_alpha(
  labels: np.ndarray | None, num_examples: int, alpha: float
) -> np.ndarray:
  """Checks the labels that `by_group` needs with `alpha`."""
  if labels is None or len(labels) != num_examples:
    got = 'none' if labels is None else len(labels)
    raise InputError(
      f'Expected {num_examples} labels with alpha={alpha}, got {got}.'
    )
  return checked_ids('labels', labels)


def _moved_note(moved: int) -> str:
  """Says in the description when shares had to be repaired."""
  return f', {moved} examples moved to fill clients' if moved else ''
