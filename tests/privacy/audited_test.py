"""Canaries in a federation: what they change, and what an audit finds."""

import dataclasses
import functools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.algorithms import fedhypevae
from fedjax_gen.errors import InputError
from fedjax_gen.federated import rounds, sampling
from fedjax_gen.models.hyper import hypernetwork
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.privacy import clipping, plan as plans
from fedjax_gen.privacy.audit import audited, canaries
from tests.federated import toys

_KEY = jax.random.key(3)
_BOUND = 0.5


def _loss(variables, record, key):
  del key
  distance = jnp.sum((variables['shared']['w'] - record.inputs) ** 2) / 2
  return distance + record.labels * variables['own'], {'loss': distance}


class HideTest(parameterized.TestCase):
  @functools.cached_property
  def hidden(self):
    return canaries.hide(_KEY, self.data, 10, 2)

  data = toys.dataset([12, 0, 9])

  def test_sizes_are_public_and_stay(self):
    for name in ('sizes', 'offsets', 'groups'):
      np.testing.assert_array_equal(
        getattr(self.hidden.data, name), getattr(self.data, name)
      )
    self.assertEqual(self.hidden.data.max_size, 12)

  def test_canaries_take_the_place_of_records_of_their_owners(self):
    order = np.asarray(self.hidden.data.order)
    labels = np.asarray(self.hidden.data.labels)[order]
    inputs = np.asarray(self.hidden.data.inputs)[order]
    owners = np.repeat([0, 2], [12, 9])
    places = np.flatnonzero(labels >= 2)
    self.assertLen(places, 10)
    of_place = order[places] - 21
    np.testing.assert_array_equal(owners[places], self.hidden.owners[of_place])
    np.testing.assert_array_equal(
      labels[places] - 2, self.hidden.slots[of_place]
    )
    np.testing.assert_array_equal(
      inputs[places], np.repeat(self.hidden.included[of_place, None], 3, 1)
    )
    # All others are where they were.
    others = np.flatnonzero(labels < 2)
    np.testing.assert_array_equal(
      order[others], np.asarray(self.data.order)[others]
    )

  def test_no_two_of_a_client_share_a_coordinate(self):
    pairs = set(zip(self.hidden.owners, self.hidden.slots, strict=True))
    self.assertLen(pairs, 10)
    slots = self.hidden.canaries.num_slots
    self.assertEqual(self.hidden.slots.max(), slots - 1)
    positions = self.hidden.canaries.coordinates(100)
    self.assertLen(set(positions), slots)
    self.assertLess(positions.max(), 100)
    with self.assertRaisesRegex(InputError, f'got {slots}'):
      self.hidden.canaries.coordinates(slots - 1)

  def test_images_can_be_replaced_too(self):
    images = jnp.zeros((21, 4, 4, 1), jnp.uint8)
    data = toys.dataset([12, 0, 9])
    data = dataclasses.replace(data, inputs=images)
    hidden = canaries.hide(_KEY, data, 10, 2)
    self.assertEqual(hidden.data.inputs.dtype, jnp.uint8)
    self.assertEqual(hidden.data.inputs.shape, (31, 4, 4, 1))
    np.testing.assert_array_equal(
      hidden.data.inputs[21:, 0, 0, 0], hidden.included
    )

  @parameterized.parameters(0, 11)
  def test_numbers_out_of_range(self, number):
    with self.assertRaisesRegex(InputError, f'audit_canaries={number}'):
      canaries.hide(_KEY, self.data, number, 2)


class LossTest(absltest.TestCase):
  def test_a_coin_moves_the_clipped_sum_by_the_bound_and_no_more(self):
    hidden = canaries.hide(_KEY, toys.dataset([12, 8]), 4, 2)
    loss = canaries.with_canaries(_loss, hidden.canaries, _BOUND)
    variables = {'shared': {'w': jnp.arange(3.0)}, 'own': jnp.array(0.3)}
    # Three values are sent, and clients have up to so many canaries.
    self.assertLessEqual(hidden.canaries.num_slots, 3)

    @jax.jit
    def total(inputs):
      data = dataclasses.replace(hidden.data, inputs=inputs)
      records = data.client(jnp.int32(0)).everything()
      summed = clipping.clipped_sum(loss, variables, records, _KEY, _BOUND)
      return summed.total['shared']['w'], summed.total['own'], summed.norms

    mine = np.flatnonzero(hidden.owners == 0)
    inputs = hidden.data.inputs
    for canary in mine:
      without = total(inputs.at[20 + canary].set(0.0))
      with_it = total(inputs.at[20 + canary].set(1.0))
      moved = np.asarray(with_it[0] - without[0])
      expected = np.zeros(3)
      slot = hidden.slots[canary]
      expected[hidden.canaries.coordinates(3)[slot]] = _BOUND
      np.testing.assert_allclose(moved, expected, atol=1e-5)
      self.assertEqual(with_it[1], without[1])
      # Loud: what does not clip would be caught.
      np.testing.assert_allclose(
        np.max(with_it[2] - without[2]), 10 * _BOUND, rtol=1e-5
      )

  def test_records_are_what_they_were(self):
    loss = canaries.with_canaries(_loss, canaries.Canaries(2, 3), _BOUND)
    data = toys.dataset([5])
    variables = {'shared': {'w': jnp.ones(3)}, 'own': jnp.array(0.3)}
    records = data.client(jnp.int32(0)).everything()
    got, expected = (
      clipping.clipped_sum(fn, variables, records, _KEY, _BOUND)
      for fn in (loss, _loss)
    )
    jax.tree.map(np.testing.assert_array_equal, got, expected)


_CANARIES, _ROUNDS, _DELTA = 500, 8, 1e-5
_MODEL = hypernetwork.build_hyper_vae(
  hypernetwork.HyperVaeConfig(
    latent_size=2, hidden_sizes=(64,), code_size=3, hyper_size=32
  ),
  DataSpec((3,), 2),
)


@functools.cache
def _plan():
  asked = plans.PrivacyConfig(
    'record', epsilon=1.0, delta=_DELTA, accountant='rdp', clip_chunk=64
  )
  return plans.record_plan(
    asked, np.array([500, 500]), batch_size=500, epochs=0.0, rounds=_ROUNDS
  )


@functools.cache
def _programs():
  """Hidden canaries, a first state, and a round with any noise."""
  hidden = canaries.hide(_KEY, toys.dataset([500, 500]), _CANARIES, 2)
  plan = _plan()._replace(canaries=hidden.canaries)

  def algorithm(noise_multiplier):
    config = fedhypevae.Config(batch_size=500, mmd_samples=2)
    noised = plan._replace(noise_multiplier=noise_multiplier)
    return audited.audited(
      fedhypevae.fedhypevae(config, _MODEL, 'record_joint', noised), hidden
    )

  @jax.jit
  def run(state, noise_multiplier, key):
    def one(state, _):
      state, _ = rounds.federated_round(
        algorithm(noise_multiplier), state, [hidden.data], key,
        samplers=[sampling.everyone()],
      )  # fmt: skip
      return state, ()

    return jax.lax.scan(one, state, length=_ROUNDS)[0]

  state = rounds.init_state(algorithm(1.0), [hidden.data], jax.random.key(0))
  return hidden, state, run


def _bound(share, seed):
  """The audit of a training with a share of the noise that is claimed."""
  hidden, state, run = _programs()
  noise = jnp.float32(share * _plan().noise_multiplier)
  state = run(state, noise, jax.random.key(seed))
  return audited.lower_bound(hidden, state, _DELTA)


class AuditTest(parameterized.TestCase):
  """FedHypeVAE's own step, with the noise of epsilon 1 and with less."""

  def setUp(self):
    super().setUp()
    try:
      import jax_privacy  # noqa: F401
    except ImportError:
      self.skipTest('jax_privacy is not installed')

  @parameterized.parameters(0, 1)
  def test_the_right_noise_stays_below_its_claim(self, seed):
    claim = _plan().charged(_ROUNDS).worst()
    self.assertBetween(claim, 0.95, 1.0)
    self.assertLess(_bound(1.0, seed), claim)

  @parameterized.parameters(0, 1)
  def test_a_tenth_of_the_noise_is_caught(self, seed):
    self.assertGreater(_bound(0.1, seed), 1.2)

  def test_scores_are_by_canary_and_read_from_messages(self):
    hidden, state, _ = _programs()
    slots = hidden.canaries.num_slots
    table = np.arange(2 * slots).reshape(2, slots)
    watched = state.fleets[0]._replace(scores=table)
    found = audited.scores(hidden, state._replace(fleets=(watched,)))
    np.testing.assert_array_equal(found, hidden.owners * slots + hidden.slots)


if __name__ == '__main__':
  absltest.main()
