"""VAEs of series and tables: shapes, and what a flag leaves out."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import kinds
from fedjax_gen.data.federated import Batch
from fedjax_gen.errors import InputError
from fedjax_gen.kinds import Block, DataSpec
from fedjax_gen.models import elbo, vae
from fedjax_gen.models.vae import VaeConfig

_SERIES = DataSpec((7, 3), 2, (Block('number', flag=2),) * 2 + (Block('flag'),))
_TABLE = DataSpec((5,), 2, (Block('number', flag=1), Block('flag'),
                            Block('category', 3)))  # fmt: skip
_SMALL = {'channels': (4, 6), 'hidden_size': 8, 'latent_size': 2}


class KindsModelsTest(parameterized.TestCase):
  @parameterized.parameters(
    (_SERIES, 'auto', 2),
    (_SERIES, 'conv', 2),
    (_SERIES, 'mlp', 2),
    (_TABLE, 'auto', 1),
    (_TABLE, 'mlp', 1),
  )
  def test_outputs_are_places_and_learned_scales(self, spec, model, scales):
    built = vae.build_vae(VaeConfig(model=model, **_SMALL), spec)
    self.assertEqual(built.likelihood.name, 'mixed')
    variables = jax.eval_shape(built.init, jax.random.key(0))
    learned = variables['decoder']['params']['log_scales']
    self.assertEqual(learned.shape, (scales,))
    outputs, _ = jax.eval_shape(
      built.decode, variables, {'z': jnp.zeros((4, 2))}, jnp.zeros(4, int)
    )
    self.assertEqual(
      outputs.shape, (4, *spec.shape[:-1], spec.shape[-1] + scales)
    )
    key = jax.random.key(0)
    made = jax.eval_shape(built.likelihood.generated, key, outputs)
    self.assertEqual(made.shape, (4, *spec.shape))

  def test_what_was_not_observed_has_no_gradient_and_no_weight(self):
    built = vae.build_vae(VaeConfig(**_SMALL, norm='none'), _TABLE)
    variables = built.init(jax.random.key(0))
    loss_fn = elbo.elbo_loss(built, beta=0.0)
    rows = jnp.array([[0.0, 0.0, 1.0, 0.0, 0.0]] * 3)
    batch = Batch(rows, jnp.zeros(3, int), jnp.ones(3, bool))
    gradients = jax.jit(
      jax.grad(lambda v: loss_fn(v, batch, jax.random.key(1))[0])
    )(variables)
    scales = gradients['decoder']['params']['log_scales']
    np.testing.assert_array_equal(scales, 0)
    kernel = gradients['decoder']['params']['decoder']['Dense_2']['kernel']
    np.testing.assert_array_equal(kernel[:, 0], 0)
    self.assertGreater(float(jnp.abs(kernel[:, 1:]).sum()), 0)

  @parameterized.parameters(
    (_TABLE, {'model': 'conv'}, "model='mlp' for table"),
    (_SERIES, {'model': 'dugdale2023'}, "model='conv' or 'mlp' for series"),
    (_SERIES, {'likelihood': 'gaussian'}, "likelihood='mixed' for series"),
    (_SERIES, {'decoder': 'resize'}, 'needs images'),
  )
  def test_what_does_not_fit_a_kind_is_refused(self, spec, fields, message):
    with self.assertRaisesRegex(InputError, message):
      vae.build_vae(VaeConfig(**fields, **_SMALL), spec)

  def test_defaults_of_images_are_what_they_were(self):
    spec = DataSpec((5, 5, 1), 3)
    named = VaeConfig(model='conv', likelihood='gaussian', **_SMALL)
    shapes = [
      jax.eval_shape(vae.build_vae(config, spec).init, jax.random.key(0))
      for config in (VaeConfig(**_SMALL), named)
    ]
    self.assertEqual(*shapes)
    with self.assertRaisesRegex(InputError, r'got examples of shape \[1, 2\]'):
      kinds.of_shape((1, 2))


if __name__ == '__main__':
  absltest.main()
