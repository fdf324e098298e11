"""Clients' own classifiers as files, usable without the code that trained them.

    clients = fedjax_gen.load_clients('runs/fedvtc')
    probabilities = clients.predict(images, client=3)

The classifiers of all clients of one method are two files, `NAME.clients.json`
(which they are) and `NAME.clients.msgpack` (their variables). For a population
on the host the latter is a folder with a row for each client, `NAME.clients`:
written one block of clients at a time, and read one by one.

A simulation knows all clients, so it can write them together. In a federation
each classifier would stay with its client: it was trained on that client's
data, and no differential privacy of messages covers it.
"""

from collections.abc import Sequence
import functools
import os
import pathlib
from typing import Any, NamedTuple

from flax import serialization
import jax
import numpy as np

from fedjax_gen import trees
from fedjax_gen.data.sources import DataSource
from fedjax_gen.errors import InputError
from fedjax_gen.models.classification.classifiers import (
  Classifier,
  ClassifierConfig,
  build_classifiers,
)
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.running.saves import saved, saved_files, saved_kinds
from fedjax_gen.running.storage import config_records
from fedjax_gen.streaming.row_files import RowFiles
from fedjax_gen.types import Array, Tree, Variables

_BATCH_SIZE = 500
_ROWS = 'in_rows'  # of a description: whether variables lie in a file of rows


class ClientModels(NamedTuple):
  """The classifiers of all clients, in fleets of one architecture.

  Attributes:
    name: of the method that trained them.
    config: which classifiers; `config.architectures` are those of the fleets.
    spec: shape of the images and number of classes.
    class_names: names of the classes, in label order.
    functions: the classifier of each fleet, as pure functions.
    clients: numbers of the clients of each fleet.
    variables: of each fleet, leaves `[N, ...]` in the order of `clients`.
  """

  name: str
  config: ClassifierConfig
  spec: DataSpec
  class_names: tuple[str, ...]
  functions: tuple[Classifier, ...]
  clients: tuple[tuple[int, ...], ...]
  variables: tuple[Variables, ...]

  @property
  def num_clients(self) -> int:
    """Clients of all fleets."""
    return sum(map(len, self.clients))

  @property
  def architectures(self) -> tuple[str, ...]:
    """The architecture of each client, in the order of their numbers."""
    by_number = {
      number: model.name
      for model, numbers in zip(self.functions, self.clients, strict=True)
      for number in numbers
    }
    return tuple(by_number[number] for number in sorted(by_number))

  def predict(self, images: np.ndarray, client: int) -> np.ndarray:
    """Probabilities of classes, by the head of a client's classifier.

    Args:
      images: `[n, H, W, C]` uint8.
      client: its number, in [0, num_clients).

    Returns:
      `[n, num_classes]` float32, rows that sum to 1.

    Raises:
      InputError: there is no such client, or the images are not of the shape
        and type that classifiers were trained on.
    """
    fleet, row = self._place_of(client)
    images = np.asarray(images)
    if (
      images.shape[1:] != self.spec.shape
      or not len(images)
      or images.dtype != np.uint8
    ):
      raise InputError(
        f'Expected images of shape {["n", *self.spec.shape]} and type uint8, '
        f'one at least, got an array of shape {list(images.shape)} and type '
        f'{images.dtype}.'
      )
    own = trees.take(self.variables[fleet], row)
    return np.concatenate(
      [
        _probabilities(
          self.functions[fleet], own, images[start : start + _BATCH_SIZE]
        )
        for start in range(0, len(images), _BATCH_SIZE)
      ]
    )

  def classify(self, images: np.ndarray, client: int) -> np.ndarray:
    """The likeliest class of each image, `[n]` int32; see `predict`."""
    return self.predict(images, client).argmax(axis=-1).astype(np.int32)

  def _place_of(self, client: int) -> tuple[int, int]:
    """Fleet of a client, and its row there."""
    if not isinstance(client, bool):
      for fleet, numbers in enumerate(self.clients):
        if client in numbers:
          return fleet, numbers.index(client)
    there = sorted(number for fleet in self.clients for number in fleet)
    known = f'in [0, {len(there)})'
    if there[-1] >= len(there):
      shown = ', '.join(map(str, there[:10])) + ', ...' * (len(there) > 10)
      known = f'to be one of {shown}'
    raise InputError(f'Expected client {known}, got client={client!r}.')


def save_clients(
  workdir: str | os.PathLike,
  name: str,
  config: ClassifierConfig,
  source: DataSource,
  clients: Sequence[Sequence[int] | np.ndarray],
  variables: Sequence[Variables],
) -> pathlib.Path:
  """Writes the classifiers of all clients under `workdir/models`.

  Args:
    workdir: folder of the run.
    name: of the method; letters, digits and `+-=_.`.
    config: which classifiers, an architecture for each fleet.
    source: the data they were trained on; shape and class names are kept.
    clients: numbers of the clients of each fleet, each at most once; some may
      be left out.
    variables: `{'extractor', 'head'}` of each fleet, leaves `[N, ...]`. They
      predict by the head. Where clients of a method predict otherwise, by the
      nearest prototype as in FedProto, that is another prediction than the
      method's own.

  Returns:
    The path of the description, `workdir/models/NAME.clients.json`.

  Raises:
    InputError: a number is there twice, the variables are not of those
      classifiers and clients, or no file can have the name.
  """
  saved_files.check_name(name)
  description = _description(config, source, clients)
  state = serialization.to_state_dict(jax.device_get(tuple(variables)))
  empty = _described(name, description)
  if differing := _restored(empty, state)[1]:
    raise InputError(
      f'Expected variables of the classifiers that the configuration of {name} '
      f'describes, got others in {differing}.'
    )
  return saved_files.write(
    workdir, name, description, state, saved_files.CLIENTS
  )


class ClientsWriter:
  """As `save_clients`, some clients at a time; whole once it is closed.

  Args:
    workdir, name, config, source, clients: see `save_clients`.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    name: str,
    config: ClassifierConfig,
    source: DataSource,
    clients: Sequence[Sequence[int] | np.ndarray],
  ):
    saved_files.check_name(name)
    self._workdir, self._name = workdir, name
    self._description = _description(config, source, clients) | {_ROWS: True}
    self._files = _row_files(workdir, _described(name, self._description))
    self._tables = [np.zeros(len(numbers), np.uint8) for numbers in clients]

  def put(self, fleet: int, rows: np.ndarray, variables: Variables) -> None:
    """Writes the classifiers of some clients of a fleet.

    Args:
      fleet: which.
      rows: `[k]` places of the clients in `clients[fleet]`.
      variables: leaves `[k, ...]`.
    """
    self._files[fleet].write(self._tables[fleet], rows, variables)

  def close(self) -> pathlib.Path:
    """Writes the description and returns its path."""
    for file in self._files:
      file.flush()
    return saved_files.write_description(
      self._workdir, self._name, self._description, saved_files.CLIENTS
    )


def load_clients(workdir: str | os.PathLike, name: str = '') -> ClientModels:
  """Loads the classifiers of all clients from a run's work directory.

  Args:
    workdir: folder of the run, as given to `--workdir`.
    name: of the method; if not given, the first of `saved.PREFERRED` that is
      there, else the first.

  Raises:
    InputError: there is no such method, or its files are damaged.
  """
  folder = pathlib.Path(workdir) / saved_files.FOLDER
  names = saved_files.names(workdir, saved_files.CLIENTS)
  if not names:
    raise InputError(
      "Expected a finished run with clients' classifiers in "
      f'{folder}, found none.'
    )
  if not name:
    name = saved.preferred(names)
  if name not in names:
    raise InputError(
      f'Expected name to be one of {", ".join(names)}, the methods with '
      f"clients' classifiers in {folder}, got name={name!r}."
    )
  ending = saved_files.CLIENTS
  path = folder / f'{name}{ending}'
  try:
    description = saved_files.description_of(workdir, name, ending)
    empty = _described(name, description)
    variables, differing = _variables_of(workdir, name, empty, description)
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(
      f"Expected {path}.json and .msgpack to hold clients' classifiers; they "
      f'cannot be read: {error}'
    ) from error
  if differing:
    raise InputError(
      f'Expected {path}.msgpack to hold the variables that its .json '
      f'describes; {differing} differs.'
    )
  return empty._replace(variables=variables)


def _description(
  config: ClassifierConfig,
  source: DataSource,
  clients: Sequence[Sequence[int] | np.ndarray],
) -> dict[str, Any]:
  """What JSON says of the classifiers."""
  return {
    'config': config_records.to_record(config),
    'clients': [np.asarray(numbers).tolist() for numbers in clients],
    'shape': list(source.input_shape),
    'class_names': list(source.class_names),
  }


def _described(name: str, description: dict[str, Any]) -> ClientModels:
  """The classifiers that are described; shapes in place of variables."""
  config = config_records.from_record(ClassifierConfig, description['config'])
  names = tuple(description['class_names'])
  spec = DataSpec(tuple(description['shape']), len(names))
  clients = tuple(tuple(numbers) for numbers in description['clients'])
  numbers = sorted(number for fleet in clients for number in fleet)
  if (
    len(clients) != len(config.architectures)
    or not numbers
    or numbers[0] < 0
    or len(set(numbers)) < len(numbers)
  ):
    raise InputError(
      f'Expected clients in {len(config.architectures)} fleets, numbers >= 0, '
      f'each once, got clients={list(clients)}.'
    )
  functions = build_classifiers(config, spec)
  shapes = tuple(
    saved_kinds.stacked_shapes(
      jax.eval_shape(model.init, jax.random.key(0)), len(fleet)
    )
    for model, fleet in zip(functions, clients, strict=True)
  )
  return ClientModels(name, config, spec, names, functions, clients, shapes)


def _row_files(
  workdir: str | os.PathLike, described: ClientModels
) -> list[RowFiles]:
  """Of each fleet the file with a row for each client."""
  folder = pathlib.Path(workdir) / saved_files.FOLDER
  folder = folder / f'{described.name}{saved_files.CLIENTS}'
  return [
    RowFiles(
      folder / f'fleet_{number}', jax.eval_shape(model.init, jax.random.key(0))
    )
    for number, model in enumerate(described.functions)
  ]


def _variables_of(
  workdir: str | os.PathLike,
  name: str,
  empty: ClientModels,
  description: dict[str, Any],
) -> tuple[tuple[Variables, ...], str | None]:
  """Variables of all fleets, and where they are not of these classifiers."""
  if not description.get(_ROWS):
    state = saved_files.state_of(workdir, name, saved_files.CLIENTS)
    return _restored(empty, state)
  root = saved_files.root_of(workdir, name, saved_files.CLIENTS)
  files = zip(_row_files(root, empty), empty.clients, strict=True)
  return tuple(file.mapped(len(numbers)) for file, numbers in files), None


def _restored(
  empty: ClientModels, state: Tree
) -> tuple[tuple[Variables, ...], str | None]:
  """Variables of all fleets, and where they are not of these classifiers."""
  try:
    variables = serialization.from_state_dict(empty.variables, state)
  except (ValueError, KeyError) as error:
    return (), f'modules: {error}'
  return variables, trees.first_differing_leaf(empty.variables, variables)


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(
  model: Classifier, variables: Variables, images: Array
) -> Array:
  """`[n, C]` of images `[n, H, W, C]`."""
  return jax.nn.softmax(model(variables, images))
