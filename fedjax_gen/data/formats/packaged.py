"""Series and tables with natural clients that lie inside Python packages.

No code of these packages is run: their files are read. `waves` and `wine` need
no package but those that this one needs.
"""

import dataclasses
import importlib.util
import pathlib

import numpy as np

from fedjax_gen.data import examples
from fedjax_gen.data.examples import DataSource, Examples, Options
from fedjax_gen.data.tables import series, table
from fedjax_gen.data.tables.schema import Column, Schema
from fedjax_gen.data.tables.series import Recordings
from fedjax_gen.errors import InputError

_WATCH_WINDOW, _WATCH_STRIDE = 100, 50  # two seconds at 50 Hz, half overlapping
_EXERCISES = {
  'PEN': 'pendulum',
  'ABD': 'abduction',
  'FEL': 'forward elevation',
  'IR': 'internal rotation',
  'ER': 'external rotation',
  'TRAP': 'trapezius extension',
  'ROW': 'upright row',
}


def watch(options: Options) -> DataSource:
  """Returns a smartwatch's signals of ten people in seven shoulder exercises.

  Six channels (accelerometer in g, gyroscope in rad/s) at 50 Hz; each person is
  a client. Needs the extra `signals`.

  Reference: Burns et al., "Shoulder physiotherapy exercise recognition", 2018;
    the file is that of seglearn (BSD).
  """
  path = _file('seglearn', 'data/watch_dataset.npy', 'signals')
  # An installed package may run code anyway; its file is a pickle.
  found = np.load(path, allow_pickle=True).item()
  subjects = np.asarray(found['subject']).astype(int)
  known, users = np.unique(subjects, return_inverse=True)
  recordings = Recordings(
    [np.asarray(values, np.float32) for values in found['X']],
    np.asarray(found['y'], np.int32),
    users.astype(np.int32),
    tuple(found['X_labels']),
    tuple(_EXERCISES.get(name, name) for name in found['y_labels']),
    tuple(f'person {number}' for number in known),
  )
  window = options.window or _WATCH_WINDOW
  stride = options.stride or min(_WATCH_STRIDE, window)
  chosen = dataclasses.replace(options, window=window, stride=stride)
  return series.from_recordings('watch', recordings, chosen)


def rand_health(options: Options) -> DataSource:
  """Returns the RAND Health Insurance Experiment, 20,190 person-years.

  Six sites are the clients; the years of one person are all for training or all
  held out. Needs the extra `tables`.

  Reference: Newhouse, "Free for All? Lessons from the RAND Health Insurance
    Experiment", 1993; the file is that of statsmodels (public domain).
  """
  path = _file('statsmodels', 'datasets/randhie/src/randhie.csv', 'tables')
  chosen = dataclasses.replace(
    options, client_column='site', person_column='zper'
  )
  return table.read(path, chosen, name='rand_health')


def wine(options: Options) -> DataSource:
  """Returns scikit-learn's 178 Italian wines of three growers, 13 columns.

  Reference: UCI "Wine recognition data", Forina et al., 1991.
  """
  from sklearn import datasets  # noqa: PLC0415, slow to import

  found = datasets.load_wine()
  part = Examples(found.data.astype(np.float32), found.target.astype(np.int32))
  columns = tuple(
    Column(name, 'integer' if name == 'proline' else 'number')
    for name in found.feature_names
  )
  train, test, note = examples.split(part, options)
  return DataSource(
    name='wine',
    train=train,
    test=test,
    class_names=tuple(f'grower {number + 1}' for number in range(3)),
    notes=(note,),
    schema=Schema('table', columns, label_column='grower'),
  )


def waves(options: Options) -> DataSource:
  """Returns 1,600 windows of two channels, three classes and eight clients.

  Drawn: a sine, a sawtooth or a burst, of a frequency and a height that each
  client has for itself, with noise; a tenth ends early. Always the same.
  """
  rng = np.random.default_rng(0)
  num_clients, each, steps = 8, 200, 64
  frequency = rng.uniform(2, 4, num_clients)
  height = rng.uniform(0.6, 1.6, num_clients)
  users = np.repeat(np.arange(num_clients), each)
  labels = np.tile(np.arange(each) % 3, num_clients)
  start = rng.random((len(users), 1))
  phase = frequency[users][:, None] * np.arange(steps) / steps + start
  shapes = np.stack(
    [
      np.sin(2 * np.pi * phase),
      2 * (phase % 1) - 1,
      np.sin(6 * np.pi * phase) * np.exp(-4 * (phase % 1)),
    ]
  )
  first = height[users][:, None] * shapes[labels, np.arange(len(users))]
  second = np.cumsum(first, axis=1) / steps
  values = np.stack([first, second], axis=-1)
  values += rng.normal(0, [0.05, 0.01], values.shape)
  lengths = np.where(rng.random(len(users)) < 0.1, steps // 2, steps)
  recordings = Recordings(
    [v[:n].astype(np.float32) for v, n in zip(values, lengths, strict=True)],
    labels.astype(np.int32),
    users.astype(np.int32),
    ('signal', 'integral'),
    ('sine', 'sawtooth', 'burst'),
    tuple(f'client {number}' for number in range(num_clients)),
  )
  source = series.from_recordings('waves', recordings, options)
  note = 'drawn from known waves, not data of the world'
  return dataclasses.replace(source, notes=(note, *source.notes))


READERS = (watch, rand_health, wine, waves)
WINDOWED = ('watch', 'waves')
"""Those that a window and a stride may be asked of."""


def _file(package: str, name: str, extra: str) -> pathlib.Path:
  """A file of an installed package, which is not imported.

  Raises:
    InputError: the package, or the file, is not there.
  """
  found = importlib.util.find_spec(package)
  if found is not None and found.origin is not None:
    path = pathlib.Path(found.origin).parent / name
    if path.exists():
      return path
  raise InputError(
    f'Expected {package}, which holds {pathlib.Path(name).name}: pip install '
    f"'fedjax_gen[{extra}]'."
  )
