"""A grouping written and read is the grouping, and nothing else is one."""

import chex
import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.federated.statistics import grouping as grouping_lib
from fedjax_gen.running.storage import groupings

_STATISTICS = np.array([[5.0, 0.0], [0.125, 0.0], [5.25, 0.0], [0.0, 0.0]])


def _found():
  return grouping_lib.discover(_STATISTICS, 2)


def test_a_newcomer_finds_its_group_from_the_file(tmp_path):
  found = _found()
  groupings.save_grouping(tmp_path / 'grouping.npz', found)
  loaded = groupings.load_grouping(tmp_path / 'grouping.npz')
  assert isinstance(loaded, grouping_lib.Grouping)
  chex.assert_trees_all_equal(loaded, found)
  assert loaded.groups.dtype == np.int32
  assert loaded.num_groups == 2
  newcomers = np.array([[0.5, 0.0], [4.0, 0.0]])
  np.testing.assert_array_equal(grouping_lib.assign(loaded, newcomers), [1, 0])


def test_a_grouping_that_cannot_be_written_leaves_the_older_one(
  tmp_path, monkeypatch
):
  path = tmp_path / 'grouping.npz'
  groupings.save_grouping(path, _found())
  before = path.read_bytes()

  def fail(file, **arrays):
    file.write(b'half')
    raise OSError('no room')

  monkeypatch.setattr(np, 'savez_compressed', fail)
  with pytest.raises(OSError, match='no room'):
    groupings.save_grouping(path, _found())
  assert path.read_bytes() == before
  assert [file.name for file in tmp_path.iterdir()] == ['grouping.npz']


def _missing(path):
  pass


def _folder(path):
  path.mkdir()


def _text(path):
  path.write_text('groups: 0 1 0 1')


def _empty(path):
  path.write_bytes(b'')


def _cut(path):
  groupings.save_grouping(path, _found())
  path.write_bytes(path.read_bytes()[:200])


def _flipped(path):
  groupings.save_grouping(path, _found())
  data = bytearray(path.read_bytes())
  data[60:80] = bytes(20)
  path.write_bytes(data)


def _other_arrays(path):
  np.savez(path, groups=np.zeros(3))


def _one_array(path):
  with path.open('wb') as file:
    np.save(file, np.zeros(3))


def _pickled(path):
  objects = np.array([{}], object)
  np.savez(path, groups=objects, centroids=objects, shift=objects, scale=1)


@pytest.mark.parametrize(
  'damage',
  [
    _missing, _folder, _text, _empty, _cut, _flipped, _other_arrays,
    _one_array, _pickled,
  ],
)  # fmt: skip
def test_what_is_no_grouping_is_named(tmp_path, damage):
  path = tmp_path / 'grouping.npz'
  damage(path)
  with pytest.raises(InputError, match=r'grouping\.npz to hold a grouping'):
    groupings.load_grouping(path)
