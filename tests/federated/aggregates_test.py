"""Aggregates are linear, ignore the absent, and give known numbers."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees
from fedjax_gen.errors import InputError
from fedjax_gen.federated import aggregates
from fedjax_gen.federated.algorithm import ClientInfo

RULES = {
  'weighted_mean': aggregates.weighted_mean(),
  'uniform_mean': aggregates.uniform_mean(),
  'total': aggregates.total(),
  'by_group': aggregates.by_group(3),
  'by_module': aggregates.by_module(
    {
      'w': aggregates.by_group(3),
      'v': aggregates.total(),
    }
  ),
}


def infos(weights, groups=None, present=None):
  weights = jnp.asarray(weights, jnp.float32)
  count = weights.shape[0]
  if present is None:
    present = jnp.ones(count, bool)
  present = jnp.asarray(present)
  return ClientInfo(
    row=jnp.arange(count),
    group=jnp.zeros(count, int) if groups is None else jnp.asarray(groups),
    num_examples=weights.astype(int),
    weight=jnp.where(present, weights, 0.0),
    present=present,
  )


class AggregatesTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('weighted_mean', aggregates.weighted_mean(), [2.5]),
    ('uniform_mean', aggregates.uniform_mean(), [2.0]),
    ('total', aggregates.total(), [6.0]),
    ('by_group', aggregates.by_group(3), [[1.0], [0.0], [2.8]]),
  )
  def test_hand_computed(self, aggregate, expected):
    messages = {'w': jnp.array([[1.0], [2.0], [3.0]])}
    info = infos([1.0, 1.0, 4.0], groups=[0, 2, 2])
    result = aggregate.finish(aggregate.partial(messages, info))
    chex.assert_trees_all_close(result, {'w': jnp.array(expected)})

  @parameterized.named_parameters(*RULES.items())
  def test_sums_of_blocks_are_the_sum_of_all(self, aggregate):
    key = jax.random.key(0)
    messages = {
      'w': jax.random.normal(key, (6, 2)),
      'v': jnp.arange(6.0),
    }
    info = infos(
      [1, 2, 3, 4, 5, 6],
      groups=[0, 0, 1, 1, 0, 1],
      present=[True, True, False, True, True, True],
    )
    whole = aggregate.partial(messages, info)
    blocks = [
      aggregate.partial(*jax.tree.map(lambda a, s=s: a[s], (messages, info)))
      for s in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    summed = trees.add(trees.add(blocks[0], blocks[1]), blocks[2])
    chex.assert_trees_all_close(
      aggregate.finish(summed), aggregate.finish(whole), rtol=1e-6
    )

  @parameterized.named_parameters(*RULES.items())
  def test_an_absent_client_counts_for_nothing_not_even_nan(self, aggregate):
    messages = {'w': jnp.array([[1.0], [jnp.nan]]), 'v': jnp.array([1.0, 9.0])}
    info = infos([2.0, 3.0], groups=[0, 1], present=[True, False])
    alone = jax.tree.map(lambda a: a[:1], (messages, info))
    with_absent = aggregate.finish(aggregate.partial(messages, info))
    chex.assert_trees_all_equal(
      with_absent, aggregate.finish(aggregate.partial(*alone))
    )
    chex.assert_tree_all_finite(with_absent)

  @parameterized.named_parameters(*RULES.items())
  def test_nobody_gives_zero(self, aggregate):
    messages = {'w': jnp.ones((2, 1)), 'v': jnp.ones(2)}
    info = infos([2.0, 3.0], present=[False, False])
    result = aggregate.finish(aggregate.partial(messages, info))
    chex.assert_trees_all_equal(result, trees.zeros_like(result))

  def test_one_group_is_the_weighted_mean(self):
    messages = jnp.array([[1.0], [2.0]])
    info = infos([1.0, 3.0])
    group, mean = aggregates.by_group(1), aggregates.weighted_mean()
    np.testing.assert_allclose(
      group.finish(group.partial(messages, info))[0],
      mean.finish(mean.partial(messages, info)),
    )

  def test_identical_clients_average_to_themselves(self):
    message = jax.random.normal(jax.random.key(0), (5,))
    mean = aggregates.weighted_mean()
    sums = mean.partial(jnp.tile(message, (4, 1)), infos([1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_allclose(mean.finish(sums), message, rtol=1e-6)

  def test_fleets_share_a_module_and_keep_their_own(self):
    aggregate = aggregates.by_module(
      {
        'encoder': aggregates.weighted_mean(),
        'decoder_a': aggregates.weighted_mean(),
        'decoder_b': aggregates.weighted_mean(),
      }
    )
    first = aggregate.partial(
      {'encoder': jnp.array([1.0]), 'decoder_a': jnp.array([5.0])},
      infos([1.0]),
    )
    second = aggregate.partial(
      {'encoder': jnp.array([3.0]), 'decoder_b': jnp.array([7.0])},
      infos([3.0]),
    )
    result = aggregate.finish(aggregate.merge(first, second))
    self.assertEqual(
      jax.tree.map(float, result),
      {'encoder': 2.5, 'decoder_a': 5.0, 'decoder_b': 7.0},
    )

  def test_the_mean_of_whole_numbers_is_no_whole_number(self):
    mean, total = aggregates.weighted_mean(), aggregates.total()
    messages, info = jnp.array([4, 9]), infos([1.0, 1.0])
    self.assertEqual(mean.finish(mean.partial(messages, info)), 6.5)
    counts = total.finish(total.partial(messages, info))
    self.assertEqual((counts, counts.dtype), (13, messages.dtype))

  def test_a_module_without_a_rule_is_refused(self):
    aggregate = aggregates.by_module({'encoder': aggregates.total()})
    with self.assertRaisesRegex(InputError, 'decoder'):
      aggregate.partial({'decoder': jnp.ones(1)}, infos([1.0]))

  def test_no_groups_are_refused(self):
    with self.assertRaisesRegex(InputError, 'num_groups=0'):
      aggregates.by_group(0)


class ByClientTest(absltest.TestCase):
  def test_every_message_has_its_row_and_the_absent_none(self):
    rule = aggregates.by_client(4)
    messages = aggregates.Named(
      jnp.array([2, 0, 3]), {'w': jnp.array([[1.0], [2.0], [jnp.nan]])}
    )
    info = infos([5.0, 6.0, 7.0], present=[True, True, False])
    values, present = rule.finish(rule.partial(messages, info))
    np.testing.assert_array_equal(values['w'], [[2.0], [0.0], [1.0], [0.0]])
    np.testing.assert_array_equal(present, [1, 0, 1, 0])

  def test_fleets_meet(self):
    rule = aggregates.by_client(2)
    first, second = (
      rule.partial(aggregates.Named(jnp.array([n]), jnp.array([n + 1.0])),
                   infos([1.0]))
      for n in range(2)
    )  # fmt: skip
    values, present = rule.finish(rule.merge(first, second))
    np.testing.assert_array_equal(values, [1.0, 2.0])
    np.testing.assert_array_equal(present, [1.0, 1.0])


if __name__ == '__main__':
  absltest.main()
