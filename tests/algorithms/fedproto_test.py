import functools

from absl.testing import absltest
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.algorithms.classifiers import fedproto
from fedjax_gen.data.federated import Batch
from fedjax_gen.errors import InputError
from fedjax_gen.federated.statistics import class_traffic, prototypes
from fedjax_gen.federated.statistics.class_sums import ClassSums
from fedjax_gen.federated.statistics.prototypes import Prototypes
from tests.algorithms import table5, zoo


@functools.cache
def _method(weight=10.0, average='count'):
  return fedproto.fedproto(
    fedproto.Config(weight, average),
    zoo.TRAINING,
    zoo.models(),
    zoo.NUM_CLIENTS,
  )


def _server_after(average, *clients):
  """The server after clients told of counts `[C]` and sums `[C, F]`."""
  server = prototypes.averaging_server(3, 1)
  before = Prototypes(jnp.array([False, False, True]), jnp.full((3, 1), 7.0))
  sent = [
    prototypes.summed_means(
      ClassSums(jnp.array(counts), jnp.array(first), jnp.zeros((3, 1))), average
    )
    for counts, first in clients
  ]
  total = jax.tree.map(lambda *leaves: sum(leaves), *sent)
  return server.update(before, total, None)[0]


class FedProtoTest(absltest.TestCase):
  def test_class_means_are_averaged_by_examples_or_alike(self):
    clients = (
      ([2.0, 1.0, 0.0], [[2.0], [5.0], [0.0]]),  # means 1, 5, none
      ([6.0, 0.0, 0.0], [[30.0], [0.0], [0.0]]),  # 5, none, none
    )
    for average, of_both in (('count', 4.0), ('uniform', 3.0)):
      after = _server_after(average, *clients)
      # The class that nobody holds keeps what it had.
      np.testing.assert_allclose(after.means, [[of_both], [5.0], [7.0]])
      np.testing.assert_array_equal(after.known, [True] * 3)

  def test_the_pull_is_a_mean_over_features_and_batch(self):
    model = zoo.models()[0]
    classifier = model.init(jax.random.key(3))
    inputs = zoo.fleets()[0].inputs[:3]
    batch = Batch(inputs, jnp.array([0, 1, 0]), jnp.array([True, True, False]))
    means = jnp.arange(40.0).reshape(10, 4)
    known = jnp.arange(10) != 1  # the second example is not pulled

    def loss_of(weight):
      loss_fn = prototypes.pull(model, Prototypes(known, means), weight)
      return loss_fn({'classifier': classifier}, batch, None)[0]

    features = model.features(classifier, inputs)
    term = np.mean((features[0] - means[0]) ** 2) / 2
    np.testing.assert_allclose(loss_of(3.0) - loss_of(0.0), 3 * term, rtol=1e-5)

  def test_nobody_is_pulled_before_there_are_prototypes(self):
    model = zoo.models()[0]
    variables = {'classifier': model.init(jax.random.key(3))}
    labels = jnp.arange(3)
    batch = Batch(zoo.fleets()[0].inputs[:3], labels, jnp.ones(3, bool))
    before = prototypes.unknown(10, 4)
    self.assertFalse(before.known.any())
    with_it, without = (
      jax.grad(prototypes.pull(model, before, weight), has_aux=True)(
        variables, batch, None
      )[0]
      for weight in (10.0, 0.0)
    )
    chex.assert_trees_all_close(with_it, without, atol=1e-7)

  def test_without_weight_clients_train_alone_to_the_bit(self):
    state, _ = zoo.trained(_method(0.0))
    for fleet, alone in zip(state.fleets, zoo.alone(), strict=True):
      chex.assert_trees_all_equal(fleet.variables['classifier'], alone)

  def test_prototypes_are_means_of_all_clients_trained_features(self):
    state, _ = zoo.trained(_method())
    alone = zoo.alone()[0]['head']['kernel']
    pulled = state.fleets[0].variables['classifier']['head']['kernel']
    self.assertGreater(abs(pulled - alone).max(), 1e-3)
    features, labels = [], []
    for model, data, clients in zip(
      zoo.models(), zoo.fleets(), state.fleets, strict=True
    ):
      for row in range(3):
        classifier = jax.tree.map(
          lambda leaf, row=row: leaf[row], clients.variables['classifier']
        )
        start, size = data.offsets[row], data.sizes[row]
        rows = data.order[start : start + size]
        features.append(model.features(classifier, data.inputs[rows]))
        labels.append(data.labels[rows])
    features, labels = np.concatenate(features), np.concatenate(labels)
    for label in range(10):
      of_class = features[labels == label]
      self.assertEqual(state.server.known[label], len(of_class) > 0)
      if len(of_class):
        np.testing.assert_allclose(
          state.server.means[label], of_class.mean(axis=0), rtol=1e-4, atol=1e-5
        )

  def test_the_nearest_known_prototype_predicts(self):
    known = jnp.array([True, False, True])
    means = jnp.array([[0.0, 0.0], [1.0, 1.0], [3.0, 4.0]])
    scores = prototypes.closeness(
      jnp.array([[1.0, 1.0], [3.0, 3.0]]), Prototypes(known, means)
    )
    np.testing.assert_allclose(
      scores, [[-2.0, -np.inf, -13.0], [-18.0, -np.inf, -1.0]]
    )

  def test_the_head_may_predict_instead(self):
    deployed = zoo.deployed(_method(0.0))[0]
    one = jax.tree.map(lambda leaf: leaf[0], deployed)
    rules = _method(0.0).deployments[0].rules
    self.assertEqual(list(rules), ['prototype', 'head'])
    model, inputs = zoo.models()[0], zoo.fleets()[0].inputs[:2]
    alone = jax.tree.map(lambda leaf: leaf[0], zoo.alone()[0])
    np.testing.assert_array_equal(
      rules['head'](one, inputs), model(alone, inputs)
    )

  def test_the_meter_reproduces_table_5_of_fedtgp(self):
    view, message = table5.exchanged(
      lambda training, models: fedproto.fedproto(
        fedproto.Config(), training, models, [20]
      )
    )
    sent = 20 * class_traffic.sent_floats(view, 0)
    sent += class_traffic.sent_floats(message, 890)  # of all clients together
    self.assertEqual(sent, 1_479_680)

  def test_values_out_of_range_are_named(self):
    with self.assertRaisesRegex(InputError, 'fedproto_lambda'):
      fedproto.Config(-1.0)
    with self.assertRaisesRegex(InputError, 'fedproto_average'):
      fedproto.Config(1.0, 'median')


if __name__ == '__main__':
  absltest.main()
