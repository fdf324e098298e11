"""A full disk is named before and after it is met."""

import errno
import os

import pytest

from fedjax_gen.running.storage import disk


def test_room_for_a_file_is_checked_without_writing_it(tmp_path):
  path = tmp_path / 'state'
  disk.check_room(path, 1)
  with pytest.raises(disk.DiskFullError, match=f'{path}.*run the same command'):
    disk.check_room(path, 2**60)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'error',
  [
    OSError(errno.ENOSPC, 'full'),
    OSError(errno.EDQUOT, 'over quota'),
    ValueError(f'RESOURCE_EXHAUSTED: {os.strerror(errno.ENOSPC)}'),
  ],
)
def test_a_full_disk_is_recognised_however_it_is_told(error):
  with (
    pytest.raises(disk.DiskFullError, match='/here'),
    disk.full_disk_named('/here'),
  ):
    raise error


def test_other_errors_pass():
  with pytest.raises(ValueError, match='mine'), disk.full_disk_named('/here'):
    raise ValueError('mine')
