"""The block that fits is the largest, found with few compilations."""

import dataclasses
import tempfile

from absl.testing import absltest, parameterized
import jax
import numpy as np

from fedjax_gen.federated import rounds, sampling
from fedjax_gen.federated.execution import memory
from fedjax_gen.federated.mapping import Mapping
from fedjax_gen.streaming import streamed
from tests.federated import toys


class _Auto(Mapping):
  """A mapping whose `'auto'` is the whole cohort, as on an accelerator."""

  def layout(self, num_clients):
    block = num_clients if self.block_size == 'auto' else self.block_size
    return dataclasses.replace(Mapping(), block_size=block).layout(num_clients)


class FittedTest(parameterized.TestCase):
  @parameterized.parameters(
    (20_000, 100, 1),  # all fit
    (1_000, 9, 2),  # what all would need tells how many do
    (150, 1, 2),
    (10, 1, 2),  # one client is not enough: nothing smaller is left
  )
  def test_the_largest_block_that_fits(self, limit, expected, num_tried):
    tried = []

    def needed(mapping):
      tried.append(mapping.block_size)
      return 100 * mapping.block_size + 10  # bytes

    mapping = memory.fitted(_Auto(), 100, needed, limit)
    self.assertEqual(mapping.block_size, expected)
    self.assertLen(tried, num_tried)

  def test_a_block_asked_for_and_an_unknown_limit_stay(self):
    for mapping, limit in ((Mapping(3), 10), (_Auto(), None)):
      self.assertIs(memory.fitted(mapping, 9, self.fail, limit), mapping)

  def test_a_runner_fits_by_what_its_program_needs(self):
    algorithm, data = toys.mean_estimation(num_features=2000), [
      toys.dataset([4] * 16, num_features=2000)
    ]  # fmt: skip
    key = jax.random.key(0)

    def run(limit):
      runner = rounds.round_runner(algorithm, mapping=_Auto())
      state = rounds.init_state(algorithm, data, key)
      with absltest.mock.patch.object(memory, 'free_bytes', return_value=limit):
        state, _ = runner(state, data, key, 1)
      return runner.mapping.block_size, state.server.variables['w']

    whole, expected = run(10**9)
    block, found = run(300_000)
    self.assertEqual(whole, 16)
    self.assertBetween(block, 1, 15)
    self.assertLess(abs(found - expected).max(), 1e-5)

  def test_so_does_a_streamed_one(self):
    algorithm = toys.mean_estimation(num_features=2000)
    data = jax.tree.map(
      np.asarray, toys.dataset([4] * 16, num_features=2000)
    )  # fmt: skip
    folder = self.enter_context(tempfile.TemporaryDirectory())
    run = streamed.streamed_runner(
      algorithm, [data], jax.random.key(0), folder=folder,
      samplers=[sampling.everyone()], mapping=_Auto(), prefetch=False,
    )  # fmt: skip
    key = jax.random.key(1)
    with absltest.mock.patch.object(memory, 'free_bytes', return_value=300_000):
      state, _ = run(run.init_state(), [data], key, 1)
    self.assertBetween(run.mapping.block_size, 1, 15)
    needed = run.temporary_bytes(state, [data], key, 1)
    self.assertBetween(needed, 1, 300_000)


if __name__ == '__main__':
  absltest.main()
