"""Reads TensorFlow Datasets by name, through array_record data sources.

Reading a prepared data set needs no TensorFlow; preparing one does, and most
need the network. Reference: https://www.tensorflow.org/datasets/data_source
"""

from collections.abc import Iterator
import contextlib
import difflib
import importlib.util
import logging
from types import ModuleType
from typing import Any
import urllib.error
import urllib.request

import numpy as np

from fedjax_gen.data import images
from fedjax_gen.data.assemble import Column, Table, assemble
from fedjax_gen.data.examples import DataSource, Options
from fedjax_gen.errors import InputError

_PROBE_URL = 'https://storage.googleapis.com'  # serves TFDS's own metadata
_PROBE_SECONDS = 5
# What takes the place of TFDS, for sets with a reader of their own.
_LOCAL_FILES = {
  'mnist': 'put the original idx files in data_dir/mnist',
  'fashion_mnist': 'put the original idx files in data_dir/fashion_mnist',
  'cifar10': 'put the original archive, unpacked, in data_dir '
  '(cifar-10-batches-bin or cifar-10-batches-py)',
  'cifar100': 'put the original archive, unpacked, in data_dir '
  '(cifar-100-binary or cifar-100-python)',
}
_MAX_RETRIES = 2  # about a second; TFDS's own 10 take over three minutes


class AbsentError(InputError):
  """The data set is not there: TFDS is not installed, or cannot fetch it."""


def read(
  dataset: str,
  options: Options,
  *,
  name: str | None = None,
  class_names: tuple[str, ...] | None = None,
  transposed: bool = False,
) -> DataSource:
  """Reads one image-classification data set of TensorFlow Datasets.

  It is looked for, prepared, in `options.data_dirs` and in TFDS's own folder.
  If it is in none, it is prepared in `options.data_dir` or TFDS's folder.

  Args:
    dataset: TFDS name, `NAME` or `NAME/CONFIG`.
    options: Folder, size and split wishes.
    name: Name of the source, `tfds:NAME` if None.
    class_names: Names in label order, those of TFDS if None.
    transposed: Whether stored images are transposed (EMNIST's are).

  Raises:
    AbsentError: An extra is not installed, or the data set is not prepared and
      cannot be (no network, for instance).
    InputError: The name is unknown, or the data set holds no images or is
      prepared in a format other than array_record.
  """
  tfds = _import_tfds(dataset)
  builder = _prepared_builder(tfds, dataset, options)
  features = builder.info.features
  image_key = _key(features, tfds.features.Image)
  label_key = _key(features, tfds.features.ClassLabel)
  splits = [
    s for s in ('train', 'test', 'validation') if s in builder.info.splits
  ]
  if image_key is None or splits[:1] != ['train']:
    raise InputError(
      f'tfds:{dataset}: expected an image feature and a train split, got '
      f'features {", ".join(features)} and splits '
      f'{", ".join(builder.info.splits)}.'
    )
  image = features[image_key]  # np_dtype: dtype would need TensorFlow
  shape, dtype = image.shape, image.np_dtype
  if shape[-1] not in (1, 3) or dtype != np.uint8:
    raise InputError(
      f'tfds:{dataset}: expected uint8 images of 1 or 3 channels, got '
      f'{np.dtype(dtype)} of shape {list(shape)}.'
    )
  if class_names is None and label_key is not None:
    class_names = tuple(features[label_key].names)
  notes = [f'read from {builder.data_path}, in the shuffled order of TFDS']
  size = options.image_size
  if size is None and None in shape:
    size = images.DEFAULT_SIZE
    notes.append(
      'images of several sizes cropped to the centre square and resized to '
      f'{size}x{size}; image_size chooses another size'
    )
  tables = []
  for split in splits[:2]:
    what = f'tfds:{dataset}: {split} split'
    try:
      columns = _read_split(builder, split, image_key, label_key, size)
    except Exception as error:  # corrupt records raise what C++ makes of them
      raise InputError(
        f'{what}: cannot be read from {builder.data_path}: {_first_line(error)}'
      ) from error
    if transposed:
      columns[0] = columns[0].swapaxes(1, 2)
    tables.append(Table(*(Column(values, what) for values in columns)))
  return assemble(
    name or f'tfds:{dataset}',
    tables,
    options,
    class_names=class_names,
    notes=notes,
  )


def _import_tfds(dataset: str) -> ModuleType:
  """Imports the optional dependency, or says how to get it."""
  try:
    import array_record  # noqa: F401, PLC0415
    import tensorflow_datasets  # noqa: PLC0415
  except ImportError as error:
    raise AbsentError(
      f"Expected tensorflow-datasets and array_record, to read '{dataset}': "
      f'{error}. Install the extra with: pip install "fedjax_gen[tfds]"'
      f'{_local_files(dataset)}.'
    ) from error
  return tensorflow_datasets


def _prepared_builder(tfds: ModuleType, dataset: str, options: Options) -> Any:
  """Finds the data set prepared, or prepares it."""
  with _quiet():
    for folder in (*options.data_dirs, None):
      builder = _builder(tfds, dataset, folder)
      if builder.is_prepared():
        break
    else:
      builder = _builder(tfds, dataset, options.data_dir)
      _prepare(builder, dataset)
  if builder.info.file_format.value != 'array_record':
    raise InputError(
      f'{builder.data_path}: expected files in array_record format, got '
      f'{builder.info.file_format.value}; prepare it again with '
      f"tfds.builder({dataset!r}, file_format='array_record')."
    )
  return builder


def _builder(tfds: ModuleType, dataset: str, folder: str | None) -> Any:
  """Builds the description of the data set; nothing is read or fetched."""
  try:
    return tfds.builder(dataset, data_dir=folder, file_format='array_record')
  # Data set scripts are foreign code and may raise anything; for an unknown
  # name TFDS goes on to search the network, and what then fails varies.
  except Exception as error:
    known = tfds.list_builders(with_community_datasets=False)
    base = dataset.partition('/')[0].partition(':')[0]
    if base in known:
      raise InputError(
        f'tfds:{dataset}: TensorFlow Datasets cannot open it: '
        f'{_first_line(error)}'
      ) from error
    near = difflib.get_close_matches(base, known, n=3)
    hint = f'; did you mean {", ".join(near)}?' if near else '.'
    raise InputError(
      f'Expected the name of a TensorFlow data set, got {dataset!r}{hint}'
    ) from error


def _prepare(builder: Any, dataset: str) -> None:
  """Downloads and prepares, after making sure that this can work at all."""
  problems = []
  if importlib.util.find_spec('tensorflow') is None:
    problems.append(
      'preparing it needs TensorFlow (pip install "fedjax_gen[tfds-prepare]")'
    )
  if not _network_reachable():
    problems.append('the network cannot be reached')
  if not problems:
    try:
      with _few_retries():
        builder.download_and_prepare()
      return
    # Anything from a lost connection to a full disk or a manual download.
    except Exception as error:
      problems.append(f'preparing failed: {_first_line(error)}')
  raise AbsentError(
    f"'{dataset}' is not prepared in {builder.data_dir}, and "
    f'{" and ".join(problems)}: give a data_dir in which TensorFlow Datasets '
    f'prepared it elsewhere{_local_files(dataset)}.'
  )


def _read_split(
  builder: Any,
  split: str,
  image_key: str,
  label_key: str | None,
  size: int | None,
) -> list[np.ndarray]:
  """Reads images and, if the data set has them, labels."""
  pictures, labels = [], []
  for example in builder.as_data_source(split=split):
    picture = example[image_key]
    # One at a time: originals of several sizes may not fit in memory.
    pictures.append(images.resize(picture[None], size)[0] if size else picture)
    if label_key is not None:
      labels.append(example[label_key])
  columns = [np.stack(pictures)]
  if label_key is not None:
    columns.append(np.array(labels))
  return columns


def _key(features: Any, kind: type) -> str | None:
  """Names a feature of a kind, preferably `image` or `label`."""
  keys = sorted(features, key=lambda key: key not in ('image', 'label'))
  return next((key for key in keys if isinstance(features[key], kind)), None)


def _network_reachable() -> bool:
  """Returns within seconds whether a web server answers, through any proxy."""
  try:
    with urllib.request.urlopen(_PROBE_URL, timeout=_PROBE_SECONDS):
      return True
  except urllib.error.HTTPError:  # it answered
    return True
  except OSError:
    return False


@contextlib.contextmanager
def _few_retries() -> Iterator[None]:
  """Cuts TFDS's retries, for which it has no setting."""
  from tensorflow_datasets.core.download import downloader  # noqa: PLC0415

  usual = getattr(downloader, 'MAX_RETRIES', None)
  downloader.MAX_RETRIES = _MAX_RETRIES
  try:
    yield
  finally:
    downloader.MAX_RETRIES = usual


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps TFDS from warning about each folder that lacks the data set."""
  logger = logging.getLogger('absl')
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)


def _local_files(dataset: str) -> str:
  """Names the way round TFDS."""
  way = _LOCAL_FILES.get(
    dataset, 'give the path of local files (idx, npz or a folder of images)'
  )
  return f', or {way}'


def _first_line(error: Exception) -> str:
  """Returns the type and the first line of a message that may be long."""
  lines = str(error).strip().splitlines() or ['']
  return f'{type(error).__name__}: {lines[0][:300]}'
