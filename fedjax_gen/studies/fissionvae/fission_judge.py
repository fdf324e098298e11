"""Metrics of models of groups: during training, and next to real images."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any, NamedTuple

from fedjax_gen.data.sources import DataSource
from fedjax_gen.evaluation import group_models, groups as groups_lib
from fedjax_gen.evaluation.group_models import GroupGenerator
from fedjax_gen.evaluation.groups import GroupReference
from fedjax_gen.evaluation.networks.features import FeatureExtractor
from fedjax_gen.studies.fissionvae.fission_discovery import DiscoveryResult
from fedjax_gen.studies.fissionvae.fission_methods import GroupMethod, Setting
from fedjax_gen.studies.study import Comparison, Followed, Results, Run

# Enough for a curve; the final numbers are made with all there is.
_CURVE_SAMPLES, _CURVE_EXAMPLES = 500, 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupComparison(Comparison):
  """Trainings of models of groups.

  Attributes:
    setting: what they are built from.
    build_extractor: of the features by which images are compared; takes long.
    reference: what generated images are measured by, when that is prepared;
      None as well if too few images are real.
    discovery: how groups were found; None if they were given.
  """

  methods: Mapping[str, GroupMethod]
  setting: Setting
  build_extractor: Callable[[], FeatureExtractor | None]
  reference: GroupReference | None = None
  discovery: DiscoveryResult | None = None


class Measured(NamedTuple):
  """What was measured.

  Attributes:
    metrics: by row of the results.
    trained: by method the variables that were trained.
    generators: by method what is asked for images; the first is drawn.
  """

  metrics: dict[str, dict[str, Any]]
  trained: dict[str, Any]
  generators: dict[str, list[GroupGenerator]]


def build_reference(
  source: DataSource,
  build_extractor: Callable[[], FeatureExtractor | None],
  *,
  seed: int,
) -> GroupReference | None:
  """What generated examples are measured by; None if too few are real."""
  extractor = build_extractor()
  # Series and rows have scores that need no network.
  if extractor is None and not source.kind.has_layout:
    return None
  by_group = groups_lib.group_classifier(source, seed=seed)
  return groups_lib.group_reference(
    source, groups_lib.GroupExtractors(extractor, by_group)
  )


def following(
  method: GroupMethod,
  source: DataSource,
  reference: GroupReference | None,
  *,
  seed: int,
) -> Followed:
  """Measures models in training, with few images."""
  return Followed(
    lambda state: group_models.follow(
      method.generators(state),
      source,
      reference,
      num_samples=_CURVE_SAMPLES,
      max_examples=_CURVE_EXAMPLES,
      seed=seed,
    )
  )


def follow(running: Run, compared: GroupComparison, name: str) -> Followed:
  """As `following`, of a method of a run."""
  return following(
    compared.methods[name],
    compared.source,
    compared.reference,
    seed=running.seed,
  )


def measure(
  running: Run,
  compared: GroupComparison,
  results: Results,
  audited: Mapping[str, Any],
) -> Measured:
  """Metrics of each method, and of real images in place of generated ones.

  Raises:
    DivergedError: a metric is NaN or infinite.
    DiskFullError: the disk is full.
  """
  del audited  # there is no audit of this system
  config, reference = running.asked.evaluation, compared.reference
  states = {name: result.state for name, result in results.items()}
  methods = compared.methods
  generators = {n: m.generators(states[n]) for n, m in methods.items()}
  metrics = {
    name: running.workdir.once(
      name,
      functools.partial(
        group_models.evaluate, made, running.shown.source(compared.source),
        reference, config, seed=running.seed,
        by_training=running.shown.everything,
      ),
    ) | compared.spent(name)
    for name, made in generators.items()
  }  # fmt: skip
  if reference is not None:
    metrics['real_data'] = running.workdir.once(
      'real_data',
      functools.partial(
        groups_lib.evaluate_real_groups, reference, config.num_samples,
        seed=running.seed,
      ),
    )  # fmt: skip
  trained = {n: m.trained(states[n]) for n, m in methods.items()}
  return Measured(metrics, trained, generators)
