"""How good generators are, while they train and in the end."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np

from fedjax_gen.evaluation import baselines, samples, vaes
from fedjax_gen.evaluation.drawing import gallery
from fedjax_gen.evaluation.networks.features import FeatureExtractor
from fedjax_gen.models.generator import Generator
from fedjax_gen.studies.fedvae.vae_methods import VaeMethod
from fedjax_gen.studies.study import Comparison, Followed, Results, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class VaeComparison(Comparison):
  """Trainings of one generator."""

  methods: Mapping[str, VaeMethod]
  generator: Generator
  build_extractor: Callable[[], FeatureExtractor | None]


class Measured(NamedTuple):
  """What was measured."""

  metrics: dict[str, dict[str, Any]]
  models: dict[str, Any]
  extractor: FeatureExtractor | None


def follow(running: Run, compared: VaeComparison, name: str) -> Followed:
  """Draws what a method makes, and measures bounds on held-out data.

  The first of its models is drawn; metrics are means over all.
  """
  generator, source = compared.generator, compared.source
  method = compared.methods[name]
  folder = running.shown.folder(name) / 'samples'

  def evaluate(found):
    number, trained = int(found[0]), found[1]
    if source.is_image:
      gallery.draw_samples(
        generator,
        trained[0],
        source,
        folder / f'{name}_round_{number:04d}.png',
        title=f'{name} after {number} rounds',
        seed=running.seed,
      )
    bounds = [
      vaes.held_out_bounds(generator, variables, source, seed=running.seed)
      for variables in trained
    ]
    return {
      metric: float(np.mean([b[metric] for b in bounds]))
      for metric in bounds[0]
    }

  return Followed(
    evaluate, lambda state: (state.round, method.models(state)), generator.best
  )


def measure(
  running: Run,
  compared: VaeComparison,
  results: Results,
  audited: Mapping[str, Mapping[str, float]],
) -> Measured:
  """Metrics of each method, and of real images in place of generated ones.

  Raises:
    DivergedError: a metric is NaN or infinite.
    DiskFullError: the disk is full.
  """
  models = {
    name: method.models(results[name].state)
    for name, method in compared.methods.items()
  }
  extractor = compared.build_extractor()
  if extractor is None:
    running.session.say(
      'FID, KID, IS, precision and recall are left out: they need images, or '
      'series or rows with classes, with at least '
      f'{samples.MIN_SAMPLES} held-out ones.'
    )
  shown, config = running.shown, running.asked.evaluation
  metrics = {
    name: running.workdir.once(
      name,
      functools.partial(
        vaes.evaluate_vaes, compared.generator, trained,
        shown.source(compared.source), extractor, config,
        seed=running.seed, by_training=shown.everything,
      ),
    ) | compared.spent(name) | dict(audited.get(name, {}))
    for name, trained in models.items()
  }  # fmt: skip
  if extractor is not None or compared.source.kind.has_layout:
    metrics['real_data'] = running.workdir.once(
      'real_data',
      functools.partial(
        vaes.evaluate_real, compared.source, extractor, config,
        seed=running.seed,
      ),
    )  # fmt: skip
  if compared.source.kind.has_layout and shown.everything:
    for name in baselines.BASELINES:
      metrics[name] = running.workdir.once(
        name,
        functools.partial(
          vaes.evaluate_baseline, name, compared.source, extractor, config,
          seed=running.seed,
        ),
      )  # fmt: skip
  return Measured(metrics, models, extractor)
