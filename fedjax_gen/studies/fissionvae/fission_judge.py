"""How good models of groups are: while they train, and beside real images."""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

from fedjax_gen.data.sources import DataSource
from fedjax_gen.evaluation import group_models, groups as groups_lib
from fedjax_gen.evaluation.features import FeatureExtractor
from fedjax_gen.evaluation.group_models import GroupGenerator
from fedjax_gen.evaluation.groups import GroupReference
from fedjax_gen.evaluation.vaes import EvaluationConfig
from fedjax_gen.running.workdir import Workdir

# Enough for a curve; the final numbers are made with all there is.
_CURVE_SAMPLES, _CURVE_EXAMPLES = 500, 500


def build_reference(
  source: DataSource,
  build_extractor: Callable[[], FeatureExtractor | None],
  *,
  seed: int,
) -> GroupReference | None:
  """What generated images are measured by; None if too few are real.

  Args:
    source: the data.
    build_extractor: of the features by which images are compared.
    seed: of the training of what tells groups apart.
  """
  extractor = build_extractor()
  if extractor is None:
    return None
  by_group = groups_lib.group_classifier(source, seed=seed)
  return groups_lib.group_reference(
    source, groups_lib.GroupExtractors(extractor, by_group)
  )


def follow(
  generators: Sequence[GroupGenerator],
  source: DataSource,
  reference: GroupReference | None,
  *,
  seed: int,
) -> dict[str, float]:
  """Measures models in training, with few images."""
  return group_models.follow(
    generators,
    source,
    reference,
    num_samples=_CURVE_SAMPLES,
    max_examples=_CURVE_EXAMPLES,
    seed=seed,
  )


def measure(
  generators: Mapping[str, Sequence[GroupGenerator]],
  source: DataSource,
  reference: GroupReference | None,
  config: EvaluationConfig,
  workdir: Workdir,
  *,
  seed: int,
  by_training: bool = True,
) -> dict[str, dict[str, Any]]:
  """Metrics of each method.

  Args:
    generators: by method those that are measured.
    source: the data.
    reference: of the real images; None to leave out what needs it.
    config: what is measured.
    workdir: keeps what was measured before an interruption.
    seed: of draws.
    by_training: whether to measure by training records too.

  Raises:
    DivergedError: a metric is NaN or infinite.
    DiskFullError: the disk is full.
  """
  return {
    name: workdir.once(
      name,
      functools.partial(
        group_models.evaluate,
        made,
        source,
        reference,
        config,
        seed=seed,
        by_training=by_training,
      ),
    )
    for name, made in generators.items()
  }


def measure_real(
  reference: GroupReference,
  config: EvaluationConfig,
  workdir: Workdir,
  *,
  seed: int,
) -> dict[str, Any]:
  """Metrics of real training images, as if they had been generated."""
  return workdir.once(
    'real_data',
    functools.partial(
      groups_lib.evaluate_real_groups, reference, config.num_samples, seed=seed
    ),
  )
