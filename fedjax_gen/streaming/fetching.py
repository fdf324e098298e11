"""The cohort of a round, brought from the host to the device."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.federated import rounds, sampling
from fedjax_gen.federated.execution.cohorts import RunKeys, draw_cohorts
from fedjax_gen.federated.mapping import Mapping
from fedjax_gen.streaming import gathering
from fedjax_gen.streaming.row_files import RowFiles
from fedjax_gen.types import Array, Key, Tree


class Members(NamedTuple):
  """The clients of one cohort, on the device.

  Attributes:
    cohort: who they are.
    data: their examples, K clients.
    kept: what they keep, leaves `[K, ...]`.
    is_new: `[K]` bool, True for a client without a kept state.
  """

  cohort: sampling.Cohort
  data: FederatedDataset
  kept: Tree
  is_new: Array


class Fetched(NamedTuple):
  """What was brought of one fleet for one round.

  Attributes:
    cohort: the cohort, on the host.
    data: its clients' examples, on the device.
    kept: what they keep, leaves `[K, ...]`, on the host; zeros where `is_late`
      and where nothing is kept.
    is_late: `[K]` bool, clients that the round before has at work; their rows
      are not written yet.
  """

  cohort: sampling.Cohort
  data: FederatedDataset
  kept: Tree
  is_late: np.ndarray

  @property
  def present(self) -> np.ndarray:
    """Rows of the population that the round will write."""
    return np.asarray(self.cohort.row)[self.cohort.present]


class Fetcher:
  """Draws cohorts and brings them."""

  def __init__(
    self,
    datasets: Sequence[FederatedDataset],
    files: Sequence[RowFiles],
    samplers: Sequence[sampling.Sampler],
    mapping: Mapping,
  ):
    self._datasets, self._files, self._mapping = datasets, files, mapping
    self._clients = [gathering.clients_only(data) for data in datasets]
    self._draw = jax.jit(lambda *arguments: draw_cohorts(samplers, *arguments))
    cohorts = jax.eval_shape(self._draw, self._clients, jax.random.key(0), 0)
    self._num_examples = [
      gathering.most_examples(data, cohort.row.shape[0])
      for data, cohort in zip(datasets, cohorts, strict=True)
    ]

  def draw(
    self, number: int, key: Key | RunKeys
  ) -> tuple[sampling.Cohort, ...]:
    """Cohorts of the round after `number` rounds; does not wait for them."""
    return self._draw(self._clients, key, np.int32(number))

  def fetch(
    self,
    cohorts: Sequence[sampling.Cohort],
    tables: Sequence[np.ndarray],
    busy: Sequence[np.ndarray] | None = None,
  ) -> list[Fetched]:
    """Brings all that does not depend on clients that are at work.

    Args:
      cohorts: of each fleet.
      tables: of each fleet the population, before the busy write.
      busy: of each fleet the rows of clients at work; nobody's by default.
    """
    nobody = [np.zeros(0, np.int32)] * len(cohorts)
    return [
      self._fetch(*fleet)
      for fleet in zip(
        self._datasets, self._files, self._num_examples, cohorts, tables,
        busy or nobody, strict=True,
      )
    ]  # fmt: skip

  def complete(
    self, fetched: Sequence[Fetched], tables: Sequence[np.ndarray]
  ) -> list[Members]:
    """Adds the rows that are late, now that they are written.

    Args:
      fetched: what `fetch` returned, which is used up.
      tables: of each fleet the population after the busy wrote.
    """
    return [
      self._complete(*fleet)
      for fleet in zip(fetched, self._files, tables, strict=True)
    ]

  def _fetch(self, data, file, num_examples, cohort, table, busy):
    cohort = jax.tree.map(np.asarray, cohort)
    is_late = cohort.present & np.isin(cohort.row, busy)
    return Fetched(
      cohort,
      self._placed(gathering.gather(data, cohort, num_examples)),
      file.read(table, cohort.row, cohort.present & ~is_late),
      is_late,
    )

  def _complete(self, fetched, file, table):
    cohort, is_late = fetched.cohort, fetched.is_late

    def put(kept, late):
      kept[is_late] = late
      return kept

    late = file.read(table, cohort.row[is_late])
    kept = jax.tree.map(put, fetched.kept, late)
    # The absent are not begun: they keep what they will begin with.
    is_new = cohort.present & (table[cohort.row] == 0)
    cohort, kept, is_new = self._placed((cohort, kept, is_new))
    return Members(cohort, fetched.data, kept, is_new)

  def _placed(self, tree):
    return rounds.place(jax.tree.map(jnp.asarray, tree), self._mapping)
