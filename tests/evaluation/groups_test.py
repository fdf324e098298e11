"""What is measured of samples that were asked for by group."""

import dataclasses

import numpy as np
import pytest

from fedjax_gen.data.sources import DataSource, Examples
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import group_requests, groups, samples
from fedjax_gen.evaluation.networks import features, judges

_KIN = (
  'fid', 'kid', 'kid_stddev', 'precision', 'recall', 'density', 'coverage',
  'inception_score', 'inception_score_stddev',
)  # fmt: skip


def _by_brightness(inputs):
  """Probabilities of three groups: dark, grey and bright images."""
  means = inputs.mean(axis=(1, 2, 3))
  return np.eye(3)[np.digitize(means, [85, 170])]


def _few_pixels(inputs):
  return inputs[:, :2, :3, 0].reshape(len(inputs), -1) / np.float32(255)


_BRIGHTNESS = features.FeatureExtractor(
  'bright', _few_pixels, _by_brightness, ''
)
_PIXELS = features.FeatureExtractor('pixels', _few_pixels, _by_brightness, '')


def _shades(sizes, seed):
  """Noise around dark, grey and bright, `sizes` images of each, shuffled."""
  rng = np.random.default_rng(seed)
  kinds = rng.permutation(np.repeat(np.arange(3), sizes)).astype(np.int32)
  low = np.array([5, 100, 190])[kinds][:, None, None, None]
  return rng.integers(low, low + 60, [len(kinds), 4, 5, 1], np.uint8), kinds


def _shades_source(train_sizes, test_sizes):
  train, train_groups = _shades(train_sizes, 0)
  test, test_groups = _shades(test_sizes, 1)
  return DataSource(
    'shades',
    Examples(train, np.zeros(len(train), np.int32), groups=train_groups),
    Examples(test, np.zeros(len(test), np.int32), groups=test_groups),
    ('any',),
    group_names=('dark', 'a bit grey', 'bright'),
  )


@pytest.fixture(scope='module')
def reference():
  """Of three groups, the last with too few held-out images for an FID."""
  return groups.group_reference(
    _shades_source([60, 40, 20], [30, 15, 6]),
    groups.GroupExtractors(_PIXELS, _BRIGHTNESS),
  )


@pytest.fixture(scope='module')
def two_kinds(digits):
  """Digits, and twice as many photographic negatives of digits."""

  def mixed(inputs, labels):
    kinds = (np.arange(len(inputs)) % 3 > 0).astype(np.int32)
    negative = np.where(kinds[:, None, None, None], 255 - inputs, inputs)
    return Examples(negative.astype(np.uint8), labels, groups=kinds)

  return DataSource(
    'groups:/somewhere/two kinds',
    mixed(digits.train_inputs, digits.train_labels),
    mixed(digits.test_inputs[:180], digits.test_labels[:180]),
    tuple('0123456789'),
    group_names=('positive', 'negative'),
  )


@pytest.fixture(scope='module')
def classifier(two_kinds, tmp_path_factory):
  return groups.group_classifier(
    two_kinds,
    recipe=judges.Recipe(num_steps=60),
    cache_dir=tmp_path_factory.mktemp('cache'),
  )


def test_every_group_is_measured_under_its_name(reference):
  images, requested = _shades([25, 10, 12], 2)
  metrics = groups.evaluate_group_samples(images, requested, reference)
  numbers = {
    '': (51, 47),
    '/dark': (30, 25),
    '/a_bit_grey': (15, 10),
    '/bright': (6, 12),
  }
  assert set(metrics) == {'group_leakage', 'group_entropy'} | {
    f'{name}{suffix}'
    for name in ('num_real', 'num_generated', 'group_leakage', 'group_entropy')
    for suffix in numbers
  } | {
    f'{name}_pixels{suffix}'
    for name in _KIN
    for suffix in ('', '/dark', '/a_bit_grey')
  }  # no mean, since one group has too few real images
  for suffix, (num_real, num_generated) in numbers.items():
    assert metrics[f'num_real{suffix}'] == num_real
    assert metrics[f'num_generated{suffix}'] == num_generated
  assert all(type(value) is float for value in metrics.values())
  assert np.all(np.isfinite(list(metrics.values())))


def test_groups_are_compared_with_their_own_real_images(reference):
  images, requested = _shades([25, 12, 12], 2)
  metrics = groups.evaluate_group_samples(images, requested, reference, seed=3)
  test = reference.source.test
  pooled = samples.evaluate_samples(_PIXELS, test.inputs, images, seed=3)
  dark = samples.evaluate_samples(
    _PIXELS, test.inputs[test.groups == 0], images[requested == 0], seed=3
  )
  assert pooled.items() <= metrics.items()
  assert {f'{k}/dark': v for k, v in dark.items()}.items() <= metrics.items()


def test_the_mean_over_groups_does_not_weigh_them():
  source = _shades_source([12, 12, 12], [30, 15, 12])
  extractors = groups.GroupExtractors(_PIXELS, _BRIGHTNESS)
  reference = groups.group_reference(source, extractors)
  images, requested = _shades([50, 12, 10], 2)
  metrics = groups.evaluate_group_samples(images, requested, reference)
  names = ('dark', 'a_bit_grey', 'bright')
  each = [metrics[f'fid_pixels/{name}'] for name in names]
  np.testing.assert_allclose(metrics['group_mean_fid_pixels'], np.mean(each))
  # One image too few of one group, and there is no mean to compare.
  rows = np.flatnonzero(requested == 2)[0] != np.arange(len(images))
  metrics = groups.evaluate_group_samples(
    images[rows], requested[rows], reference
  )
  assert metrics['num_generated/bright'] == samples.MIN_SAMPLES - 1
  assert 'fid_pixels' in metrics
  assert not {'fid_pixels/bright', 'group_mean_fid_pixels'} & {*metrics}


def test_leakage_is_counted_where_it_was_asked_for(reference):
  images, kinds = _shades([20, 10, 10], 2)
  requested = np.where(kinds == 2, 1, kinds)  # all bright ones asked as grey
  metrics = groups.evaluate_group_samples(images, requested, reference)
  assert metrics['group_leakage'] == 0.25
  assert metrics['group_leakage/dark'] == 0
  assert metrics['group_leakage/a_bit_grey'] == 0.5
  assert metrics['num_generated/bright'] == 0
  assert 'group_leakage/bright' not in metrics


def test_without_a_class_extractor_leakage_is_left():
  extractors = groups.GroupExtractors(None, _BRIGHTNESS)
  reference = groups.group_reference(
    _shades_source([1, 1, 1], [2, 2, 2]), extractors
  )
  images, requested = _shades([3, 0, 2], 2)
  metrics = groups.evaluate_group_samples(images, requested, reference)
  assert {name.partition('/')[0] for name in metrics} == {
    'num_real', 'num_generated', 'group_leakage', 'group_entropy'
  }  # fmt: skip
  assert set(groups.curve_metrics(images, requested, reference)) == {
    f'group_{what}{suffix}'
    for what in ('leakage', 'entropy')
    for suffix in ('', '/dark', '/bright')
  }


def test_real_features_are_computed_once_for_many_methods():
  looked_at = []

  def counted(inputs):
    looked_at.append(len(inputs))
    return _few_pixels(inputs)

  extractors = groups.GroupExtractors(
    _PIXELS._replace(features=counted), _BRIGHTNESS
  )
  source = _shades_source([12, 12, 12], [12, 12, 13])
  reference = groups.group_reference(source, extractors)
  for _ in range(2):
    images, requested = _shades([10, 10, 10], 2)
    groups.evaluate_group_samples(images, requested, reference)
  groups.curve_metrics(images[1:], requested[1:], reference)
  assert looked_at == [37, 30, 30, 29]


def test_curves_are_the_cheap_part_of_the_same_numbers(reference):
  images, requested = _shades([20, 5, 5], 2)
  whole = groups.evaluate_group_samples(images, requested, reference)
  cheap = groups.curve_metrics(images, requested, reference)
  assert cheap.items() <= whole.items()
  assert set(cheap) == {'fid_pixels'} | {
    name for name in whole if name.startswith(('group_leak', 'group_entropy'))
  }


def test_names_of_groups_are_safe_and_differ(reference):
  names = ('a b', 'a/b', 'a_b', 'a_b_1', 'größe.2-x')
  made = group_requests.metric_names(names)
  assert made == ('a_b', 'a_b_1', 'a_b_2', 'a_b_1_3', 'größe.2-x')
  taken = group_requests.metric_names(('a_b_2', 'a b', 'a_b'))
  assert taken == ('a_b_2', 'a_b', 'a_b_2_2')
  assert reference.names == ('dark', 'a_bit_grey', 'bright')


def test_samples_are_requested_in_the_proportions_of_the_data():
  source = _shades_source([60, 30, 10], [1, 1, 1])
  requested = group_requests.requested_groups(source, 50)
  assert requested.dtype == np.int32 and np.all(np.diff(requested) >= 0)
  np.testing.assert_allclose(np.bincount(requested), [30, 15, 5], atol=1)
  assert len(group_requests.requested_groups(source, 1)) == 1
  with pytest.raises(InputError, match='num to be a whole number > 0'):
    group_requests.requested_groups(source, 0)


def test_a_trained_classifier_of_groups_leaks_little_on_real_images(
  two_kinds, classifier
):
  assert classifier.name == 'two_kinds_groups_classifier'
  assert not classifier.knows_labels
  assert 'held-out' in classifier.description
  extractors = groups.GroupExtractors(classifier, classifier)
  reference = groups.group_reference(two_kinds, extractors)
  floor = reference.floor
  assert set(floor) == {
    f'group_{what}{suffix}'
    for what in ('leakage', 'entropy')
    for suffix in ('', '/positive', '/negative')
  }
  assert floor['group_leakage'] < 0.02
  real = groups.evaluate_real_groups(reference, 150, seed=1)
  assert floor.items() <= real.items()
  assert (real['num_generated'], real['num_real']) == (150, 180)
  assert (real['num_generated/positive'], real['num_real/positive']) == (
    50,
    60,
  )
  # A generator of one group only, asked for both.
  train = two_kinds.train
  rows = train.groups == 0
  collapsed = train.inputs[rows][:150]
  requested = group_requests.requested_groups(two_kinds, 150)
  metrics = groups.evaluate_group_samples(collapsed, requested, reference)
  assert set(metrics) == set(real)
  assert abs(metrics['group_leakage'] - 2 / 3) < 0.02
  assert metrics['group_leakage/negative'] > 0.96
  fid = 'fid_two_kinds_groups_classifier'
  assert metrics[f'{fid}/negative'] > 10 * real[f'{fid}/negative']
  assert metrics[f'group_mean_{fid}'] > 5 * real[f'group_mean_{fid}']


def test_all_real_images_are_taken_where_more_are_wanted(reference):
  real = groups.evaluate_real_groups(reference, 10_000)
  assert real['num_generated'] == 120 and real['num_generated/bright'] == 20
  source = reference.source
  again = groups.evaluate_group_samples(
    source.train.inputs, source.train.groups, reference
  )
  np.testing.assert_allclose(real['fid_pixels'], again['fid_pixels'])
  few = [groups.evaluate_real_groups(reference, 60, seed=s) for s in (1, 1, 2)]
  assert few[0] == few[1] != few[2]
  assert few[0]['num_generated/dark'] == 30


def test_real_images_that_the_extractor_was_fitted_to_are_left_out(reference):
  num = len(reference.source.train.inputs)
  classes = _PIXELS._replace(fitted_rows=np.arange(0, num, 2))
  told = reference._replace(
    extractors=reference.extractors._replace(classes=classes)
  )
  real = groups.evaluate_real_groups(told, 10_000)
  assert real['num_generated'] == num // 2
  source = reference.source
  again = groups.evaluate_group_samples(
    source.train.inputs[1::2], source.train.groups[1::2], reference
  )
  np.testing.assert_allclose(real['fid_pixels'], again['fid_pixels'])


def test_unusable_sources_and_extractors_are_refused():
  source = _shades_source([2, 2, 2], [2, 2, 2])
  blind = _BRIGHTNESS._replace(probabilities=None)
  with pytest.raises(InputError, match="'bright', which has no prob"):
    groups.group_reference(source, groups.GroupExtractors(None, blind))
  two = dataclasses.replace(source, group_names=('a', 'b', 'c', 'd'))
  extractors = groups.GroupExtractors(None, _BRIGHTNESS)
  with pytest.raises(InputError, match=r'\[6, 4\] of 4 groups, got \[6, 3\]'):
    groups.group_reference(two, extractors)
  plain = dataclasses.replace(source, test=source.test._replace(groups=None))
  with pytest.raises(InputError, match='for the test split of shades'):
    groups.group_reference(plain, extractors)
  with pytest.raises(InputError, match='for the test split of shades'):
    groups.group_classifier(plain)
  vectors = dataclasses.replace(
    source, train=source.train._replace(inputs=np.zeros([6, 4], np.float32))
  )
  with pytest.raises(InputError, match=r'features \[4\] of shades'):
    groups.group_reference(vectors, extractors)


def test_unusable_samples_are_refused(reference):
  images, requested = _shades([4, 4, 4], 2)
  for measure in (groups.evaluate_group_samples, groups.curve_metrics):
    with pytest.raises(InputError, match='one shape'):
      measure(images[:, :3], requested, reference)
    with pytest.raises(InputError, match='images to be uint8'):
      measure(images / 255, requested, reference)
    with pytest.raises(InputError, match='requested to be 12 whole'):
      measure(images, requested[:5], reference)
    with pytest.raises(InputError, match=r'requested in 0\.\.2'):
      measure(images, requested + 1, reference)
