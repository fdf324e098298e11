"""Pictures of series, and of the columns of tables: real next to generated."""

from collections.abc import Mapping
import os

import matplotlib
from matplotlib import figure, ticker
import numpy as np

from fedjax_gen import files
from fedjax_gen.data.tables import schema
from fedjax_gen.data.tables.codec import Codec
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation.drawing import theme

_COLUMNS = 6
_MOST_PANELS = 24
_MOST_NAMED = 5  # categories that have room for a name of so many letters
_NAME = 9
_DPI = 120


@matplotlib.rc_context(theme.CHART_STYLE)
def windows(
  rows: Mapping[str, np.ndarray],
  path: str | os.PathLike,
  *,
  channels: tuple[str, ...],
  captions: tuple[str, ...] = (),
) -> None:
  """Writes series as lines, a row of windows for each title.

  Args:
    rows: by title decoded `[n, T, C]`, NaN where nothing was observed; the
      first six of each are drawn.
    path: PNG file to write, atomically.
    channels: names of the C channels.
    captions: above the columns, such as classes.

  Raises:
    InputError: there is no series, or channels differ.
  """
  if not rows or any(s.ndim != 3 or not len(s) for s in rows.values()):
    raise InputError('Expected series [n, T, C] in every row, got none.')
  for title, series in rows.items():
    if series.shape[2] != len(channels):
      raise InputError(
        f'Expected {len(channels)} channels in {title!r}, got '
        f'{series.shape[2]}.'
      )
  number = min(_COLUMNS, max(len(series) for series in rows.values()))
  chart = figure.Figure(figsize=(1.9 * number, 1.5 * len(rows) + 0.5))
  # One scale for all, so that a window that is too quiet is seen to be.
  axes = chart.subplots(
    len(rows), number, squeeze=False, sharex=True, sharey=True
  )
  for row, (title, series) in enumerate(rows.items()):
    for column, window in enumerate(series[:number]):
      place = axes[row, column]
      for channel, name in enumerate(channels):
        place.plot(
          window[:, channel], color=theme.colour(channel), linewidth=0.8,
          label=name,
        )  # fmt: skip
      if not row and column < len(captions):
        place.set_title(captions[column], fontsize=8)
    axes[row, 0].set_ylabel(title, fontsize=8)
  handles, names = axes[0, 0].get_legend_handles_labels()
  chart.legend(
    handles, names, loc='lower center', ncols=min(len(names), 8), fontsize=7
  )
  _save(chart, path)


@matplotlib.rc_context(theme.CHART_STYLE)
def marginals(
  codec: Codec,
  tables: Mapping[str, np.ndarray],
  path: str | os.PathLike,
) -> None:
  """Writes the distribution of each column, of several tables together.

  Numbers: shares in twenty cells, from the first to the last percentile of the
  first table. Categories: the share of each.

  Args:
    codec: names the columns; the first 24 are drawn.
    tables: by title decoded `[n, D]`, the first of them the one to compare
      with.
    path: PNG file to write, atomically.

  Raises:
    InputError: there is no table.
  """
  if not tables:
    raise InputError('Expected a table at least, got none.')
  columns = codec.schema.columns[:_MOST_PANELS]
  across = min(4, len(columns))
  down = -(-len(columns) // across)
  chart = figure.Figure(figsize=(2.4 * across, 1.7 * down + 0.5))
  axes = chart.subplots(down, across, squeeze=False).ravel()
  first = next(iter(tables.values()))
  for place, (panel, column) in enumerate(zip(axes, columns, strict=False)):
    if column.is_number:
      values = first[:, place]
      low, high = np.nanpercentile(values, [1, 99])
      edges = np.linspace(low, high if high > low else low + 1, 21)
    else:
      edges = np.arange(len(column.categories) + column.missing + 1) - 0.5
    for number, (title, table) in enumerate(tables.items()):
      values = table[:, place]
      values = np.clip(values[np.isfinite(values)], edges[0], edges[-1])
      shares = np.histogram(values, edges)[0] / max(len(values), 1)
      panel.stairs(
        shares, edges, color=theme.colour(number), label=title,
        linestyle=('-', '--', ':', '-.')[number % 4],
      )  # fmt: skip
    panel.set_title(column.name, fontsize=8)
    panel.tick_params(labelsize=6)
    if column.kind == 'date':
      panel.xaxis_date()  # which counts days from the same one
      panel.xaxis.set_major_locator(ticker.MaxNLocator(3))
    elif not column.is_number and len(edges) <= _MOST_NAMED + 1:
      names = [*column.categories, schema.MISSING][: len(edges) - 1]
      short = [n if len(n) <= _NAME else f'{n[: _NAME - 1]}…' for n in names]
      panel.set_xticks(range(len(short)), short)
  for panel in axes[len(columns) :]:
    panel.set_axis_off()
  handles, names = axes[0].get_legend_handles_labels()
  chart.legend(handles, names, loc='lower center', ncols=4, fontsize=7)
  _save(chart, path)


def _save(chart: figure.Figure, path: str | os.PathLike) -> None:
  chart.tight_layout(rect=(0, 0.06, 1, 1))
  with files.replacing(path) as unfinished:
    chart.savefig(unfinished, dpi=_DPI)
