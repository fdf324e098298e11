"""Flags that several programs share, beyond those of the run itself."""

from collections.abc import Callable, Collection, Sequence
import dataclasses

import numpy as np

from fedjax_gen import fields, validate
from fedjax_gen.data import sources
from fedjax_gen.data.examples import fingerprint
from fedjax_gen.data.tables import agreed
from fedjax_gen.errors import InputError


@dataclasses.dataclass(frozen=True)
class DataConfig(fields.Configuration):
  """The data."""

  data: str = fields.option(
    'digits',
    'A name ('
    + ', '.join(sources.NAMES)
    + ', tfds:NAME) or a path: npz file, folder of idx files, of CIFAR or '
    'of images, table (.csv, .tsv, .parquet), clients:PATH, groups:PATH, '
    'series:FILE.npz.',
    placeholder='NAME_OR_PATH',
  )
  data_dir: str = fields.option(
    '', 'Where named data sets lie.', placeholder='DIR', recorded=False
  )
  image_size: int = fields.option(
    0, 'Resize images to this; 0 keeps their size.'
  )
  test_fraction: float = fields.option(
    0.2, 'Held out if the data have no test split.'
  )
  num_examples: int = fields.option(
    0,
    'Keep this many training examples, with the same share of every class; '
    '0 keeps all.',
  )
  num_test_examples: int = fields.option(0, 'The same for test examples.')
  client_column: str = fields.option(
    '',
    'Column of a table that names the client of each row.',
    placeholder='NAME',
  )
  label_column: str = fields.option(
    '', 'Column of a table that holds the class.', placeholder='NAME'
  )
  group_column: str = fields.option(
    '',
    'Column of a table that names the group of each row; without one each '
    'client that the data name is a group.',
    placeholder='NAME',
  )
  person_column: str = fields.option(
    '',
    'Column of a table that names whom a row is about: all rows of one are for '
    'training, or all held out.',
    placeholder='NAME',
  )
  schema: str = fields.option(
    '',
    'JSON or TOML file that corrects the columns that were found; python -m '
    'fedjax_gen.data.tables.table FILE.csv shows them.',
    placeholder='FILE',
  )
  encoding: str = fields.option(
    '',
    'Columns and scales that were agreed on, as a coordinator writes them; '
    'public: nothing of the data is read or released for them.',
    placeholder='FILE',
  )
  window: int = fields.option(
    0, 'Time steps of an example, of series; 0 for whole recordings.'
  )
  stride: int = fields.option(
    0, 'Steps from one window to the next; 0 for window.'
  )
  test_clients: tuple[str, ...] = fields.option(
    (), 'Clients who take no part: all their examples are held out.'
  )


@dataclasses.dataclass(frozen=True)
class PopulationConfig(fields.Configuration):
  """Where the clients lie."""

  population_on_host: bool = fields.option(
    False,
    'Keep examples and client states on the host, in files where possible; '
    'only the clients of a round are on the device. For large populations '
    'and data; the results are the same.',
  )

  def check(self, num_processes: int) -> None:
    """Checks that the population may lie where it is asked to.

    Raises:
      InputError: several processes would write its files.
    """
    if self.population_on_host and num_processes > 1:
      raise InputError(
        'Expected one process with population_on_host=true, because only one '
        f'writes its files, got {num_processes}.'
      )


@dataclasses.dataclass(frozen=True)
class MeasuredConfig(fields.Configuration):
  """Who is measured."""

  measured_clients: int = fields.non_negative_int(
    0,
    'Measure only this many clients, spread over all; 0 for all. Each model '
    'of a client is tested on the data of all, which takes longer than '
    'training if there are many.',
  )

  def rows(self, num_clients: Sequence[int]) -> list[np.ndarray]:
    """Of each fleet the clients to measure: in proportion, one at least."""
    total = sum(num_clients)
    wanted = min(self.measured_clients or total, total)
    return [
      np.arange(number) * size // number
      for size in num_clients
      if (number := max(1, round(wanted * size / total)))
    ]


def load_source(config: DataConfig, *, seed: int) -> sources.DataSource:
  """Reads the data that the flags ask for."""
  schema = config.schema
  if config.encoding:
    if schema:
      raise InputError(
        f'Expected no schema={schema!r} with encoding={config.encoding!r}, '
        'which names all columns.'
      )
    codec = agreed.read(config.encoding)
    schema = config.encoding if sources.is_table_file(config.data) else ''
  source = sources.load(
    config.data,
    data_dir=config.data_dir or None,
    image_size=config.image_size or None,
    test_fraction=config.test_fraction,
    num_examples=config.num_examples,
    num_test_examples=config.num_test_examples,
    seed=seed,
    client_column=config.client_column,
    label_column=config.label_column,
    group_column=config.group_column,
    person_column=config.person_column,
    schema=schema,
    window=config.window,
    stride=config.stride,
    test_clients=config.test_clients,
  )
  source = dataclasses.replace(
    source, fingerprint=fingerprint(source.train, source.test)
  )
  if config.encoding:
    return agreed.fitted(source, codec, config.encoding)
  return source


def each_once(
  known: Collection[str] | Callable[[str], str], **choices: Sequence[str]
) -> None:
  """Checks a flag that lists names, as `each_once(METHODS, methods=given)`.

  Args:
    known: the names there are, or a function that refuses those that there are
      not and writes the others in one way.
    **choices: by the flag's name what was given.
  """
  for flag, given in choices.items():
    names = []
    for name in given or ('',):
      if callable(known):
        name = known(name)
      else:
        validate.one_of(known, **{flag: name})
      names.append(name)
    if len(set(names)) < len(names):
      raise InputError(f'Expected each of {flag} once, got {",".join(given)}.')
