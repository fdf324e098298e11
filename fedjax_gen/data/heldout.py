"""Each client's examples in three parts: for training, validation and tests.

Personal models are measured on examples of their own client, so every client
holds out some of its own, the same share of every class.
"""

from typing import NamedTuple

import numpy as np

from fedjax_gen import validate
from fedjax_gen.data.partition_value import Partition, checked_ids
from fedjax_gen.errors import InputError


class Fractions(NamedTuple):
  """Shares held out of a client's examples of each class.

  The defaults are those of the code to Di Salvo, Nguyen and Ledig, 2025
  (DP-CVAE, https://arxiv.org/abs/2507.02671): a fifth for the test, and of the
  rest a fifth for validation.
  """

  test: float = 0.2
  validation: float = 0.16


DEFAULT_FRACTIONS = Fractions()


class Split(NamedTuple):
  """Three partitions of the same clients; every row is in exactly one.

  A client may be empty in any of them, and is there all the same.
  """

  train: Partition
  validation: Partition
  test: Partition


def split_clients(
  partition: Partition,
  labels: np.ndarray,
  *,
  fractions: Fractions | tuple[float, float] = DEFAULT_FRACTIONS,
  seed: int,
) -> Split:
  """Splits every client's rows, each of its classes in the same shares.

  Of the m rows that a client has of a class, `test * m` go to the test, up or
  down to a whole number; up or down is drawn such that sums over classes come
  as near to their share, and that no class is at an advantage. Then validation
  is taken of what remains likewise. One row at least stays in train: where a
  client has one row of a class, it is not held out.

  Args:
    partition: of rows of `labels`; clients may be empty, rows may be missing.
    labels: `[n]` labels of all rows, whole numbers >= 0.
    fractions: shares of test and validation, at least 0, in sum below 1.
    seed: whole number >= 0; same seed, same split.

  Returns:
    train, validation and test, with rows of a client in the order that they
    have in `partition`, and its groups.

  Raises:
    InputError: a fraction or the seed is out of range, labels are no whole
      numbers, or the partition names rows that `labels` does not have.

  Example:
    >>> five = np.zeros(5, np.int32)
    >>> one = Partition(np.arange(5), np.array([5]), np.zeros(1, int), 'toy')
    >>> split = split_clients(one, five, seed=0)
    >>> split.train.sizes, split.validation.sizes, split.test.sizes
    (array([3], dtype=int32), array([1], dtype=int32), array([1], dtype=int32))
  """
  fractions = Fractions(*fractions)
  validate.fraction(test=fractions.test, validation=fractions.validation)
  if sum(fractions) >= 1:
    raise InputError(
      'Expected test + validation < 1, got '
      f'test={fractions.test} and validation={fractions.validation}.'
    )
  validate.non_negative_int(seed=seed)
  labels = checked_ids('labels', labels)
  cells = partition.counts(labels, int(labels.max()) + 1)
  rng = np.random.Generator(np.random.PCG64(seed))
  test = _shares(cells, fractions.test, rng)
  test = np.minimum(test, np.maximum(cells - 1, 0))
  rest = cells - test
  validation = _shares(rest, fractions.validation / (1 - fractions.test), rng)
  validation = np.minimum(validation, np.maximum(rest - 1, 0))

  owners = np.repeat(np.arange(partition.num_clients), partition.sizes)
  cell = owners * cells.shape[1] + labels[partition.order]
  rank = _ranks(cell, cells.ravel(), rng)
  is_test = rank < test.ravel()[cell]
  is_train = rank >= (test + validation).ravel()[cell]

  def part(name: str, chosen: np.ndarray) -> Partition:
    return Partition(
      partition.order[chosen],
      np.bincount(owners[chosen], minlength=partition.num_clients).astype(
        np.int32
      ),
      partition.groups,
      f'{partition.description}, {name} part, seed {seed}',
    )

  return Split(
    part('train', is_train),
    part('validation', ~is_train & ~is_test),
    part('test', is_test),
  )


def _shares(
  cells: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
  """Whole numbers next to `fraction * cells`, `[N, C]`.

  Systematic sampling: a client's rows are counted through its classes, and one
  is taken wherever the running share, from a random start, passes a whole
  number. So each cell is rounded up with the right probability, and a client's
  sum is off by less than one.
  """
  start = rng.random((len(cells), 1))
  totals = np.cumsum(cells, axis=1) * fraction
  return np.diff(np.floor(totals + start), axis=1, prepend=0).astype(np.int64)


def _ranks(
  cell: np.ndarray, sizes: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """`[m]` places of rows in random orders of their cells."""
  shuffled = np.lexsort([rng.random(len(cell)), cell])
  first = np.cumsum(sizes) - sizes
  rank = np.empty(len(cell), np.int64)
  rank[shuffled] = np.arange(len(cell)) - first[cell[shuffled]]
  return rank
