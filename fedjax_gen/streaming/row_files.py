"""What the clients of a population keep, in files with a row for each client.

A row that a checkpoint knows is never overwritten: the next state of its client
goes into another copy of the file, and a table says for each client which copy
is current. So a table is a whole population at one moment, a checkpoint needs
one byte for each client, and between two checkpoints only changed rows are
written.
"""

from collections.abc import Iterator, Sequence
import errno
import os
import pathlib

import jax
import numpy as np

from fedjax_gen import files
from fedjax_gen.errors import InputError
from fedjax_gen.types import Tree


class RowFiles:
  """Rows of one population in memory-mapped `.npy` files.

  A file is one copy, `[N]` records of all leaves: what a client keeps lies in
  one place. It has holes where nothing was ever written, and is mapped anew for
  every call, so that pages do not stay resident: what is in memory is what a
  call reads or writes.

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
    self._record = np.dtype(
      [
        (f'leaf_{i:03d}', np.dtype(leaf.dtype), leaf.shape)
        for i, leaf in enumerate(leaves)
      ]
    )
    self._names = self._record.names or ()
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
      rows: `[k]` numbers of the clients.
      wanted: `[k]` bool, False where zeros will do.

    Raises:
      InputError: a file is missing or of another population.
    """
    copies = np.where(wanted, table[rows], 0)
    records = np.zeros(len(rows), self._record)
    for copy, chosen in _by_copy(copies):
      file = self._open(copy, len(table))
      records[chosen] = file[rows[chosen]].view(self._record)
    return jax.tree.unflatten(
      self._structure,
      [np.ascontiguousarray(records[name]) for name in self._names],
    )

  def mapped(self, num_clients: int) -> Tree:
    """All rows of the first copy, leaves `[N, ...]` that are read when used.

    Raises:
      InputError: the file is missing or of another population.
    """
    records = self._open(1, num_clients).view(self._record)
    return jax.tree.unflatten(
      self._structure, [records[name] for name in self._names]
    )

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
      OSError: the disk is full.
    """
    if not self._names:
      return table
    records = np.zeros(len(rows), self._record)
    for name, value in zip(self._names, jax.tree.leaves(values), strict=True):
      records[name] = value
    copies = self._free_copies(rows)
    for copy, chosen in _by_copy(copies):
      self._write_records(copy, len(table), rows[chosen], records[chosen])
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

  def _write_records(self, copy, num_clients, rows, records):
    """Writes with one call of the system for each row.

    Through a map every new page would be a fault that waits for the file
    system to find room for it, one by one (measured: docs/scale.md), and a full
    disk would end the process.
    """
    self._make(copy, num_clients)
    first = self._open(copy, num_clients).offset
    size = self._record.itemsize
    with self._path(copy).open('r+b', buffering=0) as file:
      for row, record in zip(
        rows.tolist(), records.view(np.uint8).reshape(-1, size), strict=True
      ):
        if os.pwrite(file.fileno(), record, first + row * size) != size:
          raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
    self._unsynced.add(self._path(copy))

  def _path(self, copy: int) -> pathlib.Path:
    return self._folder / f'copy_{copy}.npy'

  def _make(self, copy: int, num_clients: int) -> None:
    if not self._path(copy).exists():
      with files.replacing(self._path(copy)) as unfinished:
        np.lib.format.open_memmap(
          unfinished, 'w+', self._record, (num_clients,)
        )

  def _open(self, copy: int, num_clients: int) -> np.memmap:
    """The file of one copy, mapped to be read."""
    path = self._path(copy)
    try:
      file = np.load(path, mmap_mode='r')
    except (OSError, ValueError) as error:
      raise InputError(
        f'Cannot read what clients keep from {path}: {error}.'
      ) from error
    # By size: of types that NumPy has no name for, bfloat16, it knows no more.
    found = (len(file), file.dtype.itemsize)
    if found != (num_clients, self._record.itemsize):
      raise InputError(
        f'Expected {path} to hold {num_clients} rows of '
        f'{self._record.itemsize} bytes, found {found[0]} of {found[1]}: it is '
        'of another population.'
      )
    return file


def _by_copy(copies: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """Each copy above zero, and the places that name it."""
  for copy in np.unique(copies[copies > 0]):
    yield int(copy), np.flatnonzero(copies == copy)
