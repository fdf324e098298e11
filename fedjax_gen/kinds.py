"""Kinds of data, and everything that depends on the kind.

An example is an image, a vector of features, a window of a series or a row of
a table. `KINDS` has a row for each with the names of all that differs: models,
likelihoods, how a classifier sees it, how it is drawn. What a name stands for
is looked up where it is used, so that no other module asks how many axes an
array has. A new kind is a row here and what its names stand for.
"""

from typing import NamedTuple

from fedjax_gen.errors import InputError


class Kind(NamedTuple):
  """A row of `KINDS`.

  Attributes:
    name: `image`, `features`, `series` or `table`.
    form: of the stored examples, for messages.
    num_axes: of one example.
    models: encoders that fit (`VaeConfig.model`); the first is the default.
    likelihoods: p(x | z) that fit; the first is the default.
    is_bounded: whether values lie in [0, 1].
    trunk: of the classifier that judges examples: `image`, `series` or `flat`.
    picture: how examples are drawn: `grid`, `lines`, `marginals`, or empty.
    has_layout: whether the parts of the last axis differ; see `Block`.
  """

  name: str
  form: str
  num_axes: int
  models: tuple[str, ...]
  likelihoods: tuple[str, ...]
  is_bounded: bool = False
  trunk: str = 'flat'
  picture: str = ''
  has_layout: bool = False


KINDS: dict[str, Kind] = {
  kind.name: kind
  for kind in (
    Kind(
      'image',
      'images [n, H, W, C]',
      3,
      ('conv', 'mlp', 'dugdale2023'),
      ('gaussian', 'bernoulli', 'discretised_logistic'),
      is_bounded=True,
      trunk='image',
      picture='grid',
    ),
    Kind('features', 'features [n, F]', 1, ('mlp',), ('gaussian',)),
    Kind(
      'series',
      'series [n, T, C]',
      2,
      ('conv', 'mlp'),
      ('mixed',),
      trunk='series',
      picture='lines',
      has_layout=True,
    ),
    Kind(
      'table',
      'rows of a table [n, D]',
      1,
      ('mlp',),
      ('mixed',),
      picture='marginals',
      has_layout=True,
    ),
  )
}
"""Every kind by name."""


def trunk_of(shape: tuple[int, ...]) -> str:
  """The `Kind.trunk` of examples of a shape, whatever their last axis means.

  Example:
    >>> trunk_of((28, 28, 1)), trunk_of((100, 6)), trunk_of((5,))
    ('image', 'series', 'flat')
  """
  trunks = {kind.num_axes: kind.trunk for kind in KINDS.values()}
  return trunks[len(shape)]


class Block(NamedTuple):
  """A part of the last axis of an encoded example.

  Attributes:
    kind: `number`, one standardised value; `category`, one of `size` values as
      a one-hot vector; `flag`, 1 where something was observed, else 0.
    size: places that it takes.
    flag: of a number, the place of the flag that says whether it was observed;
      -1 if it always was. An unobserved number is stored as 0.
  """

  kind: str
  size: int = 1
  flag: int = -1


class DataSpec(NamedTuple):
  """The form of the data a model is built for.

  Attributes:
    shape: of one example: (H, W, C) for images, (F,) for features, (T, F) for
      series, (F,) for rows of a table, as they are encoded.
    num_classes: C; labels lie in [0, C).
    layout: blocks of the last axis, of series and tables.
  """

  shape: tuple[int, ...]
  num_classes: int
  layout: tuple[Block, ...] = ()

  @property
  def kind(self) -> Kind:
    """Of the data."""
    return of_shape(self.shape, has_layout=bool(self.layout))

  @property
  def is_image(self) -> bool:
    """Whether examples are images, with values in [0, 1]."""
    return self.kind.name == 'image'


def of_shape(shape: tuple[int, ...], *, has_layout: bool = False) -> Kind:
  """The kind of an example of a shape; the one place that counts axes.

  Args:
    shape: of one example.
    has_layout: whether the parts of its last axis differ.

  Raises:
    InputError: no kind has so many axes.

  Example:
    >>> of_shape((28, 28, 1)).name, of_shape((5,)).name
    ('image', 'features')
    >>> of_shape((5,), has_layout=True).name
    'table'
  """
  for kind in KINDS.values():
    if (kind.num_axes, kind.has_layout) == (len(shape), has_layout):
      return kind
  forms = ', '.join(kind.form for kind in KINDS.values())
  raise InputError(f'Expected {forms}, got examples of shape {list(shape)}.')
