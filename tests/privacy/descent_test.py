"""Sample, clip, add noise: the pieces together, in a client's step."""

import dataclasses
import functools
import math

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen.errors import InputError
from fedjax_gen.federated import averaging
from fedjax_gen.privacy import clipping, noise, plan as plans
from fedjax_gen.privacy.steps import batches, descent
from fedjax_gen.privacy.steps.descent import Parts
from tests.federated import toys

_DATA = toys.dataset([6, 10, 0])
_BOUND, _RATE, _CAPACITY = 1.5, 0.5, 12


def _loss(variables, record, key):
  del key
  return jnp.sum((variables['w'] - record.inputs) ** 2) / 2, {}


def _gradients(client, key, noise_multiplier):
  """One noised gradient of each client, mapped over clients."""

  def one(row, key):
    data = _DATA.client(row)
    sample_key, loss_key, noise_key = jax.random.split(key, 3)
    drawn = batches.poisson_batch(sample_key, data, _RATE, _CAPACITY)
    total = clipping.clipped_sum(
      _loss, {'w': jnp.zeros(3)}, drawn.batch, loss_key, _BOUND, chunk_size=5
    ).total
    return noise.noisy_mean(
      noise_key,
      total,
      max_norm=_BOUND,
      noise_multiplier=noise_multiplier,
      expected_size=jnp.maximum(_RATE * data.size, 1.0),
    )['w']

  return jax.vmap(one)(client, key)


class DescentTest(absltest.TestCase):
  def test_a_step_is_right_on_average_whatever_the_sizes(self):
    draws = 4000
    step = jax.jit(
      jax.vmap(lambda key: _gradients(
        jnp.arange(3), jax.random.split(key, 3), 0.7
      ))
    )  # fmt: skip
    got = np.asarray(step(jax.random.split(jax.random.key(0), draws)))
    inputs, order = np.asarray(_DATA.inputs), np.asarray(_DATA.order)
    for client, (begin, size) in enumerate(((0, 6), (6, 10))):
      gradients = -inputs[order[begin : begin + size]]
      norms = np.linalg.norm(gradients, axis=1, keepdims=True)
      clipped = gradients * np.minimum(1, _BOUND / norms)
      expected = size * _RATE
      # Over the expected size the step is unbiased: the mean of the clipped.
      np.testing.assert_allclose(
        got[:, client].mean(0), clipped.mean(0), atol=0.04
      )
      variance = (0.7 * _BOUND / expected) ** 2 + (
        _RATE * (1 - _RATE) * (clipped**2).sum(0) / expected**2
      )
      np.testing.assert_allclose(got[:, client].var(0), variance, rtol=0.1)
    # A client without records sends noise, as anyone who drew none does.
    np.testing.assert_allclose(got[:, 2].std(), 0.7 * _BOUND, rtol=0.03)


_PLAN = plans.record_plan(
  plans.PrivacyConfig(privacy='record', epsilon=math.inf, clip_norm=_BOUND),
  np.array([6, 10, 0]),
  batch_size=3,
  epochs=1.0,
  rounds=2,
)
_NOISY = _PLAN._replace(noise_multiplier=0.7)


class _Sgd(averaging.Config):
  """Clients whose steps are the gradients themselves."""

  def optimizer(self):
    return optax.sgd(self.learning_rate)


def _noisy_loss(variables, record, key):
  """Of both parts, and of a draw for each record."""
  draw = jax.random.normal(key, (3,))
  target = record.inputs + draw * variables['own']
  return jnp.sum((variables['shared'] - target) ** 2) / 2, {}


def _distance(tree, other):
  return float(
    clipping.tree_norm(jax.tree.map(lambda a, b: a - b, tree, other))
  )


@functools.cache
def _gradient_fn(plan):
  """`(data, client, key) -> gradient`, compiled once."""
  variables = Parts(shared=jnp.full(3, 0.2), own=jnp.full(3, 0.5))
  step = descent.private_gradient(_noisy_loss, plan)
  return jax.jit(
    lambda data, row, key: step(variables, data.client(row), key)[0]
  )


class PrivateGradientTest(parameterized.TestCase):
  def gradient(self, plan, data, client, key=0):
    return _gradient_fn(plan)(data, jnp.int32(client), jax.random.key(key))

  def test_a_record_moves_both_parts_together_by_its_bound_at_most(self):
    rows = np.asarray(_DATA.order[6:16])
    moved = []
    for place, gone in enumerate(rows):
      inputs = np.asarray(_DATA.inputs).copy()
      inputs[gone] = np.nan  # hides the record: coins and keys stay
      without = dataclasses.replace(_DATA, inputs=jnp.asarray(inputs))
      moved.append(
        _distance(
          self.gradient(_PLAN, _DATA, 1, place),
          self.gradient(_PLAN, without, 1, place),
        )
      )
    most = _BOUND / (_PLAN.sampling_rate * 10)
    self.assertLessEqual(max(moved), most * 1.00001)
    # Clipped apart, both parts together would move by more.
    self.assertGreater(max(moved), 0.99 * most)
    self.assertEqual(min(moved), 0.0)  # not drawn

  @parameterized.parameters(1.0, 0.25)
  def test_noise_is_on_both_parts_and_shares_on_the_sent_one(self, share):
    plan = _NOISY._replace(share=share)
    many = Parts(shared=jnp.zeros(20_000), own=jnp.zeros(20_000))
    step = descent.private_gradient(
      lambda variables, record, key: (0 * variables['own'].sum(), {}), plan
    )
    for client, size in ((0, 6), (1, 10)):
      drawn, _ = jax.jit(
        lambda row: step(many, _DATA.client(row), jax.random.key(3))
      )(jnp.int32(client))
      stddev = 0.7 * _BOUND / (plan.sampling_rate * size)
      np.testing.assert_allclose(np.std(drawn['own']), stddev, rtol=0.02)
      np.testing.assert_allclose(
        np.std(drawn['shared']), share * stddev, rtol=0.02
      )
      correlation = np.corrcoef(drawn['own'], drawn['shared'])[0, 1]
      self.assertLess(abs(correlation), 0.03)

  def test_without_records_nothing_is_sent(self):
    gradient = self.gradient(_NOISY, _DATA, 2)
    self.assertEqual(float(clipping.tree_norm(gradient)), 0.0)

  def test_few_expected_records_do_not_blow_noise_up_but_shares_weigh_alike(
    self,
  ):
    def sizes(share):
      plan = _NOISY._replace(sampling_rate=0.01, share=share)
      return [
        float(clipping.tree_norm(self.gradient(plan, _DATA, c)['own']))
        for c in (0, 1)
      ]

    # Full noise over one record at least, whatever the client's size.
    np.testing.assert_allclose(*sizes(1.0), rtol=1e-5)
    few, many = sizes(0.5)
    np.testing.assert_allclose(few * 6, many * 10, rtol=1e-5)


class TrainerTest(parameterized.TestCase):
  def trained(self, config, plan, variables, loss=toys.quadratic, key=0):
    trainer = descent.trainer(config, plan)
    run = jax.jit(
      lambda row, key: trainer.run(
        loss, variables, trainer.init(variables), _DATA.client(row), key
      )
    )
    return run(jnp.int32(1), jax.random.key(key))

  def test_without_noise_it_descends_clipped_sums(self):
    start = {'w': jnp.full(3, 0.3)}
    config = _Sgd(learning_rate=0.5, proximal=0.2)
    after, kept, metrics = self.trained(config, _PLAN, start)

    @jax.jit
    def step(w, key):
      # The keys of the steps are the trainer's.
      sample_key, loss_key, *_ = jax.random.split(key, 4)
      data = _DATA.client(jnp.int32(1))
      drawn = batches.poisson_batch(
        sample_key, data, _PLAN.sampling_rate, _PLAN.capacity
      )
      total = clipping.clipped_sum(
        _loss, {'w': w}, drawn.batch, loss_key, _BOUND
      ).total['w']
      pull = 0.2 * (w - start['w'])
      return w - 0.5 * (total / (_PLAN.sampling_rate * 10) + pull)

    w = start['w']
    for i in range(_PLAN.steps):
      w = step(w, jax.random.fold_in(jax.random.key(0), i))
    np.testing.assert_allclose(after['w'], w, rtol=1e-5)
    self.assertGreater(_distance(after, start), 0.1)
    self.assertEqual(set(metrics), {'loss', 'share_clipped'})
    self.assertEmpty(jax.tree.leaves(kept))

  def test_what_is_not_trained_is_neither_counted_nor_moved(self):
    fixed = {
      'constants': {'mean': jnp.full(3, 3.0)}, 'count': jnp.arange(3)
    }  # fmt: skip
    variables = {'prior': fixed, 'w': jnp.zeros(3)}

    def loss(variables, batch, key):
      loss, (_, metrics) = toys.quadratic({'w': variables['w']}, batch, key)
      pull = jnp.sum(variables['prior']['constants']['mean'] * 100.0)
      return loss + pull, (variables, metrics)

    config = averaging.Config(learning_rate=0.1, proximal=0.1)
    after, kept, _ = self.trained(config, _NOISY, variables, loss)
    chex.assert_trees_all_equal(after['prior'], fixed)
    self.assertGreater(_distance(after['w'], variables['w']), 0.0)
    # Its gradient, far beyond the bound, takes nothing of what the others may
    # move; and the optimizer knows nothing of it.
    plain, _, _ = self.trained(config, _NOISY, {'w': jnp.zeros(3)})
    np.testing.assert_allclose(after['w'], plain['w'], rtol=1e-5)
    sizes = [leaf.size for leaf in jax.tree.leaves(kept)]
    self.assertEqual(sorted(sizes), [1, 3, 3])

  def test_moments_stay_if_asked(self):
    start = {'w': jnp.zeros(3)}
    for keep in (True, False):
      config = averaging.Config(keep_optimizer_state=keep)
      _, kept, _ = self.trained(config, _NOISY, start)
      if keep:
        self.assertEqual(int(kept[0].count), _PLAN.steps)
      else:
        self.assertEqual(kept, ())

  def test_what_cannot_be_protected_is_refused(self):
    config = averaging.Config()
    with self.assertRaisesRegex(InputError, "noise_placement='local'"):
      descent.trainer(config, _NOISY._replace(share=0.5))
    with self.assertRaisesRegex(InputError, "unit='client'"):
      descent.trainer(config, _NOISY._replace(unit='client'))
    with self.assertRaisesRegex(InputError, 'proximal=-1'):
      descent.trainer(averaging.Config(proximal=-1.0), _NOISY)
    with self.assertRaisesRegex(InputError, 'batch_stats'):
      self.trained(config, _NOISY, {'batch_stats': {'w': jnp.zeros(3)}})


class PlainGradientTest(absltest.TestCase):
  def test_is_the_mean_over_those_drawn(self):
    variables = Parts(shared={'w': jnp.full(3, 0.1)}, own=())

    def loss(variables, record, key):
      return _loss(variables['shared'], record, key)

    data = _DATA.client(jnp.int32(1))
    step = descent.plain_gradient(loss, 0.5, 16)
    gradient, _ = step(variables, data, jax.random.key(4))
    sample_key, _ = jax.random.split(jax.random.key(4))
    batch = batches.poisson_batch(sample_key, data, 0.5, 16).batch
    mean = batch.inputs[np.asarray(batch.mask)].mean(axis=0)
    np.testing.assert_allclose(
      gradient['shared']['w'], 0.1 - mean, rtol=1e-5, atol=1e-6
    )


if __name__ == '__main__':
  absltest.main()
