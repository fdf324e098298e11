"""The VAE's modules: sizes, shapes, conditions, statistics, bad settings."""

import dataclasses
import functools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.models import networks, vae, vae_config
from fedjax_gen.models.vae import DataSpec, VaeConfig
from tests.models.counting import num_parameters

_MNIST = DataSpec((28, 28, 1), 10)
_PUBLISHED = VaeConfig(
  model='dugdale2023', latent_size=200, conditional=False, norm='batch'
)
_TINY = VaeConfig(latent_size=2, channels=(4,), hidden_size=8)
_TINY_SPEC = DataSpec((5, 5, 1), 3)


def _shapes(config, spec):
  """The model, and its variables as shapes: nothing is computed."""
  model = vae.build_vae(config, spec)
  return model, jax.eval_shape(model.init, jax.random.key(0))


def _tiny(spec=_TINY_SPEC, **fields):
  """A model that computes in no time, and its variables."""
  model = vae.build_vae(dataclasses.replace(_TINY, **fields), spec)
  return model, jax.jit(model.init)(jax.random.key(0))


def _images(num, spec=_TINY_SPEC):
  return jax.random.uniform(jax.random.key(1), (num, *spec.shape))


class SizesTest(parameterized.TestCase):
  def test_dugdale2023_has_the_published_number_of_parameters(self):
    _, variables = _shapes(_PUBLISHED, _MNIST)
    # Kernel and bias (or scale and bias) of each layer, from the publication.
    convolutions = (9 * 1 * 16 + 16) + (9 * 16 * 32 + 32)
    heads = 2 * (24 * 24 * 32 * 200 + 200)
    expected = {'encoder': convolutions + 2 * 16 + 2 * 32 + heads}
    self.assertEqual(heads, 7_373_200)
    dense = 200 * 24 * 24 * 32 + 24 * 24 * 32
    transposed = (9 * 32 * 16 + 16) + (9 * 16 * 1 + 1)
    expected['decoder'] = dense + transposed + 2 * 16 + 2 * 1
    for name, number in expected.items():
      self.assertEqual(num_parameters({name: variables[name]}), number)
    self.assertEqual(num_parameters(variables), 11_087_731)

  @parameterized.parameters(
    {'latent_size': 199}, {'conditional': True}, {'norm': 'none'}
  )
  def test_dugdale2023_has_another_number_with_another_setting(self, **field):
    _, variables = _shapes(dataclasses.replace(_PUBLISHED, **field), _MNIST)
    self.assertNotEqual(num_parameters(variables), 11_087_731)

  def test_dugdale2023_starts_where_pytorch_starts(self):
    model = vae.build_vae(_PUBLISHED, DataSpec((8, 8, 1), 10))
    params = jax.jit(model.init)(jax.random.key(0))['decoder']['params']
    # U(-1, 1) / sqrt(fan-in), of a transposed kernel [in, out, k, k] out * k^2.
    for name, fan_in in (
      ('ConvTranspose_0', 16 * 9), ('ConvTranspose_1', 1 * 9)
    ):  # fmt: skip
      largest = jnp.abs(params[name]['kernel']).max()
      np.testing.assert_allclose(largest, fan_in**-0.5, rtol=0.03)
      self.assertLessEqual(largest, fan_in**-0.5)

  def test_running_statistics_are_not_counted_as_parameters(self):
    _, variables = _shapes(VaeConfig(norm='batch'), _MNIST)
    leaves = jax.tree.leaves(variables['encoder'])
    # A mean and a variance for each of 32 + 64 channels.
    self.assertEqual(
      num_parameters({'encoder': variables['encoder']}),
      sum(leaf.size for leaf in leaves) - 2 * (32 + 64),
    )

  @parameterized.product(
    model=vae_config.MODELS,
    shape=[(7, 7, 1), (28, 28, 1), (32, 32, 3), (30, 21, 3)],
    likelihood=['bernoulli', 'discretised_logistic'],
  )
  def test_every_model_gives_back_the_shape_of_the_images(
    self, model, shape, likelihood
  ):
    config = VaeConfig(model=model, likelihood=likelihood, norm='none')
    model, variables = _shapes(config, DataSpec(shape, 10))

    def round_trip(variables, data, labels, mask):
      inferred, _ = model.infer(variables, data, labels, None, mask)
      outputs, _ = model.decode(variables, inferred.latents, labels, mask)
      return inferred, outputs

    data = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((1,), jnp.int32)
    mask = jax.ShapeDtypeStruct((1,), bool)
    inferred, outputs = jax.eval_shape(
      round_trip, variables, data, labels, mask
    )
    # The latents, and means and log-variances of posterior and prior.
    leaves = jax.tree.leaves(inferred[:3])
    self.assertLen(leaves, 5)
    chex.assert_shape(leaves, (1, config.latent_size))
    chex.assert_shape(inferred.kl['z'], (1,))
    self.assertEqual(model.latent_sizes, {'z': config.latent_size})
    # Mean and log-scale of each value take two channels.
    per_value = 2 if likelihood == 'discretised_logistic' else 1
    self.assertEqual(outputs.shape, (1, *shape[:-1], per_value * shape[-1]))
    mean = jax.eval_shape(model.likelihood.mean, outputs)
    self.assertEqual(mean.shape, data.shape)

  def test_mlp_takes_features(self):
    spec = DataSpec((6,), 2)
    model, variables = _tiny(spec, model='mlp', likelihood='gaussian')

    @jax.jit
    def round_trip(data):
      labels = jnp.zeros(2, jnp.int32)
      inferred, _ = model.infer(variables, data, labels, None)
      return model.decode(variables, inferred.latents, labels)[0]

    self.assertEqual(round_trip(jnp.ones((2, 6))).shape, (2, 6))


class ConditionTest(parameterized.TestCase):
  @parameterized.product(model=vae_config.MODELS, conditional=[True, False])
  def test_only_a_conditional_model_reacts_to_the_label(
    self, model, conditional
  ):
    model, variables = _tiny(model=model, conditional=conditional, norm='none')
    self.assertEqual(model.conditional, conditional)
    # One image (or latent) twice, with two labels.
    data = jnp.tile(_images(1), (2, 1, 1, 1))
    latents = {'z': jnp.zeros((2, 2))}

    @jax.jit
    def apply(labels):
      inferred, _ = model.infer(variables, data, labels, None)
      return inferred.latents['z'], model.decode(variables, latents, labels)[0]

    for rows in apply(jnp.array([0, 2])):
      self.assertEqual(not np.allclose(rows[0], rows[1]), conditional)

  def test_encoder_and_decoder_start_from_different_keys(self):
    _, variables = _tiny(model='mlp', conditional=False)
    _, other = _tiny(model='mlp', conditional=False)
    chex.assert_trees_all_equal(variables, other)
    encoder, decoder = (
      variables[name]['params'] for name in ('encoder', 'decoder')
    )
    same = encoder['trunk']['Dense_1']['kernel'] == decoder['Dense_1']['kernel']
    self.assertFalse(same.any())

  def test_log_variances_are_clipped(self):
    model, variables = _tiny(model='mlp')
    variables['encoder'] = jax.tree.map(lambda a: a * 100, variables['encoder'])
    labels = jnp.zeros(8, jnp.int32)
    inferred, _ = model.infer(variables, _images(8), labels, None)
    self.assertEqual(float(abs(inferred.posterior['z'].logvar).max()), 10)

  def test_without_a_key_means_take_the_place_of_draws(self):
    model, variables = _tiny(model='mlp')
    labels = jnp.zeros(8, jnp.int32)
    infer = jax.jit(model.infer)
    at_means, _ = infer(variables, _images(8), labels, None)
    drawn, _ = infer(variables, _images(8), labels, jax.random.key(0))
    chex.assert_trees_all_equal(
      at_means.latents['z'], at_means.posterior['z'].mean
    )
    chex.assert_trees_all_close(at_means.posterior, drawn.posterior, rtol=1e-5)
    self.assertTrue((drawn.latents['z'] != at_means.latents['z']).all())
    means = model.ancestral(variables, labels, None)
    chex.assert_trees_all_equal(means, {'z': jnp.zeros((8, 2))})


@functools.partial(jax.jit, static_argnums=0)
def _encode_and_decode(model, variables, data, mask):
  labels = jnp.zeros(len(data), jnp.int32)
  inferred, encoder = model.infer(variables, data, labels, None, mask)
  # Latents that differ by row, from data so that poison reaches them.
  latents = {'z': data.reshape(len(data), -1)[:, :2]}
  outputs, decoder = model.decode(variables, latents, labels, mask)
  refreshed = {'encoder': encoder, 'decoder': decoder}
  return (inferred.posterior, outputs), refreshed


class NormTest(parameterized.TestCase):
  @parameterized.parameters(
    *((model, 'batch') for model in vae_config.MODELS), ('conv', 'group')
  )
  def test_masked_out_rows_change_nothing_for_the_others(self, model, norm):
    model, variables = _tiny(model=model, norm=norm)
    run = functools.partial(_encode_and_decode, model, variables)
    mask = jnp.array([True, True, True, False])
    clean = _images(4)
    poisoned = clean.at[3].set(100.0)
    outputs, refreshed = run(clean, mask)
    other_outputs, other_refreshed = run(poisoned, mask)
    kept = jax.tree.map(lambda leaf: leaf[:3], (outputs, other_outputs))
    chex.assert_trees_all_close(*kept, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(refreshed, other_refreshed, rtol=1e-6)
    if norm == 'batch':
      # Counted, the same row does change both.
      outputs, refreshed = run(poisoned, jnp.ones(4, bool))
      for wrong, right in (
        (outputs[1][:3], other_outputs[1][:3]),
        (refreshed, other_refreshed),
      ):
        with self.assertRaises(AssertionError):
          chex.assert_trees_all_close(wrong, right, rtol=1e-2)

  def test_running_statistics_move_by_a_tenth_of_the_batch(self):
    model, variables = _tiny(model='mlp', norm='batch', conditional=False)
    data = _images(4)
    mask = jnp.array([True, True, False, True])
    _, refreshed = _encode_and_decode(model, variables, data, mask)
    refreshed = refreshed['encoder']
    dense = variables['encoder']['params']['trunk']['Dense_0']
    hidden = data.reshape(4, -1) @ dense['kernel'] + dense['bias'][None]
    hidden = np.asarray(hidden)[np.asarray(mask)]
    moved = refreshed['batch_stats']['trunk']['Norm_0']['BatchNorm_0']
    np.testing.assert_allclose(
      moved['mean'], 0.1 * hidden.mean(axis=0), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
      moved['var'], 0.9 + 0.1 * hidden.var(axis=0), rtol=1e-4
    )
    chex.assert_trees_all_equal(
      refreshed['params'], variables['encoder']['params']
    )

  def test_without_a_mask_statistics_stay_and_rows_do_not_meet(self):
    model, variables = _tiny(model='mlp', norm='batch')
    data = _images(2)
    outputs, same = _encode_and_decode(model, variables, data, None)
    chex.assert_trees_all_equal(same, variables)
    alone, _ = _encode_and_decode(model, variables, data[:1], None)
    first = jax.tree.map(lambda leaf: leaf[:1], outputs)
    chex.assert_trees_all_close(first, alone, rtol=1e-5, atol=1e-6)

  @parameterized.parameters(4, 8, 16, 64)
  def test_group_norm_of_a_dense_layer_keeps_more_than_signs(self, width):
    # Groups of one feature would be all zero, of two plus or minus one.
    inputs = jax.random.normal(jax.random.key(0), (1, width))
    norm = networks.Norm('group')
    outputs, _ = norm.init_with_output(jax.random.key(0), inputs, None)
    sizes = np.unique(abs(np.round(outputs, 3)))
    self.assertGreater(len(sizes), width // 2)

  @parameterized.parameters('group', 'none')
  def test_other_normalisations_keep_no_statistics(self, norm):
    model, variables = _tiny(norm=norm)
    self.assertEqual(set(variables['encoder']), {'params'})
    _, same = _encode_and_decode(
      model, variables, _images(2), jnp.ones(2, bool)
    )
    chex.assert_trees_all_equal(same, variables)


class BuildTest(parameterized.TestCase):
  @parameterized.parameters(
    ({'model': 'unet'}, "model='unet'"),
    ({'norm': 'layer'}, "norm='layer'"),
    ({'latent_size': 0}, 'latent_size=0'),
    ({'hidden_size': 1.5}, 'hidden_size=1.5'),
    ({'channels': (8, 0)}, 'channels=0'),
    ({'channels': ()}, r'channels to name at least one layer, got \(\)'),
    ({'likelihood': 'poisson'}, "likelihood='poisson'"),
    (
      {'likelihood': 'gaussian', 'likelihood_stddev': -1.0},
      'likelihood_stddev=-1.0',
    ),
  )
  def test_a_bad_setting_is_named_with_its_value(self, fields, message):
    with self.assertRaisesRegex(InputError, message):
      vae.build_vae(VaeConfig(**fields), _MNIST)

  @parameterized.parameters('conv', 'dugdale2023')
  def test_image_models_refuse_features(self, model):
    config = VaeConfig(model=model, likelihood='gaussian')
    with self.assertRaisesRegex(InputError, f"'mlp' for .*model='{model}'"):
      vae.build_vae(config, DataSpec((6,), 2))

  def test_image_likelihoods_refuse_features(self):
    with self.assertRaisesRegex(InputError, "likelihood='bernoulli'"):
      vae.build_vae(
        VaeConfig(model='mlp', likelihood='bernoulli'), DataSpec((6,), 2)
      )

  def test_the_published_model_refuses_group_norm(self):
    with self.assertRaisesRegex(InputError, "norm='batch'.*norm='group'"):
      vae.build_vae(dataclasses.replace(_PUBLISHED, norm='group'), _MNIST)

  def test_data_that_do_not_fit_are_refused(self):
    with self.assertRaisesRegex(InputError, 'got 4 x 28'):
      vae.build_vae(_PUBLISHED, DataSpec((4, 28, 1), 10))
    with self.assertRaisesRegex(InputError, 'num_classes=0'):
      vae.build_vae(VaeConfig(), DataSpec((28, 28, 1), 0))


class PixelsTest(absltest.TestCase):
  def test_to_unit_and_to_pixels_are_inverse_on_every_grey_level(self):
    levels = jnp.arange(256, dtype=jnp.uint8)
    for function in (vae.to_unit, jax.jit(vae.to_unit)):
      unit = function(levels)
      self.assertEqual((float(unit.min()), float(unit.max())), (0.0, 1.0))
      for inverse in (vae.to_pixels, jax.jit(vae.to_pixels)):
        chex.assert_trees_all_equal(inverse(unit), levels)

  def test_to_pixels_rounds_and_clips_instead_of_wrapping_around(self):
    data = jnp.array([-0.3, 1.4 / 255, 1.6 / 255, 1.2])
    self.assertEqual(vae.to_pixels(data).tolist(), [0, 1, 2, 255])

  def test_to_unit_leaves_features_as_they_are(self):
    features = jnp.array([-3.0, 300.0])
    chex.assert_trees_all_equal(vae.to_unit(features), features)


if __name__ == '__main__':
  absltest.main()
