"""A model saved and loaded is the model, and nothing else is taken for one."""

import json

import jax
import numpy as np
import pytest

import fedjax_gen
from fedjax_gen.data.sources import DataSource, Examples
from fedjax_gen.errors import InputError
from fedjax_gen.models import elbo
from fedjax_gen.models.vae import DataSpec, VaeConfig, build_vae
from fedjax_gen.running import saved

_PART = Examples(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int32))
_SOURCE = DataSource('toy', _PART, _PART, ('zero', 'eins', 'deux'))
_CONFIG = VaeConfig(channels=(4,), hidden_size=8, latent_size=2)
_PLAIN = VaeConfig(model='mlp', hidden_size=8, latent_size=2, conditional=False)


def _save(folder, name='federated', config=_CONFIG, seed=0):
  vae = build_vae(config, DataSpec(_SOURCE.input_shape, 3))
  variables = vae.init(jax.random.key(seed))
  saved.save_model(folder, name, config, _SOURCE, variables)
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
  ],
)
def test_damaged_files_are_named(tmp_path, damage):
  _save(tmp_path)
  damage(tmp_path / 'models')
  with pytest.raises(InputError, match='models/federated'):
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
