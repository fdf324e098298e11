"""Averaged linear classifiers: they learn, are pulled, and are protected."""

import functools
import math

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.algorithms import linear_head
from fedjax_gen.algorithms.linear_head import LinearConfig
from fedjax_gen.data.federated import Batch, federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.errors import InputError
from fedjax_gen.federated import rounds
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.privacy import clipping, plan as plans

_SPEC = DataSpec((3,), 2)
_SIZES = np.array([20, 12], np.int32)
_KEY = jax.random.key(0)
_CONFIG = LinearConfig(
  linear_epochs=1.0, linear_learning_rate=0.1, linear_proximal=30.0
)


@functools.cache
def _data():
  """Two classes that a plane separates."""
  rng = np.random.default_rng(0)
  labels = np.arange(_SIZES.sum()) % 2
  inputs = rng.normal(size=(_SIZES.sum(), 3)) * 0.3
  inputs[:, 0] += 2 * labels - 1
  order = rng.permutation(_SIZES.sum()).astype(np.int32)
  return federated_dataset(
    inputs.astype(np.float32), labels,
    Partition(order, _SIZES, np.zeros(2, np.int32), 'toy'),
  )  # fmt: skip


def _plan(unit, noise=0.0, norm=0.5):
  config = plans.PrivacyConfig(unit, math.inf, clip_norm=norm)
  if unit == 'client':
    plan = plans.client_plan(config, 2, rounds=3)
  else:
    plan = plans.record_plan(config, _SIZES, batch_size=8, epochs=1.0, rounds=3)
  return plan._replace(noise_multiplier=noise)


@functools.cache
def _trained(num_rounds, proximal=False, plan=None):
  training = _CONFIG.training(8, proximal=proximal)
  algorithm = linear_head.linear_head(training, _SPEC, plan)
  state = rounds.init_state(algorithm, [_data()], _KEY)
  run = rounds.round_runner(algorithm)
  state, _ = run(state, [_data()], _KEY, num_rounds)
  return jax.device_get(state.server.variables)


def _accuracy(head):
  logits = np.asarray(_data().inputs) @ head['kernel'] + head['bias']
  return np.mean(logits.argmax(axis=1) == np.asarray(_data().labels))


class LinearHeadTest(parameterized.TestCase):
  def test_it_begins_at_zero_and_learns_what_is_separable(self):
    head = linear_head.init(_SPEC)
    self.assertEqual(float(clipping.tree_norm(head)), 0.0)
    self.assertEqual(head['kernel'].shape, (3, 2))
    self.assertEqual(head['bias'].shape, (2,))
    self.assertGreater(_accuracy(_trained(5)), 0.95)

  def test_fedprox_stays_nearer_to_what_it_received(self):
    free, pulled = (_trained(5, proximal=p) for p in (False, True))
    self.assertLess(
      float(clipping.tree_norm(pulled)), 0.7 * float(clipping.tree_norm(free))
    )

  def test_the_loss_is_the_mean_over_records_that_count(self):
    rng = np.random.default_rng(1)
    head = {'kernel': rng.normal(size=(3, 2)), 'bias': rng.normal(size=2)}
    inputs, labels = rng.normal(size=(4, 3)), np.array([0, 1, 1, 0])
    inputs[3] = np.nan
    mask = jnp.array([True, True, True, False])
    batch = Batch(jnp.asarray(inputs), jnp.asarray(labels), mask)
    loss, (_, metrics) = linear_head._loss(
      jax.tree.map(jnp.asarray, head), batch, _KEY
    )
    logits = (inputs @ head['kernel'] + head['bias'])[:3]
    chosen = logits[np.arange(3), labels[:3]]
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - chosen)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(
      metrics['accuracy'], np.mean(logits.argmax(1) == labels[:3]), rtol=1e-6
    )

  def test_plans_of_records_clip_records_and_still_learn(self):
    self.assertGreater(_accuracy(_trained(5, plan=_plan('record'))), 0.95)
    noised = _trained(5, plan=_plan('record', noise=1e4))
    self.assertLess(_accuracy(noised), 0.95)

  def test_plans_of_clients_bound_what_a_round_moves(self):
    head = _trained(1, plan=_plan('client', norm=1e-2))
    # Both clients' messages, over two of them.
    self.assertBetween(float(clipping.tree_norm(head)), 5e-3, 1.001e-2)
    noised = _trained(1, plan=_plan('client', noise=1e5, norm=1e-2))
    flat = np.concatenate([np.ravel(leaf) for leaf in noised.values()])
    np.testing.assert_allclose(flat.std(), 1e5 * 1e-2 / 2, rtol=0.7)

  def test_shares_of_noise_are_refused(self):
    with self.assertRaisesRegex(InputError, "noise_placement='local'"):
      linear_head.linear_head(
        _CONFIG.training(8, proximal=False), _SPEC,
        _plan('record')._replace(share=0.5),
      )  # fmt: skip

  @parameterized.parameters(
    {'linear_rounds': 0}, {'linear_epochs': 0.0},
    {'linear_learning_rate': -1.0}, {'linear_proximal': -0.1},
  )  # fmt: skip
  def test_fields_are_checked(self, **fields):
    with self.assertRaisesRegex(InputError, next(iter(fields))):
      LinearConfig(**fields)

  def test_only_fedprox_pulls(self):
    self.assertEqual(_CONFIG.training(8, proximal=False).proximal, 0.0)
    training = _CONFIG.training(8, proximal=True)
    self.assertEqual(training.proximal, 30.0)
    self.assertEqual(training.batch_size, 8)


if __name__ == '__main__':
  absltest.main()
