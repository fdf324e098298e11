from matplotlib import text as text_lib
import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation.drawing import federation_pictures, theme
from tests.evaluation import drawing

_NAN = float('nan')
_CURVES = {
  'fedvtc': ([1, 2, 4], [0.2, 0.5, 0.7]),
  'diverged': ([1, 2], [None, _NAN]),
  'local': ([1, 2, 4], [0.2, 0.3, _NAN]),
  'empty': ([], []),
  'fedproto': ([2], [0.301]),
}
_METRICS = {
  'local': {'accuracy': 0.3, 'accuracy_stddev': 0.1, 'accuracy_worst': 0.1},
  'fedvtc': {'accuracy': 0.7, 'accuracy_stddev': 0.05, 'accuracy_worst': 0.4},
  'alone': {'accuracy': 0.5},
  'unknown': {'local_accuracy': 0.9},
}
_POINTS = {
  'fedvtc': (2.5e6, 0.7),
  'local': (0, 0.3),
  'unmeasured': (None, 0.5),
  'fedproto': (1_000_000, _NAN),
  'fedkd': (3e9, 0.41),
}


def _curves(path):
  return federation_pictures.draw_curves(
    _CURVES, path, subject='fedvtc', target=0.6
  )


def _methods(path):
  return federation_pictures.draw_methods(_METRICS, path, subject='fedvtc')


def _bytes(path):
  return federation_pictures.draw_bytes(_POINTS, path, subject='fedvtc')


@pytest.mark.parametrize('draw', [_curves, _methods, _bytes])
def test_picture_is_a_light_reproducible_png_that_a_phone_can_show(
  draw, tmp_path
):
  image = drawing.check_light_and_reproducible(draw, tmp_path)
  assert image.width < 800  # letters of 20 pixels are 9 at 360


class DrawnTest(drawing.DrawnTestCase):
  def _texts(self):
    """Texts right of the axes with their heights, lowest first."""
    found = self.charts[-1].axes[0].findobj(text_lib.Text)
    return sorted(
      (t for t in found if t.get_text() and t.get_position()[0] > 1),
      key=lambda t: t.get_position()[1],
    )

  def test_curves_are_named_at_their_ends_in_their_order(self):
    drawn = _curves('x')
    texts = self._texts()
    names = [text.get_text() for text in texts]
    self.assertEqual(names, ['local 30.0%', 'fedproto 30.1%', 'fedvtc 70.0%'])
    bold = [text.get_text() for text in texts if text.get_weight() == 'bold']
    self.assertEqual(bold, ['fedvtc 70.0%'])
    # Two that end in the same place have names that do not touch.
    heights = [text.get_position()[1] for text in texts]
    self.assertGreater(heights[1] - heights[0], 0.04)
    self.assertIn('fedvtc 20.0% to 70.0%; fedproto 30.1% to 30.1%', drawn.alt)
    self.assertNotIn('diverged', drawn.alt)
    self.assertIn('target of 60%', drawn.caption)

  def test_names_of_many_methods_never_touch_and_looks_never_repeat(self):
    curves = {f'method {i}': ([1, 2], [0.1, 0.3]) for i in range(25)}
    federation_pictures.draw_curves(curves, 'x')
    chart = self.charts[-1]
    heights = [text.get_position()[1] for text in self._texts()]
    self.assertLen(heights, 25)
    axes = chart.axes[0]
    points = 72 * chart.get_figheight() * axes.get_position().height
    self.assertGreater(points * min(np.diff(heights)), 10)
    self.assertBetween(min(heights), -0.01, 1.01)
    self.assertBetween(max(heights), -0.01, 1.01)
    looks = {
      (line.get_color(), line.get_marker())
      for line in axes.lines
      if line.get_label().startswith('method')
    }
    self.assertLen(looks, 25)

  def test_a_method_keeps_its_look_whoever_is_missing(self):
    _curves('x')
    lines = {line.get_label(): line for line in self.charts[-1].axes[0].lines}
    self.assertEqual(lines['local'].get_color(), theme.colour(2))
    self.assertEqual(lines['fedproto'].get_color(), theme.colour(4))

  def test_methods_stand_from_best_to_worst_with_spread_and_worst_client(self):
    drawn = _methods('x')
    axes = self.charts[-1].axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    self.assertEqual(names, ['local', 'alone', 'fedvtc'])
    crosses = [
      tuple(line.get_xydata()[0])
      for line in axes.lines
      if line.get_marker() == 'x'
    ]
    self.assertEqual(crosses, [(0.1, 0), (0.4, 2)])
    spreads = [
      line.get_xdata() for line in axes.lines if len(line.get_xdata()) > 1
    ]
    np.testing.assert_allclose(spreads, [[0.2, 0.4], [0.65, 0.75]])
    self.assertIn(
      'fedvtc 70.0% ± 5.0%, worst 40.0%; alone 50.0%; local', drawn.alt
    )
    federation_pictures.draw_methods(_METRICS, 'x', metric='local_accuracy')
    labels = self.charts[-1].axes[0].get_yticklabels()
    self.assertEqual([text.get_text() for text in labels], ['unknown'])

  def test_no_bytes_stand_apart_at_the_left(self):
    drawn = _bytes('x')
    axes = self.charts[-1].axes[0]
    ticks = {
      text.get_text(): at
      for text, at in zip(
        axes.get_xticklabels(), axes.get_xticks(), strict=True
      )
    }
    lines = {line.get_label(): line.get_xydata()[0] for line in axes.lines}
    self.assertEqual(ticks['none'], lines['local'][0])
    self.assertLess(10 * 0.99 * ticks['none'], lines['fedvtc'][0])
    np.testing.assert_allclose(lines['fedvtc'], [2.5e6, 0.7])
    self.assertIn('10 MB', ticks)
    self.assertIn(
      'local 0 B, 30.0%; fedvtc 2.5 MB, 70.0%; fedkd 3 GB', drawn.alt
    )
    self.assertNotIn('fedproto', drawn.alt)

  def test_odd_bytes_have_ticks_too(self):
    for points, expected in (
      ({'only': (0, 0.5)}, ['none']),
      ({'a': (1500, 0.5), 'b': (1700, 0.6)}, ['1 kB', '2 kB']),
    ):
      federation_pictures.draw_bytes(points, 'x')
      labels = self.charts[-1].axes[0].get_xticklabels()
      self.assertEqual([text.get_text() for text in labels], expected)


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda p: federation_pictures.draw_curves({}, p), 'curves of one method'),
    (
      lambda p: federation_pictures.draw_curves({'a': ([1], [None])}, p),
      'curves of one method',
    ),
    (
      lambda p: federation_pictures.draw_curves({'a': ([1, 2], [0.1])}, p),
      "curve 'a' to be equally long, got 2 and 1",
    ),
    (
      lambda p: federation_pictures.draw_methods({'a': {}}, p),
      'accuracy of one method',
    ),
    (
      lambda p: federation_pictures.draw_bytes({'a': (None, 1)}, p),
      'points of one method',
    ),
    (
      lambda p: federation_pictures.draw_bytes({'a': (-1, 1)}, p),
      "bytes >= 0 of 'a'",
    ),
  ],
)
def test_unusable_arguments_are_refused_and_write_nothing(
  call, message, tmp_path
):
  with pytest.raises(InputError, match=message):
    call(tmp_path / 'picture.png')
  assert not list(tmp_path.iterdir())
