import html.parser
import io
import re

from PIL import Image
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.running.pages import curves, report as report_lib, report_tables
from fedjax_gen.running.pages.report import Picture
from fedjax_gen.running.pages.report_tables import Metric


def _png(width=20, height=10):
  buffer = io.BytesIO()
  Image.new('L', (width, height)).save(buffer, 'png')
  return buffer.getvalue()


class Page(html.parser.HTMLParser):
  """Collects the tags of a page and checks that they nest."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.open = [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in ('meta', 'link', 'img', 'wbr'):
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


HISTORY = {
  'federated': [{'round': i, 'loss': 9 / i} for i in range(1, 9)],
  'central': [{'round': 1, 'loss': 4.0}, {'round': 8, 'loss': None}],
}


@pytest.fixture
def page(tmp_path):
  (tmp_path / 'grid.png').write_bytes(_png())
  report = report_lib.Report(
    title='FedVAE on <digits>',
    lead='Four clients & a server.',
    facts=[('ELBO', '-30.1')],
    sections=[
      report_lib.Section(
        'Pictures',
        [
          Picture(tmp_path / 'grid.png', 'Drawn.', 'A "grid"'),
          curves.curves(HISTORY, 'loss', title='Loss, nats'),
          report_lib.Code('python -m experiments.generate'),
        ],
      ),
      report_lib.Section(
        'Results',
        [
          report_tables.metrics_table(
            {'federated': {'fid': 4.0}, 'central': {'fid': 3.0}},
            {'fid': Metric('Distance.', 'lower')},
          ),
          report_tables.settings_table({'run': {'seed': 0, 'x': (1, 2)}}),
        ],
      ),
    ],
  )
  report_lib.write_report(tmp_path / 'report.html', report)
  return (tmp_path / 'report.html').read_text()


def test_the_page_asks_no_host_for_anything(page):
  tags = Page(page).tags
  links = [
    value
    for _, attributes in tags
    for name, value in attributes.items()
    if name in ('src', 'href', 'srcset', 'action')
  ]
  assert links
  assert all(link.startswith(('data:', '#')) for link in links)
  assert not re.search(r'https?://|@import|url\(', page)
  assert 'script' not in {tag for tag, _ in tags}


def test_the_page_is_well_formed_and_escaped(page):
  assert Page(page).open == []
  assert 'FedVAE on &lt;digits&gt;' in page
  assert 'Four clients &amp; a server.' in page


def test_every_picture_says_what_it_shows(page):
  tags = Page(page).tags
  images = [a for tag, a in tags if tag == 'img']
  assert [a['alt'] for a in images] == ['A "grid"']
  # 20 x 10 pixels, enlarged by a whole factor: sharp squares.
  assert (images[0]['width'], images[0]['height']) == ('960', '480')
  charts_drawn = [a for _, a in tags if a.get('role') == 'img']
  assert charts_drawn[0]['aria-label'] == (
    'Loss, nats over round: federated from 9 to 1.125; central from 4 to 4.'
  )


def test_the_best_value_is_marked_by_more_than_weight(page):
  assert re.search(r'<strong>3<span class="best"[^>]*>★', page)
  assert not re.search(r'<strong>4<', page)
  assert 'Lower is better.' in page


@pytest.mark.parametrize(
  ('better', 'best'), [('higher', 1), ('lower', 0), ('', None)]
)
def test_best_follows_the_direction(better, best):
  table = report_tables.metrics_table(
    {'a': {'m': 1.0}, 'b': {'m': 2.0}, 'c': {}}, {'m': Metric('', better)}
  )
  assert table.rows[0].best == best
  assert table.rows[0].cells == ['1', '2', '–']


def test_traffic_adds_up():
  table = report_tables.traffic_table({'federated': (1000, 500)}, 4, 10)
  assert table.rows[0].cells == ['1 kB', '500 B', '60 kB']


def test_a_chart_stays_in_its_frame():
  points = [(i, 1e6 * (-1) ** i) for i in range(1000)]
  chart = curves.Chart({'a': points, 'b': [(5, 0.0)]}, 'Loss')
  for line in chart.lines:
    assert len(line.points) <= 302
    for x, y in line.points:
      assert chart.left <= x <= chart.right
      assert chart.top <= y <= chart.bottom
  assert chart.lines[0].points[-1][0] == chart.right
  assert 3 <= len(chart.y_ticks) <= 8
  assert curves.Chart({'a': [(1, 2.0)]}, 'One point').y_ticks


def test_a_metric_that_nobody_has_gives_no_chart():
  assert curves.curves(HISTORY, 'fid', title='FID') is None


def test_what_is_no_png_is_refused(tmp_path):
  with pytest.raises(InputError, match='PNG'):
    Picture(b'GIF89a', '', '')
  with pytest.raises(InputError, match=r'missing\.png: No such file'):
    Picture(tmp_path / 'missing.png', '', '')
