import matplotlib
import numpy as np
from PIL import Image
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import charts, theme

_POINTS = np.random.default_rng(0).normal(size=[60, 2])
_CLASSES = np.arange(60) % 12  # more classes than colours and markers


def _scatter(path):
  charts.scatter(_POINTS, _CLASSES, path, title='Latents')


def _scatter_with_names(path):
  charts.scatter(_POINTS, _CLASSES % 2, path, class_names=['digits', 'clothes'])


def _line_curves(path):
  rounds = np.arange(5)
  curves = {
    'federated': (rounds, rounds**0.5),
    'diverged': (rounds, [1.0, np.nan, np.inf, 2.0, np.nan]),
    'never finite': (rounds, np.full(5, np.nan)),
    'one round': ([3], [1.0]),
  }
  charts.line_curves(curves, path, y_label='held-out ELBO (nats per image)')


def _bar_chart(path):
  values = {'federated': 8.1, 'central': -2.0}
  charts.bar_chart(values, path, x_label='fid', errors={'central': 0.5})


def _histogram(path):
  samples = {'real': _POINTS[:, 0], 'generated': _POINTS[:30, 1], 'copies': [0]}
  charts.histogram(samples, path, x_label='distance')


@pytest.mark.parametrize(
  'draw', [_scatter, _scatter_with_names, _line_curves, _bar_chart, _histogram]
)
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
    (lambda p: charts.scatter(_POINTS[:, :1], _CLASSES, p), r'points \[n, 2\]'),
    (lambda p: charts.scatter(_POINTS, _CLASSES[:3], p), 'classes to be 60'),
    (
      lambda p: charts.scatter(_POINTS, _CLASSES, p, class_names=['a']),
      r'classes in 0\.\.0',
    ),
    (lambda p: charts.line_curves({}, p, y_label='y'), 'curves'),
    (
      lambda p: charts.line_curves({'a': ([1, 2], [1])}, p, y_label='y'),
      "curve 'a' to be equally long",
    ),
    (lambda p: charts.bar_chart({}, p, x_label='x'), 'values'),
    (lambda p: charts.histogram({}, p, x_label='x'), 'samples'),
    (
      lambda p: charts.histogram({'a': [np.nan]}, p, x_label='x'),
      'a to be finite',
    ),
  ],
)
def test_unusable_arguments_are_refused_and_write_nothing(
  call, message, tmp_path
):
  with pytest.raises(InputError, match=message):
    call(tmp_path / 'chart.png')
  assert not list(tmp_path.iterdir())
