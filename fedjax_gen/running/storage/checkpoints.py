"""Checkpoints of any state: written whole or not at all, the best one kept.

A thin layer over Orbax that adds what a run needs: rounds as names, a policy
that keeps the last and the best, and errors that name leaf and file
is wrong. The leaves are saved by name, next to a JSON record of their types and
shapes; the caller gives the tree that they form.
"""

from collections.abc import Iterator, Mapping
import contextlib
import math
import os
import pathlib
import re
import shutil
import sys
import threading
from typing import Any, NamedTuple

from absl import logging
import jax
import numpy as np
import orbax.checkpoint as ocp

from fedjax_gen import validate
from fedjax_gen.errors import InputError
from fedjax_gen.running import leaves
from fedjax_gen.running.storage import disk


class Restored(NamedTuple):
  """A checkpoint read back.

  Attributes:
    state: the saved tree, in the structure of the target.
    round: how many rounds the state has behind it.
    metrics: the metrics saved with it.
    extra: whatever else the saver wanted to find again, JSON values.
  """

  state: Any
  round: int
  metrics: dict[str, float]
  extra: dict[str, Any]


class Checkpoints:
  """The checkpoints of one training, in one directory, one folder a round.

  Args:
    path: the directory; created when the first checkpoint is saved.
    keep: how many of the last ones stay. > 0
    best_metric: the metric by which one more stays, the best; None for none.
    best_mode: 'max' if a larger metric is better, 'min' if a smaller one is.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    keep: int = 2,
    best_metric: str | None = None,
    best_mode: str = 'max',
  ):
    validate.positive_int(keep=keep)
    validate.one_of(('max', 'min'), best_mode=best_mode)
    self.path = pathlib.Path(path).absolute()
    self._keep = keep
    self._best_metric = best_metric
    self._sign = 1 if best_mode == 'max' else -1
    self._records: dict[int, dict[str, Any]] = {}  # by round, as read
    # Of several processes the first saves and restores, as if it were alone:
    # no barrier of Orbax, and no directory that all hosts see, is needed.
    alone = ocp.options.MultiprocessingOptions(
      primary_host=0, active_processes={0}
    )
    self._orbax = ocp.Checkpointer(
      ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
      ),
      multiprocessing_options=alone,
    )

  def rounds(self) -> list[int]:
    """Returns the rounds with a complete checkpoint, in ascending order."""
    if not self.path.is_dir():
      return []
    return sorted(int(p.name) for p in self.path.iterdir() if p.name.isdigit())

  def best_round(self) -> int | None:
    """Returns the round with the best `best_metric`, or None."""
    return self._best()[1]

  def is_best(self, metrics: Mapping[str, float]) -> bool:
    """Returns whether `metrics` beat those of every checkpoint kept."""
    score = self._score(metrics)
    return score is not None and score > self._best()[0]

  def save(
    self,
    round_number: int,
    state: Any,
    *,
    metrics: Mapping[str, float] | None = None,
    extra: Mapping[str, Any] | None = None,
  ) -> None:
    """Saves `state` and returns when it is on disk; a saved round is kept.

    Args:
      round_number: how many rounds the state has behind it.
      state: a pytree of arrays.
      metrics: what `best_metric` is looked up in.
      extra: JSON values to find again in `Restored.extra`.

    Raises:
      DiskFullError: the disk is full; earlier checkpoints are as they were.
    """
    if round_number in self.rounds():
      return
    named = leaves.named_leaves(state)
    record = {
      'round': round_number,
      'metrics': dict(metrics or {}),
      'extra': dict(extra or {}),
      'leaves': {name: leaves.describe(leaf) for name, leaf in named.items()},
    }
    arrays = {
      name: jax.random.key_data(leaf) if leaves.is_key(leaf) else leaf
      for name, leaf in named.items()
      if leaf.size  # Orbax refuses arrays without elements
    }
    if jax.process_count() > 1:  # it refuses one process's arrays among several
      arrays = jax.tree.map(np.asarray, arrays)
    path = self.path / str(round_number)
    self.path.mkdir(parents=True, exist_ok=True)
    disk.check_room(path, sum(leaf.nbytes for leaf in arrays.values()))
    with disk.full_disk_named(path), _quiet():
      try:
        self._orbax.save(
          path,
          args=ocp.args.Composite(
            state=ocp.args.PyTreeSave(arrays),
            record=ocp.args.JsonSave(record),
          ),
        )
      except BaseException:
        self.clean()  # frees the room that the unfinished one takes
        raise
    self._delete_old()

  def restore(self, target: Any, round_number: int | None = None) -> Restored:
    """Reads a checkpoint into the structure of `target`.

    Args:
      target: a tree of arrays or `jax.ShapeDtypeStruct`, as the saved one was;
        leaves committed to devices, or with a `sharding`, are placed there.
      round_number: which one to read; None for the last.

    Returns:
      The checkpoint.

    Raises:
      InputError: there is none, it cannot be read, or it is of another state.
    """
    rounds = self.rounds()
    if not rounds or round_number not in (None, *rounds):
      which = '' if round_number is None else f' of round {round_number}'
      raise InputError(f'Found no checkpoint{which} in {self.path}.')
    round_number = rounds[-1] if round_number is None else round_number
    record = self._record(round_number)
    path = self.path / str(round_number)
    wanted = leaves.named_leaves(target)
    if difference := leaves.first_difference(wanted, record['leaves']):
      raise InputError(
        f'The checkpoint {path} is of another model or configuration: '
        f'{difference}.'
      )
    names = [name for name, leaf in wanted.items() if leaf.size]
    # Read as NumPy arrays: the devices of the saving run may not be here.
    arrays = self._read(
      path,
      state=ocp.args.PyTreeRestore(
        dict.fromkeys(names, 0),
        restore_args={
          name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names
        },
      ),
    )
    state = [
      _place(arrays.get(name), leaf, record['leaves'][name])
      for name, leaf in wanted.items()
    ]
    return Restored(
      jax.tree.unflatten(jax.tree.structure(target), state),
      round_number,
      record['metrics'],
      record['extra'],
    )

  def clean(self) -> None:
    """Removes what a killed run left half written or half deleted."""
    if self.path.is_dir():
      for leftover in self.path.iterdir():
        if re.fullmatch(r'\d+\.(orbax-checkpoint-tmp.*|old)', leftover.name):
          shutil.rmtree(leftover, ignore_errors=True)

  def _delete_old(self) -> None:
    rounds = self.rounds()
    for old in set(rounds[: -self._keep]) - {self.best_round()}:
      # Renamed first: a kill while deleting leaves no half of a checkpoint.
      doomed = (self.path / str(old)).rename(self.path / f'{old}.old')
      shutil.rmtree(doomed, ignore_errors=True)

  def _best(self) -> tuple[float, int | None]:
    """Returns the best score of the checkpoints kept, and its round."""
    best: tuple[float, int | None] = (-math.inf, None)
    if self._best_metric is None:
      return best
    for round_number in self.rounds():
      score = self._score(self._record(round_number)['metrics'])
      if score is not None and score > best[0]:
        best = (score, round_number)
    return best

  def _score(self, metrics: Mapping[str, float]) -> float | None:
    value = metrics.get(self._best_metric or '')
    return None if value is None else self._sign * value

  def _record(self, round_number: int) -> dict[str, Any]:
    if round_number not in self._records:
      path = self.path / str(round_number)
      record = self._read(path, record=ocp.args.JsonRestore())
      if not isinstance(record, dict) or 'leaves' not in record:
        raise InputError(f'{path} is not a checkpoint of fedjax_gen.')
      self._records[round_number] = record
    return self._records[round_number]

  def _read(self, path: pathlib.Path, **item: Any) -> Any:
    [name] = item
    try:
      with _quiet():
        found = self._orbax.restore(path, args=ocp.args.Composite(**item))
      return found[name]
    # Orbax has no exception of its own for a damaged checkpoint.
    except Exception as error:
      raise InputError(
        f'Cannot read the checkpoint {path}: it is damaged or not one of '
        'fedjax_gen. Delete it to go on from the one before.'
      ) from error


def _place(array: Any, target: Any, saved: Mapping[str, Any]) -> Any:
  """Puts a restored leaf where `target` wants it."""
  if array is None:  # without elements, hence not saved
    array = np.zeros(target.shape, target.dtype)
  if 'key_impl' in saved:
    array = jax.random.wrap_key_data(array, impl=saved['key_impl'])
  if jax.process_count() > 1:  # to be handed on, part by part
    return array
  is_free = isinstance(target, jax.Array) and not target.committed
  sharding = None if is_free else getattr(target, 'sharding', None)
  return jax.device_put(array, sharding)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Lets an error of Orbax reach the user once, as the exception raised."""
  verbosity, show = logging.get_verbosity(), sys.excepthook

  def show_main(*error):
    if threading.current_thread() is threading.main_thread():
      show(*error)

  # Orbax logs, with tracebacks, the very errors that it then raises; and when
  # one writer fails, the C++ threads of the others end in `sys.excepthook`.
  logging.set_verbosity(logging.FATAL)
  sys.excepthook = show_main
  try:
    yield
    sys.excepthook = show  # after an error some threads are still at it
  finally:
    logging.set_verbosity(verbosity)
