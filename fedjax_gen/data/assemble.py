"""From the raw arrays of a reader to a checked `DataSource`.

Every reader ends here, so every source is checked, numbered and split alike.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedjax_gen.data import examples
from fedjax_gen.data.examples import DataSource, Examples, Options
from fedjax_gen.data.tables import columns
from fedjax_gen.errors import InputError

UNLABELLED = ('unlabelled',)


class Column(NamedTuple):
  """An array as found, and what to call it in messages."""

  values: np.ndarray
  what: str


class Table(NamedTuple):
  """One split as found; only `inputs` must be there.

  `users` and `groups` may hold numbers or strings, one per example or one for
  all of them.
  """

  inputs: Column
  labels: Column | None = None
  users: Column | None = None
  groups: Column | None = None


def assemble(
  name: str,
  tables: Sequence[Table],
  options: Options,
  *,
  class_names: Sequence[str] | None = None,
  notes: Sequence[str] = (),
) -> DataSource:
  """Checks one or two splits and puts them together.

  Args:
    name: Name of the source.
    tables: Train and test, or one table from which a test split is made.
    options: `test_fraction` and `seed` of that split.
    class_names: Names in label order; None names labels by their values.
    notes: What the reader has to say.

  Returns:
    The source. Users and groups may be known for one split only, labels for
    both or none.

  Raises:
    InputError: Any column fails its checks in `columns`; train and test
      differ in shape; one has labels and one has not. Messages carry the
      column's `what`.

  Example:
    >>> table = Table(Column(np.eye(4), 'x'), Column(np.arange(4) // 2, 'y'))
    >>> source = assemble('toy', [table], Options(test_fraction=0.5))
    >>> source.input_shape, source.class_names, len(source.test.labels)
    ((4,), ('0', '1'), 2)
  """
  notes = list(notes)
  inputs = []
  for table in tables:
    converted, changes = columns.inputs(table.inputs.values, table.inputs.what)
    inputs.append(converted)
    notes += changes
  if inputs[0].shape[1:] != inputs[-1].shape[1:]:
    raise InputError(
      f'{tables[-1].inputs.what}: expected the shape of the train inputs, '
      f'{list(inputs[0].shape[1:])}, got {list(inputs[-1].shape[1:])}.'
    )
  rows = [len(values) for values in inputs]

  found = [table.labels for table in tables if table.labels is not None]
  if len(found) == len(tables):
    labels, class_names, changes = columns.labels(
      [(c.what, c.values, n) for c, n in zip(found, rows, strict=True)],
      class_names,
    )
    notes += changes
  elif found:
    raise InputError(
      f'{found[0].what}: expected labels for both train and test, or for none.'
    )
  else:
    labels, class_names = [np.zeros(n, np.int32) for n in rows], UNLABELLED
    notes.append('no labels in the source: all examples are of one class')
  users, user_names = _ids([table.users for table in tables], rows)
  groups, group_names = _ids([table.groups for table in tables], rows)

  parts = [
    Examples(*part) for part in zip(inputs, labels, users, groups, strict=True)
  ]
  if len(parts) == 1:
    *parts, note = examples.split(parts[0], options)
    notes.append(note)
  return DataSource(
    name=name,
    train=parts[0],
    test=parts[1],
    class_names=tuple(class_names),
    user_names=user_names,
    group_names=group_names,
    notes=tuple(notes),
  )


def _ids(
  found: Sequence[Column | None], rows: Sequence[int]
) -> tuple[list[np.ndarray | None], tuple[str, ...]]:
  """Numbers the ids of all splits that have them, together."""
  values = []
  for column, size in zip(found, rows, strict=True):
    if column is None:
      continue
    if column.values.shape not in ((), (size,), (size, 1)):
      raise InputError(
        f'{column.what}: expected one value per example, [{size}], got shape '
        f'{list(column.values.shape)}.'
      )
    columns.finite(column.values, column.what)
    values.append(np.broadcast_to(column.values.reshape(-1), size))
  if not values:
    return [None] * len(found), ()
  numbered, names = columns.ids(values)
  rest = iter(numbered)
  return [None if column is None else next(rest) for column in found], names
