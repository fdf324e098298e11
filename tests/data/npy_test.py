"""Folders of npy files are what the same arrays in an npz file are."""

import tracemalloc

import numpy as np
import pytest

from fedjax_gen.data import sources
from fedjax_gen.errors import InputError
from tests.data.npz_test import KERAS


def _save(folder, **arrays):
  folder.mkdir(exist_ok=True)
  for name, array in arrays.items():
    np.save(folder / f'{name}.npy', array)
  return str(folder)


def test_a_folder_reads_as_the_npz_file_would(tmp_path):
  users = {'users_train': np.arange(10) % 3, 'users_test': np.zeros(4, int)}
  np.savez(tmp_path / 'data.npz', **KERAS, **users)
  expected = sources.load(str(tmp_path / 'data.npz'))
  source = sources.load(_save(tmp_path / 'data', **KERAS, **users, other=1))
  for part, expected_part in zip(
    (source.train, source.test), (expected.train, expected.test), strict=True
  ):
    np.testing.assert_array_equal(part.inputs, expected_part.inputs)
    np.testing.assert_array_equal(part.labels, expected_part.labels)
    np.testing.assert_array_equal(part.users, expected_part.users)


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_inputs_stay_in_their_file(tmp_path, dtype):
  inputs = np.zeros((10_000, 900), dtype)
  if dtype == np.uint8:
    inputs = inputs.reshape(-1, 30, 30, 1)
  labels = np.zeros(len(inputs), np.int32)
  path = _save(
    tmp_path / 'data', x_train=inputs, y_train=labels, x_test=inputs[:2],
    y_test=labels[:2],
  )  # fmt: skip
  tracemalloc.start()
  source = sources.load(path)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert isinstance(source.train.inputs, np.memmap)
  assert peak < inputs.nbytes / 2


def test_what_cannot_be_read_is_named(tmp_path):
  path = _save(tmp_path / 'data', **KERAS)
  (tmp_path / 'data' / 'y_train.npy').write_bytes(b'no array')
  with pytest.raises(InputError, match=r'y_train\.npy'):
    sources.load(path)
  _save(tmp_path / 'data', y_train=np.arange(9))
  with pytest.raises(InputError, match=r"'y_train'.*\[10\]"):
    sources.load(path)
