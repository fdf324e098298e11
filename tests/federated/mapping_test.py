"""Every mapping gives the same numbers; the reproducible one the same bits."""

import functools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen.errors import InputError
from fedjax_gen.federated import aggregates, mapping, rounds, sampling, servers
from fedjax_gen.federated.algorithm import Algorithm, ClientInfo, ClientProgram
from fedjax_gen.federated.execution import lanes
from tests.federated import toys

_AGGREGATES = {
  'weighted_mean': aggregates.weighted_mean,
  'uniform_mean': aggregates.uniform_mean,
  'total': aggregates.total,
  'by_module': lambda: aggregates.by_module({'w': aggregates.total()}),
}
# Seven clients of unequal size: no block size or device count divides them.
_SIZES = [3, 0, 5, 1, 4, 2, 6]


@functools.cache
def _start(aggregate):
  data = toys.dataset(_SIZES)
  algorithm = toys.mean_estimation(aggregate=_AGGREGATES[aggregate]())
  return (
    algorithm,
    data,
    rounds.init_state(algorithm, [data], jax.random.key(0)),
  )


@functools.cache
def _run(chosen, aggregate='weighted_mean', num_rounds=3):
  algorithm, data, state = _start(aggregate)
  state = jax.tree.map(jnp.copy, state)  # the runner consumes it
  run = rounds.round_runner(
    algorithm,
    samplers=[sampling.with_dropout(sampling.everyone(), 0.2)],
    mapping=chosen,
  )
  return jax.device_get(run(state, [data], jax.random.key(1), num_rounds))


def _meshes(reproducible, *sizes, block_size=1):
  return [
    mapping.Mapping(
      block_size=block_size,
      mesh=mapping.clients_mesh(size) if size else None,
      reproducible=reproducible,
    )
    for size in sizes
  ]


def keeping(num_features):
  """Clients add their examples to half of what they kept, and keep a key."""

  def init(key, info):
    del info
    return {'kept': jnp.zeros(num_features), 'key': key}

  def update(view, client, data, keys):
    del keys
    batch = data.everything()
    total = jnp.sum(batch.inputs * batch.mask[:, None])
    kept = 0.5 * client['kept'] + total
    client = {'kept': kept, 'key': jax.random.fold_in(client['key'], 1)}
    return {'w': view['w'] - kept[:2]}, client, {'kept': kept.sum()}

  server = servers.learned_server(
    lambda key: {'w': jnp.zeros(2)}, aggregates.total(), optax.sgd(1.0)
  )
  client = ClientProgram(init, lambda server, info: server.variables, update)
  return Algorithm(server, (client,))


class MappingTest(parameterized.TestCase):
  @parameterized.product(
    aggregate=list(_AGGREGATES),
    chosen=[(2, 0), ('all', 0), (7, 0), (1, 2), (2, 2), ('all', 4), (1, 8)],
  )
  def test_agrees_with_one_client_after_the_other(self, aggregate, chosen):
    block_size, devices = chosen
    mesh = mapping.clients_mesh(devices) if devices else None
    alone = _run(mapping.Mapping(block_size=1), aggregate)
    other = _run(
      mapping.Mapping(block_size=block_size, mesh=mesh),
      aggregate,
    )
    chex.assert_trees_all_close(alone, other, rtol=1e-5, atol=1e-6)

  def test_groups_agree_too(self):
    # by_group adds an axis, so it is tried on sums alone.
    members = jnp.arange(7.0)
    aggregate = aggregates.by_group(2)

    def work(shared, member):
      info = ClientInfo(
        row=jnp.zeros((), int),
        group=(member % 2).astype(int),
        num_examples=jnp.ones((), int),
        weight=member,
        present=member > 0,
      )
      return shared * member, info, member

    work = lanes.Work(work, work, lambda member: member > 0, jnp.zeros_like)

    def run(chosen):
      sums, outputs = jax.jit(
        lambda m: lanes.map_clients(chosen, aggregate, work, jnp.float32(2), m)
      )(members)
      return aggregate.finish(sums), outputs

    means, outputs = run(mapping.Mapping(block_size=1))
    chex.assert_trees_all_close(means, jnp.array([56 / 6, 35 * 2 / 9]))
    chex.assert_trees_all_equal(outputs, members)
    for chosen in [
      mapping.Mapping(block_size=3),
      *_meshes(False, 2, 4, block_size=2),
      *_meshes(True, 0, 2, 8, block_size=2),
    ]:
      chex.assert_trees_all_close(jax.device_get(run(chosen)), (means, outputs))

  @parameterized.product(
    aggregate=['weighted_mean', 'by_module'], block_size=[1, 2]
  )
  def test_reproducible_bits_do_not_depend_on_devices(
    self, aggregate, block_size
  ):
    results = [
      _run(chosen, aggregate)
      for chosen in _meshes(True, 0, 1, 2, 4, 8, block_size=block_size)
    ]
    for other in results[1:]:
      chex.assert_trees_all_equal(results[0], other)

  def test_psum_bits_do_depend_on_devices(self):
    # Otherwise the test above could not fail.
    first, *others = (
      _run(chosen, num_rounds=20) for chosen in _meshes(False, 0, 2, 4, 8)
    )
    self.assertTrue(
      any(
        (first[0].server.variables['w'] != o[0].server.variables['w']).any()
        for o in others
      )
    )

  @parameterized.parameters(
    ({'block_size': 4}, 10, (1, 3, 4)),
    ({'block_size': 'all'}, 10, (1, 1, 10)),
    ({'block_size': 99}, 10, (1, 1, 10)),
    ({'block_size': 2, 'reproducible': True}, 100, (8, 7, 2)),
    ({'block_size': 2, 'reproducible': True}, 6, (6, 1, 1)),
    ({'block_size': 2, 'reproducible': True}, 20, (5, 2, 2)),
    ({'block_size': 8}, 10, (1, 2, 5)),
  )
  def test_layout(self, fields, num_clients, expected):
    self.assertEqual(mapping.Mapping(**fields).layout(num_clients), expected)

  def test_a_block_is_all_that_is_alive(self):
    # Memory of the compiled round must not grow with the cohort.
    def temporary_bytes(num_clients, block_size):
      data = toys.dataset([4] * num_clients, num_features=512)
      algorithm = toys.mean_estimation(num_features=512)
      state = rounds.init_state(algorithm, [data], jax.random.key(0))
      compiled = jax.jit(
        lambda state, data: rounds.federated_round(
          algorithm,
          state,
          [data],
          jax.random.key(0),
          samplers=[sampling.everyone()],
          mapping=mapping.Mapping(block_size=block_size),
        )
      )
      analysis = compiled.lower(state, data).compile().memory_analysis()
      return analysis.temp_size_in_bytes

    self.assertLess(temporary_bytes(256, 8), 2 * temporary_bytes(16, 8))
    self.assertGreater(temporary_bytes(256, 'all'), 4 * temporary_bytes(256, 8))

  # Where everyone is present XLA sees through the round's conditions.
  @parameterized.parameters(
    (1, sampling.everyone(), False),
    (4, sampling.everyone(), False),
    (4, sampling.uniform(30), True),
  )
  def test_what_clients_keep_is_updated_in_place(
    self, block_size, sampler, reproducible
  ):
    data = toys.dataset([2] * 64)
    algorithm = keeping(num_features=4096)
    kept = 4 * 4096  # bytes of one client

    def run(state, data):
      return jax.lax.scan(
        lambda state, _: rounds.federated_round(
          algorithm,
          state,
          [data],
          jax.random.key(0),
          samplers=[sampler],
          mapping=mapping.Mapping(block_size, reproducible=reproducible),
        ),
        state,
        length=2,
      )

    state = jax.eval_shape(
      lambda key: rounds.init_state(algorithm, [data], key), jax.random.key(0)
    )
    compiled = jax.jit(run, donate_argnums=0).lower(state, data).compile()
    analysis = compiled.memory_analysis()
    self.assertGreaterEqual(analysis.alias_size_in_bytes, 64 * kept)
    # A block's rows before and after, and one more for the toy's own work.
    self.assertLess(analysis.temp_size_in_bytes, 4 * block_size * kept)

  @parameterized.parameters(
    (1, 0, False),
    (2, 0, False),
    ('all', 0, False),
    (2, 2, False),
    (2, 0, True),
    (2, 2, True),
  )
  def test_clients_keep_what_is_their_own(
    self, block_size, devices, reproducible
  ):
    data = toys.dataset([1] * 7)
    algorithm = keeping(2)
    # Out of order, one of them absent, and the last, which padding copies,
    # present.
    row = jnp.array([5, 0, 6, 2, 3])
    present = jnp.array([True, True, False, True, True])

    def some(key, data):
      cohort = sampling.everyone()(key, data)
      return sampling.Cohort(row, present, cohort.weight[row])

    state = rounds.init_state(algorithm, [data], jax.random.key(0))
    before = jax.device_get(jax.random.key_data(state.fleets[0]['key']))
    mesh = mapping.clients_mesh(devices) if devices else None
    run = rounds.round_runner(
      algorithm,
      samplers=[some],
      mapping=mapping.Mapping(block_size, mesh, reproducible),
    )
    state, _ = run(state, [data], jax.random.key(1), 2)

    inputs = np.asarray(data.inputs)[np.asarray(data.order)].sum(1)
    expected = np.zeros((7, 2), np.float32)
    for client in (5, 0, 2, 3):
      expected[client] = inputs[client] * 1.5
    np.testing.assert_allclose(
      state.fleets[0]['kept'], expected, rtol=1e-5, atol=1e-6
    )
    after = jax.random.key_data(state.fleets[0]['key'])
    moved = (after != before).any(axis=1)
    np.testing.assert_array_equal(moved, [1, 0, 1, 1, 0, 1, 0])

  @parameterized.parameters(
    ({'block_size': 0}, 'block_size=0'),
    ({'block_size': 'some'}, "block_size='some'"),
    ({'num_lanes': 0}, 'num_lanes=0'),
    ({'block_size': 'all', 'reproducible': True}, 'block_size'),
  )
  def test_bad_fields_are_refused(self, fields, message):
    with self.assertRaisesRegex(InputError, message):
      mapping.Mapping(**fields)

  def test_lanes_must_divide_over_devices(self):
    with self.assertRaisesRegex(InputError, 'num_lanes=6 and 4 devices'):
      mapping.Mapping(
        mesh=mapping.clients_mesh(4), reproducible=True, num_lanes=6
      )

  def test_too_many_devices_are_refused(self):
    with self.assertRaisesRegex(InputError, 'num_devices=9999'):
      mapping.clients_mesh(9999)

  def test_a_foreign_mesh_is_refused(self):
    mesh = jax.make_mesh((1,), ('model',))
    with self.assertRaisesRegex(InputError, 'clients'):
      mapping.Mapping(mesh=mesh)


if __name__ == '__main__':
  absltest.main()
