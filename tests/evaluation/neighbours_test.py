import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import neighbours


def test_neighbours_are_those_of_all_pairs_whatever_the_blocks():
  rng = np.random.default_rng(0)
  inputs = rng.integers(0, 256, [37, 3, 4, 3], np.uint8)
  train = rng.integers(0, 256, [53, 3, 4, 3], np.uint8)
  gaps = (inputs[:, None].astype(float) - train[None, :]) / 255
  expected = np.sqrt(np.sum(gaps**2, axis=(2, 3, 4)))
  for block_size in (1, 10, 100):
    found = neighbours.nearest(inputs, train, block_size=block_size)
    np.testing.assert_array_equal(found.indices, expected.argmin(axis=1))
    np.testing.assert_allclose(found.distances, expected.min(axis=1))


def test_copies_are_found_at_distance_zero(digits):
  chosen = np.array([5, 1000, 77])
  found = neighbours.nearest(digits.train_inputs[chosen], digits.train_inputs)
  np.testing.assert_array_equal(found.distances, 0)
  np.testing.assert_array_equal(
    digits.train_inputs[found.indices], digits.train_inputs[chosen]
  )


def test_memorising_is_told_from_drawing_anew(digits):
  train, unseen = digits.train_inputs[:1000], digits.train_inputs[1000:]
  reference = neighbours.nearest(digits.test_inputs, train).distances
  anew = neighbours.nearest(unseen, train).distances
  copies = neighbours.nearest(train[:400], train).distances
  assert neighbours.memorised_share(anew, reference) < 0.04
  assert neighbours.memorised_share(copies, reference) == 1
  half = np.concatenate([copies, np.full(400, 9.0)])
  assert neighbours.memorised_share(half, reference) == 0.5


def test_copies_lie_nearer_to_training_than_to_held_out_images(digits):
  train, unseen = digits.train_inputs[:700], digits.train_inputs[700:1400]
  held_out = digits.test_inputs
  anew = neighbours.dcr_share(unseen, train, held_out)
  assert abs(anew - 0.5) < 0.06  # three standard errors
  # The larger set does not win by its size: of 700 images 360 are drawn.
  swapped = neighbours.dcr_share(unseen, held_out, train)
  assert abs(swapped - 0.5) < 0.06
  assert neighbours.dcr_share(train, train, unseen) == 1
  assert neighbours.dcr_share(unseen, train, unseen) == 0
  assert neighbours.dcr_share(unseen, train, train) == 0.5
  draws = [
    neighbours.dcr_share(unseen, train, held_out, seed=s) for s in (0, 1)
  ]
  assert draws[0] == anew != draws[1]


def test_unusable_arguments_are_refused_by_name(digits):
  inputs = digits.test_inputs
  with pytest.raises(InputError, match='one shape'):
    neighbours.nearest(inputs, inputs[:, 1:])
  with pytest.raises(InputError, match='block_size'):
    neighbours.nearest(inputs, inputs, block_size=0)
  with pytest.raises(InputError, match='percentile'):
    neighbours.memorised_share(np.ones(3), np.ones(3), percentile=101)
  with pytest.raises(InputError, match='one shape'):
    neighbours.dcr_share(inputs, inputs, inputs[:, 1:])
  with pytest.raises(InputError, match='seed=-1'):
    neighbours.dcr_share(inputs, inputs, inputs, seed=-1)
