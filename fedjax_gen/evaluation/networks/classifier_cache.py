"""Trained classifiers kept on disk, so that a second run starts at once."""

import hashlib
import os
from pathlib import Path
import tempfile
from typing import Any

from flax import traverse_util
import jax
import numpy as np

from fedjax_gen import files
from fedjax_gen.evaluation import checks
from fedjax_gen.evaluation.networks import judges

_VERSION = 1  # to be raised whenever training gives other parameters


def train(
  inputs: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  *,
  seed: int = 0,
  recipe: judges.Recipe = judges.DEFAULT_RECIPE,
  cache_dir: str | os.PathLike | None = None,
) -> judges.Classifier:
  """Trains as `classifiers.train` does, or loads what that gave before.

  The file is named by a digest of the data and the settings. A damaged entry
  is trained anew; a cache that cannot be written is done without.

  Args:
    inputs: as for `classifiers.train`.
    labels: as for `classifiers.train`.
    num_classes: as for `classifiers.train`.
    seed: as for `classifiers.train`.
    recipe: as for `classifiers.train`.
    cache_dir: folder of the entries; `default_cache_dir()` if None.

  Returns:
    the classifier.
  """
  checks.examples(inputs=inputs)
  network = judges.network_for(inputs.shape[1:], num_classes)
  digest = hashlib.sha256()
  for array in (np.asarray(inputs), np.asarray(labels)):
    digest.update(f'{array.dtype} {array.shape}'.encode())
    digest.update(np.ascontiguousarray(array).data)
  digest.update(f'{_VERSION} {network!r} {recipe!r} {seed}'.encode())
  folder = Path(cache_dir or default_cache_dir())
  path = folder / f'classifier-{digest.hexdigest()[:32]}.npz'

  try:
    return judges.Classifier(network, _load(path, network, inputs[:1]))
  except Exception:  # not there yet, or damaged in any of a zip file's ways
    pass
  classifier = judges.train(
    inputs, labels, num_classes, seed=seed, recipe=recipe
  )
  try:
    with files.replacing(path) as temporary:
      np.savez(temporary, **_flat(classifier.params))
  except OSError:
    pass  # a read-only home or a full disk costs time later, not this result
  return classifier


def default_cache_dir() -> Path:
  """Returns the folder of trained classifiers.

  `$FEDJAX_GEN_CACHE`, else `$XDG_CACHE_HOME/fedjax_gen`, else
  `~/.cache/fedjax_gen`, else (no home) a temporary folder.
  """
  if folder := os.environ.get('FEDJAX_GEN_CACHE'):
    return Path(folder)
  if folder := os.environ.get('XDG_CACHE_HOME'):
    return Path(folder, 'fedjax_gen')
  try:
    return Path.home() / '.cache' / 'fedjax_gen'
  except RuntimeError:
    return Path(tempfile.gettempdir(), 'fedjax_gen')


def _flat(tree: Any) -> dict[str, Any]:
  return traverse_util.flatten_dict(tree, sep='/')


def _load(path: Path, network: judges.Network, example: np.ndarray) -> Any:
  """Reads parameters; raises `ValueError` if they are not the network's."""
  shapes = _flat(jax.eval_shape(network.init, jax.random.key(0), example))
  with np.load(path, allow_pickle=False) as entry:
    arrays = {name: entry[name] for name in entry.files}
  if {k: (v.shape, v.dtype) for k, v in arrays.items()} != {
    k: (v.shape, v.dtype) for k, v in shapes.items()
  }:
    raise ValueError(f'{path} does not hold this network.')
  return traverse_util.unflatten_dict(arrays, sep='/')
