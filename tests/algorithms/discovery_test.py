"""Digits and inverted digits: clients find their group without being told."""

import dataclasses
import functools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

from fedjax_gen.algorithms import discovery, fedvae
from fedjax_gen.data.federated import FederatedDataset, federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.errors import InputError
from fedjax_gen.federated import local, rounds
from fedjax_gen.federated.collect import collect, collect_bytes
from fedjax_gen.federated.mapping import Mapping
from fedjax_gen.federated.statistics import grouping
from fedjax_gen.models import vae as vaes
from fedjax_gen.models.elbo import elbo_loss
from fedjax_gen.models.vae import to_unit
from tests.algorithms import digits

_KEY = jax.random.key(1)
# Eight clients of unequal size in two groups; the newcomer; one without data.
_SIZES = np.array([160, 96, 128, 160, 71, 96, 160, 128, 96, 0], np.int32)
_TRUE = np.array([1, 0, 0, 1, 0, 1, 1, 0, 1, 0], np.int32)
_NEWCOMER, _EMPTY = 8, 9
_CONFIG = fedvae.Config(local_epochs=2, batch_size=16, learning_rate=1e-2)
_WORK = local.local_work(1, 16)


@functools.cache
def _clients() -> FederatedDataset:
  """All ten: group 0 holds digits, group 1 inverted ones."""
  source = datasets.load_digits()
  count = _SIZES.sum()
  images = np.round(source.images[:count, :, :, None] * 255 / 16)
  inverted = np.repeat(_TRUE, _SIZES).astype(bool)
  images[inverted] = 255 - images[inverted]
  return federated_dataset(
    images.astype(np.uint8),
    source.target[:count],
    Partition(np.arange(count), _SIZES, _TRUE, 'kinds'),
  )


@functools.cache
def _runner():
  return rounds.round_runner(fedvae.fedvae(_CONFIG, digits.small_vae()))


@functools.cache
def _warm(clients=tuple(range(8)), times=1):
  """The model after two rounds, so many times."""
  selected = _clients().select(np.array(clients))
  # Shapes alike whoever is selected: one program serves.
  data = [dataclasses.replace(selected, min_size=0, max_size=160)]
  algorithm = fedvae.fedvae(_CONFIG, digits.small_vae())
  state = rounds.init_state(algorithm, data, jax.random.key(0))
  for _ in range(times):
    state, _ = _runner()(state, data, _KEY, 2)
  return jax.device_get(state.server.variables)


@functools.cache
def _report(statistic):
  config = discovery.DiscoveryConfig(
    groups='discovered', discovery_statistic=statistic
  )
  return discovery.statistic_report(
    config, digits.small_vae(), optax.adam(1e-3), _WORK
  )


@functools.cache
def _statistics(statistic):
  return jax.device_get(collect(_report(statistic), _warm(), _clients(), _KEY))


@functools.cache
def _infer(vae):
  return jax.jit(lambda *arguments: vae.infer(*arguments, None)[0])


def _inferred(variables, row, vae=None):
  """Posterior of all of a client's examples, without the engine."""
  data = _clients()
  start, size = int(data.offsets[row]), int(_SIZES[row])
  inputs, labels = (a[start : start + size] for a in (data.inputs, data.labels))
  vae = vae or digits.small_vae()
  inferred = _infer(vae)(variables, to_unit(inputs), labels)
  return inferred, inputs, labels


class DiscoveryTest(parameterized.TestCase):
  @parameterized.parameters('posterior', 'update')
  def test_both_groups_and_the_newcomer_are_found(self, statistic):
    statistics = _statistics(statistic)
    there, newcomer = (
      jax.tree.map(lambda leaf, part=part: leaf[part], statistics)
      for part in (slice(_NEWCOMER), slice(_NEWCOMER, _NEWCOMER + 1))
    )
    for number in (2, None):
      found = grouping.discover(there.values, number, errors=there.errors)
      self.assertEqual(found.num_groups, 2)
      self.assertEqual(
        grouping.agreement(found.groups, _TRUE[:_NEWCOMER]), (1.0, 1.0)
      )
      np.testing.assert_array_equal(
        grouping.assign(found, newcomer.values), found.groups[:1]
      )

  @parameterized.parameters('posterior', 'update')
  def test_a_client_without_examples_reports_nothing(self, statistic):
    values = _statistics(statistic).values
    self.assertTrue(np.isnan(values[_EMPTY]).all())
    self.assertTrue(np.isfinite(values[:_EMPTY]).all())

  @parameterized.parameters('posterior', 'update')
  def test_the_true_group_is_not_read(self, statistic):
    data = _clients()
    blind = dataclasses.replace(data, groups=jnp.zeros_like(data.groups))
    found = collect(_report(statistic), _warm(), blind, _KEY)
    chex.assert_trees_all_equal(found, _statistics(statistic))

  def test_blocks_agree_with_one_after_the_other(self):
    at_once = collect(
      _report('posterior'), _warm(), _clients(), _KEY, mapping=Mapping('all')
    )
    chex.assert_trees_all_close(
      jax.device_get(at_once), _statistics('posterior'), rtol=1e-3, atol=1e-3
    )


class PosteriorStatisticsTest(parameterized.TestCase):
  def test_equals_the_moments_of_all_examples(self):
    vae, variables = digits.small_vae(), _warm()
    report = discovery.posterior_statistics(
      vae, batch_size=32, reconstruction=True
    )
    rows = np.array([4])  # three batches, the last one not full
    found = collect(report, variables, _clients(), _KEY, rows=rows)
    for row, values, errors in zip(rows, *found, strict=True):
      inferred, inputs, labels = _inferred(variables, row)
      mean, logvar = inferred.posterior['z']
      outputs, _ = jax.jit(vae.decode)(variables, {'z': mean}, labels)
      log_prob = vae.likelihood.log_prob(outputs, to_unit(inputs))
      columns = np.concatenate([mean, logvar, -log_prob[:, None]], axis=1)
      spread, root = columns.std(axis=0), _SIZES[row] ** 0.5
      expected = np.insert(columns.mean(axis=0), [2, 2], np.log(spread[:2]))
      np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4)
      expected = np.insert(spread / root, [2, 2], 0.5**0.5 / root)
      np.testing.assert_allclose(errors, expected, rtol=1e-3)

  def test_large_clients_use_some_of_their_examples(self):
    vae, variables = digits.small_vae(), _warm()
    report = discovery.posterior_statistics(vae, batch_size=4, max_examples=1)
    [first], [second] = (
      np.asarray(
        collect(report, variables, _clients(), key, rows=np.array([0])).values
      )
      for key in (jax.random.key(2), jax.random.key(3))
    )
    inferred, _, _ = _inferred(variables, 0)
    means = np.asarray(inferred.posterior['z'].mean)
    # One example each, another one with another key, and any of them.
    picked = [
      int(np.abs(means - found[:2]).sum(axis=1).argmin())
      for found in (first, second)
    ]
    np.testing.assert_allclose(
      means[picked], [first[:2], second[:2]], rtol=1e-4
    )
    self.assertNotEqual(*picked)
    np.testing.assert_allclose(first[2:4], np.log(1e-3), rtol=1e-4)

  def test_two_levels_stand_side_by_side(self):
    config = vaes.VaeConfig(
      model='mlp', norm='none', hidden_size=4, latent_size=2, z2_size=3,
      hierarchy='z1_top',
    )  # fmt: skip
    vae = vaes.build_vae(config, vaes.DataSpec((8, 8, 1), 10))
    variables = jax.jit(vae.init)(jax.random.key(0))
    report = discovery.posterior_statistics(vae)
    rows = np.array([4])
    [found] = collect(report, variables, _clients(), _KEY, rows=rows).values
    inferred, _, _ = _inferred(variables, 4, vae)
    means, logvars = (
      np.concatenate(
        [getattr(q, name).mean(0) for q in inferred.posterior.values()]
      )
      for name in ('mean', 'logvar')
    )
    self.assertEqual(found.shape, (15,))
    np.testing.assert_allclose(found[:5], means, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[10:], logvars, rtol=1e-4, atol=1e-5)

  def test_a_report_is_twice_three_floats_a_latent(self):
    report = discovery.posterior_statistics(digits.small_vae())
    self.assertEqual(collect_bytes(report, _warm(), _clients()), 48)


class UpdateDirectionTest(parameterized.TestCase):
  def _updates(self, rows, **options):
    report = discovery.update_direction(
      digits.small_vae(), optax.sgd(1e-4), local.local_work(1, 256), **options
    )
    found = collect(report, _warm(), _clients(), _KEY, rows=np.array(rows))
    return np.asarray(found.values)

  def _changes(self, module):
    """What one full-batch step of plain descent changes, for each client."""
    variables = _warm()
    gradient_fn = jax.jit(jax.grad(elbo_loss(digits.small_vae()), has_aux=True))

    def change(row):
      data = _clients().client(jnp.int32(row))
      # The order and the noise of the engine's first step.
      key = jax.random.fold_in(jax.random.fold_in(_KEY, row), 0)
      order_key, noise_key = jax.random.split(key)
      batch = data.batch(data.shuffled(order_key), 0, 256)
      gradient, _ = gradient_fn(
        variables, batch, jax.random.fold_in(noise_key, 0)
      )
      leaves = jax.tree.leaves(gradient[module])
      return -np.concatenate([np.ravel(leaf) for leaf in leaves])

    return [change(row) for row in (0, 1, 3)]

  def test_inner_products_are_cosines_of_updates(self):
    changes = np.stack(self._changes('decoder'))
    changes /= np.linalg.norm(changes, axis=1, keepdims=True)
    cosines = changes @ changes.T
    # So many features that hardly two parameters share one.
    found = self._updates([0, 1, 3], module='decoder', num_features=100_000)
    np.testing.assert_allclose(found @ found.T, cosines, atol=0.03)
    # Other kinds of images pull elsewhere.
    self.assertLess(cosines[0, 1], cosines[0, 2] - 0.1)

  def test_the_sketch_keeps_inner_products_on_average(self):
    left, right = np.random.default_rng(0).normal(size=(2, 500)) / 500**0.5
    right = (left + right) / 2
    sketches = [
      [discovery._sketch(jnp.asarray(v), 64, seed) for v in (left, right)]
      for seed in range(100)
    ]
    products = np.array([np.dot(a, b) for a, b in sketches])
    # The standard error of the mean of 100 is about 1 / sqrt(64 x 100).
    self.assertAlmostEqual(products.mean(), left @ right, delta=0.05)
    self.assertBetween(products.std(), 0.03, 0.25)

  def test_a_report_is_four_bytes_a_feature(self):
    report = discovery.update_direction(
      digits.small_vae(), optax.sgd(1e-3), _WORK
    )
    self.assertEqual(collect_bytes(report, _warm(), _clients()), 1024)

  def test_an_unknown_module_is_refused(self):
    with self.assertRaisesRegex(InputError, "one of .*encoder.*module='head'"):
      self._updates([0], module='head')

  @parameterized.parameters(
    ({'num_features': 0}, 'num_features=0'),
    ({'seed': -1}, 'seed=-1'),
    ({'beta': -1.0}, 'beta=-1.0'),
  )
  def test_bad_arguments_are_refused(self, arguments, message):
    with self.assertRaisesRegex(InputError, message):
      self._updates([0], **arguments)


class BoundsTest(parameterized.TestCase):
  def test_a_newcomer_chooses_the_model_that_fits(self):
    own = [
      _warm(clients=(*members, *members), times=3)
      for members in (np.flatnonzero(_TRUE[:8] == g) for g in range(2))
    ]
    report = discovery.best_bound_group([digits.small_vae()] * 2)
    chosen = collect(report, own, _clients(), _KEY)
    # The empty client holds nothing that fits; it gets group 0, its own here.
    np.testing.assert_array_equal(chosen, _TRUE)
    self.assertEqual(collect_bytes(report, own, _clients()), 4)

  def test_bounds_are_means_over_examples(self):
    vae, variables = digits.small_vae(), _warm()
    other = jax.jit(vae.init)(jax.random.key(5))
    report = discovery.group_bounds([vae, vae, vae], batch_size=32)
    rows = np.array([4, _EMPTY])
    [found, empty] = collect(
      report, [variables, other, variables], _clients(), _KEY, rows=rows
    )
    self.assertTrue(np.isnan(empty).all())
    # The same noise for all groups.
    self.assertEqual(found[0], found[2])
    _, inputs, labels = _inferred(variables, 4)
    data = to_unit(inputs)

    def bound(variables, key):
      inferred, _ = vae.infer(variables, data, labels, key)
      outputs, _ = vae.decode(variables, inferred.latents, labels)
      log_prob = vae.likelihood.log_prob(outputs, data)
      return (log_prob - inferred.kl['z']).mean()

    keys = jax.random.split(jax.random.key(6), 50)
    bounds = jax.jit(jax.vmap(bound, (None, 0)))
    for index, model in enumerate((variables, other)):
      draws = bounds(model, keys)
      np.testing.assert_allclose(
        found[index], draws.mean(), atol=6 * draws.std() + 1e-3
      )

  def test_models_and_variables_must_match(self):
    vae = digits.small_vae()
    with self.assertRaisesRegex(InputError, 'each of 2 groups, got 1'):
      collect(discovery.group_bounds([vae, vae]), [_warm()], _clients(), _KEY)
    with self.assertRaisesRegex(InputError, 'num_groups=0'):
      discovery.group_bounds([])


class DiscoveryConfigTest(parameterized.TestCase):
  @parameterized.parameters(
    ({'groups': 'guessed'}, "groups='guessed'"),
    ({'discovery_statistic': 'labels'}, "discovery_statistic='labels'"),
    ({'groups': 'discovered', 'num_groups': -1}, 'num_groups=-1'),
    ({'num_groups': 2}, "groups='given' and num_groups=2"),
    ({'warmup_rounds': 0}, 'warmup_rounds=0'),
  )
  def test_bad_fields_are_refused(self, fields, message):
    with self.assertRaisesRegex(InputError, message):
      discovery.DiscoveryConfig(**fields)

  def test_every_field_has_help(self):
    for field in dataclasses.fields(discovery.DiscoveryConfig):
      self.assertIn('help', field.metadata)


if __name__ == '__main__':
  absltest.main()
