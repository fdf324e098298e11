"""Phases train their own modules alone, in one program, whoever looks on."""

import dataclasses

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen.errors import InputError
from fedjax_gen.federated import aggregates, averaging, phases, rounds, servers
from fedjax_gen.privacy import noise
from fedjax_gen.types import Phase
from tests.federated import toys

_CONFIG = averaging.Config(local_epochs=1, batch_size=8)
_RATE = 0.25


def _init(key):
  first, second = jax.random.split(key)
  return {
    'a': {'params': jax.random.normal(first, (3,))},
    'b': {'params': jax.random.normal(second, (3,))},
  }


def _towards_inputs(variables, batch, key):
  """Pulls a to the mean of the inputs, and would pull b there too."""
  del key
  sizes = batch.mask[:, None]
  means = jnp.sum(batch.inputs * sizes, axis=0) / jnp.maximum(sizes.sum(), 1)
  loss = sum(
    0.5 * jnp.sum((module['params'] - means) ** 2)
    for module in variables.values()
  )
  return loss, (variables, {'first': loss})


def _towards_a(variables, batch, key):
  """Pulls b to a, and would pull a to b."""
  del batch, key
  gap = variables['a']['params'] - variables['b']['params']
  loss = 0.5 * jnp.sum(gap**2)
  return loss, (variables, {'second': loss})


_PHASES = (Phase(_towards_inputs, ('a',), 2), Phase(_towards_a, ('b',)))


def _means(data):
  inputs, order = np.asarray(data.inputs), np.asarray(data.order)
  ranges = zip(np.asarray(data.offsets), np.asarray(data.sizes), strict=True)
  return np.stack(
    [inputs[order[start : start + size]].mean(axis=0) for start, size in ranges]
  )


def _run(algorithm, *calls):
  """States after each call of some rounds, the first before all, and metrics.

  Raises:
    AssertionError: a call of as many rounds as before was compiled anew.
  """
  data = toys.dataset([2, 5, 1])
  state = rounds.init_state(algorithm, [data], jax.random.key(0))
  run = rounds.round_runner(algorithm)
  states, metrics = [jax.device_get(state)], []
  for num in calls:
    state, found = run(state, [data], jax.random.key(1), num)
    states.append(jax.device_get(state))
    metrics.append(jax.device_get(found))
  return data, states, metrics


def _values(server):
  return {name: module['params'] for name, module in server.variables.items()}


class PhasesTest(parameterized.TestCase):
  def test_each_phase_moves_its_modules_as_far_as_plain_training_does(self):
    algorithm = averaging.averaged(_CONFIG, _init, _PHASES, optax.sgd(_RATE))
    data, (before, *after), metrics = _run(algorithm, 2, 2)
    start, middle, end = (_values(state.server) for state in (before, *after))
    mean = np.average(_means(data), axis=0, weights=np.asarray(data.sizes))
    left = (1 - _RATE) ** 2
    np.testing.assert_allclose(
      middle['a'], mean + left * (start['a'] - mean), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(middle['b'], start['b'])
    np.testing.assert_array_equal(end['a'], middle['a'])
    np.testing.assert_allclose(
      end['b'], end['a'] + left * (start['b'] - end['a']), rtol=1e-5, atol=1e-6
    )
    first, second = (found.clients[0] for found in metrics)
    self.assertTrue((first['first'] > 0).all() and (first['second'] == 0).all())
    self.assertTrue((second['second'] > 0).all())
    self.assertTrue((second['first'] == 0).all())
    # Four rounds in one call are the same bits.
    _, (_, whole), _ = _run(algorithm, 4)
    chex.assert_trees_all_equal(whole, after[-1])

  def test_momentum_of_the_server_does_not_move_what_is_not_trained(self):
    config = dataclasses.replace(
      _CONFIG, server_optimizer='fedadam', server_learning_rate=0.1
    )
    algorithm = averaging.averaged(config, _init, _PHASES)
    _, (before, middle, end), _ = _run(algorithm, 2, 2)
    start, half, whole = (
      _values(state.server) for state in (before, middle, end)
    )
    np.testing.assert_array_equal(half['b'], start['b'])
    np.testing.assert_array_equal(whole['a'], half['a'])
    self.assertTrue((whole['b'] != half['b']).all())

  def test_noise_of_a_private_server_does_not_move_it_either(self):
    algorithm = averaging.averaged(_CONFIG, _init, _PHASES)
    server = noise.private_server(
      algorithm.server, max_norm=1.0, noise_multiplier=1.0, expected_cohort=3.0
    )
    _, (before, middle, end), _ = _run(algorithm._replace(server=server), 2, 2)
    start, half, whole = (
      _values(state.server) for state in (before, middle, end)
    )
    np.testing.assert_array_equal(half['b'], start['b'])
    np.testing.assert_array_equal(whole['a'], half['a'])
    self.assertTrue((half['a'] != start['a']).all())

  def test_a_later_phase_is_given_the_average_and_begins_its_own(self):
    config = dataclasses.replace(_CONFIG, server_average=0.9)
    algorithm = averaging.averaged(config, _init, _PHASES, optax.sgd(_RATE))
    _, (before, middle, after), _ = _run(algorithm, 2, 1)
    start = before.server.variables['b']['params']
    kept = middle.server.deployed['a']['params']
    self.assertTrue((kept != middle.server.variables['a']['params']).all())
    np.testing.assert_array_equal(after.server.deployed['a']['params'], kept)
    moved = after.server.variables['b']['params']
    np.testing.assert_allclose(
      moved, start + _RATE * (kept - start), rtol=1e-5, atol=1e-6
    )
    # A tenth of the start, as in the first round of all.
    np.testing.assert_allclose(
      after.server.deployed['b']['params'],
      0.1 * start + 0.9 * moved,
      rtol=1e-5,
      atol=1e-6,
    )

  def test_clients_alone_have_the_same_phases(self):
    algorithm = averaging.alone(_CONFIG, _init, _PHASES, optax.sgd(_RATE))
    data, states, _ = _run(algorithm, 2, 2)
    start, middle, end = (state.fleets[0][0] for state in states)
    left = (1 - _RATE) ** 2
    means = _means(data)
    np.testing.assert_allclose(
      middle['a']['params'],
      means + left * (start['a']['params'] - means),
      rtol=1e-4,
      atol=1e-5,
    )
    chex.assert_trees_all_equal(middle['b'], start['b'])
    chex.assert_trees_all_equal(end['a'], middle['a'])
    self.assertTrue((end['b']['params'] != start['b']['params']).all())
    [traffic] = rounds.traffic(algorithm, [data])
    self.assertEqual(traffic, rounds.Traffic(4, 0))  # the round's number

  @parameterized.parameters((0, 0), (1, 0), (2, 1), (99, 1))
  def test_the_last_phase_lasts_until_the_end(self, number, expected):
    index = phases.of_round(_PHASES, jnp.int32(number))
    self.assertEqual(index, expected)
    self.assertEqual(phases.of_round(_PHASES[1:], jnp.int32(number)), 0)

  def test_a_training_that_ends_before_its_last_phase_is_refused(self):
    phases.check(_PHASES, 3)
    phases.check(_towards_a, 1)
    with self.assertRaisesRegex(InputError, 'rounds > 2.*got rounds=2'):
      phases.check(_PHASES, 2)


class AverageTest(absltest.TestCase):
  def test_it_forgets_the_start_and_is_what_is_deployed(self):
    server = servers.learned_server(
      lambda key: {'params': jnp.array([1.0])},
      aggregates.weighted_mean(),
      optax.sgd(1.0),
      0.15,
    )
    state = server.init(jax.random.key(0))
    self.assertEqual(state.deployed['params'], 1.0)
    expected, values = 1.0, 1.0
    # 1/10 in the first round, then 2/11 > 0.15.
    for decay in (0.1, 0.15, 0.15):
      state, _ = server.update(
        state, {'params': jnp.array([0.5])}, jax.random.key(0)
      )
      values -= 0.5
      expected = decay * expected + (1 - decay) * values
      np.testing.assert_allclose(state.variables['params'], [values])
      np.testing.assert_allclose(
        state.deployed['params'], [expected], rtol=1e-6
      )


if __name__ == '__main__':
  absltest.main()
