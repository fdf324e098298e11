"""DP-CGAN: who reads records, what is sent, and what stays."""

import dataclasses
import functools
import math

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees
from fedjax_gen.algorithms import dp_cgan
from fedjax_gen.algorithms.dp_cgan import CganConfig
from fedjax_gen.errors import InputError
from fedjax_gen.federated.algorithm import ClientKeys
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.privacy import clipping, plan as plans
from tests.federated import toys

_SIZES = (8, 6)
_BOUND = 0.1
_KEY = jax.random.key(2)
_CONFIG = CganConfig(gan_latent_size=2, gan_hidden_sizes=(4, 3))
_GAN = dp_cgan.build_cgan(_CONFIG, DataSpec((3,), 2))
_DATA = toys.dataset(_SIZES)


def _plan():
  return plans.record_plan(
    plans.PrivacyConfig('record', math.inf, clip_norm=_BOUND),
    np.array(_SIZES),
    batch_size=7,
    epochs=0.0,
    rounds=2,
  )


@functools.cache
def _programs(is_private=True, rate=1e-2):
  """`init(key)`, and the update of the first client, both compiled."""
  config = dataclasses.replace(_CONFIG, gan_learning_rate=rate)

  def algorithm(noise=0.0):
    plan = _plan()._replace(noise_multiplier=noise)
    return dp_cgan.dp_cgan(config, _GAN, plan, is_private=is_private)

  @jax.jit
  def init(key):
    server, [client] = algorithm()
    return server.init(key).variables, client.init(key, None)

  @jax.jit
  def update(view, kept, data, key, noise):
    # An argument, so that one program serves with and without.
    [client] = algorithm(noise).fleets
    return client.update(
      view, kept, data.client(jnp.int32(0)), ClientKeys(key, key)
    )

  def run(view, kept, data, key, noise=0.0):
    return update(view, kept, data, key, jnp.float32(noise))

  return init, run


def _other(data, values, row=None):
  """The data with other inputs of client 0, or of one of its records."""
  rows = data.order[: _SIZES[0]] if row is None else data.order[row]
  return dataclasses.replace(data, inputs=data.inputs.at[rows].set(values))


def _norm(tree):
  return float(clipping.tree_norm(tree))


class CganTest(parameterized.TestCase):
  def test_players_have_the_sizes_asked_for_and_see_the_class(self):
    players = jax.jit(_GAN.init)(_KEY)
    shapes = [
      [layer['kernel'].shape for layer in player['params'].values()]
      for player in (players['shared'], players['own'])
    ]
    self.assertEqual(
      shapes, [[(4, 4), (4, 3), (3, 3)], [(5, 3), (3, 4), (4, 1)]]
    )
    labels = jnp.array([0, 1])
    made = _GAN.generate(players['shared'], labels, _KEY)
    self.assertEqual(made.shape, (2, 3))
    flipped = _GAN.generate(players['shared'], 1 - labels, _KEY)
    self.assertGreater(float(jnp.abs(made - flipped).min()), 0)
    logits = _GAN.logits(players['own'], made, labels)
    self.assertEqual(logits.shape, (2,))
    others = _GAN.logits(players['own'], made, 1 - labels)
    self.assertGreater(float(jnp.abs(logits - others).min()), 0)

  @parameterized.parameters(
    {'gan_latent_size': 0}, {'gan_hidden_sizes': (4, 0)}, {'gan_b1': 2.0},
    {'gan_learning_rate': 0.0},
  )  # fmt: skip
  def test_sizes_are_checked(self, **fields):
    with self.assertRaisesRegex(InputError, next(iter(fields))):
      CganConfig(**fields)


class DpCganTest(parameterized.TestCase):
  def test_the_generator_is_trained_without_records(self):
    # A discriminator that cannot move knows nothing, and all else is noise.
    init, update = _programs(rate=1e-30)
    view, kept = init(_KEY)
    sent, after, _ = update(view, kept, _DATA, _KEY)
    other, _, _ = update(view, kept, _other(_DATA, 5.0), _KEY)
    chex.assert_trees_all_equal(sent, other)
    self.assertGreater(_norm(sent), 0)
    chex.assert_trees_all_close(after.own, kept.own, atol=1e-20)
    self.assertEqual(jax.tree.structure(sent), jax.tree.structure(view))

  def test_discriminators_learn_and_stay(self):
    init, update = _programs()
    view, kept = init(_KEY)
    first, one, _ = update(view, kept, _DATA, _KEY)
    again, two, _ = update(view, one, _DATA, _KEY)
    # The same but for the discriminator, and that goes on from where it was.
    self.assertGreater(_norm(trees.subtract(first, again)), 1e-4)
    self.assertEqual(int(two.own_state[0].count), 2)
    self.assertGreater(_norm(trees.subtract(two.own, one.own)), 1e-3)
    moved, _, _ = update(view, kept, _other(_DATA, 5.0), _KEY)
    self.assertGreater(_norm(trees.subtract(first, moved)), 0)

  @parameterized.parameters(1.0, 1e3, np.nan)
  def test_a_record_moves_the_discriminators_gradient_by_its_bound(self, value):
    init, update = _programs()
    view, kept = init(_KEY)

    def gradient(data):
      # Adam's first moment holds it, and the generated examples' too.
      _, after, _ = update(view, kept, data, _KEY)
      moment = after.own_state[0].mu
      return jax.tree.map(lambda leaf: leaf / (1 - _CONFIG.gan_b1), moment)

    there = gradient(_other(_DATA, value, row=0))
    without = gradient(_other(_DATA, jnp.nan, row=0))
    moved = _norm(trees.subtract(there, without)) * _SIZES[0]
    if np.isnan(value):
      self.assertEqual(moved, 0)
    else:
      self.assertBetween(moved, 0.9 * _BOUND, _BOUND * 1.001)
    nothing = gradient(_other(_DATA, jnp.nan))
    self.assertGreater(_norm(nothing), 0)  # generated examples

  def test_noise_is_on_the_discriminator(self):
    init, update = _programs()
    view, kept = init(_KEY)
    _, clean, _ = update(view, kept, _DATA, _KEY)
    _, noised, _ = update(view, kept, _DATA, _KEY, 1e4)
    errors = trees.subtract(noised.own_state[0].mu, clean.own_state[0].mu)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(errors)])
    stddev = 0.5 * 1e4 * _BOUND / _SIZES[0]
    np.testing.assert_allclose(flat.std(), stddev, rtol=0.4)

  def test_without_privacy_nothing_is_clipped(self):
    init, update = _programs(is_private=False)
    view, kept = init(_KEY)
    _, after, metrics = update(view, kept, _other(_DATA, 1e3), _KEY, 1e9)
    self.assertNotIn('share_clipped', metrics)
    moment = jax.tree.map(lambda leaf: leaf / 0.5, after.own_state[0].mu)
    self.assertBetween(_norm(moment), 10 * _BOUND, 1e6)


if __name__ == '__main__':
  absltest.main()
