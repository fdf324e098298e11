"""Draws the pictures of the four systems: `python docs/diagrams.py`.

SVG with a ground of its own, so that it is read alike on light and dark pages,
narrow enough for a telephone, and told apart by shape and words, not colour:
what is trained is round, what is data or computed is square.
"""

from collections.abc import Sequence
from html import escape
import pathlib
from typing import NamedTuple

_FOLDER = pathlib.Path(__file__).parent / 'images'
_WIDTH, _MARGIN, _PAD = 480, 8, 14
_COLUMNS, _GAP, _HEIGHT, _ROW_GAP = 5, 14, 50, 28
_TITLE, _BETWEEN = 30, 96  # heights: of a panel's title, of what travels
_CELL = (_WIDTH - 2 * (_MARGIN + _PAD) - _GAP * (_COLUMNS - 1)) / _COLUMNS

_STYLE = """\
text { font: 14px system-ui, "Segoe UI", Roboto, sans-serif; fill: #1c1f24 }
.title { font-weight: 600; font-size: 15px }
.panel { fill: #fff; stroke: #8b93a0; stroke-width: 1.2 }
.data { fill: #eef0f3; stroke: #5b6370; stroke-width: 1.2 }
.net { fill: #fff; stroke: #0b5fa5; stroke-width: 2.2 }
.arrow { fill: none; stroke-width: 1.5 }
.inner { stroke: #1c1f24; marker-end: url(#head) }
.travel { stroke: #b3470a; stroke-width: 3; marker-end: url(#travel) }"""


class Box(NamedTuple):
  """A box: its text, lines parted by '|', and its place in the panel."""

  text: str
  column: int
  row: int = 0
  is_trained: bool = False
  columns: int = 1


class Diagram(NamedTuple):
  """A server, a client, and what travels between them.

  Attributes:
    alt: the picture in words.
    server: boxes.
    down: what the server sends, lines parted by '|'.
    up: what the client sends, likewise.
    name: of the client.
    client: boxes.
    arrows: pairs of indices of the client's boxes.
    title: of the server.
  """

  alt: str
  server: Sequence[Box]
  down: str
  up: str
  name: str
  client: Sequence[Box]
  arrows: Sequence[tuple[int, int]]
  title: str = 'Server'


def net(text: str, column: int, row: int = 0, columns: int = 1) -> Box:
  """A box of what is trained."""
  return Box(text, column, row, True, columns)


DIAGRAMS = {
  'fedvae': Diagram(
    'A client encodes its images x to z and decodes z again; images stay with '
    'it. It receives encoder and decoder from the server and sends back how '
    'its training changed them; the server takes the mean over clients.',
    [net('encoder', 1), net('decoder', 3)],
    'encoder, decoder',
    'what training changed|in both; never images',
    'Client k',
    [
      Box('images|x', 0),
      net('encoder', 1),
      Box('latent|z', 2),
      net('decoder', 3),
      Box('images|again', 4),
    ],
    [(0, 1), (1, 2), (2, 3), (3, 4)],
  ),
  'fissionvae': Diagram(
    'The server holds one encoder for all clients, and for each group of '
    'clients a decoder and a prior. A client of group g encodes its images x '
    'with the encoder of all to z, which is held near the prior of its group, '
    'and decodes with the decoder of its group. It receives and sends one copy '
    'of each, its own.',
    [
      net('encoder|of all', 0),
      net('decoder,|group 1', 2),
      net('decoder,|group 2', 3),
      net('…,|group G', 4),
      Box('prior|N(μ₁, I)', 2, 1),
      Box('prior|N(μ₂, I)', 3, 1),
      Box('…|N(μ_G, I)', 4, 1),
    ],
    'encoder, decoder of g;|the number g',
    'what training changed|in these two',
    'Client of group g',
    [
      Box('images|x', 0),
      net('encoder', 1),
      Box('latent|z', 2),
      net('decoder|of g', 3),
      Box('images|again', 4),
      Box('prior|N(μ_g, I)', 2, 1),
    ],
    [(0, 1), (1, 2), (2, 3), (3, 4), (5, 2)],
  ),
  'fedhypevae': Diagram(
    'The server holds a hypernetwork. At a client the hypernetwork makes of '
    'the client’s short code a decoder and a prior for each class. The '
    'client’s own encoder takes embeddings x with labels y to z, which the '
    'decoder decodes. Only a gradient of the hypernetwork goes up, clipped and '
    'noised; records, encoder and code stay.',
    [net('hypernetwork Φ', 1, columns=3)],
    'hypernetwork Φ',
    'gradient of Φ,|clipped and noised',
    'Client i',
    [
      net('code|v_i', 4),
      net('hyper-|network', 3),
      Box('prior|of y: ω_i', 2),
      Box('records|x, y', 0, 1),
      net('encoder|ψ_i', 1, 1),
      Box('latent|z', 2, 1),
      Box('decoder|θ_i', 3, 1),
      Box('records|again', 4, 1),
    ],
    [(0, 1), (1, 2), (2, 5), (1, 6), (3, 4), (4, 5), (5, 6), (6, 7)],
  ),
  'fedvtc': Diagram(
    'A client’s own extractor takes its images x to features z, and its '
    'own head tells their class; both stay with it. It sends means and spread '
    'of the features of its classes, which the server joins to a Gaussian for '
    'every class. Draws from these Gaussians become images of every class in a '
    'small generator, and with those the client fine-tunes extractor and head.',
    [Box('for every class y:|N(c^y, σ²)', 0, columns=2), net('generator|ψ', 3)],
    'all Gaussians,|generator',
    'sums of features|by class; change of ψ',
    'Client k',
    [
      Box('images|x', 0),
      net('extractor|g_k', 1),
      Box('features|z', 2),
      net('head|h_k', 3),
      Box('class|y', 4),
      Box('draws of|N(c^y, σ²)', 3, 1),
      net('generator|ψ', 2, 1),
      Box('images of|all classes', 1, 1),
    ],
    [(0, 1), (1, 2), (2, 3), (3, 4), (5, 6), (6, 7), (7, 1)],
  ),
  'deployment': Diagram(
    'The coordinator holds the model, test data of its own, and sums over '
    'sites. A site trains the model on its examples, with noise from its own '
    'keys, after its list and its ledger allow that. It sends a message, '
    'masked if the sum is secure. Examples, keys, private state, ledger and '
    'log stay at the site.',
    [net('model', 0), Box('sum over|sites', 2), Box('test data|of its own', 4)],
    'model, round,|flags of the study',
    'message, masked if the|sum is secure; number|of examples, name',
    'Site',
    [
      Box('examples', 0),
      net('model', 1),
      Box('noise', 2),
      Box('mask', 3),
      Box('message', 4),
      Box('private|state', 1, 1),
      Box('own keys', 2, 1),
      Box('list and|ledger', 4, 1),
    ],
    [(0, 1), (1, 2), (2, 3), (3, 4), (5, 1), (6, 2), (7, 4)],
    'Coordinator',
  ),
}


def svg(diagram: Diagram) -> str:
  """The picture as the text of an SVG file."""
  top, heights = (
    _MARGIN,
    [_panel_height(b) for b in (diagram.server, diagram.client)],
  )
  below = top + heights[0] + _BETWEEN
  height = below + heights[1] + _MARGIN
  parts = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
    f'width="{_WIDTH}" height="{height}" role="img">',
    f'<title>{escape(diagram.alt)}</title>',
    f'<style>{_STYLE}</style>',
    '<defs>' + _head('head', '#1c1f24', 7) + _head('travel', '#b3470a', 4.5),
    f'</defs><rect width="{_WIDTH}" height="{height}" rx="6" fill="#fafbfc"/>',
    *_panel(diagram.title, diagram.server, top, heights[0]),
    *_travel(diagram, top + heights[0], below),
    *_panel(diagram.name, diagram.client, below, heights[1]),
  ]
  for start, end in diagram.arrows:
    parts.append(_arrow(diagram.client[start], diagram.client[end], below))
  return '\n'.join([*parts, '</svg>', ''])


def _panel_height(boxes: Sequence[Box]) -> int:
  rows = 1 + max(box.row for box in boxes)
  return _TITLE + rows * _HEIGHT + (rows - 1) * _ROW_GAP + _PAD


def _panel(title: str, boxes: Sequence[Box], top: float, height: float):
  yield (
    f'<rect class="panel" x="{_MARGIN}" y="{top}" '
    f'width="{_WIDTH - 2 * _MARGIN}" height="{height}" rx="6"/>'
  )
  yield (
    f'<text class="title" x="{_MARGIN + _PAD}" y="{top + 21}">'
    f'{escape(title)}</text>'
  )
  for box in boxes:
    yield _drawn(box, top)


def _place(box: Box, top: float) -> tuple[float, float, float, float]:
  """Left, top, right and bottom of a box in a panel."""
  left = _MARGIN + _PAD + box.column * (_CELL + _GAP)
  y = top + _TITLE + box.row * (_HEIGHT + _ROW_GAP)
  width = box.columns * _CELL + (box.columns - 1) * _GAP
  return left, y, left + width, y + _HEIGHT


def _drawn(box: Box, top: float) -> str:
  left, y, right, bottom = _place(box, top)
  kind, radius = ('net', 16) if box.is_trained else ('data', 0)
  return (
    f'<rect class="{kind}" x="{left:g}" y="{y:g}" width="{right - left:g}" '
    f'height="{_HEIGHT}" rx="{radius}"/>'
    + _text(box.text, (left + right) / 2, (y + bottom) / 2, 'middle')
  )


def _text(text: str, x: float, middle: float, anchor: str) -> str:
  lines = text.split('|')
  first = middle + 5 - 8.5 * (len(lines) - 1)
  return ''.join(
    f'<text x="{x:g}" y="{first + 17 * i:g}" text-anchor="{anchor}">'
    f'{escape(line)}</text>'
    for i, line in enumerate(lines)
  )


def _travel(diagram: Diagram, top: float, bottom: float):
  """The two arrows between the panels, each with what it carries."""
  middle = (top + bottom) / 2
  for x, start, end, text in (
    (_MARGIN + 30, top + 4, bottom - 12, diagram.down),
    (_WIDTH / 2 + 24, bottom - 4, top + 12, diagram.up),
  ):
    yield f'<path class="arrow travel" d="M{x:g} {start:g}V{end:g}"/>'
    word = 'down: ' if text is diagram.down else 'up: '
    yield _text(word + text, x + 14, middle, 'start')


def _arrow(start: Box, end: Box, top: float) -> str:
  """A straight arrow between neighbours in a row or a column."""
  a, b = _place(start, top), _place(end, top)
  if start.row == end.row:
    y = (a[1] + a[3]) / 2
    x, to = (a[2], b[0] - 3) if start.column < end.column else (a[0], b[2] + 3)
    return f'<path class="arrow inner" d="M{x:g} {y:g}H{to:g}"/>'
  x = (a[0] + a[2]) / 2
  y, to = (a[3], b[1] - 3) if start.row < end.row else (a[1], b[3] + 3)
  return f'<path class="arrow inner" d="M{x:g} {y:g}V{to:g}"/>'


def _head(name: str, colour: str, size: float) -> str:
  return (
    f'<marker id="{name}" viewBox="0 0 8 8" refX="6" refY="4" '
    f'markerWidth="{size}" markerHeight="{size}" orient="auto">'
    f'<path d="M0 0L8 4L0 8z" fill="{colour}"/></marker>'
  )


if __name__ == '__main__':
  for name, diagram in DIAGRAMS.items():
    (_FOLDER / f'{name}.svg').write_text(svg(diagram), encoding='utf-8')
