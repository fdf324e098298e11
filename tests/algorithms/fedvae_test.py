"""FedVAE in its limits, on real digits, with networks cut to the bone."""

import dataclasses
import functools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen.algorithms import fedvae
from fedjax_gen.data.federated import Batch
from fedjax_gen.errors import InputError
from fedjax_gen.federated import rounds
from fedjax_gen.models import elbo
from tests.algorithms import digits
from tests.models.counting import num_parameters

_CONFIG = fedvae.Config(local_epochs=2, batch_size=4, learning_rate=1e-2)
_KEY = jax.random.key(1)


@functools.cache
def _trained(config=_CONFIG, num_rounds=2):
  algorithm = fedvae.fedvae(config, digits.small_vae())
  data = [digits.clients(3)]
  state = rounds.init_state(algorithm, data, jax.random.key(0))
  run = rounds.round_runner(algorithm)
  return jax.device_get(run(state, data, _KEY, num_rounds))


class FedVaeTest(parameterized.TestCase):
  @parameterized.parameters('group', 'batch')
  def test_one_client_with_all_data_is_central_training(self, norm):
    vae, data = digits.small_vae(norm), digits.clients(1)
    algorithm = fedvae.fedvae(_CONFIG, vae)
    state = rounds.init_state(algorithm, [data], jax.random.key(0))

    # A plain loop over batches, as one would write it for one machine.
    variables = jax.tree.map(jnp.copy, state.server.variables)
    optimizer = optax.adam(_CONFIG.learning_rate)
    optimizer_state = optimizer.init(variables)
    step = jax.jit(jax.value_and_grad(elbo.elbo_loss(vae, 1.0), has_aux=True))
    for number in range(2):
      _, fleet_key = jax.random.split(jax.random.fold_in(_KEY, number))
      _, client_key = jax.random.split(fleet_key)
      client_key = jax.random.fold_in(client_key, 0)
      for epoch in range(2):
        keys = jax.random.split(jax.random.fold_in(client_key, epoch))
        order = data.order[data.client(jnp.int32(0)).shuffled(keys[0])]
        for i, rows in enumerate(np.split(np.asarray(order), 6)):
          batch = Batch(data.inputs[rows], data.labels[rows], jnp.ones(4, bool))
          (_, (refreshed, _)), gradient = step(
            variables, batch, jax.random.fold_in(keys[1], i)
          )
          updates, optimizer_state = optimizer.update(gradient, optimizer_state)
          variables = optax.apply_updates(refreshed, updates)

    federated, _ = rounds.round_runner(algorithm)(state, [data], _KEY, 2)
    chex.assert_trees_all_close(
      federated.server.variables, variables, rtol=1e-4, atol=1e-5
    )

  def test_training_lowers_the_loss(self):
    _, metrics = _trained(num_rounds=8)
    loss = metrics.clients[0]['loss'].mean(axis=1)
    self.assertLess(loss[-1], loss[0] - 1.0)

  def test_the_optimizer_state_stays_with_the_client_only_if_asked(self):
    kept, _ = _trained()
    reset, _ = _trained(
      dataclasses.replace(_CONFIG, keep_optimizer_state=False)
    )
    self.assertEqual(reset.fleets, ((),))
    count = kept.fleets[0][0].count
    np.testing.assert_array_equal(count, [8, 8, 8])  # 2 rounds x 2 x 2 steps
    with self.assertRaises(AssertionError):
      chex.assert_trees_all_close(
        kept.server.variables, reset.server.variables, atol=1e-4
      )

  def test_fedprox_stays_closer_to_the_received_model(self):
    def moved(strength):
      config = dataclasses.replace(_CONFIG, proximal=strength)
      _, metrics = _trained(config, num_rounds=1)
      return metrics.server['update_norm'][0]

    self.assertLess(moved(100.0), 0.8 * moved(0.0))

  def test_traffic_is_the_model_both_ways(self):
    data = [digits.clients(3)]
    variables = digits.small_vae().init(jax.random.key(0))
    size = 4 * num_parameters(variables)
    federated = fedvae.fedvae(_CONFIG, digits.small_vae())
    self.assertEqual(
      rounds.traffic(federated, data), (rounds.Traffic(size, size),)
    )
    alone = fedvae.local_only(_CONFIG, digits.small_vae())
    self.assertEqual(rounds.traffic(alone, data), (rounds.Traffic(0, 0),))

  @parameterized.parameters((0.0, 4), (0.5, 3), (2.0, 12))
  def test_central_training_makes_the_steps_of_a_client(self, epochs, steps):
    # Three clients of 8 examples make 2 x 2 steps of 4; all data are 6 steps.
    data = digits.clients(3)
    algorithm = fedvae.central(
      _CONFIG, digits.small_vae(), np.asarray(data.sizes), epochs=epochs
    )
    merged = [data.merged()]
    state = rounds.init_state(algorithm, merged, jax.random.key(0))
    state, _ = rounds.round_runner(algorithm)(state, merged, _KEY, 1)
    np.testing.assert_array_equal(state.fleets[0][0].count, [steps])

  def test_a_local_model_has_seen_its_own_client_only(self):
    algorithm = fedvae.local_only(_CONFIG, digits.small_vae())
    data = digits.clients(3)
    run = rounds.round_runner(algorithm)

    def train(data):
      state = rounds.init_state(algorithm, [data], jax.random.key(0))
      return jax.device_get(run(state, [data], _KEY, 2)[0].fleets[0][0])

    # Others' images go black; the first client's model must not change.
    rows = np.asarray(data.order[: int(data.sizes[0])])
    poisoned = np.zeros_like(data.inputs)
    poisoned[rows] = np.asarray(data.inputs)[rows]
    changed = train(dataclasses.replace(data, inputs=jnp.asarray(poisoned)))
    same = train(data)
    first, second = (
      [jax.tree.map(lambda a, i=i: a[i], tree) for tree in (same, changed)]
      for i in (0, 1)
    )
    chex.assert_trees_all_equal(*first)
    with self.assertRaises(AssertionError):
      chex.assert_trees_all_close(*second, atol=1e-3)

  @parameterized.parameters(
    ({'local_epochs': 0}, 'local_epochs=0'),
    ({'batch_size': 0}, 'batch_size=0'),
    ({'learning_rate': -1.0}, 'learning_rate=-1.0'),
    ({'beta': -1.0}, 'beta=-1.0'),
    ({'proximal': -0.1}, 'proximal=-0.1'),
    ({'server_optimizer': 'sgd'}, "server_optimizer='sgd'"),
  )
  def test_bad_fields_are_refused(self, fields, message):
    with self.assertRaisesRegex(InputError, message):
      fedvae.fedvae(dataclasses.replace(_CONFIG, **fields), digits.small_vae())


if __name__ == '__main__':
  absltest.main()
