"""Groups of a data source: which are requested, and their names in metrics."""

from collections.abc import Sequence
import re

import numpy as np

from fedjax_gen import validate
from fedjax_gen.data.sources import DataSource
from fedjax_gen.errors import InputError


def groups_of(source: DataSource, split: str) -> np.ndarray:
  """`[n]` groups of a split, `'train'` or `'test'`, of anything drawn."""
  if not source.kind.picture:
    raise InputError(
      f'Expected images, series or a table to measure groups of, got the '
      f'{source.kind.name} {list(source.input_shape)} of {source.name}.'
    )
  groups = getattr(source, split).groups
  if groups is None:
    raise InputError(
      f'Expected groups (kinds of images) for the {split} split of '
      f'{source.name}, got none.'
    )
  return groups


def metric_names(names: Sequence[str]) -> tuple[str, ...]:
  """Makes the names of groups parts of metric names, each of its own.

  Args:
    names: one for each group, such as `DataSource.group_names`.

  Returns:
    as many; what is no letter, digit, `-`, `_` or `.` becomes `_`, and a name
    that is taken has the number of its group appended.

  Example:
    >>> metric_names(['faces', 'wild animals', 'wild/animals'])
    ('faces', 'wild_animals', 'wild_animals_2')
  """
  made: list[str] = []
  for group, name in enumerate(names):
    name = re.sub(r'[^\w.-]+', '_', name)
    while name in made:
      name = f'{name}_{group}'
    made.append(name)
  return tuple(made)


def requested_groups(source: DataSource, num: int) -> np.ndarray:
  """`[num]` groups in the proportions of the training data, in group order.

  Samples of a generator that cannot be asked are counted for these as they
  come, so that all methods are measured at the same numbers.
  """
  groups = groups_of(source, 'train')
  validate.positive_int(num=num)
  return spread(np.sort(groups), num)


def spread(order: np.ndarray, num: int) -> np.ndarray:
  """Takes `num` entries at equal distances, different ones if they suffice."""
  return order[np.linspace(0, len(order) - 1, num).round().astype(int)]
