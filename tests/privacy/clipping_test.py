"""No contribution moves a sum by more than its bound, and the sum is exact."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen import trees
from fedjax_gen.data.federated import Batch
from fedjax_gen.errors import InputError
from fedjax_gen.federated import aggregates
from fedjax_gen.federated.algorithm import ClientInfo
from fedjax_gen.privacy import clipping

_SIZE = 11
_BOUND = 0.7


def _variables():
  keys = jax.random.split(jax.random.key(0), 3)
  return {
    'shared': {'w': jax.random.normal(keys[0], (5, 7)), 'b': jnp.zeros(7)},
    'code': jax.random.normal(keys[1], (7,)),
    'local': jax.random.normal(keys[2], (3, 5)),
  }


def _batch(size=_SIZE):
  rng = np.random.default_rng(1)
  # Of very different sizes, so that some are clipped and some are not.
  scale = np.geomspace(0.05, 3, size)[:, None]
  inputs = jnp.asarray(rng.normal(size=(size, 3)) * scale, jnp.float32)
  labels = jnp.asarray(rng.integers(0, 7, size), jnp.int32)
  return Batch(inputs, labels, jnp.ones(size, bool))


def _loss(variables, record, key):
  """Reads everything, a draw too; its gradient joins three modules."""
  hidden = jnp.tanh(record.inputs @ variables['local'])
  noise = 0.1 * jax.random.normal(key, (5,))
  hidden = (hidden + noise) @ variables['shared']['w']
  logits = hidden * variables['code'] + variables['shared']['b']
  loss = -jax.nn.log_softmax(logits)[record.labels]
  return loss * jnp.sum(record.inputs**2), {'logit': logits[0]}


def _fragile(variables, record, key):
  """Finite everywhere; its gradient is NaN at a record of zeros."""
  loss, metrics = _loss(variables, record, key)
  length = jnp.linalg.norm(record.inputs @ variables['local'])
  return loss + length, metrics


_sum = jax.jit(
  clipping.clipped_sum, static_argnums=0, static_argnames='chunk_size'
)


def _reference(variables, batch, key, loss_fn=_loss):
  """One record after the other: gradient, norm, clipped, added up."""
  total, norms = trees.zeros_like(variables), []
  gradient_fn = jax.jit(jax.grad(loss_fn, has_aux=True))
  for j in range(batch.mask.size):
    record = trees.take(batch, j)
    gradient, _ = gradient_fn(variables, record, jax.random.fold_in(key, j))
    flat = np.concatenate([np.ravel(g) for g in jax.tree.leaves(gradient)])
    norm = np.linalg.norm(flat.astype(np.float64))
    norms.append(norm)
    if record.mask:
      factor = min(1.0, _BOUND / norm)
      total = jax.tree.map(lambda t, g, f=factor: t + f * g, total, gradient)
  return total, np.array(norms)


def _distance(left, right):
  return float(clipping.tree_norm(trees.subtract(left, right)))


class ClipTest(parameterized.TestCase):
  @parameterized.parameters(0.1, 1.0, 4.9)
  def test_one_norm_over_all_leaves(self, bound):
    tree = {'a': jnp.array([3.0, 0.0]), 'b': jnp.array([[4.0]])}
    clipped, norm = clipping.clip(tree, bound)
    np.testing.assert_allclose(norm, 5.0, rtol=1e-6)
    np.testing.assert_allclose(clipping.tree_norm(clipped), bound, rtol=1e-6)
    # The direction stays: to clip each leaf by itself would turn it.
    chex.assert_trees_all_close(
      clipped, jax.tree.map(lambda leaf: leaf * bound / 5, tree), rtol=1e-6
    )

  def test_what_is_short_stays_and_zero_stays(self):
    tree = {'a': jnp.array([3.0]), 'b': jnp.array([4], jnp.int8)}
    clipped, _ = clipping.clip(tree, 5.1)
    chex.assert_trees_all_close(clipped, {'a': jnp.array([3.0]),
                                          'b': jnp.array([4.0])})  # fmt: skip
    clipped, norm = clipping.clip(jnp.zeros(3), 1.0)
    chex.assert_trees_all_equal(clipped, jnp.zeros(3))
    self.assertEqual(norm, 0)
    clipping.clip({}, 1.0)

  @parameterized.parameters(np.nan, np.inf, -np.inf, 1e30)
  def test_what_is_not_finite_becomes_zero(self, value):
    tree = {'a': jnp.array([1.0, value]), 'b': jnp.ones(3)}
    clipped, _ = clipping.clip(tree, 1.0)
    chex.assert_trees_all_equal(clipped, trees.zeros_like(tree))

  @parameterized.parameters(0.0, -1.0, np.nan)
  def test_a_bound_is_above_zero(self, bound):
    with self.assertRaisesRegex(InputError, f'max_norm={bound}'):
      clipping.clip(jnp.ones(2), bound)
    with self.assertRaisesRegex(InputError, f'max_norm={bound}'):
      clipping.clipped_messages(bound, 3)


class ClippedSumTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.variables, self.key = _variables(), jax.random.key(3)
    batch = _batch()
    self.batch = batch._replace(
      mask=batch.mask.at[jnp.array([2, 9])].set(False)
    )

  def run_sum(self, batch, loss_fn=_loss, chunk_size=4):
    return _sum(
      loss_fn, self.variables, batch, self.key, _BOUND, chunk_size=chunk_size
    )

  @parameterized.parameters(1, 4, _SIZE, 50)
  def test_is_the_sum_of_clipped_gradients(self, chunk_size):
    got = self.run_sum(self.batch, chunk_size=chunk_size)
    total, norms = _reference(self.variables, self.batch, self.key)
    chex.assert_trees_all_close(got.total, total, rtol=1e-5, atol=1e-6)
    mask = np.asarray(self.batch.mask)
    np.testing.assert_allclose(got.norms, np.where(mask, norms, 0), rtol=1e-5)
    share = np.mean(norms[mask] > _BOUND)
    self.assertBetween(share, 0.2, 0.8)  # else the test would be blind
    np.testing.assert_allclose(got.share_clipped, share, rtol=1e-6)

  def test_what_is_added_is_what_was_measured_where_digits_cancel(self):
    """Features of 1e8: a loss's gradient depends on how it is rounded."""
    rng = np.random.default_rng(0)
    size, num = 64, 4000
    directions = rng.normal(size=(num, size))
    scales = 10 ** rng.uniform(6, 9, size=(num, 1))
    inputs = jnp.asarray(directions * scales, jnp.float32)
    labels = jnp.asarray(rng.integers(4, size=num), jnp.int32)
    kernel = jnp.asarray(rng.normal(size=(size, 4)) * 1e-8, jnp.float32)

    def loss(variables, record, key):
      del key
      logits = record.inputs @ variables
      found = optax.softmax_cross_entropy_with_integer_labels(
        logits, record.labels
      )
      return found, {}

    @jax.jit
    def norm(record, label):
      batch = Batch(record[None], label[None], jnp.ones(1, bool))
      total = clipping.clipped_sum(loss, kernel, batch, self.key, 1.0).total
      return clipping.tree_norm(total)

    norms = jax.lax.map(lambda pair: norm(*pair), (inputs, labels))
    self.assertLessEqual(float(norms.max()), 1 + 1e-5)
    self.assertGreater(float(norms.max()), 0.99)

  def test_agrees_with_optax(self):
    batch = _batch()
    keys = jax.vmap(jax.random.fold_in, (None, 0))(self.key, jnp.arange(_SIZE))
    gradients, _ = jax.vmap(jax.grad(_loss, has_aux=True), (None, 0, 0))(
      self.variables, batch, keys
    )
    private = optax.contrib.differentially_private_aggregate(
      _BOUND, 0.0, key=jax.random.key(0)
    )
    mean, _ = private.update(gradients, private.init(self.variables))
    chex.assert_trees_all_close(
      self.run_sum(batch).total,
      jax.tree.map(lambda leaf: leaf * _SIZE, mean),
      rtol=1e-5,
      atol=1e-6,
    )

  def test_agrees_with_jax_privacy(self):
    try:
      from jax_privacy import clipping as theirs
    except ImportError:
      self.skipTest('jax_privacy is not installed')
    keys = jax.vmap(jax.random.fold_in, (None, 0))(self.key, jnp.arange(_SIZE))

    def loss(variables, batch, keys):
      return _loss(variables, trees.take(batch, 0), keys[0])[0]

    their_sum = theirs.clipped_grad(
      loss, l2_clip_norm=_BOUND, batch_argnums=(1, 2)
    )
    total = their_sum(
      self.variables,
      self.batch,
      keys,
      is_padding_example=~self.batch.mask,
    )
    chex.assert_trees_all_close(
      self.run_sum(self.batch).total, total, rtol=1e-5, atol=1e-6
    )

  def test_a_record_moves_the_sum_by_its_clipped_norm(self):
    batch = _batch()
    whole = self.run_sum(batch)
    moved = []
    for j in range(_SIZE):
      without = self.run_sum(batch._replace(mask=batch.mask.at[j].set(False)))
      moved.append(_distance(whole.total, without.total))
    np.testing.assert_allclose(
      moved, np.minimum(whole.norms, _BOUND), rtol=1e-3, atol=1e-5
    )

  def test_to_clip_the_sum_instead_would_move_it_further(self):
    # What is often called clipping in code, and is not: two records against
    # one that outweighs them, the sum clipped.
    records = jnp.array([[3.0], [-1.0], [-1.0]])
    whole = clipping.clip(records.sum(0), 1.0)[0]
    without = clipping.clip(records[1:].sum(0), 1.0)[0]
    self.assertGreater(abs(float(whole[0] - without[0])), 1.5)

  def test_a_part_trained_without_noise_beside_it_voids_the_bound(self):
    # The published protocol: a local part takes a step on the records as they
    # are, then the shared part's clipped gradients are summed.
    batch = _batch()

    def after_local_steps(batch):
      variables, keys = self.variables, jax.random.split(self.key, _SIZE)

      def mean_loss(local):
        losses, _ = jax.vmap(_loss, (None, 0, 0))(
          {**variables, 'local': local}, batch, keys
        )
        return jnp.sum(jnp.where(batch.mask, losses, 0.0)) / _SIZE

      for _ in range(5):
        local = variables['local'] - 0.5 * jax.grad(mean_loss)(
          variables['local']
        )
        variables = {**variables, 'local': local}
      fixed = jax.lax.stop_gradient(variables)

      def shared_loss(shared, record, key):
        return _loss({**fixed, 'shared': shared}, record, key)

      return clipping.clipped_sum(
        shared_loss, fixed['shared'], batch, self.key, _BOUND
      ).total

    release = jax.jit(after_local_steps)
    without = batch._replace(mask=batch.mask.at[_SIZE - 1].set(False))
    moved = _distance(release(batch), release(without))
    self.assertGreater(moved, 1.2 * _BOUND)

  @parameterized.parameters(np.nan, np.inf)
  def test_a_record_that_is_not_finite_contributes_nothing(self, value):
    bad = self.batch._replace(
      inputs=self.batch.inputs.at[5].set(value).at[0, 1].set(value)
    )
    gone = self.batch._replace(
      mask=self.batch.mask.at[jnp.array([0, 5])].set(False)
    )
    chex.assert_trees_all_close(
      self.run_sum(bad), self.run_sum(gone), rtol=1e-6
    )

  def test_a_gradient_that_is_not_finite_contributes_nothing(self):
    bad = self.batch._replace(inputs=self.batch.inputs.at[5].set(0.0))
    gone = self.batch._replace(mask=self.batch.mask.at[5].set(False))
    got = self.run_sum(bad, _fragile)
    chex.assert_tree_all_finite(got)
    chex.assert_trees_all_close(got, self.run_sum(gone, _fragile), rtol=1e-6)

  def test_padding_may_hold_anything(self):
    padded = self.batch._replace(
      inputs=self.batch.inputs.at[2].set(1e4).at[9].set(jnp.nan)
    )
    chex.assert_trees_all_close(
      self.run_sum(padded), self.run_sum(self.batch), rtol=1e-6
    )

  def test_nothing_to_add_up_is_zero(self):
    for batch in (
      self.batch._replace(mask=jnp.zeros(_SIZE, bool)),
      self.batch._replace(inputs=jnp.full_like(self.batch.inputs, jnp.nan)),
    ):
      got = self.run_sum(batch)
      chex.assert_trees_all_equal(got, trees.zeros_like(got))

  def test_memory_does_not_hold_a_gradient_for_each_record(self):
    width, size = 256, 64
    variables = {'w': jnp.zeros((width, width))}
    batch = Batch(
      jnp.ones((size, width)), jnp.zeros(size, int), jnp.ones(size, bool)
    )

    def loss(variables, record, key):
      del key
      return jnp.sum(jnp.tanh(record.inputs @ variables['w'])), {}

    def at_once(variables, batch, key):
      gradients, _ = jax.vmap(jax.grad(loss, has_aux=True), (None, 0, None))(
        variables, batch, key
      )
      clipped = jax.vmap(lambda tree: clipping.clip(tree, 1.0)[0])(gradients)
      return jax.tree.map(lambda leaf: leaf.sum(0), clipped)

    def in_chunks(variables, batch, key):
      return clipping.clipped_sum(
        loss, variables, batch, key, 1.0, chunk_size=4
      ).total

    all_gradients = size * width * width * 4
    used = [
      jax.jit(fn)
      .lower(variables, batch, jax.random.key(0))
      .compile()
      .memory_analysis()
      .temp_size_in_bytes
      for fn in (in_chunks, at_once)
    ]
    self.assertLess(used[0], all_gradients / 3)
    self.assertGreaterEqual(used[1], all_gradients)

  def test_a_chunk_has_records(self):
    with self.assertRaisesRegex(InputError, 'chunk_size=0'):
      self.run_sum(self.batch, chunk_size=0)


def _infos(present, weight):
  present = jnp.asarray(present)
  zeros = jnp.zeros(present.shape, jnp.int32)
  return ClientInfo(
    zeros, zeros, zeros, jnp.asarray(weight, jnp.float32), present
  )


class ClippedMessagesTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    scale = np.array([0.1, 1, 10, 100])[:, None]
    self.messages = {
      'a': jnp.asarray(rng.normal(size=(4, 3)) * scale, jnp.float32),
      'b': jnp.asarray(rng.normal(size=(4, 2, 2)) * scale[:, None],
                       jnp.float32),
    }  # fmt: skip
    self.everyone = _infos([True] * 4, [1, 1, 1, 1])
    self.rule = clipping.clipped_messages(2.0, 8.0)

  def finished(self, infos, messages=None, rule=None):
    rule = rule or self.rule
    return rule.finish(rule.partial(messages or self.messages, infos))

  def test_whole_messages_are_clipped_and_count_alike(self):
    expected = trees.zeros_like(trees.take(self.messages, 0))
    for k in range(4):
      one, _ = clipping.clip(trees.take(self.messages, k), 2.0)
      expected = jax.tree.map(lambda s, m: s + m / 8.0, expected, one)
    for weights in ([1, 1, 1, 1], [1, 100, 7, 0]):
      infos = _infos([True] * 4, weights)
      chex.assert_trees_all_close(self.finished(infos), expected, rtol=1e-5)

  def test_blocks_add_up(self):
    blocks = [
      self.rule.partial(
        trees.take(self.messages, slice(a, b)),
        trees.take(self.everyone, slice(a, b)),
      )
      for a, b in ((0, 1), (1, 4))
    ]
    chex.assert_trees_all_close(
      self.rule.finish(self.rule.merge(*blocks)),
      self.finished(self.everyone),
      rtol=1e-5,
    )

  def moves(self, rule):
    """How far one client, absent, moves the aggregate; the worst of all."""
    whole = self.finished(self.everyone, rule=rule)
    return max(
      _distance(
        whole,
        self.finished(_infos(np.arange(4) != k, np.arange(4) != k), rule=rule),
      )
      for k in range(4)
    )

  def test_a_client_moves_the_aggregate_by_its_bound_at_most(self):
    np.testing.assert_allclose(self.moves(self.rule), 2 / 8, rtol=1e-4)

  def test_a_mean_over_those_present_would_move_further(self):
    clipped = jax.vmap(lambda message: clipping.clip(message, 2.0)[0])

    def partial(messages, infos):
      return aggregates.uniform_mean().partial(clipped(messages), infos)

    wrong = aggregates.uniform_mean()._replace(partial=partial)
    # The fixed denominator that fits these four clients.
    self.assertGreater(self.moves(wrong), 1.05 * 2 / 4)

  def test_a_client_that_is_absent_or_not_finite_counts_for_nothing(self):
    messages = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), self.messages)
    without = self.finished(_infos([True, False, True, True], [1] * 4))
    chex.assert_trees_all_close(
      self.finished(self.everyone, messages), without, rtol=1e-6
    )
    absent = _infos([True, False, True, True], [1] * 4)
    chex.assert_trees_all_close(
      self.finished(absent, messages), without, rtol=1e-6
    )


if __name__ == '__main__':
  absltest.main()
