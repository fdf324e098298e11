"""FedHypeVAE: what one record can move, and what each privacy mode trains."""

import dataclasses
import functools
import math

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees
from fedjax_gen.algorithms import fedhypevae
from fedjax_gen.algorithms.fedhypevae import Config
from fedjax_gen.data.federated import federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.errors import InputError
from fedjax_gen.federated import rounds
from fedjax_gen.federated.algorithm import (
  ClientInfo,
  ClientKeys,
)
from fedjax_gen.models.hyper import hypernetwork
from fedjax_gen.models.hyper.hypernetwork import HyperVaeConfig, Personal
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.privacy import clipping, plan as plans
from fedjax_gen.privacy.steps import batches
from fedjax_gen.privacy.steps.descent import Parts
from fedjax_gen.privacy.steps.parts import KeptParts

_NUM_FEATURES, _NUM_CLASSES = 4, 2
_SPEC = DataSpec((_NUM_FEATURES,), _NUM_CLASSES)
_TINY = HyperVaeConfig(
  latent_size=2, hidden_sizes=(5,), code_size=3, hyper_size=4, code_radius=5.0
)
_SIZES = (12, 8)
_BOUND = 0.5
_KEY = jax.random.key(1)


@functools.cache
def _model(**fields):
  return hypernetwork.build_hyper_vae(
    dataclasses.replace(_TINY, **fields), _SPEC
  )


@functools.cache
def _data(sizes=_SIZES):
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(sum(sizes), _NUM_FEATURES))
  labels = rng.integers(0, _NUM_CLASSES, sum(sizes))
  order = rng.permutation(sum(sizes)).astype(np.int32)
  groups = np.zeros(len(sizes), np.int32)
  return federated_dataset(
    inputs.astype(np.float32),
    labels,
    Partition(order, np.array(sizes, np.int32), groups, 'toy'),
  )


def _config(**fields):
  """Steps that are the gradients themselves, times a learning rate."""
  return Config(**{
    'optimizer': 'sgd', 'learning_rate': 0.1, 'encoder_learning_rate': 0.1,
    'code_learning_rate': 0.1, 'code_weight': 0.0, 'mmd_samples': 2,
    'neutral_share': 0.0, **fields,
  })  # fmt: skip


def _plan(rate=1.0, norm=_BOUND, noise=0.0, epochs=0.0, sizes=_SIZES):
  mean = float(np.mean(sizes))
  plan = plans.record_plan(
    plans.PrivacyConfig('record', math.inf, clip_norm=norm),
    np.array(sizes),
    batch_size=max(int(rate * mean), 1),
    epochs=epochs,
    rounds=2,
  )
  return plan._replace(noise_multiplier=noise)


def _client_plan(num_clients, norm=_BOUND, noise=0.0):
  plan = plans.client_plan(
    plans.PrivacyConfig('client', math.inf, clip_norm=norm),
    num_clients,
    rounds=2,
  )
  return plan._replace(noise_multiplier=noise)


def _scattered(shapes, size=0.4):
  """Values in which nothing is zero, drawn by NumPy."""
  rng = np.random.default_rng(3)
  return jax.tree.map(
    lambda leaf: jnp.asarray(size * rng.standard_normal(leaf.shape), 'f4'),
    shapes,
  )


@functools.cache
def _start(config, model, size=0.4):
  """What all share, and what a client keeps; at size 0, as at first."""

  def init(key):
    return fedhypevae.init_parts(model, key)

  parts = _scattered(jax.eval_shape(init, _KEY), size)
  if not size:
    parts = jax.jit(init)(_KEY)
  state = fedhypevae.own_optimizer(config).init(parts['own'])
  return parts['shared'], KeptParts(parts['own'], state, ())


@functools.cache
def _compiled(config, model, mode, steps):
  def run(data, size, view, kept, key, rate, norm, noise):
    # Numbers of the plan are arguments, so that one program serves many.
    plan = _plan()._replace(
      sampling_rate=rate, max_norm=norm, noise_multiplier=noise, steps=steps
    )
    [client] = fedhypevae.fedhypevae(config, model, mode, plan).fleets
    mine = data.client(jnp.int32(0))._replace(size=size)
    return client.update(view, kept, mine, ClientKeys(key, key))

  return jax.jit(run)


def _update(
  config, model, mode, data, size, view, kept, key, *, rate=1.0, norm=_BOUND,
  noise=0.0, steps=1,
):  # fmt: skip
  """Message, what is kept, and metrics of client 0."""
  numbers = (jnp.float32(number) for number in (rate, norm, noise))
  run = _compiled(config, model, mode, steps)
  return run(data, jnp.int32(size), view, kept, key, *numbers)


def _norm(tree):
  return float(clipping.tree_norm(tree))


def _with_last(data, values):
  """The data with another last record of client 0."""
  row = int(data.order[_SIZES[0] - 1])
  inputs = jnp.asarray(np.asarray(data.inputs)).at[row].set(values)
  return dataclasses.replace(data, inputs=inputs)


@functools.cache
def _keys_that_draw_the_last_record_last(mode, count=4):
  """Keys of a client for which its last record is in the last slot.

  Slots give records the keys of their losses. Only if the record that is
  removed is last do the others keep theirs.
  """

  @jax.jit
  def labels(data, key):
    if mode == 'paper':
      sample_key = jax.random.split(key, 5)[0]
    else:
      sample_key = jax.random.split(jax.random.split(key)[0], 4)[0]
    data = data.client(jnp.int32(0))
    # In place of classes, positions.
    data = data._replace(labels=jnp.argsort(data.order))
    drawn = batches.poisson_batch(sample_key, data, 1.0, _SIZES[0])
    return drawn.batch.labels

  keys = (jax.random.key(i) for i in range(200))
  last = _SIZES[0] - 1
  found = [key for key in keys if int(labels(_data(), key)[last]) == last]
  return found[:count]


def _nothing(data):
  """The same clients, of whose records each is cut to nothing."""
  return dataclasses.replace(data, inputs=jnp.full_like(data.inputs, jnp.nan))


# Steps of 1 lose little when gradients are read off them; a ball this large
# does not interfere.
_LARGE = _config(
  learning_rate=1.0, encoder_learning_rate=1.0, code_learning_rate=1.0,
  code_weight=0.1, lipschitz_weight=0.5,
)  # fmt: skip
_FREE = {'code_radius': 1e3, 'lipschitz': 'spectral_penalty'}
_ORDINARY = (2.0, -2.0, 2.0, -2.0)
_OUTLIER = (-15.0, 15.0, -15.0, 15.0)


class SensitivityTest(parameterized.TestCase):
  def sums(self, data, size, key):
    """What is released in mode record_joint, as sums over records.

    The shared gradient and the own one, which is read off the step along it;
    less what regularisers, without data, add to both.
    """
    model = _model(**_FREE)
    view, kept = _start(_LARGE, model)

    def released(data):
      message, after, _ = _update(
        _LARGE, model, 'record_joint', data, size, view, kept, key
      )
      return message, trees.subtract(kept.own, after.own)

    of_data = trees.subtract(released(data), released(_nothing(data)))
    return jax.tree.map(lambda leaf: leaf * size, of_data)

  @parameterized.parameters((_ORDINARY,), (_OUTLIER,), ((1e6, -1e6, 0.0, 1e6),))
  def test_jointly_a_record_moves_all_that_is_released_by_its_bound(
    self, record
  ):
    data = _with_last(_data(), jnp.array(record))
    hidden = _with_last(data, jnp.nan)
    num = _SIZES[0]
    moved, shared = [], []
    for key in _keys_that_draw_the_last_record_last('record_joint'):
      there, without = (self.sums(data, n, key) for n in (num, num - 1))
      chex.assert_tree_all_finite(there)
      difference = trees.subtract(there, without)
      moved.append(_norm(difference))
      shared.append(_norm(difference[0]))
      # A record that is not finite is as one that is not there.
      chex.assert_trees_all_close(
        self.sums(hidden, num, key), without, rtol=1e-3, atol=1e-4
      )
    self.assertLen(moved, 4)
    self.assertLessEqual(max(moved), _BOUND * (1 + 1e-4))
    # Clipped as one: the message alone moves by less.
    self.assertGreater(min(moved), 0.999 * _BOUND)
    self.assertLess(min(shared), 0.999 * _BOUND)

  def published(self, record, rate, paper_noise):
    """How far, over the bound, a record moves the messages of some rounds.

    Both runs see the hypernetwork that the run with the record releases, and
    keep encoders and codes of their own.
    """
    config = _config(
      encoder_learning_rate=rate, code_learning_rate=rate,
      paper_noise=paper_noise,
    )  # fmt: skip
    data = _with_last(_data(), jnp.array(record))
    view, kept = _start(config, _model(), size=0.0)
    keeps = {size: kept for size in (_SIZES[0], _SIZES[0] - 1)}
    moved = []
    for key in _keys_that_draw_the_last_record_last('paper'):
      sums = {}
      for size, own in keeps.items():
        mean, keeps[size], _ = _update(
          config, _model(), 'paper', data, size, view, own, key, norm=1.5
        )
        sums[size] = jax.tree.map(lambda leaf, n=size: leaf * n, mean)
      moved.append(_norm(trees.subtract(*sums.values())) / 1.5)
      view = jax.tree.map(
        lambda leaf, sent: leaf - 0.1 * sent / _SIZES[0],
        view,
        sums[_SIZES[0]],
      )
    return moved

  @parameterized.parameters((_ORDINARY, 1.02), (_OUTLIER, 3.0))
  def test_as_published_a_record_moves_the_message_by_more(
    self, record, factor
  ):
    # Eq. 8 moves encoder and code by all records, without noise, and so each
    # moves the gradients of the others. This is the flaw, not a wish.
    moved = self.published(record, 0.05, 'mean')
    self.assertGreater(max(moved), factor)
    if record == _OUTLIER:
      self.assertGreater(moved[0], 1.2)  # in the first round

  def test_as_published_the_message_is_bounded_if_nothing_local_moves(self):
    np.testing.assert_allclose(
      self.published(_OUTLIER, 1e-30, 'sum'), 1, rtol=1e-3
    )

  @parameterized.parameters(('mean', 0.05, 1.0), ('sum', 1e-30, 1 / 12))
  def test_as_published_noise_is_on_the_mean_or_on_the_sum(
    self, where, rate, stddev
  ):
    config = _config(
      encoder_learning_rate=rate, code_learning_rate=rate, paper_noise=where
    )
    view, kept = _start(config, _model(), size=0.0)
    # So little is left of the gradients that the message is noise.
    message, _, _ = _update(
      config, _model(), 'paper', _data(), 12, view, kept, _KEY, norm=1e-6,
      noise=1e6,
    )  # fmt: skip
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(message)])
    self.assertGreaterEqual(flat.size, 200)
    np.testing.assert_allclose(flat.std(), stddev, rtol=0.2)


class NeutralShareTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 0.25, 1.0)
  def test_so_many_records_train_the_decoder_of_the_code_zero(self, share):
    model = _model()
    view, kept = _start(_config(), model)
    data = _data().client(jnp.int32(0)).everything()
    record = jax.tree.map(lambda leaf: leaf[0], data)
    keys = jax.random.split(_KEY, 400)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def losses(own, key):
      # What follows the coin's key is what a loss without a coin is given.
      loss_fn = fedhypevae.record_loss(_config(neutral_share=share), model)
      plain_fn = fedhypevae.record_loss(_config(), model)
      rest = jax.random.split(key)[1] if share else key
      got, gradient = jax.value_and_grad(
        lambda own: loss_fn(Parts(shared=view, own=own), record, key)[0]
      )(own)
      of_code, of_zero = (
        plain_fn(
          Parts(shared=view, own={**own, 'code': code}), record, rest
        )[0]
        for code in (own['code'], jnp.zeros(3))
      )  # fmt: skip
      return got, of_code, of_zero, gradient['code']

    got, of_code, of_zero, gradients = losses(kept.own, keys)
    # A code that was not used is not trained.
    is_neutral = np.linalg.norm(gradients, axis=1) == 0
    np.testing.assert_allclose(is_neutral.mean(), share, atol=0.07)
    self.assertGreater(float(jnp.abs(of_code - of_zero).mean()), 0.1)
    np.testing.assert_allclose(
      got, np.where(is_neutral, of_zero, of_code), rtol=1e-5
    )

  def test_the_published_formulas_have_no_neutral_records(self):
    view, kept = _start(_config(), _model(), size=0.0)
    messages = [
      _update(
        _config(neutral_share=share), _model(), 'paper', _data(), 12, view,
        kept, _KEY,
      )[0]
      for share in (0.0, 0.9)
    ]  # fmt: skip
    chex.assert_trees_all_equal(*messages)


class ConstantHypernetworkTest(absltest.TestCase):
  def test_it_trains_as_dp_cvae(self):
    ours = _model()
    identity = jax.jit(
      lambda key: ours.personalise(ours.init(key), jnp.zeros(3))
    )(_KEY)
    config = _config(mmd_weight=0.0, code_weight=0.1)
    ours = ours._replace(personalise=lambda hyper, code=None: identity)
    cvae = _model(head='constant', prior='standard')
    runs = []
    for model in (ours, cvae):
      view, kept = start = _start(config, model, size=0.0)
      for i in range(3):
        message, kept, _ = _update(
          config, model, 'record_joint', _data(), 12, view, kept,
          jax.random.key(i), rate=0.5, norm=3.0,
        )  # fmt: skip
        view = jax.tree.map(lambda a, b: a - 0.3 * b, view, message)
      runs.append((start[0], view, kept.own))
    (before, hyper, own), (_, base, cvae_own) = runs
    self.assertEqual(set(base), {'base'})
    self.assertEqual(set(cvae_own), {'encoder'})
    chex.assert_trees_all_close(
      (hyper['base'], own['encoder']),
      (base['base'], cvae_own['encoder']),
      rtol=1e-4,
      atol=1e-5,
    )
    moved = trees.subtract(hyper, before)
    self.assertGreater(_norm(moved['base']), 0.1)
    # Heads that nothing reads do not move.
    self.assertEqual(_norm(moved['decoder_head']), 0)
    self.assertEqual(_norm(moved['prior_head']), 0)


def _info(row=0, present=True):
  """One client, as the server's view asks for it; in a cohort of one."""
  size = _SIZES[row] * present
  return ClientInfo(
    row=jnp.int32(row),
    group=jnp.int32(0),
    num_examples=jnp.int32(size),
    weight=jnp.float32(size),
    present=jnp.asarray(present),
  )


def _received(aggregate, message, infos):
  """What the server descends of messages of some clients, all alike."""
  infos = jax.tree.map(lambda *leaves: jnp.stack(leaves), *infos)
  count = infos.row.size
  messages = jax.tree.map(
    lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), message
  )
  return aggregate.finish(aggregate.partial(messages, infos))


class ServerCodesTest(parameterized.TestCase):
  def algorithm(self, **fields):
    return fedhypevae.with_server_codes(
      dataclasses.replace(_LARGE, **fields), _model(**_FREE), _plan(norm=1e6),
      2, _KEY,
    )  # fmt: skip

  def test_the_server_descends_what_clients_with_codes_would(self):
    model = _model(**_FREE)
    hyper, kept = _start(_LARGE, model)
    hyper = {**hyper, 'base': jax.jit(model.init)(_KEY)['base']}
    message, after, _ = _update(
      _LARGE, model, 'record_joint', _data(), 12, hyper, kept, _KEY, norm=1e6
    )
    algorithm = self.algorithm()
    [client] = algorithm.fleets

    @jax.jit
    def turn(variables, data):
      server = algorithm.server.init(_KEY)._replace(variables=variables)
      own = client.init(_KEY, _info())._replace(
        own={'encoder': kept.own['encoder']}
      )
      sent, own, _ = client.update(
        client.view(server, _info()),
        own,
        data.client(jnp.int32(0)),
        ClientKeys(_KEY, _KEY),
      )
      received = _received(
        algorithm.server.aggregate, sent, [_info(0), _info(1, present=False)]
      )
      return algorithm.server.update(server, received, _KEY)[0], own, sent

    code = kept.own['code']
    variables = {
      'hyper': {name: hyper[name] for name in ('decoder_head', 'prior_head')},
      'codes': jnp.stack([code, 2 * code]),
    }
    server, own, sent = turn(variables, _data())
    moved = trees.subtract(variables, server.variables)
    expected = {name: message[name] for name in moved['hyper']}
    chex.assert_trees_all_close(moved['hyper'], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
      moved['codes'][0], code - after.own['code'], rtol=1e-3, atol=1e-3
    )
    self.assertGreater(float(jnp.abs(moved['codes'][0]).min()), 0.01)
    np.testing.assert_array_equal(moved['codes'][1], 0)
    chex.assert_trees_all_close(
      own.own['encoder'], after.own['encoder'], rtol=1e-3, atol=1e-3
    )
    # Nothing goes up but the gradient of what makes the decoder and the prior.
    self.assertIsInstance(sent, Personal)

  def test_a_client_that_is_away_keeps_its_code_whatever_the_momentum(self):
    algorithm = self.algorithm(optimizer='adam')
    server = jax.jit(algorithm.server.init)(_KEY)
    message = _scattered(
      jax.eval_shape(algorithm.fleets[0].view, server, _info())
    )

    @jax.jit
    def turn(server, present):
      # The same clients, there or not.
      infos = [_info(row) for row in range(2)]
      infos = [
        info._replace(weight=info.weight * p, present=p > 0)
        for info, p in zip(infos, present, strict=True)
      ]
      received = _received(algorithm.server.aggregate, message, infos)
      return algorithm.server.update(server, received, _KEY)[0]

    # Heads that are zero give codes no gradient in the first.
    for present in ((1.0, 1.0), (1.0, 1.0), (1.0, 0.0)):
      before, server = server, turn(server, jnp.array(present))
    moved = np.abs(server.variables['codes'] - before.variables['codes'])
    self.assertGreater(moved[0].min(), 0)
    self.assertEqual(moved[1].max(), 0)

  def test_messages_are_far_smaller_than_the_hypernetwork(self):
    model = hypernetwork.build_hyper_vae(HyperVaeConfig(), _SPEC)
    hyper = jax.eval_shape(model.init, _KEY)
    personal = jax.eval_shape(model.personalise, hyper, jnp.zeros(32))
    [traffic] = rounds.traffic(
      fedhypevae.with_server_codes(_LARGE, model, _plan(), 2, _KEY), [_data()]
    )
    self.assertEqual(traffic.bytes_up, trees.num_bytes(personal))
    self.assertEqual(traffic.bytes_down, traffic.bytes_up)
    self.assertLess(50 * traffic.bytes_up, trees.num_bytes(hyper))

  @parameterized.parameters(
    ({'local_mode': 'epochs'}, {}, 'local_mode'),
    ({}, {'head': 'full'}, 'head'),
    ({}, {'head': 'constant'}, 'head'),
  )
  def test_what_it_cannot_do_is_refused(self, config, model, name):
    with self.assertRaisesRegex(InputError, f'Expected {name}='):
      fedhypevae.with_server_codes(
        _config(**config), _model(**model), _plan(), 2, _KEY
      )

  def test_shares_of_noise_are_refused(self):
    # The server sees every message by itself.
    with self.assertRaisesRegex(InputError, "noise_placement='local'"):
      fedhypevae.with_server_codes(
        _LARGE, _model(), _plan()._replace(share=0.5), 2, _KEY
      )


class LocalModeTest(parameterized.TestCase):
  def test_epochs_are_steps_whose_change_is_sent(self):
    config = dataclasses.replace(_LARGE, learning_rate=0.2)
    epochs = dataclasses.replace(config, local_mode='epochs', local_epochs=1.5)
    plan = _plan(rate=0.5, epochs=epochs.epochs)
    self.assertEqual(plan.steps, 3)
    self.assertEqual(_plan(rate=0.5, epochs=config.epochs).steps, 1)
    model = _model(**_FREE)
    view, kept = _start(config, model)
    numbers = {'rate': 0.5, 'norm': 0.3, 'noise': 0.1}
    sent, after, _ = _update(
      epochs, model, 'record_joint', _data(), 12, view, kept, _KEY,
      steps=plan.steps, **numbers,
    )  # fmt: skip
    shared, own, path = view, kept, []
    for i in range(3):
      # One that is compiled already: where gradients are sent, the rate is
      # the server's.
      gradient, own, _ = _update(
        _LARGE, model, 'record_joint', _data(), 12, shared, own,
        jax.random.fold_in(_KEY, i), **numbers,
      )  # fmt: skip
      shared = jax.tree.map(lambda a, b: a - 0.2 * b, shared, gradient)
      path.append(trees.subtract(view, shared))
    chex.assert_trees_all_close(sent, path[-1], rtol=1e-3, atol=1e-4)
    chex.assert_trees_all_close(after.own, own.own, rtol=1e-3, atol=1e-4)
    self.assertGreater(_norm(trees.subtract(sent, path[-2])), 0.01)

  def test_a_step_at_the_server_is_a_step_at_the_client(self):
    model, plan = _model(), _plan()
    shapes = jax.eval_shape(model.init, _KEY)
    view, gradient = _scattered(shapes), _scattered(shapes, 0.1)
    after = []
    for mode, scale in (('fedsgd', 1.0), ('epochs', 0.2)):
      config = _config(local_mode=mode, learning_rate=0.2)
      server = fedhypevae.fedhypevae(config, model, 'none', plan).server
      message = jax.tree.map(lambda leaf, s=scale: s * leaf, gradient)

      @jax.jit
      def update(message, server=server):
        state = server.init(_KEY)._replace(variables=view)
        return server.update(state, message, _KEY)[0].variables

      after.append(update(message))
    chex.assert_trees_all_close(*after, rtol=1e-5)
    chex.assert_trees_all_close(
      after[0], jax.tree.map(lambda a, b: a - 0.2 * b, view, gradient),
      rtol=1e-4, atol=1e-6,
    )  # fmt: skip


class ModesTest(parameterized.TestCase):
  def test_clients_are_clipped_over_a_fixed_denominator(self):
    algorithm = fedhypevae.fedhypevae(
      _config(), _model(), 'client', _plan(), _client_plan(2, norm=0.5)
    )
    message = _scattered(jax.eval_shape(_model().init, _KEY), 10.0)
    both, first, neither = (
      _received(
        algorithm.server.aggregate, message,
        [_info(0, present=a), _info(1, present=b)],
      )
      for a, b in ((True, True), (True, False), (False, False))
    )  # fmt: skip
    # Whatever their sizes, and however many came.
    self.assertAlmostEqual(_norm(both), 0.5, places=5)
    self.assertAlmostEqual(_norm(first), 0.25, places=5)
    self.assertEqual(_norm(neither), 0)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, message)
    left = _received(algorithm.server.aggregate, broken, [_info(), _info(1)])
    self.assertEqual(_norm(left), 0)

  @parameterized.parameters('none', 'record_joint', 'paper')
  def test_a_plan_of_clients_is_for_one_mode(self, mode):
    with self.assertRaisesRegex(InputError, f"'client' alone, got '{mode}'"):
      fedhypevae.fedhypevae(_config(), _model(), mode, _plan(), _client_plan(2))

  def test_other_modes_and_plans_are_refused(self):
    with self.assertRaisesRegex(InputError, "'client' alone, got 'client'"):
      fedhypevae.fedhypevae(_config(), _model(), 'client', _plan())
    with self.assertRaisesRegex(InputError, 'with_server_codes'):
      fedhypevae.fedhypevae(_config(), _model(), 'record_server_code', _plan())
    with self.assertRaisesRegex(InputError, "privacy='record'"):
      fedhypevae.fedhypevae(_config(), _model(), 'record', _plan())

  def test_shares_of_noise_are_for_gradients_that_are_sent(self):
    plan = _plan()._replace(share=0.5)
    fedhypevae.fedhypevae(_config(), _model(), 'record_joint', plan)
    epochs = _config(local_mode='epochs')
    with self.assertRaisesRegex(InputError, "noise_placement='local'"):
      fedhypevae.fedhypevae(epochs, _model(), 'record_joint', plan)
    fedhypevae.fedhypevae(epochs, _model(), 'none', plan)

  @parameterized.parameters(
    ({'local_mode': 'rounds'}, 'local_mode'),
    ({'optimizer': 'lamb'}, 'optimizer'),
    ({'paper_noise': 'both'}, 'paper_noise'),
    ({'code_learning_rate': 0.0}, 'code_learning_rate'),
    ({'mmd_weight': -1.0}, 'mmd_weight'),
    ({'mmd_samples': 0}, 'mmd_samples'),
    ({'mmd_samples': 1}, 'mmd_samples >= 2'),
  )
  def test_fields_are_checked(self, fields, name):
    with self.assertRaisesRegex(InputError, name):
      Config(**fields)


class RegulariserTest(absltest.TestCase):
  def test_it_is_added_where_records_add_nothing(self):
    model = _model(**_FREE)
    hyper, kept = _start(_LARGE, model)
    message, after, _ = _update(
      _LARGE, model, 'record_joint', _nothing(_data()), 12, hyper, kept, _KEY
    )
    np.testing.assert_allclose(
      after.own['code'], kept.own['code'] * (1 - 2 * 0.1), rtol=1e-4
    )
    chex.assert_trees_all_equal(after.own['encoder'], kept.own['encoder'])
    penalty = jax.jit(
      jax.grad(lambda hyper: 0.5 * model.regulariser(hyper, kept.own, _KEY))
    )
    chex.assert_trees_all_close(message, penalty(hyper), rtol=1e-4, atol=1e-5)
    self.assertEqual(_norm(message['base']), 0)
    self.assertGreater(_norm(message['decoder_head']), 0.1)

  def test_without_a_code_there_is_none(self):
    model = _model(head='constant', prior='standard')
    config = _config(code_weight=0.3, lipschitz_weight=2.0)
    hyper, kept = _start(config, model)
    nothing = fedhypevae.regulariser(config, model)(
      Parts(shared=hyper, own=kept.own), _KEY
    )
    self.assertEqual(float(nothing), 0)


def _domains(num=60):
  """Two clients whose classes lie elsewhere, and their class means."""
  rng = np.random.default_rng(0)
  means = 1.5 * rng.normal(size=(2, _NUM_CLASSES, _NUM_FEATURES))
  labels = np.tile(np.arange(num) % _NUM_CLASSES, 2)
  domains = np.repeat([0, 1], num)
  inputs = means[domains, labels] + 0.4 * rng.normal(
    size=(2 * num, _NUM_FEATURES)
  )
  sizes = np.array([num, num], np.int32)
  dealt = Partition(
    np.arange(2 * num, dtype=np.int32), sizes, np.zeros(2, np.int32), 'toy'
  )
  return federated_dataset(inputs.astype(np.float32), labels, dealt), means


class TwoDomainsTest(absltest.TestCase):
  def error(self, config, model, mode):
    """Distance of generated from true class means, by client."""
    data, means = _domains()
    # Of records the sampling alone is used: nobody learns from these numbers.
    plan = _plan(rate=0.5, sizes=(60, 60), norm=1e-9, noise=1e12)
    client_plan = _client_plan(2, norm=1e6) if mode == 'client' else None
    algorithm = fedhypevae.fedhypevae(config, model, mode, plan, client_plan)
    run = rounds.round_runner(algorithm)
    state, _ = run(
      rounds.init_state(algorithm, [data], _KEY), [data], _KEY, 150
    )
    hyper, own = state.server.variables, state.fleets[0].own
    labels = np.arange(200) % _NUM_CLASSES
    errors = []
    for client in range(2):
      personal = model.personalise(
        hyper, own['code'][client] if 'code' in own else None
      )
      made = hypernetwork.generate(
        model, hyper, personal, jnp.asarray(labels), _KEY
      )
      errors += [
        np.linalg.norm(made[labels == c].mean(0) - means[client, c])
        for c in range(_NUM_CLASSES)
      ]
    return np.mean(errors)

  def test_personal_decoders_are_nearer_to_their_domains_than_a_shared_one(
    self,
  ):
    config = _config(
      optimizer='adam', learning_rate=1e-2, encoder_learning_rate=1e-2,
      code_learning_rate=2e-2,
    )  # fmt: skip
    fields = {'hidden_sizes': (8,), 'hyper_size': 8}
    personal = self.error(config, _model(**fields), 'client')
    shared = self.error(
      dataclasses.replace(config, mmd_weight=0.0),
      _model(head='constant', prior='standard', **fields),
      'none',
    )
    self.assertLess(personal, 0.5 * shared)


if __name__ == '__main__':
  absltest.main()
