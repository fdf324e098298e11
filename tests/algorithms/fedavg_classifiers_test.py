import dataclasses
import functools

from absl.testing import absltest
import chex
import jax
import numpy as np

from fedjax_gen.algorithms.classifiers import fedavg_classifiers
from fedjax_gen.federated import averaging, rounds
from fedjax_gen.federated.execution import traffic as traffic_lib
from fedjax_gen.federated.own_models import personal
from tests.algorithms import zoo


@functools.cache
def _method(training=zoo.TRAINING, num_fleets=2):
  return fedavg_classifiers.fedavg_by_architecture(
    training, zoo.models()[:num_fleets], zoo.NUM_CLIENTS[:num_fleets]
  )


class FedAvgByArchitectureTest(absltest.TestCase):
  def test_with_one_architecture_it_is_fedavg(self):
    # Whole batches, so that the order of examples does not matter.
    training = dataclasses.replace(zoo.TRAINING, batch_size=6, local_epochs=2)
    data = zoo.fleets()[:1]
    [model] = zoo.models()[:1]
    plain = averaging.averaged(
      averaging.Config(local_epochs=2, batch_size=6),
      lambda key: {'classifier': model.init(key)},
      personal.classification(model),
      training.descent(),
    )
    ours = _method(training, 1).algorithm
    key = jax.random.key(0)
    (left, _), (right, _) = (
      rounds.round_runner(algorithm)(
        rounds.init_state(algorithm, data, key), data, zoo.KEY, 2
      )
      for algorithm in (ours, plain)
    )
    first = model.init(jax.random.split(key)[0])
    chex.assert_trees_all_close(
      left.server.modules['fleet_0'].variables,
      right.server.variables['classifier'],
      rtol=1e-5,
      atol=1e-6,
    )
    moved = left.server.modules['fleet_0'].variables['head']['kernel']
    self.assertGreater(abs(moved - first['head']['kernel']).max(), 1e-2)

  def test_each_fleet_has_the_mean_of_its_own_clients(self):
    state, _ = zoo.trained(_method(), 1)
    servers = state.server.modules
    for i, fleet in enumerate(state.fleets):
      own = zoo.weighted(fleet.variables['classifier'], zoo.SIZES[i])
      wrong = zoo.weighted(fleet.variables['classifier'], np.ones(3))
      found = servers[f'fleet_{i}'].variables
      chex.assert_trees_all_close(found, own, atol=1e-6)
      gap = found['head']['kernel'] - wrong['head']['kernel']
      self.assertGreater(abs(gap).max(), 1e-4)

  def test_everyone_predicts_with_the_model_of_its_fleet(self):
    state, _ = zoo.trained(_method(), 1)
    for i, deployed in enumerate(zoo.deployed(_method(), 1)):
      for row in range(3):
        chex.assert_trees_all_equal(
          jax.tree.map(lambda leaf, row=row: leaf[row], deployed),
          state.server.modules[f'fleet_{i}'].variables,
        )

  def test_a_client_receives_the_model_of_its_fleet_alone(self):
    exchanged = traffic_lib.exchanged(_method().algorithm, zoo.fleets())
    for i, (view, message) in enumerate(exchanged):
      self.assertEqual(list(view), [f'fleet_{i}'])
      chex.assert_trees_all_equal_shapes_and_dtypes(view, message)


if __name__ == '__main__':
  absltest.main()
