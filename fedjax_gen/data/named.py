"""Data sets known by name, and where each may be found."""

from collections.abc import Callable, Mapping
import dataclasses
import itertools
import os
from typing import NamedTuple

import numpy as np

from fedjax_gen.data import examples, gaussians, images, shapes
from fedjax_gen.data.assemble import Column, Table, assemble
from fedjax_gen.data.examples import DataSource, Examples, Options
from fedjax_gen.data.formats import (
  cifar,
  idx,
  npz,
  packaged,
  tfds,
  tiny_imagenet as tiny_imagenet_lib,
)
from fedjax_gen.errors import InputError

_DIGITS = tuple('0123456789')
_GARMENTS = (
    'T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat',
    'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot',
)  # fmt: skip
# EMNIST "balanced" (Cohen et al., 2017): lower-case letters that look like
# their capitals are merged with them.
_CHARACTERS = tuple('0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt')
_CHARM_DOMAINS = ('cartoon', 'human', 'animal', 'remote', 'marine')
_CIFAR_SUBSET_FILE = 'cifar10_10k_jpeg.npz'


def digits(options: Options) -> DataSource:
  """Returns scikit-learn's 1,797 digits, 8 x 8 grey, bundled with it.

  Reference: UCI "Optical recognition of handwritten digits", test part. Its
  17 grey levels 0..16 are spread over 0..255.
  """
  from sklearn import datasets  # noqa: PLC0415, slow to import

  data = datasets.load_digits()
  pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)
  table = Table(Column(pixels, 'digits'), Column(data.target, 'digits'))
  return assemble('digits', [table], options, class_names=_DIGITS)


def digits_features(options: Options) -> DataSource:
  """Returns `digits` as 64 features, the grey levels, split alike.

  Each image is standardised by its own mean and stddev, which needs no
  statistic of the data: nothing about other people's digits enters it.
  """
  source = digits(options)
  train, test = (
    part._replace(inputs=_standardised(part.inputs))
    for part in (source.train, source.test)
  )
  return dataclasses.replace(
    source,
    name='digits_features',
    train=train,
    test=test,
    notes=(*source.notes, 'each image standardised by its own mean and stddev'),
  )


def mnist(options: Options) -> DataSource:
  """Returns MNIST, 28 x 28 grey (LeCun et al., 1998)."""
  return _idx_or_tfds('mnist', options)


def fashion_mnist(options: Options) -> DataSource:
  """Returns Fashion-MNIST, 28 x 28 grey (Xiao et al., 2017)."""
  return _idx_or_tfds('fashion_mnist', options)


def emnist(options: Options) -> DataSource:
  """Returns EMNIST "balanced", 47 classes, upright (Cohen et al., 2017)."""
  return _idx_or_tfds('emnist', options)


def cifar10(options: Options) -> DataSource:
  """Returns CIFAR-10, 32 x 32 RGB (Krizhevsky, 2009).

  Where there is neither an archive nor TFDS, but the file of the JPEG subset,
  it is that subset: under the subset's name, and with a note.
  """
  try:
    return _archive_or_tfds('cifar10', options)
  except tfds.AbsentError as error:
    if _path_of(_CIFAR_SUBSET_FILE, options) is None:
      raise
    source = cifar10_jpeg_subset(options)
    note = f'in place of cifar10, which was not found: {error}'
    return dataclasses.replace(source, notes=(*source.notes, note))


def cifar100(options: Options) -> DataSource:
  """Returns CIFAR-100, 32 x 32 RGB, fine labels (Krizhevsky, 2009)."""
  return _archive_or_tfds('cifar100', options)


def tiny_imagenet(options: Options) -> DataSource:
  """Returns Tiny ImageNet, 200 classes, 64 x 64 RGB (Le and Yang, 2015)."""
  path = tiny_imagenet_lib.find(options)
  return tiny_imagenet_lib.read(path, options, name='tiny_imagenet')


def cifar10_jpeg_subset(options: Options) -> DataSource:
  """Returns 10,000 JPEG copies of CIFAR-10 images, which are not CIFAR-10.

  The file holds undecoded JPEG bytes: image i of a split is
  `jpeg_SPLIT[offset_SPLIT[i]:offset_SPLIT[i + 1]]`.
  """
  path = _find_file(_CIFAR_SUBSET_FILE, options)
  tables = []
  for split in ('train', 'test'):
    names = [f'{kind}_{split}' for kind in ('jpeg', 'offset', 'y')]
    arrays = npz.load_arrays(path, [*names, 'classes'])
    if not set(names) <= set(arrays):
      raise InputError(
        f'{path}: expected arrays {", ".join(names)}, got '
        f'{", ".join(npz.array_names(path))}.'
      )
    jpeg, offset, labels = (arrays[key] for key in names)
    pixels = _decode_all(path, jpeg, offset)
    what = f'{path}: {split}'
    tables.append(Table(Column(pixels, what), Column(labels, what)))
  return assemble(
    'cifar10_jpeg_subset',
    tables,
    options,
    class_names=npz.class_names(path, arrays),
    notes=['lossy JPEG copies of a CIFAR-10 subset: not a CIFAR-10 result'],
  )


def charm_proxy(options: Options) -> DataSource:
  """Returns five domains of RGB photographs and drawings, as five groups.

  It imitates the domains of FissionVAE's CHARM data set and is not that set.
  Labels are unique over all domains; class names carry theirs.
  """
  sources = {
    domain: npz.read(_find_file(f'charm_{domain}_32.npz', options), options)
    for domain in _CHARM_DOMAINS
  }
  joined = _join('charm_proxy', sources)
  note = 'imitates the five domains of CHARM; not comparable with that data set'
  return dataclasses.replace(joined, notes=(*joined.notes, note))


def mixed_mnist(options: Options) -> DataSource:
  """Returns MNIST (group 0, labels 0-9) with Fashion-MNIST (1, 10-19)."""
  return _join(
    'mixed_mnist',
    {'mnist': mnist(options), 'fashion_mnist': fashion_mnist(options)},
  )


def digits_and_shapes(options: Options) -> DataSource:
  """Returns `digits` (group 0, labels 0-9) with shapes (1, 10-14), 8 x 8 grey.

  As many rendered shapes, dark on bright, as there are digits, bright on dark:
  two kinds of images that need no download (`shapes.render`, seed 0).
  """
  written = digits(options)
  size = len(written.train.labels) + len(written.test.labels)
  pixels, labels = shapes.render(size, written.input_shape[0], seed=0)
  table = Table(Column(pixels, 'shapes'), Column(labels, 'shapes'))
  rendered = assemble(
    'shapes', [table], options, class_names=shapes.CLASS_NAMES
  )
  return _join('digits_and_shapes', {'digits': written, 'shapes': rendered})


def gaussian_domains(options: Options) -> DataSource:
  """Returns 12,500 vectors of 32 features, 5 classes in 5 domains, the groups.

  Their moments are known (`gaussians.moments`). Each domain has two users, each
  user as many examples of every class. The examples are always the same;
  `test_fraction` and `seed` say which of them are held out.
  """
  inputs, labels, domains, users = gaussians.draw(250, seed=0)
  table = Table(
    *(Column(c, 'gaussian_domains') for c in (inputs, labels, users, domains))
  )
  source = assemble(
    'gaussian_domains',
    [table],
    options,
    class_names=[f'class {c}' for c in range(gaussians.NUM_CLASSES)],
    notes=['drawn from known Gaussians, not data of the world'],
  )
  return dataclasses.replace(
    source,
    group_names=tuple(f'domain {d}' for d in range(gaussians.NUM_DOMAINS)),
  )


READERS: Mapping[str, Callable[[Options], DataSource]] = {
  reader.__name__: reader
  for reader in (
    digits,
    mnist,
    fashion_mnist,
    mixed_mnist,
    digits_and_shapes,
    digits_features,
    gaussian_domains,
    emnist,
    cifar10,
    cifar10_jpeg_subset,
    cifar100,
    tiny_imagenet,
    charm_proxy,
    *packaged.READERS,
  )
}


class _IdxSet(NamedTuple):
  """A data set that comes as idx files, and its TFDS name."""

  folders: tuple[str, ...]
  prefix: str
  class_names: tuple[str, ...]
  dataset: str


_IDX_SETS = {
  'mnist': _IdxSet(('mnist',), '', _DIGITS, 'mnist'),
  'fashion_mnist': _IdxSet(
    ('fashion-mnist', 'fashion_mnist'), '', _GARMENTS, 'fashion_mnist'
  ),
  'emnist': _IdxSet(
    ('emnist',), 'emnist-balanced-', _CHARACTERS, 'emnist/balanced'
  ),
}


def _idx_or_tfds(name: str, options: Options) -> DataSource:
  """Reads idx files from a data folder if there are any, else from TFDS."""
  wanted = _IDX_SETS[name]
  # MNIST and Fashion-MNIST have the same file names: a data folder that is
  # named like the other one must not be taken for this one.
  foreign = {
    folder
    for other, idx_set in _IDX_SETS.items()
    for folder in idx_set.folders
    if other != name
  }
  for base in options.data_dirs:
    folders = [os.path.join(base, folder) for folder in wanted.folders]
    if os.path.basename(os.path.abspath(base)) not in foreign:
      folders.append(base)
    for folder in folders:
      if idx.is_idx_folder(folder):
        return idx.read(
          folder,
          options,
          name=name,
          prefix=wanted.prefix,
          class_names=wanted.class_names,
        )
  return tfds.read(
    wanted.dataset,
    options,
    name=name,
    class_names=wanted.class_names,
    transposed=name == 'emnist',
  )


def _archive_or_tfds(name: str, options: Options) -> DataSource:
  """Reads an archive of CIFAR from a data folder if there is one, else TFDS."""
  path = cifar.find(name, options)
  if path is not None:
    return cifar.read(str(path), options, name=name)
  return tfds.read(name, options, name=name)


def _path_of(file: str, options: Options) -> str | None:
  """Returns the path of `file` in the first data folder that has it."""
  paths = [os.path.join(folder, file) for folder in options.data_dirs]
  return next(filter(os.path.isfile, paths), None)


def _find_file(file: str, options: Options) -> str:
  """Returns the path of `file`, or says where it was looked for."""
  path = _path_of(file, options)
  if path is not None:
    return path
  places = ' or '.join(options.data_dirs) or 'no folder'
  raise InputError(
    f'Expected {file} in data_dir or the folder that '
    f'{examples.DATA_DIR_VARIABLE} names, looked in {places}.'
  )


def _standardised(images: np.ndarray) -> np.ndarray:
  """`[n, H W C]` float32 of mean 0 and stddev 1 in each row."""
  pixels = images.reshape(len(images), -1).astype(np.float32)
  pixels -= pixels.mean(axis=1, keepdims=True)
  return pixels / pixels.std(axis=1, keepdims=True)


def _decode_all(path: str, data: np.ndarray, offset: np.ndarray) -> np.ndarray:
  """Decodes pictures that lie one after the other in `data`."""
  size = (32, 32)
  pixels = np.empty((len(offset) - 1, *size, 3), np.uint8)
  for row, (start, end) in enumerate(itertools.pairwise(offset)):
    try:
      image = images.open_image(data[start:end].tobytes())
    except images.BadImage as error:
      raise InputError(f'{path}: image {row} is {error}.') from error
    pixels[row] = images.to_array(image, size, 3)
  return pixels


def _join(name: str, sources: Mapping[str, DataSource]) -> DataSource:
  """Joins sources as groups, with labels and class names of their own."""
  first_labels = np.cumsum([0] + [s.num_classes for s in sources.values()])

  def pooled(split: str) -> Examples:
    parts = []
    for group, source in enumerate(sources.values()):
      part = getattr(source, split)
      labels = part.labels + np.int32(first_labels[group])
      groups = np.full(len(labels), group, np.int32)
      parts.append(Examples(part.inputs, labels, groups=groups))
    return examples.concatenate(parts)

  return DataSource(
    name=name,
    train=pooled('train'),
    test=pooled('test'),
    class_names=tuple(
      f'{group}/{class_name}'
      for group, source in sources.items()
      for class_name in source.class_names
    ),
    group_names=tuple(sources),
    notes=tuple(
      f'{group}: {note}'
      for group, source in sources.items()
      for note in source.notes
    ),
  )
