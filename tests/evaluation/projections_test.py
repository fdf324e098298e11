import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation.embeddings import projections


def test_random_directions_are_orthonormal_and_always_the_same():
  first = projections.random_directions(50, 12)
  assert first.shape == (50, 12) and first.dtype == np.float32
  np.testing.assert_allclose(first.T @ first, np.eye(12), atol=1e-6)
  np.testing.assert_array_equal(first, projections.random_directions(50, 12))
  # Uniform: distances are kept on average.
  inputs = np.random.default_rng(1).normal(size=(2000, 50))
  kept = np.sum((inputs @ first) ** 2) / np.sum(inputs**2)
  assert abs(kept - 12 / 50) < 0.02


def test_the_directions_of_a_classifier_are_those_that_its_logits_need():
  rng = np.random.default_rng(0)
  # Logits differ between classes in three directions only; the common part is
  # large and moves all alike.
  head = rng.normal(size=(20, 3)) @ rng.normal(size=(3, 9))
  common = 100 * rng.normal(size=(20, 1))
  found = projections.classifier_directions(head + common, 3)
  np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-6)
  centred = head - head.mean(axis=1, keepdims=True)
  np.testing.assert_allclose(found @ (found.T @ centred), centred, atol=1e-4)
  spread = np.sum((found.T @ centred) ** 2, axis=1)
  assert spread[0] > spread[1] > spread[2]
  # The sign is no accident of the decomposition.
  largest = np.abs(found).argmax(axis=0)
  assert np.all(found[largest, np.arange(3)] > 0)


@pytest.mark.parametrize('number', [0, -1, 2.5, 21])
def test_more_directions_than_there_are_are_refused(number):
  with pytest.raises(InputError, match=rf'project=?.*got project={number}'):
    projections.random_directions(20, number)
  with pytest.raises(InputError, match='project <= 8, .* 9 classes .* 20 feat'):
    projections.classifier_directions(np.ones((20, 9)), 9)
