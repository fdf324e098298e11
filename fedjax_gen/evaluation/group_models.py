"""Generators of images of a requested group, and their metrics.

One value hides whether a group has a model of its own or all share one that
ignores groups, and whether the model is a VAE.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import keys
from fedjax_gen.data.examples import take
from fedjax_gen.data.sources import DataSource
from fedjax_gen.evaluation import (
  group_requests,
  group_separation,
  groups as groups_lib,
  kind_scores,
  samples,
  vaes,
)
from fedjax_gen.models import elbo
from fedjax_gen.models.generator import Generator
from fedjax_gen.models.vae import Vae
from fedjax_gen.types import Key, Variables

# Examples that the probe of the latents and the curves look at.
_MAX_PROBED = 2000


class GroupVae(NamedTuple):
  """The VAE of one group."""

  vae: Vae
  variables: Variables


class GroupGenerator(NamedTuple):
  """What is asked for images of a group.

  Attributes:
    sample: `(group, labels [n], key) -> images [n, ...]`.
    models: the VAE of each group; empty if it is made of something else.
  """

  sample: Callable[[int, np.ndarray, Key], np.ndarray]
  models: tuple[GroupVae, ...] = ()


def of_vaes(models: Sequence[GroupVae]) -> GroupGenerator:
  """A generator of one VAE for each group; the same for all if they share."""
  models = tuple(models)

  def sample(group, labels, key):
    vae, variables = models[group]
    return elbo.generate(vae, variables, jnp.asarray(labels), key)

  return GroupGenerator(sample, models)


def of_one(generator: Generator, variables: Variables) -> GroupGenerator:
  """One model of any family, which cannot be asked for a group."""

  def sample(group, labels, key):
    del group
    return generator.sample(variables, labels, key)

  return GroupGenerator(sample)


def draw(
  generator: GroupGenerator, source: DataSource, num: int, *, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Samples in the proportions of the training data's groups and classes.

  Returns:
    Images `[num, ...]`, and the groups and labels asked for, `[num]` each.
  """
  requested = group_requests.requested_groups(source, num)
  key = keys.derive(seed, 'samples')
  images, labels = [], []
  for group, count in zip(
    *np.unique(requested, return_counts=True), strict=True
  ):
    wanted = labels_of(source, group, count)
    images.append(
      generator.sample(int(group), wanted, jax.random.fold_in(key, group))
    )
    labels.append(wanted)
  return np.concatenate(images), requested, np.concatenate(labels)


def labels_of(source: DataSource, group: int, num: int) -> np.ndarray:
  """`[num]` labels in the proportions of a group's training data, in order."""
  groups = group_requests.groups_of(source, 'train')
  ordered = np.sort(source.train.labels[groups == group])
  return group_requests.spread(ordered, num)


def bounds(
  generator: GroupGenerator,
  source: DataSource,
  *,
  seed: int,
  max_examples: int | None = None,
  importance_samples: int = 0,
) -> dict[str, float]:
  """Held-out bounds of each group's examples under the group's own model.

  Args:
    generator: with a VAE for each group; of any other there are no bounds.
    source: its test split has groups.
    seed: the same seed, the same draws.
    max_examples: the first so many held-out examples of each group only.
    importance_samples: of the importance-weighted bound; 0 leaves it out.

  Returns:
    what `elbo.held_out_bounds` gives (`test_elbo`, ...), means over all
    held-out examples, nats each; and the same of each group, its name
    appended.
  """
  if not generator.models:
    return {}
  names = group_requests.metric_names(source.group_names)
  test_groups = group_requests.groups_of(source, 'test')
  by_group, weights = [], []
  for group, (vae, variables) in enumerate(generator.models):
    rows = np.flatnonzero(test_groups == group)[:max_examples]
    by_group.append(
      elbo.held_out_bounds(
        vae,
        variables,
        source.test.inputs[rows],
        source.test.labels[rows],
        keys.derive(seed, 'bounds'),
        importance_samples=importance_samples,
      )
    )
    weights.append(np.count_nonzero(test_groups == group))
  pooled = {
    metric: float(np.average([b[metric] for b in by_group], weights=weights))
    for metric in by_group[0]
  }
  return pooled | {
    f'{metric}/{name}': value
    for name, found in zip(names, by_group, strict=True)
    for metric, value in found.items()
  }


def separation(generator: GroupGenerator, source: DataSource) -> float:
  """How well a linear probe reads the group off the posterior means.

  Each example is encoded by the model of its own group: the encoder is the
  same for all but in the baseline of one VAE for each group.

  Returns:
    The probe's accuracy on held-out examples, as
    `group_separation.linear_probe` has it.
  """
  parts = []
  for name, split in (('train', source.train), ('test', source.test)):
    groups = group_requests.groups_of(source, name)
    rows = np.linspace(
      0, len(groups) - 1, min(_MAX_PROBED, len(groups))
    ).astype(int)
    rows = rows[np.argsort(groups[rows], kind='stable')]
    latents = []
    for group, (vae, variables) in enumerate(generator.models):
      own = rows[groups[rows] == group]
      if own.size:
        means, _ = elbo.reconstruct(
          vae,
          variables,
          jnp.asarray(split.inputs[own]),
          jnp.asarray(split.labels[own]),
        )
        latents.append(np.asarray(means))
    parts += [np.concatenate(latents), groups[rows]]
  return group_separation.linear_probe(*parts)


def evaluate(
  generators: Sequence[GroupGenerator],
  source: DataSource,
  reference: groups_lib.GroupReference | None,
  config: vaes.EvaluationConfig,
  *,
  seed: int,
  by_training: bool = True,
) -> dict[str, float]:
  """Measures one generator, or the mean over several.

  Args:
    generators: one, or those of several clients.
    source: data with groups.
    reference: of the real images; None leaves out all that looks at images.
    config: what to measure; samples are those of all groups together.
    seed: of all draws.
    by_training: whether to measure by training records too, which no
      differential privacy of the model covers.

  Returns:
    flat, finite numbers: bounds, `latent_separation` (with `by_training`, for
    its probe learns from training records), and the metrics of
    `groups.evaluate_group_samples`; of a group, with its name appended.
  """
  results = []
  for generator in generators:
    metrics = bounds(
      generator,
      source,
      seed=seed,
      importance_samples=config.importance_samples,
    )
    if generator.models and by_training:
      metrics['latent_separation'] = separation(generator, source)
    if reference is not None:
      images, requested, labels = draw(
        generator, source, config.num_samples, seed=seed
      )
      metrics |= groups_lib.evaluate_group_samples(
        images, requested, reference, seed=seed
      )
      metrics |= _kind_scores(source, images, labels, requested, seed)
    results.append(metrics)
  return _mean(results)


def _kind_scores(source, generated, labels, requested, seed):
  """Scores of series and tables, of all examples and of each group."""
  if not source.kind.has_layout:
    return {}
  metrics = kind_scores.measure(source, generated, labels, seed=seed)
  held = group_requests.groups_of(source, 'test')
  names = group_requests.metric_names(source.group_names)
  for group, name in enumerate(names):
    rows, real = requested == group, held == group
    if min(rows.sum(), real.sum()) < samples.MIN_SAMPLES:
      continue
    scores = kind_scores.measure(
      dataclasses.replace(source, test=take(source.test, real)),
      generated[rows],
      labels[rows],
      seed=seed,
    )
    metrics |= {f'{score}/{name}': value for score, value in scores.items()}
  return metrics


def follow(
  generators: Sequence[GroupGenerator],
  source: DataSource,
  reference: groups_lib.GroupReference | None,
  *,
  num_samples: int,
  max_examples: int,
  seed: int,
) -> dict[str, float]:
  """What is measured on the way: the curves over rounds; see `evaluate`."""
  results = []
  for generator in generators:
    metrics = bounds(generator, source, seed=seed, max_examples=max_examples)
    if generator.models:
      metrics['latent_separation'] = separation(generator, source)
    if reference is not None:
      images, requested, _ = draw(generator, source, num_samples, seed=seed)
      metrics |= groups_lib.curve_metrics(images, requested, reference)
    results.append(metrics)
  return _mean(results)


def _mean(results: Sequence[dict[str, float]]) -> dict[str, float]:
  return {
    name: float(np.mean([result[name] for result in results]))
    for name in results[0]
  }
