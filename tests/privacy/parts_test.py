"""Clients that keep a part: what is sent, what stays, and in which order."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen.federated.algorithm import ClientKeys
from fedjax_gen.privacy.steps import parts
from fedjax_gen.privacy.steps.descent import Parts
from fedjax_gen.privacy.steps.parts import StepResult
from tests.federated import toys

_DATA = toys.dataset([6, 4])
_KEY = jax.random.key(0)
_VIEW = jnp.array([1.0, -2.0])


def _step(shared, own, own_state, data, key):
  """A gradient that is known: the shared part plus the own one."""
  del data, key
  gradient = shared + own
  return StepResult(gradient, own + 1.0, own_state + 1, {'own': own.sum()})


def _program(shared_optimizer, num_steps=1, step=_step, **fields):
  return parts.client_program(
    step,
    init=lambda key: Parts(
      shared=jnp.zeros(2), own=jax.random.normal(key, (2,))
    ),
    own_optimizer=optax.GradientTransformation(
      lambda own: jnp.zeros((), jnp.int32), lambda *args: args
    ),
    shared_optimizer=shared_optimizer,
    num_steps=num_steps,
    **fields,
  )


def _update(program, kept=None):
  if kept is None:
    kept = program.init(_KEY, None)._replace(own=jnp.array([0.5, 0.5]))
  data = _DATA.client(jnp.int32(0))
  return program.update(_VIEW, kept, data, ClientKeys(_KEY, _KEY))


class ClientProgramTest(parameterized.TestCase):
  def test_a_client_begins_with_its_own_part_alone(self):
    kept = _program(None).init(_KEY, None)
    np.testing.assert_allclose(kept.own, jax.random.normal(_KEY, (2,)))
    self.assertEqual(kept.shared_state, ())
    self.assertEqual(_program(optax.adam(0.1)).init(_KEY, None)[2], ())

  def test_gradients_are_sent_as_they_are(self):
    message, kept, metrics = _update(_program(None))
    np.testing.assert_allclose(message, _VIEW + 0.5)
    np.testing.assert_allclose(kept.own, [1.5, 1.5])
    self.assertEqual(kept.own_state, 1)
    self.assertEqual(kept.shared_state, ())
    self.assertEqual(metrics, {'own': 1.0})

  def test_many_steps_send_what_they_changed(self):
    message, kept, metrics = _update(_program(optax.sgd(0.1), 3))
    shared, own = np.array(_VIEW), np.array([0.5, 0.5])
    for _ in range(3):
      shared, own = shared - 0.1 * (shared + own), own + 1
    np.testing.assert_allclose(message, _VIEW - shared, rtol=1e-5)
    np.testing.assert_allclose(kept.own, own)
    self.assertEqual(kept.own_state, 3)
    np.testing.assert_allclose(metrics['own'], 3.0)  # the mean of 1, 3, 5

  def test_every_step_has_a_key_of_its_own(self):
    def step(shared, own, own_state, data, key):
      del own, data
      drawn = jax.random.normal(key, (2,))
      return StepResult(shared * 0, drawn, own_state, {})

    seen = [
      _update(_program(optax.sgd(0.1), count, step))[1].own for count in (1, 2)
    ]
    for i, own in enumerate(seen):
      expected = jax.random.normal(jax.random.fold_in(_KEY, i), (2,))
      np.testing.assert_allclose(own, expected)

  @parameterized.parameters(True, False)
  def test_the_state_of_the_copys_optimizer_is_kept_if_asked(self, keep):
    program = _program(optax.adam(0.1), 2, keep_shared_state=keep)
    _, kept, _ = _update(program)
    again, later, _ = _update(program, kept._replace(own=jnp.full(2, 0.5)))
    first, _, _ = _update(program)
    if keep:
      self.assertEqual(int(kept.shared_state[0].count), 2)
      self.assertEqual(int(later.shared_state[0].count), 4)
      self.assertGreater(float(jnp.abs(again - first).max()), 1e-3)
    else:
      self.assertEqual(kept.shared_state, ())
      np.testing.assert_allclose(again, first)


class JointStepTest(absltest.TestCase):
  def step(self, **fields):
    def gradient(variables, data, key):
      del data, key
      self.seen = variables
      return jax.tree.map(lambda leaf: 2 * leaf, variables), {'loss': 1.0}

    optimizer = optax.sgd(0.5)
    step = parts.joint_step(gradient, optimizer, **fields)
    own = jnp.array([3.0, 4.0])
    return step(
      _VIEW, own, optimizer.init(own), _DATA.client(jnp.int32(0)), _KEY
    )

  def test_both_parts_are_taken_at_one_point(self):
    result = self.step()
    np.testing.assert_allclose(result.gradient, 2 * _VIEW)
    np.testing.assert_allclose(result.own, [0.0, 0.0])
    np.testing.assert_allclose(self.seen['own'], [3.0, 4.0])
    self.assertEqual(result.metrics, {'loss': 1.0})

  def test_the_regulariser_is_added_and_the_result_projected(self):
    def regulariser(variables, key):
      drawn = jax.random.normal(key, ())
      return drawn * 0 + variables['shared'].sum() + 10 * variables['own'].sum()

    result = self.step(
      regulariser=regulariser, project=lambda own: jnp.maximum(own, -1.0)
    )
    np.testing.assert_allclose(result.gradient, 2 * _VIEW + 1)
    # 3 - (6 + 10) / 2 and 4 - (8 + 10) / 2, both beyond -1.
    np.testing.assert_allclose(result.own, [-1.0, -1.0])
    free = self.step(regulariser=regulariser)
    np.testing.assert_allclose(free.own, [-5.0, -5.0])


if __name__ == '__main__':
  absltest.main()
