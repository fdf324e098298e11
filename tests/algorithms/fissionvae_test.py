"""FissionVAE: in its limits it is FedVAE; apart, its modules go their ways."""

import dataclasses
import functools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees
from fedjax_gen.algorithms import fedvae, fissionvae
from fedjax_gen.algorithms.fissionvae import Sharing
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.errors import InputError
from fedjax_gen.federated import rounds, sampling
from fedjax_gen.federated.algorithm import ClientInfo
from fedjax_gen.models import priors, vae as vaes
from fedjax_gen.models.vae import DataSpec, VaeConfig
from tests.algorithms import digits
from tests.models.counting import num_parameters

_CONFIG = fissionvae.Config(
  local_epochs=2, batch_size=4, learning_rate=1e-2, prior_distance=6.0
)
_AT_ZERO = dataclasses.replace(_CONFIG, prior_scale=0.0, prior_distance=0.0)
_LEARNED = dataclasses.replace(
  _CONFIG, prior_learnable=True, server_optimizer='fedadam',
  server_learning_rate=0.01,
)  # fmt: skip
_KEY = jax.random.key(1)
_HALVES = (0, 0, 1, 1)


@functools.cache
def _vae(**fields):
  config = VaeConfig(
    model='mlp', norm='none', channels=(4,), hidden_size=8, latent_size=2
  )
  return vaes.build_vae(
    dataclasses.replace(config, **fields), DataSpec((8, 8, 1), 10)
  )


def _data(groups=_HALVES) -> FederatedDataset:
  data = digits.clients(len(groups))
  return dataclasses.replace(data, groups=jnp.array(groups, jnp.int32))


@functools.cache
def _only(*rows):
  """Samples everyone, of whom all but the given rows fail."""

  def sampler(key, data):
    cohort = sampling.everyone()(key, data)
    return cohort._replace(present=jnp.isin(cohort.row, jnp.array(rows)))

  return sampler


def _run(algorithm, data, num_rounds=2, samplers=None):
  data = list(data)
  state = rounds.init_state(algorithm, data, jax.random.key(0))
  run = rounds.round_runner(algorithm, samplers=samplers)
  return jax.device_get(run(state, data, _KEY, num_rounds))


@functools.cache
def _fedvae(rows=None, num_rounds=2):
  """Variables of FedVAE, the clients of the given rows taking part."""
  config = fedvae.Config(local_epochs=2, batch_size=4, learning_rate=1e-2)
  samplers = None if rows is None else [_only(*rows)]
  algorithm = fedvae.fedvae(config, _vae())
  state, metrics = _run(algorithm, [_data()], num_rounds, samplers)
  return state.server.variables, metrics


@functools.cache
def _fission(
  sharing, config=_CONFIG, groups=_HALVES, rows=None, num_rounds=2, vae=None
):
  """The algorithm trained, and the variables of every group."""
  num_groups = max(groups) + 1
  fission = fissionvae.fissionvae(config, [vae or _vae()] * num_groups, sharing)
  samplers = None if rows is None else [_only(*rows)]
  state, metrics = _run(
    fission.algorithm, [_data(groups)], num_rounds, samplers
  )
  return _models(fission, state), state, metrics


def _models(fission, state):
  """The variables of every group, on the host."""
  return jax.device_get(
    jax.jit(
      lambda server: [
        fission.variables(server, group) for group in range(len(fission.models))
      ]
    )(state.server)
  )


@functools.cache
def _start(sharing, config=_CONFIG):
  """The variables of both groups, and the state, before the first round."""
  fission = fissionvae.fissionvae(config, [_vae()] * 2, sharing)
  state = rounds.init_state(fission.algorithm, [_data()], jax.random.key(0))
  return _models(fission, state), jax.device_get(state)


def _without_prior(variables):
  return {k: v for k, v in variables.items() if k != 'prior'}


def _assert_all_leaves_differ(left, right):
  for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
    assert not np.array_equal(a, b)


class LimitsTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('nothing_for_groups', Sharing(), _CONFIG, _HALVES),
    ('L_at_zero', Sharing(priors=True), _AT_ZERO, _HALVES),
    ('D_of_one_group', Sharing(decoders=True), _CONFIG, (0, 0, 0, 0)),
    ('all_of_one_group', Sharing(True, True, True), _AT_ZERO, (0, 0, 0, 0)),
  )
  def test_it_is_fedvae_bit_for_bit(self, sharing, config, groups):
    expected, _ = _fedvae()
    models, _, _ = _fission(sharing, config, groups)
    for variables in models:
      chex.assert_trees_all_equal(_without_prior(variables), expected)

  @parameterized.parameters('fedavgm', 'fedadam', 'fedyogi')
  def test_it_is_fedvae_where_rounds_are_empty_and_the_server_remembers(
    self, server_optimizer
  ):
    settings = {
      'local_epochs': 2,
      'batch_size': 4,
      'server_optimizer': server_optimizer,
      'server_learning_rate': 0.01,
    }

    def sampler(key, data):
      # About every other round is empty, by its key.
      cohort = sampling.everyone()(key, data)
      return cohort._replace(present=cohort.present & (draw(key) > 0))

    draw = functools.partial(jax.random.randint, shape=(), minval=0, maxval=2)
    plain = fedvae.fedvae(fedvae.Config(**settings), _vae())
    expected, _ = _run(plain, [_data()], 8, [sampler])
    fission = fissionvae.fissionvae(
      fissionvae.Config(**settings), [_vae()], Sharing(decoders=True)
    )
    state, metrics = _run(fission.algorithm, [_data((0,) * 4)], 8, [sampler])
    moved = metrics.server['update_norm'] > 0
    self.assertIn(False, moved[moved.argmax() :])  # or the test says nothing
    self.assertIn(True, moved)
    # Momenta that go on in empty rounds would part them by far more.
    chex.assert_trees_all_close(
      _models(fission, state)[0],
      expected.server.variables,
      rtol=1e-4,
      atol=1e-6,
    )

  def test_priors_elsewhere_than_at_zero_are_not_fedvae(self):
    expected, _ = _fedvae()
    models, _, _ = _fission(Sharing(priors=True))
    chex.assert_trees_all_equal(*map(_without_prior, models))
    with self.assertRaises(AssertionError):
      chex.assert_trees_all_close(
        models[0]['encoder'], expected['encoder'], atol=1e-3
      )

  def test_encoders_and_decoders_of_groups_are_a_fedvae_of_each(self):
    models, _, _ = _fission(Sharing(decoders=True, encoders=True))
    for variables, rows in zip(models, [(0, 1), (2, 3)], strict=True):
      expected, _ = _fedvae(rows)
      chex.assert_trees_all_close(variables, expected, rtol=1e-5, atol=1e-6)

  def test_the_mean_of_identical_clients_is_the_client(self):
    fission = fissionvae.fissionvae(
      _LEARNED, [_vae()] * 2, Sharing(priors=True, decoders=True)
    )
    program = fission.algorithm.server
    start, before = _start(Sharing(priors=True, decoders=True), _LEARNED)
    rng = np.random.default_rng(0)
    message = jax.tree.map(
      lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), start[0]
    )
    weights = jnp.array([1.0, 2.0, 3.0, 4.0])
    info = ClientInfo(
      row=jnp.arange(4),
      group=jnp.array([1, 0, 1, 0]),
      num_examples=weights.astype(jnp.int32),
      weight=weights,
      present=jnp.ones(4, bool),
    )
    same = jax.tree.map(lambda leaf: np.stack([leaf] * 4), message)

    @jax.jit
    def aggregated(messages, info):
      aggregate = program.aggregate
      return aggregate.finish(aggregate.partial(messages, info))

    mean = jax.device_get(aggregated(same, info))
    self.assertEqual(set(mean), {'encoder', 'decoder', 'prior'})
    self.assertEqual(set(before.server.modules), set(mean))
    self.assertEqual(mean['encoder'].weight, 10.0)
    chex.assert_trees_all_close(
      mean['encoder'].mean, message['encoder'], rtol=1e-5
    )
    for name in ('decoder', 'prior'):
      means, total = mean[name]
      np.testing.assert_allclose(total, [6.0, 4.0])
      for group in range(2):
        chex.assert_trees_all_close(
          trees.take(means, group), message[name], rtol=1e-5
        )


class SharingTest(parameterized.TestCase):
  def test_decoders_start_alike_and_are_parted_by_their_data(self):
    start, _ = _start(Sharing(decoders=True))
    chex.assert_trees_all_equal(*start)
    chex.assert_trees_all_equal(start[0], _start(Sharing())[0][0])
    first, second = _fission(Sharing(decoders=True))[0]
    chex.assert_trees_all_equal(first['encoder'], second['encoder'])
    _assert_all_leaves_differ(first['decoder'], second['decoder'])

  def test_the_encoder_is_the_mean_over_all_groups(self):
    groups = (0, 0, 0, 1)
    both, one, other = (
      _fission(Sharing(decoders=True), groups=groups, rows=rows, num_rounds=1)
      for rows in ((0, 1, 2, 3), (0, 1, 2), (3,))
    )
    expected = jax.tree.map(
      lambda a, b: (3 * a + b) / 4, one[0][0]['encoder'], other[0][1]['encoder']
    )
    chex.assert_trees_all_close(
      both[0][0]['encoder'], expected, rtol=1e-5, atol=1e-6
    )
    # The decoders are what each group makes alone.
    chex.assert_trees_all_close(
      [variables['decoder'] for variables in both[0]],
      [one[0][0]['decoder'], other[0][1]['decoder']],
      rtol=1e-5,
      atol=1e-6,
    )

  def test_a_group_that_is_absent_keeps_its_branch_and_its_prior(self):
    sharing = Sharing(priors=True, decoders=True)
    start, before = _start(sharing, _LEARNED)
    models, state, metrics = _fission(
      sharing, _LEARNED, rows=(0, 1), num_rounds=1
    )
    for name in ('decoder', 'prior'):
      chex.assert_trees_all_equal(start[1][name], models[1][name])
      # Momenta of the server included.
      chex.assert_trees_all_equal(
        trees.take(before.server.modules[name], 1),
        trees.take(state.server.modules[name], 1),
      )
      _assert_all_leaves_differ(start[0][name], models[0][name])
    _assert_all_leaves_differ(start[0]['encoder'], models[0]['encoder'])
    self.assertEqual((metrics.clients[0]['loss'] > 0).sum(), 2)

  def test_learned_priors_move_apart_from_where_the_strategy_puts_them(self):
    sharing = Sharing(priors=True)
    start, _ = _start(sharing, _LEARNED)
    means = fissionvae.prior_means(_LEARNED, _vae(), 2)
    for group, variables in enumerate(start):
      expected = {'mean': means['z'][group], 'logvar': jnp.zeros(2)}
      chex.assert_trees_all_equal(
        variables['prior'], {'params': {'z': expected}}
      )
    models, _, _ = _fission(sharing, _LEARNED)
    for before, after in zip(start, models, strict=True):
      _assert_all_leaves_differ(before['prior'], after['prior'])
    _assert_all_leaves_differ(models[0]['prior'], models[1]['prior'])
    chex.assert_trees_all_equal(models[0]['decoder'], models[1]['decoder'])

  def test_fixed_priors_are_where_the_strategy_puts_them_and_stay(self):
    models, _, _ = _fission(Sharing(priors=True))
    means = fissionvae.prior_means(_CONFIG, _vae(), 2)['z']
    for group, variables in enumerate(models):
      chex.assert_trees_all_equal(
        variables['prior'], vaes.fixed_prior({'z': means[group]})
      )
    np.testing.assert_allclose(
      priors.pairwise_distances(means)[0, 1], 6.0, rtol=1e-5
    )

  @parameterized.parameters(True, False)
  def test_the_transition_goes_with_the_decoder(self, decoders):
    config = dataclasses.replace(_LEARNED, prior_strategy='symmetrical')
    first, second = _fission(
      Sharing(priors=True, decoders=decoders),
      config,
      vae=_vae(hierarchy='z1_top'),
    )[0]
    for name in ('decoder', 'transition'):
      if decoders:
        _assert_all_leaves_differ(first[name], second[name])
      else:
        chex.assert_trees_all_equal(first[name], second[name])
    self.assertEqual(set(first['prior']['params']), {'z1'})


class ResidualPosteriorTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('no_priors', Sharing(decoders=True), _CONFIG),
    ('priors_at_zero', Sharing(priors=True), _AT_ZERO),
  )
  def test_it_is_the_plain_one_where_there_is_nothing_to_be_told(
    self, sharing, config
  ):
    told, _, _ = _fission(sharing, config, vae=_vae(posterior='residual'))
    plain, _, _ = _fission(sharing, config)
    chex.assert_trees_all_equal(told, plain)

  @parameterized.parameters(_CONFIG, _LEARNED)
  def test_it_sends_nothing_more_and_costs_less_at_the_start(self, config):
    sharing = Sharing(priors=True)
    traffic, kl = [], []
    for vae in (_vae(), _vae(posterior='residual')):
      fission = fissionvae.fissionvae(config, [vae] * 2, sharing)
      data = [_data()]
      traffic.append(rounds.traffic(fission.algorithm, data))
      _, _, metrics = _fission(sharing, config, num_rounds=1, vae=vae)
      kl.append(metrics.clients[0]['kl'].mean())
    self.assertEqual(*traffic)
    # Priors are 6 apart: a plain posterior has to travel there.
    self.assertLess(kl[1], kl[0] / 2)

  def test_groups_of_different_architectures_are_told_as_well(self):
    models = [
      _vae(posterior='residual'), _vae(posterior='residual', decoder='conv')
    ]  # fmt: skip
    fission = fissionvae.fissionvae(
      _CONFIG, models, Sharing(priors=True, decoders=True)
    )
    data = fissionvae.fleet_datasets(fission, _data())
    state, metrics = _run(fission.algorithm, data, 1)
    means = fissionvae.prior_means(_CONFIG, models[0], 2)['z']
    inputs, labels = jnp.zeros((1, 8, 8, 1)), jnp.zeros(1, jnp.int32)
    for group, variables in enumerate(_models(fission, state)):
      found, _ = models[group].infer(variables, inputs, labels, None)
      said, _ = models[group].infer(
        _without_prior(variables), inputs, labels, None
      )
      np.testing.assert_allclose(
        found.posterior['z'].mean,
        said.posterior['z'].mean + means[group][None],
        rtol=1e-4,
      )
      self.assertTrue(np.isfinite(metrics.clients[group]['loss']).all())


class ScheduleTest(parameterized.TestCase):
  @parameterized.parameters((0, [2, 2, 2, 2, 2]), (4, [0.5, 1, 1.5, 2, 2]))
  def test_beta_grows_over_the_rounds_of_the_warm_up(self, warmup, expected):
    config = dataclasses.replace(_CONFIG, beta=2.0, kl_warmup_rounds=warmup)
    _, _, metrics = _fission(Sharing(priors=True), config, num_rounds=5)
    [clients] = metrics.clients
    beta = (clients['loss'] - clients['reconstruction']) / clients['kl']
    self.assertGreater(clients['kl'].min(), 0.1)
    np.testing.assert_allclose(
      beta, np.tile(np.array(expected)[:, None], (1, 4)), rtol=1e-2
    )


class FleetsTest(parameterized.TestCase):
  def _fission(self):
    models = [_vae(), _vae(decoder='conv'), _vae()]
    config = dataclasses.replace(_AT_ZERO, prior_strategy='identical')
    return fissionvae.fissionvae(config, models, Sharing(decoders=True))

  def test_decoders_of_two_architectures_share_an_encoder(self):
    fission = self._fission()
    self.assertEqual(fission.fleets, ((0, 2), (1,)))
    data = fissionvae.fleet_datasets(fission, _data((0, 1, 2, 0)))
    self.assertEqual([d.num_clients for d in data], [3, 1])
    self.assertEqual([d.groups.tolist() for d in data], [[0, 2, 0], [1]])
    both, dense, convolutional = (
      _models(fission, _run(fission.algorithm, data, 1, samplers)[0])
      for samplers in (
        None,
        [_only(0, 1, 2), _only(9)],
        [_only(9), _only(0)],
      )
    )
    encoders, decoders = (
      [
        [model[name] for model in models]
        for models in (both, dense, convolutional)
      ]
      for name in ('encoder', 'decoder')
    )
    # Three clients of equal size in the one fleet, one in the other.
    expected = jax.tree.map(
      lambda a, b: (3 * a + b) / 4, encoders[1][0], encoders[2][0]
    )
    for encoder in encoders[0]:
      chex.assert_trees_all_close(encoder, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(
      decoders[0],
      [decoders[1][0], decoders[2][1], decoders[1][2]],
      rtol=1e-5,
      atol=1e-6,
    )
    self.assertIsNotNone(
      trees.first_differing_leaf(decoders[0][0], decoders[0][1])
    )
    _assert_all_leaves_differ(decoders[0][0], decoders[0][2])

  def test_each_fleet_sends_its_own_decoder(self):
    fission = self._fission()
    data = fissionvae.fleet_datasets(fission, _data((0, 1, 2, 0)))
    sizes = [
      4 * num_parameters(vae.init(jax.random.key(0)))
      for vae in (fission.models[0], fission.models[1])
    ]
    self.assertNotEqual(*sizes)
    self.assertEqual(
      rounds.traffic(fission.algorithm, data),
      tuple(rounds.Traffic(size, size) for size in sizes),
    )

  def test_clients_without_a_model_are_refused(self):
    with self.assertRaisesRegex(InputError, r'\[0, 3\).*group 3'):
      fissionvae.fleet_datasets(self._fission(), _data((0, 1, 2, 3)))

  def test_a_fleet_without_clients_is_refused(self):
    with self.assertRaises(InputError):
      fissionvae.fleet_datasets(self._fission(), _data((0, 2)))


class TrafficTest(parameterized.TestCase):
  # What comes on top of the model: down, up, in bytes.
  @parameterized.parameters(
    (Sharing(), _CONFIG, 0, 0),
    (Sharing(decoders=True), _CONFIG, 0, 0),
    (Sharing(decoders=True, encoders=True), _CONFIG, 0, 0),
    # A fixed prior: the number of the group.
    (Sharing(priors=True), _CONFIG, 4, 0),
    (Sharing(priors=True, decoders=True), _CONFIG, 4, 0),
    # A learned one: mean and log-variance of two dimensions.
    (Sharing(priors=True, decoders=True), _LEARNED, 16, 16),
    # A beta that changes.
    (Sharing(), dataclasses.replace(_CONFIG, kl_warmup_rounds=3), 4, 0),
  )
  def test_groups_cost_a_client_next_to_nothing(
    self, sharing, config, down, up
  ):
    fission = fissionvae.fissionvae(config, [_vae()] * 2, sharing)
    model = 4 * num_parameters(_vae().init(jax.random.key(0)))
    self.assertEqual(
      rounds.traffic(fission.algorithm, [_data()]),
      (rounds.Traffic(model + down, model + up),),
    )


class SettingsTest(parameterized.TestCase):
  @parameterized.parameters(
    ({'beta': -1.0}, 'beta=-1.0'),
    ({'kl_warmup_rounds': -1}, 'kl_warmup_rounds=-1'),
    ({'prior_strategy': 'spiral'}, "strategy='spiral'"),
    ({'prior_levels': 'lower'}, "prior_levels='lower'"),
    ({'prior_distance': -1.0}, 'distance=-1.0'),
    ({'local_epochs': 0}, 'local_epochs=0'),
    ({'proximal': -0.1}, 'proximal=-0.1'),
    ({'learning_rate': 0.0}, 'learning_rate=0.0'),
    ({'server_optimizer': 'sgd'}, "server_optimizer='sgd'"),
  )
  def test_bad_fields_are_refused(self, fields, message):
    with self.assertRaisesRegex(InputError, message):
      config = dataclasses.replace(_CONFIG, **fields)
      fissionvae.fissionvae(config, [_vae()] * 2, Sharing(priors=True))

  def test_a_federation_without_models_is_refused(self):
    with self.assertRaisesRegex(InputError, 'num_models=0'):
      fissionvae.fissionvae(_CONFIG, [], Sharing())

  @parameterized.parameters((Sharing(),), (Sharing(priors=True),))
  def test_decoders_of_two_architectures_cannot_be_shared(self, sharing):
    with self.assertRaisesRegex(InputError, r'\(D\).*decoders=False'):
      fissionvae.fissionvae(_CONFIG, [_vae(), _vae(decoder='conv')], sharing)

  @parameterized.parameters(
    ({'hidden_size': 9}, 'encoder'),
    ({'latent_size': 3}, 'encoder'),
    ({'hierarchy': 'z1_top', 'lower_prior': 'standard'}, 'encoder'),
  )
  def test_models_that_differ_in_more_than_the_decoder_are_refused(
    self, fields, name
  ):
    with self.assertRaisesRegex(InputError, f'decoder only.*another {name}'):
      fissionvae.fissionvae(
        _CONFIG, [_vae(), _vae(**fields)], Sharing(decoders=True)
      )

  def test_models_that_differ_in_their_transition_are_refused(self):
    models = [
      _vae(hierarchy='z1_top', lower_prior=prior)
      for prior in ('conditional', 'standard')
    ]
    with self.assertRaisesRegex(InputError, 'another transition'):
      fissionvae.fissionvae(_CONFIG, models, Sharing(decoders=True))

  def test_both_levels_have_priors_of_groups_if_none_is_conditional(self):
    config = dataclasses.replace(_CONFIG, prior_levels='both')
    vae = _vae(hierarchy='z2_top', lower_prior='standard')
    means = fissionvae.prior_means(config, vae, 2)
    self.assertEqual(
      jax.tree.map(jnp.shape, means), {'z1': (2, 2), 'z2': (2, 4)}
    )
    means = fissionvae.prior_means(_CONFIG, vae, 2)
    self.assertEqual(jax.tree.map(jnp.shape, means), {'z2': (2, 4)})
    vae = _vae(hierarchy='z2_top')
    with self.assertRaisesRegex(InputError, "prior_levels=both.*'conditional'"):
      fissionvae.prior_means(config, vae, 2)

  def test_priors_that_are_not_asked_for_are_not_laid_out(self):
    # Three groups would need three dimensions to be apart in.
    for sharing in (Sharing(), Sharing(decoders=True)):
      fissionvae.fissionvae(_CONFIG, [_vae()] * 3, sharing)
    with self.assertRaisesRegex(InputError, 'size >= 3'):
      fissionvae.fissionvae(_CONFIG, [_vae()] * 3, Sharing(priors=True))

  def test_random_means_follow_the_seed(self):
    config = dataclasses.replace(_CONFIG, prior_strategy='random')
    first, same, other = (
      fissionvae.prior_means(config, _vae(), 2, seed=seed)['z']
      for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    self.assertFalse(np.allclose(first, other))


if __name__ == '__main__':
  absltest.main()
