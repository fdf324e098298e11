"""How the time of one client's work scales: in a table, and in a picture.

python -m benchmarks.curves --out=curves.json --picture=curves.svg

A client's share of a round is measured against the clients of a round, as the
experiments run it, and against the devices that share them; on CPU a device is
a core, but of one alone the products use them all. It must not grow with the
clients. Every point is a process of its own, and rounds alternate. Against the
clients of the whole population `benchmarks.population` measures it: with
`--population` the picture has what that has written, too.
"""

import argparse
from collections.abc import Mapping, Sequence
import json
import pathlib
import statistics
from typing import Any

import matplotlib
from matplotlib import figure, ticker

from benchmarks import run, workers
from benchmarks.tasks import Task
from fedjax_gen.evaluation.drawing import theme
from fedjax_gen.federated.mapping import default_cpu_devices

_DEVICES = (1, 2, 4, 8)
_LABELS = {
  'clients': 'clients of a round',
  'devices': 'devices',
  'population': 'clients of the population',
}


def main(argv: Sequence[str] | None = None) -> None:
  """Measures, prints tables, writes a JSON object and draws."""
  flags = _flags(argv)
  result: dict[str, Any] = {'flags': vars(flags)}
  for axis, points in _points(flags).items():
    result[axis], device = _measure(axis, points, flags.repeats)
    result['machine'] = run.machine(device)
  if flags.population:
    text = pathlib.Path(flags.population).read_text(encoding='utf-8')
    result['population'] = _of_population(json.loads(text))
  for axis in _drawn(result):
    print(_table(axis, result[axis]))
  if flags.out:
    text = json.dumps(result, indent=1)
    pathlib.Path(flags.out).write_text(text + '\n', encoding='utf-8')
  if flags.picture:
    draw(result, flags.picture)


def _points(flags) -> dict[str, dict[int, tuple[str, Task]]]:
  """Contestant and task of each point, by what is varied."""

  def task(clients):
    return Task(flags.task, clients, flags.steps, flags.batch)

  return {
    'clients': {
      number: ('ours:auto', task(number)) for number in flags.clients
    },
    'devices': {
      number: (f'ours:{number} devices', task(flags.shared))
      for number in flags.devices
    },
  }


def _measure(
  axis: str, points: Mapping[int, tuple[str, Task]], repeats: int
) -> tuple[list[dict[str, Any]], str]:
  """Rows of an axis, and the device that JAX ran them on."""
  with workers.started(list(points.values())) as contestants:
    for _ in range(repeats):
      for contestant in contestants:
        contestant.round()
    there = workers.present(contestants)
  numbers = {point: number for number, point in points.items()}
  rows = [
    _row(
      axis,
      numbers[one.name, one.task],
      [answer['seconds'] for answer in one.rounds],
      one.task.clients,
    )
    for one in there
  ]
  return rows, there[0].first['device']


def _drawn(result: Mapping[str, Any]) -> list[str]:
  """What was varied, in the order of the panels."""
  return [axis for axis in _LABELS if result.get(axis)]


def _of_population(result: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The points that `benchmarks.population` has measured, of each path."""
  rows = []
  for name, measured in result.items():
    path, _, clients = name.rpartition('_')
    if clients.isdigit():
      seconds = [second for one in measured['seconds'] for second in one]
      row = _row('population', int(clients), seconds, result['cohort'])
      rows.append(row | {'series': path})
  return rows


def _row(
  axis: str, number: int, seconds: Sequence[float], clients: int
) -> dict[str, Any]:
  return {
    axis: number,
    'series': '',
    'milliseconds_per_client': 1e3 * statistics.median(seconds) / clients,
    'seconds': seconds,
  }


def _table(axis: str, rows: Sequence[Mapping[str, Any]]) -> str:
  lines = [f'{_LABELS[axis]:>26}  ms a client']
  for row in rows:
    name = f'{row["series"]} {row[axis]:,}'
    lines.append(f'{name:>26}  {row["milliseconds_per_client"]:11.3f}')
  return '\n'.join(lines)


@matplotlib.rc_context(theme.CHART_STYLE | {'svg.hashsalt': 'curves'})
def draw(result: Mapping[str, Any], path: str) -> None:
  """Writes a picture with a panel for each of what was varied.

  Args:
    result: as `main` writes it.
    path: of the picture; its suffix says which format.
  """
  axes_of = _drawn(result)
  chart = figure.Figure(figsize=(3.1 * len(axes_of), 2.8), layout='constrained')
  panels = chart.subplots(1, len(axes_of), squeeze=False)[0]
  for panel, axis in zip(panels, axes_of, strict=True):
    _draw_panel(panel, axis, result[axis])
  panels[0].set_ylabel('milliseconds a client')
  chart.savefig(path, metadata={'Date': None} if path.endswith('svg') else None)


def _draw_panel(panel, axis: str, rows: Sequence[Mapping[str, Any]]) -> None:
  """Points of each series, from zero on: what does not grow is level."""
  names = list(dict.fromkeys(row['series'] for row in rows))
  for position, name in enumerate(names):
    own = sorted(
      (row[axis], row['milliseconds_per_client'])
      for row in rows
      if row['series'] == name
    )
    panel.plot(
      *zip(*own, strict=True),
      color=theme.colour(position),
      linestyle=theme.LINES[position],
      marker=theme.MARKERS[position],
      markersize=5,
      linewidth=1.8,
      label=name,
    )
  numbers = sorted({row[axis] for row in rows})
  panel.set_xscale('log')
  panel.set_xticks(numbers, [f'{number:,}' for number in numbers])
  panel.xaxis.set_minor_locator(ticker.NullLocator())
  panel.set_xlabel(_LABELS[axis])
  panel.set_ylim(0, 1.15 * max(row['milliseconds_per_client'] for row in rows))
  panel.grid(axis='y')
  if any(names):
    panel.legend()


def _flags(argv):
  def numbers(text):
    return [int(part) for part in text.split(',')]

  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.curves',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--task', choices=('conv_vae', 'mlp_vae', 'emnist_conv'), default='conv_vae'
  )
  parser.add_argument('--steps', type=int, default=1, help='of a client')
  parser.add_argument('--batch', type=int, default=32)
  parser.add_argument(
    '--clients', type=numbers, default=[10, 30, 100, 300, 1000]
  )
  parser.add_argument(
    '--devices',
    type=numbers,
    default=[n for n in _DEVICES if n <= default_cpu_devices()],
    help='those that there are cores for, if not named',
  )
  parser.add_argument(
    '--shared', type=int, default=100, help='clients that devices share'
  )
  parser.add_argument(
    '--repeats', type=int, default=7, help='rounds of each point'
  )
  parser.add_argument(
    '--population', help='JSON file of `benchmarks.population`, for a panel'
  )
  parser.add_argument('--out', help='JSON file to write')
  parser.add_argument('--picture', help='SVG or PNG file to write')
  return parser.parse_args(argv)


if __name__ == '__main__':
  main()
