"""Local training against a plain Python loop that knows no padding."""

import dataclasses
import functools
import math

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen.data import federated
from fedjax_gen.data.federated import Batch
from fedjax_gen.data.partition import Partition
from fedjax_gen.errors import InputError
from fedjax_gen.federated import local
from fedjax_gen.models.elbo import elbo_loss
from fedjax_gen.models.vae import DataSpec, VaeConfig, build_vae

_START = {'weight': jnp.array([0.5, -0.5]), 'bias': jnp.array(0.1)}


def _dataset(sizes):
  """Clients with rows of their own, distinct and shuffled."""
  rng = np.random.default_rng(0)
  num = sum(sizes)
  parts = Partition(
    rng.permutation(num).astype(np.int32),
    np.array(sizes, np.int32),
    np.zeros(len(sizes), np.int32),
    'test',
  )
  inputs = rng.normal(size=(num, 2)).astype(np.float32)
  return federated.federated_dataset(inputs, np.arange(num), parts)


def _regression(variables, batch, key):
  """Mean over examples of the squared error of a linear prediction."""
  del key
  predicted = batch.inputs @ variables['weight'] + variables['bias']
  errors = (predicted - batch.labels / 10) ** 2
  count = jnp.maximum(batch.mask.sum(), 1)
  loss = jnp.where(batch.mask, errors, 0.0).sum() / count
  return loss, (variables, {'twice': 2 * loss})


def _train(data, client, work, optimizer=None, loss_fn=_regression, state=None):
  optimizer = optimizer or optax.sgd(0.1, momentum=0.9)
  state = optimizer.init(_START) if state is None else state

  @jax.jit
  def train(client):
    key = jax.random.fold_in(jax.random.key(3), client)
    return local.train(
      loss_fn, optimizer, work, _START, state, data.client(client), key
    )

  return train(jnp.asarray(client))


def _plain(data, client, work, optimizer, state=None):
  """What `local.train` must equal: batches are slices, of whatever length."""
  own = data.client(client)
  size, offset = int(own.size), int(own.offset)
  rows = np.asarray(data.order)[offset : offset + size]
  variables = _START
  state = optimizer.init(variables) if state is None else state
  per_epoch = math.ceil(size / work.batch_size)
  steps = max(round(work.epochs * per_epoch), 1) if size else 0
  key = jax.random.fold_in(jax.random.key(3), client)
  total, seen = 0.0, 0
  for step in range(steps):
    epoch, i = divmod(step, per_epoch)
    order_key, _ = jax.random.split(jax.random.fold_in(key, epoch))
    shuffled = rows[np.asarray(own.shuffled(order_key))[:size]]
    chosen = shuffled[i * work.batch_size : (i + 1) * work.batch_size]
    batch = Batch(
      data.inputs[chosen], data.labels[chosen], np.ones(len(chosen), bool)
    )
    (loss, _), gradient = jax.value_and_grad(_regression, has_aux=True)(
      variables, batch, None
    )
    updates, state = optimizer.update(gradient, state, variables)
    variables = optax.apply_updates(variables, updates)
    total, seen = total + len(chosen) * float(loss), seen + len(chosen)
  loss = total / max(seen, 1)
  metrics = {'loss': jnp.array(loss), 'twice': jnp.array(2 * loss)}
  return local.Trained(variables, state, metrics)


class TrainTest(parameterized.TestCase):
  @parameterized.product(
    # Of equal sizes (static steps) and of unequal ones; smaller than a batch.
    sizes=[(5, 5), (5, 8, 1, 0)],
    epochs=[0.5, 1, 1.5],
  )
  def test_equals_a_plain_loop_one_by_one_and_mapped(self, sizes, epochs):
    data = _dataset(sizes)
    work = local.local_work(epochs, 3)
    optimizer = optax.sgd(0.1, momentum=0.9)
    clients = jnp.arange(len(sizes))
    expected = [_plain(data, c, work, optimizer) for c in range(len(sizes))]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected)

    def train(client):
      return _train(data, client, work)

    for mapped in (jax.vmap(train), functools.partial(jax.lax.map, train)):
      chex.assert_trees_all_close(mapped(clients), expected, rtol=1e-4)

  @parameterized.parameters(
    # size, batch_size, epochs, steps
    (6, 4, 2, 4),
    (6, 4, 1.5, 3),
    # Rounded down to the whole number of passes below.
    (6, 4, 1.25, 2),
    # 31.5 steps, or a little less in float64: both must round alike.
    (45, 1, 0.7, 32),
  )
  def test_the_number_of_steps_does_not_depend_on_the_other_clients(
    self, size, batch_size, epochs, steps
  ):
    # Beside a client of its own size the number is static; else it is traced.
    equal, unequal = _dataset([size, size]), _dataset([size, 1])
    per_epoch = [
      data.client(0).steps_per_epoch(batch_size) for data in (equal, unequal)
    ]
    self.assertIsInstance(per_epoch[0], int)
    self.assertIsInstance(per_epoch[1], jax.Array)
    work = local.local_work(epochs, batch_size)
    for data in (equal, unequal):
      trained = _train(data, 0, work, optax.adam(0.1))
      self.assertEqual(trained.optimizer_state[0].count, steps)

  def test_static_and_traced_numbers_of_steps_give_the_same_model(self):
    equal, unequal = _dataset([6, 6]), _dataset([6, 1])
    unequal = dataclasses.replace(
      unequal, inputs=equal.inputs, labels=equal.labels, order=equal.order
    )
    work = local.local_work(1.5, 4)
    chex.assert_trees_all_close(
      _train(equal, 0, work), _train(unequal, 0, work), rtol=1e-6
    )

  def test_a_client_without_examples_keeps_what_it_has(self):
    data = _dataset([3, 0])
    state = optax.adam(0.1).init(_START)
    trained = _train(
      data, 1, local.local_work(2, 2), optax.adam(0.1), state=state
    )
    chex.assert_trees_all_equal(trained.variables, _START)
    chex.assert_trees_all_equal(trained.optimizer_state, state)
    chex.assert_trees_all_equal(
      trained.metrics, {'loss': jnp.zeros(()), 'twice': jnp.zeros(())}
    )

  def test_metrics_are_means_over_examples_not_over_batches(self):
    data = _dataset([4])
    # Nothing moves, so that every step sees the same model.
    trained = _train(data, 0, local.local_work(1, 3), optax.sgd(0.0))
    loss, _ = _regression(_START, data.client(0).everything(), None)
    np.testing.assert_allclose(trained.metrics['loss'], loss, rtol=1e-5)
    np.testing.assert_allclose(trained.metrics['twice'], 2 * loss, rtol=1e-5)
    own = data.client(0)
    epoch_key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 0), 0)
    positions = own.shuffled(jax.random.split(epoch_key)[0])
    by_batch = [
      _regression(_START, own.batch(positions, step, 3), None)[0]
      for step in (0, 1)
    ]
    self.assertGreater(abs(np.mean(by_batch) - loss), 1e-3)

  def test_the_optimizer_state_is_taken_up_and_given_back(self):
    data, work = _dataset([5]), local.local_work(1, 3)
    optimizer = optax.sgd(0.1, momentum=0.9)
    first = _train(data, 0, work)
    kept = _train(data, 0, work, state=first.optimizer_state)
    expected = _plain(data, 0, work, optimizer, first.optimizer_state)
    chex.assert_trees_all_close(kept, expected, rtol=1e-4)
    with self.assertRaises(AssertionError):
      chex.assert_trees_all_close(kept.variables, first.variables, rtol=1e-2)

  def test_every_step_of_every_epoch_has_a_key_of_its_own(self):
    def draw(variables, batch, key):
      del batch
      value = jax.random.uniform(key)
      return 0 * variables['bias'], (
        variables,
        {'mean': value, 'square': value**2},
      )

    def variance(num_examples, epochs):
      work = local.local_work(epochs, 1)
      metrics = _train(_dataset([num_examples]), 0, work, loss_fn=draw).metrics
      return float(metrics['square'] - metrics['mean'] ** 2)

    # A variance of 1/12 over the draws; it were 0 if all draws were one.
    self.assertGreater(variance(8, 1), 0.01)
    self.assertGreater(variance(1, 8), 0.01)

  def test_steps_are_taken_from_the_refreshed_statistics(self):
    def loss_fn(variables, batch, key):
      loss, (params, metrics) = _regression(variables['params'], batch, key)
      count = variables['batch_stats'] + 1
      return loss, ({'params': params, 'batch_stats': count}, metrics)

    data, work = _dataset([5]), local.local_work(2, 3)
    start = {'params': _START, 'batch_stats': jnp.array(10.0)}
    optimizer = optax.sgd(0.1, momentum=0.9)
    key = jax.random.fold_in(jax.random.key(3), 0)
    trained = local.train(
      loss_fn,
      optimizer,
      work,
      start,
      optimizer.init(start),
      data.client(0),
      key,
    )
    # Four steps, each counted once; parameters move as they do without.
    self.assertEqual(trained.variables['batch_stats'], 14.0)
    chex.assert_trees_all_close(
      trained.variables['params'],
      _plain(data, 0, work, optimizer).variables,
      rtol=1e-4,
    )

  @parameterized.parameters(
    (0, 4, 'local_epochs=0'),
    (float('inf'), 4, 'local_epochs=inf'),
    (1, 0, 'batch_size=0'),
    (1, 2.5, 'batch_size=2.5'),
  )
  def test_refuses_work_out_of_range(self, epochs, batch_size, message):
    with self.assertRaisesRegex(InputError, message):
      local.local_work(epochs, batch_size)


class RematerialisedTest(parameterized.TestCase):
  """Loss of a small residual VAE: convolutions, normalisation, draws."""

  @staticmethod
  @functools.cache
  def _loss():
    vae = build_vae(
      VaeConfig(decoder='residual', channels=(8,), hidden_size=8),
      DataSpec((8, 8, 1), 2),
    )
    inputs = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    labels, mask = jnp.array([0, 1, 1, 0]), jnp.array([1, 1, 1, 0], bool)
    batch = Batch(jnp.asarray(inputs), labels, mask)
    loss_fn = elbo_loss(vae, 1.0)
    variables = vae.init(jax.random.key(0))
    return loss_fn, variables, batch

  def test_values_and_gradients_are_the_same(self):
    loss_fn, variables, batch = self._loss()

    def gradients(loss_fn):
      return jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(
        variables, batch, jax.random.key(1)
      )

    chex.assert_trees_all_close(
      gradients(local.rematerialised(loss_fn)),
      gradients(loss_fn),
      rtol=1e-4,
      atol=1e-5,
    )

  def test_the_outputs_of_layers_alone_are_kept(self):
    loss_fn, variables, batch = self._loss()

    def kept(loss_fn):
      """Shapes of the images that wait for the way back."""
      _, backward, _ = jax.vjp(
        lambda v: loss_fn(v, batch, jax.random.key(1)), variables, has_aux=True
      )
      shapes = [leaf.shape for leaf in jax.tree.leaves(backward)]
      images = [s for s in shapes if len(s) == 4 and s[1] == s[2] and s[0] == 4]
      return sorted(images)

    # Of the encoder's layer and the shortcut; of a block's two; the data and
    # the outputs.
    small, large, ends = (4, 4, 4, 8), (4, 8, 8, 8), (4, 8, 8, 1)
    self.assertEqual(
      kept(local.rematerialised(loss_fn)), sorted(2 * [small, large, ends])
    )
    self.assertGreater(len(kept(loss_fn)), 3 * 6)


class ProximalTest(absltest.TestCase):
  _BATCH = Batch(jnp.zeros((1, 1)), jnp.zeros(1, jnp.int32), jnp.ones(1, bool))

  @staticmethod
  def _loss(variables, batch, key):
    del batch, key
    loss = 3.0 * variables['params'].sum() + 5.0 * variables['batch_stats']
    return loss, (variables, {'metric': loss})

  def test_pulls_parameters_to_the_anchor_and_leaves_statistics_alone(self):
    variables = {'params': jnp.array([1.0, 2.0]), 'batch_stats': 4.0}
    anchor = {'params': jnp.array([0.0, 5.0]), 'batch_stats': -1.0}
    anchored = local.proximal(self._loss, anchor, 0.5)
    (loss, (_, metrics)), gradient = jax.value_and_grad(anchored, has_aux=True)(
      variables, self._BATCH, None
    )
    # 3 + 0.5 * (1 - 0) and 3 + 0.5 * (2 - 5); the statistic keeps its 5.
    chex.assert_trees_all_close(
      gradient, {'params': jnp.array([3.5, 1.5]), 'batch_stats': 5.0}
    )
    # 3 * 3 + 5 * 4, and 0.25 * (1 + 9) on top; metrics are the loss's own.
    self.assertAlmostEqual(float(loss), 29.0 + 2.5, places=5)
    self.assertAlmostEqual(float(metrics['metric']), 29.0, places=5)

  def test_statistics_are_found_at_any_depth(self):
    tree = {'encoder': {'batch_stats': {'mean': 1}, 'params': {'kernel': 2}}}
    found = jax.tree_util.tree_map_with_path(
      lambda path, _: local.is_statistic(path), tree
    )
    self.assertEqual(
      found,
      {'encoder': {'batch_stats': {'mean': True}, 'params': {'kernel': False}}},
    )

  def test_strength_zero_is_the_loss_itself_and_negative_is_refused(self):
    self.assertIs(local.proximal(self._loss, {}, 0.0), self._loss)
    with self.assertRaisesRegex(InputError, 'proximal=-1'):
      local.proximal(self._loss, {}, -1)


if __name__ == '__main__':
  absltest.main()
