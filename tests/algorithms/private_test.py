"""FedVAE and FissionVAE under differential privacy, of records and clients."""

import dataclasses
import functools
import math

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen.algorithms import fedvae, fissionvae
from fedjax_gen.algorithms.fissionvae import Sharing
from fedjax_gen.errors import InputError
from fedjax_gen.federated import rounds, sampling
from fedjax_gen.federated.algorithm import (
  ClientInfo,
  ClientKeys,
  FederatedState,
)
from fedjax_gen.models.vae import DataSpec, VaeConfig, build_vae
from fedjax_gen.privacy import clipping, plan as plans
from tests.algorithms import digits
from tests.federated import toys

_KEY = jax.random.key(1)
_BOUND = 0.05
_SIZES = (6, 10)
_SMALL = VaeConfig(model='mlp', norm='none', hidden_size=8, latent_size=2)


class _Sgd(fedvae.Config):
  """Clients that send their gradients, times the learning rate."""

  def optimizer(self):
    return optax.sgd(self.learning_rate)


@functools.cache
def _vae(features=False, **fields):
  spec = DataSpec((6,), 2) if features else DataSpec((8, 8, 1), 10)
  return build_vae(dataclasses.replace(_SMALL, **fields), spec)


def _record_plan(sizes, noise=0.0, rate_of=2):
  plan = plans.record_plan(
    plans.PrivacyConfig('record', math.inf, clip_norm=_BOUND),
    np.array(sizes),
    batch_size=int(np.mean(sizes)) // rate_of,
    epochs=0.0,
    rounds=2,
  )
  return plan._replace(noise_multiplier=noise)


def _client_plan(num_clients, noise=0.0):
  plan = plans.client_plan(
    plans.PrivacyConfig('client', math.inf, clip_norm=_BOUND),
    num_clients,
    rounds=2,
  )
  return plan._replace(noise_multiplier=noise)


def _infos(groups, present):
  """Clients that are there or not, of sizes that must not count."""
  present = jnp.asarray(present, bool)
  sizes = jnp.arange(1, len(groups) + 1) * 100
  return ClientInfo(
    row=jnp.arange(len(groups)),
    group=jnp.asarray(groups, jnp.int32),
    num_examples=jnp.where(present, sizes, 0),
    weight=jnp.where(present, sizes, 0).astype(jnp.float32),
    present=present,
  )


def _messages(state, program, count, scale):
  """Random messages in the shape of what a client of a fleet sends."""
  info = jax.tree.map(lambda a: a[0], _infos((0,), (True,)))
  view = program.view(state.server, info)['modules']
  leaves, structure = jax.tree.flatten(view)
  rng = np.random.default_rng(0)
  drawn = [
    jnp.asarray(rng.normal(size=(count, *leaf.shape)) * scale, jnp.float32)
    for leaf in leaves
  ]
  return jax.tree.unflatten(structure, drawn)


def _drop(tree, row):
  return jax.tree.map(lambda leaf: np.delete(leaf, row, axis=0), tree)


def _norm(tree):
  return float(clipping.tree_norm(tree))


@functools.cache
def _send(noise=0.0):
  """`(data, key) -> message` of the second client, in one step."""
  vae = _vae(features=True)
  algorithm = fedvae.fedvae(
    _Sgd(learning_rate=2.0, keep_optimizer_state=False),
    vae,
    _record_plan(_SIZES, noise),
  )
  start = vae.init(jax.random.key(0))
  update = algorithm.fleets[0].update
  return jax.jit(
    lambda data, key: update(
      start, (), data.client(jnp.int32(1)), ClientKeys(key, key)
    )[0]
  )


class RecordTest(parameterized.TestCase):
  def test_a_record_moves_the_message_by_its_bound_at_most(self):
    data = toys.dataset(_SIZES, num_features=6)
    moved = []
    for place, gone in enumerate(np.asarray(data.order[6:])):
      inputs = np.asarray(data.inputs).copy()
      inputs[gone] = np.nan  # hides the record: coins and keys stay
      without = dataclasses.replace(data, inputs=jnp.asarray(inputs))
      key = jax.random.key(place)
      sent = _send()(data, key)
      lacking = _send()(without, key)
      moved.append(_norm(jax.tree.map(jnp.subtract, sent, lacking)))
    most = 2.0 * _BOUND / (0.5 * 10)
    self.assertLessEqual(max(moved), most * 1.0001)
    self.assertGreater(max(moved), 0.99 * most)
    self.assertEqual(min(moved), 0.0)  # not drawn

  def test_noise_is_there_where_there_is_nothing_to_hide(self):
    data = toys.dataset(_SIZES, num_features=6)
    empty = dataclasses.replace(
      data, inputs=jnp.full_like(data.inputs, jnp.nan)
    )
    self.assertEqual(_norm(_send()(empty, _KEY)), 0.0)
    drawn = _send(3.0)(empty, _KEY)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(drawn)])
    stddev = 2.0 * 3.0 * _BOUND / (0.5 * 10)
    self.assertGreater(flat.size, 200)
    np.testing.assert_allclose(flat.std(), stddev, rtol=0.15)
    for leaf in jax.tree.leaves(drawn):
      self.assertGreater(np.abs(leaf).min(), 0.0)

  def test_priors_that_are_fixed_are_not_trained(self):
    config = fissionvae.Config(batch_size=4, learning_rate=1e-2)
    fission = fissionvae.fissionvae(
      config,
      [_vae()] * 2,
      Sharing(priors=True, decoders=True),
      plan=_record_plan((8, 8), 1.0)._replace(steps=3),
    )
    groups = jnp.array([0, 1], jnp.int32)
    data = dataclasses.replace(digits.clients(2, 16), groups=groups)
    run = rounds.round_runner(fission.algorithm)

    def train(state):
      return jax.device_get(run(state, [data], _KEY, 1))

    begun = rounds.init_state(fission.algorithm, [data], jax.random.key(0))
    saved, metrics = train(begun)
    once, _ = train(jax.tree.map(jnp.asarray, saved))
    # Of a run that resumes all that is random is as it was.
    again, _ = train(jax.tree.map(jnp.asarray, saved))
    chex.assert_trees_all_equal(once, again)
    chex.assert_tree_all_finite((jax.tree.leaves(once.server), metrics))
    self.assertIn('share_clipped', metrics.clients[0])
    np.testing.assert_array_equal(once.fleets[0][0].count, [6, 6])
    # Of what the clients keep, nothing is of a prior that is fixed.
    names = {
      entry.key
      for path, _ in jax.tree_util.tree_leaves_with_path(once.fleets)
      for entry in path
      if hasattr(entry, 'key')
    }
    self.assertIn('decoder', names)
    self.assertNotIn('constants', names)
    for group in range(2):
      chex.assert_trees_all_equal(
        fission.variables(once.server, group)['prior'],
        fission.variables(saved.server, group)['prior'],
      )


class ClientTest(parameterized.TestCase):
  def test_a_client_moves_fedvae_by_its_bound_over_the_cohort(self):
    data = toys.dataset((4, 4, 8), num_features=6)
    inputs = np.asarray(data.inputs).copy()
    inputs[np.asarray(data.order[4:8])] = np.nan  # what it sends counts nothing
    config = fedvae.Config(local_epochs=1, batch_size=4, learning_rate=1e-2)
    algorithm = fedvae.fedvae(config, _vae(features=True), _client_plan(3))
    run = rounds.round_runner(algorithm)

    def after(data):
      state = rounds.init_state(algorithm, [data], jax.random.key(0))
      return run(state, [data], _KEY, 1)[0].server.variables

    everyone = after(data)
    others = after(dataclasses.replace(data, inputs=jnp.asarray(inputs)))
    moved = _norm(jax.tree.map(jnp.subtract, everyone, others))
    np.testing.assert_allclose(moved, _BOUND / 3, rtol=1e-3)

  def fission(self, decoders=('mlp', 'mlp'), noise=0.0):
    models = {d: _vae(decoder=d, channels=(4,)) for d in decoders}
    fission = fissionvae.fissionvae(
      fissionvae.Config(),
      [models[d] for d in decoders],
      Sharing(priors=True, decoders=True),
      plan=_client_plan(6, noise),
      expected_cohort=(2.0, 4.0),
    )
    server = fission.algorithm.server.init(jax.random.key(0))
    return fission.algorithm, FederatedState(0, server, ())

  @parameterized.parameters(_BOUND, 1e-9)
  def test_a_client_moves_all_modules_together_by_its_bound(self, scale):
    algorithm, state = self.fission()
    aggregate = algorithm.server.aggregate
    messages = _messages(state, algorithm.fleets[0], 4, scale)
    infos = _infos((0, 1, 1, 0), (1, 1, 1, 0))

    @jax.jit
    def sums(messages, infos):
      return aggregate.finish(aggregate.partial(messages, infos))

    everyone = sums(messages, infos)
    others = sums(_drop(messages, 1), _drop(infos, 1))
    moved = jax.tree.map(jnp.subtract, everyone, others)
    encoder, (decoder, weights) = moved['encoder'], moved['decoder']
    np.testing.assert_array_equal(weights, 0)  # nobody is counted
    np.testing.assert_array_equal(everyone['decoder'][1], [1, 1])
    # Its own group's copy, and the module of all.
    parts = [
      jax.tree.map(lambda a: a * 6.0, encoder),
      jax.tree.map(lambda a: a[1] * 4.0, decoder),
    ]
    message = jax.tree.map(lambda a: a[1], messages)
    expected = min(_norm(message), _BOUND)
    np.testing.assert_allclose(_norm(parts), expected, rtol=1e-4)
    self.assertGreater(_norm(parts[1]), 0.1 * expected)
    self.assertEqual(_norm(jax.tree.map(lambda a: a[0], decoder)), 0.0)
    # One who is absent adds nothing, and large clients no more than small.
    absent = sums(_drop(messages, 3), _drop(infos, 3))
    chex.assert_trees_all_close(everyone, absent, rtol=1e-6)

  @parameterized.parameters((('mlp', 'mlp'),), (('mlp', 'conv'),))
  def test_every_copy_has_noise_whether_anyone_was_there_or_not(self, decoders):
    algorithm, state = self.fission(decoders, noise=2.0)
    messages = [_messages(state, fleet, 2, 0.0) for fleet in algorithm.fleets]
    nobody = _infos((0, 0), (0, 0))
    aggregate = algorithm.server.aggregate
    sums = [aggregate.partial(m, nobody) for m in messages]
    nothing = aggregate.finish(functools.reduce(aggregate.merge, sums))
    update = jax.jit(algorithm.server.update)
    after, _ = update(state.server, nothing, _KEY)
    other, _ = update(state.server, nothing, jax.random.key(2))

    def moved(name, server, copy=None):
      pairs = zip(
        jax.tree.leaves(server.modules[name].variables),
        jax.tree.leaves(state.server.modules[name].variables),
        strict=True,
      )
      steps = [a - b for a, b in pairs]
      if copy is not None:
        steps = [step[copy] for step in steps]
      return np.concatenate([np.ravel(step) for step in steps])

    copies = [('encoder', None, 6.0)]
    if len(algorithm.fleets) == 1:
      copies += [('decoder', 0, 2.0), ('decoder', 1, 4.0)]
    else:
      copies += [('decoder_0', 0, 2.0), ('decoder_1', 0, 4.0)]
    for name, copy, cohort in copies:
      steps = moved(name, after, copy)
      stddev = 2.0 * _BOUND / cohort
      np.testing.assert_allclose(steps.std(), stddev, rtol=0.15, err_msg=name)
      again = moved(name, other, copy)
      self.assertLess(abs(np.corrcoef(steps, again)[0, 1]), 0.3)
    if len(algorithm.fleets) == 1:
      left, right = (moved('decoder', after, copy) for copy in (0, 1))
      self.assertLess(abs(np.corrcoef(left, right)[0, 1]), 0.3)

  def test_fissionvae_trains_with_a_group_away(self):
    fission = fissionvae.fissionvae(
      fissionvae.Config(local_epochs=1, batch_size=4),
      [_vae()] * 2,
      Sharing(priors=True, decoders=True),
      plan=_client_plan(2, 1.0),
      expected_cohort=(1.0, 1.0),
    )
    groups = jnp.array([0, 1], jnp.int32)
    data = dataclasses.replace(digits.clients(2, 16), groups=groups)

    def first(key, data):
      cohort = sampling.everyone()(key, data)
      return cohort._replace(present=cohort.row == 0)

    before = rounds.init_state(fission.algorithm, [data], jax.random.key(0))
    start = jax.device_get(before.server)
    run = rounds.round_runner(fission.algorithm, samplers=[first])
    state, _ = run(before, [data], _KEY, 1)
    chex.assert_tree_all_finite(jax.tree.leaves(state.server))
    for old, new in zip(
      jax.tree.leaves(start.modules['decoder'].variables),
      jax.tree.leaves(state.server.modules['decoder'].variables),
      strict=True,
    ):
      self.assertGreater(np.abs(old[1] - new[1]).min(), 0.0)


class RefusalTest(parameterized.TestCase):
  @parameterized.parameters('record', 'client')
  def test_batch_statistics_are_refused(self, unit):
    vae = digits.small_vae('batch')
    plan = _record_plan((8, 8)) if unit == 'record' else _client_plan(2)
    with self.assertRaisesRegex(InputError, 'batch_stats'):
      fedvae.fedvae(fedvae.Config(), vae, plan)
    with self.assertRaisesRegex(InputError, 'batch_stats'):
      fissionvae.fissionvae(
        fissionvae.Config(), [vae], Sharing(), plan=plan, expected_cohort=[2.0]
      )

  @parameterized.parameters(((), 'got 0 numbers'), ((1.0, 0.0), 'cohort=0.0'))
  def test_every_group_expects_someone(self, cohort, message):
    with self.assertRaisesRegex(InputError, message):
      fissionvae.fissionvae(
        fissionvae.Config(),
        [_vae()] * 2,
        Sharing(),
        plan=_client_plan(2),
        expected_cohort=cohort,
      )


if __name__ == '__main__':
  absltest.main()
