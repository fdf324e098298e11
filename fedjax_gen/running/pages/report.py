"""The report of a run: one self-contained page.

A report is a value: sections of blocks, which know nothing of any experiment.
`write_report` turns it into HTML that loads nothing from other hosts.
"""

import base64
from collections.abc import Sequence
import dataclasses
import os
import pathlib
import struct
from typing import ClassVar

import jinja2

from fedjax_gen.errors import InputError
from fedjax_gen.running.pages.curves import Chart
from fedjax_gen.running.storage import disk

_PNG = b'\x89PNG\r\n\x1a\n'
_TARGET_WIDTH = 960  # CSS pixels up to which small pictures are enlarged


@dataclasses.dataclass(frozen=True)
class Picture:
  """A PNG picture.

  Attributes:
    png: the file's path, or its bytes.
    caption: what to see in it.
    alt: the same for somebody who cannot see it.
    is_wide: whether it takes the whole width; else two stand side by side.

  Raises:
    InputError: the file cannot be read or is no PNG.
  """

  png: str | os.PathLike | bytes
  caption: str
  alt: str
  is_wide: bool = True
  kind: ClassVar[str] = 'picture'
  _data: bytes = dataclasses.field(init=False, repr=False)

  def __post_init__(self):
    if not isinstance(self.png, bytes):
      try:
        data = pathlib.Path(self.png).read_bytes()
      except OSError as error:
        raise InputError(
          f'Cannot read the picture {self.png!s}: {error.strerror}.'
        ) from error
    else:
      data = self.png
    if not data.startswith(_PNG):
      raise InputError(f'Expected png to be a PNG picture, got {data[:8]!r}...')
    object.__setattr__(self, '_data', data)

  @property
  def src(self) -> str:
    """The picture as a data URI."""
    return f'data:image/png;base64,{base64.b64encode(self._data).decode()}'

  @property
  def scale(self) -> int:
    """How many times a small picture is enlarged, sharply."""
    return max(1, _TARGET_WIDTH // self._natural_size[0])

  @property
  def size(self) -> tuple[int, int]:
    """The width and height in CSS pixels."""
    width, height = self._natural_size
    return width * self.scale, height * self.scale

  @property
  def _natural_size(self) -> tuple[int, int]:
    return struct.unpack('>II', self._data[16:24])


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of a table.

  Attributes:
    head: what the row is about.
    cells: its values as text.
    note: a few plain words under `head`.
    best: the index of the cell to mark as best, or None.
  """

  head: str
  cells: Sequence[str]
  note: str = ''
  best: int | None = None


@dataclasses.dataclass(frozen=True)
class Table:
  """A table; the first of `header` stands over the rows' heads."""

  header: Sequence[str]
  rows: Sequence[Row]
  caption: str = ''
  kind: ClassVar[str] = 'table'


@dataclasses.dataclass(frozen=True)
class Code:
  """Commands or code to copy."""

  text: str
  caption: str = ''
  kind: ClassVar[str] = 'code'


@dataclasses.dataclass(frozen=True)
class Section:
  """A titled part of a report; neighbouring narrow blocks share a line."""

  title: str
  blocks: Sequence[Picture | Chart | Table | Code]
  text: str = ''


@dataclasses.dataclass(frozen=True)
class Report:
  """A whole report."""

  title: str
  lead: str
  facts: Sequence[tuple[str, str]]
  sections: Sequence[Section]


def write_report(path: str | os.PathLike, report: Report) -> None:
  """Writes `report` to `path`, one HTML file without any other.

  Raises:
    DiskFullError: the disk is full; an older report is as it was.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('fedjax_gen.running.pages'),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  page = environment.get_template('report.html').render(report=report)
  disk.write_atomically(path, page)
