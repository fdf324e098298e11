"""The clients x classes picture of a partition."""

from collections.abc import Sequence
import os

from matplotlib.backends import backend_agg
from matplotlib.figure import Figure
import numpy as np

from fedjax_gen import files
from fedjax_gen.errors import InputError

_MAX_CLIENTS = 1000  # columns a picture of this width can show
_MAX_NUMBERS = 240  # cells up to which their counts are written into them
_MAX_CLASS_NAMES = 40
_MAX_GROUP_NAMES = 12


def draw(
  counts: np.ndarray,
  groups: np.ndarray,
  class_names: Sequence[str],
  title: str,
  path: str | os.PathLike,
) -> None:
  """Draws client sizes above the class shares of each client.

  Args:
    counts: `[N, C]` examples per client and class.
    groups: `[N]` group of each client; boundaries are drawn.
    class_names: C names.
    title: What stands above the picture.
    path: Where to write, atomically; the ending chooses the format.

  Raises:
    InputError: The file cannot be written, or its ending is unknown.
  """
  num_clients = len(counts)
  shown = np.arange(num_clients)
  if num_clients > _MAX_CLIENTS:
    shown = np.linspace(0, num_clients - 1, _MAX_CLIENTS).astype(int)
    title += f'\n({_MAX_CLIENTS} evenly spaced clients of {num_clients})'
  counts, groups = counts[shown], groups[shown]

  figure = Figure(figsize=_figure_size(*counts.shape), layout='constrained')
  backend_agg.FigureCanvasAgg(figure)
  figure.suptitle(title, fontsize=11)
  size_axes, share_axes = figure.subplots(
    2, 1, sharex=True, height_ratios=(1, 3)
  )
  _draw_sizes(size_axes, counts.sum(axis=1))
  image = _draw_shares(share_axes, counts, class_names)
  figure.colorbar(
    image, ax=[size_axes, share_axes], label="share of the client's examples"
  )
  _draw_groups((size_axes, share_axes), groups)
  try:
    with files.replacing(path) as temporary:
      figure.savefig(temporary, dpi=110)
  except (OSError, ValueError) as error:
    raise InputError(
      f'{path}: the picture cannot be written: {error}.'
    ) from error


def _figure_size(num_clients: int, num_classes: int) -> tuple[float, float]:
  """Grows with clients and classes, within what a page can hold."""
  width = np.clip(3.5 + 0.35 * num_clients, 6.5, 14)
  height = np.clip(2.5 + 0.28 * num_classes, 4.5, 12)
  return float(width), float(height)


def _draw_sizes(axes, sizes: np.ndarray) -> None:
  """One bar a client; a step line where bars would be thinner than a pixel."""
  positions = np.arange(len(sizes))
  if len(sizes) <= 100:
    axes.bar(positions, sizes, width=0.85, color='#4c72b0')
  else:
    axes.fill_between(positions, sizes, step='mid', color='#4c72b0', lw=0)
  axes.set_ylabel('examples')
  axes.set_ylim(bottom=0)
  axes.spines[['top', 'right']].set_visible(False)


def _draw_shares(axes, counts: np.ndarray, class_names: Sequence[str]):
  """A heat map, classes down, with the counts where there is room."""
  sizes = counts.sum(axis=1, keepdims=True)
  shares = counts / np.maximum(sizes, 1)
  image = axes.imshow(
    shares.T,
    aspect='auto',
    interpolation='nearest',
    cmap='Blues',
    vmin=0,
    vmax=max(shares.max(), 1e-9),
  )
  axes.set_xlabel('client')
  axes.xaxis.get_major_locator().set_params(integer=True)
  step = -(-len(class_names) // _MAX_CLASS_NAMES)
  ticks = range(0, len(class_names), step)
  axes.set_yticks(ticks, [str(class_names[tick])[:32] for tick in ticks])
  if counts.size <= _MAX_NUMBERS:
    for (client, label), count in np.ndenumerate(counts):
      dark = shares[client, label] > 0.6 * shares.max()
      axes.text(
        client,
        label,
        f'{count}',
        ha='center',
        va='center',
        fontsize=7,
        color='white' if dark else 'black',
      )
  return image


def _draw_groups(axes: Sequence, groups: np.ndarray) -> None:
  """A line where the group changes, and its number above."""
  starts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1))
  if len(starts) < 2:
    return
  for start in starts[1:]:
    for one in axes:
      one.axvline(start - 0.5, color='#c44e52', lw=1)
  if len(starts) <= _MAX_GROUP_NAMES:
    for start in starts:
      axes[0].text(
        start - 0.4,
        1.02,
        f'group {groups[start]}',
        fontsize=8,
        transform=axes[0].get_xaxis_transform(),
      )
