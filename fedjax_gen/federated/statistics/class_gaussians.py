"""Gaussians of features by class: what clients send, and the server's result.

Clients send sums; the server adds and divides them. The result is the class
means c^y and one standard deviation sigma of the features of all clients.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_gen import fields
from fedjax_gen.federated.statistics import class_sums
from fedjax_gen.federated.statistics.class_sums import (
  ByClass,
  ClassMeans,
  ClassSums,
)
from fedjax_gen.types import Array, Key

FLOOR = 1e-4
"""Least variance (gvquang25/FedVTC); smaller ones are rounding."""


@dataclasses.dataclass(frozen=True)
class Rules(fields.Configuration):
  """How statistics of clients are joined; sources of FedVTC differ.

  [note] is an anonymous note on the paper, [3p] a re-implementation by others,
  [ours] inferred; see `algorithms.fedvtc`.
  """

  prototype_rule: str = fields.option(
    'count',
    'How class means of clients are averaged: by examples, or every '
    'holder alike',
    choices=('count', 'uniform'),
  )
  sigma_rule: str = fields.option(
    'pooled',
    'sigma of all: exactly that of all features about their class '
    'means [ours]; without what means differ between clients [ours]; or that '
    'of a weighted sum of Gaussians [3p]',
    choices=('pooled', 'within', 'gauss_sum'),
  )
  sigma_shape: str = fields.option(
    'shared',
    'One sigma for all classes [note], or one each [3p]',
    choices=('shared', 'class'),
  )

  @property
  def is_shared(self) -> bool:
    """Whether classes have one sigma."""
    return self.sigma_shape == 'shared'


class ClassGaussians(NamedTuple):
  """What all clients' features of each class are like: c^y and sigma.

  Attributes:
    known: `[C]` bool, classes that some client has reported.
    means: `[C, F]`, zero where unknown.
    stddev: `[1, F]`, shared, or `[C, F]`.
  """

  known: Array
  means: Array
  stddev: Array

  def of(self, labels: Array) -> tuple[Array, Array]:
    """Means and standard deviations `[B, F]` of labels `[B]`."""
    shared = self.stddev.shape[0] == 1
    stddev = jnp.broadcast_to(self.stddev, self.means.shape) if shared else (
      self.stddev
    )  # fmt: skip
    return self.means[labels], stddev[labels]

  def sample(self, labels: Array, key: Key) -> Array:
    """Latents v ~ N(c^y, diag sigma^2), `[B, F]`."""
    means, stddev = self.of(labels)
    return means + stddev * jax.random.normal(key, means.shape)


def unknown(
  num_classes: int, feature_size: int, rules: Rules
) -> ClassGaussians:
  """What the server begins with: no class is known."""
  rows = 1 if rules.is_shared else num_classes
  return ClassGaussians(
    jnp.zeros(num_classes, bool),
    jnp.zeros((num_classes, feature_size)),
    jnp.ones((rows, feature_size)),
  )


class Statistics(NamedTuple):
  """What a client sends of its features; sums, which add up over clients.

  Attributes:
    means: `ByClass` of `ClassMeans`.
    spread: `[1, F]`, or `ByClass` of `[C, F]`: sums of squares or variances.
    weight: `[1, 1]`, or `ByClass` of `[C, 1]`, what to divide them by.
  """

  means: ByClass
  spread: Array | ByClass
  weight: Array | ByClass


def statistics(sums: ClassSums, rules: Rules) -> Statistics:
  """What a client sends of the sums of its features."""
  means = class_sums.means_to_send(sums, rules.prototype_rule)
  weights = means.rows.weights[:, None]
  counts, own_means, variances = sums.moments()
  seen = counts[:, None] > 0
  if rules.sigma_rule == 'pooled':
    spread = weights * jnp.where(seen, variances + own_means**2, 0.0)
    weight = weights
  elif rules.sigma_rule == 'within':
    spread, weight = weights * variances, weights
  else:
    spread, weight = weights**2 * variances, weights**2
  if not rules.is_shared:
    return Statistics(means, ByClass(spread), ByClass(weight))
  if rules.sigma_rule == 'gauss_sum':
    # One sigma_k of all classes, at the square of the client's weight.
    total = weights.sum()
    within = (weights * variances).sum(axis=0) / jnp.maximum(total, 1.0)
    return Statistics(means, (total**2 * within)[None], total[None, None] ** 2)
  return Statistics(means, spread.sum(axis=0)[None], weight.sum(axis=0)[None])


def joined(
  before: ClassGaussians, sent: Statistics, rules: Rules
) -> ClassGaussians:
  """The Gaussians of all clients, from the sum of their statistics.

  With `sigma_rule='pooled'` the variance is exactly that of all features about
  the means of their classes: the law of total variance, by sums. A class that
  nobody holds keeps what it had.
  """
  class_means: ClassMeans = sent.means.rows
  means = class_means.or_else(before.means)
  spread, weight = (
    part.rows if isinstance(part, ByClass) else part
    for part in (sent.spread, sent.weight)
  )
  if not rules.is_shared:
    explained = class_means.weights[:, None] * means**2
  else:
    explained = jnp.sum(
      class_means.weights[:, None] * means**2, axis=0, keepdims=True
    )
  if rules.sigma_rule == 'pooled':
    spread = spread - explained
  held = weight > 0
  variance = spread / jnp.where(held, weight, 1.0)
  stddev = jnp.sqrt(jnp.maximum(variance, FLOOR))
  return ClassGaussians(
    before.known | (class_means.weights > 0),
    means,
    jnp.where(held, stddev, before.stddev),
  )


def of_client(sums: ClassSums) -> ClassGaussians:
  """A client's own class means, and the stddev about them of its features."""
  counts, means, variances = sums.moments()
  total = jnp.maximum(counts.sum(), 1.0)
  variance = jnp.sum(counts[:, None] * variances, axis=0) / total
  stddev = jnp.sqrt(jnp.maximum(variance, FLOOR))
  return ClassGaussians(counts > 0, means, stddev[None])
