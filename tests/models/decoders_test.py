"""The families of decoders: shapes, sizes, statistics, what does not fit."""

import functools
import math

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.models import decoders
from fedjax_gen.models.decoders import Widths

_TINY = Widths(channels=(4,), hidden_size=8, norm='none')
_TINY_SHAPE = (5, 6, 1)
_DOUBLING = ('conv', 'resize', 'residual')
_NUM_LATENTS = 2
_NUM_CLASSES = 3


def _init(module, key):
  latents = jnp.zeros((1, _NUM_LATENTS))
  return module.init(key, latents, jnp.zeros((1, _NUM_CLASSES)), None)


def _shapes(name, shape, widths):
  """The module, and its variables as shapes: nothing is computed."""
  module = decoders.build(name, shape, widths)
  init = functools.partial(_init, module)
  return module, jax.eval_shape(init, jax.random.key(0))


def _output_shape(name, shape, widths):
  """Of two latents decoded while training: nothing is computed."""
  module, variables = _shapes(name, shape, widths)
  latents = jax.ShapeDtypeStruct((2, _NUM_LATENTS), jnp.float32)
  condition = jax.ShapeDtypeStruct((2, _NUM_CLASSES), jnp.float32)
  mask = jax.ShapeDtypeStruct((2,), bool)
  apply = functools.partial(module.apply, mutable=['batch_stats'])
  outputs, _ = jax.eval_shape(apply, variables, latents, condition, mask)
  return outputs.shape


def _tiny(name, shape=_TINY_SHAPE, **fields):
  """A module that computes in no time, and its variables."""
  module = decoders.build(name, shape, _TINY._replace(**fields))
  return module, jax.jit(functools.partial(_init, module))(jax.random.key(0))


def _number(variables):
  return sum(
    math.prod(leaf.shape) for leaf in jax.tree.leaves(variables['params'])
  )


class ShapesTest(parameterized.TestCase):
  @parameterized.product(
    name=list(decoders.DECODERS),
    shape=[(7, 7, 1), (28, 28, 1), (32, 32, 3), (30, 21, 3)],
  )
  def test_every_family_gives_the_shape_back(self, name, shape):
    widths = Widths((8, 6, 4), 16, 'batch')
    self.assertEqual(_output_shape(name, shape, widths), (2, *shape))

  def test_mlp_takes_features(self):
    module, variables = _shapes('mlp', (6,), _TINY)
    latents = jax.ShapeDtypeStruct((2, _NUM_LATENTS), jnp.float32)
    condition = jax.ShapeDtypeStruct((2, _NUM_CLASSES), jnp.float32)
    outputs = jax.eval_shape(module.apply, variables, latents, condition, None)
    self.assertEqual(outputs.shape, (2, 6))


class SizesTest(parameterized.TestCase):
  # (30, 21) with three doublings starts from 4 x 3.
  @parameterized.parameters('none', 'group', 'batch')
  def test_resize_has_the_parameters_of_its_layers(self, norm):
    _, variables = _shapes('resize', (30, 21, 3), Widths((8, 6, 4), 16, norm))
    dense = (5 * 16 + 16) + (16 * 48 + 48)
    convolutions = 9 * 4 * 6 + 9 * 6 * 8 + (9 * 8 * 3 + 3)
    biases = 0 if norm == 'batch' else 6 + 8
    norms = 0 if norm == 'none' else 2 * (4 + 6 + 8)
    expected = dense + convolutions + biases + norms
    self.assertEqual(_number(variables), expected)

  @parameterized.parameters('none', 'group', 'batch')
  def test_residual_has_the_parameters_of_its_layers(self, norm):
    _, variables = _shapes('residual', (30, 21, 3), Widths((8, 6, 4), 16, norm))
    dense = (5 * 16 + 16) + (16 * 48 + 48)
    steps = [(4, 6), (6, 8), (8, 8)]
    blocks = sum(i * o + 9 * i * o + 9 * o * o for i, o in steps)
    last = 9 * 8 * 3 + 3
    biases = 0 if norm == 'batch' else 2 * (6 + 8 + 8)
    norms = 0 if norm == 'none' else 2 * ((4 + 6) + (6 + 8) + (8 + 8) + 8)
    expected = dense + blocks + last + biases + norms
    self.assertEqual(_number(variables), expected)


class GradientsTest(parameterized.TestCase):
  @parameterized.parameters(
    ('resize', 'batch'), ('residual', 'batch'), ('residual', 'group')
  )
  def test_every_parameter_has_a_gradient_that_is_not_rounding(
    self, name, norm
  ):
    module, variables = _tiny(name, norm=norm)
    latents = jax.random.normal(jax.random.key(1), (6, _NUM_LATENTS))
    condition = jax.nn.one_hot(jnp.arange(6) % 3, _NUM_CLASSES)
    target = jax.random.normal(jax.random.key(2), (6, *_TINY_SHAPE))

    @jax.jit
    @jax.grad
    def gradient(params):
      outputs, _ = module.apply(
        {**variables, 'params': params},
        latents,
        condition,
        jnp.ones(6, bool),
        mutable=['batch_stats'],
      )
      return jnp.mean((outputs - target) ** 2)

    gradients = gradient(variables['params'])
    chex.assert_tree_all_finite(gradients)
    # A bias that a normalisation takes away would show here.
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
      self.assertGreater(float(jnp.max(abs(leaf))), 1e-5, msg=str(path))


@functools.partial(jax.jit, static_argnums=0)
def _apply(module, variables, latents, mask):
  condition = jax.nn.one_hot(jnp.zeros(len(latents), jnp.int32), _NUM_CLASSES)
  return module.apply(
    variables, latents, condition, mask, mutable=['batch_stats']
  )


class MaskTest(parameterized.TestCase):
  @parameterized.parameters(*decoders.DECODERS)
  def test_masked_out_rows_change_nothing_for_the_others(self, name):
    module, variables = _tiny(name, norm='batch')
    clean = jax.random.normal(jax.random.key(1), (4, _NUM_LATENTS))
    poisoned = clean.at[3].set(100.0)
    mask = jnp.array([True, True, True, False])
    outputs, refreshed = _apply(module, variables, clean, mask)
    others, others_refreshed = _apply(module, variables, poisoned, mask)
    chex.assert_trees_all_close(outputs[:3], others[:3], rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(refreshed, others_refreshed, rtol=1e-6)
    # Counted, the same row does change them.
    counted, counted_refreshed = _apply(
      module, variables, poisoned, jnp.ones(4, bool)
    )
    for right, wrong in (
      (outputs[:3], counted[:3]),
      (refreshed, counted_refreshed),
    ):
      with self.assertRaises(AssertionError):
        chex.assert_trees_all_close(right, wrong, rtol=1e-2)


class CheckerboardTest(parameterized.TestCase):
  @parameterized.parameters(('conv', True), ('resize', False),
                            ('residual', False))  # fmt: skip
  def test_an_even_grid_stays_even_but_for_transposed_convolutions(
    self, name, uneven
  ):
    module, variables = _tiny(name, (12, 12, 1))
    params = dict(variables['params'])
    dense = params['Dense_1']
    # The base grid is one everywhere, whatever the latents.
    params['Dense_1'] = {
      'kernel': jnp.zeros_like(dense['kernel']),
      'bias': jnp.ones_like(dense['bias']),
    }
    outputs, _ = _apply(
      module, {'params': params}, jnp.zeros((1, _NUM_LATENTS)), None
    )
    # Padding is felt up to three pixels from the edge.
    inner = np.asarray(outputs)[0, 3:-3, 3:-3, 0]
    self.assertEqual(np.ptp(inner) > 1e-2, uneven)
    if not uneven:
      np.testing.assert_allclose(inner, inner[0, 0], atol=1e-5)


class BuildTest(parameterized.TestCase):
  @parameterized.parameters(
    ({'norm': 'layer'}, "norm='layer'"),
    ({'hidden_size': 0}, 'hidden_size=0'),
    ({'channels': (8, 0)}, 'channels=0'),
  )
  def test_a_bad_width_is_named_with_its_value(self, fields, message):
    with self.assertRaisesRegex(InputError, message):
      decoders.build('mlp', (8, 8, 1), _TINY._replace(**fields))

  def test_an_unknown_family_is_named(self):
    with self.assertRaisesRegex(InputError, "residual.*got decoder='unet'"):
      decoders.build('unet', (8, 8, 1), _TINY)

  @parameterized.parameters(*_DOUBLING, 'dugdale2023')
  def test_families_for_images_refuse_features(self, name):
    message = (
      "Expected decoder='mlp' for features of shape (6,), got "
      f"decoder='{name}', which needs images."
    )
    with self.assertRaises(InputError) as raised:
      decoders.build(name, (6,), _TINY)
    self.assertEqual(str(raised.exception), message)

  @parameterized.parameters(*_DOUBLING)
  def test_doublings_need_channels(self, name):
    with self.assertRaisesRegex(InputError, r'at least one layer, got \(\)'):
      decoders.build(name, (8, 8, 1), _TINY._replace(channels=()))

  @parameterized.parameters('mlp', 'dugdale2023')
  def test_families_without_doublings_need_none(self, name):
    widths = _TINY._replace(channels=())
    self.assertEqual(_output_shape(name, (8, 8, 1), widths), (2, 8, 8, 1))

  def test_the_published_family_refuses_what_does_not_fit(self):
    with self.assertRaisesRegex(InputError, "'batch'.*got norm='group'"):
      decoders.build('dugdale2023', (8, 8, 1), _TINY._replace(norm='group'))
    for shape in ((4, 28, 1), (28, 4, 1)):
      with self.assertRaisesRegex(InputError, f'got {shape[0]} x {shape[1]}'):
        decoders.build('dugdale2023', shape, _TINY)
    decoders.build('dugdale2023', (5, 5, 1), _TINY)


if __name__ == '__main__':
  absltest.main()
