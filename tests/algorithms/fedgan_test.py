"""FedGAN in its limits, on real digits, with networks cut to the bone."""

import functools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen import trees
from fedjax_gen.algorithms import fedgan
from fedjax_gen.data.federated import Batch, federated_dataset
from fedjax_gen.data.partition_value import Partition
from fedjax_gen.errors import InputError
from fedjax_gen.federated import averaging, rounds
from fedjax_gen.models import gan as gans
from fedjax_gen.models.gan import GanConfig
from fedjax_gen.models.vae import DataSpec
from tests.algorithms import digits

_CONFIG = averaging.Config(local_epochs=1, batch_size=4)
_GAN_CONFIG = GanConfig(
  gan_latent_size=2,
  gan_channels=(4,),
  gan_learning_rate=1e-2,
  gan_discriminator_speed=2.0,
)
_KEY = jax.random.key(1)


@functools.cache
def _gan():
  return gans.build_gan(_GAN_CONFIG, DataSpec((8, 8, 1), 10))


_ADAMS = {
  'generator': optax.adam(1e-2, b1=0.5),
  'discriminator': optax.adam(2e-2, b1=0.5),
}


@jax.jit
def _step(variables, states, batch, key):
  """Both players' step on a batch."""
  loss_fn = gans.gan_loss(_gan(), _GAN_CONFIG.gan_r1)
  gradient, _ = jax.grad(loss_fn, has_aux=True)(variables, batch, key)
  moved, moments = {}, {}
  for player, adam in _ADAMS.items():
    updates, moments[player] = adam.update(gradient[player], states[player])
    moved[player] = optax.apply_updates(variables[player], updates)
  return moved, moments


def _dealt(*sizes):
  """The first digits, so many to each client."""
  shared = digits.clients(1)
  dealt = Partition(
    np.arange(sum(sizes)),
    np.asarray(sizes),
    np.zeros(len(sizes), int),
    'by hand',
  )
  return federated_dataset(
    np.asarray(shared.inputs), np.asarray(shared.labels), dealt
  )


def _trained_alone(variables, data, row):
  """A plain loop over one client's batches, as one would write it."""
  states = {
    player: adam.init(variables[player]) for player, adam in _ADAMS.items()
  }
  _, fleet_key = jax.random.split(jax.random.fold_in(_KEY, 0))
  _, client_key = jax.random.split(fleet_key)
  client_key = jax.random.fold_in(client_key, row)
  order_key, noise_key = jax.random.split(jax.random.fold_in(client_key, 0))
  client = data.client(jnp.int32(row))
  size = int(client.size)
  positions = np.asarray(client.shuffled(order_key))[:size]
  rows = np.asarray(data.order)[int(client.offset) + positions]
  for i, chosen in enumerate(np.split(rows, size // 4)):
    batch = Batch(data.inputs[chosen], data.labels[chosen], jnp.ones(4, bool))
    variables, states = _step(
      variables, states, batch, jax.random.fold_in(noise_key, i)
    )
  return variables


class FedGanTest(parameterized.TestCase):
  # One client is plain training; of two, one weighs twice the other.
  @parameterized.parameters(((8,), (1.0,)), ((16, 8), (2 / 3, 1 / 3)))
  def test_both_players_are_the_clients_weighted_mean(self, sizes, weights):
    algorithm = fedgan.fedgan(_CONFIG, _GAN_CONFIG, _gan())
    data = _dealt(*sizes)
    state = rounds.init_state(algorithm, [data], jax.random.key(0))
    start = jax.device_get(state.server.variables)  # training consumes it
    trained = [_trained_alone(start, data, i) for i in range(len(sizes))]
    expected = jax.tree.map(
      lambda *leaves: np.average(leaves, axis=0, weights=weights), *trained
    )
    state, _ = rounds.round_runner(algorithm)(state, [data], _KEY, 1)
    chex.assert_trees_all_close(
      state.server.variables, expected, rtol=1e-3, atol=1e-5
    )
    self.assertCountEqual(expected, ['generator', 'discriminator'])
    for player in expected:
      moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), expected[player], start[player]
      )
      self.assertGreater(min(jax.tree.leaves(moved)), 1e-3)

  def test_traffic_is_both_players_both_ways(self):
    algorithm = fedgan.fedgan(_CONFIG, _GAN_CONFIG, _gan())
    # Dense, GroupNorm, transposed convolution; convolution, dense.
    generator = (2 * 64 + 64) + (4 + 4) + (16 * 4 + 1)
    discriminator = (16 * 4 + 4) + (64 + 1)
    size = 4 * (generator + discriminator)
    [traffic] = rounds.traffic(algorithm, [digits.clients(3)])
    self.assertEqual(traffic, rounds.Traffic(size, size))
    self.assertEqual(size, trees.num_bytes(jax.eval_shape(_gan().init, _KEY)))

  @parameterized.parameters(
    ({'gan_learning_rate': 0.0}, 'gan_learning_rate=0.0'),
    ({'gan_discriminator_speed': -1.0}, 'gan_discriminator_speed=-1.0'),
    ({'gan_b1': 1.5}, 'gan_b1=1.5'),
    ({'gan_b1': 1.0}, 'Expected gan_b1 < 1'),
    ({'gan_r1': -0.1}, 'gan_r1=-0.1'),
  )
  def test_bad_fields_are_refused(self, fields, message):
    with self.assertRaisesRegex(InputError, message):
      fedgan.fedgan(_CONFIG, GanConfig(**fields), _gan())


if __name__ == '__main__':
  absltest.main()
