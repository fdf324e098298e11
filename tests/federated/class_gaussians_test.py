"""Moments that merge by addition, and what a class that is gone keeps."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees
from fedjax_gen.federated.statistics import class_gaussians, class_sums
from fedjax_gen.federated.statistics.class_gaussians import Rules

# Three clients of 30, 5 and 200 features, each about another mean.
_SIZES, _SHIFTS = (30, 5, 200), (0.0, 3.0, -1.0)
_C, _F = 3, 2


def _clients():
  rng = np.random.default_rng(0)
  for size, shift in zip(_SIZES, _SHIFTS, strict=True):
    labels = rng.integers(0, 2, size)  # nobody holds class 2
    features = rng.normal(size=(size, _F)) + shift + labels[:, None]
    yield features.astype(np.float32), labels


def _sums():
  return [
    class_sums.of_batch(features, labels, jnp.ones(len(labels)), _C)
    for features, labels in _clients()
  ]


def _joined(rules):
  sent = [class_gaussians.statistics(sums, rules) for sums in _sums()]
  total = jax.tree.map(lambda *leaves: sum(leaves), *sent)
  before = class_gaussians.unknown(_C, _F, rules)
  before = before._replace(means=before.means + 7.0)
  return class_gaussians.joined(before, total, rules)


def _pooled():
  features, labels = (np.concatenate(p) for p in zip(*_clients(), strict=True))
  means = [features[labels == y].mean(axis=0) for y in range(2)]
  return features, labels, np.array(means)


class ClassGaussiansTest(parameterized.TestCase):
  def test_pooled_is_the_variance_of_the_concatenated_data(self):
    features, labels, means = _pooled()
    found = _joined(Rules())
    np.testing.assert_allclose(found.means[:2], means, rtol=1e-5)
    variance = ((features - means[labels]) ** 2).mean(axis=0)
    np.testing.assert_allclose(found.stddev[0] ** 2, variance, rtol=1e-4)

  def test_pooled_by_class(self):
    features, labels, means = _pooled()
    found = _joined(Rules(sigma_shape='class'))
    for label in range(2):
      variance = features[labels == label].var(axis=0)
      np.testing.assert_allclose(found.stddev[label] ** 2, variance, rtol=1e-4)

  def test_a_class_that_nobody_holds_keeps_what_it_had(self):
    for shape in ('shared', 'class'):
      found = _joined(Rules(sigma_shape=shape))
      np.testing.assert_array_equal(found.known, [True, True, False])
      np.testing.assert_array_equal(found.means[2], 7.0)
    np.testing.assert_array_equal(found.stddev[2], 1.0)

  def test_other_rules_miss_what_differs_between_clients(self):
    # Each client by itself has variances near 1; together about 1.5.
    pooled = _joined(Rules()).stddev[0] ** 2
    self.assertGreater(float(pooled.min()), 1.35)
    for rule in ('within', 'gauss_sum'):
      found = _joined(Rules(sigma_rule=rule)).stddev[0] ** 2
      self.assertLess(float(found.max()), 1.2)

  def test_within_and_gauss_sum_by_hand(self):
    variances, sizes = [], np.array(_SIZES)
    for features, labels in _clients():
      residuals = features.copy()
      for label in range(2):
        residuals[labels == label] -= features[labels == label].mean(axis=0)
      variances.append((residuals**2).mean(axis=0))
    for rule, weights in (('within', sizes), ('gauss_sum', sizes**2)):
      expected = np.average(variances, axis=0, weights=weights)
      found = _joined(Rules(sigma_rule=rule)).stddev[0] ** 2
      np.testing.assert_allclose(found, expected, rtol=1e-4)

  def test_uniform_lets_every_holder_count_alike(self):
    found = _joined(Rules(prototype_rule='uniform'))
    means = [
      np.mean([f[labels == y].mean(axis=0) for f, labels in _clients()], axis=0)
      for y in range(2)
    ]
    np.testing.assert_allclose(found.means[:2], means, rtol=1e-5)

  def test_merging_does_not_depend_on_how_clients_are_cut(self):
    rules = Rules()
    sums = _sums()
    [one, two, three] = [class_gaussians.statistics(s, rules) for s in sums]
    before = class_gaussians.unknown(_C, _F, rules)
    chex.assert_trees_all_close(
      class_gaussians.joined(before, trees.add(trees.add(one, two), three),
                             rules),
      class_gaussians.joined(before, trees.add(one, trees.add(two, three)),
                             rules),
      rtol=1e-5,
    )  # fmt: skip

  def test_draws_have_the_moments_they_should(self):
    found = _joined(Rules())
    labels = jnp.zeros(20_000, jnp.int32)
    drawn = found.sample(labels, jax.random.key(0))
    np.testing.assert_allclose(drawn.mean(axis=0), found.means[0], atol=0.05)
    np.testing.assert_allclose(drawn.std(axis=0), found.stddev[0], rtol=0.03)

  def test_padding_counts_for_nothing(self):
    features, labels = next(_clients())
    padded = np.concatenate([features, np.full((4, _F), np.inf)])
    mask = np.arange(len(padded)) < len(features)
    safe = np.where(mask[:, None], padded, 0.0)
    chex.assert_trees_all_close(
      class_sums.of_batch(safe, np.r_[labels, np.zeros(4, int)], mask, _C),
      class_sums.of_batch(features, labels, np.ones(len(labels)), _C),
      rtol=1e-6,
    )


if __name__ == '__main__':
  absltest.main()
