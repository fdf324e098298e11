"""FedAvg of anything: a quadratic whose optimum is known takes VAEs' place."""

import dataclasses

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen.errors import InputError
from fedjax_gen.federated import averaging, rounds
from tests.federated import toys

_CONFIG = averaging.Config(local_epochs=1, batch_size=8, learning_rate=0.1)
_RATE = 0.25
_SIZES = [2, 5, 1]


def _init(key):
  return {'w': jax.random.normal(key, (3,))}


def _means(data):
  """`[N, 3]` means of the clients' examples."""
  inputs, order = np.asarray(data.inputs), np.asarray(data.order)
  ranges = zip(np.asarray(data.offsets), np.asarray(data.sizes), strict=True)
  return np.stack(
    [inputs[order[start : start + size]].mean(axis=0) for start, size in ranges]
  )


def _trained(algorithm, num_rounds=1):
  """Data, the state before and the state after."""
  data = toys.dataset(_SIZES)
  state = rounds.init_state(algorithm, [data], jax.random.key(0))
  before = jax.device_get(state)
  run = rounds.round_runner(algorithm)
  after, _ = run(state, [data], jax.random.key(1), num_rounds)
  return data, before, jax.device_get(after)


class AveragedTest(parameterized.TestCase):
  def test_a_round_is_the_weighted_mean_of_one_step_each(self):
    algorithm = averaging.averaged(
      _CONFIG, _init, toys.quadratic, optax.sgd(_RATE)
    )
    data, before, after = _trained(algorithm)
    start = before.server.variables['w']
    # Every client is one batch: a step goes a quarter of the way to its mean.
    ends = start + _RATE * (_means(data) - start)
    np.testing.assert_allclose(
      after.server.variables['w'],
      np.average(ends, axis=0, weights=_SIZES),
      rtol=1e-5,
    )

  @parameterized.parameters((True, [2, 2, 2]), (False, None))
  def test_clients_keep_their_optimizer_only_if_asked(self, keep, count):
    config = dataclasses.replace(_CONFIG, keep_optimizer_state=keep)
    algorithm = averaging.averaged(config, _init, toys.quadratic)
    _, _, after = _trained(algorithm, 2)
    if keep:
      np.testing.assert_array_equal(after.fleets[0][0].count, count)
    else:
      self.assertEqual(after.fleets, ((),))

  def test_the_proximal_pull_is_towards_what_was_received(self):
    config = dataclasses.replace(_CONFIG, local_epochs=2, proximal=2.0)
    algorithm = averaging.averaged(
      config, _init, toys.quadratic, optax.sgd(_RATE)
    )
    data, before, after = _trained(algorithm)
    start = ends = before.server.variables['w']
    for _ in range(2):
      ends = ends - _RATE * (ends - _means(data) + 2.0 * (ends - start))
    np.testing.assert_allclose(
      after.server.variables['w'],
      np.average(ends, axis=0, weights=_SIZES),
      rtol=1e-4,
      atol=1e-6,
    )

  def test_the_server_descends_with_its_own_optimizer(self):
    config = dataclasses.replace(_CONFIG, server_learning_rate=0.5)
    whole, half = (
      _trained(averaging.averaged(c, _init, toys.quadratic))
      for c in (_CONFIG, config)
    )
    start = whole[1].server.variables['w']
    np.testing.assert_allclose(
      half[2].server.variables['w'] - start,
      0.5 * (whole[2].server.variables['w'] - start),
      rtol=1e-5,
    )


class AloneTest(absltest.TestCase):
  def test_clients_start_apart_and_go_to_their_own_means(self):
    # What is said of FedProx and of kept states has no part in it.
    config = dataclasses.replace(
      _CONFIG, proximal=5.0, keep_optimizer_state=False
    )
    algorithm = averaging.alone(config, _init, toys.quadratic, optax.sgd(_RATE))
    data, before, after = _trained(algorithm, 3)
    start = before.fleets[0][0]['w']
    self.assertLen(np.unique(start, axis=0), len(_SIZES))
    np.testing.assert_allclose(
      after.fleets[0][0]['w'],
      _means(data) + (1 - _RATE) ** 3 * (start - _means(data)),
      rtol=1e-4,
      atol=1e-5,
    )
    self.assertEqual(after.server, ())
    self.assertEqual(rounds.traffic(algorithm, [data]), (rounds.Traffic(0, 0),))


class PooledTest(parameterized.TestCase):
  @parameterized.parameters(
    # (1 + 3 + 1) / 3 steps of 2 an epoch, two epochs; all data are 4 steps.
    (0.0, 2 * (5 / 3) / 4),
    (3.0, 3.0),
  )
  def test_it_makes_the_steps_of_a_client_or_those_asked_for(
    self, epochs, expected
  ):
    config = averaging.Config(
      local_epochs=2.0,
      batch_size=2,
      keep_optimizer_state=False,
      proximal=1.0,
      server_optimizer='fedadam',
      server_learning_rate=0.1,
    )
    pooled = averaging.pooled(config, np.array(_SIZES), epochs=epochs)
    self.assertAlmostEqual(pooled.local_epochs, expected)
    self.assertEqual(
      pooled, averaging.Config(local_epochs=pooled.local_epochs, batch_size=2)
    )

  def test_fields_of_a_larger_configuration_stay(self):
    @dataclasses.dataclass(frozen=True)
    class Larger(averaging.Config):
      beta: float = 1.0

    pooled = averaging.pooled(Larger(beta=3.0), np.array(_SIZES))
    self.assertIsInstance(pooled, Larger)
    self.assertEqual(pooled.beta, 3.0)

  def test_it_is_plain_training_on_all_data(self):
    data = toys.dataset(_SIZES)
    config = averaging.pooled(_CONFIG, np.asarray(data.sizes))
    algorithm = averaging.averaged(
      config, _init, toys.quadratic, optax.sgd(_RATE)
    )
    merged = [data.merged()]
    state = rounds.init_state(algorithm, merged, jax.random.key(0))
    start = jnp.copy(state.server.variables['w'])
    after, _ = rounds.round_runner(algorithm)(
      state, merged, jax.random.key(1), 2
    )
    mean = np.asarray(data.inputs).mean(axis=0)
    np.testing.assert_allclose(
      after.server.variables['w'],
      mean + (1 - _RATE) ** 2 * (start - mean),
      rtol=1e-4,
      atol=1e-5,
    )

  @parameterized.parameters(
    ({'epochs': -1.0}, {}, 'epochs=-1.0'),
    ({}, {'batch_size': 0}, 'batch_size=0'),
  )
  def test_bad_arguments_are_refused(self, arguments, fields, message):
    config = dataclasses.replace(_CONFIG, **fields)
    with self.assertRaisesRegex(InputError, message):
      averaging.pooled(config, np.array(_SIZES), **arguments)


class TrainerTest(parameterized.TestCase):
  @parameterized.parameters(
    ({'local_epochs': 0}, 'local_epochs=0'),
    ({'batch_size': 0}, 'batch_size=0'),
    ({'learning_rate': -1.0}, 'learning_rate=-1.0'),
    ({'proximal': -0.1}, 'proximal=-0.1'),
  )
  def test_bad_fields_are_refused(self, fields, message):
    for build in (averaging.averaged, averaging.alone):
      # A client alone knows no pull.
      if build is averaging.alone and 'proximal' in fields:
        continue
      with self.assertRaisesRegex(InputError, message):
        build(dataclasses.replace(_CONFIG, **fields), _init, toys.quadratic)


if __name__ == '__main__':
  absltest.main()
