import dataclasses
import functools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.algorithms.classifiers import fml
from fedjax_gen.errors import InputError
from fedjax_gen.federated.execution import traffic as traffic_lib
from fedjax_gen.federated.statistics import class_traffic
from fedjax_gen.models.classification.classifiers import ClassifierConfig
from tests.algorithms import table5, zoo


@functools.cache
def _method(alpha=0.5):
  config = fml.Config(fml_alpha=alpha)
  [meme] = zoo.models('mlp')
  return fml.fml(config, zoo.TRAINING, zoo.models(), zoo.NUM_CLIENTS, meme)


def _terms(own, shared, labels):
  """CE of each, KL(shared || own) and KL(own || shared), means of a batch."""
  logp, logq = (jax.nn.log_softmax(logits) for logits in (own, shared))
  p, q, rows = jnp.exp(logp), jnp.exp(logq), jnp.arange(len(labels))
  return (
    -logp[rows, labels].mean(),
    -logq[rows, labels].mean(),
    (q * (logq - logp)).sum(axis=1).mean(),
    (p * (logp - logq)).sum(axis=1).mean(),
  )


class FmlTest(parameterized.TestCase):
  def test_the_loss_is_that_of_the_paper(self):
    model = zoo.linear_model()
    variables = {'classifier': zoo.linear(0), 'meme': zoo.linear(1)}
    batch = zoo.batch([0, 1, 1], padding=1)
    config = fml.Config(fml_alpha=0.25, fml_beta=0.75)
    loss, _ = fml.mutual_loss(config, model, model)(variables, batch, zoo.KEY)
    own, shared = (
      batch.inputs[:3] @ variables[part]['head'] for part in variables
    )
    first, second, to_own, to_meme = _terms(own, shared, batch.labels[:3])
    np.testing.assert_allclose(
      loss,
      0.25 * first + 0.75 * to_own + 0.75 * second + 0.25 * to_meme,
      rtol=1e-6,
    )
    # Neither mean over classes nor teaching the wrong way round.
    for wrong in (
      0.25 * first + 0.25 * to_own + 0.75 * second + 0.125 * to_meme,
      0.25 * first + 0.75 * to_meme + 0.75 * second + 0.25 * to_own,
    ):
      self.assertGreater(abs(loss - wrong), 1e-3)

  def test_no_teacher_learns(self):
    model = zoo.linear_model()
    variables = {'classifier': zoo.linear(0), 'meme': zoo.linear(1)}
    batch = zoo.batch([0, 1, 1])
    loss_fn = fml.mutual_loss(fml.Config(), model, model)

    @jax.jit
    @jax.grad
    def gradient_fn(v):
      return loss_fn(v, batch, zoo.KEY)[0]

    gradient = gradient_fn(variables)

    def losses(own, shared):
      logits = (batch.inputs @ own['head'], batch.inputs @ shared['head'])
      first, second, to_own, to_meme = _terms(*logits, batch.labels)
      return 0.5 * (first + to_own), 0.5 * (second + to_meme)

    own, shared = variables['classifier'], variables['meme']
    alone = {
      'classifier': jax.jit(jax.grad(lambda v: losses(v, shared)[0]))(own),
      'meme': jax.jit(jax.grad(lambda v: losses(own, v)[1]))(shared),
    }
    chex.assert_trees_all_close(gradient, alone, rtol=1e-5)
    leaking = jax.jit(jax.grad(lambda v: sum(losses(v, shared))))(own)
    gap = leaking['head'] - gradient['classifier']['head']
    self.assertGreater(abs(gap).max(), 1e-2)

  def test_without_teaching_a_client_trains_alone(self):
    state, _ = zoo.trained(_method(alpha=1.0))
    chex.assert_trees_all_equal(
      tuple(fleet.variables['classifier'] for fleet in state.fleets),
      zoo.alone(),
    )
    taught, _ = zoo.trained(_method())
    gap = (
      zoo.alone()[0]['head']['kernel']
      - (taught.fleets[0].variables['classifier']['head']['kernel'])
    )
    self.assertGreater(abs(gap).max(), 1e-3)

  def test_the_meme_is_the_mean_of_all_clients_alike_and_replaces_theirs(self):
    state, _ = zoo.trained(_method())
    sent = zoo.joined([fleet.variables['meme'] for fleet in state.fleets])
    mean, wrong = (
      zoo.weighted(sent, weights) for weights in (np.ones(6), zoo.SIZES)
    )
    chex.assert_trees_all_close(state.server.variables, mean, atol=1e-5)
    gap = state.server.variables['head']['kernel'] - wrong['head']['kernel']
    self.assertGreater(abs(gap).max(), 1e-4)
    deployed = zoo.joined(zoo.deployed(_method()))
    own = zoo.joined([fleet.variables['classifier'] for fleet in state.fleets])
    chex.assert_trees_all_equal(deployed['classifier'], own)
    for kernel in deployed['meme']['head']['kernel']:
      np.testing.assert_array_equal(
        kernel, state.server.variables['head']['kernel']
      )

  def test_only_the_meme_travels(self):
    shape = jax.eval_shape(zoo.models('mlp')[0].init, zoo.KEY)
    for pair in traffic_lib.exchanged(_method().algorithm, zoo.fleets()):
      for tree in pair:
        chex.assert_trees_all_equal_shapes_and_dtypes(tree, shape)

  def test_the_meter_reproduces_table_5_of_fedtgp(self):
    meme = table5.classifier(fml.Config().meme_config(table5.CLIENTS))
    view, message = table5.exchanged(
      lambda training, models: fml.fml(
        fml.Config(), training, models, [20], meme
      )
    )
    self.assertEqual(class_traffic.sent_floats(message, 0), 924_708)
    sent = 20 * sum(
      class_traffic.sent_floats(tree, 0) for tree in (view, message)
    )
    self.assertEqual(sent, 36_988_320)

  def test_the_meme_is_configured(self):
    clients = ClassifierConfig(('mlp',), 16, 0.5)
    for width, expected in ((0.0, 0.5), (0.25, 0.25)):
      config = fml.Config(fml_architecture='cnn5', fml_width=width)
      self.assertEqual(
        config.meme_config(clients),
        dataclasses.replace(clients, architectures=('cnn5',), width=expected),
      )

  @parameterized.parameters(
    ({'fml_alpha': 1.5},), ({'fml_beta': -0.1},), ({'fml_width': -1.0},),
    ({'fml_architecture': 'tree'},),
  )  # fmt: skip
  def test_wrong_values_are_refused_by_name(self, fields):
    [name] = fields
    with self.assertRaisesRegex(InputError, name):
      fml.Config(**fields)

  def test_classes_must_be_as_many(self):
    other = zoo.linear_model()._replace(num_classes=3)
    with self.assertRaisesRegex(InputError, r'num_classes, got \[3, 10\]'):
      fml.fml(fml.Config(), zoo.TRAINING, zoo.models(), (3, 3), other)


if __name__ == '__main__':
  absltest.main()
