"""Server optimizers descend the mean update; statistics are averaged."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen.errors import InputError
from fedjax_gen.federated import aggregates, servers

_DELTA = 0.5


def _program(name, rate=1.0, momentum=0.9, *, keep_weight=False):
  return servers.learned_server(
    lambda key: {
      'params': jnp.array([1.0]),
      'batch_stats': jnp.array([1.0]),
    },
    aggregates.weighted_mean(keep_weight=keep_weight),
    servers.server_optimizer(name, rate, momentum),
  )


def _two_steps(name, rate=1.0, momentum=0.9):
  program = _program(name, rate, momentum)
  server = program.init(jax.random.key(0))
  delta = {'params': jnp.array([_DELTA]), 'batch_stats': jnp.array([_DELTA])}
  for _ in range(2):
    server, metrics = program.update(server, delta, jax.random.key(0))
  return server.variables, metrics


class ServersTest(parameterized.TestCase):
  @parameterized.parameters(
    ('fedavg', 1.0, 1 - 2 * _DELTA),
    ('fedavg', 0.1, 1 - 0.2 * _DELTA),
    # Momentum: the second step is (1 + 0.9) times the first.
    ('fedavgm', 1.0, 1 - 2.9 * _DELTA),
    # A constant gradient moves bias-corrected Adam by its rate.
    ('fedadam', 0.1, 1 - 0.2 * _DELTA / (_DELTA + 1e-3)),
  )
  def test_two_steps_by_hand(self, name, rate, expected):
    variables, _ = _two_steps(name, rate)
    np.testing.assert_allclose(variables['params'], [expected], rtol=1e-4)

  def test_yogi_is_as_published(self):
    # Reddi et al. (2021), Algorithm 2, in float64.
    mean, square, expected = 0.0, 1e-3**2, 1.0
    for _ in range(2):
      mean = 0.9 * mean + 0.1 * _DELTA
      square -= 0.01 * _DELTA**2 * np.sign(square - _DELTA**2)
      expected -= 0.1 * mean / (np.sqrt(square) + 1e-3)
    variables, _ = _two_steps('fedyogi', 0.1)
    np.testing.assert_allclose(variables['params'], [expected], rtol=1e-5)

  @parameterized.parameters('fedavg', 'fedavgm', 'fedadam', 'fedyogi')
  def test_a_first_round_without_anyone_does_not_move(self, name):
    program = _program(name, 0.1)
    start = program.init(jax.random.key(0))
    nothing = jax.tree.map(jnp.zeros_like, start.variables)
    server, metrics = program.update(start, nothing, jax.random.key(0))
    chex.assert_trees_all_equal(server.variables, start.variables)
    self.assertEqual(metrics['update_norm'], 0)

  @parameterized.parameters('fedavg', 'fedavgm', 'fedadam', 'fedyogi')
  def test_a_round_without_anyone_keeps_the_state_where_that_is_known(
    self, name
  ):
    program = _program(name, 0.1, keep_weight=True)
    start = program.init(jax.random.key(0))
    delta = {'params': jnp.array([0.5]), 'batch_stats': jnp.array([0.5])}
    moved, _ = program.update(
      start, aggregates.WeighedMean(delta, jnp.array(3.0)), jax.random.key(0)
    )
    self.assertNotEqual(moved.variables['params'], start.variables['params'])
    nothing = jax.tree.map(jnp.zeros_like, delta)
    after, metrics = program.update(
      moved, aggregates.WeighedMean(nothing, jnp.array(0.0)), jax.random.key(0)
    )
    chex.assert_trees_all_equal(after, moved)
    self.assertEqual(metrics['update_norm'], 0)

  def test_yogi_differs_from_adam_and_descends(self):
    yogi, _ = _two_steps('fedyogi', 0.1)
    adam, _ = _two_steps('fedadam', 0.1)
    self.assertLess(yogi['params'][0], 1.0)
    self.assertNotAlmostEqual(
      float(yogi['params'][0]), float(adam['params'][0]), places=5
    )

  @parameterized.parameters('fedavg', 'fedavgm', 'fedadam', 'fedyogi')
  def test_statistics_are_averaged_whatever_the_optimizer(self, name):
    variables, _ = _two_steps(name, 0.1)
    np.testing.assert_allclose(variables['batch_stats'], [1 - 2 * _DELTA])

  def test_the_update_norm_is_of_the_step_taken_by_the_parameters(self):
    _, metrics = _two_steps('fedavg', 0.1)
    np.testing.assert_allclose(metrics['update_norm'], 0.1 * _DELTA, rtol=1e-6)

  @parameterized.parameters(
    (('adam', 1.0), 'server_optimizer=.adam'),
    (('fedavg', 0.0), 'server_learning_rate=0.0'),
    (('fedavgm', 1.0, 1.5), 'server_momentum=1.5'),
    (('fedadam', 1.0, 1.0), "optimizer='fedadam', got server_momentum=1.0"),
    (('fedyogi', 1.0, 1.0), "optimizer='fedyogi', got server_momentum=1.0"),
  )
  def test_bad_arguments_are_refused(self, arguments, message):
    with self.assertRaisesRegex(InputError, message):
      servers.server_optimizer(*arguments)

  @parameterized.parameters((1.0, 'server_average < 1'), (-0.1, '=-0.1'))
  def test_a_decay_out_of_range_is_refused(self, decay, message):
    with self.assertRaisesRegex(InputError, message):
      servers.learned_server(
        dict, aggregates.weighted_mean(), optax.sgd(1.0), decay
      )


if __name__ == '__main__':
  absltest.main()
