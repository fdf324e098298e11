"""Rows come back as written, and those of kept populations stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.streaming import row_files
from fedjax_gen.streaming.row_files import RowFiles

_CLIENT = {
  'w': jax.ShapeDtypeStruct((2, 3), jnp.float32),
  'half': jax.ShapeDtypeStruct((), jnp.bfloat16),
  'flag': jax.ShapeDtypeStruct((4,), jnp.bool_),
}


def _values(rng, count):
  return {
    'w': rng.normal(size=(count, 2, 3)).astype(np.float32),
    'half': rng.normal(size=count).astype(jnp.bfloat16),
    'flag': rng.random((count, 4)) < 0.5,
  }


def _assert_same(left, right):
  jax.tree.map(np.testing.assert_array_equal, left, right)
  assert [a.dtype for a in jax.tree.leaves(left)] == [
    a.dtype for a in jax.tree.leaves(right)
  ]


def _by_hand(population, rows, values):
  """A population in memory after rows were written."""
  population = jax.tree.map(np.copy, population)
  for leaf, value in zip(
    jax.tree.leaves(population), jax.tree.leaves(values), strict=True
  ):
    leaf[rows] = value
  return population


def test_populations_kept_stay_whatever_is_written(tmp_path):
  rng = np.random.default_rng(0)
  files, everyone = RowFiles(tmp_path, _CLIENT), np.arange(20)
  table = np.zeros(20, np.uint8)
  population = files.read(table, everyone)
  kept = []
  for step in range(60):
    rows = rng.choice(20, rng.integers(1, 20), replace=False)
    values = _values(rng, len(rows))
    table = files.write(table, rows, values)
    population = _by_hand(population, rows, values)
    if step % 4 == 0:
      kept = [*kept, (table, population)][-3:]
      files.keep([table for table, _ in kept])
    for table_then, population_then in [*kept, (table, population)]:
      _assert_same(files.read(table_then, everyone), population_then)
  # One copy for each population kept and one to write: bounded.
  assert len(list(tmp_path.iterdir())) == 4
  # What another process finds is the same.
  _assert_same(RowFiles(tmp_path, _CLIENT).read(table, everyone), population)


def test_a_table_kept_with_a_high_copy_leaves_others_free(tmp_path):
  files, table = RowFiles(tmp_path, np.zeros(2, np.float32)), np.zeros(3)
  tables = [np.full(3, copy, np.uint8) for copy in (1, 2, 3)]
  files.keep(tables)
  assert set(files.write(table.astype(np.uint8), np.arange(3), np.ones((3, 2)))
             ) == {4}  # fmt: skip
  files.keep(tables[2:])
  written = files.write(tables[2], np.array([1]), np.full((1, 2), 5.0))
  assert written.tolist() == [3, 1, 3]


def test_only_wanted_rows_are_read_and_the_rest_are_zeros(tmp_path):
  files = RowFiles(tmp_path, np.zeros(2, np.float32))
  table = np.zeros(5, np.uint8)
  table = files.write(table, np.array([1, 3]), np.ones((2, 2), np.float32))
  rows = files.read(table, np.array([0, 1, 3]), np.array([True, True, False]))
  assert rows.tolist() == [[0, 0], [1, 1], [0, 0]]


def test_untouched_rows_take_no_room(tmp_path):
  files = RowFiles(tmp_path, np.zeros(1000, np.float32))
  table = np.zeros(100_000, np.uint8)
  files.write(table, np.arange(10), np.ones((10, 1000), np.float32))
  [file] = tmp_path.iterdir()
  assert file.stat().st_size > 400e6
  assert file.stat().st_blocks * 512 < 1e6


def test_clients_that_keep_nothing_need_no_files(tmp_path):
  files, table = RowFiles(tmp_path / 'none', ()), np.zeros(3, np.uint8)
  assert files.write(table, np.arange(3), ()) is table
  assert files.read(table, np.arange(3)) == ()
  assert not (tmp_path / 'none').exists()


def test_what_cannot_be_read_is_named(tmp_path):
  files = RowFiles(tmp_path, np.zeros(2, np.float32))
  table = files.write(np.zeros(3, np.uint8), np.arange(3), np.ones((3, 2)))
  with pytest.raises(InputError, match='4 rows of 8 bytes, found 3 of 8'):
    files.read(np.ones(4, np.uint8), np.arange(4))
  with pytest.raises(InputError, match='copy_2.npy'):
    files.read(table + 1, np.arange(3))


def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
  files = RowFiles(tmp_path, np.zeros(2, np.float32))
  # What the system does when there is room for a part.
  monkeypatch.setattr(
    row_files.os, 'pwrite', lambda file, data, offset: len(data) // 2
  )
  with pytest.raises(OSError, match='No space left'):
    files.write(np.zeros(3, np.uint8), np.arange(3), np.ones((3, 2)))
