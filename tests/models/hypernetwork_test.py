"""The hypernetwork's decoders, priors and encoders, and what codes do."""

import dataclasses
import functools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.models.hyper import hyper_config, hyper_layers, hypernetwork
from fedjax_gen.models.hyper.hypernetwork import HyperVaeConfig
from fedjax_gen.models.vae import DataSpec
from tests.models.counting import num_parameters

_SPEC = DataSpec((5,), 3)
_TINY = HyperVaeConfig(
  latent_size=2, hidden_sizes=(6, 4), code_size=3, hyper_size=8
)
_LABELS = jnp.array([0, 2, 1, 2])


@functools.cache
def _model(**fields):
  return hypernetwork.build_hyper_vae(
    dataclasses.replace(_TINY, **fields), _SPEC
  )


@functools.cache
def _start(model):
  """What all share, and a client's own, at first."""
  return jax.jit(
    lambda: (
      model.init(jax.random.key(0)),
      model.init_client(jax.random.key(1)),
    )
  )()


def _trained(model, size=0.5):
  """The same with nothing left as it was, filled by NumPy."""
  shapes = jax.eval_shape(
    lambda key: (model.init(key), model.init_client(key)), jax.random.key(0)
  )
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: jnp.asarray(size * rng.standard_normal(leaf.shape), 'f4'),
    shapes,
  )


def _normal(seed, *shape):
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, 'f4')


def _dense(layers, inputs):
  """Layers of `(kernel, bias)` with ReLU between them, by NumPy in float64."""
  for index, (kernel, bias) in enumerate(layers):
    if index:
      inputs = np.maximum(inputs, 0)
    inputs = inputs @ np.float64(kernel) + np.float64(bias)
  return inputs


def _joined(inputs, labels=_LABELS):
  return np.concatenate([np.float64(inputs), np.eye(3)[labels]], axis=1)


class SizesTest(parameterized.TestCase):
  @parameterized.parameters(
    ('row_scaled', 758_144), ('full', 46_138_752), ('constant', 357_632)
  )
  def test_models_have_the_number_of_parameters_of_their_description(
    self, head, expected
  ):
    config = HyperVaeConfig(
      latent_size=100,
      hidden_sizes=(256, 256, 256),
      code_size=32,
      hyper_size=128,
      head=head,
      prior='standard',
    )
    model = hypernetwork.build_hyper_vae(config, DataSpec((768,), 11))
    hyper = jax.eval_shape(model.init, jax.random.key(0))
    self.assertEqual(num_parameters(hyper), expected)
    if head != 'full':
      self.assertEqual(num_parameters({'base': hyper['base']}), 357_632)
    own = jax.eval_shape(model.init_client, jax.random.key(0))
    self.assertEqual(num_parameters({'encoder': own['encoder']}), 382_664)

  @parameterized.product(head=hyper_config.HEADS, prior=hyper_config.PRIORS)
  def test_modules_that_a_configuration_lacks_are_absent(self, head, prior):
    model = _model(head=head, prior=prior)
    expected = {
      'base': head != 'full',
      'decoder_head': head != 'constant',
      'prior_head': prior == 'generated',
    }
    hyper = jax.eval_shape(model.init, jax.random.key(0))
    self.assertEqual(
      set(hyper), {name for name, there in expected.items() if there}
    )
    own = jax.eval_shape(model.init_client, jax.random.key(0))
    uses_code = head != 'constant' or prior == 'generated'
    self.assertEqual('code' in own, uses_code)
    self.assertEqual(model.config.uses_code, uses_code)

  def test_a_model_is_hashable_with_sizes_given_as_a_list(self):
    config = dataclasses.replace(_TINY, hidden_sizes=[4])
    model = hypernetwork.build_hyper_vae(config, _SPEC)
    self.assertIsInstance(hash(model), int)


class StartTest(parameterized.TestCase):
  @parameterized.parameters(*hyper_config.HEADS)
  def test_every_client_starts_with_the_base_decoder_and_a_standard_prior(
    self, head
  ):
    model = _model(head=head)
    hyper, own = _start(model)
    base = hyper_layers.layers_of(_start(_model())[0]['base'])
    latents = _normal(2, 4, 2)
    expected = hyper_layers.decode(base, (), _joined(latents))
    for code in (own['code'], jnp.zeros(3)):
      personal = model.personalise(hyper, code)
      # To the bit, and the same one whatever the head.
      chex.assert_trees_all_equal(
        model.decode(hyper, personal, latents, _LABELS), expected
      )
      chex.assert_trees_all_equal(
        personal.prior, hypernetwork.Gaussian(*[jnp.zeros((3, 2))] * 2)
      )

  def test_scales_start_at_one_and_shifts_at_zero(self):
    model = _model()
    hyper, own = _start(model)
    decoder = model.personalise(hyper, own['code']).decoder
    self.assertLen(decoder, 3)
    for layer, size in zip(decoder, (6, 4, 5), strict=True):
      np.testing.assert_array_equal(layer['scale'], np.ones(size))
      np.testing.assert_array_equal(layer['shift'], np.zeros(size))

  def test_ablations_start_with_the_same_modules(self):
    hyper, _ = _start(_model())
    for fields in ({'head': 'constant'}, {'prior': 'standard'}):
      other, _ = _start(_model(**fields))
      for name, module in other.items():
        chex.assert_trees_all_equal(module, hyper[name])

  @parameterized.parameters('row_scaled', 'full')
  def test_the_first_gradient_reaches_the_heads_and_not_only_the_base(
    self, head
  ):
    model = _model(head=head)
    hyper, own = _start(model)

    @jax.jit
    @jax.grad
    def gradient(hyper):
      personal = model.personalise(hyper, own['code'])
      latents = hypernetwork.sample_latents(
        personal, _LABELS, jax.random.key(2)
      )
      return jnp.sum(model.decode(hyper, personal, latents, _LABELS) ** 2)

    gradients = gradient(hyper)
    kernels = {
      'decoder_head': gradients['decoder_head']['params']['Dense_1'],
      'prior_head': gradients['prior_head']['params']['joint']['Dense_1'],
    }
    for layer in kernels.values():
      self.assertGreater(jnp.abs(layer['kernel']).max(), 1e-4)

  def test_clients_start_with_codes_and_encoders_of_their_own(self):
    model = _model()
    init = jax.jit(model.init_client)
    first, second = (init(jax.random.key(seed)) for seed in (0, 1))
    self.assertGreater(jnp.abs(first['code'] - second['code']).max(), 0.1)
    kernels = [own['encoder']['params']['Dense_0'] for own in (first, second)]
    self.assertGreater(
      jnp.abs(kernels[0]['kernel'] - kernels[1]['kernel']).max(), 0.1
    )


class ForwardTest(parameterized.TestCase):
  def test_row_scaled_decoders_scale_the_columns_of_flax_kernels(self):
    model = _model()
    hyper, own = _trained(model)
    latents = _normal(2, 4, 2)
    personal = model.personalise(hyper, own['code'])
    layers = [
      (
        np.float64(base['kernel']) @ np.diag(np.float64(mine['scale'])),
        np.float64(base['bias']) + np.float64(mine['shift']),
      )
      for base, mine in zip(
        hyper_layers.layers_of(hyper['base']), personal.decoder, strict=True
      )
    ]
    # All outputs of the head are in use, none for two purposes.
    values = np.concatenate(
      [
        np.concatenate([mine[name] for mine in personal.decoder])
        for name in ('scale', 'shift')
      ]
    )
    head = hyper['decoder_head']['params']
    hidden = np.tanh(
      np.float64(own['code']) @ head['Dense_0']['kernel']
      + head['Dense_0']['bias']
    )
    raw = hidden @ head['Dense_1']['kernel'] + head['Dense_1']['bias']
    raw = np.asarray(raw) + (np.arange(30) < 15)
    np.testing.assert_allclose(values, raw, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
      model.decode(hyper, personal, latents, _LABELS),
      _dense(layers, _joined(latents)),
      rtol=1e-4,
      atol=1e-5,
    )

  def test_full_decoders_are_the_dense_layers_that_the_head_writes(self):
    model = _model(head='full')
    hyper, own = _trained(model)
    latents = _normal(2, 4, 2)
    personal = model.personalise(hyper, own['code'])
    shapes = [layer['kernel'].shape for layer in personal.decoder]
    self.assertEqual(shapes, [(5, 6), (6, 4), (4, 5)])
    layers = [(layer['kernel'], layer['bias']) for layer in personal.decoder]
    np.testing.assert_allclose(
      model.decode(hyper, personal, latents, _LABELS),
      _dense(layers, _joined(latents)),
      rtol=1e-4,
      atol=1e-5,
    )

  def test_layers_come_back_from_the_vector_they_are_written_to(self):
    sizes = (5, 6, 4)
    flat = jnp.arange(float(hyper_layers.num_weights(sizes)))
    layers = hyper_layers.layers_from_flat(flat, sizes)
    self.assertEqual(flat.size, 5 * 6 + 6 + 6 * 4 + 4)
    chex.assert_trees_all_equal(hyper_layers.flat_from_layers(layers), flat)

  def test_encoders_are_dense_layers_of_data_and_label(self):
    model = _model()
    _, own = _trained(model)
    encoder, inputs = own['encoder'], _normal(2, 4, 5)
    layers = [
      (layer['kernel'], layer['bias'])
      for layer in hyper_layers.layers_of(encoder)
    ]
    expected = _dense(layers, _joined(inputs))
    posterior = model.infer(encoder, inputs, _LABELS)
    np.testing.assert_allclose(posterior.mean, expected[:, :2], atol=1e-4)
    np.testing.assert_allclose(posterior.logvar, expected[:, 2:], atol=1e-4)

  @parameterized.parameters(*hyper_config.HEADS)
  def test_a_record_is_what_it_is_alone_whatever_its_batch(self, head):
    model = _model(head=head)
    hyper, own = _trained(model)
    personal = model.personalise(hyper, own['code'])
    inputs = _normal(2, 4, 5)

    @jax.jit
    def apply(inputs, labels):
      posterior = model.infer(own['encoder'], inputs, labels)
      outputs = model.decode(hyper, personal, posterior.mean, labels)
      return posterior, outputs

    def alone(one, label):
      return jax.tree.map(lambda a: a[0], apply(one[None], label[None]))

    for index in (0, 3):
      row = jax.tree.map(lambda a, i=index: a[i], apply(inputs, _LABELS))
      chex.assert_trees_all_close(
        row, alone(inputs[index], _LABELS[index]), atol=1e-5
      )


class CodeTest(parameterized.TestCase):
  @parameterized.parameters('row_scaled', 'full')
  def test_codes_make_decoders_and_priors_differ(self, head):
    model = _model(head=head)
    hyper = _trained(model)[0]
    one, other = (
      model.personalise(hyper, jnp.full(3, value)) for value in (-1.0, 1.0)
    )
    for left, right in zip(*map(jax.tree.leaves, (one, other)), strict=True):
      self.assertGreater(jnp.abs(left - right).max(), 0.01)
    # A client's prior is of the class too.
    self.assertGreater(jnp.abs(one.prior.mean[0] - one.prior.mean[1]).min(), 0)

  def test_a_constant_decoder_knows_no_code(self):
    model = _model(head='constant', prior='standard')
    hyper = _trained(model)[0]
    chex.assert_trees_all_equal(
      model.personalise(hyper, None), model.personalise(hyper, jnp.ones(3))
    )

  def test_generated_log_variances_are_clipped(self):
    model = _model()
    hyper = _trained(model, size=1e3)[0]
    logvar = model.personalise(hyper, jnp.ones(3)).prior.logvar
    self.assertEqual(logvar.max(), 8.0)
    self.assertEqual(logvar.min(), -8.0)

  def test_codes_are_brought_back_into_the_ball_and_left_alone_within(self):
    model = _model(code_radius=2.0)
    radius = 2 * 3**0.5
    own = {'encoder': {'kept': jnp.ones(2)}, 'code': jnp.array([3.0, 4.0, 0.0])}
    projected = model.project(own)
    np.testing.assert_allclose(
      projected['code'], np.array([0.6, 0.8, 0]) * radius, rtol=1e-6
    )
    chex.assert_trees_all_equal(projected['encoder'], own['encoder'])
    inside = {'code': jnp.array([1.0, -2.0, 0.5])}
    chex.assert_trees_all_equal(model.project(inside), inside)
    gradient = jax.grad(lambda c: model.project({'code': c})['code'].sum())
    np.testing.assert_array_equal(gradient(jnp.zeros(3)), np.ones(3))

  def test_first_codes_lie_in_the_ball(self):
    model = _model(code_radius=0.5)
    keys = jax.random.split(jax.random.key(0), 50)
    codes = jax.jit(jax.vmap(model.init_client))(keys)['code']
    lengths = np.linalg.norm(codes, axis=1)
    self.assertLessEqual(lengths.max(), 0.5 * 3**0.5 + 1e-6)

  def test_clipped_gradients_of_records_are_one_pull_back(self):
    # Of one client, sum_j c_j grad_Phi J_j is the pull-back of sum_j c_j u_j,
    # u_j being the gradient with respect to decoder and prior.
    model = _model(head='full')
    hyper, own = _trained(model)
    weights, latents = jnp.array([0.1, 1.0, 0.0, 0.5]), _normal(2, 4, 2)

    def loss(personal, latent, label):
      outputs = model.decode(hyper, personal, latent[None], label[None])
      return jnp.sum(outputs**2) + jnp.sum(personal.prior.mean[label] ** 3)

    def record(hyper, latent, label):
      return loss(model.personalise(hyper, own['code']), latent, label)

    @jax.jit
    def both(hyper):
      each = jax.vmap(jax.grad(record), (None, 0, 0))(hyper, latents, _LABELS)
      expected = jax.tree.map(lambda g: jnp.tensordot(weights, g, 1), each)
      personal, pull_back = jax.vjp(
        lambda hyper: model.personalise(hyper, own['code']), hyper
      )
      u = jax.vmap(jax.grad(loss), (None, 0, 0))(personal, latents, _LABELS)
      total = jax.tree.map(lambda g: jnp.tensordot(weights, g, 1), u)
      return expected, pull_back(total)[0]

    expected, pulled = both(hyper)
    chex.assert_trees_all_close(pulled, expected, rtol=1e-3, atol=1e-4)
    largest = max(jnp.abs(g).max() for g in jax.tree.leaves(expected))
    self.assertGreater(largest, 0.1)


class LipschitzTest(parameterized.TestCase):
  def test_spectral_norm_bounds_how_far_apart_codes_take_decoders(self):
    model = _model(lipschitz='spectral_norm', lipschitz_target=0.5)
    hyper = _trained(model, size=3.0)[0]
    codes = _normal(2, 30, 3)
    personals, free = jax.jit(
      lambda codes: tuple(
        jax.vmap(functools.partial(m.personalise, hyper))(codes)
        for m in (model, _model())
      )
    )(codes)
    flat = np.concatenate(
      [leaf.reshape(30, -1) for leaf in jax.tree.leaves(personals.decoder)], 1
    )
    far = np.linalg.norm(flat[1:] - flat[:-1], axis=1)
    apart = np.linalg.norm(codes[1:] - codes[:-1], axis=1)
    # Two layers, each at most 0.5; free they are far above.
    self.assertLessEqual(np.max(far / apart), 0.25 * (1 + 1e-4))
    far = free.decoder[0]['scale']
    far = np.linalg.norm(far[1:] - far[:-1], axis=1)
    self.assertGreater(np.max(far / apart), 0.25)

  def test_the_penalty_is_of_the_heads_and_not_of_the_base(self):
    model = _model(lipschitz='spectral_penalty')
    hyper, own = _trained(model, size=3.0)
    gradients = jax.jit(jax.grad(model.regulariser))(
      hyper, own, jax.random.key(2)
    )
    for name, module in gradients.items():
      moved = any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(module))
      self.assertEqual(moved, name != 'base', name)

  def test_the_jacobian_is_of_the_code(self):
    model = _model(lipschitz='jacobian')
    hyper, own = _trained(model)
    jacobian = jax.jit(
      jax.jacobian(functools.partial(model.personalise, hyper))
    )
    expected = sum(
      jnp.sum(leaf**2) for leaf in jax.tree.leaves(jacobian(own['code']))
    )
    keys = jax.random.split(jax.random.key(2), 5000)
    values = jax.jit(jax.vmap(lambda key: model.regulariser(hyper, own, key)))(
      keys
    )
    standard_error = values.std() / len(keys) ** 0.5
    self.assertLess(abs(values.mean() - expected), 4 * standard_error)

  @parameterized.parameters(
    {'lipschitz': 'none'},
    {'lipschitz': 'spectral_norm'},
    {'lipschitz': 'jacobian', 'head': 'constant', 'prior': 'standard'},
    {'lipschitz': 'spectral_penalty', 'head': 'constant', 'prior': 'standard'},
  )
  def test_there_is_no_penalty_where_there_is_nothing_to_penalise(
    self, **fields
  ):
    model = _model(**fields)
    hyper, own = _trained(model)
    value = jax.jit(model.regulariser)(hyper, own, jax.random.key(2))
    self.assertEqual((value, value.shape), (0.0, ()))


class GenerateTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.model = _model(likelihood_stddev=0.7)
    self.hyper, own = _trained(self.model)
    self.personal = self.model.personalise(self.hyper, own['code'])

  def _generate(self, labels, **options):
    return hypernetwork.generate(
      self.model,
      self.hyper,
      self.personal,
      jnp.asarray(labels),
      jax.random.key(5),
      **options,
    )

  def test_latents_have_the_moments_of_the_prior_of_their_class(self):
    labels = jnp.repeat(jnp.array([2, 0]), 20_000)
    latents = hypernetwork.sample_latents(
      self.personal, labels, jax.random.key(3)
    ).reshape(2, 20_000, 2)
    prior = self.personal.prior
    for rows, label in zip(latents, (2, 0), strict=True):
      stddev = np.exp(prior.logvar[label] / 2)
      np.testing.assert_allclose(
        rows.mean(axis=0), prior.mean[label], atol=0.05 * stddev.max()
      )
      np.testing.assert_allclose(rows.std(axis=0), stddev, rtol=0.05)

  def test_embedding_i_depends_on_the_key_and_i_alone(self):
    few, many = self._generate([1, 2]), self._generate([1, 2, 0, 0, 1])
    self.assertEqual(many.shape, (5, 5))
    np.testing.assert_allclose(few, many[:2], rtol=1e-5, atol=1e-6)
    self.assertGreater(jnp.abs(many[2] - many[3]).max(), 1e-3)

  def test_draws_are_the_means_and_noise_of_the_likelihood(self):
    labels = np.tile([0, 1], 2000)
    noise = self._generate(labels, draw=True) - self._generate(labels)
    self.assertLess(abs(noise.mean()), 0.02)
    np.testing.assert_allclose(noise.std(axis=0), np.full(5, 0.7), rtol=0.05)

  def test_noise_is_not_that_of_the_latents(self):
    labels = jnp.zeros(3000, jnp.int32)
    noise = self._generate(labels, draw=True) - self._generate(labels)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
      jax.random.key(5), jnp.arange(3000)
    )
    latents = jax.jit(
      jax.vmap(
        lambda key: hypernetwork.sample_latents(self.personal, labels[:1], key)
      )
    )(keys)[:, 0]
    both = np.corrcoef(np.concatenate([noise, latents], axis=1).T)
    self.assertLess(np.abs(both[:5, 5:]).max(), 0.1)


class NormalisedTest(parameterized.TestCase):
  def test_standardised_embeddings_have_mean_zero_and_deviation_one(self):
    outputs = hypernetwork.normalised(3 + 2 * _normal(0, 4, 50), 'standardise')
    np.testing.assert_allclose(outputs.mean(axis=1), np.zeros(4), atol=1e-5)
    np.testing.assert_allclose(outputs.std(axis=1), np.ones(4), rtol=1e-5)

  def test_a_sphere_keeps_directions_at_the_root_of_the_dimension(self):
    inputs = 3 + 2 * _normal(0, 4, 50)
    outputs = hypernetwork.normalised(inputs, 'sphere')
    lengths = np.linalg.norm(outputs, axis=1)
    np.testing.assert_allclose(lengths, np.full(4, 50**0.5), rtol=1e-5)
    cosines = jnp.sum(inputs * outputs, axis=1) / (
      lengths * np.linalg.norm(inputs, axis=1)
    )
    np.testing.assert_allclose(cosines, np.ones(4), rtol=1e-5)

  @parameterized.parameters(*hypernetwork.NORMALISATIONS)
  def test_each_is_normalised_by_itself_and_zeros_stay(self, how):
    inputs = jnp.concatenate([_normal(0, 3, 6), jnp.zeros((1, 6))])
    outputs = hypernetwork.normalised(inputs, how)
    np.testing.assert_array_equal(outputs[3], np.zeros(6))
    np.testing.assert_allclose(
      outputs[1], hypernetwork.normalised(inputs[1], how), rtol=1e-6
    )
    if how == 'none':
      np.testing.assert_array_equal(outputs, inputs)

  def test_an_unknown_normalisation_is_refused(self):
    with self.assertRaisesRegex(InputError, "got normalise='minmax'"):
      hypernetwork.normalised(jnp.ones((1, 2)), 'minmax')


class MistakesTest(parameterized.TestCase):
  @parameterized.parameters(
    ({'head': 'rows'}, "got head='rows'"),
    ({'prior': 'mixture'}, "got prior='mixture'"),
    ({'lipschitz': 'gradient'}, "got lipschitz='gradient'"),
    ({'normalise': 'minmax'}, "got normalise='minmax'"),
    ({'latent_size': 0}, 'got latent_size=0'),
    ({'hidden_sizes': (8, -1)}, 'got hidden_sizes=-1'),
    ({'code_size': 1.5}, 'got code_size=1.5'),
    ({'hyper_size': 0}, 'got hyper_size=0'),
    ({'code_radius': 0.0}, 'got code_radius=0.0'),
    ({'likelihood_stddev': -1.0}, 'got likelihood_stddev=-1.0'),
    ({'lipschitz_target': 0.0}, 'got lipschitz_target=0.0'),
  )
  def test_a_field_out_of_range_is_named(self, fields, message):
    with self.assertRaisesRegex(InputError, message):
      _model(**fields)

  def test_images_are_refused(self):
    with self.assertRaisesRegex(InputError, r'shape=\(8, 8, 1\)'):
      hypernetwork.build_hyper_vae(_TINY, DataSpec((8, 8, 1), 3))


if __name__ == '__main__':
  absltest.main()
