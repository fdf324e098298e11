import functools

from absl.testing import absltest
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.algorithms.classifiers import feddistill
from fedjax_gen.data.federated import Batch
from fedjax_gen.errors import InputError
from fedjax_gen.federated.statistics import class_traffic
from fedjax_gen.federated.statistics.prototypes import Prototypes
from fedjax_gen.models.classification.classifiers import (
  ClassifierConfig,
  build_classifiers,
)
from tests.algorithms import table5, zoo


@functools.cache
def _method(weight=1.0):
  return feddistill.feddistill(
    feddistill.Config(weight), zoo.TRAINING, zoo.models(), zoo.NUM_CLIENTS
  )


def _term(teacher, labels):
  """The method's own term for a client that is shown three digits."""
  model = zoo.models()[0]
  classifier = model.init(jax.random.key(3))
  inputs = zoo.fleets()[0].inputs[:3]
  batch = Batch(inputs, jnp.array(labels), jnp.ones(3, bool))
  losses = [
    feddistill._loss(model, weight, teacher)(
      {'classifier': classifier}, batch, None
    )[0]
    for weight in (0.5, 0.0)
  ]
  return losses[0] - losses[1], model(classifier, inputs)


class FedDistillTest(absltest.TestCase):
  def test_targets_are_the_softmax_of_the_global_logits(self):
    teacher = Prototypes(
      jnp.ones(10, bool), 3 * jax.random.normal(jax.random.key(0), (10, 10))
    )
    labels = [4, 0, 4]
    term, logits = _term(teacher, labels)
    log_student = jax.nn.log_softmax(logits)
    right, wrong = (
      -0.5 * np.mean(np.sum(targets[jnp.array(labels)] * log_student, axis=-1))
      for targets in (jax.nn.softmax(teacher.means), teacher.means)
    )
    np.testing.assert_allclose(term, right, rtol=1e-4)
    self.assertGreater(abs(right - wrong), 0.1)

  def test_the_term_is_least_where_the_student_says_what_the_teacher_does(self):
    # With logits in place of probabilities it falls without bound instead.
    model = zoo.models()[0]._replace(
      features=lambda variables, inputs: inputs,
      logits=lambda scale, features: scale * features,
    )
    teacher = Prototypes(
      jnp.ones(3, bool),
      jnp.array([[2.0, -1.0, -3.0], [0.0, 1.0, 0.0], [0.0, 0.0, 9.0]]),
    )
    labels = jnp.arange(3)
    batch = Batch(teacher.means, labels, jnp.ones(3, bool))

    def term(scale):
      losses = [
        feddistill._loss(model, weight, teacher)(
          {'classifier': {'head': scale}}, batch, None
        )[0]
        for weight in (1.0, 0.0)
      ]
      return losses[0] - losses[1]

    self.assertAlmostEqual(jax.grad(term)(1.0), 0.0, places=5)
    self.assertLess(term(1.0), min(term(0.8), term(1.2), term(30.0)))

  def test_a_class_without_global_logits_contributes_nothing(self):
    teacher = Prototypes(jnp.arange(10) != 4, jnp.ones((10, 10)))
    term, logits = _term(teacher, [4, 0, 4])
    uniform = -jax.nn.log_softmax(logits).mean(axis=-1)
    np.testing.assert_allclose(term, 0.5 * uniform[1] / 3, rtol=1e-4)
    nothing, _ = _term(teacher, [4, 4, 4])
    self.assertEqual(nothing, 0.0)

  def test_the_server_averages_over_those_who_hold_the_class(self):
    state, _ = zoo.trained(_method())
    means = [[] for _ in range(10)]
    for model, data, clients in zip(
      zoo.models(), zoo.fleets(), state.fleets, strict=True
    ):
      for row in range(3):
        own = jax.tree.map(
          lambda leaf, row=row: leaf[row], clients.variables['classifier']
        )
        start, size = data.offsets[row], data.sizes[row]
        rows = data.order[start : start + size]
        logits, labels = model(own, data.inputs[rows]), data.labels[rows]
        for label in set(labels.tolist()):
          means[label].append(logits[labels == label].mean(axis=0))
    self.assertGreater(max(map(len, means)), 1)
    for label, of_holders in enumerate(means):
      if of_holders:
        np.testing.assert_allclose(
          state.server.means[label], np.mean(of_holders, axis=0), rtol=1e-4,
          atol=1e-5,
        )  # fmt: skip

  def test_without_weight_clients_train_alone_to_the_bit(self):
    state, _ = zoo.trained(_method(0.0))
    for fleet, alone in zip(state.fleets, zoo.alone(), strict=True):
      chex.assert_trees_all_equal(fleet.variables['classifier'], alone)
    taught, _ = zoo.trained(_method())
    head = taught.fleets[0].variables['classifier']['head']['kernel']
    gap = head - zoo.alone()[0]['head']['kernel']
    self.assertGreater(abs(gap).max(), 1e-3)

  def test_the_meter_reproduces_table_5_of_fedtgp(self):
    view, message = table5.exchanged(
      lambda training, models: feddistill.feddistill(
        feddistill.Config(), training, models, [20]
      )
    )
    sent = 20 * class_traffic.sent_floats(view, 0)
    sent += class_traffic.sent_floats(message, 890)  # of all clients together
    self.assertEqual(sent, 289_000)

  def test_features_may_differ_in_number(self):
    [wide] = build_classifiers(ClassifierConfig(('mlp',), 8, 0.01), zoo.SPEC)
    method = feddistill.feddistill(
      feddistill.Config(), zoo.TRAINING, [zoo.models()[0], wide], [3, 3]
    )
    self.assertLen(method.deployments, 2)
    with self.assertRaisesRegex(InputError, 'feddistill_lambda'):
      feddistill.Config(-1.0)


if __name__ == '__main__':
  absltest.main()
