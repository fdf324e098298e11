import functools

from absl.testing import absltest
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.algorithms.classifiers import lg_fedavg
from fedjax_gen.errors import InputError
from fedjax_gen.federated.execution import cohorts
from fedjax_gen.federated.statistics import class_traffic
from fedjax_gen.models.classification.classifiers import (
  ClassifierConfig,
  build_classifiers,
)
from tests.algorithms import table5, zoo


@functools.cache
def _method(average='count'):
  return lg_fedavg.lg_fedavg(
    lg_fedavg.Config(average), zoo.TRAINING, zoo.models(), zoo.NUM_CLIENTS
  )


def _classifiers(state):
  return zoo.joined([fleet.variables['classifier'] for fleet in state.fleets])


class LgFedAvgTest(absltest.TestCase):
  def test_the_head_is_the_mean_by_examples_over_both_fleets(self):
    state, _ = zoo.trained(_method(), 1)
    heads = _classifiers(state)['head']
    right = zoo.weighted(heads, zoo.SIZES)
    wrong = zoo.weighted(heads, np.ones(6))
    chex.assert_trees_all_close(state.server.variables, right, atol=1e-6)
    gap = state.server.variables['kernel'] - wrong['kernel']
    self.assertGreater(abs(gap).max(), 1e-4)

  def test_every_client_may_count_alike(self):
    sent = {'kernel': jnp.array([[0.0], [4.0]]), 'bias': jnp.ones((2, 1))}
    info = cohorts.everyones_infos(zoo.fleets()[0])
    info = jax.tree.map(lambda leaf: leaf[:2], info)  # of 2 and 4 examples
    for average, mean in (('uniform', 2.0), ('count', 8 / 3)):
      rule = _method(average).algorithm.server.aggregate
      found = rule.finish(rule.partial(sent, info))
      np.testing.assert_allclose(found['kernel'], [mean], rtol=1e-6)

  def test_the_received_head_replaces_the_own_one_before_training(self):
    state, _ = zoo.trained(_method(), 1)

    def poison(fleet):
      own = fleet.variables['classifier']
      head = jax.tree.map(lambda leaf: leaf * np.nan, own['head'])
      return fleet._replace(variables={'classifier': {**own, 'head': head}})

    poisoned = state._replace(fleets=tuple(map(poison, state.fleets)))
    chex.assert_trees_all_equal(
      zoo.more(_method(), state), zoo.more(_method(), poisoned)
    )

  def test_clients_predict_with_own_extractors_and_the_newest_head(self):
    state, _ = zoo.trained(_method(), 1)
    deployed = zoo.joined(zoo.deployed(_method(), 1))
    own = _classifiers(state)
    chex.assert_trees_all_equal(deployed['extractor'], own['extractor'])
    for head in deployed['head']['kernel']:
      np.testing.assert_array_equal(head, state.server.variables['kernel'])
    self.assertTrue((own['head']['kernel'] != deployed['head']['kernel']).any())

  def test_the_meter_reproduces_table_5_of_fedtgp(self):
    view, message = table5.exchanged(
      lambda training, models: lg_fedavg.lg_fedavg(
        lg_fedavg.Config(), training, models, [20]
      )
    )
    sent = 20 * sum(
      class_traffic.sent_floats(tree, 0) for tree in (view, message)
    )
    self.assertEqual(sent, 2_052_000)

  def test_heads_must_be_alike(self):
    [wide] = build_classifiers(ClassifierConfig(('mlp',), 8, 0.01), zoo.SPEC)
    with self.assertRaisesRegex(InputError, 'feature_size'):
      lg_fedavg.lg_fedavg(
        lg_fedavg.Config(), zoo.TRAINING, [zoo.models()[0], wide], [1, 1]
      )
    with self.assertRaisesRegex(InputError, 'lg_average'):
      lg_fedavg.Config('median')


if __name__ == '__main__':
  absltest.main()
