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
