import numpy as np
from PIL import Image
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation.drawing import group_pictures, theme

_NUM = 6
_GREY = np.random.default_rng(0).integers(
  0, 256, [2, 2, _NUM, 8, 6, 1], np.uint8
)
_COLOUR = np.random.default_rng(1).integers(
  0, 256, [2, 2, _NUM, 8, 6, 3], np.uint8
)


def _rows(inputs, methods=('one', 'two'), groups=('a', 'b')):
  return {
    method: dict(zip(groups, row, strict=True))
    for method, row in zip(methods, inputs, strict=True)
  }


def _read(path):
  return np.asarray(Image.open(path).convert('RGB'))


def _is_paper(pixels):
  return np.all(pixels == 255)


@pytest.mark.parametrize('inputs', [_GREY, _COLOUR], ids=['grey', 'rgb'])
def test_every_method_and_group_has_its_grid_of_unsmoothed_images(
  inputs, tmp_path
):
  path = tmp_path / 'new folder' / 'groups.png'
  group_pictures.group_rows(_rows(inputs), path, columns=4)
  picture = _read(path)
  # Images enlarged 9 times to 72 x 54, four in a row, 2 apart.
  cell_height, cell_width = 2 * 72 + 2, 4 * 54 + 3 * 2
  wide = 2 * (cell_width + 12)
  font = theme.font(max(14, wide // 32))
  longest = max(font.getlength('one'), font.getlength('two'))
  left = 12 + int(longest) + 1 + 12
  assert picture.shape[1] == left + wide
  bottom = picture.shape[0] - 12
  for method in range(2):
    for group in range(2):
      top = bottom - (2 - method) * cell_height - (1 - method) * 12
      for number in (0, 3, 5):
        row, column = divmod(number, 4)
        y = top + row * 74
        x = left + group * (cell_width + 12) + column * 56
        image = picture[y : y + 72, x : x + 54]
        expected = np.broadcast_to(inputs[method, group, number], [8, 6, 3])
        np.testing.assert_array_equal(image[4::9, 4::9], expected)
        np.testing.assert_array_equal(image[::9, ::9], expected)
      # Two images are missing in the second row.
      assert _is_paper(picture[top + 74 : top + 146, x + 56 : x + 2 * 56 + 54])
  for top in (bottom - 2 * cell_height - 12, bottom - cell_height):
    label = picture[top : top + cell_height, 12 : left - 12]
    assert label.min() < 128
  heads = picture[: bottom - 2 * cell_height - 12]
  for group in range(2):
    x = left + group * (cell_width + 12)
    assert heads[:, x : x + cell_width].min() < 128
  assert _is_paper(heads[:, :left])  # no title


def test_a_method_may_lack_a_group_or_images_of_it(tmp_path):
  rows = _rows(_GREY)
  rows['one'] = {'b': rows['one']['b']}
  rows['two']['a'] = rows['two']['a'][:1]
  group_pictures.group_rows(rows, tmp_path / 'groups.png', columns=3)
  picture = _read(tmp_path / 'groups.png')
  group_pictures.group_rows(_rows(_GREY), tmp_path / 'all.png', columns=3)
  whole = _read(tmp_path / 'all.png')
  assert picture.shape == whole.shape
  # Groups stand in the order in which they first appear: here b, then a.
  cell = (2 * 72 + 2, 3 * 54 + 2 * 2)
  top, right = whole.shape[0] - 12 - 2 * cell[0] - 12, whole.shape[1] - 12
  assert _is_paper(picture[top : top + cell[0], right - cell[1] : right])
  last = whole[top : top + cell[0], right - cell[1] : right]
  first = picture[top:, right - 2 * cell[1] - 12 :][: cell[0], : cell[1]]
  np.testing.assert_array_equal(first, last)


@pytest.mark.parametrize(
  ('num_groups', 'side'), [(1, 8), (2, 28), (5, 32), (4, 64)]
)
def test_letters_can_be_read_at_the_width_of_a_phone(
  num_groups, side, tmp_path
):
  inputs = np.zeros([3, num_groups, 16, side, side, 1], np.uint8)
  methods = ('FedVAE', 'FissionVAE +L +D', 'real')
  names = [f'group {group}' for group in range(num_groups)]
  group_pictures.group_rows(_rows(inputs, methods, names), tmp_path / 'a.png')
  picture = _read(tmp_path / 'a.png')
  assert 300 < picture.shape[1] < 1400
  has_ink = picture.min(axis=(1, 2)) < 128
  first = np.argmax(has_ink)
  letters = np.argmin(has_ink[first:])  # from the top of "p" to its descender
  assert letters / picture.shape[1] * 400 > 6.5


def test_long_names_are_broken_into_lines_or_cut(tmp_path):
  font = theme.font(14)
  width = int(font.getlength('hierarchical')) + 1
  text = 'FissionVAE with hierarchical latents a b'
  wrapped = group_pictures._wrapped(text, font, width)
  assert wrapped.split() == text.split()
  assert wrapped.endswith('\nlatents a b')
  assert max(map(font.getlength, wrapped.split('\n'))) <= width
  cut = group_pictures._wrapped('x' * 100, font, width)
  assert cut.endswith('x…') and font.getlength(cut) <= width
  sizes = []
  for method in ('m' * 100, 'm' * 50):
    rows = _rows(_GREY[:1], [method], ['g' * 100, 'g g ' * 30])
    group_pictures.group_rows(rows, tmp_path / 'long.png')
    sizes.append(_read(tmp_path / 'long.png').shape)
  assert sizes[0] == sizes[1]


def test_many_lines_beside_a_low_cell_take_their_space(tmp_path):
  rows = _rows(_GREY[:, :, :1], ['w w w w w w', 'word'])
  rows['w x y z ' * 6] = rows.pop('word')
  group_pictures.group_rows(rows, tmp_path / 'lines.png')
  picture = _read(tmp_path / 'lines.png')
  assert picture.shape[0] > 2 * 72 + 200
  assert _is_paper(picture[-12:]) and _is_paper(picture[:, :12])


def test_title_takes_its_own_space(tmp_path):
  for title in ('', 'Samples'):
    path = tmp_path / f'{title}.png'
    group_pictures.group_rows(_rows(_GREY), path, title=title)
  plain, titled = (_read(tmp_path / f'{t}.png') for t in ('', 'Samples'))
  extra = titled.shape[0] - plain.shape[0]
  assert extra > 14 and titled.shape[1] == plain.shape[1]
  np.testing.assert_array_equal(titled[12 + extra :], plain[12:])


def test_images_are_sorted_by_the_group_that_was_asked_for():
  images = np.arange(7, dtype=np.uint8)[:, None, None, None]
  requested = np.array([2, 0, 2, 2, 0, 2, 0])
  sorted_images = group_pictures.by_group(
    images, requested, ('a', 'b', 'c'), num=3
  )
  assert {k: v.ravel().tolist() for k, v in sorted_images.items()} == {
    'a': [1, 4, 6],
    'c': [0, 2, 3],
  }
  with pytest.raises(InputError, match=r'requested in 0\.\.1'):
    group_pictures.by_group(images, requested, ('a', 'b'))
  with pytest.raises(InputError, match='distinct names'):
    group_pictures.by_group(images, requested, ('a', 'b', 'a'))


def test_interpolations_stand_step_under_step(tmp_path):
  path = tmp_path / 'ways.png'
  rows = {
    'a to b, decoder a': _COLOUR[0, 0],
    'a to b, decoder b': _COLOUR[0, 1],
  }
  group_pictures.interpolations(rows, path)
  picture = _read(path)
  left = 12 + int(max(map(theme.font(14).getlength, rows))) + 12
  for row, inputs in enumerate(rows.values()):
    x, y = left + 5 * 60, 12 + 78 * row
    image = picture[y : y + 72, x : x + 54]
    np.testing.assert_array_equal(image[4::9, 4::9], inputs[5])
  assert picture[12 + 150 :, left:].min() < 160  # the shares of the way


def test_unusable_arguments_are_refused_and_write_nothing(tmp_path):
  path = tmp_path / 'picture.png'
  images = _GREY[0, 0]
  with pytest.raises(InputError, match='at least one group'):
    group_pictures.group_rows({}, path)
  with pytest.raises(InputError, match='at least one group'):
    group_pictures.group_rows({'method': {}}, path)
  with pytest.raises(InputError, match='one/a to be uint8'):
    group_pictures.group_rows(_rows(_GREY / 255), path)
  with pytest.raises(InputError, match='one shape'):
    group_pictures.group_rows({'m': {'a': images, 'b': images[:, :5]}}, path)
  with pytest.raises(InputError, match='columns'):
    group_pictures.group_rows(_rows(_GREY), path, columns=0)
  with pytest.raises(InputError, match='at least one row'):
    group_pictures.interpolations({}, path)
  for other in (images[:1], images[:3]):
    rows = {'a': images if len(other) > 1 else other, 'b': other}
    with pytest.raises(InputError, match='equally many steps, at least 2'):
      group_pictures.interpolations(rows, path)
  assert not list(tmp_path.iterdir())
