from absl.testing import absltest, parameterized
import matplotlib
import numpy as np
from PIL import Image
import pytest
from sklearn import decomposition

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import charts, embedding_pictures, theme
from fedjax_gen.evaluation.embedding_pictures import LabelledEmbeddings

_RNG = np.random.default_rng(0)
_LABELS = np.arange(66) % 11
_REAL = LabelledEmbeddings(_RNG.normal(size=[66, 5]), _LABELS)
_NAMES = [f'class {label}' for label in range(11)]
_WAY = _RNG.normal(size=[3, 11, 5])


def _embeddings(path):
  few = LabelledEmbeddings(_REAL.inputs[:1], _LABELS[:1])
  return embedding_pictures.draw_embeddings(
    _REAL, {'ours': _REAL, 'theirs': few}, path, class_names=_NAMES
  )


def _codes(path):
  return embedding_pictures.draw_codes(_REAL.inputs[:4], 'abab', path)


def _way(path):
  # One end lacks most classes, the other none.
  few = LabelledEmbeddings(_REAL.inputs[:2], _LABELS[:2])
  return embedding_pictures.draw_way(
    _WAY, (_REAL, few), path, end_names=('a', 'b'), class_names=_NAMES
  )


def _clients(path):
  values = {'local': np.array([0.2, np.nan, 0.9]), 'synthetic': np.ones(3)}
  return embedding_pictures.draw_clients(values, path, client_names='xyz')


def _privacy(path):
  curves = {'ours': [(8, 0.7), (np.inf, 0.8), (1, 0.5)], 'theirs': [(3, 0.6)]}
  return embedding_pictures.draw_privacy(curves, path, references={'none': 0.4})


_DRAW = [_embeddings, _codes, _way, _clients, _privacy]


@pytest.mark.parametrize('draw', _DRAW)
def test_picture_is_a_light_reproducible_png_without_global_traces(
  draw, tmp_path
):
  settings = dict(matplotlib.rcParams)
  drawn = draw(tmp_path / 'a.png')
  draw(tmp_path / 'b.png')
  assert drawn.path == tmp_path / 'a.png' and drawn.caption and drawn.section
  pixels = np.asarray(Image.open(tmp_path / 'a.png').convert('L'))
  assert pixels[0, 0] == 255 and np.median(pixels) == 255
  assert pixels.min() < 100  # something dark is drawn on it
  assert (tmp_path / 'a.png').read_bytes() == (tmp_path / 'b.png').read_bytes()
  assert dict(matplotlib.rcParams) == settings


class DrawnTest(parameterized.TestCase):
  """What is drawn, read from the figures."""

  def setUp(self):
    super().setUp()
    self.charts = []
    self.enter_context(
      absltest.mock.patch.object(
        charts, 'save', lambda chart, _: self.charts.append(chart)
      )
    )

  def _lines(self, position=0):
    """`(x, y)` of the lines of a panel by label."""
    lines = self.charts[-1].axes[position].lines
    return {line.get_label(): np.array(line.get_data()) for line in lines}

  def test_points_lie_in_the_principal_components_of_the_real(self):
    moved = LabelledEmbeddings(_REAL.inputs + 1, _LABELS)
    embedding_pictures.draw_embeddings(
      _REAL, {'moved': moved}, 'x', class_names=_NAMES
    )
    model = decomposition.PCA(2).fit(_REAL.inputs)
    for panel, values in enumerate((_REAL, moved)):
      lines = self._lines(panel)
      self.assertEqual(list(lines), _NAMES)
      for label, name in enumerate(_NAMES):
        expected = model.transform(values.inputs[label == _LABELS])
        # Up to the signs of the components, and the order of the points.
        np.testing.assert_allclose(
          np.sort(np.abs(lines[name]), axis=1), np.sort(np.abs(expected.T))
        )
    axes = self.charts[-1].axes[0]
    share = 100 * model.explained_variance_ratio_[0]
    self.assertIn(f'({share:.0f}%)', axes.get_xlabel())
    self.assertLen(axes.patches, 11)
    looks = {
      (line.get_marker(), line.get_markerfacecolor()) for line in axes.lines
    }
    self.assertLen(looks, 11)  # more classes than colours and markers

  def test_outline_is_two_standard_deviations(self):
    rng = np.random.default_rng(1)
    members = rng.normal(size=[500, 2]) @ [[3.0, 1.0], [0.0, 0.5]] + [5, -2]
    ellipse = embedding_pictures._outline(members, theme.INK)
    edge = ellipse.get_path().vertices[:-1]  # of the unit circle
    edge = ellipse.get_patch_transform().transform(edge)
    offsets = edge - members.mean(axis=0)
    inverse = np.linalg.inv(np.cov(members.T))
    lengths = np.sqrt(np.sum(offsets @ inverse * offsets, axis=1))
    # Control points of the curve lie on it or a little outside.
    np.testing.assert_allclose(lengths.min(), 2, rtol=1e-6)
    self.assertLess(lengths.max(), 2.2)

  def test_a_way_goes_from_one_end_to_the_other(self):
    labels = np.array([0, 1])
    start = np.array([[0.0, 10.0, 0.0], [5.0, 0.0, 0.0]])
    shift = np.array([[2.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
    steps = np.array([0.0, 0.5, 1.0])[:, None, None]
    ends = tuple(LabelledEmbeddings(start + t * shift, labels) for t in (0, 1))
    embedding_pictures.draw_way(
      start + steps * shift,
      ends,
      'x',
      end_names=('a', 'b'),
      class_names=['one', 'two'],
    )
    for panel, length in enumerate((2, 4)):
      lines = self._lines(panel)
      way = lines['generated']
      np.testing.assert_allclose(
        way[0], [-length / 2, 0, length / 2], atol=1e-9
      )
      np.testing.assert_allclose(way[1], 0, atol=1e-9)
      np.testing.assert_allclose(lines['a, real'][:, 0], way[:, 0], atol=1e-9)
      np.testing.assert_allclose(lines['b, real'][:, 0], way[:, 2], atol=1e-9)

  def test_clients_stand_from_the_worst_served_to_the_best(self):
    values = {
      'local': np.array([0.9, 0.2, np.nan]),
      'synthetic': np.array([0.1, 0.3, 0.6]),
    }
    embedding_pictures.draw_clients(values, 'x', client_names='pqr')
    axes = self.charts[-1].axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    self.assertEqual(names, ['q', 'r', 'p'])
    np.testing.assert_array_equal(
      self._lines()['local'], [[0.2, np.nan, 0.9], [0, 1, 2]]
    )
    many = np.random.default_rng(0).permutation(100) / 100
    embedding_pictures.draw_clients(
      {'local': many}, 'x', client_names=[str(i) for i in range(100)]
    )
    shown = self._lines()['local'][0]
    self.assertLen(shown, 40)
    self.assertEqual((shown[0], shown[-1]), (0.0, 0.99))

  def test_no_privacy_is_drawn_apart_at_the_right(self):
    _privacy('x')
    axes = self.charts[-1].axes[0]
    np.testing.assert_array_equal(self._lines()['ours'], [[1, 8], [0.5, 0.7]])
    names = [text.get_text() for text in axes.get_xticklabels()]
    self.assertEqual(names, ['1', '3', '8', '∞'])
    apart = axes.lines[1].get_data()
    np.testing.assert_array_equal(apart[1], [0.8])
    self.assertGreater(apart[0][0], 8)
    embedding_pictures.draw_privacy({'a': [(np.inf, 0.5)]}, 'x')
    axes = self.charts[-1].axes[0]
    names = [text.get_text() for text in axes.get_xticklabels()]
    self.assertEqual(names, ['∞'])

  def test_codes_on_a_line_have_a_picture(self):
    embedding_pictures.draw_codes(np.array([[0.0], [2.0]]), 'ab', 'x')
    lines = self._lines()
    np.testing.assert_allclose(np.c_[lines['a'], lines['b']], [[-1, 1], [0, 0]])


@pytest.mark.parametrize(
  'call, message',
  [
    (
      lambda p: embedding_pictures.draw_embeddings(
        _REAL, {'real': _REAL}, p, class_names=_NAMES
      ),
      "methods, got 'real'",
    ),
    (
      lambda p: embedding_pictures.draw_embeddings(
        _REAL, {'a': _REAL}, p, class_names=_NAMES[:10]
      ),
      r'labels of real in 0\.\.9',
    ),
    (
      lambda p: embedding_pictures.draw_embeddings(
        _REAL,
        {'a': _REAL._replace(inputs=_REAL.inputs[:, :2])},
        p,
        class_names=_NAMES,
      ),
      'equally many features',
    ),
    (
      lambda p: embedding_pictures.draw_codes(_REAL.inputs[:3], 'ab', p),
      'Expected 3 of domains, got 2',
    ),
    (
      lambda p: embedding_pictures.draw_way(
        _WAY[:1], (_REAL, _REAL), p, end_names=('a', 'b'), class_names=_NAMES
      ),
      r'means \[T, C, F\]',
    ),
    (
      lambda p: embedding_pictures.draw_clients({}, p, client_names='a'),
      'values of one client',
    ),
    (
      lambda p: embedding_pictures.draw_clients(
        {'local': np.ones(2)}, p, client_names='abc'
      ),
      'Expected 3 of local, got 2',
    ),
    (lambda p: embedding_pictures.draw_privacy({}, p), 'curves of one'),
    (
      lambda p: embedding_pictures.draw_privacy({'a': [(0.0, 1.0)]}, p),
      "epsilon > 0 and value in curve 'a'",
    ),
  ],
)
def test_unusable_arguments_are_refused_and_write_nothing(
  call, message, tmp_path
):
  with pytest.raises(InputError, match=message):
    call(tmp_path / 'picture.png')
  assert not list(tmp_path.iterdir())
