"""Samples from the model that a finished run trained."""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

import numpy as np

from experiments import common
from fedjax_gen import files, validate
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import pictures
from fedjax_gen.running import files as running_files, saved

_MAX_PICTURES = 100


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
  """What to generate.

  Raises:
    InputError: a value is out of range.
  """

  workdir: str = dataclasses.field(
    default='',
    metadata={
      'help': 'Work directory of a finished run.',
      'placeholder': 'DIR',
    },
  )
  method: str = dataclasses.field(
    default='',
    metadata={
      'help': 'Which of its models. Default: federated.',
      'placeholder': 'NAME',
    },
  )
  num: int = dataclasses.field(
    default=1000, metadata={'help': 'How many examples.'}
  )
  label: int = dataclasses.field(
    default=-1,
    metadata={'help': 'Of one class only; -1 for all classes in turn.'},
  )
  seed: int = dataclasses.field(
    default=0, metadata={'help': 'Same seed, same examples.'}
  )
  out: str = dataclasses.field(
    default='synthetic.npz',
    metadata={
      'help': 'npz file with x, y and classes, or a .png of the first 100.',
      'placeholder': 'FILE',
    },
  )

  def __post_init__(self):
    validate.positive_int(num=self.num)
    validate.non_negative_int(seed=self.seed)
    if self.label < -1:
      raise InputError(f'Expected label >= -1, got label={self.label}.')
    path = pathlib.Path(self.out)
    if path.suffix.lower() not in ('.npz', '.png') or path.is_dir():
      raise InputError(
        f'Expected out to be a file that ends in .npz or .png, got '
        f'out={self.out!r}.'
      )


EXPERIMENT = common.Experiment(
  name='generate',
  sentence='Samples from the model that a finished run trained.',
  examples=(
    ('--workdir=runs/fedvae --num=10000', 'Ten thousand into synthetic.npz.'),
    ('--workdir=runs/fedvae --out=grid.png', 'A picture of the first 100.'),
    ('--workdir=runs/fedvae --method=central --label=3', 'Threes only.'),
  ),
  configs={'generate': GenerateConfig()},
)


def main(generate: GenerateConfig) -> None:
  """Samples and writes; see `common.run`."""
  config = generate
  if not config.workdir:
    raise InputError(
      'Expected the work directory of a finished run: --workdir=DIR.'
    )
  model = saved.load_model(config.workdir, config.method or None)
  path = pathlib.Path(config.out)
  is_picture = path.suffix.lower() == '.png'
  if is_picture and not model.spec.is_image:
    raise InputError(
      f'Expected out to end in .npz, since {config.workdir} is of features, '
      f'not of images; got out={config.out!r}.'
    )
  num = min(config.num, _MAX_PICTURES) if is_picture else config.num
  labels = None
  if config.label >= 0:
    if config.label >= model.spec.num_classes:
      raise InputError(
        f'Expected label < {model.spec.num_classes}, the number of classes, '
        f'got label={config.label}.'
      )
    labels = np.full(num, config.label)
  inputs, labels = model.sample(num, labels=labels, seed=config.seed)
  try:
    with running_files.full_disk_named(path):
      _write(path, inputs, labels, model.class_names)
  except OSError as error:
    raise InputError(
      f'Cannot write out={config.out!r}: {error.strerror}.'
    ) from error
  print(f'{num} examples of {model.name}: {path}')


def _write(
  path: pathlib.Path,
  inputs: np.ndarray,
  labels: np.ndarray | None,
  class_names: Sequence[str],
) -> None:
  """Writes a picture or, as sources.load reads them back, the examples."""
  if path.suffix.lower() == '.png':
    pictures.image_grid(inputs, path)
    return
  arrays: dict[str, Any] = {'x': inputs}
  if labels is not None:
    arrays |= {'y': labels, 'classes': np.asarray(class_names)}
  with files.replacing(path) as unfinished, unfinished.open('wb') as file:
    np.savez_compressed(file, **arrays)


if __name__ == '__main__':
  common.run(EXPERIMENT, main)
