import dataclasses
import functools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees
from fedjax_gen.algorithms.classifiers import fedkd
from fedjax_gen.errors import InputError
from fedjax_gen.federated.execution import cohorts
from fedjax_gen.federated.statistics import class_traffic
from fedjax_gen.models.classification.classifiers import ClassifierConfig
from tests.algorithms import table5, zoo


@functools.cache
def _method():
  [mentee] = zoo.models('mlp')
  return fedkd.fedkd(
    fedkd.Config(), zoo.TRAINING, zoo.models(), zoo.NUM_CLIENTS, mentee, 4
  )


def _matrix(*singular_values, shape=(6, 4)):
  """A matrix with these singular values."""
  draws = np.random.default_rng(0).normal(size=(2, *shape))
  left, right = (np.linalg.svd(d, full_matrices=False) for d in draws)
  values = np.zeros(min(shape))
  values[: len(singular_values)] = singular_values
  return jnp.asarray((left[0] * values) @ right[2], jnp.float32)


def _floats(tree, rank_of):
  """Numbers of a tree's factors, the rank of each matrix given by NumPy."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    if len(leaf.shape) < 2:
      total += np.prod(leaf.shape)
    else:
      rows = int(np.prod(leaf.shape[:-1]))
      total += rank_of(leaf) * (rows + leaf.shape[-1] + 1)
  return total


def _needed_rank(energy):
  """The least rank that keeps the energy, by trying them all."""

  def rank_of(matrix):
    squares = np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)
    squares = squares**2
    return next(
      rank
      for rank in range(1, len(squares) + 1)
      if squares[:rank].sum() >= energy * squares.sum() * (1 - 1e-9)
    )

  return rank_of


def _published_rank(singular_values, energy):
  """The loop of wuch15/FedKD, which stops before the full rank."""
  squares = np.square(singular_values)
  for rank in range(len(squares)):
    if squares[:rank].sum() > energy * squares.sum():
      return rank
  return 0


class LowRankTest(parameterized.TestCase):
  @parameterized.parameters(
    ([3.0, 1.0], 0.89, 1),
    ([3.0, 1.0], 0.91, 2),
    ([2.0, 2.0, 1.0, 0.0], 0.8, 2),
    ([2.0, 2.0, 1.0, 0.0], 0.99, 3),
    ([1.0, 1.0], 1.0, 2),
    ([1.0, 0.0], 0.0, 1),
    ([0.0, 0.0, 0.0], 0.95, 1),
  )
  def test_the_rank_is_the_least_that_keeps_the_energy(
    self, values, energy, rank
  ):
    self.assertEqual(int(fedkd.rank_for(jnp.array(values), energy)), rank)

  def test_no_matrix_vanishes_as_in_the_published_loop(self):
    head = np.random.default_rng(0).normal(size=(10, 512))
    values = np.linalg.svd(head, compute_uv=False)
    self.assertEqual(_published_rank(values, 0.95), 0)
    self.assertEqual(int(fedkd.rank_for(jnp.asarray(values), 0.95)), 10)
    sent = fedkd.low_rank({'head': jnp.asarray(head, jnp.float32)}, 0.95).tree
    np.testing.assert_allclose(sent['head'], head, atol=1e-4)

  def test_a_matrix_keeps_its_largest_directions(self):
    # Energies 16, 4, 1 of 21: two directions hold 95.2%.
    whole, expected = _matrix(4.0, 2.0, 1.0), _matrix(4.0, 2.0)
    tree = {
      'matrix': whole,
      'kernel': whole.reshape(1, 3, 2, 4),
      'bias': jnp.arange(5.0),
    }
    sent = fedkd.low_rank(tree, 0.95)
    np.testing.assert_allclose(sent.tree['matrix'], expected, atol=1e-5)
    np.testing.assert_allclose(
      sent.tree['kernel'].reshape(6, 4), expected, atol=1e-5
    )
    np.testing.assert_array_equal(sent.tree['bias'], tree['bias'])
    self.assertEqual(sent.num_floats, 2 * (2 * (6 + 4 + 1)) + 5)
    np.testing.assert_allclose(
      fedkd.low_rank(tree, 0.99).tree['matrix'], whole, atol=1e-5
    )

  def test_the_energy_rises_to_its_end(self):
    energy = functools.partial(fedkd.Config().energy, num_rounds=10)
    found = [float(energy(done)) for done in (0, 4, 9, 30)]
    np.testing.assert_allclose(found, [0.953, 0.965, 0.98, 0.98], rtol=1e-6)


class FedKdTest(parameterized.TestCase):
  def test_neither_teachers_nor_the_scale_learn(self):
    model = zoo.linear_model()
    matrix = jax.random.normal(jax.random.key(3), (3, 3))
    # Features that learn, so that their error matters.
    model = model._replace(features=lambda v, inputs: inputs * v['scale'])
    variables = {
      part: {**zoo.linear(seed), 'scale': jnp.array(seed + 1.0)}
      for seed, part in enumerate(['classifier', 'mentee'])
    } | {'projection': matrix}
    batch = zoo.batch([0, 1, 1], padding=1)

    def terms(v):
      features = [
        batch.inputs[:3] * v[part]['scale'] for part in ('classifier', 'mentee')
      ]
      own, shared = (
        jax.nn.log_softmax(feature @ v[part]['head'])
        for feature, part in zip(
          features, ('classifier', 'mentee'), strict=True
        )
      )
      rows, labels = jnp.arange(3), batch.labels[:3]
      errors = -own[rows, labels].mean(), -shared[rows, labels].mean()
      gap = features[0] - features[1] @ v['projection']
      return own, shared, errors, jnp.mean(gap**2)

    def divergence(teacher, student):
      return (jnp.exp(teacher) * (teacher - student)).sum(axis=1).mean()

    fixed = terms(variables)  # numbers, which do not learn
    scale = sum(fixed[2])

    def by_hand(v):
      own, shared, errors, gap = terms(v)
      taught = divergence(fixed[1], own) + divergence(fixed[0], shared) + gap
      return sum(errors) + taught / scale

    def leaking(v):
      own, shared, errors, gap = terms(v)
      taught = divergence(fixed[1], own) + divergence(fixed[0], shared) + gap
      return sum(errors) + taught / sum(errors)

    loss_fn = fedkd.mutual_loss(model, model)

    def with_gradient(function):
      return jax.jit(jax.value_and_grad(function))(variables)

    found = with_gradient(lambda v: loss_fn(v, batch, zoo.KEY)[0])
    chex.assert_trees_all_close(found, with_gradient(by_hand), rtol=1e-4)
    _, wrong = with_gradient(leaking)
    gap = wrong['classifier']['head'] - found[1]['classifier']['head']
    self.assertGreater(abs(gap).max(), 1e-2)

  def test_sent_floats_are_those_of_the_ranks_that_keep_the_energy(self):
    start = zoo.start(_method()).server.mentee.variables
    state, metrics = zoo.trained(_method(), 1)
    energy = 0.95 + 0.03 / 4
    for fleet, told in zip(state.fleets, metrics.clients, strict=True):
      for row in range(3):
        update = jax.tree.map(
          lambda before, after, row=row: np.asarray(before) - after[row],
          start,
          fleet.variables['mentee'],
        )
        expected = _floats(update, _needed_rank(energy))
        self.assertEqual(told['sent_floats'][0, row], expected)

  def test_the_server_averages_all_alike_and_cuts_again(self):
    before = zoo.start(_method()).server
    mean = jax.tree.map(
      lambda leaf: jnp.zeros_like(leaf), before.mentee.variables
    )
    # Of its 4 x 10 head 90.7% in one direction; 97.2% in two.
    mean['head']['kernel'] = _matrix(7.0, 2.0, 1.0, shape=(4, 10))
    server = _method().algorithm.server
    after, metrics = server.update(before, mean, zoo.KEY)
    moved = trees.subtract(before.mentee.variables, after.mentee.variables)
    np.testing.assert_allclose(
      moved['head']['kernel'], _matrix(7.0, 2.0, shape=(4, 10)), atol=1e-5
    )
    ranks = {(4, 10): 2}
    expected = _floats(mean, lambda matrix: ranks.get(matrix.shape, 1))
    self.assertEqual(metrics['broadcast_floats'], expected)
    self.assertEqual(after.round, 1)
    infos = cohorts.everyones_infos(zoo.fleets()[0])  # of 2, 4 and 6 examples
    rule = server.aggregate
    sent = {'bias': jnp.array([[0.0], [0.0], [3.0]])}
    found = rule.finish(rule.partial(sent, infos))['bias']
    np.testing.assert_allclose(found, [1.0], rtol=1e-6)

  def test_the_mentor_predicts_and_all_parts_were_trained(self):
    begun, (state, _) = zoo.start(_method()), zoo.trained(_method(), 1)
    for fleet, before, deployed in zip(
      state.fleets, begun.fleets, zoo.deployed(_method(), 1), strict=True
    ):
      chex.assert_trees_all_equal(
        deployed['classifier'], fleet.variables['classifier']
      )
      np.testing.assert_array_equal(
        deployed['mentee']['head']['kernel'][1],
        state.server.mentee.variables['head']['kernel'],
      )
      gap = fleet.variables['projection'] - before.variables['projection']
      self.assertGreater(abs(gap).max(axis=(1, 2)).min(), 0)

  def test_the_meter_counts_the_mentee_whole_as_table_5_of_fedtgp_scales(self):
    mentee = table5.classifier(fedkd.Config().mentee_config(table5.CLIENTS))
    view, message = table5.exchanged(
      lambda training, models: fedkd.fedkd(
        fedkd.Config(), training, models, [20], mentee, 1000
      )
    )
    whole = 20 * sum(
      class_traffic.sent_floats(tree, 0) for tree in (view, message)
    )
    self.assertEqual(whole, 36_988_320)
    # The table's 33.04 M lie between factors of rank one and of full rank.
    least, most = (
      40 * _floats(message, rank_of) for rank_of in (lambda m: 1, _full_rank)
    )
    self.assertLess(least, 33.04e6)
    self.assertGreater(most, 33.04e6)
    self.assertEqual(most, 40 * 1_202_680)

  def test_the_mentee_is_configured(self):
    clients = ClassifierConfig(('mlp',), 16, 0.5)
    config = fedkd.Config(fedkd_architecture='cnn5', fedkd_width=0.25)
    self.assertEqual(
      config.mentee_config(clients),
      dataclasses.replace(clients, architectures=('cnn5',), width=0.25),
    )
    self.assertEqual(fedkd.Config().mentee_config(clients).width, 0.5)

  @parameterized.parameters(
    ({'fedkd_energy_start': 1.5},), ({'fedkd_energy_start': 0.99},),
    ({'fedkd_energy_end': -1.0},), ({'fedkd_learning_rate': -1.0},),
    ({'fedkd_architecture': 'tree'},), ({'fedkd_width': -1.0},),
  )  # fmt: skip
  def test_wrong_values_are_refused_by_name(self, fields):
    [name] = fields
    with self.assertRaisesRegex(InputError, name):
      fedkd.Config(**fields)


def _full_rank(matrix):
  rows = int(np.prod(matrix.shape[:-1]))
  return min(rows, matrix.shape[-1])


if __name__ == '__main__':
  absltest.main()
