"""Rendered shapes: the same bytes each time, dark on bright, told apart."""

import zlib

import numpy as np
import pytest

from fedjax_gen.data import shapes
from fedjax_gen.errors import InputError


def test_images_are_the_same_bytes_on_every_machine():
  images, labels = shapes.render(20, 8, seed=0)
  assert images.shape == (20, 8, 8, 1) and images.dtype == np.uint8
  assert labels.dtype == np.int32
  # Recorded once: a new value means other images for everyone.
  assert zlib.crc32(images.tobytes()) == 0x60712487


def test_the_seed_decides():
  first, _ = shapes.render(10, 8, seed=3)
  again, _ = shapes.render(10, 8, seed=3)
  np.testing.assert_array_equal(first, again)
  other, _ = shapes.render(10, 8, seed=4)
  assert (first != other).any(axis=(1, 2, 3)).all()


def test_classes_take_turns():
  _, labels = shapes.render(12, 8, seed=0)
  np.testing.assert_array_equal(labels, np.arange(12) % 5)
  assert len(shapes.CLASS_NAMES) == 5


def test_blocks_change_nothing(monkeypatch):
  at_once, _ = shapes.render(23, 8, seed=0)
  monkeypatch.setattr(shapes, '_BLOCK', 2 * (8 * 8) ** 2)
  in_pairs, _ = shapes.render(23, 8, seed=0)
  np.testing.assert_array_equal(at_once, in_pairs)


@pytest.mark.parametrize('size', [8, 28])
def test_every_shape_is_darker_than_its_ground(size):
  images, _ = shapes.render(200, size, seed=1)
  pixels = images.reshape(200, -1).astype(int)
  assert (pixels.max(axis=1) >= 176).all()
  assert (pixels.min(axis=1) < 110).all()
  # More ground than shape along the edge, which no shape fills.
  edge = np.concatenate(
    [images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1
  )[..., 0]
  assert (np.median(edge, axis=1) >= pixels.max(axis=1) - 90).all()
  assert (edge.mean(axis=1) > pixels.mean(axis=1)).all()


def masks(label, size=64):
  """Where shapes of a class are, `[n, H, W]`, from images without noise."""
  images, labels = shapes.render(40, size, seed=2)
  pixels = images[labels == label][..., 0].astype(int)
  low = pixels.min(axis=(1, 2), keepdims=True)
  high = pixels.max(axis=(1, 2), keepdims=True)
  return 2 * pixels < low + high


def filled(mask):
  """Share of its upright bounding box that a shape covers."""
  rows, columns = np.nonzero(mask)
  return len(rows) / (np.ptp(rows) + 1) / (np.ptp(columns) + 1)


def middle(mask):
  """Whether the middle of a shape's bounding box belongs to it."""
  rows, columns = np.nonzero(mask)
  return mask[
    (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
  ]


@pytest.mark.parametrize(
  'name, low, high',
  [
    ('disc', 0.74, 0.83),  # pi / 4
    ('square', 0.6, 1.0),  # 1 upright, less when turned
    ('triangle', 0.35, 0.55),  # a half
    ('cross', 0.3, 0.55),
    ('ring', 0.55, 0.62),  # pi / 4, less a quarter of that
  ],
)
def test_each_class_is_the_shape_of_its_name(name, low, high):
  for mask in masks(shapes.CLASS_NAMES.index(name)):
    assert low < filled(mask) < high
    assert middle(mask) == (name != 'ring')
    # A triangle stands on its base: its lower half is the heavier one.
    rows = np.nonzero(mask)[0]
    lean = 2 * rows.mean() - rows.min() - rows.max()
    assert (lean / np.ptp(rows) > 0.08) == (name == 'triangle')


def test_shapes_differ_in_place_size_angle_and_greys():
  images, labels = shapes.render(100, 32, seed=0)
  squares = images[labels == 1][..., 0]
  assert len(np.unique(squares.max(axis=(1, 2)))) > 10
  assert len(np.unique(squares.min(axis=(1, 2)))) > 10
  found = masks(1)
  areas = found.sum(axis=(1, 2))
  assert areas.max() > 1.3 * areas.min()
  shares = [filled(mask) for mask in found]
  assert max(shares) - min(shares) > 0.1
  centers = np.array([np.mean(np.nonzero(mask), axis=1) for mask in found])
  assert (np.ptp(centers, axis=0) > 3).all()


@pytest.mark.parametrize(
  'arguments, message',
  [((0, 8, 0), 'num=0'), ((5, 1.5, 0), 'size=1.5'), ((5, 8, -1), 'seed=-1')],
)
def test_a_bad_argument_is_named_with_its_value(arguments, message):
  with pytest.raises(InputError, match=message):
    shapes.render(*arguments)
