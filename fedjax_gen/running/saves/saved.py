"""Trained models as files, usable without the code that trained them.

    model = fedjax_gen.load('runs/fedvae')
    images, labels = model.sample(10_000, seed=0)

A model is two files, `NAME.json` (what it is) and `NAME.msgpack` (its
variables, written by `flax.serialization`). Models are of several kinds: a
generator of a family (`models.generators`), a VAE for each group of clients, a
hypernetwork with codes, a generator of images from Gaussians of features. What
is particular to a kind stands in `saved_kinds` and `saving`; naming, checking
and reading are common and here.
"""

from collections.abc import Sequence
import os
import pathlib
from typing import Any

from flax import serialization
import jax

from fedjax_gen import trees, validate
from fedjax_gen.data.sources import DataSource
from fedjax_gen.data.tables import codec as codec_lib
from fedjax_gen.data.tables.codec import Codec
from fedjax_gen.errors import InputError
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.running.saves import saved_files, saved_kinds
from fedjax_gen.running.saves.trained_model import Group, TrainedModel
from fedjax_gen.types import Tree

PREFERRED = ('federated', 'L+D', 'FedHypeVAE', 'FedVTC')
"""The models that are loaded if none is named, the first that is there."""


def load_model(
  workdir: str | os.PathLike, name: str | None = None
) -> TrainedModel:
  """Loads a trained model from a run's work directory.

  Args:
    workdir: folder of the run, as given to `--workdir`.
    name: which model; if not given, the first of `PREFERRED` that is there,
      else the first.

  Raises:
    InputError: there is no such model, or its files are damaged.
  """
  folder = pathlib.Path(workdir) / saved_files.FOLDER
  names = saved_files.names(workdir)
  if not names:
    raise InputError(
      f'Expected a finished run with trained models in {folder}, found none.'
    )
  if name is None:
    name = preferred(names)
  if name not in names:
    raise InputError(
      f'Expected method to be one of {", ".join(names)}, the models in '
      f'{folder}, got method={name!r}.'
    )
  try:
    description = saved_files.description_of(workdir, name)
    built = _build(description)
    groups = _groups(description)
    variables = _restored(built, saved_files.state_of(workdir, name))
    differing = trees.first_differing_leaf(built.shapes, variables)
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(
      f'Expected {folder / name}.json and .msgpack to hold a trained model; '
      f'they cannot be read: {error}'
    ) from error
  if differing:
    raise InputError(
      f'Expected {folder / name}.msgpack to hold the variables that its '
      f'.json describes; {differing} differs.'
    )
  return TrainedModel(
    name,
    description['kind'],
    built.config,
    _spec(description),
    tuple(description['class_names']),
    built.functions,
    variables,
    built.is_conditional,
    built.generate,
    groups,
    built.classes,
    description.get('privacy'),
    _codec(description),
    built.options,
  )


def preferred(names: Sequence[str]) -> str:
  """The first of `PREFERRED` that is among names, else the first of them."""
  return next((known for known in PREFERRED if known in names), names[0])


def write(
  workdir: str | os.PathLike,
  name: str,
  kind: str,
  record: dict[str, Any],
  source: DataSource,
  stored: Tree,
) -> pathlib.Path:
  """Writes a model of any kind; the functions of `saving` call it.

  Args:
    workdir: folder of the run.
    name: of the model.
    kind: one that `saved_kinds.build` knows.
    record: JSON values that describe what is particular to the kind.
    source: the data it was trained on; shape and class names are kept.
    stored: its variables, as the kind stores them.

  Returns:
    The path of the description, `workdir/models/NAME.json`.

  Raises:
    InputError: it could not be read back.
  """
  saved_files.check_name(name)
  description = {
    'kind': kind,
    **record,
    'shape': list(source.input_shape),
    'class_names': list(source.class_names),
  }
  if source.codec is not None:
    description['codec'] = source.codec.to_record()
  state = serialization.to_state_dict(jax.device_get(stored))
  built = _build(description)
  _groups(description)
  try:
    variables = _restored(built, state)
    differing = trees.first_differing_leaf(built.shapes, variables)
  except (ValueError, KeyError) as error:
    differing = f'modules: {error}'
  if differing:
    raise InputError(
      f'Expected variables of the model that the configuration of {name} '
      f'describes, got others in {differing}.'
    )
  return saved_files.write(workdir, name, description, state)


def _build(description: dict[str, Any]) -> saved_kinds.Built:
  """The model that is described; see `saved_kinds.build`."""
  return saved_kinds.build(description, _spec(description))


def _restored(built: saved_kinds.Built, stored: Tree) -> Any:
  """Variables in the structure that the model has; shapes are not looked at.

  Raises:
    ValueError: names of modules or leaves differ.
  """
  return serialization.from_state_dict(built.shapes, built.unpack(stored))


def _spec(description: dict[str, Any]) -> DataSpec:
  codec = _codec(description)
  return DataSpec(
    tuple(description['shape']),
    len(description['class_names']),
    () if codec is None else codec.layout,
  )


def _codec(description: dict[str, Any]) -> Codec | None:
  """How series and tables are encoded; None for other data."""
  record = description.get('codec')
  return None if record is None else codec_lib.from_record(record)


def _groups(description: dict[str, Any]) -> tuple[Group, ...]:
  """The groups of a model of any kind that has them."""
  num_classes = len(description['class_names'])
  groups = tuple(
    Group(record['name'], record['share'], tuple(record['classes']))
    for record in description.get('groups', ())
  )
  for group in groups:
    validate.fraction(share=group.share)
    if not group.classes or not set(group.classes) <= set(range(num_classes)):
      raise InputError(
        f'Expected classes of group {group.name} in [0, {num_classes}), got '
        f'classes={group.classes}.'
      )
  if groups:
    validate.positive(sum_of_shares=sum(group.share for group in groups))
  return groups
