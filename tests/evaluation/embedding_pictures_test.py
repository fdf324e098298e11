import numpy as np
import pytest
from sklearn import decomposition

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation.drawing import embedding_pictures, theme
from fedjax_gen.evaluation.drawing.embedding_pictures import LabelledEmbeddings
from tests.evaluation import drawing

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


def _generated(path):
  return embedding_pictures.draw_embeddings(
    None, {'ours': _REAL}, path, class_names=_NAMES
  )


def _unmarked(path):
  return embedding_pictures.draw_codes(_REAL.inputs[:4], None, path)


def _generated_way(path):
  return embedding_pictures.draw_way(
    _WAY, None, path, end_names=('a', 'b'), class_names=_NAMES
  )


@pytest.mark.parametrize(
  ('draw', 'is_real'),
  [
    (_embeddings, True), (_codes, True), (_way, True),
    (_generated, False), (_unmarked, False), (_generated_way, False),
  ],
)  # fmt: skip
def test_pictures_say_whether_they_show_what_is_real(draw, is_real, tmp_path):
  drawn = draw(tmp_path / 'a.png')
  assert bool(drawn.unprotected) == is_real
  assert ('real' in drawn.caption or 'domain' in drawn.caption) == is_real


@pytest.mark.parametrize(
  'draw', [_embeddings, _codes, _way, _generated, _unmarked, _generated_way]
)
def test_picture_is_a_light_reproducible_png_without_global_traces(
  draw, tmp_path
):
  drawing.check_light_and_reproducible(draw, tmp_path)


class DrawnTest(drawing.DrawnTestCase):
  def test_points_lie_in_the_principal_components_of_the_real(self):
    moved = LabelledEmbeddings(_REAL.inputs + 1, _LABELS)
    embedding_pictures.draw_embeddings(
      _REAL, {'moved': moved}, 'x', class_names=_NAMES
    )
    model = decomposition.PCA(2).fit(_REAL.inputs)
    for panel, values in enumerate((_REAL, moved)):
      lines = self.lines(panel)
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
      lines = self.lines(panel)
      way = lines['generated']
      np.testing.assert_allclose(
        way[0], [-length / 2, 0, length / 2], atol=1e-9
      )
      np.testing.assert_allclose(way[1], 0, atol=1e-9)
      np.testing.assert_allclose(lines['a, real'][:, 0], way[:, 0], atol=1e-9)
      np.testing.assert_allclose(lines['b, real'][:, 0], way[:, 2], atol=1e-9)

  def test_codes_on_a_line_have_a_picture(self):
    embedding_pictures.draw_codes(np.array([[0.0], [2.0]]), 'ab', 'x')
    lines = self.lines()
    np.testing.assert_allclose(np.c_[lines['a'], lines['b']], [[-1, 1], [0, 0]])


@pytest.mark.parametrize(
  'call, message',
  [
    (
      lambda p: embedding_pictures.draw_embeddings(
        _REAL, {'real': _REAL}, p, class_names=_NAMES
      ),
      "other than 'real', got",
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
  ],
)
def test_unusable_arguments_are_refused_and_write_nothing(
  call, message, tmp_path
):
  with pytest.raises(InputError, match=message):
    call(tmp_path / 'picture.png')
  assert not list(tmp_path.iterdir())
