"""Arithmetic on trees, on numbers small enough to add by hand."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees


def _tree(first, second):
  return {'a': jnp.array(first), 'b': (jnp.array(second),)}


class TreesTest(parameterized.TestCase):
  def test_add_and_subtract_go_leaf_by_leaf(self):
    left, right = _tree([1.0, 2.0], 3), _tree([10.0, 30.0], 5)
    chex.assert_trees_all_equal(trees.add(left, right), _tree([11.0, 32.0], 8))
    chex.assert_trees_all_equal(
      trees.subtract(left, right), _tree([-9.0, -28.0], -2)
    )

  def test_zeros_like_keeps_shapes_and_dtypes_of_arrays_and_structs(self):
    tree = {'a': jnp.ones((2, 3), jnp.float16), 'b': jnp.ones((), jnp.int8)}
    expected = {
      'a': jnp.zeros((2, 3), jnp.float16),
      'b': jnp.zeros((), jnp.int8),
    }
    structs = jax.eval_shape(lambda: tree)
    for like in (tree, structs):
      zeros = trees.zeros_like(like)
      chex.assert_trees_all_equal_shapes_and_dtypes(zeros, expected)
      chex.assert_trees_all_equal(zeros, expected)

  def test_where_chooses_rows_of_leaves_of_any_rank(self):
    tree = {'a': jnp.ones(2), 'b': jnp.ones((2, 2)), 'c': jnp.ones((2, 1, 1))}
    chosen = trees.where(jnp.array([True, False]), tree, trees.zeros_like(tree))
    expected = {
      'a': jnp.array([1.0, 0.0]),
      'b': jnp.array([[1.0, 1.0], [0.0, 0.0]]),
      'c': jnp.array([[[1.0]], [[0.0]]]),
    }
    chex.assert_trees_all_equal(chosen, expected)

  def test_where_takes_a_scalar_condition_for_a_whole_tree(self):
    tree, other = _tree([1.0, 2.0], 3), _tree([4.0, 5.0], 6)
    chex.assert_trees_all_equal(trees.where(jnp.array(True), tree, other), tree)
    chex.assert_trees_all_equal(
      trees.where(jnp.array(False), tree, other), other
    )

  def test_take_reads_rows_that_put_wrote(self):
    tree = {'a': jnp.zeros(4), 'b': jnp.zeros((4, 2))}
    index = jnp.array([3, 1])
    rows = {'a': jnp.array([7.0, 8.0]), 'b': jnp.array([[1.0, 2], [3, 4]])}
    written = trees.put(tree, index, rows)
    chex.assert_trees_all_equal(trees.take(written, index), rows)
    chex.assert_trees_all_equal(written['a'], jnp.array([0.0, 8.0, 0.0, 7.0]))
    # The rows in between are as they were.
    others = trees.take(written, jnp.array([0, 2]))
    chex.assert_trees_all_equal(others, trees.zeros_like(others))

  def test_weighted_sum_adds_rows_times_weights(self):
    tree = {'a': jnp.array([1.0, 2.0]), 'b': jnp.array([[1.0, 0], [0, 1]])}
    total = trees.weighted_sum(tree, jnp.array([10.0, 0.5]))
    chex.assert_trees_all_equal(
      total, {'a': jnp.array(11.0), 'b': jnp.array([10.0, 0.5])}
    )

  @parameterized.parameters(np.nan, np.inf)
  def test_weighted_sum_ignores_rows_of_weight_zero_whatever_they_hold(
    self, poison
  ):
    rows = jnp.array([[1.0], [poison]])
    kept = trees.weighted_sum(rows, jnp.array([2.0, 0.0]))
    chex.assert_trees_all_equal(kept, jnp.array([2.0]))
    # The plain product, and a weight that is not zero, let it through.
    self.assertTrue(np.isnan(jnp.array([2.0, 0.0]) @ rows).all())
    spoilt = trees.weighted_sum(rows, jnp.array([2.0, 1e-6]))
    self.assertFalse(np.isfinite(spoilt).any())

  def test_weighted_sum_asks_for_full_float32_precision(self):
    # On CPU it always is; accelerators round unless told not to.
    jaxpr = jax.make_jaxpr(trees.weighted_sum)(jnp.ones((2, 3)), jnp.ones(2))
    self.assertIn('HIGHEST', str(jaxpr))

  def test_num_bytes_counts_items_times_their_size(self):
    tree = {
      'a': jnp.zeros((2, 3), jnp.float32),
      'b': jax.ShapeDtypeStruct((4,), jnp.bfloat16),
      'c': jnp.zeros((), jnp.int8),
    }
    self.assertEqual(trees.num_bytes(tree), 24 + 8 + 1)
    self.assertEqual(trees.num_bytes({}), 0)

  @parameterized.named_parameters(
    ('shape', {'a': jnp.zeros(3), 'b': jnp.zeros(1)}, "['a']"),
    ('dtype', {'a': jnp.zeros(2), 'b': jnp.zeros(1, jnp.int32)}, "['b']"),
    ('missing', {'a': jnp.zeros(2)}, "['b']"),
    (
      'extra',
      {'a': jnp.zeros(2), 'b': jnp.zeros(1), 'c': jnp.zeros(1)},
      "['c']",
    ),
    ('nested', {'a': jnp.zeros(2), 'b': {'d': jnp.zeros(1)}}, "['b']"),
  )
  def test_first_differing_leaf_names_its_path(self, other, expected):
    tree = {'a': jnp.zeros(2), 'b': jnp.zeros(1)}
    self.assertEqual(trees.first_differing_leaf(tree, other), expected)

  def test_first_differing_leaf_is_none_for_other_values_of_equal_form(self):
    tree = _tree([1.0, 2.0], 3)
    other = jax.tree.map(lambda leaf: leaf + 1, tree)
    self.assertIsNone(trees.first_differing_leaf(tree, other))


if __name__ == '__main__':
  absltest.main()
