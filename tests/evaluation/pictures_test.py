import numpy as np
from PIL import Image
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import pictures
from fedjax_gen.evaluation.drawing import theme

_INPUTS = np.random.default_rng(0).integers(0, 256, [7, 8, 8, 1], np.uint8)


def _read(path):
  return np.asarray(Image.open(path).convert('RGB'))


def test_grid_shows_every_pixel_enlarged_and_unsmoothed(tmp_path):
  pictures.image_grid(_INPUTS, tmp_path / 'grid.png', columns=3)
  grid = _read(tmp_path / 'grid.png')
  # Three rows of three cells of 8 x 9 pixels, 6 apart, 12 to the edge.
  assert grid.shape == (3 * 72 + 2 * 6 + 24, 3 * 72 + 2 * 6 + 24, 3)
  left, top = 12 + 78, 12 + 78  # the fifth image: second row, second column
  cell = grid[top : top + 72, left : left + 72, 0]
  np.testing.assert_array_equal(cell[4::9, 4::9], _INPUTS[4, ..., 0])
  np.testing.assert_array_equal(cell[:9, :9], _INPUTS[4, 0, 0, 0])
  assert np.all(grid[-84:-12, -84:-12] == 255)  # two cells stay empty


def test_colour_is_kept_and_large_images_are_not_enlarged(tmp_path):
  inputs = np.zeros([1, 100, 80, 3], np.uint8)
  inputs[..., 1] = 200
  pictures.image_grid(inputs, tmp_path / 'green.png')
  grid = _read(tmp_path / 'green.png')
  assert grid.shape == (124, 104, 3)
  np.testing.assert_array_equal(grid[50, 50], [0, 200, 0])


def test_rows_of_unequal_length_line_up_right_of_their_titles(tmp_path):
  path = tmp_path / 'new folder' / 'rows.png'
  rows = {'originals': _INPUTS[:3], 'reconstructions': _INPUTS[3:5]}
  pictures.image_rows(rows, path)
  picture = _read(path)
  left = 12 + int(theme.font(14).getlength('reconstructions')) + 12
  assert picture.shape[:2] == (12 + 72 + 6 + 72 + 12, left + 3 * 78 - 6 + 12)
  for row, column, pixels in ((0, 2, _INPUTS[2]), (1, 1, _INPUTS[4])):
    x, y = left + 78 * column, 12 + 78 * row
    cell = picture[y : y + 72, x : x + 72, 0]
    np.testing.assert_array_equal(cell[4::9, 4::9], pixels[..., 0])
  assert np.all(picture[90:, left + 2 * 78 :] == 255)  # no third image below
  assert np.all(picture[:, left - 12 : left] == 255)
  for y in (12, 90):  # each row has a title
    assert np.any(picture[y : y + 72, 12 : left - 12] < 128)


def test_title_and_captions_take_their_own_space(tmp_path):
  sizes = []
  for texts in ({}, {'title': 'Digits'}, {'captions': range(7)}):
    pictures.image_grid(_INPUTS, tmp_path / 'grid.png', columns=7, **texts)
    sizes.append(_read(tmp_path / 'grid.png').shape[:2])
  (height, width), titled, captioned = sizes
  assert titled[0] > height and captioned[0] > height
  assert titled[1] == captioned[1] == width


def test_long_captions_are_cut_to_their_image(tmp_path):
  captions = ['a caption that no image is wide enough for'] * 7
  pictures.image_grid(_INPUTS, tmp_path / 'a.png', captions=captions)
  pictures.image_grid(_INPUTS, tmp_path / 'b.png', captions=['a c'] * 7)
  assert _read(tmp_path / 'a.png').shape == _read(tmp_path / 'b.png').shape
  for text in captions:
    cut = pictures._shortened(text, 72)
    assert cut.endswith('…') and theme.font(14).getlength(cut) <= 72


def test_equal_images_give_equal_files(tmp_path):
  for name in ('a.png', 'b.png'):
    pictures.image_grid(_INPUTS, tmp_path / name, title='twice')
  assert (tmp_path / 'a.png').read_bytes() == (tmp_path / 'b.png').read_bytes()


def test_unusable_arguments_are_refused_and_write_nothing(tmp_path):
  path = tmp_path / 'picture.png'
  with pytest.raises(InputError, match='inputs to be uint8'):
    pictures.image_grid(_INPUTS / 255.0, path)
  with pytest.raises(InputError, match='Expected 7 captions, got 2'):
    pictures.image_grid(_INPUTS, path, captions=[1, 2])
  with pytest.raises(InputError, match='columns'):
    pictures.image_grid(_INPUTS, path, columns=0)
  with pytest.raises(InputError, match='at least one row'):
    pictures.image_rows({}, path)
  with pytest.raises(InputError, match='one shape'):
    pictures.image_rows({'a': _INPUTS, 'b': _INPUTS[:, :5]}, path)
  assert not list(tmp_path.iterdir())
