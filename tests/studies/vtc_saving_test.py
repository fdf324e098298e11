"""What a run of FedVTC saves is what it trained, of whichever client."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_gen
from fedjax_gen import trees
from fedjax_gen.algorithms import fedvtc
from fedjax_gen.algorithms.fedvtc import VtcClient, VtcServer
from fedjax_gen.data import heldout, partition
from fedjax_gen.data.sources import DataSource, Examples
from fedjax_gen.errors import InputError
from fedjax_gen.federated.statistics.class_gaussians import (
  ClassGaussians,
  Rules,
)
from fedjax_gen.models.classification.classifiers import (
  ClassifierConfig,
  build_classifiers,
  to_pixels,
)
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.models.vtc import VtcConfig, build_vtc
from fedjax_gen.models.vtc_losses import GeneratorLosses
from fedjax_gen.studies.fedvtc import vtc_saving
from fedjax_gen.studies.fedvtc.vtc_judge import Clients, Judged
from fedjax_gen.studies.fedvtc.vtc_methods import MainMethod

_LABELS = np.array([0, 0, 1, 1, 2, 2], np.int32)
_PART = Examples(np.arange(96, dtype=np.uint8).reshape(6, 4, 4, 1), _LABELS)
_SOURCE = DataSource('toy', _PART, _PART, ('a', 'b', 'c'))
_SPEC = DataSpec((4, 4, 1), 3)
_CONFIG = VtcConfig(vtc_channels=(8,))
_VTC = build_vtc(_CONFIG, 2, _SPEC)
_GAUSSIANS = ClassGaussians(
  jnp.ones(3, bool),
  jnp.array([[3.0, 0.0], [0.0, 3.0], [-3.0, 2.0]]),
  jnp.full((1, 2), 1e-4),
)
_CLASSIFIER = ClassifierConfig(('mlp', 'mlp'), feature_size=2, width=0.01)
_NUMBERS = [np.array([0, 2]), np.array([1])]


class _Shared(NamedTuple):
  variables: Any


class _State(NamedTuple):
  server: VtcServer
  fleets: Any


@functools.cache
def _clients():
  """Three clients in two fleets; client k holds class k."""
  by_class = partition.by_group(_LABELS, 1, seed=0)
  split = heldout.split_clients(by_class, _LABELS, fractions=(0.0, 0.0), seed=0)
  measured = [np.arange(2), np.arange(1)]
  return Clients(
    _SOURCE, by_class, split, [], _NUMBERS, ['mlp', 'mlp'], measured
  )


def _subject(scope):
  return MainMethod(
    fedvtc.Config(vtc_scope=scope), Rules(), GeneratorLosses(), _VTC
  )


def _generator(number):
  return _VTC.init(jax.random.key(number))


def _fleets():
  return [
    VtcClient(
      (),
      jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(_generator, own)),
      (),
    )
    for own in _NUMBERS
  ]


def _image(generator, label):
  latent = _GAUSSIANS.means[label][None]
  return np.asarray(to_pixels(_VTC.decode(generator, latent))[0], int)


def test_each_client_s_generator_makes_the_class_that_it_holds(tmp_path):
  state = _State(VtcServer(_GAUSSIANS, ()), _fleets())
  vtc_saving.save_generator(
    tmp_path, _CONFIG, _subject('local'), state, _clients()
  )
  images, labels = fedjax_gen.load(tmp_path).sample(6)
  for image, label in zip(images, labels, strict=True):
    expected = _image(_generator(label), label)
    assert np.abs(image - expected).max() <= 1
    assert np.abs(_image(_generator((label + 1) % 3), label) - image).max() > 1


def test_the_shared_generator_makes_all(tmp_path):
  state = _State(VtcServer(_GAUSSIANS, _Shared(_generator(5))), ())
  vtc_saving.save_generator(
    tmp_path, _CONFIG, _subject('federated'), state, _clients()
  )
  model = fedjax_gen.load(tmp_path)
  assert model.name == 'FedVTC'
  for image, label in zip(*model.sample(3), strict=True):
    assert np.abs(image - _image(_generator(5), label)).max() <= 1


def test_where_no_class_is_known_no_generator_is_saved(tmp_path):
  nothing = _GAUSSIANS._replace(known=jnp.zeros(3, bool))
  state = _State(VtcServer(nothing, _Shared(_generator(5))), ())
  vtc_saving.save_generator(
    tmp_path, _CONFIG, _subject('federated'), state, _clients()
  )
  with pytest.raises(InputError, match='found none'):
    fedjax_gen.load(tmp_path)


def test_of_every_method_the_classifier_is_saved(tmp_path):
  models = build_classifiers(_CLASSIFIER, _SPEC)
  plain = [
    jax.vmap(model.init)(jax.random.split(jax.random.key(3), len(own)))
    for model, own in zip(models, _NUMBERS, strict=True)
  ]
  beside = [{'classifier': own, 'prototypes': jnp.zeros(3)} for own in plain]
  judged = {
    name: Judged({}, np.zeros((3, 3)), tuple(deployed))
    for name, deployed in (('FedVTC', plain), ('FedProto', beside))
  }
  vtc_saving.save_classifiers(tmp_path, _CLASSIFIER, judged, _clients())
  own = trees.take(plain[0], 1)  # client 2
  expected = jax.nn.softmax(models[0](own, _PART.inputs))
  for name in judged:
    loaded = fedjax_gen.load_clients(tmp_path, name)
    probabilities = loaded.predict(_PART.inputs, client=2)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert (
      np.abs(loaded.predict(_PART.inputs, client=0) - expected).max() > 0.01
    )
