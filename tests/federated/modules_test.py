"""Modules of all and of groups: means, momenta and norms, against NumPy."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen import trees
from fedjax_gen.errors import InputError
from fedjax_gen.federated import (
  aggregates,
  mapping,
  modules,
  rounds,
  sampling,
  servers,
)
from fedjax_gen.federated.algorithm import Algorithm, ClientInfo, ClientProgram
from fedjax_gen.federated.modules import Module
from tests.federated import toys

_RATE = 0.5
_OPTIMIZERS = ('fedavg', 'fedavgm', 'fedadam')
_START = {
  'shared': np.float32([1.0, -2.0]),
  'branch': np.float32([[0.5, 1.0], [1.5, 2.0], [2.5, 3.0]]),
}


def _optimizer(name):
  return servers.server_optimizer(name, _RATE, 0.9)


def _modules():
  return {
    'shared': Module(lambda key: {'w': jnp.asarray(_START['shared'])}),
    'branch': Module(
      lambda key: {'w': jnp.asarray(_START['branch'])}, (0, 1, 2)
    ),
  }


def _infos(groups, weights):
  weights = jnp.asarray(weights, jnp.float32)
  return ClientInfo(
    row=jnp.arange(len(groups)),
    group=jnp.asarray(groups, jnp.int32),
    num_examples=weights.astype(jnp.int32),
    weight=weights,
    present=weights > 0,
  )


def _aggregated(program, messages, info):
  sums = program.aggregate.partial(messages, info)
  return program.aggregate.finish(sums)


class _Copy:
  """One copy of a module and its optimizer, in float64."""

  def __init__(self, start, name):
    self.w, self.name = np.array(start, np.float64), name
    self.first, self.second, self.steps = 0.0, 0.0, 0

  def descend(self, mean):
    before = self.w
    if self.name == 'fedavg':
      self.w = before - _RATE * mean
    elif self.name == 'fedavgm':
      self.first = mean + 0.9 * self.first
      self.w = before - _RATE * self.first
    else:
      self.steps += 1
      self.first = 0.9 * self.first + 0.1 * mean
      self.second = 0.99 * self.second + 0.01 * mean**2
      first = self.first / (1 - 0.9**self.steps)
      second = self.second / (1 - 0.99**self.steps)
      self.w = before - _RATE * first / (np.sqrt(second) + 1e-3)
    return ((self.w - before) ** 2).sum()


class ModularServerTest(parameterized.TestCase):
  @parameterized.parameters(*_OPTIMIZERS)
  def test_every_copy_descends_the_mean_of_those_who_share_it(self, name):
    program = modules.modular_server(_modules(), _optimizer(name))
    update = jax.jit(program.update)
    server = program.init(jax.random.key(0))
    shared = _Copy(_START['shared'], name)
    branches = [_Copy(start, name) for start in _START['branch']]
    groups = np.array([0, 0, 1, 2])
    rng = np.random.default_rng(0)
    # All; the second group away; only the third; all. So the momenta of
    # groups, and the numbers of their steps, part.
    for weights in ([1, 3, 2, 5], [2, 1, 0, 4], [0, 0, 0, 1], [1, 1, 1, 1]):
      weights = np.array(weights, np.float64)
      messages = {
        module: {'w': rng.normal(size=(4, 2)).astype(np.float32)}
        for module in ('shared', 'branch')
      }
      aggregated = _aggregated(program, messages, _infos(groups, weights))
      before = server.modules['branch']
      server, metrics = update(server, aggregated, jax.random.key(0))

      squares = shared.descend(
        np.average(messages['shared']['w'], axis=0, weights=weights)
      )
      for group, branch in enumerate(branches):
        own = np.where(groups == group, weights, 0)
        if own.any():
          mean = np.average(messages['branch']['w'], axis=0, weights=own)
          squares += branch.descend(mean)
        else:
          # Variables and optimizer state, bit for bit.
          chex.assert_trees_all_equal(
            trees.take(before, group),
            trees.take(server.modules['branch'], group),
          )
      np.testing.assert_allclose(
        server.modules['shared'].variables['w'], shared.w, rtol=1e-4
      )
      np.testing.assert_allclose(
        server.modules['branch'].variables['w'],
        np.stack([branch.w for branch in branches]),
        rtol=1e-4,
        atol=1e-5,
      )
      # Of all steps taken, those of a group that is away being none.
      np.testing.assert_allclose(
        metrics['update_norm'], np.sqrt(squares), rtol=1e-4
      )
    self.assertEqual(server.round, 4)

  @parameterized.parameters(*_OPTIMIZERS)
  def test_a_member_that_weighs_nothing_is_no_member(self, name):
    program = modules.modular_server(_modules(), _optimizer(name))
    server = program.init(jax.random.key(0))
    info = _infos([0, 1, 2, 2], [2.0, 0.0, 3.0, 0.0])
    # One of them is there all the same: a client without examples.
    info = info._replace(present=jnp.array([True, True, True, False]))
    deltas = jnp.array([[1.0, 2.0], [jnp.nan] * 2, [3.0, 4.0], [jnp.nan] * 2])
    messages = {module: {'w': deltas} for module in ('shared', 'branch')}
    first, _ = program.update(
      server, _aggregated(program, messages, info), jax.random.key(0)
    )
    without = [0, 2]
    few = jax.tree.map(lambda a: a[jnp.array(without)], (messages, info))
    second, metrics = program.update(
      server, _aggregated(program, *few), jax.random.key(0)
    )
    chex.assert_trees_all_equal(first, second)
    chex.assert_tree_all_finite((first, metrics))
    chex.assert_trees_all_equal(
      trees.take(first.modules['branch'], 1),
      trees.take(server.modules['branch'], 1),
    )
    moved = first.modules['branch'].variables['w'] != _START['branch']
    np.testing.assert_array_equal(moved.all(axis=1), [True, False, True])

  @parameterized.parameters(*_OPTIMIZERS)
  def test_a_round_without_anyone_leaves_the_copies_of_groups(self, name):
    program = modules.modular_server(_modules(), _optimizer(name))
    server = program.init(jax.random.key(0))
    messages = {part: {'w': jnp.ones((2, 2))} for part in ('shared', 'branch')}
    everyone, nobody = (
      _aggregated(program, messages, _infos([0, 1], weights))
      for weights in ([1.0, 1.0], [0.0, 0.0])
    )
    server, _ = program.update(server, everyone, jax.random.key(0))
    after, _ = program.update(server, nobody, jax.random.key(0))
    chex.assert_trees_all_equal(
      after.modules['branch'], server.modules['branch']
    )
    self.assertEqual(after.round, 2)

  def test_every_copy_has_an_optimizer_of_its_own(self):
    program = modules.modular_server(_modules(), optax.adam(0.1))
    server = program.init(jax.random.key(0))
    copies = jax.tree.leaves(server.modules['branch'])
    # Variables, two moments, the count of steps.
    self.assertLen(copies, 4)
    for leaf in copies:
      self.assertEqual(leaf.shape[0], 3)

  def test_statistics_of_a_group_are_averaged_within_it(self):
    start = {
      'params': jnp.array([[1.0], [2.0]]),
      'batch_stats': jnp.array([[3.0], [4.0]]),
    }
    program = modules.modular_server(
      {'branch': Module(lambda key: start, (0, 1))}, _optimizer('fedadam')
    )
    server = program.init(jax.random.key(0))
    deltas = jnp.array([[1.0], [3.0], [5.0]])
    messages = {'branch': {'params': deltas, 'batch_stats': deltas}}
    info = _infos([0, 0, 1], [1.0, 3.0, 1.0])
    server, metrics = program.update(
      server, _aggregated(program, messages, info), jax.random.key(0)
    )
    variables = server.modules['branch'].variables
    np.testing.assert_allclose(
      variables['batch_stats'], [[3.0 - 2.5], [4.0 - 5.0]]
    )
    # Adam's first step is its rate; statistics are no step.
    np.testing.assert_allclose(
      variables['params'], [[1.0 - _RATE], [2.0 - _RATE]], rtol=1e-3
    )
    np.testing.assert_allclose(
      metrics['update_norm'], _RATE * 2**0.5, rtol=1e-3
    )

  def test_one_group_is_a_module_of_all(self):
    shared = Module(lambda key: {'w': jnp.array([1.0, 2.0])})
    single = Module(lambda key: {'w': jnp.array([[1.0, 2.0]])}, (0,))
    messages = {'m': {'w': jnp.array([[0.1, 0.2], [0.3, -0.7]])}}
    results = []
    for module in (shared, single):
      program = modules.modular_server({'m': module}, _optimizer('fedadam'))
      server, metrics = program.update(
        program.init(jax.random.key(0)),
        _aggregated(program, messages, _infos([0, 0], [1.0, 2.0])),
        jax.random.key(0),
      )
      copy = modules.copy_of(module, server.modules['m'].variables, 0)
      results.append((copy, metrics))
    chex.assert_trees_all_close(*results, rtol=1e-6)


class SomeGroupsTest(absltest.TestCase):
  """Two fleets: groups 1 and 3 of four have a module that 0 and 2 lack."""

  def setUp(self):
    super().setUp()
    self.parts = {
      'shared': Module(lambda key: {'w': jnp.zeros(1)}),
      'even': Module(lambda key: {'w': jnp.array([[10.0], [12.0]])}, (0, 2)),
      'odd': Module(lambda key: {'w': jnp.array([[11.0], [13.0]])}, (1, 3)),
    }
    self.program = modules.modular_server(self.parts, optax.sgd(1.0))
    self.server = self.program.init(jax.random.key(0))

  def test_a_client_receives_the_copies_of_its_group(self):
    for fleet, groups in (('even', (0, 2)), ('odd', (1, 3))):
      own = {name: self.parts[name] for name in ('shared', fleet)}
      for group in groups:
        info = jax.tree.map(lambda a: a[0], _infos([group], [1.0]))
        view = jax.jit(lambda s, i, own=own: modules.view(own, s, i))(
          self.server, info
        )
        expected = {
          'shared': {'w': jnp.zeros(1)},
          fleet: {'w': jnp.array([10.0 + group])},
        }
        chex.assert_trees_all_equal(view, expected)
        copy = modules.copy_of(
          self.parts[fleet], self.server.modules[fleet].variables, group
        )
        chex.assert_trees_all_equal(copy, expected[fleet])

  def test_sums_of_fleets_meet_in_the_shared_module_only(self):
    aggregate = self.program.aggregate
    even = aggregate.partial(
      {
        'shared': {'w': jnp.array([[1.0], [2.0]])},
        'even': {'w': jnp.array([[1.0], [5.0]])},
      },
      _infos([2, 2], [1.0, 3.0]),
    )
    odd = aggregate.partial(
      {
        'shared': {'w': jnp.array([[3.0], [4.0]])},
        'odd': {'w': jnp.array([[6.0], [7.0]])},
      },
      _infos([3, 1], [1.0, 5.0]),
    )
    aggregated = aggregate.finish(aggregate.merge(even, odd))
    server, metrics = self.program.update(
      self.server, aggregated, jax.random.key(0)
    )
    variables = {
      name: module.variables['w'].ravel().tolist()
      for name, module in server.modules.items()
    }
    self.assertEqual(
      variables,
      # Group 0 had no participant; (1 x 1 + 3 x 5) / 4 = 4.
      {'shared': [-3.0], 'even': [10.0, 8.0], 'odd': [4.0, 7.0]},
    )
    self.assertAlmostEqual(
      float(metrics['update_norm']), (9 + 16 + 49 + 36) ** 0.5, places=4
    )

  def test_an_unknown_module_in_a_message_is_refused(self):
    with self.assertRaisesRegex(InputError, 'other'):
      self.program.aggregate.partial(
        {'other': {'w': jnp.ones((1, 1))}}, _infos([0], [1.0])
      )


def _means(parts):
  """Clients send how far what they received lies from their own mean."""

  def update(view, client, data, keys):
    del keys
    batch = data.everything()
    total = jnp.where(batch.mask[:, None], batch.inputs, 0.0).sum(axis=0)
    mean = total / jnp.maximum(batch.mask.sum(), 1)
    message = jax.tree.map(lambda leaf: leaf - mean, view)
    return message, client, {}

  program = ClientProgram(
    lambda key, info: (),
    lambda server, info: modules.view(parts, server, info),
    update,
  )
  return Algorithm(modules.modular_server(parts, optax.sgd(1.0)), (program,))


class EngineTest(parameterized.TestCase):
  @parameterized.parameters(1, 'all')
  def test_a_round_gives_the_means_of_all_and_of_groups(self, block_size):
    # A client of group 1 fails; the only client of group 2 has nothing.
    data = toys.dataset([3, 2, 4, 0, 1], groups=[0, 1, 0, 2, 1])
    parts = {
      'shared': Module(lambda key: jnp.ones(3)),
      'branch': Module(lambda key: jnp.ones((3, 3)), (0, 1, 2)),
    }

    def sampler(key, data):
      cohort = sampling.everyone()(key, data)
      return cohort._replace(present=cohort.row != 4)

    algorithm = _means(parts)
    run = rounds.round_runner(
      algorithm, samplers=[sampler], mapping=mapping.Mapping(block_size)
    )
    state = rounds.init_state(algorithm, [data], jax.random.key(0))
    state, _ = run(state, [data], jax.random.key(1), 2)

    inputs, order = np.asarray(data.inputs), np.asarray(data.order)
    ranges = zip(np.asarray(data.offsets), np.asarray(data.sizes), strict=True)
    owned = [inputs[order[start : start + size]] for start, size in ranges]
    learned = state.server.modules
    np.testing.assert_allclose(
      learned['shared'].variables,
      np.concatenate(owned[:4]).mean(axis=0),
      rtol=1e-4,
      atol=1e-5,
    )
    branches = learned['branch'].variables
    for group, members in ((0, [owned[0], owned[2]]), (1, [owned[1]])):
      np.testing.assert_allclose(
        branches[group],
        np.concatenate(members).mean(axis=0),
        rtol=1e-4,
        atol=1e-5,
      )
    np.testing.assert_array_equal(branches[2], np.ones(3))
    self.assertEqual(state.server.round, 2)

  def test_a_group_costs_its_clients_nothing(self):
    data = [toys.dataset([2, 2, 2], groups=[0, 1, 2])]
    shared = {'m': Module(lambda key: jnp.ones(3))}
    own = {'m': Module(lambda key: jnp.ones((3, 3)), (0, 1, 2))}
    # One copy goes down and one up, three numbers of four bytes each.
    for parts in (shared, own):
      self.assertEqual(
        rounds.traffic(_means(parts), data), (rounds.Traffic(12, 12),)
      )


class ByGroupTest(absltest.TestCase):
  def test_weights_tell_who_was_absent_from_who_did_not_move(self):
    rule = aggregates.by_group(3, keep_weight=True)
    messages = {'w': jnp.array([[1.0], [4.0], [0.0]])}
    means, weights = rule.finish(
      rule.partial(messages, _infos([0, 0, 2], [1.0, 2.0, 5.0]))
    )
    np.testing.assert_allclose(means['w'], [[3.0], [0.0], [0.0]])
    np.testing.assert_allclose(weights, [3.0, 0.0, 5.0])


if __name__ == '__main__':
  absltest.main()
