"""`load`: one in-memory data set from a name or a path.

For instance:

    source = sources.load('digits')
    source = sources.load('groups:~/pictures', image_size=64)
"""

from collections.abc import Sequence
import dataclasses
import difflib
import os

from fedjax_gen import validate
from fedjax_gen.data import images, named, subset
from fedjax_gen.data.examples import DataSource, Examples, Options
from fedjax_gen.data.formats import (
  cifar,
  folder,
  idx,
  npy,
  npz,
  packaged,
  tfds,
  tiny_imagenet,
)
from fedjax_gen.data.tables import series, table
from fedjax_gen.errors import InputError

__all__ = ['NAMES', 'DataSource', 'Examples', 'load']

NAMES = tuple(named.READERS)

_OWNER_KINDS = {'clients': 'users', 'groups': 'groups'}


def load(
  spec: str,
  *,
  data_dir: str | None = None,
  image_size: int | None = None,
  test_fraction: float = 0.2,
  num_examples: int = 0,
  num_test_examples: int = 0,
  seed: int = 0,
  client_column: str | None = None,
  label_column: str | None = None,
  person_column: str | None = None,
  schema: str | None = None,
  window: int = 0,
  stride: int = 0,
  test_clients: Sequence[str] = (),
  group_column: str | None = None,
) -> DataSource:
  """Reads a data set into memory.

  `spec` is one of

  * a name in `NAMES`. `digits` comes with scikit-learn. `mnist`,
    `fashion_mnist` and `emnist` are read from their original idx files in
    `data_dir/NAME` or `data_dir`, `cifar10` and `cifar100` (fine labels) from
    their original archives, unpacked there (`cifar`), else all through
    TensorFlow Datasets; `tiny_imagenet` from its archive only
    (`tiny_imagenet.read`). `cifar10_jpeg_subset` is a tenth of CIFAR-10 as JPEG
    copies, and what `cifar10` gives, saying so, where only that file is found.
    `mixed_mnist`, `charm_proxy` and `digits_and_shapes`, which needs no files,
    have groups. Two are features and need no files: `digits_features`, and
    `gaussian_domains`, drawn from known Gaussians, which has groups and users.
    `watch` and `waves` are series, `rand_health` and `wine` tables
    (`packaged`);
  * `tfds:NAME`, any image-classification set of TensorFlow Datasets;
  * a path: an npz file (`npz.read` lists the array names), a folder of such
    arrays as npy files, which are not read into memory (`npy.read`), of idx
    files, an archive of CIFAR or Tiny ImageNet, unpacked, or a folder of
    pictures, one folder per class (`folder.read`);
  * `clients:PATH` or `groups:PATH`, a folder of pictures with a first level of
    one folder per client, or per kind of images;
  * a table, `FILE.csv`, `.tsv` or `.parquet` (extra `tables`), or
    `clients:PATH`, a folder with a table for each client (`table.read`); with a
    window its rows are time steps of series;
  * `series:FILE.npz`, recordings `[n, T, C]` (`series.read`).

  A source without a test split gets one, with every class, client and group in
  the same share.

  Args:
    spec: The name or path.
    data_dir: Folder with data sets known by name. The environment variable
      FEDJAX_GEN_DATA may name another one, where is looked next.
    image_size: Height and width to bring all images to, by cutting out the
      centre square and resizing. None keeps the size of the source; pictures
      of several sizes come to 32 x 32.
    test_fraction: Share held out if the source has no test split, in (0, 1).
    num_examples: Training examples to keep, drawn so that every class keeps
      its share (`subset.keep`); 0 keeps all.
    num_test_examples: Test examples to keep, likewise.
    seed: Seed of that split and of these draws.
    client_column: Column of a table that names the client of each row.
    label_column: Column of a table that holds the class.
    person_column: Column of a table that names whom a row is about: all rows of
      one are for training, or all held out.
    schema: File that corrects the columns that were found (`schema.read`).
    window: Time steps of an example of a series; 0 for whole recordings.
    stride: Steps from one window to the next; 0 for `window`.
    test_clients: Names of clients who take no part: all of their examples, and
      no others, are held out.
    group_column: Column of a table that names the group of each row; it may be
      the one of clients.

  Returns:
    The data, in the order of the source, and notes on what reading did.

  Raises:
    InputError: An argument is out of range, the name or path is unknown, or
      the data cannot be read or fails its checks.

  Example:
    >>> source = load('digits')
    >>> source.input_shape, source.num_classes, len(source.train.labels)
    ((8, 8, 1), 10, 1439)
    >>> load('digit')
    Traceback (most recent call last):
    ...
    fedjax_gen.errors.InputError: Expected data to be one of digits, mnist, \
..., tfds:NAME or an existing path, got 'digit'; did you mean digits?
  """
  options = Options(
    data_dir,
    image_size,
    test_fraction,
    seed,
    client_column or None,
    label_column or None,
    person_column or None,
    schema or None,
    window,
    stride,
    group_column or None,
  )
  # Before reading, which may take minutes.
  validate.non_negative_int(
    num_examples=num_examples, num_test_examples=num_test_examples
  )
  source = _read(spec, options)
  if test_clients:
    source = subset.held_out_clients(source, test_clients)
  source = subset.keep(
    source, train=num_examples, test=num_test_examples, seed=seed
  )
  if image_size is None:
    return source
  if not source.is_image:
    raise InputError(
      f'Expected no image_size for the {source.kind.name} of {spec!r}, got '
      f'image_size={image_size}.'
    )
  return _resized(source, image_size)


def is_table_file(spec: str) -> bool:
  """Whether data are read from a table, or a folder of them."""
  scheme, owner_kind, path = _parts(spec)
  is_other = spec in named.READERS or scheme in ('series', 'tfds')
  return not is_other and table.is_table(path, is_clients=owner_kind == 'users')


def _parts(spec: str) -> tuple[str, str | None, str]:
  """Scheme, what its first level of folders is, and path of a spec."""
  scheme, _, rest = spec.partition(':')
  owner_kind = _OWNER_KINDS.get(scheme)
  is_scheme = owner_kind or scheme in ('series', 'tfds')
  return scheme, owner_kind, os.path.expanduser(rest if is_scheme else spec)


def _read(spec: str, options: Options) -> DataSource:
  """Finds the reader for `spec`; explicit forms before paths."""
  scheme, owner_kind, path = _parts(spec)
  if is_table_file(spec):
    return table.read(path, options, name=spec)
  is_named = spec in named.READERS
  unused = {
    'client_column': options.client_column,
    'label_column': options.label_column,
    'group_column': options.group_column,
    'person_column': options.person_column,
    'schema': options.schema,
    'window': options.window,
  }
  for name, value in unused.items():
    is_windowed = scheme == 'series' or spec in packaged.WINDOWED
    is_taken = name == 'window' and is_windowed
    if value and not is_taken:
      raise InputError(
        f'Expected a table (.csv, .tsv, .parquet) with {name}={value!r}, or '
        f'for a window series:FILE.npz, got data={spec!r}.'
      )
  if is_named:
    return named.READERS[spec](options)
  if scheme == 'series':
    return series.read(path, options, name=spec)
  if scheme == 'tfds':
    return tfds.read(path, options)
  if owner_kind and os.path.isdir(path):
    return folder.read(path, options, owner_kind=owner_kind, name=spec)
  if idx.is_idx_folder(path):
    return idx.read(path, options, name=spec)
  if cifar.is_folder(path) and not owner_kind:
    return cifar.read(path, options, name=spec)
  if tiny_imagenet.is_folder(path) and not owner_kind:
    return tiny_imagenet.read(path, options, name=spec)
  if npy.is_folder(path) and not owner_kind:
    return npy.read(path, options, name=spec)
  if os.path.isdir(path):
    return folder.read(path, options, name=spec)
  if os.path.isfile(path) and not owner_kind:
    return npz.read(path, options, name=spec)
  if owner_kind:
    raise InputError(
      f'Expected an existing folder after {scheme}:, got {path!r}.'
    )
  near = difflib.get_close_matches(spec, NAMES, n=1)
  hint = f'; did you mean {near[0]}?' if near else '.'
  raise InputError(
    f'Expected data to be one of {", ".join(NAMES)}, tfds:NAME or an '
    f'existing path, got {spec!r}{hint}'
  )


def _resized(source: DataSource, image_size: int) -> DataSource:
  """Brings both splits to one size, if their reader has not done so."""
  height, width, _ = source.input_shape
  if height == width == image_size:
    return source
  train, test = (
    part._replace(inputs=images.resize(part.inputs, image_size))
    for part in (source.train, source.test)
  )
  note = f'images of {width}x{height} resized to {image_size}x{image_size}'
  return dataclasses.replace(
    source, train=train, test=test, notes=(*source.notes, note)
  )
