"""Fewer examples of a source, with the same share of every class."""

from collections.abc import Sequence
import dataclasses
import difflib

import numpy as np

from fedjax_gen import validate
from fedjax_gen.data import examples
from fedjax_gen.data.examples import DataSource, Examples
from fedjax_gen.errors import InputError

# By the word for a split, the argument that thins it, and its stream of draws:
# what is kept of one does not depend on how much is kept of the other.
_SPLITS = {'training': ('num_examples', 0), 'test': ('num_test_examples', 1)}


def keep(
  source: DataSource, *, train: int = 0, test: int = 0, seed: int
) -> DataSource:
  """Keeps some examples of each split, drawn so that classes keep their share.

  Of the m examples of a class among n, `num * m / n` are kept, up or down to a
  whole number, and one at least where `num` is no smaller than the number of
  classes: the largest classes give way to those. Inside a class, groups and
  users keep their shares likewise. Examples stay in the order of the source,
  and names of classes, users and groups stay even if none is left of them.

  Args:
    source: What is drawn from.
    train: Training examples to keep; 0 keeps all.
    test: Test examples to keep; 0 keeps all.
    seed: Whole number >= 0; same seed, same examples.

  Returns:
    The source, with a note on each split that became smaller.

  Raises:
    InputError: A number is negative or no whole number, or exceeds what there
      is.

  Example:
    >>> part = Examples(np.zeros((9, 1), np.float32), np.repeat([0, 1], [6, 3]))
    >>> source = DataSource('toy', part, part, ('a', 'b'))
    >>> fewer = keep(source, train=3, seed=0)
    >>> fewer.train.labels, len(fewer.test.labels)
    (array([0, 0, 1]), 9)
  """
  validate.non_negative_int(
    seed=seed, num_examples=train, num_test_examples=test
  )
  part, train_notes = _thinned(source, 'training', source.train, train, seed)
  test_part, test_notes = _thinned(source, 'test', source.test, test, seed)
  return dataclasses.replace(
    source,
    train=part,
    test=test_part,
    notes=(*source.notes, *train_notes, *test_notes),
  )


def held_out_clients(source: DataSource, names: Sequence[str]) -> DataSource:
  """Holds out all examples of some clients, and no others.

  So a model is tested on clients who took no part in training.

  Args:
    source: with users; its own split is given up.
    names: of the clients to hold out.

  Raises:
    InputError: the data name no clients, a client is unknown, or none would be
      left on either side.

  Example:
    >>> part = Examples(np.zeros((3, 1), np.float32), np.zeros(3, int),
    ...                 np.array([0, 1, 1]))
    >>> source = DataSource('toy', part, part, ('a',), ('Ann', 'Bob'))
    >>> split = held_out_clients(source, ['Bob'])
    >>> len(split.train.labels), len(split.test.labels)
    (2, 4)
  """
  if source.train.users is None or source.test.users is None:
    raise InputError(
      f'Expected data that name their clients with test_clients, got '
      f'{source.name}, which do not.'
    )
  for name in names:
    if name not in source.user_names:
      near = difflib.get_close_matches(name, source.user_names, n=1)
      hint = f'; did you mean {near[0]!r}?' if near else '.'
      raise InputError(
        f'Expected test_clients among {", ".join(source.user_names[:20])}, got '
        f'{name!r}{hint}'
      )
  everything = examples.concatenate([source.train, source.test])
  assert everything.users is not None
  is_test = np.isin(
    everything.users, [source.user_names.index(name) for name in names]
  )
  if not is_test.any() or is_test.all():
    raise InputError(
      'Expected test_clients that leave clients to train on, with examples on '
      f'both sides, got {", ".join(names)}.'
    )
  note = (
    f'held out: all {is_test.sum()} examples of {", ".join(names)}, who take '
    'no part'
  )
  return dataclasses.replace(
    source,
    train=examples.take(everything, ~is_test),
    test=examples.take(everything, is_test),
    notes=(*source.notes, note),
  )


def _thinned(
  source: DataSource, word: str, part: Examples, num: int, seed: int
) -> tuple[Examples, list[str]]:
  """Keeps `num` examples of one split, 0 for all, with a note if any go."""
  argument, stream = _SPLITS[word]
  size = len(part.labels)
  if num > size:
    raise InputError(
      f'Expected {argument} <= {size}, the number of {word} examples of '
      f'{source.name}, got {argument}={num}.'
    )
  if num in (0, size):
    return part, []
  rng = np.random.Generator(np.random.PCG64([seed, stream]))
  kept = examples.take(part, _chosen(part, num, rng))
  note = (
    f'kept {num} of {size} {word} examples, of every class in the same share '
    f'({argument}={num}, seed={seed})'
  )
  classes = len(np.unique(part.labels))
  lost = classes - len(np.unique(kept.labels))
  return kept, [
    f'{note}; {lost} of {classes} classes have none' if lost else note
  ]


def _chosen(part: Examples, num: int, rng: np.random.Generator) -> np.ndarray:
  """`[n]` bools, `num` of them True."""
  size = len(part.labels)
  keys = [k for k in (part.users, part.groups, part.labels) if k is not None]
  shuffled = rng.permutation(size)
  # By class, in it by group and in that by user; the last key comes first.
  order = shuffled[np.lexsort([key[shuffled] for key in keys])]
  label = part.labels[order]
  sizes = np.bincount(label)
  counts = _shares(sizes, num)
  # Of the m examples of a class every m/count-th is kept, where the running
  # share, from a random start, passes a whole number: what is sorted is thinned
  # evenly, and no user is at an advantage.
  rank = np.arange(size) - (np.cumsum(sizes) - sizes)[label]
  start = rng.integers(0, np.maximum(sizes, 1))[label]
  m, count = sizes[label], counts[label]
  mask = np.zeros(size, bool)
  mask[order] = ((rank + 1) * count + start) // m > (rank * count + start) // m
  return mask


def _shares(sizes: np.ndarray, num: int) -> np.ndarray:
  """`[C]` whole numbers of sum `num`, in proportion to `sizes`."""
  counts, rest = np.divmod(sizes * num, sizes.sum())
  most = np.argsort(-rest, kind='stable')  # the largest remainders go up
  counts[most[: num - counts.sum()]] += 1
  lost = (counts == 0) & (sizes > 0)
  if num >= np.count_nonzero(sizes):
    counts[lost] = 1
    for _ in range(np.count_nonzero(lost)):
      counts[np.argmax(counts)] -= 1
  return counts
