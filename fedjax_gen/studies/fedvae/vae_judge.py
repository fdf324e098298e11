"""How good VAEs are: while they train, and in the end beside real images."""

from collections.abc import Mapping, Sequence
import functools
import pathlib
from typing import Any

import numpy as np

from fedjax_gen.evaluation import gallery, samples, vaes
from fedjax_gen.evaluation.features import FeatureExtractor
from fedjax_gen.running.workdir import Workdir
from fedjax_gen.studies import stages
from fedjax_gen.studies.command import program
from fedjax_gen.studies.fedvae.vae_methods import PROTECTED, Comparison
from fedjax_gen.studies.shown import Shown
from fedjax_gen.types import Variables


def follow(
  name: str,
  compared: Comparison,
  found: tuple[Any, Sequence[Variables]],
  folder: pathlib.Path,
  *,
  seed: int,
) -> dict[str, float]:
  """Draws what a method makes after some rounds, and measures it.

  Args:
    name: of the method.
    compared: its model and data.
    found: the round and the variables after it; the first are drawn, all
      measured.
    folder: where to write, if the data are images.
    seed: of draws.

  Returns:
    Means over the models of bounds on held-out data.

  Raises:
    DiskFullError: the disk is full.
  """
  number, trained = int(found[0]), found[1]
  vae, source = compared.vae, compared.source
  if source.is_image:
    gallery.draw_samples(
      vae,
      trained[0],
      source,
      folder / f'{name}_round_{number:04d}.png',
      title=f'{name} after {number} rounds',
      seed=seed,
    )
  bounds = [
    vaes.held_out_bounds(vae, variables, source, seed=seed)
    for variables in trained
  ]
  return {
    metric: float(np.mean([b[metric] for b in bounds])) for metric in bounds[0]
  }


def build_extractor(
  compared: Comparison, session: program.Session
) -> FeatureExtractor | None:
  """The features by which images are compared; says so if there are none."""
  built = compared.build_extractor()
  if built is None:
    session.say(
      'FID and its kin are left out: they need images, '
      f'{samples.MIN_SAMPLES} held-out ones at least.'
    )
  return built


def measure(
  compared: Comparison,
  models: Mapping[str, Sequence[Variables]],
  audited: Mapping[str, Mapping[str, float]],
  extractor: FeatureExtractor | None,
  config: vaes.EvaluationConfig,
  workdir: Workdir,
  shown: Shown,
  *,
  seed: int,
) -> dict[str, dict[str, Any]]:
  """Metrics of each method, and of real images in place of generated ones.

  Writes the ledger of those that are private.

  Args:
    compared: the methods and their data.
    models: by method the variables that are measured.
    audited: by method what an audit found.
    extractor: of features; None to leave out what needs them.
    config: what is measured.
    workdir: keeps what was measured before an interruption.
    shown: whether measures may look at training records.
    seed: of draws.

  Raises:
    DivergedError: a metric is NaN or infinite.
    DiskFullError: the disk is full.
  """
  source = shown.source(compared.source)
  measured = {
    name: workdir.once(
      name,
      functools.partial(
        vaes.evaluate_vaes, compared.vae, trained, source, extractor, config,
        seed=seed, by_training=shown.everything,
      ),
    )
    for name, trained in models.items()
  }  # fmt: skip
  metrics = stages.settle(compared.protection, measured, PROTECTED)
  for name, found in audited.items():
    metrics[name].update(found)
  if extractor is not None:
    metrics['real_data'] = workdir.once(
      'real_data',
      functools.partial(
        vaes.evaluate_real, compared.source, extractor, config, seed=seed
      ),
    )
  return metrics
