"""Generators of FedVTC, saved and loaded: whose make which class, and none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_gen
from fedjax_gen.data.sources import DataSource, Examples
from fedjax_gen.errors import InputError
from fedjax_gen.federated.statistics.class_gaussians import ClassGaussians
from fedjax_gen.models.classification.classifiers import to_pixels
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.models.vtc import VtcConfig, build_vtc
from fedjax_gen.running.saves import saving

_PART = Examples(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int32))
_SOURCE = DataSource('toy', _PART, _PART, ('zero', 'eins', 'deux'))
_CONFIG = VtcConfig(vtc_channels=(8,))
_VTC = build_vtc(_CONFIG, 2, DataSpec((4, 4, 1), 3))
# So narrow that an image says which class and which generator it is of.
_GAUSSIANS = ClassGaussians(
  jnp.array([True, False, True]),
  jnp.array([[3.0, -1.0], [0.0, 0.0], [-2.0, 4.0]]),
  jnp.full((1, 2), 1e-4),
)
_WIDE = _GAUSSIANS._replace(stddev=jnp.ones((3, 2)))
_HOLDINGS = np.array([[6, 0, 0], [2, 5, 0], [0, 1, 4]])


@functools.cache
def _generators():
  return [_VTC.init(jax.random.key(seed)) for seed in range(3)]


def _save(folder, num=1, gaussians=_GAUSSIANS, **settings):
  saving.save_vtc(
    folder, 'FedVTC', _CONFIG, _SOURCE, _generators()[:num], gaussians,
    **settings,
  )  # fmt: skip
  return fedjax_gen.load(folder)


def _of_mean(generator, label):
  """The image of a class mean."""
  mean = _GAUSSIANS.means[label][None]
  return np.asarray(to_pixels(_VTC.decode(_generators()[generator], mean))[0])


def _near(image, other):
  return np.abs(image.astype(int) - other).max() <= 1  # of 255, by the noise


def test_images_are_of_the_latents_of_their_classes(tmp_path):
  model = _save(tmp_path)
  assert (model.kind, model.config) == ('vtc', _CONFIG)
  assert (model.is_conditional, model.classes) == (True, (0, 2))
  images, labels = model.sample(5, seed=3)
  np.testing.assert_array_equal(labels, [0, 2, 0, 2, 0])  # known ones in turn
  assert (images.shape, images.dtype) == ((5, 4, 4, 1), np.uint8)
  for image, label in zip(images, labels, strict=True):
    assert _near(image, _of_mean(0, label))
    assert not _near(image, _of_mean(0, 2 - label))


def test_latents_have_the_spread_of_their_class_and_their_own_keys(tmp_path):
  model = _save(tmp_path, gaussians=_WIDE)
  images, _ = model.sample(6, seed=1)
  assert len({image.tobytes() for image in images}) == 6
  np.testing.assert_array_equal(model.sample(6, seed=1)[0], images)
  assert _near(model.sample(2, seed=1)[0], images[:2])
  assert not np.array_equal(model.sample(6, seed=2)[0], images)


def test_a_class_is_made_by_the_generators_of_those_who_hold_it(tmp_path):
  model = _save(tmp_path, num=3, holdings=_HOLDINGS)
  images, _ = model.sample(40, labels=np.zeros(40, int))
  makers = [
    [_near(image, _of_mean(number, 0)) for number in range(3)]
    for image in images
  ]
  assert np.sum(makers, axis=1).tolist() == 40 * [1]
  by_maker = np.sum(makers, axis=0)
  assert by_maker[2] == 0  # it holds none
  assert by_maker[0] > 2 * by_maker[1] > 0  # 3 to 1 is expected
  for image in model.sample(4, labels=np.full(4, 2))[0]:
    assert _near(image, _of_mean(2, 2))


def test_a_class_that_noise_alone_reported_is_made_by_all(tmp_path):
  nobody = np.array([[6, 0, 0], [2, 5, 0], [0, 1, 0]])
  model = _save(tmp_path, num=3, holdings=nobody)
  images, _ = model.sample(20, labels=np.full(20, 2))
  makers = {
    next(number for number in range(3) if _near(image, _of_mean(number, 2)))
    for image in images
  }
  assert makers == {0, 1, 2}


def test_labels_of_unknown_classes_are_refused(tmp_path):
  model = _save(tmp_path)
  with pytest.raises(InputError, match=r'\(zero, deux\), got label 1 \(eins'):
    model.sample(3, labels=np.arange(3))
  with pytest.raises(InputError, match='knows groups'):
    model.sample(3, group=0)


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'generators': []}, 'num_generators=0'),
    ({'holdings': None}, 'holdings=None'),
    ({'holdings': _HOLDINGS[:2]}, r'shape \[3, 3\]'),
    ({'holdings': -_HOLDINGS}, 'holdings=-6'),
    (
      {'gaussians': _GAUSSIANS._replace(known=jnp.zeros(3, bool))},
      'none known',
    ),
    ({'gaussians': _WIDE._replace(stddev=jnp.ones((2, 2)))}, 'stddev'),
    ({'config': VtcConfig(vtc_channels=(16,))}, 'others in'),
    ({'name': 'a.clients'}, r'not to end in \.clients'),
  ],
)
def test_what_could_not_be_read_back_is_not_saved(tmp_path, change, words):
  arguments = {
    'name': 'FedVTC',
    'config': _CONFIG,
    'source': _SOURCE,
    'generators': _generators(),
    'gaussians': _GAUSSIANS,
    'holdings': _HOLDINGS,
  }
  with pytest.raises(InputError, match=words):
    saving.save_vtc(tmp_path, **arguments | change)
  assert not list(tmp_path.iterdir())
