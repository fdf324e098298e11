import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation.drawing import embedding


def test_embedding_of_digits_keeps_classes_together(digits):
  made = embedding.tsne(digits.train_inputs, max_points=300)
  assert made.points.shape == (300, 2) and len(set(made.indices)) == 300
  labels = digits.train_labels[made.indices]
  gaps = np.linalg.norm(made.points[:, None] - made.points[None, :], axis=-1)
  np.fill_diagonal(gaps, np.inf)
  assert np.mean(labels[gaps.argmin(axis=1)] == labels) > 0.85


def test_embedding_is_determined_by_its_seed(digits):
  first, again, other = (
    embedding.tsne(digits.train_inputs[:200], max_points=60, seed=seed)
    for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first.points, again.points)
  np.testing.assert_array_equal(first.indices, again.indices)
  assert not np.array_equal(first.indices, other.indices)


@pytest.mark.parametrize(
  'values',
  [
    np.zeros([20, 8]),  # latents collapsed onto the prior's mean
    np.linspace(0, 1, 20)[:, None],
    np.random.default_rng(0).normal(size=[4, 3]),
  ],
)
def test_embedding_of_degenerate_latents_is_finite(values):
  made = embedding.tsne(values)
  assert made.points.shape == (len(values), 2)
  assert np.all(np.isfinite(made.points))


def test_unusable_values_are_refused_by_name():
  with pytest.raises(InputError, match='at least 4 examples in values, got 3'):
    embedding.tsne(np.zeros([3, 2]))
  with pytest.raises(InputError, match='values to be finite'):
    embedding.tsne(np.full([9, 2], np.nan))
  with pytest.raises(InputError, match='perplexity'):
    embedding.tsne(np.zeros([9, 2]), perplexity=0)
