"""Checkpoints of a population in files: only changed rows are written.

Rows are written during the rounds, next to those that a checkpoint knows and
never over them (`streaming.row_files`). So a checkpoint is the server's state
and one byte for each client, saved like any other, whole or not at all. A run
that is killed at any moment finds the rows of its last checkpoint unchanged.
"""

from collections.abc import Mapping, Sequence
import os
from typing import Any, Protocol

from fedjax_gen.running.storage.checkpoints import Checkpoints, Restored
from fedjax_gen.types import Tree


class Population(Protocol):
  """What `streaming.streamed.StreamedRunner` is here."""

  def flush(self) -> None:
    """Returns when all rows written have reached the disk."""

  def keep(self, populations: Sequence[tuple[Tree, ...]]) -> None:
    """Says which rows not to overwrite: the `fleets` of states."""


class PopulationCheckpoints(Checkpoints):
  """`Checkpoints` of states with `fleets` that say where in files rows lie.

  Args:
    path: the directory of the checkpoints.
    population: the rows; it is told which checkpoints there are.
    **policy: of `Checkpoints`.
  """

  def __init__(
    self, path: str | os.PathLike, population: Population, **policy: Any
  ):
    super().__init__(path, **policy)
    self._population = population
    self._known: dict[int, tuple[Tree, ...]] = {}  # fleets by round

  def save(
    self,
    round_number: int,
    state: Any,
    *,
    metrics: Mapping[str, float] | None = None,
    extra: Mapping[str, Any] | None = None,
  ) -> None:
    """As `Checkpoints.save`, once the rows are on disk."""
    if round_number in self.rounds():
      return
    self._population.flush()
    super().save(round_number, state, metrics=metrics, extra=extra)
    self._known[round_number] = state.fleets
    self._keep_known()

  def restore(self, target: Any, round_number: int | None = None) -> Restored:
    """As `Checkpoints.restore`; from here on no checkpoint's row is lost."""
    restored = super().restore(target, round_number)
    for other in set(self.rounds()) - set(self._known):
      self._known[other] = super().restore(target, other).state.fleets
    self._keep_known()
    return restored

  def _keep_known(self) -> None:
    there = self.rounds()
    self._known = {r: f for r, f in self._known.items() if r in there}
    self._population.keep(list(self._known.values()))
