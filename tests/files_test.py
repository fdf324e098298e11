import pytest

from fedjax_gen import files


def test_failure_keeps_the_former_file_and_leaves_nothing_beside_it(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('former')
  with pytest.raises(OSError), files.replacing(path) as temporary:
    temporary.write_text('ha')
    raise OSError('disk full')
  assert path.read_text() == 'former'
  assert list(tmp_path.iterdir()) == [path]


def test_success_replaces_the_file_at_once(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('former')
  with files.replacing(path) as temporary:
    assert temporary.suffix == '.txt'
    temporary.write_text('new')
    assert path.read_text() == 'former'
  assert path.read_text() == 'new'
  assert list(tmp_path.iterdir()) == [path]
