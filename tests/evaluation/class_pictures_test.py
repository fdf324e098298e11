import matplotlib
import numpy as np
from PIL import Image
import pytest

from fedjax_gen.data.examples import Examples
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation.drawing import (
  class_pictures,
  feature_pictures,
  group_pictures,
  plots,
)
from tests.evaluation import drawing

_NAMES = [str(label) for label in range(10)]
_RNG = np.random.default_rng(0)


def _examples(digits, num=60):
  return Examples(digits.test_inputs[:num], digits.test_labels[:num])


def _features(digits, num=60):
  inputs = digits.test_inputs[:num].reshape(num, -1) / 255
  return Examples(inputs, digits.test_labels[:num])


def _missing(digits, path):
  del digits  # made-up answers
  counts = _RNG.integers(0, 2, [3, 10])
  correct = np.minimum(9 * counts, 9)
  return class_pictures.draw_missing_classes(
    {'fedvtc': correct // 2, 'local': correct}, np.full(10, 9), counts, path,
    class_names=_NAMES,
  )  # fmt: skip


def _images(digits, path):
  examples = _examples(digits)
  return class_pictures.draw_class_images(
    examples, {'generated': examples}, path, class_names=_NAMES
  )


def _map(digits, path):
  features = _features(digits)
  return feature_pictures.draw_feature_map(
    features, features, path, class_names=_NAMES
  )


@pytest.mark.parametrize('draw', [_missing, _images, _map])
def test_picture_is_a_light_png_that_a_phone_can_show(draw, digits, tmp_path):
  settings = dict(matplotlib.rcParams)
  drawn = draw(digits, tmp_path / 'a.png')
  assert drawn.path == tmp_path / 'a.png'
  assert drawn.caption.endswith('.') and drawn.section
  image = Image.open(tmp_path / 'a.png')
  assert image.format == 'PNG' and image.width < 800
  pixels = np.asarray(image.convert('L'))
  assert pixels[0, 0] == 255 and pixels.min() < 100
  assert dict(matplotlib.rcParams) == settings


class MissingClassesTest(drawing.DrawnTestCase):
  def _draw(self, num_clients, num_classes, **options):
    counts = np.ones([num_clients, num_classes])
    counts[-1, 0] = 0
    ours = np.full([num_clients, num_classes], 3)
    drawn = class_pictures.draw_missing_classes(
      {'fedvtc': ours, 'local': ours * counts},
      np.full(num_classes, 4),
      counts,
      'x',
      class_names=[f'c{label}' for label in range(num_classes)],
      **options,
    )
    return drawn, self.charts[-1].axes[:-1]  # the last is that of colours

  def test_cells_are_shares_and_unseen_classes_are_marked(self):
    drawn, panels = self._draw(3, 4)
    titles = [axes.get_title('left') for axes in panels]
    self.assertEqual(
      titles, ['fedvtc: 75.0% on unseen', 'local: 0.0% on unseen']
    )
    self.assertIn('fedvtc 75.0% on unseen; local 0.0% on unseen', drawn.alt)
    for axes, expected in zip(panels, (0.75, 0.0), strict=True):
      shares = axes.images[0].get_array()
      self.assertEqual(shares.shape, (3, 4))
      self.assertEqual(shares[2, 0], expected)
      self.assertEqual(shares[0, 0], 0.75)
      marks = np.concatenate([line.get_xydata() for line in axes.lines])
      np.testing.assert_array_equal(marks, [[0, 2]])  # class, client
    self.assertNotIn('Grey', drawn.caption)

  def test_marks_are_seen_on_dark_and_on_light_cells(self):
    _, panels = self._draw(3, 4)
    colours = [
      line.get_color()
      for axes in panels
      for line in axes.lines
      if len(line.get_xdata())
    ]
    self.assertEqual(
      colours, [class_pictures.theme.PAPER, class_pictures.theme.INK]
    )

  def test_one_client_two_classes_and_a_hundred_fit(self):
    _, panels = self._draw(1, 2)
    self.assertEqual(panels[0].images[0].get_array().shape, (1, 2))
    _, panels = self._draw(100, 100)
    for axes in panels:  # one below the other, of fewer clients
      self.assertEqual(axes.images[0].get_array().shape, (20, 100))
      self.assertTrue(axes.get_subplotspec().is_first_col())
    rows = [text.get_text() for text in panels[0].get_yticklabels()]
    self.assertEqual((rows[0], rows[-1]), ('0', '99'))

  def test_a_class_without_test_examples_is_grey(self):
    drawn = class_pictures.draw_missing_classes(
      {'local': np.array([[2, 0], [2, 0]])}, np.array([4, 0]), np.ones([2, 2]),
      'x', class_names=['a', 'b'], client_names=['p', 'q'],
    )  # fmt: skip
    shares = self.charts[-1].axes[0].images[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(shares)[:, 1], True)
    self.assertIn('Grey', drawn.caption)
    self.assertIn('local every class seen', drawn.alt)


def test_each_row_holds_images_of_its_class(digits, monkeypatch, tmp_path):
  seen = {}
  monkeypatch.setattr(
    group_pictures, 'group_rows', lambda rows, path, **kwargs: seen.update(rows)
  )
  real, made = _examples(digits, 200), _examples(digits, 360)
  real = Examples(real.inputs[real.labels != 0], real.labels[real.labels != 0])
  class_pictures.draw_class_images(
    real, {'generated': made}, tmp_path / 'x', class_names=_NAMES, columns=3
  )
  assert list(seen) == _NAMES
  assert list(seen['0']) == ['generated']  # no real one to be had
  for label in range(1, 10):
    assert list(seen[str(label)]) == ['real', 'generated']
    for examples, name in ((real, 'real'), (made, 'generated')):
      expected = examples.inputs[examples.labels == label][:3]
      np.testing.assert_array_equal(seen[str(label)][name], expected)


def test_generated_images_can_stand_alone(digits, tmp_path):
  made = _examples(digits)
  drawn = class_pictures.draw_class_images(
    None, {'a': made}, tmp_path / 'a.png', class_names=_NAMES
  )
  assert (drawn.unprotected, drawn.made_by) == ('', ('a',))
  assert 'eal' not in drawn.caption
  beside = class_pictures.draw_class_images(
    made, {'a': made}, tmp_path / 'b.png', class_names=_NAMES
  )
  assert beside.unprotected
  widths = [Image.open(tmp_path / f'{n}.png').width for n in 'ab']
  assert widths[0] < widths[1]


def test_columns_keep_their_order_where_the_first_row_lacks_one(tmp_path):
  grey = np.full([1, 8, 8, 1], 90, np.uint8)
  rows = {'a': {'made': grey}, 'b': {'real': grey, 'made': grey}}
  group_pictures.group_rows(rows, tmp_path / 'x.png', groups=['real', 'made'])
  pixels = np.asarray(Image.open(tmp_path / 'x.png').convert('L'))
  first, second = np.array_split(pixels, 2)
  left = [half[:, : half.shape[1] // 2 + 10] == 90 for half in (first, second)]
  assert not left[0].any() and left[1].any()
  with pytest.raises(InputError, match=r"groups to name \['made'\]"):
    group_pictures.group_rows(rows, tmp_path / 'y.png', groups=['real'])


def test_of_many_classes_some_that_occur_are_shown(digits, tmp_path):
  labels = (digits.test_labels * 11).astype(np.int32)
  names = [f'c{label}' for label in range(100)]
  examples = Examples(digits.test_inputs, labels)
  drawn = class_pictures.draw_class_images(
    examples, {'generated': examples}, tmp_path / 'a.png', class_names=names
  )
  assert '10 of 100 classes' in drawn.caption
  shown = class_pictures.some_labels({'a': Examples(labels, np.arange(50))}, 12)
  assert len(shown) == 12 and (shown[0], shown[-1]) == (0, 49)


@pytest.mark.parametrize('names', [_NAMES, [f'class {n}' for n in _NAMES]])
def test_map_names_classes_and_says_how_often_neighbours_agree(
  digits, monkeypatch, names
):
  kept = []
  monkeypatch.setattr(plots, 'save', lambda chart, path: kept.append(chart))
  real = _features(digits, 80)
  made = Examples(real.inputs[:40] + 1e-4, real.labels[:40].copy())
  made.labels[:10] = (made.labels[:10] + 1) % 10
  drawn = feature_pictures.draw_feature_map(real, made, 'x', class_names=names)
  assert '75% of generated images' in drawn.caption
  [chart] = kept
  for axes, examples in zip(chart.axes, (real, made), strict=True):
    lines = {
      line.get_label(): line for line in axes.lines if line.get_label() in names
    }
    present, sizes = np.unique(examples.labels, return_counts=True)
    assert list(lines) == [names[label] for label in present]
    assert [len(line.get_xdata()) for line in lines.values()] == list(sizes)
    assert len({line.get_marker() for line in lines.values()}) == len(present)
    written = [text.get_text() for text in axes.texts]
    assert written == (list(lines) if names is _NAMES else [])
  if names is not _NAMES:
    legend = [text.get_text() for text in chart.legends[0].get_texts()]
    assert legend == names


@pytest.mark.parametrize(
  'call, message',
  [
    (
      lambda d, p: class_pictures.draw_missing_classes(
        {}, np.ones(2), np.ones([1, 2]), p, class_names='ab'
      ),
      'correct of one method',
    ),
    (
      lambda d, p: class_pictures.draw_missing_classes(
        {'a': np.ones([1, 2])},
        np.ones(2),
        np.ones([1, 2]),
        p,
        class_names='abc',
      ),
      'Expected 2 of class_names, got 3',
    ),
    (
      lambda d, p: class_pictures.draw_class_images(
        _examples(d), {}, p, class_names=_NAMES
      ),
      'generated by names',
    ),
    (
      lambda d, p: class_pictures.draw_class_images(
        _examples(d), {'a': _examples(d)}, p, class_names='ab'
      ),
      r'labels of real in 0\.\.1',
    ),
    (
      lambda d, p: feature_pictures.draw_feature_map(
        _features(d, 2), _features(d, 1), p, class_names=_NAMES
      ),
      'at least 4',
    ),
  ],
)
def test_unusable_arguments_are_refused_and_write_nothing(
  call, message, digits, tmp_path
):
  with pytest.raises(InputError, match=message):
    call(digits, tmp_path / 'picture.png')
  assert not list(tmp_path.iterdir())
