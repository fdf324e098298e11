"""Gaussian domains: what is drawn has the moments that are claimed."""

import numpy as np
import pytest
from sklearn import linear_model

from fedjax_gen.data import gaussians, partition, sources
from fedjax_gen.errors import InputError


def test_draws_have_the_moments_of_their_class_and_domain():
  means, covariances = gaussians.moments()
  draws = gaussians.draw(1500, seed=3)
  for domain, label in np.ndindex(means.shape[:2]):
    rows = (draws.domains == domain) & (draws.labels == label)
    inputs = draws.inputs[rows].astype(float)
    assert len(inputs) == 3000
    stddevs = np.sqrt(np.diag(covariances[domain, label]))
    errors = (inputs.mean(axis=0) - means[domain, label]) / stddevs
    assert np.abs(errors).max() < 5 / np.sqrt(3000)
    covariance = np.cov(inputs.T) / np.outer(stddevs, stddevs)
    claimed = covariances[domain, label] / np.outer(stddevs, stddevs)
    # The error of an entry has a stddev of at most sqrt(2 / n).
    assert np.abs(covariance - claimed).max() < 5 * np.sqrt(2 / 3000)


def test_classes_and_domains_differ_in_both_moments():
  means, covariances = gaussians.moments()
  for moments in (means, covariances):
    flat = moments.reshape(25, -1)
    distances = np.linalg.norm(flat[:, None] - flat, axis=-1)
    assert distances[~np.eye(25, dtype=bool)].min() > 0.5
  eigenvalues = np.linalg.eigvalsh(covariances)
  assert eigenvalues.min() > 0


def test_a_domain_is_a_rotation_a_scale_and_a_shift():
  means, covariances = gaussians.moments()
  between = means[:, :, None] - means[:, None]  # no shift in differences
  distances = np.linalg.norm(between, axis=-1)
  scales = distances[:, 0, 1] / distances[0, 0, 1]
  np.testing.assert_allclose(distances, scales[:, None, None] * distances[0])
  spectra = np.linalg.eigvalsh(covariances)
  np.testing.assert_allclose(spectra, scales[:, None, None] ** 2 * spectra[0])
  assert np.ptp(scales) > 0.1


def test_norms_are_about_the_root_of_the_number_of_features():
  means, covariances = gaussians.moments()
  squares = (means**2).sum(-1) + np.trace(covariances, axis1=-2, axis2=-1)
  np.testing.assert_allclose(squares.mean(), gaussians.NUM_FEATURES)
  inputs = sources.load('gaussian_domains').train.inputs
  norms = np.linalg.norm(inputs, axis=1) / np.sqrt(gaussians.NUM_FEATURES)
  assert 0.97 < norms.mean() < 1.01
  assert norms.std() < 0.2


def test_the_seed_decides_the_draws_and_nothing_else():
  first, again, other = (gaussians.draw(4, seed) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first.inputs, again.inputs)
  assert not np.isin(first.inputs, other.inputs).any()
  np.testing.assert_array_equal(np.bincount(first.users), np.full(10, 20))
  np.testing.assert_array_equal(first.users // 2, first.domains)
  # Neither classes nor users lie in blocks.
  assert (np.diff(first.labels) != 0).sum() > 100
  assert (np.diff(first.users) != 0).sum() > 100


def test_one_linear_classifier_is_right_in_nine_cases_of_ten():
  source = sources.load('gaussian_domains')

  def accuracy(train, test):
    model = linear_model.LogisticRegression(max_iter=200)
    part, held_out = source.train, source.test
    model.fit(part.inputs[train], part.labels[train])
    return model.score(held_out.inputs[test], held_out.labels[test])

  pooled = accuracy(slice(None), slice(None))
  assert 0.85 < pooled < 0.92
  own = np.mean(
    [
      accuracy(source.train.groups == d, source.test.groups == d)
      for d in range(gaussians.NUM_DOMAINS)
    ]
  )
  # What personal models can gain.
  assert own > pooled + 0.05


def test_clients_can_be_made_in_every_way():
  source = sources.load('gaussian_domains')
  train = source.train
  assert source.input_shape == (32,) and not source.is_image
  assert train.inputs.dtype == np.float32
  assert len(source.test.labels) == 2500
  assert source.group_names[4] == 'domain 4'
  assert len(source.user_names) == 10
  by_user = partition.natural(train.users)
  np.testing.assert_array_equal(by_user.sizes, np.full(10, 1000))
  np.testing.assert_array_equal(
    by_user.counts(train.labels, 5), np.full((10, 5), 200)
  )
  for user in range(10):
    assert set(train.groups[by_user.rows(user)]) == {user // 2}
  assert partition.by_group(train.groups, 3, seed=0).num_clients == 15
  skewed = partition.dirichlet(train.labels, 10, alpha=0.3, seed=0)
  assert skewed.sizes.sum() == 10000


def test_another_seed_of_the_split_moves_rows_and_changes_none():
  first, other = (sources.load('gaussian_domains', seed=s) for s in (0, 1))
  assert not np.array_equal(first.test.inputs, other.test.inputs)
  sums = [
    np.sort(np.concatenate([part.inputs[:, 0] for part in (s.train, s.test)]))
    for s in (first, other)
  ]
  np.testing.assert_array_equal(*sums)


@pytest.mark.parametrize(
  'arguments, message', [((0, 0), 'num_per_cell=0'), ((5, -1), 'seed=-1')]
)
def test_a_bad_argument_is_named_with_its_value(arguments, message):
  with pytest.raises(InputError, match=message):
    gaussians.draw(*arguments)


def test_digits_as_features_are_the_digits_standardised_one_by_one():
  source, images = sources.load('digits_features'), sources.load('digits')
  assert source.input_shape == (64,) and source.class_names == tuple(
    '0123456789'
  )
  for part, raw in ((source.train, images.train), (source.test, images.test)):
    assert part.inputs.dtype == np.float32
    np.testing.assert_array_equal(part.labels, raw.labels)
    np.testing.assert_allclose(part.inputs.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(part.inputs.std(axis=1), 1, atol=1e-5)
    pixels = raw.inputs[7].ravel().astype(float)
    expected = (pixels - pixels.mean()) / pixels.std()
    np.testing.assert_allclose(part.inputs[7], expected, atol=1e-5)
