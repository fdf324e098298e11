"""Finished runs, and what is read of their files."""

import html.parser
import json
from pathlib import Path
from typing import NamedTuple


class Run(NamedTuple):
  """A run: its work directory, its arguments, its status and outputs."""

  workdir: Path
  args: tuple[str, ...]
  status: int
  out: str
  err: str

  def summary(self):
    return json.loads((self.workdir / 'summary.json').read_text())

  def records(self, method):
    lines = (self.workdir / 'metrics.jsonl').read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [record for record in records if record['method'] == method]


class Links(html.parser.HTMLParser):
  """Collects whatever a page could load, and its texts."""

  def __init__(self):
    super().__init__()
    self.links, self.images, self.text = [], 0, ''

  def handle_starttag(self, tag, attrs):
    self.images += tag == 'img'
    self.links += [
      value
      for name, value in attrs
      if name in ('src', 'href', 'srcset', 'action', 'data')
    ]
    assert tag not in ('script', 'iframe', 'object', 'embed', 'base')

  def handle_data(self, data):
    self.text += data


class Page(html.parser.HTMLParser):
  """What a report is made of.

  Attributes:
    headings: of its sections.
    tables: rows of cells of each table, the header first.
    captions: of pictures, charts and tables.
    images: how many pictures it has.
    curves: how many charts.
  """

  def __init__(self, path):
    super().__init__()
    self.headings, self.captions, self.tables = [], [], []
    self.images = self.curves = 0
    self._into = None
    self.feed(path.read_text(encoding='utf-8'))

  def handle_starttag(self, tag, attrs):
    self.images += tag == 'img'
    self.curves += ('class', 'chart') in attrs
    if tag == 'table':
      self.tables.append([])
    elif tag == 'tr':
      self.tables[-1].append([])
    into = None
    if tag == 'h2':
      into = self.headings
    elif tag in ('figcaption', 'caption'):
      into = self.captions
    elif tag in ('td', 'th'):
      into = self.tables[-1][-1]
    if into is not None:
      into.append('')
      self._into = into

  def handle_endtag(self, tag):
    if tag in ('h2', 'figcaption', 'caption', 'td', 'th'):
      self._into = None

  def handle_data(self, data):
    if self._into is not None:
      self._into[-1] += data

  def heads(self):
    """What stands in the headers and first columns of all tables."""
    return {
      cell.strip()
      for table in self.tables
      for number, row in enumerate(table)
      for cell in (row[:1] if number else row)
    }
