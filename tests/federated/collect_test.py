"""Reports of single clients: those of a plain loop, whoever else is asked."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.federated import collect as collecting
from fedjax_gen.federated.collect import collect, collect_bytes
from fedjax_gen.federated.mapping import Mapping, clients_mesh
from tests.federated import toys

_KEY = jax.random.key(3)
# No block size or device count below divides seven; one client is empty.
_SIZES = [3, 0, 5, 1, 4, 2, 6]
_DATA = toys.dataset(_SIZES, groups=[0, 1, 2, 0, 1, 2, 0])


def _report(shared, info, data, key):
  """Everything a report can read, in leaves of three shapes."""
  batch = data.batch(data.shuffled(key), 0, 2)
  return {
    'draw': (batch.inputs * batch.mask[:, None]).sum(axis=0) + shared,
    'noise': jax.random.normal(key),
    'who': jnp.stack([info.row, info.group, info.num_examples, data.size]),
    'weight': info.weight,
  }


def _alone(shared, data, row, key):
  """The same by hand for one client."""
  key = jax.random.fold_in(key, row)
  local_data = data.client(jnp.int32(row))
  batch = local_data.batch(local_data.shuffled(key), 0, 2)
  size = _SIZES[row]
  return {
    'draw': np.asarray(batch.inputs)[: min(size, 2)].sum(axis=0) + shared,
    'noise': jax.random.normal(key),
    'who': np.array([row, data.groups[row], size, size], np.int32),
    'weight': np.float32(size),
  }


class CollectTest(parameterized.TestCase):
  @parameterized.parameters(
    (1, 0), (2, 0), (3, 0), ('all', 0), (1, 2), (2, 4), ('all', 8)
  )
  def test_equals_a_loop_over_clients(self, block_size, devices):
    mapping = Mapping(
      block_size, mesh=clients_mesh(devices) if devices else None
    )
    shared = jnp.arange(3.0)
    found = collect(_report, shared, _DATA, _KEY, mapping=mapping)
    one_by_one = [_alone(shared, _DATA, row, _KEY) for row in range(7)]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *one_by_one)
    chex.assert_trees_all_close(jax.device_get(found), expected, rtol=1e-6)

  def test_who_else_is_asked_changes_nothing(self):
    shared = jnp.zeros(3)
    everyone = collect(_report, shared, _DATA, _KEY)
    some = collect(_report, shared, _DATA, _KEY, rows=np.array([5, 2]))
    chex.assert_trees_all_equal(
      some, jax.tree.map(lambda leaf: leaf[np.array([5, 2])], everyone)
    )

  def test_another_key_draws_anew(self):
    noises = [
      collect(_report, jnp.zeros(3), _DATA, key)['noise']
      for key in (_KEY, jax.random.key(4))
    ]
    self.assertLen(np.unique(np.concatenate(noises)), 14)

  @parameterized.parameters(Mapping(), Mapping('all'))
  def test_compiles_once(self, mapping):
    traces = []

    def counted(shared, info, data, key):
      traces.append(1)
      return _report(shared, info, data, key)

    collect(counted, jnp.zeros(3), _DATA, _KEY, mapping=mapping)
    first = len(traces)
    for _ in range(3):
      collect(counted, jnp.ones(3), _DATA, jax.random.key(5), mapping=mapping)
    self.assertLen(traces, first)

  def test_only_a_block_is_computed_at_once(self):
    # Each client blows its examples up; the program's temporary memory is to
    # grow with the clients of a block and not with those there are.
    def wasteful(shared, info, data, key):
      del shared, info
      noise = jax.random.normal(key, (100_000,))
      return jnp.sort(noise)[: data.max_size]

    def temporary(num_clients, block_size):
      data = toys.dataset([2] * num_clients)
      compiled = collecting._collect.lower(
        wasteful,
        Mapping(block_size),
        jnp.zeros(()),
        data,
        _KEY,
        jnp.arange(num_clients, dtype=jnp.int32),
      ).compile()
      analysis = compiled.memory_analysis()
      assert analysis is not None
      return analysis.temp_size_in_bytes

    few, many, at_once = (
      temporary(*sizes) for sizes in ((4, 1), (32, 1), (32, 'all'))
    )
    self.assertLess(many, 1.1 * few)
    self.assertGreater(at_once, 8 * many)

  def test_bytes_are_those_of_one_report(self):
    # 3 floats, 1 float, 4 whole numbers, 1 float; nothing is computed.
    self.assertEqual(collect_bytes(_report, jnp.zeros(3), _DATA), 36)
    shared = jax.ShapeDtypeStruct((3,), jnp.float32)
    self.assertEqual(collect_bytes(_report, shared, _DATA), 36)

  @parameterized.parameters(([7],), ([-1],), ([],), ([[0]],))
  def test_bad_rows_are_refused(self, rows):
    with self.assertRaisesRegex(InputError, r'indices in \[0, 7\).*rows='):
      collect(_report, jnp.zeros(3), _DATA, _KEY, rows=np.array(rows, int))


if __name__ == '__main__':
  absltest.main()
