import functools

from absl.testing import absltest
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.algorithms.classifiers import fedgh
from fedjax_gen.errors import InputError
from fedjax_gen.federated.statistics import class_traffic
from fedjax_gen.federated.statistics.prototypes import Points
from tests.algorithms import table5, zoo


@functools.cache
def _method():
  config = fedgh.Config(
    fedgh_server_batch_size=4, fedgh_server_learning_rate=0.1
  )
  return fedgh.fedgh(config, zoo.TRAINING, zoo.models(), zoo.NUM_CLIENTS)


def _points(held):
  """Three clients' means of ten classes, of which some are held."""
  means = jax.random.normal(jax.random.key(1), (3, 10, 4))
  return Points(jnp.where(held[..., None] > 0, means, jnp.nan), held)


class FedGhTest(absltest.TestCase):
  def test_a_step_of_the_server_is_sgd_on_all_pairs(self):
    model = zoo.models()[0]
    held = jnp.zeros((3, 10), jnp.int32).at[[0, 0, 2], [1, 4, 1]].set(1)
    points = _points(held)
    config = fedgh.Config(
      fedgh_server_batch_size=8, fedgh_server_learning_rate=0.5
    )
    server = fedgh.head_server(config, model, 3)
    before = server.init(jax.random.key(2))
    after, metrics = jax.jit(server.update)(before, points, jax.random.key(3))
    features = points.means[[0, 0, 2], [1, 4, 1]]
    probabilities = jax.nn.softmax(model.logits(before, features))
    labels = jax.nn.one_hot(np.array([1, 4, 1]), 10)
    errors = (probabilities - labels) / 3
    np.testing.assert_allclose(
      after['kernel'], before['kernel'] - 0.5 * features.T @ errors, atol=1e-6
    )
    np.testing.assert_allclose(
      after['bias'], before['bias'] - 0.5 * errors.sum(axis=0), atol=1e-6
    )
    loss = -np.log(np.sum(probabilities * labels, axis=1)).mean()
    np.testing.assert_allclose(metrics['server_loss'], loss, rtol=1e-5)

  def test_a_round_in_which_nobody_sends_changes_nothing(self):
    server = fedgh.head_server(fedgh.Config(), zoo.models()[0], 3)
    before = server.init(jax.random.key(2))
    after, _ = server.update(
      before, _points(jnp.zeros((3, 10), jnp.int32)), jax.random.key(3)
    )
    chex.assert_trees_all_equal(before, after)

  def test_the_server_trains_on_the_means_of_both_fleets(self):
    # In the authors' code the head stays as it began.
    first, _ = zoo.trained(_method(), 1)
    sent = []
    for model, data, clients in zip(
      zoo.models(), zoo.fleets(), first.fleets, strict=True
    ):
      for row, number in enumerate(clients.number):
        own = jax.tree.map(
          lambda leaf, row=row: leaf[row], clients.variables['classifier']
        )
        start, size = data.offsets[row], data.sizes[row]
        rows = data.order[start : start + size]
        features = model.features(own, data.inputs[rows])
        labels = data.labels[rows]
        for label in set(labels.tolist()):
          sent.append((number, label, features[labels == label].mean(axis=0)))
    numbers, classes, means = map(np.stack, zip(*sent, strict=True))
    self.assertEqual(sorted(set(numbers)), list(range(6)))
    points = Points(
      jnp.zeros((6, 10, 4)).at[numbers, classes].set(means),
      jnp.zeros((6, 10), jnp.int32).at[numbers, classes].set(1),
    )
    server = _method().algorithm.server
    keys = jax.random.split(jax.random.key(0), 3)
    begun = server.init(keys[0])
    key = jax.random.split(jax.random.fold_in(zoo.KEY, 0), 3)[0]
    expected, _ = jax.jit(server.update)(begun, points, key)
    chex.assert_trees_all_close(first.server, expected, atol=1e-5)
    self.assertGreater(
      abs(first.server['kernel'] - begun['kernel']).max(), 0.01
    )

  def test_the_global_head_replaces_the_own_one(self):
    state, _ = zoo.trained(_method(), 1)

    def poison(fleet):
      own = fleet.variables['classifier']
      head = jax.tree.map(lambda leaf: leaf * np.nan, own['head'])
      return fleet._replace(variables={'classifier': {**own, 'head': head}})

    poisoned = state._replace(fleets=tuple(map(poison, state.fleets)))
    after = zoo.more(_method(), poisoned)
    chex.assert_tree_all_finite(jax.tree.leaves(after))
    deployed = zoo.joined(zoo.deployed(_method(), 1))
    own = zoo.joined([fleet.variables['classifier'] for fleet in state.fleets])
    chex.assert_trees_all_equal(deployed['extractor'], own['extractor'])
    for kernel in deployed['head']['kernel']:
      np.testing.assert_array_equal(kernel, state.server['kernel'])

  def test_a_row_for_each_class_goes_up_and_the_head_comes_down(self):
    view, message = table5.exchanged(
      lambda training, models: fedgh.fedgh(
        fedgh.Config(), training, models, [20]
      )
    )
    self.assertEqual(class_traffic.sent_floats(view, 0), 512 * 100 + 100)
    self.assertEqual(class_traffic.sent_floats(message, 890), 890 * 512)

  def test_values_out_of_range_are_named(self):
    for field in ('epochs', 'batch_size', 'learning_rate'):
      with self.assertRaisesRegex(InputError, f'fedgh_server_{field}'):
        fedgh.Config(**{f'fedgh_server_{field}': 0})


if __name__ == '__main__':
  absltest.main()
