"""Clients' classifiers, saved and loaded, predict what they did."""

import functools
import json

import jax
import numpy as np
import pytest

import fedjax_gen
from fedjax_gen import trees
from fedjax_gen.data.sources import DataSource, Examples
from fedjax_gen.errors import InputError
from fedjax_gen.federated.own_models import personal
from fedjax_gen.models.classification.classifiers import (
  ClassifierConfig,
  build_classifiers,
)
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.running.saves import saved, saved_clients

_PART = Examples(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2, np.int32))
_SOURCE = DataSource('toy', _PART, _PART, ('zero', 'eins', 'deux'))
_CONFIG = ClassifierConfig(('mlp', 'cnn5'), feature_size=4, width=0.02)
_CLIENTS = [np.array([0, 2, 4]), np.array([1, 3])]
_IMAGES = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1), np.uint8)


@functools.cache
def _models():
  return build_classifiers(_CONFIG, DataSpec((8, 8, 1), 3))


@functools.cache
def _variables():
  """Of all clients, as a deployer returns them."""
  return [
    jax.vmap(model.init)(jax.random.split(jax.random.key(7), len(numbers)))
    for model, numbers in zip(_models(), _CLIENTS, strict=True)
  ]


def _save(folder, name='FedVTC'):
  return saved_clients.save_clients(
    folder, name, _CONFIG, _SOURCE, _CLIENTS, _variables()
  )


@functools.cache
def _deployed(fleet):
  """The prediction that methods are judged by."""
  rule = personal.head_deployment(_models()[fleet]).rules['head']
  return jax.jit(
    lambda deployed, images: jax.nn.softmax(rule(deployed, images))
  )


def test_written_some_at_a_time_they_are_the_same_clients(tmp_path):
  writer = saved_clients.ClientsWriter(
    tmp_path, 'FedVTC', _CONFIG, _SOURCE, _CLIENTS
  )
  for fleet, rows in ((1, [0, 1]), (0, [2, 0]), (0, [1])):
    own = jax.tree.map(lambda a, r=rows: a[np.array(r)], _variables()[fleet])
    writer.put(fleet, np.array(rows), own)
  with pytest.raises(InputError, match='found none'):
    fedjax_gen.load_clients(tmp_path)
  assert writer.close() == tmp_path / 'models' / 'FedVTC.clients.json'
  _save(tmp_path, 'whole')
  found, whole = (
    fedjax_gen.load_clients(tmp_path, name) for name in ('FedVTC', 'whole')
  )
  assert found.clients == whole.clients
  for client in range(5):
    np.testing.assert_array_equal(
      found.predict(_IMAGES, client=client),
      whole.predict(_IMAGES, client=client),
    )
  (tmp_path / 'models/FedVTC.clients/fleet_1/copy_1.npy').unlink()
  with pytest.raises(InputError, match='copy_1.npy'):
    fedjax_gen.load_clients(tmp_path, 'FedVTC')


def test_loaded_classifiers_predict_the_bits_of_the_deployed_ones(tmp_path):
  assert _save(tmp_path) == tmp_path / 'models' / 'FedVTC.clients.json'
  clients = fedjax_gen.load_clients(tmp_path)
  assert (clients.name, clients.config) == ('FedVTC', _CONFIG)
  assert clients.num_clients == 5
  assert clients.architectures == ('mlp', 'cnn5', 'mlp', 'cnn5', 'mlp')
  assert clients.class_names == ('zero', 'eins', 'deux')
  said = []
  for fleet, numbers in enumerate(_CLIENTS):
    for row, client in enumerate(numbers.tolist()):
      deployed = trees.take(_variables()[fleet], row)
      expected = np.asarray(_deployed(fleet)(deployed, _IMAGES))
      said.append(clients.predict(_IMAGES, client=client))
      np.testing.assert_array_equal(said[-1], expected)
      classes = clients.classify(_IMAGES, client=client)
      np.testing.assert_array_equal(classes, expected.argmax(axis=1))
      assert (said[-1].dtype, classes.dtype) == (np.float32, np.int32)
  assert len({one.tobytes() for one in said}) == 5  # each its own


def test_any_number_of_images_is_classified(tmp_path, monkeypatch):
  _save(tmp_path)
  clients = saved_clients.load_clients(tmp_path, 'FedVTC')
  at_once = clients.predict(_IMAGES, client=1)
  monkeypatch.setattr(saved_clients, '_BATCH_SIZE', 3)
  by_batch = clients.predict(_IMAGES, client=1)
  np.testing.assert_allclose(by_batch, at_once, atol=1e-6)


def test_what_cannot_be_asked_is_said(tmp_path):
  _save(tmp_path)
  clients = saved_clients.load_clients(tmp_path)
  for client in (5, -1, 0.5, True, '0'):
    with pytest.raises(InputError, match=r'client in \[0, 5\), got client='):
      clients.predict(_IMAGES, client)
  for images in (_IMAGES[0], _IMAGES[:0], _IMAGES[:, 1:], _IMAGES / 255):
    with pytest.raises(InputError, match=r"\['n', 8, 8, 1\] and type uint8"):
      clients.classify(images, 0)


def test_of_some_clients_alone_the_others_are_not_known(tmp_path):
  numbers = [np.array([0, 20, 40]), np.array([10, 30])]
  saved_clients.save_clients(
    tmp_path, 'FedVTC', _CONFIG, _SOURCE, numbers, _variables()
  )
  clients = saved_clients.load_clients(tmp_path)
  assert clients.architectures == ('mlp', 'cnn5', 'mlp', 'cnn5', 'mlp')
  own = trees.take(_variables()[0], 1)
  expected = np.asarray(_deployed(0)(own, _IMAGES))
  np.testing.assert_array_equal(clients.predict(_IMAGES, client=20), expected)
  with pytest.raises(InputError, match='0, 10, 20, 30, 40, got client=1'):
    clients.predict(_IMAGES, client=1)


def test_classifiers_are_no_generative_model_and_the_reverse(tmp_path):
  _save(tmp_path)
  _save(tmp_path, 'local')
  with pytest.raises(InputError, match='trained models in .* found none'):
    fedjax_gen.load(tmp_path)
  with pytest.raises(InputError, match='one of FedVTC, local, .*FedProto'):
    fedjax_gen.load_clients(tmp_path, 'FedProto')
  assert fedjax_gen.load_clients(tmp_path, 'local').name == 'local'
  with pytest.raises(InputError, match='found none'):
    fedjax_gen.load_clients(tmp_path / 'models')
  # A name may hold points.
  _save(tmp_path, 'a.clients.b')
  with pytest.raises(InputError, match='a.clients.b, local'):
    fedjax_gen.load_clients(tmp_path, 'x')
  assert saved.saved_files.names(tmp_path) == []


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'clients': _CLIENTS[:1]}, 'in 2 fleets'),
    ({'clients': [[0, 2, 4], [1, 2]]}, 'each once'),
    ({'clients': [[0, 2, -4], [1, 3]]}, 'numbers >= 0'),
    ({'clients': [[0, 2], [1, 3]]}, 'FedVTC describes, got others in'),
    ({'variables': []}, 'others in modules'),
    ({'config': ClassifierConfig(('cnn5', 'mlp'), 4, 0.02)}, 'others in'),
    ({'name': 'a/b'}, "name='a/b'"),
    ({'name': 'a.clients'}, r'not to end in \.clients'),
  ],
)
def test_what_could_not_be_read_back_is_not_saved(tmp_path, change, words):
  arguments = {
    'name': 'FedVTC',
    'config': _CONFIG,
    'source': _SOURCE,
    'clients': _CLIENTS,
    'variables': _variables() if 'variables' not in change else [],
  }
  with pytest.raises(InputError, match=words):
    saved_clients.save_clients(tmp_path, **arguments | change)
  assert not list(tmp_path.iterdir())


def test_damaged_files_are_named(tmp_path):
  path = _save(tmp_path)
  description = json.loads(path.read_text())
  for change in (
    {'clients': [[0, 1], [2, 3, 4]]},
    {'config': 3},
    {'shape': []},
  ):
    path.write_text(json.dumps(description | change))
    with pytest.raises(InputError, match='models/FedVTC.clients'):
      saved_clients.load_clients(tmp_path)
  path.write_text(json.dumps(description))
  blob = path.with_suffix('.msgpack')
  blob.write_bytes(blob.read_bytes()[:-9])
  with pytest.raises(InputError, match='models/FedVTC.clients'):
    saved_clients.load_clients(tmp_path)
