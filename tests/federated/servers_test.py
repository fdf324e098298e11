"""Server optimizers descend the mean update; statistics are averaged."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.federated import aggregates, servers

_DELTA = 0.5


def _two_steps(name, rate=1.0, momentum=0.9):
  program = servers.learned_server(
    lambda key: {
      'params': jnp.array([1.0]),
      'batch_stats': jnp.array([1.0]),
    },
    aggregates.weighted_mean(),
    servers.server_optimizer(name, rate, momentum),
  )
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
  )
  def test_bad_arguments_are_refused(self, arguments, message):
    with self.assertRaisesRegex(InputError, message):
      servers.server_optimizer(*arguments)


if __name__ == '__main__':
  absltest.main()
