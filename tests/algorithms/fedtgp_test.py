import functools

from absl.testing import absltest
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.algorithms.classifiers import fedtgp
from fedjax_gen.errors import InputError
from fedjax_gen.federated.statistics import class_traffic, prototypes
from fedjax_gen.federated.statistics.prototypes import Points
from tests.algorithms import table5, zoo


@functools.cache
def _method(weight=10.0):
  config = fedtgp.Config(weight, fedtgp_server_epochs=3)
  return fedtgp.fedtgp(config, zoo.TRAINING, zoo.models(), zoo.NUM_CLIENTS)


# Means of three classes at 0, 3 and 7, of which class 0 is of two clients,
# and a class 3 that nobody holds.
_POINTS = Points(
  jnp.array([[[-1.0], [3.0], [9.0], [9.0]], [[1.0], [9.0], [7.0], [9.0]]]),
  jnp.array([[1, 1, 0, 0], [1, 0, 1, 0]]),
)


# The same classes, in eight features.
_WIDE = _POINTS._replace(
  means=3 * jax.random.normal(jax.random.key(2), (2, 4, 8))
)


@functools.cache
def _servers():
  """A server before and after a round, and after one without messages."""
  config = fedtgp.Config(
    fedtgp_server_epochs=200,
    fedtgp_server_batch_size=3,
    fedtgp_server_learning_rate=0.05,
    fedtgp_margin_limit=2.0,
  )
  server = fedtgp.prototype_server(config, 4, 8, 2)
  before = server.init(jax.random.key(0))
  update = jax.jit(server.update)
  nobody = _WIDE._replace(held=jnp.zeros_like(_WIDE.held))
  idle = update(before, nobody, jax.random.key(1))
  return before, update(before, _WIDE, jax.random.key(1)), idle


class FedTgpTest(absltest.TestCase):
  def test_the_margin_is_the_largest_distance_of_two_classes(self):
    # Classes lie at 0, 3 and 7: 7 apart at most, 4 from the nearest at most.
    for rule, limit, right in (
      ('pairs', 100.0, 7.0),
      ('nearest', 100.0, 4.0),
      ('pairs', 5.0, 5.0),
    ):
      np.testing.assert_allclose(fedtgp.margin(_POINTS, rule, limit), right)

  def test_a_class_alone_has_no_margin(self):
    alone = _POINTS._replace(held=_POINTS.held.at[:, 1:].set(0))
    for rule in ('pairs', 'nearest'):
      self.assertEqual(fedtgp.margin(alone, rule, 100.0), 0.0)

  def test_the_loss_is_that_of_the_softmax_with_a_longer_right_distance(self):
    points = jnp.array([[0.0, 0.0], [3.0, 0.0]])
    centers = jnp.array([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]])
    far = np.array([[5.0, 1.0, 0.0], [4.0, np.sqrt(10), 3.0]])
    for labels in ([0, 1], [2, 0]):
      values = fedtgp.margin_loss(points, jnp.array(labels), centers, 1.5)
      for value, row, label in zip(values, far, labels, strict=True):
        right = np.exp(-(row[label] + 1.5))
        others = np.exp(-np.delete(row, label)).sum()
        np.testing.assert_allclose(
          value, -np.log(right / (right + others)), rtol=1e-5
        )

  def test_a_point_on_a_prototype_has_a_finite_gradient(self):
    gradient = jax.grad(
      lambda centers: fedtgp.margin_loss(
        jnp.ones((1, 2)), jnp.array([0]), centers, 1.0
      ).sum()
    )(jnp.array([[1.0, 1.0], [2.0, 1.0]]))
    chex.assert_tree_all_finite(gradient)
    np.testing.assert_array_equal(gradient[0], 0.0)
    self.assertGreater(abs(gradient[1, 0]), 0.0)

  def test_prototypes_come_to_lie_where_means_are_and_apart(self):
    before, (after, metrics), _ = _servers()
    np.testing.assert_array_equal(after.prototypes.known, [1, 1, 1, 0])
    self.assertFalse(before.prototypes.known.any())
    self.assertEqual(metrics['margin'], 2.0)
    self.assertLess(metrics['server_loss'], 0.5)
    means = _WIDE.means[[0, 1, 0, 1], [0, 0, 1, 2]]
    labels = jnp.array([0, 0, 1, 2])
    network = fedtgp._Network(4, 8)
    start, end = (
      fedtgp.margin_loss(
        means, labels, network.apply({'params': server.variables}), 2.0
      ).mean()
      for server in (before, after)
    )
    np.testing.assert_allclose(metrics['server_loss'], end, rtol=1e-4)
    self.assertGreater(start, 2.0)
    np.testing.assert_array_equal(
      prototypes.closeness(means, after.prototypes).argmax(axis=1), labels
    )

  def test_a_round_in_which_nobody_sends_trains_nothing(self):
    before, (trained, _), (idle, metrics) = _servers()
    chex.assert_trees_all_equal(before.variables, idle.variables)
    self.assertFalse(idle.prototypes.known.any())
    chex.assert_tree_all_finite((idle.prototypes.means, metrics))
    moved = jax.tree.map(
      lambda a, b: abs(a - b).max(), before.variables, trained.variables
    )
    self.assertGreater(min(jax.tree.leaves(moved)), 0.0)

  def test_without_weight_clients_train_alone_to_the_bit(self):
    state, _ = zoo.trained(_method(0.0))
    for fleet, alone in zip(state.fleets, zoo.alone(), strict=True):
      chex.assert_trees_all_equal(fleet.variables['classifier'], alone)
    pulled, _ = zoo.trained(_method())
    head = pulled.fleets[1].variables['classifier']['head']['kernel']
    gap = head - zoo.alone()[1]['head']['kernel']
    self.assertGreater(abs(gap).max(), 1e-3)

  def test_the_nearest_trained_prototype_predicts(self):
    method = _method(0.0)
    state, _ = zoo.trained(method)
    one = jax.tree.map(lambda leaf: leaf[0], zoo.deployed(method)[0])
    inputs = zoo.fleets()[0].inputs[:3]
    features = zoo.models()[0].features(one['classifier'], inputs)
    known = state.server.prototypes.known
    far = np.square(
      features[:, None] - state.server.prototypes.means[None]
    ).sum(axis=-1)
    rules = method.deployments[0].rules
    self.assertEqual(list(rules), ['prototype', 'head'])
    np.testing.assert_allclose(
      rules['prototype'](one, inputs),
      np.where(known[None], -far, -np.inf),
      rtol=1e-4,
    )

  def test_the_meter_reproduces_table_5_of_fedtgp(self):
    view, message = table5.exchanged(
      lambda training, models: fedtgp.fedtgp(
        fedtgp.Config(), training, models, [20]
      )
    )
    sent = 20 * class_traffic.sent_floats(view, 0)
    sent += class_traffic.sent_floats(message, 890)  # of all clients together
    self.assertEqual(sent, 1_479_680)

  def test_values_out_of_range_are_named(self):
    for field, value in (
      ('lambda', -1.0),
      ('margin', 'widest'),
      ('margin_limit', -1.0),
      ('server_epochs', 0),
      ('server_batch_size', 0),
      ('server_learning_rate', 0.0),
    ):
      with self.assertRaisesRegex(InputError, f'fedtgp_{field}'):
        fedtgp.Config(**{f'fedtgp_{field}': value})


if __name__ == '__main__':
  absltest.main()
