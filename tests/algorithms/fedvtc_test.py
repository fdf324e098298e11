"""FedVTC: its limits, its statistics, and that it teaches unseen classes."""

import dataclasses
import functools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees
from fedjax_gen.algorithms import fedvtc
from fedjax_gen.errors import InputError
from fedjax_gen.federated.algorithm import ClientKeys
from fedjax_gen.federated.execution import cohorts
from fedjax_gen.federated.statistics import class_traffic
from fedjax_gen.federated.statistics.class_gaussians import Rules
from fedjax_gen.models.vtc import VtcConfig, build_vtc
from fedjax_gen.models.vtc_losses import GeneratorLosses
from fedjax_gen.privacy import plan as plans
from tests.algorithms import table5, zoo

_VTC = zoo.VTC
_LIGHT = fedvtc.Config(synthetic_per_class=2, vtc_epochs=1.0)
_RULES, _LOSSES = Rules(), GeneratorLosses()
_NOTHING = GeneratorLosses(
  reconstruction_weight=0.0, kl_weight=0.0, dm_weight=0.0
)


@functools.cache
def _method(
  config=_LIGHT, rules=_RULES, losses=_LOSSES, plan=None, training=zoo.TRAINING
):
  return fedvtc.fedvtc(
    config, training, zoo.models(), zoo.NUM_CLIENTS, _VTC,
    rules=rules, losses=losses, plan=plan,
  )  # fmt: skip


def _config(**changes):
  return dataclasses.replace(_LIGHT, **changes)


def _features(state):
  """Features of all clients by their own extractors, and the labels."""
  features, labels = [], []
  for model, data, fleet in zip(
    zoo.models(), zoo.fleets(), state.fleets, strict=True
  ):
    for row in range(data.num_clients):
      client = data.client(jnp.asarray(row))
      rows = client.order[client.offset : client.offset + client.size]
      own = trees.take(fleet.own.variables['classifier'], row)
      features.append(model.features(own, client.inputs[rows]))
      labels.append(client.labels[rows])
  return np.concatenate(features), np.concatenate(labels)


class LimitsTest(parameterized.TestCase):
  def test_with_all_weights_zero_it_is_local_training_bit_for_bit(self):
    method = _method(
      _config(synthetic_per_class=0, prototype_weight=0.0), losses=_NOTHING
    )
    state, _ = zoo.trained(method, 2)
    for fleet, alone in zip(state.fleets, zoo.alone(), strict=True):
      chex.assert_trees_all_equal(fleet.own.variables['classifier'], alone)
    # Nor is anything added when it predicts.
    for deployed, alone in zip(
      zoo.deployed(method, 2), zoo.alone(), strict=True
    ):
      chex.assert_trees_all_equal(deployed, alone)

  def test_any_one_of_its_parts_departs_from_local_training(self):
    method = _method(_config(prototype_weight=0.0), losses=_NOTHING)
    state, _ = zoo.trained(method, 2)
    own = state.fleets[0].own.variables['classifier']
    gap = trees.subtract(own, zoo.alone()[0])
    self.assertGreater(max(abs(leaf).max() for leaf in jax.tree.leaves(gap)), 0)

  def test_generators_are_averaged_or_stay(self):
    state, _ = zoo.trained(_method(_config(vtc_scope='federated')), 1)
    self.assertEqual([fleet.generator for fleet in state.fleets], [(), ()])
    start = _VTC.init(jax.random.key(0))
    chex.assert_trees_all_equal_shapes(state.server.generator.variables, start)
    state, _ = zoo.trained(_method(_config(vtc_scope='local')), 1)
    self.assertEqual(state.server.generator, ())
    kernels = jax.tree.leaves(state.fleets[0].generator)[0]
    self.assertTrue((kernels[0] != kernels[1]).any())


class StatisticsTest(parameterized.TestCase):
  def test_the_server_has_the_exact_moments_of_all_features(self):
    state, _ = zoo.trained(_method(), 1)
    features, labels = _features(state)
    found = state.server.gaussians
    residuals = np.zeros_like(features)
    for label in range(10):
      held = labels == label
      self.assertEqual(found.known[label], held.any())
      if held.any():
        mean = features[held].mean(axis=0)
        np.testing.assert_allclose(found.means[label], mean, atol=1e-5)
        residuals[held] = features[held] - mean
    np.testing.assert_allclose(
      found.stddev[0],
      np.sqrt(np.maximum((residuals**2).mean(axis=0), 1e-4)),
      atol=1e-4,
    )

  @parameterized.parameters('mean', 'sample', 'cycle')
  def test_every_matching_and_every_option_stays_finite(self, dm_mode):
    method = _method(
      _config(
        vtc_scope='federated',
        vtc_average='count',
        finetune='post',
        finetune_epochs=1.0,
        finetune_scope={'mean': 'head', 'sample': 'extractor'}.get(
          dm_mode, 'full'
        ),
      ),
      rules=Rules('uniform', 'gauss_sum', 'class'),
      losses=GeneratorLosses(
        vtc_latent='prototype',
        local_stddev='estimated',
        dm_mode=dm_mode,
        dm_cross_entropy=0.1,
        tv_weight=0.1,
      ),
    )
    state, metrics = zoo.trained(method, 2)
    chex.assert_tree_all_finite((state.server.gaussians, metrics.clients))

  def test_fine_tuning_trains_what_its_scope_says(self):
    for scope, still in (('head', 'extractor'), ('extractor', 'head')):
      method = _method(
        _config(finetune='post', finetune_epochs=1.0, finetune_scope=scope)
      )
      state, _ = zoo.trained(method, 1)
      own = state.fleets[0].own.variables['classifier']
      tuned = zoo.deployed(method, 1)[0]
      chex.assert_trees_all_equal(tuned[still], own[still])
      gap = jax.tree.map(lambda a, b: abs(a - b).max(), tuned, own)
      self.assertGreater(max(jax.tree.leaves(gap[scope])), 0)


class RematerialisationTest(absltest.TestCase):
  _LEAN = dataclasses.replace(zoo.TRAINING, rematerialise=True)

  @staticmethod
  def _num_checkpoints(method):
    """In the program of a client's round."""
    program, data = method.algorithm.fleets[0], zoo.fleets()[0]
    info = trees.take(cohorts.everyones_infos(data), 0)

    def first_round(key):
      view = program.view(method.algorithm.server.init(key), info)
      client, mine = program.init(key, info), data.client(jnp.asarray(0))
      return program.update(view, client, mine, ClientKeys(key, key))

    # The operation's own name is another in each JAX.
    text = str(jax.make_jaxpr(first_round)(zoo.KEY))
    return text.count('differentiated=True')

  def test_every_phase_is_computed_again_where_that_is_asked_for(self):
    alone = _config(synthetic_per_class=0)
    classifier, tuned, all_three = (
      self._num_checkpoints(_method(config, losses=losses, training=self._LEAN))
      for config, losses in (
        (alone, _NOTHING), (_LIGHT, _NOTHING), (_LIGHT, _LOSSES)
      )
    )  # fmt: skip
    self.assertEqual(self._num_checkpoints(_method()), 0)
    self.assertLess(0, classifier)
    self.assertLess(classifier, tuned)
    self.assertLess(tuned, all_three)

  def test_it_trains_the_same(self):
    lean, _ = zoo.trained(_method(training=self._LEAN), 1)
    plain, _ = zoo.trained(_method(), 1)
    chex.assert_trees_all_close(lean, plain, rtol=1e-3, atol=1e-4)


class CommunicationTest(absltest.TestCase):
  def test_floats_are_those_of_the_formulas(self):
    # 20 clients, C = 100, p = 512: up (C_k + 1) p, down (C + 1) p.
    vtc = build_vtc(VtcConfig(), 512, table5.SPEC)
    size = sum(
      leaf.size for leaf in jax.tree.leaves(
        jax.eval_shape(vtc.init, jax.random.key(0))
      )
    )  # fmt: skip
    # 2.76 million: Dense(512, 256 * 4 * 4), then 256-128-64-3.
    self.assertEqual(size, 2_760_576)
    for scope, more in (('local', 0), ('federated', size)):
      view, message = table5.exchanged(
        lambda training, models, scope=scope: fedvtc.fedvtc(
          fedvtc.Config(vtc_scope=scope), training, models, [20], vtc
        )
      )
      down = class_traffic.sent_floats(view, 0)
      self.assertEqual(down, 101 * 512 + more)
      # Counts of the classes held, and the weight of sigma, beside.
      up = class_traffic.sent_floats(message, 44)
      self.assertEqual(up, 45 * 512 + 44 + 1 + more)

  def test_sigma_of_each_class_doubles_the_statistics(self):
    view, message = table5.exchanged(
      lambda training, models: fedvtc.fedvtc(
        fedvtc.Config(vtc_scope='local'), training, models,
        [20], build_vtc(VtcConfig(), 512, table5.SPEC),
        rules=Rules(sigma_shape='class'),
      )
    )  # fmt: skip
    self.assertEqual(class_traffic.sent_floats(view, 0), 200 * 512)
    self.assertEqual(class_traffic.sent_floats(message, 44), 44 * (2 * 512 + 2))


class PrivacyTest(absltest.TestCase):
  def _plan(self, noise_multiplier):
    plan = plans.client_plan(
      plans.PrivacyConfig('client', epsilon=np.inf, clip_norm=1.0),
      6,
      rounds=2,
    )
    return plan._replace(noise_multiplier=noise_multiplier)

  def test_a_client_moves_the_sum_by_one_at_most_whatever_it_holds(self):
    method = _method(plan=self._plan(0.0))
    [message, *_] = self._messages(method)
    norms = jnp.sqrt(
      sum(
        jnp.sum(leaf**2, axis=tuple(range(1, leaf.ndim)))
        for leaf in jax.tree.leaves(message['statistics'])
      )
    )
    self.assertLessEqual(float(norms.max()), 1 + 1e-5)
    # Without the plan the message is not bounded so.
    [raw, *_] = self._messages(_method())
    totals = raw['statistics'].means.rows.totals
    self.assertGreater(float(jnp.sqrt((totals**2).sum(axis=(1, 2))).max()), 1)

  def test_without_noise_the_server_learns_the_mean_features(self):
    state, _ = zoo.trained(_method(plan=self._plan(0.0)), 1)
    found = state.server.gaussians
    self.assertTrue(found.known.any())
    features, labels = _features(state)
    # Clients count alike here, and none of these features is long.
    self.assertLess(np.sqrt((features**2).sum(axis=1)).max(), 2.0)
    sizes = zoo.SIZES.ravel()  # fleet after fleet, as _features goes
    weights = np.repeat(1 / sizes, sizes)
    for label in np.unique(labels):
      held = labels == label
      np.testing.assert_allclose(
        found.means[label],
        np.average(features[held], axis=0, weights=weights[held]),
        atol=1e-4,
      )

  def test_noise_reaches_what_the_server_learns(self):
    quiet, _ = zoo.trained(_method(plan=self._plan(0.0)), 1)
    noisy, _ = zoo.trained(_method(plan=self._plan(0.05)), 1)
    gap = quiet.server.gaussians.means - noisy.server.gaussians.means
    self.assertGreater(abs(gap).max(), 1e-3)

  def test_records_are_not_promised_anything(self):
    plan = plans.record_plan(
      plans.PrivacyConfig('record', np.inf),
      np.array([6, 6]), batch_size=2, epochs=1.0, rounds=1,
    )  # fmt: skip
    with self.assertRaisesRegex(InputError, "privacy='client'"):
      _method(plan=plan)

  def _messages(self, method):
    messages = []
    state, _ = zoo.trained(method, 1)
    state = jax.tree.map(jnp.asarray, state)
    for program, fleet, data in zip(
      method.algorithm.fleets, state.fleets, zoo.fleets(), strict=True
    ):
      infos = cohorts.everyones_infos(data)

      def one(info, client, program=program, data=data):
        view = program.view(state.server, info)
        key = jax.random.key(3)
        return program.update(
          view, client, data.client(info.row), ClientKeys(key, key)
        )[0]

      messages.append(jax.jit(jax.vmap(one))(infos, fleet))
    return messages


class ConfigTest(parameterized.TestCase):
  @parameterized.parameters(
    (fedvtc.Config, 'vtc_scope', 'everywhere'),
    (fedvtc.Config, 'vtc_epochs', 0.0),
    (fedvtc.Config, 'synthetic_per_class', -1),
    (fedvtc.Config, 'prototype_weight', -0.1),
    (Rules, 'sigma_rule', 'median'),
    (GeneratorLosses, 'dm_mode', 'max'),
    (GeneratorLosses, 'kl_weight', float('nan')),
  )
  def test_a_wrong_value_is_named(self, kind, name, value):
    with self.assertRaisesRegex(InputError, name):
      kind(**{name: value})

  def test_all_clients_need_features_of_one_size(self):
    from fedjax_gen.models.classification.classifiers import (
      ClassifierConfig,
      build_classifiers,
    )

    [wide] = build_classifiers(ClassifierConfig(('mlp',), 8, 0.01), zoo.SPEC)
    with self.assertRaisesRegex(InputError, 'feature_size'):
      fedvtc.fedvtc(_LIGHT, zoo.TRAINING, [zoo.models()[0], wide], [1, 1], _VTC)


if __name__ == '__main__':
  absltest.main()
