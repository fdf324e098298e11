"""Line charts as plain geometry, which the report's template draws.

They are SVG in the page itself: they follow its colours, light or dark, stay
sharp on any screen and in print, and need no plotting library.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

_MAX_POINTS = 300  # more than a screen tells apart
_MARKERS = 6  # per line


class Line(NamedTuple):
  """One line: its name and, in pixels, its points and those with a marker."""

  name: str
  points: list[tuple[float, float]]
  marked: list[tuple[float, float]]


class Tick(NamedTuple):
  """A place on an axis, in pixels, and the number that belongs there."""

  at: float
  text: str


@dataclasses.dataclass(frozen=True)
class Chart:
  """Numbers over rounds, one line a method.

  Attributes:
    series: per method its (x, y) points.
    title: what is shown, with its unit.
    caption: what to see in it.
    x_label: what `x` counts.
  """

  series: Mapping[str, Sequence[tuple[float, float]]]
  title: str
  caption: str = ''
  x_label: str = 'round'
  is_wide: bool = False
  kind: ClassVar[str] = 'chart'
  width: ClassVar[int] = 480
  height: ClassVar[int] = 290
  left: ClassVar[int] = 58
  right: ClassVar[int] = 466
  top: ClassVar[int] = 12
  bottom: ClassVar[int] = 246

  @property
  def alt(self) -> str:
    """The chart in words: where each line begins and ends."""
    lines = [
      f'{name} from {points[0][1]:.4g} to {points[-1][1]:.4g}'
      for name, points in self.series.items()
    ]
    return f'{self.title} over {self.x_label}: {"; ".join(lines)}.'

  @property
  def x_ticks(self) -> list[Tick]:
    """Ticks of the horizontal axis."""
    return [Tick(self._x(v), _number(v)) for v in _ticks(*self._range(0))]

  @property
  def y_ticks(self) -> list[Tick]:
    """Ticks of the vertical axis."""
    return [Tick(self._y(v), _number(v)) for v in _ticks(*self._range(1))]

  @property
  def lines(self) -> list[Line]:
    """The lines in pixels."""
    lines = []
    for number, (name, values) in enumerate(self.series.items()):
      stride = -(-len(values) // _MAX_POINTS)
      kept = [*values[:-1:stride], values[-1]]
      points = [(self._x(x), self._y(y)) for x, y in kept]
      step = max(1, len(points) // _MARKERS)
      # Shifted from line to line, so that markers do not hide each other.
      lines.append(Line(name, points, points[number * step // 3 :: step]))
    return lines

  def _range(self, axis: int) -> tuple[float, float]:
    values = [point[axis] for line in self.series.values() for point in line]
    low, high = min(values), max(values)
    if low == high:
      return low - 0.5, high + 0.5
    margin = 0.05 * (high - low) if axis else 0
    return low - margin, high + margin

  def _x(self, value: float) -> float:
    low, high = self._range(0)
    share = (value - low) / (high - low)
    return round(self.left + share * (self.right - self.left), 1)

  def _y(self, value: float) -> float:
    low, high = self._range(1)
    share = (value - low) / (high - low)
    return round(self.bottom - share * (self.bottom - self.top), 1)


def curves(
  histories: Mapping[str, Sequence[Mapping[str, Any]]],
  metric: str,
  *,
  title: str,
  caption: str = '',
) -> Chart | None:
  """Returns a metric over the rounds of each method, or None if nobody has it.

  Args:
    histories: per method one record a round, as `training.train` returns them.
    metric: the name to look up; rounds without it are passed over.
    title: what it is, with its unit.
    caption: what to see in it.
  """
  series = {
    method: [
      (record['round'], value)
      for record in history
      if (value := record.get(metric)) is not None
    ]
    for method, history in histories.items()
  }
  series = {method: points for method, points in series.items() if points}
  return Chart(series, title, caption) if series else None


def _ticks(low: float, high: float) -> list[float]:
  """Returns some six round numbers in [low, high].

  Example:
    >>> _ticks(0, 11)
    [0, 2, 4, 6, 8, 10]
  """
  raw = (high - low) / 6
  power = 10 ** math.floor(math.log10(raw))
  step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
  first = math.ceil(low / step)
  return [i * step for i in range(first, math.floor(high / step) + 1)]


def _number(value: float) -> str:
  return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.3g}'
