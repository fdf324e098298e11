"""Noise of the right size, in the right place, on the sum."""

import math

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen import trees
from fedjax_gen.errors import InputError
from fedjax_gen.federated import aggregates, rounds, sampling, servers
from fedjax_gen.federated.algorithm import Algorithm, ClientProgram
from fedjax_gen.privacy import accounting, events, noise
from tests.federated import toys

_MANY = 40_000


class GaussianTest(parameterized.TestCase):
  def test_has_its_law_in_every_leaf(self):
    tree = {
      'a': jax.ShapeDtypeStruct((_MANY,), jnp.bfloat16),
      'b': jnp.ones((200, 200), jnp.int32),
    }
    drawn = noise.gaussian(jax.random.key(0), tree, 2.5)
    flat = jax.tree.map(np.ravel, drawn)
    for leaf in flat.values():
      self.assertEqual(leaf.dtype, np.float32)
      np.testing.assert_allclose(leaf.mean(), 0, atol=0.06)
      np.testing.assert_allclose(leaf.std(), 2.5, rtol=0.02)
      within = np.mean(np.abs(leaf) < 2.5)
      np.testing.assert_allclose(within, 0.6827, atol=0.01)
    correlation = np.corrcoef(flat['a'], flat['b'])[0, 1]
    self.assertLess(abs(correlation), 0.03)

  def test_depends_on_the_key_and_not_on_the_values(self):
    tree = {'a': jnp.ones(5), 'b': jnp.ones(5)}
    key = jax.random.key(1)
    once = noise.gaussian(key, tree, 1.0)
    chex.assert_trees_all_equal(
      once, noise.gaussian(key, trees.zeros_like(tree), 1.0)
    )
    other = noise.gaussian(jax.random.key(2), tree, 1.0)
    self.assertFalse(np.allclose(once['a'], other['a']))
    self.assertEqual(noise.gaussian(key, {}, 1.0), {})

  def test_a_deviation_is_not_negative(self):
    with self.assertRaisesRegex(InputError, 'stddev=-1'):
      noise.gaussian(jax.random.key(0), jnp.ones(2), -1)
    with self.assertRaisesRegex(InputError, 'noise_multiplier=-1'):
      noise.noisy_sum(
        jax.random.key(0), jnp.ones(2), max_norm=1.0, noise_multiplier=-1
      )


class SumTest(parameterized.TestCase):
  def test_noise_is_on_the_sum_and_the_denominator_is_given(self):
    total = jnp.full(_MANY, 12.0)
    keywords = {'max_norm': 3.0, 'noise_multiplier': 0.5}
    key = jax.random.key(0)
    noised = noise.noisy_sum(key, total, **keywords)
    np.testing.assert_allclose(np.std(noised), 1.5, rtol=0.02)
    np.testing.assert_allclose(np.mean(noised), 12, atol=0.05)
    mean = noise.noisy_mean(key, total, expected_size=8.0, **keywords)
    # Noise of 1.5 on the mean would be eight times too much.
    np.testing.assert_allclose(np.std(mean), 1.5 / 8, rtol=0.02)
    np.testing.assert_allclose(np.mean(mean), 12 / 8, atol=0.01)
    chex.assert_trees_all_close(mean, noised / 8.0)
    with self.assertRaisesRegex(InputError, 'expected_size=0'):
      noise.noisy_mean(key, total, expected_size=0, **keywords)

  def test_no_event_is_likelier_than_epsilon_allows(self):
    # One value, clipped to C = 2, of a neighbour that has it or not. For every
    # threshold the two laws must keep to (epsilon, delta).
    bound, multiplier, batch, delta = 2.0, 1.0, 8, 1e-2
    epsilon = accounting.epsilon(events.gaussian(multiplier), delta)

    def excess(stddev):
      drawn = np.asarray(
        noise.gaussian(jax.random.key(5), jnp.zeros(2 * _MANY), stddev)
      )
      with_it, without = drawn[:_MANY] + bound, drawn[_MANY:]
      thresholds = np.quantile(with_it, np.linspace(0.05, 0.95, 19))
      likely = (with_it[None] > thresholds[:, None]).mean(1)
      unlikely = (without[None] > thresholds[:, None]).mean(1)
      return (likely - np.exp(epsilon) * unlikely).max() - delta

    self.assertLess(excess(multiplier * bound), 0.02)
    # The noise of the mean on a sum; and noise without the bound's factor.
    self.assertGreater(excess(multiplier * bound / batch), 0.5)
    self.assertGreater(excess(multiplier), 0.1)


class ServerTest(absltest.TestCase):
  def private(self, multiplier, size=3):
    return noise.private_server(
      servers.learned_server(
        lambda key: {'w': jnp.zeros(size)},
        aggregates.weighted_mean(),
        optax.sgd(1.0),
      ),
      max_norm=2.0,
      noise_multiplier=multiplier,
      expected_cohort=5.0,
    )

  def test_what_the_server_learns_from_has_the_noise_of_a_mean(self):
    server = self.private(0.5, _MANY)
    state = server.init(jax.random.key(0))
    nothing = {'w': jnp.zeros(_MANY)}
    state, _ = server.update(state, nothing, jax.random.key(1))
    moved = np.asarray(state.variables['w'])
    np.testing.assert_allclose(moved.std(), 0.5 * 2 / 5, rtol=0.02)
    again, _ = server.update(state, nothing, jax.random.key(2))
    fresh = np.asarray(again.variables['w']) - moved
    self.assertLess(abs(np.corrcoef(fresh, moved)[0, 1]), 0.03)

  def test_rounds_move_by_the_bounded_sum_over_the_expected_cohort(self):
    data = toys.dataset([3, 1, 8, 2])
    direction = jnp.array([3.0, 0.0, 4.0])

    def update(view, client, data, keys):
      del view, keys
      # Larger clients send larger messages: all beyond the bound.
      return {'w': direction * data.size}, client, {}

    program = ClientProgram(
      lambda key, info: (), lambda server, info: server.variables, update
    )

    def run(multiplier, key):
      algorithm = Algorithm(self.private(multiplier), (program,))
      state = rounds.init_state(algorithm, [data], jax.random.key(0))
      runner = rounds.round_runner(algorithm, samplers=[sampling.everyone()])
      state, _ = runner(state, [data], jax.random.key(key), 1)
      return np.asarray(state.server.variables['w'])

    # Four clients of norm 2 over five expected ones.
    expected = -np.array([0.6, 0.0, 0.8]) * 2 * 4 / 5
    np.testing.assert_allclose(run(0.0, 1), expected, rtol=1e-5)
    self.assertGreater(np.abs(run(1.0, 1) - expected).max(), 0.01)
    self.assertGreater(np.abs(run(1.0, 1) - run(1.0, 2)).max(), 0.01)


class PlacementTest(parameterized.TestCase):
  def sum_of(self, place, num_present):
    drawn = [
      noise.gaussian(jax.random.key(k), jnp.zeros(_MANY), place.client)
      for k in range(num_present)
    ]
    server = noise.gaussian(jax.random.key(99), jnp.zeros(_MANY), place.server)
    return float(np.std(sum(drawn) + server))

  @parameterized.parameters('server', 'distributed', 'local')
  def test_what_is_said_of_the_sum_is_so(self, name):
    place = noise.placement(name, 3.0, num_clients=6, max_dropouts=2)
    for num_present in (6, 3):
      np.testing.assert_allclose(
        self.sum_of(place, num_present), place.on_sum(num_present), rtol=0.02
      )

  def test_shares_are_enough_up_to_the_dropouts_allowed(self):
    place = noise.placement(
      'distributed', 3.0, num_clients=6, max_dropouts=2, colluding=0
    )
    np.testing.assert_allclose(place.guaranteed(4), 3.0)
    self.assertGreater(place.guaranteed(6), 3.0)
    # One more is gone: what remains is less, and is what must be charged.
    np.testing.assert_allclose(place.guaranteed(3), 3.0 * math.sqrt(3 / 4))
    # Shares of all six would not do if two of them drop.
    naive = noise.placement('distributed', 3.0, num_clients=6, colluding=0)
    self.assertLess(naive.guaranteed(4), 2.5)
    self.assertEqual(naive.guaranteed(0), 0.0)

  @parameterized.parameters(
    (2, 0, 1), (5, 0, 1), (10, 0, 1), (10, 3, 1), (10, 0, 4)
  )
  def test_shares_hold_against_clients_who_subtract_theirs(
    self, num_clients, max_dropouts, colluding
  ):
    place = noise.placement(
      'distributed', 3.0, num_clients=num_clients,
      max_dropouts=max_dropouts, colluding=colluding,
    )  # fmt: skip
    present = num_clients - max_dropouts
    left = place.client * math.sqrt(present - colluding)
    np.testing.assert_allclose(left, 3.0)
    np.testing.assert_allclose(place.guaranteed(present), left)
    # Who holds no share faces more.
    self.assertGreater(place.on_sum(present), left)
    self.assertEqual(place.guaranteed(colluding), 0.0)
    self.assertEqual(place.guaranteed(0), 0.0)

  def test_local_noise_protects_each_message_not_more(self):
    place = noise.placement('local', 3.0, num_clients=6)
    self.assertEqual(place.guaranteed(6), 3.0)
    np.testing.assert_allclose(place.on_sum(6), 3.0 * math.sqrt(6))

  def test_the_server_adds_all_of_it_once(self):
    place = noise.placement('server', 3.0, num_clients=6)
    self.assertEqual((place.client, place.on_sum(2)), (0.0, 3.0))

  @parameterized.parameters(
    ({'name': 'nowhere'}, "noise_placement='nowhere'"),
    ({'stddev': -1.0}, 'stddev=-1.0'),
    ({'num_clients': 0}, 'num_clients=0'),
    ({'max_dropouts': 3}, 'colluding < num_clients=3.*max_dropouts=3'),
    (
      {'name': 'distributed', 'max_dropouts': 1, 'colluding': 2},
      'max_dropouts=1, colluding=2',
    ),
    ({'name': 'distributed', 'num_clients': 1}, 'colluding=1'),
    ({'colluding': -1}, 'colluding=-1'),
  )
  def test_bad_arguments_are_refused(self, change, message):
    arguments = {'name': 'server', 'stddev': 1.0, 'num_clients': 3, **change}
    with self.assertRaisesRegex(InputError, message):
      noise.placement(**arguments)


if __name__ == '__main__':
  absltest.main()
