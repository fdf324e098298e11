"""Clients that keep their models: training, deployment, scoring, metering."""

import functools

from absl.testing import absltest
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees
from fedjax_gen.errors import InputError
from fedjax_gen.federated import local
from fedjax_gen.federated.own_models import deployment, personal
from fedjax_gen.federated.statistics import class_sums, class_traffic
from fedjax_gen.federated.statistics.class_sums import ByClass
from tests.algorithms import zoo
from tests.federated import toys


@functools.cache
def _alone():
  return personal.local_only(zoo.TRAINING, zoo.models())


class PersonalTest(absltest.TestCase):
  def test_alone_nothing_travels_and_every_client_learns(self):
    for sent in class_traffic.traffic(_alone().algorithm, zoo.fleets()):
      self.assertEqual(sent, (0, 0))
    _, metrics = zoo.trained(_alone(), 2)
    for fleet in metrics.clients:
      self.assertTrue(
        (fleet['cross_entropy'][1] < fleet['cross_entropy'][0]).any()
      )

  def test_numbers_go_through_all_fleets(self):
    self.assertEqual(personal.first_numbers([3, 2, 2]), [0, 3, 5])

  def test_scores_are_those_of_predicting_by_hand(self):
    state, _ = zoo.trained(_alone(), 2)
    deployed = zoo.deployed(_alone())
    data = zoo.fleets()[0]
    inputs, labels = data.inputs[:7], data.labels[:7]
    model = zoo.models()[0]
    rule = _alone().deployments[0].rules['head']
    # Batches of three, of which the last is not full.
    run = deployment.scorer(rule, 10, batch_size=3)
    everyone = run(deployed[0], inputs, labels, jnp.arange(7)[None])
    own_rows = jnp.array([[0, 1, -1], [2, -1, -1], [-1, -1, -1]])
    own = run(deployed[0], inputs, labels, own_rows)
    for client in range(3):
      variables = trees.take(state.fleets[0].variables['classifier'], client)
      right = np.asarray(model(variables, inputs).argmax(axis=1) == labels)
      expected = np.bincount(labels[right], minlength=10)
      np.testing.assert_array_equal(everyone[client], expected)
      asked = own_rows[client][own_rows[client] >= 0]
      expected = np.bincount(labels[asked][right[asked]], minlength=10)
      np.testing.assert_array_equal(own[client], expected)

  def test_a_term_is_a_mean_over_the_examples_that_count(self):
    model = zoo.models()[0]
    variables = personal.init_classifier(model)(jax.random.key(0))
    data = zoo.fleets()[0].client(jnp.asarray(0))  # two examples
    batch = data.batch(jnp.arange(data.max_size), 0, 4)
    plain, _ = personal.classification(model)(variables, batch, None)
    loss_fn = personal.classification(
      model, lambda *given: jnp.where(given[3].mask, 3.0, jnp.nan)
    )
    loss, (_, metrics) = loss_fn(variables, batch, None)
    np.testing.assert_allclose(loss - plain, 3.0, rtol=1e-5)
    self.assertEqual(metrics['term'], 3.0)

  def test_mistakes_are_named(self):
    for field, value in (
      ('optimizer', 'lion'),
      ('learning_rate', 0.0),
      ('momentum', 1.5),
      ('max_gradient_norm', -1.0),
    ):
      with self.assertRaisesRegex(InputError, field):
        personal.Config(**{field: value})


class SumsTest(absltest.TestCase):
  def test_a_pass_in_batches_sums_what_one_batch_has(self):
    data = toys.dataset((5, 3))

    def moments(batch):
      kept = jnp.where(batch.mask[:, None], batch.inputs, 0.0)
      return kept.sum(axis=0), batch.mask.sum()

    for row, size in enumerate((5, 3)):
      client = data.client(jnp.asarray(row))
      in_twos = local.total(moments, client, 2)
      chex.assert_trees_all_close(
        in_twos, moments(client.everything()), rtol=1e-6
      )
      self.assertEqual(int(in_twos[1]), size)


class MeteringTest(absltest.TestCase):
  def test_rows_of_classes_that_are_not_held_are_not_sent(self):
    message = {
      'rows': ByClass(class_sums.ClassMeans(jnp.zeros((10, 4)), jnp.zeros(10))),
      'whole': jnp.zeros(7),
      'count': jnp.zeros((), jnp.int32),
    }
    self.assertEqual(class_traffic.sent_bytes(message, 3), 4 * (3 * 5 + 7 + 1))
    self.assertEqual(class_traffic.sent_floats(message, 3), 3 * 5 + 7)
    self.assertEqual(class_traffic.sent_bytes(message, 10), 4 * (50 + 7 + 1))

  def test_classes_are_counted_at_each_client(self):
    data = zoo.fleets()[0]
    found = class_traffic.classes_held(data)
    for row in range(data.num_clients):
      client = data.client(jnp.asarray(row))
      rows = client.order[client.offset : client.offset + client.size]
      self.assertEqual(found[row], len(set(np.asarray(client.labels[rows]))))


if __name__ == '__main__':
  absltest.main()
