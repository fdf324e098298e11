"""Trained models as files, usable without the code that trained them.

    model = fedjax_gen.load('runs/fedvae')
    images, labels = model.sample(10_000, seed=0)

A model is two files, `NAME.json` (what it is) and `NAME.msgpack` (its
variables, written by `flax.serialization`).
"""

import json
import os
import pathlib
from typing import NamedTuple

from flax import serialization
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import files, trees, validate
from fedjax_gen.data.sources import DataSource
from fedjax_gen.errors import InputError
from fedjax_gen.models import elbo
from fedjax_gen.models.vae import DataSpec, Vae, VaeConfig, build_vae
from fedjax_gen.running import config_records
from fedjax_gen.types import Variables

FOLDER = 'models'
"""Where a work directory keeps its trained models."""


class TrainedModel(NamedTuple):
  """A generative model with its variables.

  Attributes:
    name: of the method that trained it.
    config: which VAE.
    spec: shape of the data and number of classes.
    class_names: names of the classes, in label order.
    vae: the model as pure functions.
    variables: its variables.
  """

  name: str
  config: VaeConfig
  spec: DataSpec
  class_names: tuple[str, ...]
  vae: Vae
  variables: Variables

  def sample(
    self, num: int, *, labels: np.ndarray | None = None, seed: int = 0
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """Draws examples from the prior and decodes them.

    Args:
      num: how many.
      labels: `[num]` class of each for a conditional model; the classes in
        turn if not given.
      seed: same seed, same examples.

    Returns:
      `[num, H, W, C]` uint8 images (or `[num, F]` float32 features) and
      their labels `[num]` int32, `None` for an unconditional model.

    Raises:
      InputError: `num` is not above zero, or the labels do not fit.
    """
    validate.positive_int(num=num)
    validate.non_negative_int(seed=seed)
    if seed >= 2**31:  # JAX would cut it: two seeds, one sample
      raise InputError(f'Expected seed < 2**31, got seed={seed}.')
    if labels is not None and not self.vae.conditional:
      raise InputError(
        'Expected no labels for an unconditional model, got labels.'
      )
    if labels is None:
      labels = np.arange(num) % self.spec.num_classes
    labels = np.asarray(labels)
    if (
      labels.shape != (num,)
      or not np.issubdtype(labels.dtype, np.integer)
      or not ((labels >= 0) & (labels < self.spec.num_classes)).all()
    ):
      raise InputError(
        f'Expected labels to be {num} whole numbers in '
        f'[0, {self.spec.num_classes}), got an array of shape '
        f'{labels.shape} and type {labels.dtype}.'
      )
    labels = labels.astype(np.int32)
    examples = elbo.generate(
      self.vae, self.variables, jnp.asarray(labels), jax.random.key(seed)
    )
    return examples, labels if self.vae.conditional else None


def save_model(
  workdir: str | os.PathLike,
  name: str,
  config: VaeConfig,
  source: DataSource,
  variables: Variables,
) -> pathlib.Path:
  """Writes a trained model under `workdir/models`.

  Args:
    workdir: folder of the run.
    name: of the model, for instance of the method.
    config: which VAE.
    source: the data it was trained on; shape and class names are kept.
    variables: of the model.

  Returns:
    The path of the description, `workdir/models/NAME.json`.
  """
  folder = pathlib.Path(workdir) / FOLDER
  description = {
    'kind': 'vae',
    'config': config_records.to_record(config),
    'shape': list(source.input_shape),
    'class_names': list(source.class_names),
  }
  blob = serialization.msgpack_serialize(
    serialization.to_state_dict(jax.device_get(variables))
  )
  with files.replacing(folder / f'{name}.msgpack') as path:
    path.write_bytes(blob)
  # Written last: a model exists once its description does.
  path = folder / f'{name}.json'
  with files.replacing(path) as unfinished:
    unfinished.write_text(json.dumps(description, indent=2) + '\n')
  return path


def load_model(
  workdir: str | os.PathLike, name: str | None = None
) -> TrainedModel:
  """Loads a trained model from a run's work directory.

  Args:
    workdir: folder of the run, as given to `--workdir`.
    name: which model; `'federated'` if there is one, else the first, if not
      given.

  Raises:
    InputError: there is no such model, or its files are damaged.
  """
  folder = pathlib.Path(workdir) / FOLDER
  names = sorted(path.stem for path in folder.glob('*.json'))
  if not names:
    raise InputError(
      f'Expected a finished run with trained models in {folder}, found none.'
    )
  if name is None:
    name = 'federated' if 'federated' in names else names[0]
  if name not in names:
    raise InputError(
      f'Expected method to be one of {", ".join(names)}, the models in '
      f'{folder}, got method={name!r}.'
    )
  try:
    description = json.loads((folder / f'{name}.json').read_text())
    config = config_records.from_record(VaeConfig, description['config'])
    class_names = tuple(description['class_names'])
    spec = DataSpec(tuple(description['shape']), len(class_names))
    vae = build_vae(config, spec)
    target = jax.eval_shape(vae.init, jax.random.key(0))
    blob = (folder / f'{name}.msgpack').read_bytes()
    variables = serialization.from_state_dict(
      target, serialization.msgpack_restore(blob)
    )
    differing = trees.first_differing_leaf(target, variables)
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
  return TrainedModel(name, config, spec, class_names, vae, variables)
