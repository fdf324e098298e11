"""The directory of a run: what was asked, what happened, what came out.

In the directory are:

    DIR/config.json          what was asked; another config is refused
    DIR/inputs.json          digests of the data; other data are refused
    DIR/metrics.jsonl        one object a method and round
    DIR/tensorboard/METHOD/  the same numbers as TensorBoard events
    DIR/checkpoints/METHOD/  see `checkpoints`
    DIR/population/METHOD/   what clients keep, if not in the state
    DIR/methods/METHOD.json  final metrics of each method that is done
    DIR/summary.json         written last: the run is finished

A run under differential privacy has two folders more, and only its owner can
read them:

    DIR/release/             what may be given away, and nothing else may
    DIR/private/             what must stay: the keys of the noise, checkpoints,
                             what clients keep, the log of the simulation

There `metrics.jsonl`, `inputs.json`, `tensorboard`, `checkpoints`, `population`
and `methods` lie in `private`, and links stand where the log, the report and
the pictures lie otherwise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import fcntl
import json
import math
import os
import pathlib
import time
from typing import Any, TextIO

from fedjax_gen.errors import InputError
from fedjax_gen.running.distributed.processes import ALONE, Processes
from fedjax_gen.running.storage import disk

RELEASE, PRIVATE = 'release', 'private'
"""Folders of a private run; see above."""

INPUTS = 'inputs.json'

_POLL_SECONDS = 0.5
# Of a private run: where users look for what lies in one of its two folders.
_LINKS = {
  'metrics.jsonl': PRIVATE,
  'ledger.json': RELEASE,
  'report.html': RELEASE,
  'samples': RELEASE,
}
_MAX_DIFFERENCES = 8  # an error message is to fit on a screen


class FinishedError(Exception):
  """While this process waited for the directory, another finished the run."""


class Workdir:
  """The open work directory of one run, locked against any other process.

  Use it as a context manager. Opening creates the directory, or resumes the
  run in it if that was given the same `config`.

  Args:
    path: the directory.
    config: everything that decides the run's numbers; nested mappings of JSON
      values.
    on_wait: where another process uses the directory, wait for it to end,
      after telling so; None to refuse.
    processes: of the run. Process 0 opens the directory, the others do as it
      does and touch no file; they need not see the directory.
    is_private: whether the run is under differential privacy. While it is
      open, files that this process makes can be read by their owner alone.

  Attributes:
    path: the directory.
    released: where what may be given away lies: `release` of a private run,
      else the directory itself.
    kept: where what must stay lies: `private` of a private run, else the
      directory itself.

  Raises:
    EndedError: process 0 could not open it, and this is another.
    InputError: the path is not a directory, holds files of something else or a
      run of another config (nothing is changed), or is in use.
    FinishedError: the process that was waited for finished the run.
    DiskFullError: the disk is full.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    config: Mapping[str, Any],
    *,
    on_wait: Callable[[str], None] | None = None,
    processes: Processes = ALONE,
    is_private: bool = False,
  ):
    self.path = pathlib.Path(path).absolute()
    self.is_private = is_private
    self.released = self.path / RELEASE if is_private else self.path
    self.kept = self.path / PRIVATE if is_private else self.path
    self._umask: int | None = None
    self.processes = processes
    self._waited = False
    self._lock: TextIO | None = None
    self._writers: dict[str, Any] = {}
    self._purge_steps: dict[str, int] = {}
    try:
      processes.from_writer(lambda: self._open(config, on_wait))
    except BaseException:
      self.close()
      raise

  def _open(
    self, config: Mapping[str, Any], on_wait: Callable[[str], None] | None
  ) -> None:
    text = disk.to_json(config, indent=2) + '\n'
    if self.is_private:
      self._umask = os.umask(0o077)
    finished_summary(self.path, config)  # refuses before anything is written
    try:
      with disk.full_disk_named(self.path):
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self._lock = (self.path / '.lock').open('a')
    except OSError as error:
      raise InputError(
        f'Cannot use the work directory {self.path}: {error.strerror}.'
      ) from error
    try:
      self._take_lock(lock, on_wait)
      # Again: another process may have begun, or ended, a run in between.
      if finished_summary(self.path, config) is not None and self._waited:
        raise FinishedError(self.path)
      disk.write_atomically(self.path / 'config.json', text)
      if self.is_private:
        self._make_folders()
    except BaseException:
      lock.close()
      raise

  def _make_folders(self) -> None:
    for folder in (self.released, self.kept):
      folder.mkdir(mode=0o700, exist_ok=True)
    (self.released / 'samples').mkdir(exist_ok=True)
    for name, place in _LINKS.items():
      if not (link := self.path / name).is_symlink():
        link.symlink_to(pathlib.Path(place) / name)

  def __enter__(self) -> 'Workdir':
    return self

  def __exit__(self, *unused_exception) -> None:
    self.close()

  def close(self) -> None:
    """Writes out what is buffered and lets another process in."""
    for writer in self._writers.values():
      writer.close()
    if self._lock is not None:
      self._lock.close()
    if self._umask is not None:
      os.umask(self._umask)
      self._umask = None

  def report_folder(self, *, is_releasable: bool) -> pathlib.Path:
    """Returns the folder of report.html, and points the link there.

    Args:
      is_releasable: whether the report may be given away. Asked for in a
        private run alone: in others the report lies in the directory itself.
    """
    folder = self.released if is_releasable else self.kept
    if self.is_private and self.is_writer:
      link = self.path / 'report.html'
      link.unlink(missing_ok=True)
      link.symlink_to(pathlib.Path(folder.name) / link.name)
    return folder

  @property
  def is_writer(self) -> bool:
    """Whether this process is the one that may write here."""
    return self.processes.is_writer

  def pin(self, **facts: str) -> None:
    """Records what a run depends on besides its config; refuses another value.

    Call it with digests of the data: a folder may have changed since the run
    was interrupted, its name in the config has not.

    Args:
      **facts: by name.

    Raises:
      InputError: the run began with another value, or another process has one.
      DiskFullError: the disk is full.
    """
    everyones = self.processes.exchange(facts)
    for name, theirs in zip(self.processes.names, everyones, strict=True):
      if changed := _changed(facts, theirs):
        raise InputError(
          f'Expected the same {changed} in all processes, {name} has another: '
          'give all hosts the same files.'
        )
    self.processes.from_writer(lambda: self._pin(facts))

  def _pin(self, facts: Mapping[str, str]) -> None:
    path = self.kept / INPUTS
    found = disk.read_json(path)
    if found is None:
      disk.write_atomically(path, disk.to_json(facts, indent=2) + '\n')
      return
    if changed := _changed(facts, found):
      raise InputError(
        f'The {changed} of the run in {self.path} changed '
        'since it began. Bring back what it began with, or give another '
        '--workdir.'
      )

  def write_summary(self, summary: Mapping[str, Any]) -> None:
    """Writes summary.json, which marks the run as finished.

    Raises:
      DivergedError: a number in it is NaN or infinite.
      DiskFullError: the disk is full.
    """
    path = self.path / 'summary.json'
    disk.write_atomically(path, disk.to_json(summary, indent=2) + '\n')

  def once(
    self, method: str, compute: Callable[[], Mapping[str, Any]]
  ) -> dict[str, Any]:
    """Returns the saved result of `method`, computing it the first time.

    Args:
      method: the method's name.
      compute: returns its result, JSON values; typically final metrics that
        take long.

    Raises:
      DivergedError: a number in the result is NaN or infinite.
      DiskFullError: the disk is full.
    """
    path = self.kept / 'methods' / f'{method}.json'
    if (saved := disk.read_json(path)) is not None:
      return saved[method]
    text = disk.to_json({method: compute()}, indent=2)
    path.parent.mkdir(exist_ok=True)
    disk.write_atomically(path, text + '\n')
    return json.loads(text)[method]

  def checkpoints_path(self, method: str) -> pathlib.Path:
    """Returns the directory of the checkpoints of `method`."""
    return self.kept / 'checkpoints' / method

  def population_path(self, method: str) -> pathlib.Path:
    """Returns the directory of what clients of `method` keep in files."""
    return self.kept / 'population' / method

  def rewind(self, method: str, num_rounds: int) -> None:
    """Forgets what was logged of `method` after its first `num_rounds` rounds.

    Call it before training, with the round of the checkpoint that training
    starts from: each round then stands once in metrics.jsonl. A last line that
    a kill left torn goes too.
    """
    kept = [
      record
      for record in self._records()
      if record['method'] != method or record['round'] <= num_rounds
    ]
    lines = [disk.to_json(record) + '\n' for record in kept]
    disk.write_atomically(self.kept / 'metrics.jsonl', ''.join(lines))
    self._purge_steps[method] = num_rounds + 1

  def log(self, method: str, rounds: Sequence[Mapping[str, float]]) -> None:
    """Appends rounds to metrics.jsonl and TensorBoard, and writes them out.

    Args:
      method: the method's name.
      rounds: per round its metrics and its number, `round`; NaN and infinity
        are written as null, which JSON has a word for.
    """
    path = self.kept / 'metrics.jsonl'
    writer = self._writer(method)
    with disk.full_disk_named(path), path.open('a', encoding='utf-8') as file:
      for metrics in rounds:
        record = {
          name: value if math.isfinite(value) else None
          for name, value in metrics.items()
        }
        file.write(disk.to_json({'method': method, **record}) + '\n')
        for name, value in metrics.items():
          if name != 'round' and record[name] is not None:
            writer.add_scalar(name, value, metrics['round'])
      writer.flush()

  def history(self, method: str) -> list[dict[str, float]]:
    """Returns what was logged of `method`, one record a round."""
    return [r for r in self._records() if r['method'] == method]

  def _records(self) -> Iterator[dict[str, Any]]:
    path = self.kept / 'metrics.jsonl'
    if not path.exists():
      return
    with path.open(encoding='utf-8', errors='replace') as file:
      for line in file:
        try:
          yield json.loads(line)
        except json.JSONDecodeError:
          return  # the line that the run was writing when it was killed

  def _writer(self, method: str) -> Any:
    if method not in self._writers:
      # Imported here: it takes a second, and a mistake is answered before.
      from tensorboardX import SummaryWriter

      self._writers[method] = SummaryWriter(
        str(self.kept / 'tensorboard' / method),
        purge_step=self._purge_steps.get(method),
        # Two writers opened in one second would share the default name.
        filename_suffix=f'.{time.time_ns()}',
      )
    return self._writers[method]

  def _take_lock(
    self, lock: TextIO, on_wait: Callable[[str], None] | None
  ) -> None:
    occupied = f'Another process is running in the work directory {self.path}.'
    while True:
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
      except BlockingIOError as error:
        if on_wait is None:
          raise InputError(
            f'{occupied} Wait for it, stop it, or give another directory.'
          ) from error
        if not self._waited:
          on_wait(f'{occupied} Waiting for it to end.')
        self._waited = True
        # Polled, so that a signal ends the wait at once.
        time.sleep(_POLL_SECONDS)


def _changed(facts: Mapping[str, str], others: Mapping[str, str]) -> str:
  """Returns the names of the facts that the others do not have, in words."""
  return ' and the '.join(
    name for name, value in facts.items() if others.get(name) != value
  )


def finished_summary(
  path: str | os.PathLike, config: Mapping[str, Any]
) -> dict[str, Any] | None:
  """Returns the summary of the run of `config` in `path`, if it is finished.

  Only reads: for answering a repeated or mistaken command at once, before data
  are loaded.

  Args:
    path: the work directory, which need not exist.
    config: as for `Workdir`.

  Raises:
    InputError: as for `Workdir`, but for its being in use.
  """
  path = pathlib.Path(path).absolute()
  try:
    names = {p.name for p in path.iterdir()} if path.exists() else set()
  except OSError as error:
    raise InputError(
      f'Cannot use the work directory {path}: {error.strerror}.'
    ) from error
  # A kill right after the start leaves the lock but no config yet.
  if all(name == '.lock' or name.startswith('.config-') for name in names):
    return None
  if 'config.json' not in names:
    raise InputError(
      f'The directory {path} holds files but no config.json, so it is not a '
      'work directory. Give --workdir a new or empty directory.'
    )
  found = disk.read_json(path / 'config.json')
  if found is None:
    raise InputError(f'Cannot read {path / "config.json"} as a JSON object.')
  if differences := different_fields(found, config):
    raise InputError(
      f'The work directory {path} holds a run of another configuration:\n'
      f'{differences}\n'
      'Repeat that configuration to resume it, or give another --workdir.'
    )
  return disk.read_json(path / 'summary.json')


def different_fields(found: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
  """Returns a line for each field in which two configurations differ."""
  differences = list(_differences(found, json.loads(disk.to_json(asked))))
  shown = differences[:_MAX_DIFFERENCES]
  if len(differences) > len(shown):
    shown.append(f'... and {len(differences) - len(shown)} more')
  return '\n'.join(f'  {line}' for line in shown)


def _differences(
  found: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = ''
) -> Iterator[str]:
  """Yields one line per field in which two nested configurations differ."""
  for name in dict.fromkeys([*found, *asked]):
    there, here = found.get(name), asked.get(name)
    if isinstance(there, Mapping) and isinstance(here, Mapping):
      yield from _differences(there, here, f'{prefix}{name}.')
    elif there != here or (name in found) != (name in asked):
      yield (
        f'{prefix}{name}: '
        f'{json.dumps(there) if name in found else "absent"} there, '
        f'{json.dumps(here) if name in asked else "absent"} here'
      )
