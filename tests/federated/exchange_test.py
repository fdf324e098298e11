"""What clients keep is split among devices, and the bits do not show it."""

import functools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from fedjax_gen.federated import mapping, rounds, sampling
from fedjax_gen.federated.execution import exchange, placement
from tests.federated import mapping_test, toys

_SIZE = 4096  # floats that a client keeps
_KEPT = 4 * _SIZE  # their bytes


def _everyone_shuffled(key, data):
  cohort = sampling.everyone()(key, data)
  row = jax.random.permutation(key, data.num_clients).astype(jnp.int32)
  return cohort._replace(row=row, weight=cohort.weight[row])


_SAMPLERS = {
  'everyone': sampling.with_dropout(sampling.everyone(), 0.2),
  'some': sampling.with_dropout(sampling.uniform(5), 0.2),
  'poisson': sampling.poisson(0.5),
  'shuffled': _everyone_shuffled,
}


@functools.cache
def _run(sampler, num_clients, num_devices, is_reproducible=True):
  data = toys.dataset([1 + i % 4 for i in range(num_clients)])
  algorithm = mapping_test.keeping(6)
  mesh = mapping.clients_mesh(num_devices) if num_devices else None
  layout = mapping.Mapping(1, mesh, is_reproducible)
  run = rounds.round_runner(
    algorithm, samplers=[_SAMPLERS[sampler]], mapping=layout
  )
  state = rounds.init_state(algorithm, [data], jax.random.key(0), layout)
  return run(state, [data], jax.random.key(1), 3)


def _bits(tree, rows=slice(None)):
  """Bytes of the leaves, or of some rows of each."""

  def of_leaf(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    # On the host: to index what is split, the partitioner adds zeros.
    return np.atleast_1d(np.asarray(leaf))[rows].tobytes()

  return jax.tree.map(of_leaf, tree)


def _awkward(num_clients):
  """What is no other bits to most operations: minus zero, NaN, a subnormal."""
  values = np.float32([0.0, -0.0, np.nan, np.inf, -1, 1e-42, 2, 3])
  return {
    'float': jnp.asarray(values[:num_clients]),
    'half': jnp.asarray(values[:num_clients, None], jnp.bfloat16),
    'key': jax.random.split(jax.random.key(0), num_clients),
  }


class ExchangeTest(parameterized.TestCase):
  # Devices divide 8 clients, but not 7.
  @parameterized.product(sampler=list(_SAMPLERS), num_clients=[8, 7])
  def test_reproducible_bits_do_not_depend_on_the_split(
    self, sampler, num_clients
  ):
    expected = _bits(_run(sampler, num_clients, 0))
    for num_devices in (2, 4):
      found = _run(sampler, num_clients, num_devices)
      self.assertEqual(expected, _bits(found), f'{num_devices} devices')

  def test_every_device_holds_its_share(self):
    state, _ = _run('some', 8, 4)
    self.assertEqual(state.fleets[0]['kept'].sharding.spec, P('clients'))
    self.assertEqual(state.fleets[0]['key'].sharding.spec, P('clients'))
    # Three of 7 clients each is more than 7 / 4: a part of every row it is.
    state, _ = _run('some', 7, 2)
    self.assertEqual(state.fleets[0]['kept'].sharding.spec, P(None, 'clients'))
    for leaf in jax.tree.leaves(state.server):
      self.assertTrue(leaf.is_fully_replicated)

  @parameterized.parameters(([0, 1, 2, 3], [5, 2]), ([7, 6, 1, 0], [4, 3]))
  def test_rows_are_fetched_and_given_back(self, first, second):
    population = _awkward(8)
    beyond = np.iinfo(np.int32).max
    rows = jnp.array([*first, *second, beyond, beyond], jnp.int32)

    def swap(population, rows):
      plan = exchange.plan(rows, 2, 8)
      needed = exchange.fetch(plan, population)
      # Back in another order, by which it shows.
      turned = jax.tree.map(lambda leaf: leaf[::-1], needed)
      return needed, exchange.give_back(plan, population, turned)

    needed, after = jax.jit(
      jax.shard_map(
        swap,
        mesh=mapping.clients_mesh(2),
        in_specs=(P('clients'), P()),
        out_specs=(P('clients'), P('clients')),
        check_vma=False,
      )
    )(population, rows)
    there = np.flatnonzero(np.asarray(rows) < 8)
    self.assertEqual(
      _bits(population, np.asarray(rows)[there]), _bits(needed, there)
    )
    # Of the first device's four members each has the row of its opposite.
    others = np.setdiff1d(np.arange(8), second)
    source = np.arange(8)
    source[first] = first[::-1]
    self.assertEqual(_bits(population, source[others]), _bits(after, others))

  @parameterized.parameters(8, 7)
  def test_rows_of_nobody_present_keep_their_bits(self, num_clients):
    data = toys.dataset([2] * num_clients)
    layout = mapping.Mapping(1, mapping.clients_mesh(2))
    kept = _awkward(num_clients)
    algorithm = mapping_test.keeping(2)
    state = rounds.init_state(algorithm, [data], jax.random.key(0))
    state = state._replace(
      fleets=({'kept': jnp.stack([kept['float']] * 2, 1), 'key': kept['key']},)
    )
    before = _bits(state.fleets)
    run = rounds.round_runner(
      algorithm, samplers=[sampling.poisson(0.0)], mapping=layout
    )
    state, _ = run(state, [data], jax.random.key(1), 2)
    self.assertEqual(before, _bits(state.fleets))

  def test_nothing_moves_where_rows_lie_at_home(self):
    beyond = np.iinfo(np.int32).max
    rows = np.array([0, 1, 2, beyond, 3, 5, beyond, beyond], np.int32)
    np.testing.assert_array_equal(
      exchange.at_home(rows, 2, 6), [0, 1, 2, beyond, 0, 2, beyond, beyond]
    )
    self.assertIsNone(exchange.at_home(rows[::-1].copy(), 2, 6))
    self.assertIsNone(exchange.at_home(jnp.asarray(rows), 2, 6))
    plan = exchange.plan(jnp.asarray(rows), 2, 6)
    self.assertEqual(plan.num_pieces, 0)

  @parameterized.parameters(
    # Own rows, and temporaries in rows of a client: of the toy's own work;
    # of a device's members and of those in flight; of 8 * 2 in flight.
    (64, sampling.everyone(), 2, 5),
    (64, sampling.everyone(), 8, 5),
    (64, sampling.uniform(32), 2, 16 + 2 * 4 + 6),
    # Parts are put together once a call, beside those of before and after.
    (63, sampling.everyone(), 2, 2 * 32 + 2),
  )
  def test_memory_of_a_device(self, num_clients, sampler, num_devices, rows):
    data = toys.dataset([2] * num_clients)
    algorithm = mapping_test.keeping(_SIZE)
    layout = mapping.Mapping(1, mapping.clients_mesh(num_devices))
    run = rounds.round_runner(algorithm, samplers=[sampler], mapping=layout)
    key = jax.random.key(0)
    state = rounds.init_state(algorithm, [data], key, layout)
    compiled = run.lowered(state, [data], key, 2).compile()
    memory = compiled.memory_analysis()
    own = num_clients / num_devices * _KEPT
    self.assertLess(memory.argument_size_in_bytes, own + 2 * _KEPT)
    self.assertGreaterEqual(memory.alias_size_in_bytes, own)
    self.assertLess(memory.temp_size_in_bytes, rows * _KEPT)

  def test_a_state_may_come_from_anywhere(self):
    split, _ = _run('everyone', 8, 2)
    algorithm = mapping_test.keeping(6)
    data = toys.dataset([1 + i % 4 for i in range(8)])
    layout = mapping.Mapping(1, mapping.clients_mesh(2), reproducible=True)
    run = rounds.round_runner(
      algorithm, samplers=[_SAMPLERS['everyone']], mapping=layout
    )
    state = rounds.init_state(algorithm, [data], jax.random.key(0))
    state, _ = run(state, [data], jax.random.key(1), 3)
    self.assertEqual(_bits(split), _bits(state))
    shardings = placement.split(state.fleets, layout)
    chex.assert_trees_all_equal(
      jax.tree.map(lambda leaf: leaf.sharding, state.fleets), shardings
    )


if __name__ == '__main__':
  absltest.main()
