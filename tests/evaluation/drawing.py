"""What every picture is held to, and figures caught before they are saved."""

from absl.testing import absltest
import matplotlib
import numpy as np
from PIL import Image

from fedjax_gen.evaluation.drawing import plots


def check_light_and_reproducible(draw, folder):
  """Draws twice; gives the picture, light, the same, and nothing else left."""
  settings = dict(matplotlib.rcParams)
  drawn = draw(folder / 'a.png')
  draw(folder / 'b.png')
  assert drawn.path == folder / 'a.png' and drawn.caption and drawn.section
  image = Image.open(folder / 'a.png')
  pixels = np.asarray(image.convert('L'))
  assert pixels[0, 0] == 255 and np.median(pixels) == 255
  assert pixels.min() < 100  # something dark is drawn on it
  assert (folder / 'a.png').read_bytes() == (folder / 'b.png').read_bytes()
  assert dict(matplotlib.rcParams) == settings
  return image


class DrawnTestCase(absltest.TestCase):
  """What is drawn, read from figures, which are kept in place of saved."""

  def setUp(self):
    super().setUp()
    self.charts = []
    self.enter_context(
      absltest.mock.patch.object(
        plots, 'save', lambda chart, _: self.charts.append(chart)
      )
    )

  def lines(self, position=0):
    """`(x, y)` of the lines of a panel by label."""
    lines = self.charts[-1].axes[position].lines
    return {line.get_label(): np.array(line.get_data()) for line in lines}
