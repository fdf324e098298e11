"""Clients of a population on the host, one block at a time, with states."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.federated import blocks, sampling
from fedjax_gen.federated.algorithm import ClientInfo, ClientProgram
from fedjax_gen.federated.blocks import Block
from fedjax_gen.federated.execution import cohorts, init
from fedjax_gen.streaming import gathering
from fedjax_gen.streaming.row_files import RowFiles
from fedjax_gen.types import Array, Key, Tree

_BLOCK_BYTES = 2**26  # of rows and examples


class Fleet(NamedTuple):
  """One fleet of a population on the host.

  Attributes:
    program: of its clients.
    init_key: its key of `init.init_keys`.
    data: its clients.
    file: what they keep.
  """

  program: ClientProgram
  init_key: Key
  data: FederatedDataset
  file: RowFiles

  def blocks(
    self,
    table: np.ndarray,
    rows: np.ndarray | None = None,
    *,
    size: int = 0,
    examples: bool = True,
    kept: bool = True,
  ) -> Iterator[Block]:
    """See `blocks.Blocks`.

    Args:
      table: `[N]` the population, see `RowFiles`.
      rows: which clients; everyone by default.
      size: clients at a time; by default as many as hold 64 MiB.
      examples: whether to bring their examples.
      kept: whether to bring what they keep.
    """
    if rows is None:
      rows = np.arange(self.data.num_clients)
    size = min(size or self._block_size(), len(rows))
    for start in range(0, len(rows), size):
      part = np.asarray(rows[start : start + size], np.int32)
      padded = np.pad(part, (0, size - len(part)), 'edge')
      data = self._data(padded, len(part), examples=examples)
      infos = cohorts.everyones_infos(data, jnp.asarray(padded))
      own = self._kept(table, padded, infos) if kept else ()
      yield Block(infos, data, own, len(part))

  def _block_size(self) -> int:
    examples = self.data.max_size * self.data.inputs[:1].nbytes
    one = trees.num_bytes(one_client(self.program)) + examples
    return max(1, _BLOCK_BYTES // one)

  def _data(self, rows, count, *, examples):
    """The clients at rows; those beyond the count hold nothing."""
    if not examples:
      return gathering.clients_only(blocks.subset(self.data, rows))
    present: Any = np.arange(len(rows)) < count
    most = gathering.most_examples(self.data, len(rows))
    cohort = sampling.Cohort(rows, present, present)
    return gathering.gather(self.data, cohort, most).on_device()

  def _kept(self, table, rows, infos):
    is_new = jnp.asarray(table[rows] == 0)
    read = self.file.read(table, rows)
    return _begin(self.program, self.init_key, infos, is_new, read)


def begun(
  program: ClientProgram,
  init_key: Key,
  infos: ClientInfo,
  is_new: Array,
  kept: Tree,
) -> Tree:
  """What clients keep, begun as `rounds.init_state` would where new."""

  def begin(member):
    info, is_new, kept = member
    return jax.lax.cond(
      is_new,
      lambda: init.init_client(program, init_key, info),
      lambda: kept,
    )

  return jax.lax.map(begin, (infos, is_new, kept))


_begin = jax.jit(begun, static_argnums=0)


def one_client(program: ClientProgram) -> Tree:
  """Shapes of what one client keeps."""
  info = ClientInfo(
    row=jnp.int32(0),
    group=jnp.int32(0),
    num_examples=jnp.int32(0),
    weight=jnp.float32(0),
    present=jnp.bool_(True),
  )
  return jax.eval_shape(program.init, jax.random.key(0), info)
