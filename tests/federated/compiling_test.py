"""Options that the compiler takes, and those that it does not know."""

from unittest import mock

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.federated.execution import compiling


class OptionsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    compiling.options.cache_clear()
    self.addCleanup(compiling.options.cache_clear)

  def test_a_program_compiles_with_them(self):
    run = jax.jit(jnp.cumsum, compiler_options=compiling.options('cpu'))
    np.testing.assert_array_equal(run(jnp.arange(4)), [0, 1, 3, 6])

  def test_there_are_none_but_on_cpu(self):
    self.assertEqual(compiling.options('gpu'), {})

  def test_one_that_this_compiler_does_not_know_is_left_out(self):
    flags = {'xla_cpu_prefer_vector_width': 256, 'xla_cpu_no_such_flag': True}
    with mock.patch.object(compiling, '_CPU', flags):
      self.assertEqual(
        compiling.options('cpu'), {'xla_cpu_prefer_vector_width': 256}
      )


if __name__ == '__main__':
  absltest.main()
