"""Samples from the model that a finished run trained."""

import dataclasses
import json
import pathlib
from typing import NamedTuple

import numpy as np

from fedjax_gen import fields, files
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import pictures
from fedjax_gen.running.saves import saved
from fedjax_gen.running.saves.trained_model import TrainedModel
from fedjax_gen.running.storage import disk as running_files
from fedjax_gen.studies.command import program

_MAX_PICTURES = 100
_MAX_COLUMNS = 10  # of a picture with a row for each group


@dataclasses.dataclass(frozen=True)
class GenerateConfig(fields.Configuration):
  """What to generate."""

  workdir: str = fields.option(
    '', 'Work directory of a finished run.', placeholder='DIR'
  )
  method: str = fields.option(
    '',
    'Method of the model. Default: the main method of the run.',
    placeholder='NAME',
  )
  group: str = fields.option(
    '',
    'Samples of one group only, by name or number. Default: all '
    'groups, mixed as in the training data.',
    placeholder='NAME',
  )
  num: int = fields.positive_int(1000, 'Number of examples.')
  label: int = fields.option(
    -1,
    'Samples of one class only; -1 for all classes that the model '
    'knows, or all of the group, in turn.',
  )
  seed: int = fields.non_negative_int(
    0, 'Seed; the same seed gives the same examples.'
  )
  out: str = fields.option(
    'synthetic.npz',
    'npz file with x, y, classes, groups and, of a private run, its privacy '
    'guarantee; a .png of the first 100, or of the first 10 of each group; '
    'or, for tables and series, a .csv in the columns of the data.',
    placeholder='FILE',
  )

  def __post_init__(self):
    super().__post_init__()
    if self.label < -1:
      raise InputError(f'Expected label >= -1, got label={self.label}.')
    path = pathlib.Path(self.out)
    if path.suffix.lower() not in ('.npz', '.png', '.csv') or path.is_dir():
      raise InputError(
        f'Expected out to be a file that ends in .npz, .png or .csv, got '
        f'out={self.out!r}.'
      )


class Configs(NamedTuple):
  """Everything of the command line, and what it is by default."""

  generate: GenerateConfig = GenerateConfig()


def main(asked: Configs) -> None:
  """Samples and writes; see `program.run`."""
  config = asked.generate
  if not config.workdir:
    raise InputError(
      'Expected the work directory of a finished run: --workdir=DIR.'
    )
  model = saved.load_model(config.workdir, config.method or None)
  path = pathlib.Path(config.out)
  is_picture = path.suffix.lower() == '.png'
  kind = model.spec.kind
  endings = {'grid': '.npz or .png', '': '.npz'}.get(
    kind.picture, '.npz or .csv'
  )
  if path.suffix.lower() not in endings.split(' or '):
    raise InputError(
      f'Expected out to end in {endings}, since {config.workdir} is of '
      f'{kind.form}; got out={config.out!r}.'
    )
  if config.label >= model.spec.num_classes:
    raise InputError(
      f'Expected label < {model.spec.num_classes}, the number of classes, '
      f'got label={config.label}.'
    )
  group = _group(model, config.group)
  num = config.num
  if is_picture:
    rows = _rows(model, config, group)
    num = sum(len(images) for images in rows.values())
  elif path.suffix.lower() == '.csv':
    columns = model.columns(
      num, labels=_labels(config, num), seed=config.seed, group=group
    )
  else:
    arrays = _arrays(model, config, group)
  try:
    with running_files.full_disk_named(path):
      if path.suffix.lower() == '.csv':
        files.write_columns(path, columns)
        if model.privacy is not None:
          running_files.write_atomically(
            path.with_suffix('.privacy.json'),
            running_files.to_json(dict(model.privacy)) + '\n',
          )
      elif not is_picture:
        files.write_arrays(path, arrays)
      elif len(rows) == 1:
        pictures.image_grid(next(iter(rows.values())), path)
      else:
        pictures.image_rows(rows, path)
  except OSError as error:
    raise InputError(
      f'Cannot write out={config.out!r}: {error.strerror}.'
    ) from error
  print(f'{num} examples of {model.name}: {path}')


def _group(model: TrainedModel, asked: str) -> str | int | None:
  """The group as `sample` takes it; digits are a number if no name."""
  if asked.isdecimal() and asked not in [group.name for group in model.groups]:
    return int(asked)
  return asked or None


def _sample(
  model: TrainedModel,
  config: GenerateConfig,
  num: int,
  group: str | int | None,
) -> tuple[np.ndarray, np.ndarray | None]:
  labels = _labels(config, num)
  return model.sample(num, labels=labels, seed=config.seed, group=group)


def _labels(config: GenerateConfig, num: int) -> np.ndarray | None:
  return np.full(num, config.label) if config.label >= 0 else None


def _rows(
  model: TrainedModel, config: GenerateConfig, group: str | int | None
) -> dict[str, np.ndarray]:
  """Images of a picture by the title of their row, or all under one."""
  if group is not None or not model.groups:
    num = min(config.num, _MAX_PICTURES)
    return {'': _sample(model, config, num, group)[0]}
  # Not in the groups' shares: each is to be seen.
  num = max(1, min(config.num // len(model.groups), _MAX_COLUMNS))
  return {
    known.name: _sample(model, config, num, number)[0]
    for number, known in enumerate(model.groups)
  }


def _arrays(
  model: TrainedModel, config: GenerateConfig, group: str | int | None
) -> dict[str, np.ndarray]:
  """The examples under the names by which `sources.load` reads them back."""
  inputs, labels = _sample(model, config, config.num, group)
  arrays = {'x': inputs}
  if model.codec is not None:
    columns = model.codec.schema.columns
    arrays['channels'] = np.asarray([column.name for column in columns])
  if labels is not None:
    arrays |= {'y': labels, 'classes': np.asarray(model.class_names)}
  if model.groups:
    names = np.asarray([known.name for known in model.groups])
    arrays['groups'] = names[model.sample_groups(config.num, group=group)]
  if model.privacy is not None:
    # What holds of them travels with them.
    arrays['privacy'] = np.asarray(json.dumps(dict(model.privacy)))
  return arrays


PROGRAM = program.Program(
  name='generate',
  sentence='Samples from the model that a finished run trained.',
  examples=(
    (
      '--workdir=runs/fedvae --num=10000',
      'Ten thousand samples, into synthetic.npz.',
    ),
    ('--workdir=runs/fedvae --out=grid.png', 'A picture of the first 100.'),
    ('--workdir=runs/fedvae --method=central --label=3', 'Threes only.'),
    (
      '--workdir=runs/fissionvae --group=shapes',
      'Samples of one group of clients.',
    ),
    (
      '--workdir=runs/fedvae --out=patients.csv',
      'In the columns of the table.',
    ),
  ),
  configs=Configs(),
  main=main,
)
