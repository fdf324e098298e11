import functools

from absl.testing import absltest
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees
from fedjax_gen.algorithms.classifiers import ccvr
from fedjax_gen.data.federated import Batch
from fedjax_gen.errors import InputError
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.statistics import class_traffic
from fedjax_gen.federated.statistics.class_sums import ByClass
from tests.algorithms import table5, zoo


@functools.cache
def _method():
  config = ccvr.Config(ccvr_per_class=8, ccvr_learning_rate=0.2)
  return ccvr.ccvr(config, zoo.TRAINING, zoo.models(), zoo.NUM_CLIENTS)


def _features():
  """Features `[N, B, F]` of three clients, labels and masks `[N, B]`."""
  rng = np.random.default_rng(0)
  labels = np.array([[0, 0, 0, 1, 0], [0, 1, 1, 1, 1], [2, 0, 0, 1, 1]])
  mask = np.ones((3, 5), bool)
  mask[1, 4] = False
  mixing = rng.normal(size=(3, 3))
  features = rng.normal(size=(3, 5, 3)) @ mixing + 2 * labels[..., None]
  return features.astype(np.float32), labels, mask


def _sums():
  """The sum of the clients' sums."""
  of_clients = jax.vmap(
    lambda features, labels, mask: ccvr.sums_of_batch(
      features, Batch(features, labels, mask), 4
    )
  )(*_features())
  return jax.tree.map(lambda leaf: leaf.sum(axis=0), of_clients)


class CcvrTest(absltest.TestCase):
  def test_moments_are_those_of_the_pooled_features(self):
    means, covariances = ccvr.moments(_sums())
    features, labels, mask = _features()
    pooled, labels = features[mask], labels[mask]
    for label in (0, 1):
      of_class = pooled[labels == label]
      np.testing.assert_allclose(means[label], of_class.mean(axis=0), rtol=1e-4)
      np.testing.assert_allclose(
        covariances[label], np.cov(of_class, rowvar=False), rtol=1e-3, atol=1e-4
      )
      biased = np.cov(of_class, rowvar=False, bias=True)
      self.assertGreater(abs(covariances[label] - biased).max(), 0.01)
    # One example of class 2, none of class 3.
    np.testing.assert_allclose(means[2], pooled[labels == 2][0], rtol=1e-6)
    np.testing.assert_allclose(covariances[2:], 0.0, atol=1e-4)

  def test_they_are_those_that_the_paper_joins(self):
    features, labels, mask = _features()
    _, covariances = ccvr.moments(_sums())
    counts, means, own = [], [], []
    for client in range(3):
      of_class = features[client][(labels[client] == 1) & mask[client]]
      counts.append(len(of_class))
      means.append(of_class.mean(axis=0))
      few = len(of_class) < 2
      own.append(np.zeros((3, 3)) if few else np.cov(of_class, rowvar=False))
    total = sum(counts)
    mean = np.average(means, axis=0, weights=counts)
    joined = sum(
      (count - 1) / (total - 1) * covariance
      + count / (total - 1) * np.outer(center, center)
      for count, center, covariance in zip(counts, means, own, strict=True)
    ) - total / (total - 1) * np.outer(mean, mean)
    np.testing.assert_allclose(covariances[1], joined, rtol=1e-3, atol=1e-4)

  def test_factors_give_back_covariances(self):
    _, covariances = ccvr.moments(_sums())
    lower = ccvr.factors(covariances[:2])
    np.testing.assert_allclose(
      lower @ jnp.swapaxes(lower, 1, 2), covariances[:2], rtol=2e-3, atol=2e-3
    )

  def test_factors_exist_where_there_is_no_rank(self):
    ones = jnp.ones((3, 3))
    indefinite = jnp.diag(jnp.array([4.0, 1.0, -2.0]))
    lower = ccvr.factors(jnp.stack([0 * ones, ones, indefinite]))
    chex.assert_tree_all_finite(lower)
    np.testing.assert_allclose(lower[0], 0.0, atol=1e-6)
    np.testing.assert_allclose(lower[1] @ lower[1].T, ones, atol=1e-3)
    np.testing.assert_allclose(lower[2], np.diag([2.0, 1.0, 0.0]))

  def test_triangles_hold_a_symmetric_matrix(self):
    matrix = jnp.array([[[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 6.0]]])
    np.testing.assert_array_equal(ccvr.packed(matrix), [[1, 2, 3, 4, 5, 6]])
    np.testing.assert_array_equal(ccvr.unpacked(ccvr.packed(matrix), 3), matrix)

  def test_draws_have_the_moments_of_their_class(self):
    server = ccvr.gaussian_server(4, 3)
    before = server.init(None)
    gaussians, metrics = server.update(before, ByClass(_sums()), None)
    self.assertEqual(metrics['known_classes'], 3)
    data = ccvr.virtual_features(gaussians, 5000, jax.random.key(0))
    self.assertEqual(data.size, 3 * 5000)
    everything = data.everything()
    rows = np.asarray(everything.inputs)[np.asarray(everything.mask)]
    labels = np.asarray(everything.labels)[np.asarray(everything.mask)]
    means, covariances = ccvr.moments(_sums())
    self.assertEqual(set(labels), {0, 1, 2})
    for label in (0, 1):
      drawn = rows[labels == label]
      scale = np.sqrt(np.diag(covariances[label]).max())
      np.testing.assert_allclose(
        drawn.mean(axis=0), means[label], atol=0.06 * scale
      )
      np.testing.assert_allclose(
        np.cov(drawn, rowvar=False), covariances[label], atol=0.1 * scale**2
      )

  def test_a_class_that_nobody_holds_keeps_what_it_had(self):
    server = ccvr.gaussian_server(4, 3)
    sent = ByClass(_sums())
    first, _ = server.update(server.init(None), sent, None)
    nothing = jax.tree.map(jnp.zeros_like, sent)
    second, _ = server.update(first, nothing, None)
    chex.assert_trees_all_equal(first, second)

  def test_clients_train_alone_to_the_bit(self):
    state, _ = zoo.trained(_method())
    for fleet, alone in zip(state.fleets, zoo.alone(), strict=True):
      chex.assert_trees_all_equal(fleet.variables['classifier'], alone)

  def test_only_heads_are_calibrated_and_come_to_fit_virtual_features(self):
    state, _ = zoo.trained(_method())
    alone, deployed = zoo.alone()[0], zoo.deployed(_method())[0]
    chex.assert_trees_all_equal(deployed['extractor'], alone['extractor'])
    data = ccvr.virtual_features(state.server, 50, jax.random.key(9))
    batch = data.everything()
    losses = [
      np.mean(
        [
          trees.masked_mean(
            personal.cross_entropy(
              batch.inputs @ heads['kernel'][row] + heads['bias'][row][None],
              batch.labels,
            ),
            batch.mask,
          )
          for row in range(3)
        ]
      )
      for heads in (alone['head'], deployed['head'])
    ]
    self.assertLess(losses[1], losses[0] - 0.02)

  def test_the_meter_counts_a_triangle_for_each_class(self):
    view, message = table5.exchanged(
      lambda training, models: ccvr.ccvr(ccvr.Config(), training, models, [20])
    )
    down, up = ccvr.last_round_floats(512, 100, 45)
    self.assertEqual(class_traffic.sent_floats(view, 0), down)
    self.assertEqual(class_traffic.sent_floats(message, 45), up)
    self.assertEqual(up, 45 * (512 + 512 * 513 // 2))

  def test_values_out_of_range_are_named(self):
    for field, value in (
      ('per_class', 0),
      ('epochs', 0),
      ('learning_rate', -1),
    ):
      with self.assertRaisesRegex(InputError, f'ccvr_{field}'):
        ccvr.Config(**{f'ccvr_{field}': value})


if __name__ == '__main__':
  absltest.main()
