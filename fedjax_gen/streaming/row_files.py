"""What the clients of a population keep, in files, a row for each client.

A row that a checkpoint knows is never written over: what its client keeps next
goes into another copy of the file, and a table says for each client which copy
is its own. So a table is a whole population at one moment, a checkpoint holds
one byte for each client, and what is written between two checkpoints is the
rows that changed.
"""

from collections.abc import Iterator, Sequence
import errno
import math
import os
import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from fedjax_gen import files
from fedjax_gen.errors import InputError
from fedjax_gen.types import Tree

_PAGE = 4096  # bytes; a file grows by as much at least


class RowFiles:
  """Rows of one population in memory-mapped `.npy` files.

  There is a file for each leaf and copy, `[N, ...]`, with holes where nothing
  was ever written. A file is mapped anew for every call, so that pages do not
  stay resident: what is in memory is what a call reads or writes.

  Tables are `[N]` uint8: 0 for a client that never wrote a row, else the copy
  that holds its row. One process at a time may write.

  Args:
    folder: where the files lie; made by the first write.
    client: what ONE client keeps, arrays or their structs.

  Raises:
    InputError: a leaf holds random keys, which have no bytes.
  """

  def __init__(self, folder: str | os.PathLike, client: Tree):
    leaves, self._structure = jax.tree.flatten(client)
    for leaf in leaves:
      if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        raise InputError(
          'Expected clients to keep numbers where their states lie in files, '
          f'got keys of type {leaf.dtype}.'
        )
    self._leaves = [(leaf.shape, np.dtype(leaf.dtype)) for leaf in leaves]
    self._folder = pathlib.Path(folder)
    self._kept: tuple[np.ndarray, ...] = ()
    self._unsynced: set[pathlib.Path] = set()

  def read(
    self,
    table: np.ndarray,
    rows: np.ndarray,
    wanted: np.ndarray | bool = True,
  ) -> Tree:
    """Rows as NumPy arrays, leaves `[k, ...]`; zeros for the never written.

    Args:
      table: `[N]` the population.
      rows: `[k]` whose.
      wanted: `[k]` bool, False where zeros will do.

    Raises:
      InputError: a file is missing or of another population.
    """
    copies = np.where(wanted, table[rows], 0)
    values = [np.zeros((len(rows), *s), dtype) for s, dtype in self._leaves]
    for copy, chosen in _by_copy(copies):
      for leaf, value in enumerate(values):
        # Types that NumPy has no name for, bfloat16, come back as bytes.
        value[chosen] = self._open(leaf, copy, len(table), 'r')[
          rows[chosen]
        ].view(value.dtype)
    return jax.tree.unflatten(self._structure, values)

  def write(
    self, table: np.ndarray, rows: np.ndarray, values: Tree
  ) -> np.ndarray:
    """Writes rows, and returns the table of the population that has them.

    The table given is no longer valid, unless it is one that `keep` was told.

    Args:
      table: `[N]` the population.
      rows: `[k]` distinct clients.
      values: leaves `[k, ...]`.

    Raises:
      InputError: a file is of another population.
      OSError: the disk is full. (A write through a map would end the process.)
    """
    if not self._leaves:
      return table
    self._check_room(len(rows))
    copies = self._free_copies(rows)
    for copy, chosen in _by_copy(copies):
      for leaf, value in enumerate(jax.tree.leaves(values)):
        file = self._open(leaf, copy, len(table), 'r+')
        value = np.asarray(value, self._leaves[leaf][1])
        file[rows[chosen]] = value[chosen].view(file.dtype)
        self._unsynced.add(self._path(leaf, copy))
    table = table.copy()
    table[rows] = copies
    return table

  def keep(self, tables: Sequence[np.ndarray]) -> None:
    """Says which populations to keep, those of checkpoints; no others stay."""
    self._kept = tuple(np.asarray(table) for table in tables)

  def flush(self) -> None:
    """Returns when all that was written has reached the disk."""
    for path in self._unsynced:
      with path.open('rb') as file:
        os.fsync(file.fileno())
    self._unsynced.clear()

  def _free_copies(self, rows: np.ndarray) -> np.ndarray:
    """`[k]` for each row the first copy that no table kept has it in."""
    # Of one copy more than there are tables one is free.
    taken = np.zeros((len(rows), len(self._kept) + 2), bool)
    taken[:, 0] = True
    for table in self._kept:
      copies = table[rows]
      known = copies < taken.shape[1]
      taken[np.flatnonzero(known), copies[known]] = True
    return taken.argmin(axis=1).astype(np.uint8)

  def _path(self, leaf: int, copy: int) -> pathlib.Path:
    return self._folder / f'leaf_{leaf:03d}.copy_{copy}.npy'

  def _open(
    self, leaf: int, copy: int, num_clients: int, mode: Any
  ) -> np.ndarray:
    """The file of one leaf and copy, mapped; made if it is to be written."""
    path = self._path(leaf, copy)
    shape, dtype = self._leaves[leaf]
    if mode == 'r+' and not path.exists():
      with files.replacing(path) as unfinished:
        np.lib.format.open_memmap(
          unfinished, 'w+', dtype, (num_clients, *shape)
        )
    try:
      file = np.load(path, mmap_mode=mode)
    except (OSError, ValueError) as error:
      raise InputError(
        f'Cannot read what clients keep from {path}: {error}.'
      ) from error
    if file.shape != (num_clients, *shape) or (
      file.dtype.itemsize != dtype.itemsize
    ):
      raise InputError(
        f'Expected {path} to hold {dtype}{[num_clients, *shape]}, found '
        f'{file.dtype}{list(file.shape)}: it is of another population.'
      )
    return file

  def _check_room(self, num_rows: int) -> None:
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in self._leaves]
    self._folder.mkdir(parents=True, exist_ok=True)
    needed = num_rows * sum(size + 2 * _PAGE for size in sizes)
    if shutil.disk_usage(self._folder).free < needed:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))


def _by_copy(copies: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """Each copy above zero, and the places that name it."""
  for copy in np.unique(copies[copies > 0]):
    yield int(copy), np.flatnonzero(copies == copy)
