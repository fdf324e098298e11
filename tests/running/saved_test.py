"""A model saved and loaded is the model, and nothing else is taken for one."""

import dataclasses
import functools
import json

from flax import serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_gen
from fedjax_gen.data.sources import DataSource, Examples
from fedjax_gen.errors import InputError
from fedjax_gen.models import elbo, gan
from fedjax_gen.models.hyper import meta_code
from fedjax_gen.models.hyper.hypernetwork import HyperVaeConfig, build_hyper_vae
from fedjax_gen.models.vae import (
  DataSpec,
  VaeConfig,
  build_vae,
  fixed_prior,
  learnable_prior,
)
from fedjax_gen.running.saves import saved, saving

_PART = Examples(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int32))
_SOURCE = DataSource('toy', _PART, _PART, ('zero', 'eins', 'deux'))
_CONFIG = VaeConfig(channels=(4,), hidden_size=8, latent_size=2)
_PLAIN = VaeConfig(model='mlp', hidden_size=8, latent_size=2, conditional=False)

# Groups of 1, 6 and 3 training examples, and the classes that occur in them.
_GROUPS = np.repeat([0, 1, 2], [1, 6, 3]).astype(np.int32)
_LABELS = np.array([1, 0, 2, 0, 2, 0, 2, 2, 2, 2], np.int32)
_GROUPED = DataSource(
  'toy',
  Examples(np.zeros((10, 4, 4, 1), np.uint8), _LABELS, groups=_GROUPS),
  _PART,
  ('zero', 'eins', 'deux'),
  group_names=('letters', 'digits', 'shapes'),
)
_MLP = VaeConfig(model='mlp', hidden_size=8, latent_size=2)
_CONFIGS = (
  _MLP,
  VaeConfig('mlp', 'conv', 2, hidden_size=8, channels=(4,)),
  _MLP,
)
_GAN = gan.GanConfig(gan_latent_size=2, gan_channels=(4,))

_ROWS = Examples(np.zeros((2, 6), np.float32), np.zeros(2, np.int32))
_VECTORS = DataSource('toy', _ROWS, _ROWS, ('zero', 'eins', 'deux'))
_HYPER = HyperVaeConfig(
  latent_size=2, hidden_sizes=(5,), code_size=4, hyper_size=3
)


def _save(folder, name='federated', config=_CONFIG, seed=0):
  vae = build_vae(config, DataSpec(_SOURCE.input_shape, 3))
  variables = vae.init(jax.random.key(seed))
  saving.save_model(folder, name, config, _SOURCE, variables)
  return vae, variables


def test_a_loaded_model_samples_the_bits_of_the_saved_one(tmp_path):
  vae, variables = _save(tmp_path)
  model = fedjax_gen.load(tmp_path)
  images, labels = model.sample(7, seed=3)
  np.testing.assert_array_equal(labels, np.arange(7) % 3)
  np.testing.assert_array_equal(
    images, elbo.generate(vae, variables, labels, jax.random.key(3))
  )
  assert (images.shape, images.dtype) == ((7, 4, 4, 1), np.uint8)
  assert labels.dtype == np.int32
  assert model.class_names == ('zero', 'eins', 'deux')
  assert model.config == _CONFIG  # tuples come back as tuples


@functools.cache
def _group_models():
  """VAEs that share an encoder; priors as groups may have them."""
  spec = DataSpec(_GROUPED.input_shape, 3)
  vaes = [build_vae(config, spec) for config in _CONFIGS]
  variables = [vae.init(jax.random.key(g)) for g, vae in enumerate(vaes)]
  for own in variables:
    own['encoder'] = variables[0]['encoder']
  variables[1]['prior'] = fixed_prior({'z': jnp.array([5.0, -5.0])})
  variables[2]['prior'] = learnable_prior({'z': jnp.array([0.0, 3.0])})
  return vaes, variables


def _save_groups(folder, name='L+D', **settings):
  vaes, variables = _group_models()
  saving.save_groups(folder, name, _CONFIGS, _GROUPED, variables, **settings)
  return vaes, variables


def _by_hand(vaes, variables, group, labels, seed=0):
  key = jax.random.fold_in(jax.random.key(seed), group)
  return elbo.generate(
    vaes[group], variables[group], jnp.asarray(labels, jnp.int32), key
  )


def test_a_group_samples_the_bits_of_its_own_model(tmp_path):
  vaes, variables = _save_groups(tmp_path)
  model = fedjax_gen.load(tmp_path)
  assert (model.kind, model.config) == ('groups', _CONFIGS)
  for group, classes in enumerate(([1], [0, 2], [2])):
    name = _GROUPED.group_names[group]
    images, labels = model.sample(5, seed=3, group=name)
    np.testing.assert_array_equal(labels, np.resize(classes, 5))
    np.testing.assert_array_equal(
      images, _by_hand(vaes, variables, group, labels, seed=3)
    )
    by_number, _ = model.sample(5, seed=3, group=group)
    np.testing.assert_array_equal(by_number, images)
    np.testing.assert_array_equal(
      model.sample_groups(5, group=name), np.full(5, group)
    )


def test_groups_are_mixed_in_the_shares_of_the_training_data(tmp_path):
  vaes, variables = _save_groups(tmp_path)
  model = fedjax_gen.load(tmp_path)
  assert [group.share for group in model.groups] == [0.1, 0.6, 0.3]
  groups = model.sample_groups(20)
  assert groups.dtype == np.int32
  np.testing.assert_array_equal(groups, np.repeat([0, 1, 2], [2, 12, 6]))
  images, labels = model.sample(20, seed=1)
  assert images.shape == (20, 4, 4, 1)
  np.testing.assert_array_equal(labels, [1, 1] + 6 * [0, 2] + 6 * [2])
  for group in range(3):
    rows = groups == group
    np.testing.assert_array_equal(
      images[rows], _by_hand(vaes, variables, group, labels[rows], seed=1)
    )


def test_every_number_of_samples_is_dealt_to_groups(tmp_path):
  _save_groups(tmp_path, shares=(3, 0, 4))
  model = saved.load_model(tmp_path)
  for num in (1, 2, 7, 1001):
    counts = np.bincount(model.sample_groups(num), minlength=3)
    assert counts.sum() == num
    assert counts[1] == 0
    assert abs(counts[0] - num * 3 / 7) < 1


def test_groups_of_equal_models_draw_different_images(tmp_path):
  variables = 3 * [_group_models()[1][0]]
  saving.save_groups(tmp_path, 'none', 3 * [_MLP], _GROUPED, variables)
  model = saved.load_model(tmp_path)
  ones = np.ones(4, np.int32)
  one, other = (model.sample(4, labels=ones, group=g)[0] for g in (0, 1))
  assert not np.array_equal(one, other)
  assert model.functions[0] is model.functions[2]  # one program for both


def test_a_module_that_groups_share_is_stored_once(tmp_path):
  _, variables = _save_groups(tmp_path)
  blob = (tmp_path / 'models/L+D.msgpack').read_bytes()
  stored = serialization.msgpack_restore(blob)
  assert {name: set(trees) for name, trees in stored.items()} == {
    'encoder': {'0'},
    'decoder': {'0', '1', '2'},
    'prior': {'1', '2'},
  }
  model = saved.load_model(tmp_path)
  for loaded, own in zip(model.variables, variables, strict=True):
    jax.tree.map(np.testing.assert_array_equal, loaded, own)


def test_labels_of_a_group_may_be_chosen_and_are_all_where_not_known(tmp_path):
  vaes, variables = _group_models()
  part = _GROUPED.train._replace(groups=None)
  source = DataSource(
    'toy', part, part, _GROUPED.class_names, group_names=_GROUPED.group_names
  )
  saving.save_groups(
    tmp_path, 'D', _CONFIGS, source, variables, shares=[1, 1, 1]
  )
  model = saved.load_model(tmp_path)
  np.testing.assert_array_equal(
    model.sample(4, group='shapes')[1], [0, 1, 2, 0]
  )
  images, labels = model.sample(3, labels=np.array([1, 0, 1]), group='shapes')
  np.testing.assert_array_equal(labels, [1, 0, 1])
  np.testing.assert_array_equal(images, _by_hand(vaes, variables, 2, labels))
  with pytest.raises(InputError, match='shares=None'):
    saving.save_groups(tmp_path, 'D', _CONFIGS, source, variables)


def test_an_unknown_group_is_answered_with_those_there_are(tmp_path):
  _save_groups(tmp_path)
  model = fedjax_gen.load(tmp_path)
  for group in ('garments', '', '0', 3, -1, 1.5, True):
    with pytest.raises(InputError, match='letters, digits, shapes.*group='):
      model.sample(2, group=group)


def test_a_model_without_groups_takes_none(tmp_path):
  _save(tmp_path)
  model = saved.load_model(tmp_path)
  assert model.groups == ()
  with pytest.raises(InputError, match="knows groups with group='digits'"):
    model.sample(2, group='digits')
  with pytest.raises(InputError, match='knows groups, got federated'):
    model.sample_groups(2)


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'configs': _CONFIGS[:2]}, r'\(letters, digits, shapes\), got 2 and 3'),
    ({'source': _SOURCE}, 'it has none'),
    ({'shares': [1, 2]}, 'Expected 3 shares'),
    ({'shares': [1, 2, -1]}, 'shares=-1'),
    ({'shares': [0, 0, 0]}, 'sum_of_shares=0'),
    (
      {'configs': (_MLP, _MLP, _MLP)},
      'configuration of L.D .* at path ./1/decoder',
    ),
    ({'configs': (*_CONFIGS[:2], _PLAIN)}, 'conditional=.True, True, False'),
    ({'name': 'a/b'}, "name='a/b'"),
    ({'name': '.hidden'}, "name='.hidden'"),
    ({'name': ''}, "name=''"),
  ],
)
def test_what_could_not_be_read_back_is_not_saved(tmp_path, change, words):
  arguments = {
    'name': 'L+D',
    'configs': _CONFIGS,
    'source': _GROUPED,
    'variables': _group_models()[1],
  }
  with pytest.raises(InputError, match=words):
    saving.save_groups(tmp_path, **arguments | change)
  assert not list(tmp_path.iterdir())


def test_a_generator_is_saved_without_its_discriminator(tmp_path):
  model = gan.build_gan(_GAN, DataSpec(_SOURCE.input_shape, 3))
  variables = model.init(jax.random.key(0))
  saving.save_generator(tmp_path, 'fedgan', 'gan', [_GAN], _SOURCE, variables)
  loaded = saved.load_model(tmp_path)
  assert (loaded.kind, loaded.config) == ('gan', _GAN)
  assert set(loaded.variables) == {'generator'}
  images, labels = loaded.sample(5, seed=2)
  assert labels is None
  np.testing.assert_array_equal(
    images, gan.generate(model, variables, 5, jax.random.key(2))
  )
  with pytest.raises(InputError, match='unconditional'):
    loaded.sample(2, labels=np.zeros(2, np.int32))
  with pytest.raises(InputError, match="fedgan, of kind 'gan'"):
    loaded.sample(2, group=0)
  with pytest.raises(InputError, match='one VAE'):
    _ = loaded.vae
  del variables['generator']
  with pytest.raises(InputError, match="keys {'generator'}"):
    saving.save_generator(tmp_path, 'other', 'gan', [_GAN], _SOURCE, variables)


@functools.cache
def _hyper_model(config=_HYPER):
  """A hypernetwork whose codes matter, three codes and their weights."""
  model = build_hyper_vae(config, DataSpec((6,), 3))
  hyper = jax.tree.map(
    # Of heads that are zero, as they begin, all codes are alike.
    lambda leaf: (
      leaf + 0.1 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape)
    ),
    model.init(jax.random.key(0)),
  )
  codes = np.asarray(jax.random.normal(jax.random.key(1), (3, 4)))
  return model, hyper, codes, np.array([3.0, 0.0, 1.0])


@pytest.mark.parametrize(
  ('mix', 'options'),
  [('params', {}), ('samples', {'latent': 'standard', 'draw': True})],
)
def test_a_loaded_hypernetwork_samples_the_bits_of_the_saved_one(
  tmp_path, mix, options
):
  _, hyper, codes, weights = _hyper_model()
  saving.save_hyper(
    tmp_path, 'meta', _HYPER, _VECTORS, hyper, codes, weights, mix, **options
  )
  loaded = fedjax_gen.load(tmp_path)
  assert (loaded.kind, loaded.config) == ('hyper', _HYPER)
  assert (loaded.groups, loaded.is_conditional) == ((), True)
  model = loaded.functions  # as the configuration says; compiled once
  embeddings, labels = loaded.sample(7, seed=3)
  np.testing.assert_array_equal(labels, np.arange(7) % 3)
  expected = meta_code.generate_mixture(
    model, hyper, codes, weights, labels, jax.random.key(3), mix, **options
  )
  assert (embeddings.shape, embeddings.dtype) == ((7, 6), np.float32)
  assert isinstance(embeddings, np.ndarray)
  np.testing.assert_array_equal(embeddings, expected)
  # Every part of what was saved counts.
  for change in ({'codes': codes[::-1]}, {'weights': [0, 1, 1]}):
    others = {'codes': codes, 'weights': weights} | change
    other = meta_code.generate_mixture(
      model, hyper, *others.values(), labels, jax.random.key(3), mix, **options
    )
    assert not np.allclose(embeddings, other, atol=1e-3)
  with pytest.raises(InputError, match='one VAE'):
    _ = loaded.vae


def test_a_model_without_codes_is_saved_without(tmp_path):
  config = HyperVaeConfig(
    latent_size=2, hidden_sizes=(5,), head='constant', prior='standard'
  )
  model = build_hyper_vae(config, DataSpec((6,), 3))
  hyper = model.init(jax.random.key(0))
  saving.save_hyper(tmp_path, 'cvae', config, _VECTORS, hyper)
  loaded = saved.load_model(tmp_path)
  assert set(loaded.variables['hyper']) == {'base'}
  expected = meta_code.generate_mixture(
    model, hyper, np.zeros((1, 1)), [1], np.zeros(4, int), jax.random.key(0)
  )
  np.testing.assert_array_equal(
    loaded.sample(4, labels=np.zeros(4, int))[0], expected
  )


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'codes': None}, 'codes=None'),
    ({'codes': np.zeros(4)}, r'\[K, 4\], got an array of shape \[4\]'),
    ({'codes': np.full((3, 4), np.nan)}, 'finite'),
    ({'codes': np.zeros((3, 5))}, r"others in .*\['codes'\]"),
    ({'weights': [1, 1]}, 'Expected 3 weights'),
    ({'weights': [1, -1, 1]}, 'weights=-1'),
    ({'weights': [1, np.nan, 1]}, 'weights=nan'),
    ({'weights': [0, 0, 0]}, 'sum_of_weights=0'),
    ({'mix': 'codes'}, "mix='codes'"),
    ({'latent': 'none'}, "latent='none'"),
    ({'source': _SOURCE}, r'shape=\(4, 4, 1\)'),
    ({'hyper': {}}, 'others in modules'),
    ({'config': HyperVaeConfig(code_size=4)}, 'others in'),
    ({'name': 'a/b'}, "name='a/b'"),
  ],
)
def test_a_hypernetwork_that_could_not_be_read_back_is_not_saved(
  tmp_path, change, words
):
  _, hyper, codes, weights = _hyper_model()
  arguments = {
    'name': 'meta',
    'config': _HYPER,
    'source': _VECTORS,
    'hyper': hyper,
    'codes': codes,
    'weights': weights,
  }
  with pytest.raises(InputError, match=words):
    saving.save_hyper(tmp_path, **arguments | change)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'fields',
  [
    {'num_codes': 2},
    {'num_codes': 0},
    {'mix': 'codes'},
    {'latent': None},
    {'config': {'head': 'constant'}},
  ],
)
def test_a_damaged_hypernetwork_is_named(tmp_path, fields):
  saving.save_hyper(
    tmp_path, 'federated', _HYPER, _VECTORS, *_hyper_model()[1:]
  )
  _describe(tmp_path / 'models', **fields)
  with pytest.raises(InputError, match='models/federated'):
    saved.load_model(tmp_path)


def test_a_prior_of_its_own_comes_back_with_a_model(tmp_path):
  vae = build_vae(_MLP, DataSpec(_SOURCE.input_shape, 3))
  variables = vae.init(jax.random.key(0))
  variables['prior'] = fixed_prior({'z': jnp.array([9.0, 9.0])})
  saving.save_model(tmp_path, 'federated', _MLP, _SOURCE, variables)
  images, labels = fedjax_gen.load(tmp_path).sample(4)
  np.testing.assert_array_equal(
    images, elbo.generate(vae, variables, labels, jax.random.key(0))
  )
  del variables['prior']
  plain = elbo.generate(vae, variables, labels, jax.random.key(0))
  assert not np.array_equal(images, plain)


def test_a_loaded_model_knows_how_its_posterior_was_told_the_group(tmp_path):
  config = dataclasses.replace(_MLP, posterior='residual')
  vae = build_vae(config, DataSpec(_SOURCE.input_shape, 3))
  variables = vae.init(jax.random.key(0))
  variables['prior'] = fixed_prior({'z': jnp.array([9.0, 9.0])})
  saving.save_model(tmp_path, 'federated', config, _SOURCE, variables)
  loaded = saved.load_model(tmp_path)
  assert loaded.config == config
  inputs, labels = _SOURCE.test.inputs[:2], _SOURCE.test.labels[:2]
  means = [
    elbo.reconstruct(model, own, inputs, labels)[0]
    for model, own in (
      (loaded.functions, loaded.variables),
      (vae, variables),
      (build_vae(_MLP, DataSpec(_SOURCE.input_shape, 3)), variables),
    )
  ]
  np.testing.assert_array_equal(means[0], means[1])
  np.testing.assert_allclose(means[1], means[2] + 9.0, rtol=1e-5)


def test_models_of_the_first_version_are_read(tmp_path):
  _save(tmp_path)
  path = tmp_path / 'models/federated.json'
  description = json.loads(path.read_text())
  description['prior'] = {}  # as it was written
  del description['config']['posterior']
  path.write_text(json.dumps(description))
  assert saved.load_model(tmp_path).sample(1)[0].shape == (1, 4, 4, 1)


def test_variables_of_another_vae_are_not_saved(tmp_path):
  variables = _group_models()[1][0]
  with pytest.raises(InputError, match='others in modules: .*coder'):
    saving.save_model(tmp_path, 'a', _CONFIG, _SOURCE, variables)
  other = VaeConfig(model='mlp', hidden_size=8, latent_size=3)
  with pytest.raises(InputError, match=r"others in .*\['kernel'\]"):
    saving.save_model(tmp_path, 'a', other, _SOURCE, variables)
  assert not list(tmp_path.iterdir())


def test_the_same_seed_gives_the_same_samples_and_another_others(tmp_path):
  _save(tmp_path)
  model = saved.load_model(tmp_path)
  first, again, other = (model.sample(5, seed=s)[0] for s in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def test_the_federated_model_is_loaded_unless_another_is_named(tmp_path):
  for seed, name in enumerate(('central', 'federated')):
    _save(tmp_path, name, seed=seed)
  assert saved.load_model(tmp_path).name == 'federated'
  assert saved.load_model(tmp_path, 'central').name == 'central'
  with pytest.raises(InputError, match="central, federated.*method='local'"):
    saved.load_model(tmp_path, 'local')
  (tmp_path / 'models/federated.json').unlink()
  assert saved.load_model(tmp_path).name == 'central'
  for name in ('H+L+D', 'L+D'):
    _save(tmp_path, name)
  assert saved.load_model(tmp_path).name == 'L+D'
  assert saved.load_model(tmp_path, 'H+L+D').name == 'H+L+D'
  # Left by a process that was killed while it wrote.
  (tmp_path / 'models/L+D.json').rename(tmp_path / 'models/.L+D-0a1b.json')
  assert saved.load_model(tmp_path).name == 'H+L+D'


def test_a_model_without_classes_takes_and_gives_no_labels(tmp_path):
  _save(tmp_path, config=_PLAIN)
  model = saved.load_model(tmp_path)
  images, labels = model.sample(2)
  assert images.shape == (2, 4, 4, 1)
  assert labels is None
  with pytest.raises(InputError, match='unconditional'):
    model.sample(2, labels=np.zeros(2, np.int32))


@pytest.mark.parametrize(
  ('num', 'labels'),
  [
    (0, None),
    (-1, None),
    (2, np.array([0])),
    (2, np.array([0, 3])),
    (2, np.array([-1, 0])),
    (2, np.array([0.0, 1.0])),
  ],
)
def test_a_wrong_number_or_label_is_refused(tmp_path, num, labels):
  _save(tmp_path)
  with pytest.raises(InputError, match='num|labels'):
    saved.load_model(tmp_path).sample(num, labels=labels)


@pytest.mark.parametrize('seed', [-1, 2**31, 2**32])
def test_a_seed_that_would_be_cut_is_refused(tmp_path, seed):
  _save(tmp_path)
  with pytest.raises(InputError, match=f'seed={seed}'):
    saved.load_model(tmp_path).sample(1, seed=seed)


@pytest.mark.parametrize(
  'damage',
  [
    lambda folder: (folder / 'federated.msgpack').unlink(),
    lambda folder: _cut(folder / 'federated.msgpack'),
    lambda folder: (folder / 'federated.msgpack').write_bytes(b'rubbish'),
    lambda folder: (folder / 'federated.msgpack').write_bytes(b''),
    lambda folder: _cut(folder / 'federated.json'),
    lambda folder: (folder / 'federated.json').write_text('[]'),
    lambda folder: (folder / 'federated.json').write_bytes(b'\xff\xfe'),
    lambda folder: _describe(folder, shape=[4, 5, 1]),
    lambda folder: _describe(folder, shape='wide'),
    lambda folder: _describe(folder, class_names=['only one']),
    lambda folder: _describe(folder, config={'dropout': 0.5}),
    lambda folder: _describe(folder, config={'latent_size': 0}),
    lambda folder: _describe(folder, kind='song'),
    lambda folder: _describe(folder, kind='groups'),
    lambda folder: _describe(folder, kind='groups', groups=[]),
    lambda folder: _describe(folder, prior={'constants': ['z']}),
    lambda folder: _describe(folder, prior={'constants': ['z3']}),
  ],
)
def test_damaged_files_are_named(tmp_path, damage):
  _save(tmp_path)
  damage(tmp_path / 'models')
  with pytest.raises(InputError, match='models/federated'):
    saved.load_model(tmp_path)


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'share': -1}, 'share=-1'),
    ({'share': 'half'}, "share='half'"),
    ({'classes': []}, 'classes of group digits'),
    ({'classes': [3]}, 'classes of group digits'),
    ({'modules': {'encoder': 0, 'decoder': 2, 'prior': 1}}, './1/decoder'),
    ({'modules': {'encoder': 7, 'decoder': 1, 'prior': 1}}, 'cannot be read'),
    ({'modules': {'encoder': 0, 'decoder': 1}}, 'prior'),
    ({'prior': {'params': ['z']}}, 'params'),
    ({'config': {'model': 'mlp', 'latent_size': 2}}, 'decoder'),
  ],
)
def test_damaged_groups_are_named(tmp_path, fields, words):
  _save_groups(tmp_path)
  path = tmp_path / 'models/L+D.json'
  description = json.loads(path.read_text())
  description['groups'][1] |= fields
  path.write_text(json.dumps(description))
  with pytest.raises(InputError, match=f'(?s)models/L.D.*{words}'):
    saved.load_model(tmp_path)


def test_a_leaf_of_another_shape_is_named_by_its_path(tmp_path):
  _save_groups(tmp_path)
  path = tmp_path / 'models/L+D.msgpack'
  stored = serialization.msgpack_restore(path.read_bytes())
  stored['prior']['2']['params']['z']['mean'] = np.zeros(3, np.float32)
  path.write_bytes(serialization.msgpack_serialize(stored))
  with pytest.raises(InputError, match=r"\[2\]\['prior'\].*\['mean'\] differs"):
    saved.load_model(tmp_path)


def test_no_model_at_all_is_said(tmp_path):
  for folder in (tmp_path, tmp_path / 'none'):
    with pytest.raises(InputError, match='finished run with trained models'):
      saved.load_model(folder)


def _cut(path):
  path.write_bytes(path.read_bytes()[:-20])


def _describe(folder, **fields):
  path = folder / 'federated.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))
