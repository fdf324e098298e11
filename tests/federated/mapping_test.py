"""Every mapping gives the same numbers; the reproducible one the same bits."""

import functools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp

from fedjax_gen.errors import InputError
from fedjax_gen.federated import aggregates, mapping, rounds, sampling
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
def _run(chosen, aggregate='weighted_mean', num_rounds=3):
  data = toys.dataset(_SIZES)
  algorithm = toys.mean_estimation(aggregate=_AGGREGATES[aggregate]())
  state = rounds.init_state(algorithm, [data], jax.random.key(0))
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
      info = rounds.ClientInfo(
        row=jnp.zeros((), int),
        group=(member % 2).astype(int),
        num_examples=jnp.ones((), int),
        weight=member,
        present=member > 0,
      )
      return shared * member, info, member

    work = mapping.Work(work, work, lambda member: member > 0, jnp.zeros_like)

    def run(chosen):
      sums, outputs = jax.jit(
        lambda m: mapping.map_clients(
          chosen, aggregate, work, jnp.float32(2), m
        )
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
