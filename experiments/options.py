"""Flags that several programs share, beyond those of the run itself."""

import dataclasses

from fedjax_gen.data import sources


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """The data."""

  data: str = dataclasses.field(
    default='digits',
    metadata={
      'help': 'A name ('
      + ', '.join(sources.NAMES)
      + ', tfds:NAME) or a path: npz file, folder of idx files, of CIFAR or '
      'of images, clients:PATH, groups:PATH.',
      'placeholder': 'NAME_OR_PATH',
    },
  )
  data_dir: str = dataclasses.field(
    default='',
    metadata={
      'help': 'Where named data sets lie.',
      'placeholder': 'DIR',
      'recorded': False,
    },
  )
  image_size: int = dataclasses.field(
    default=0, metadata={'help': 'Resize images to this; 0 keeps their size.'}
  )
  test_fraction: float = dataclasses.field(
    default=0.2,
    metadata={'help': 'Held out if the data have no test split.'},
  )
  num_examples: int = dataclasses.field(
    default=0,
    metadata={
      'help': 'Keep this many training examples, drawn so that every class '
      'keeps its share; 0 keeps all.'
    },
  )
  num_test_examples: int = dataclasses.field(
    default=0, metadata={'help': 'Keep this many test examples likewise.'}
  )


def load_source(config: DataConfig, *, seed: int) -> sources.DataSource:
  """Reads the data that the flags ask for.

  Raises:
    InputError: see `sources.load`.
  """
  return sources.load(
    config.data,
    data_dir=config.data_dir or None,
    image_size=config.image_size or None,
    test_fraction=config.test_fraction,
    num_examples=config.num_examples,
    num_test_examples=config.num_test_examples,
    seed=seed,
  )
