"""The clients' Adam against optax's."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen.federated import optimizers

_PARAMS = {'kernel': jnp.ones((3, 4)), 'bias': jnp.zeros(4)}


def _gradients(seed):
  """Of sizes from 1e-12 to 1e3, and a zero: eps matters at one end."""
  rng = np.random.default_rng(seed)

  def draw(leaf):
    scale = 10.0 ** rng.uniform(-12, 3, leaf.shape)
    return jnp.asarray(rng.normal(size=leaf.shape) * scale, jnp.float32)

  gradients = jax.tree.map(draw, _PARAMS)
  gradients['bias'] = gradients['bias'].at[0].set(0.0)
  return gradients


def _run(optimizer, num_steps):
  state, all_updates = optimizer.init(_PARAMS), []
  update = jax.jit(optimizer.update)
  for step in range(num_steps):
    updates, state = update(_gradients(step), state, _PARAMS)
    all_updates.append(updates)
  return all_updates, state


class AdamTest(parameterized.TestCase):
  @parameterized.parameters(
    ({},),
    ({'b1': 0.5},),
    ({'b1': 0.0, 'b2': 0.99, 'eps': 1e-3},),
  )
  def test_steps_and_state_are_those_of_optax(self, rates):
    ours, our_state = _run(optimizers.adam(2e-3, **rates), 6)
    theirs, their_state = _run(optax.adam(2e-3, **rates), 6)
    # Rounding of a step is relative; 1 - 0.999^t is known to some 1e-5.
    chex.assert_trees_all_close(ours, theirs, rtol=2e-5)
    chex.assert_trees_all_close(our_state, their_state, rtol=1e-6)
    chex.assert_trees_all_equal_structs(our_state, their_state)
    other, _ = _run(optax.adam(2e-3, b1=0.8), 6)
    with self.assertRaises(AssertionError):
      chex.assert_trees_all_close(ours, other, rtol=1e-2)

  def test_a_state_of_optax_is_taken_up(self):
    _, state = _run(optax.adam(2e-3), 3)
    gradients = _gradients(9)
    ours, _ = optimizers.adam(2e-3).update(gradients, state)
    theirs, _ = optax.adam(2e-3).update(gradients, state)
    chex.assert_trees_all_close(ours, theirs, rtol=2e-5)

  def test_parts_have_optimizers_of_their_own(self):
    rates = {'kernel': 1e-3, 'bias': 1e-2}

    def partition(adam):
      return optax.partition(
        {name: adam(rate) for name, rate in rates.items()},
        {name: name for name in rates},
      )

    ours, _ = _run(partition(optimizers.adam), 2)
    theirs, _ = _run(partition(optax.adam), 2)
    chex.assert_trees_all_close(ours, theirs, rtol=2e-5)


if __name__ == '__main__':
  absltest.main()
