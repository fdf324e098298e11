import functools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.algorithms.classifiers import fedgen
from fedjax_gen.errors import InputError
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.statistics import class_traffic
from fedjax_gen.models.classification.classifiers import (
  ClassifierConfig,
  build_classifiers,
)
from tests.algorithms import table5, zoo

_SMALL = {
  'fedgen_noise_size': 2,
  'fedgen_hidden_size': 4,
  'fedgen_server_steps': 3,
  'fedgen_server_batch_size': 8,
}


@functools.cache
def _method(**fields):
  config = fedgen.Config(**_SMALL, **fields)
  return fedgen.fedgen(config, zoo.TRAINING, zoo.models(), zoo.NUM_CLIENTS)


def _counts():
  """Examples by class of the six clients, counted with NumPy; by number."""
  return np.array([
    np.bincount(
      np.asarray(data.labels)[
        np.asarray(data.order)[int(start) : int(start) + int(size)]
      ],
      minlength=10,
    )
    for data in zoo.fleets()
    for start, size in zip(data.offsets, data.sizes, strict=True)
  ])  # fmt: skip


def _linear_view(config, counts, done=0):
  model = zoo.linear_model()
  generator = config.generator(model)
  view = {
    'generator': generator.init(jax.random.key(5)),
    'counts': jnp.array(counts),
    'round': jnp.array(done),
  }
  return model, generator, view


class GeneratorLossTest(absltest.TestCase):
  def test_heads_count_for_the_part_of_a_class_that_they_hold(self):
    config = fedgen.Config(**_SMALL)
    model, generator, view = _linear_view(config, [0, 0])
    heads = jnp.stack([sign * zoo.linear(0)['head'] for sign in (3, -3)])
    counts = jnp.array([[1, 3], [1, 0]])
    labels = jnp.array([0, 1, 1])
    key = jax.random.key(2)
    loss, terms = fedgen.generator_loss(
      config, model, heads, counts, view['generator'], labels, key
    )
    noise = generator.draw(key, 3)
    features = generator.generate(view['generator'], labels, noise)
    errors = [personal.cross_entropy(features @ head, labels) for head in heads]
    expected = (
      (errors[0][0] + errors[1][0]) / 2 + errors[0][1] + errors[0][2]
    ) / 3
    np.testing.assert_allclose(
      terms['generator_cross_entropy'], expected, rtol=1e-5
    )
    alike = (errors[0].mean() + errors[1].mean()) / 2
    self.assertGreater(abs(alike - expected), 1e-2)
    np.testing.assert_allclose(
      loss, expected + terms['generator_diversity'], rtol=1e-5
    )


class ClientLossTest(absltest.TestCase):
  def test_its_terms_are_those_of_the_paper(self):
    config = fedgen.Config(**_SMALL, fedgen_gamma1=2.0, fedgen_gamma2=3.0)
    model, generator, view = _linear_view(config, [4, 0], done=5)
    variables = {'classifier': zoo.linear(0)}
    head = variables['classifier']['head']
    batch = zoo.batch([0, 1, 0], padding=1)
    key = jax.random.key(9)
    loss, _ = fedgen.client_loss(config, model, view)(variables, batch, key)
    _, any_key, same_key = jax.random.split(key, 3)

    def made(labels, key):
      return generator.sample(view['generator'], labels, key) @ head

    # Class 0 alone is known: it is what y' are, and what teaches.
    first = personal.cross_entropy(
      made(jnp.zeros(4, int), any_key), jnp.zeros(4, int)
    )[:3]
    logits = batch.inputs[:3] @ head
    teacher = jax.nn.log_softmax(made(batch.labels, same_key))[:3]
    student = jax.nn.log_softmax(logits)
    second = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=1)
    expected = (
      personal.cross_entropy(logits, batch.labels[:3]).mean()
      + 0.98**5 * (2 * first.mean() + 3 * (second[0] + second[2]) / 3)
    )  # fmt: skip
    np.testing.assert_allclose(loss, expected, rtol=1e-5)

  def test_before_anything_is_known_it_is_cross_entropy(self):
    config = fedgen.Config(**_SMALL)
    model, _, view = _linear_view(config, [0, 0])
    variables, batch = {'classifier': zoo.linear(0)}, zoo.batch([0, 1, 1])
    arguments = variables, batch, zoo.KEY
    found = jax.grad(lambda *a: fedgen.client_loss(config, model, view)(*a)[0])(
      *arguments
    )
    plain = jax.grad(lambda *a: personal.classification(model)(*a)[0])(
      *arguments
    )
    chex.assert_trees_all_close(found, plain)

  def test_the_copied_head_does_not_learn_to_be_copied(self):
    config = fedgen.Config(**_SMALL, fedgen_gamma1=0.0, fedgen_gamma2=1.0)
    model, generator, view = _linear_view(config, [1, 1])
    head, batch, key = zoo.linear(0)['head'], zoo.batch([0, 1]), zoo.KEY
    loss_fn = fedgen.client_loss(config, model, view)
    found = jax.grad(lambda v: loss_fn(v, batch, key)[0])(
      {'classifier': {'head': head}}
    )['classifier']['head']

    def by_hand(head, teacher_head):
      same_key = jax.random.split(key, 3)[2]
      made = generator.sample(view['generator'], batch.labels, same_key)
      teacher = jax.nn.log_softmax(made @ teacher_head)
      logits = batch.inputs @ head
      gap = teacher - jax.nn.log_softmax(logits)
      copied = jnp.sum(jnp.exp(teacher) * gap, axis=1)
      return (personal.cross_entropy(logits, batch.labels) + copied).mean()

    np.testing.assert_allclose(found, jax.grad(by_hand)(head, head), rtol=1e-4)
    leaking = sum(jax.grad(by_hand, (0, 1))(head, head))
    self.assertGreater(abs(leaking - found).max(), 1e-2)

  def test_classes_are_drawn_among_those_that_anyone_holds(self):
    counts = jnp.array([0, 30, 10, 0])
    for rule, share in (('uniform', 0.5), ('count', 0.75)):
      labels = fedgen.draw_labels(
        counts, 4000, fedgen.Config(fedgen_labels=rule), zoo.KEY
      )
      shares = np.bincount(labels, minlength=4) / 4000
      np.testing.assert_allclose(shares, [0, share, 1 - share, 0], atol=0.03)


class FedGenTest(parameterized.TestCase):
  def test_the_server_knows_the_counts_and_the_mean_head_by_examples(self):
    state, _ = zoo.trained(_method())
    np.testing.assert_array_equal(state.server.counts, _counts())
    self.assertEqual(_counts().sum(), 24)
    sent = zoo.joined(
      [fleet.variables['classifier']['head'] for fleet in state.fleets]
    )
    right, wrong = (
      zoo.weighted(sent, weights) for weights in (zoo.SIZES, np.ones(6))
    )
    chex.assert_trees_all_close(state.server.head, right, atol=1e-5)
    gap = state.server.head['kernel'] - wrong['kernel']
    self.assertGreater(abs(gap).max(), 1e-4)
    for kernel in zoo.joined(zoo.deployed(_method()))['head']['kernel']:
      np.testing.assert_array_equal(kernel, state.server.head['kernel'])

  def test_who_is_away_is_remembered_and_does_not_teach(self):
    server = _method().algorithm.server
    before, _ = zoo.trained(_method())
    heads = jax.tree.map(lambda leaf: jnp.stack([leaf] * 6), before.server.head)
    counts = jnp.asarray(_counts(), jnp.int32)
    present = jnp.array([1.0, 0, 0, 0, 0, 0])
    there = present > 0
    update = jax.jit(server.update)

    def after(away):
      sent = {
        'head': jax.tree.map(
          lambda leaf: jnp.where(there[:, None].reshape(
            -1, *[1] * (leaf.ndim - 1)), leaf, away), heads
        ),
        'counts': jnp.where(there[:, None], counts, 0),
      }  # fmt: skip
      return update(before.server, (sent, present), zoo.KEY)[0]

    chex.assert_trees_all_equal(after(0.0), after(5.0))
    np.testing.assert_array_equal(after(0.0).counts, counts)
    nobody = jax.tree.map(jnp.zeros_like, {'head': heads, 'counts': counts})
    alone, metrics = update(before.server, (nobody, 0 * present), zoo.KEY)
    chex.assert_trees_all_equal(
      alone._replace(round=0), before.server._replace(round=0)
    )
    chex.assert_tree_all_finite(metrics)

  def test_the_generator_learns_what_heads_recognise(self):
    method = fedgen.fedgen(
      fedgen.Config(
        **{**_SMALL, 'fedgen_server_steps': 200},
        fedgen_server_learning_rate=0.02,
      ),
      zoo.TRAINING,
      zoo.models(),
      zoo.NUM_CLIENTS,
    )
    before = zoo.start(_method()).server
    kernel = 3 * jax.random.normal(zoo.KEY, (6, 4, 10))
    sent = {
      'head': {'kernel': kernel, 'bias': jnp.zeros((6, 10))},
      'counts': jnp.asarray(_counts(), jnp.int32),
    }
    _, first = _method().algorithm.server.update(
      before, (sent, jnp.ones(6)), zoo.KEY
    )
    _, last = method.algorithm.server.update(
      before, (sent, jnp.ones(6)), zoo.KEY
    )
    self.assertLess(
      last['generator_cross_entropy'], 0.5 * first['generator_cross_entropy']
    )

  def test_without_generated_features_a_client_trains_alone(self):
    method = _method(fedgen_gamma1=0.0, fedgen_gamma2=0.0, fedgen_heads='own')
    state, _ = zoo.trained(method)
    chex.assert_trees_all_equal(
      tuple(fleet.variables['classifier'] for fleet in state.fleets),
      zoo.alone(),
    )
    chex.assert_trees_all_equal(tuple(zoo.deployed(method)), zoo.alone())

  def test_the_meter_reproduces_table_5_of_fedtgp(self):
    view, message = table5.exchanged(
      lambda training, models: fedgen.fedgen(
        fedgen.Config(), training, models, [20]
      )
    )
    self.assertEqual(class_traffic.sent_floats(view['generator'], 0), 331_776)
    sent = 20 * sum(
      class_traffic.sent_floats(tree, 0) for tree in (view, message)
    )
    self.assertEqual(sent, 8_687_520)

  @parameterized.parameters(
    ({'fedgen_gamma1': -1.0},), ({'fedgen_gamma2': -1.0},),
    ({'fedgen_decay': 1.1},), ({'fedgen_diversity': -1.0},),
    ({'fedgen_heads': 'none'},), ({'fedgen_labels': 'all'},),
    ({'fedgen_noise': 'pink'},), ({'fedgen_noise_size': 0},),
    ({'fedgen_hidden_size': 0},), ({'fedgen_server_steps': 0},),
    ({'fedgen_server_batch_size': 0},),
    ({'fedgen_server_learning_rate': 0.0},),
  )  # fmt: skip
  def test_wrong_values_are_refused_by_name(self, fields):
    [name] = fields
    with self.assertRaisesRegex(InputError, name):
      fedgen.Config(**fields)

  def test_heads_must_be_alike(self):
    [wide] = build_classifiers(ClassifierConfig(('mlp',), 8, 0.01), zoo.SPEC)
    with self.assertRaisesRegex(InputError, 'feature_size'):
      fedgen.fedgen(
        fedgen.Config(), zoo.TRAINING, [zoo.models()[0], wide], (3, 3)
      )


if __name__ == '__main__':
  absltest.main()
