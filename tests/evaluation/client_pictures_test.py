import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation.drawing import client_pictures
from tests.evaluation import drawing


def _clients(path):
  values = {'local': np.array([0.2, np.nan, 0.9]), 'synthetic': np.ones(3)}
  return client_pictures.draw_clients(values, path, client_names='xyz')


def test_picture_is_a_light_reproducible_png_without_global_traces(tmp_path):
  drawing.check_light_and_reproducible(_clients, tmp_path)


class DrawnTest(drawing.DrawnTestCase):
  def test_clients_stand_from_the_worst_served_to_the_best(self):
    values = {
      'local': np.array([0.9, 0.2, np.nan]),
      'synthetic': np.array([0.1, 0.3, 0.6]),
    }
    client_pictures.draw_clients(values, 'x', client_names='pqr')
    axes = self.charts[-1].axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    self.assertEqual(names, ['q', 'r', 'p'])
    np.testing.assert_array_equal(
      self.lines()['local'], [[0.2, np.nan, 0.9], [0, 1, 2]]
    )
    many = np.random.default_rng(0).permutation(100) / 100
    client_pictures.draw_clients(
      {'local': many}, 'x', client_names=[str(i) for i in range(100)]
    )
    shown = self.lines()['local'][0]
    self.assertLen(shown, 40)
    self.assertEqual((shown[0], shown[-1]), (0.0, 0.99))


@pytest.mark.parametrize(
  'call, message',
  [
    (
      lambda p: client_pictures.draw_clients({}, p, client_names='a'),
      'values of one client',
    ),
    (
      lambda p: client_pictures.draw_clients(
        {'local': np.ones(2)}, p, client_names='abc'
      ),
      'Expected 3 of local, got 2',
    ),
  ],
)
def test_unusable_arguments_are_refused_and_write_nothing(
  call, message, tmp_path
):
  with pytest.raises(InputError, match=message):
    call(tmp_path / 'picture.png')
  assert not list(tmp_path.iterdir())
