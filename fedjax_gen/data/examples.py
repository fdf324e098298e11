"""The values that every reader returns: `Examples`, and their `DataSource`."""

from collections.abc import Sequence
import dataclasses
import hashlib
import os
from typing import NamedTuple

import numpy as np

from fedjax_gen import kinds, validate
from fedjax_gen.data.tables.codec import Codec
from fedjax_gen.data.tables.schema import Schema
from fedjax_gen.errors import InputError
from fedjax_gen.kinds import DataSpec, Kind

DATA_DIR_VARIABLE = 'FEDJAX_GEN_DATA'
_MAX_IMAGE_SIZE = 4096  # a typing error beyond it; also what memory may hold


class Examples(NamedTuple):
  """One split of a data source, in memory.

  Attributes:
    inputs: `[n, H, W, C]` uint8 images with C in (1, 3), or float32: `[n, F]`
      features, `[n, T, C]` series, `[n, D]` rows of a table. Series and tables
      are as their `Schema` has them, or encoded.
    labels: `[n]` int32 in [0, num_classes); all zeros when there are none.
    users: `[n]` int32 natural client ids, None if the data has none.
    groups: `[n]` int32 kind-of-image ids, None if the data has none.
  """

  inputs: np.ndarray
  labels: np.ndarray
  users: np.ndarray | None = None
  groups: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class DataSource:
  """A named data set: two splits, the names behind its ids, and notes.

  Attributes:
    name: What the user asked for, as it appears in reports.
    train: The examples that clients train on.
    test: Held-out examples of the same kind.
    class_names: One name per label.
    user_names: One name per id in `Examples.users`.
    group_names: One name per id in `Examples.groups`.
    notes: Sentences for people about what reading did: files that were
      skipped, a split that was made, images that were resized.
    schema: Columns of a table, or channels of a series; None for others.
    codec: How series and tables are encoded; None if they are not, yet.
    names_clients: Whether the user said who the clients are, so that they are
      those of a federation if nothing else is asked.
    fingerprint: Of the examples as they were read; see `fingerprint`.
  """

  name: str
  train: Examples
  test: Examples
  class_names: tuple[str, ...]
  user_names: tuple[str, ...] = ()
  group_names: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()
  schema: Schema | None = None
  codec: Codec | None = None
  names_clients: bool = False
  fingerprint: str = ''

  @property
  def num_classes(self) -> int:
    """C, the number of classes, at least one."""
    return len(self.class_names)

  @property
  def input_shape(self) -> tuple[int, ...]:
    """`(H, W, C)` of one image or `(F,)` of one feature vector."""
    return self.train.inputs.shape[1:]

  @property
  def kind(self) -> Kind:
    """Of the examples."""
    if self.schema is not None:
      return kinds.KINDS[self.schema.kind]
    return kinds.of_shape(self.input_shape)

  @property
  def is_image(self) -> bool:
    """Whether inputs are images."""
    return self.kind.name == 'image'

  @property
  def spec(self) -> DataSpec:
    """What a model of these examples is built for.

    Raises:
      InputError: they are a series or a table that is not encoded.
    """
    if self.schema is not None and self.codec is None:
      raise InputError(
        f'Expected {self.kind.name} data that are encoded, got those of '
        f'{self.name} as they were read; encoding.encode does it.'
      )
    layout = () if self.codec is None else self.codec.layout
    return DataSpec(self.input_shape, self.num_classes, layout)


@dataclasses.dataclass(frozen=True)
class Options:
  """What a user may ask of any source; readers ignore what they do not need.

  Attributes:
    data_dir: Folder with the user's copies of named data sets, None if none.
      The environment variable FEDJAX_GEN_DATA names a second one.
    image_size: Height and width to bring images to, None to keep their own.
    test_fraction: Share of the examples held out when a source has no test
      split of its own, in (0, 1).
    seed: Seed of that split.
    client_column: Column of a table that names the client of each row.
    label_column: Column that holds its class.
    group_column: Column that names its group.
    person_column: Column that names whom it is about; see `sources.load`.
    schema: JSON or TOML file with corrections of the columns that were found.
    window: Time steps of one example; 0 for whole recordings, or for tables.
    stride: Time steps from one window to the next; 0 for `window`.
  """

  data_dir: str | None = None
  image_size: int | None = None
  test_fraction: float = 0.2
  seed: int = 0
  client_column: str | None = None
  label_column: str | None = None
  person_column: str | None = None
  schema: str | None = None
  window: int = 0
  stride: int = 0
  group_column: str | None = None

  def __post_init__(self):
    if self.data_dir is not None and os.path.isfile(self.data_dir):
      raise InputError(
        f'Expected data_dir to be a folder, got the file {self.data_dir!r}.'
      )
    validate.non_negative_int(
      seed=self.seed, window=self.window, stride=self.stride
    )
    if self.stride and not self.window:
      raise InputError(
        f'Expected a window with stride={self.stride}, got window=0.'
      )
    validate.positive(test_fraction=self.test_fraction)
    if self.test_fraction >= 1:
      raise InputError(
        'Expected 0 < test_fraction < 1, got '
        f'test_fraction={self.test_fraction!r}.'
      )
    if self.image_size is not None:
      validate.positive_int(image_size=self.image_size)
      if self.image_size > _MAX_IMAGE_SIZE:
        raise InputError(
          f'Expected image_size <= {_MAX_IMAGE_SIZE}, got '
          f'image_size={self.image_size}.'
        )

  @property
  def data_dirs(self) -> tuple[str, ...]:
    """The folders to look in, in this order."""
    folders = (self.data_dir, os.environ.get(DATA_DIR_VARIABLE))
    return tuple(os.path.expanduser(folder) for folder in folders if folder)


def take(examples: Examples, rows: np.ndarray) -> Examples:
  """Returns the examples at `rows`, an index or boolean mask over `[n]`.

  Example:
    >>> two = Examples(np.zeros((2, 5), np.float32), np.array([0, 1]))
    >>> take(two, np.array([1])).labels
    array([1])
  """
  users, groups = examples.users, examples.groups
  return Examples(
    examples.inputs[rows],
    examples.labels[rows],
    None if users is None else users[rows],
    None if groups is None else groups[rows],
  )


def concatenate(parts: Sequence[Examples]) -> Examples:
  """Returns the examples of all `parts`, one after the other.

  A column stays only if every part has it.
  """
  shapes = {part.inputs.shape[1:] for part in parts}
  if len(shapes) > 1:
    raise InputError(
      f'Expected inputs of one shape to join, got {sorted(shapes)}; '
      'give image_size to bring images to one size.'
    )
  return Examples(
    np.concatenate([part.inputs for part in parts]),
    np.concatenate([part.labels for part in parts]),
    _joined([part.users for part in parts]),
    _joined([part.groups for part in parts]),
  )


def split(
  examples: Examples, options: Options
) -> tuple[Examples, Examples, str]:
  """Splits off a test set, the same share of every class, user and group.

  Rows are shuffled, sorted by (label, user, group), and every
  1/test_fraction-th of them is held out, so each combination gives its share
  to within one row, however small it is. The first row of a combination
  always stays in train: a rare class or a small client is never lost there.

  Args:
    examples: `n` >= 2 examples.
    options: `test_fraction` and `seed` are read.

  Returns:
    The train part, the test part (both in their old order), and a note.

  Example:
    >>> ten = Examples(np.zeros((10, 1), np.float32), np.arange(10) % 2)
    >>> train, test, note = split(ten, Options(test_fraction=0.4))
    >>> np.bincount(train.labels), np.bincount(test.labels)
    (array([3, 3]), array([2, 2]))
  """
  size = len(examples.labels)
  if size < 2:
    raise InputError(
      f'Expected at least 2 examples to split off a test set, got {size}.'
    )
  keys = [
    k
    for k in (examples.groups, examples.users, examples.labels)
    if k is not None
  ]
  shuffled = np.random.Generator(np.random.PCG64(options.seed)).permutation(
    size
  )
  order = shuffled[np.lexsort([k[shuffled] for k in keys])]
  # Position p is held out where the running total p * fraction passes a whole
  # number; the small term keeps 0.1 * 30 from falling on the wrong side.
  totals = np.floor(np.arange(size + 1) * options.test_fraction + 1e-9)
  held_out = np.diff(totals) > 0
  is_first = np.ones(size, bool)
  is_first[1:] = np.any([np.diff(k[order]) != 0 for k in keys], axis=0)
  if np.any(held_out & ~is_first):
    held_out &= ~is_first
  elif not held_out.any():
    held_out[-1] = True
  is_test = np.zeros(size, bool)
  is_test[order[held_out]] = True
  note = (
    f'no test split in the source: {is_test.sum()} of {size} examples held '
    f'out (test_fraction={options.test_fraction}, seed={options.seed})'
  )
  return take(examples, ~is_test), take(examples, is_test), note


def _joined(columns: Sequence[np.ndarray | None]) -> np.ndarray | None:
  """Joins an optional column, None unless every part has it."""
  present = [column for column in columns if column is not None]
  return np.concatenate(present) if len(present) == len(columns) else None


def fingerprint(*splits: Examples) -> str:
  """A digest of examples and labels, whatever their order and split.

  Two runs on the same examples have the same, though their seeds split them
  otherwise. In the clear it tells who guesses the data that the guess is right.

  Example:
    >>> rows = Examples(np.eye(3, dtype=np.float32), np.arange(3))
    >>> one = Examples(rows.inputs[1:2], rows.labels[1:2])
    >>> two = Examples(rows.inputs[[2, 0]], rows.labels[[2, 0]])
    >>> fingerprint(rows) == fingerprint(one, two)
    True
  """
  digests = sorted(
    hashlib.blake2b(
      np.ascontiguousarray(row).tobytes() + int(label).to_bytes(8, 'big')
    ).digest()
    for split in splits
    for row, label in zip(split.inputs, split.labels, strict=True)
  )
  return hashlib.sha256(b''.join(digests)).hexdigest()
