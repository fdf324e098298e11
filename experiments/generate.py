"""Samples from the model that a finished run trained."""

import dataclasses
import pathlib

import numpy as np

from experiments import common
from fedjax_gen import files, validate
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import pictures
from fedjax_gen.running import saved


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
  """What to generate.

  Raises:
    InputError: a value is out of range.
  """

  workdir: str = dataclasses.field(
    default='', metadata={'help': 'Of the run.', 'placeholder': 'DIR'}
  )
  method: str = dataclasses.field(
    default='',
    metadata={'help': 'Which of its models. Default: federated.'},
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
    suffix = pathlib.Path(self.out).suffix
    if suffix not in ('.npz', '.png'):
      raise InputError(
        f'Expected out to end in .npz or .png, got out={self.out!r}.'
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
  labels = None if config.label < 0 else np.full(config.num, config.label)
  inputs, labels = model.sample(config.num, labels=labels, seed=config.seed)
  path = pathlib.Path(config.out)
  if path.suffix == '.png':
    if inputs.ndim != 4:
      raise InputError('Expected out to end in .npz: these are not images.')
    pictures.image_grid(inputs[:100], path)
  else:
    classes = np.asarray(model.class_names)
    with files.replacing(path) as unfinished:
      if labels is None:
        np.savez_compressed(unfinished, x=inputs)
      else:
        np.savez_compressed(unfinished, x=inputs, y=labels, classes=classes)
  print(f'{len(inputs)} examples of {model.name}: {path}')


if __name__ == '__main__':
  common.run(EXPERIMENT, main)
