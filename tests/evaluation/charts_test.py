import matplotlib
import numpy as np
from PIL import Image
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation.drawing import plots, theme

_POINTS = np.random.default_rng(0).normal(size=[60, 2])
_CLASSES = np.arange(60) % 12  # more classes than colours and markers


def _scatter(path):
  plots.scatter(_POINTS, _CLASSES, path, title='Latents')


def _scatter_with_names(path):
  plots.scatter(_POINTS, _CLASSES % 2, path, class_names=['digits', 'clothes'])


@pytest.mark.parametrize('draw', [_scatter, _scatter_with_names])
def test_chart_is_a_light_reproducible_png_without_global_traces(
  draw, tmp_path
):
  settings = dict(matplotlib.rcParams)
  draw(tmp_path / 'a.png')
  draw(tmp_path / 'b.png')
  pixels = np.asarray(Image.open(tmp_path / 'a.png').convert('L'))
  assert pixels[0, 0] == 255 and np.median(pixels) == 255
  assert pixels.min() < 100  # something dark is drawn on it
  assert (tmp_path / 'a.png').read_bytes() == (tmp_path / 'b.png').read_bytes()
  assert dict(matplotlib.rcParams) == settings


def test_ten_series_differ_in_marker_and_colour():
  pairs = set(zip(theme.COLOURS, theme.MARKERS, strict=True))
  assert len(pairs) == len(set(theme.COLOURS)) == len(set(theme.MARKERS)) == 10
  assert theme.colour(11) == theme.COLOURS[1]


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda p: plots.scatter(_POINTS[:, :1], _CLASSES, p), r'points \[n, 2\]'),
    (lambda p: plots.scatter(_POINTS, _CLASSES[:3], p), 'classes to be 60'),
    (
      lambda p: plots.scatter(_POINTS, _CLASSES, p, class_names=['a']),
      r'classes in 0\.\.0',
    ),
  ],
)
def test_unusable_arguments_are_refused_and_write_nothing(
  call, message, tmp_path
):
  with pytest.raises(InputError, match=message):
    call(tmp_path / 'chart.png')
  assert not list(tmp_path.iterdir())
