"""Tiny ImageNet's own tree, with the faults that real copies of it have."""

import numpy as np
from PIL import Image
import pytest

from fedjax_gen.data import sources
from fedjax_gen.errors import InputError

WORDS = {
  'n01': 'goldfish, Carassius auratus',
  'n02': 'crane',
  'n03': 'crane',
  'n99': 'entity',
}
COLOURS = {'n01': (200, 0, 0), 'n02': (0, 200, 0), 'n03': (0, 0, 200)}


def put(path, colour, *, mode='RGB', size=64):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', (size, size), colour).convert(mode).save(path)


def write(root):
  """Writes the archive, two train pictures and one of val in each class."""
  lines = []
  for number, (wnid, colour) in enumerate(COLOURS.items()):
    for index in range(2):
      put(root / f'train/{wnid}/images/{wnid}_{index}.JPEG', colour)
    (root / f'train/{wnid}/{wnid}_boxes.txt').write_text('x.JPEG\t0\t0\t9\t9')
    put(root / f'val/images/val_{number}.JPEG', colour)
    lines.append(f'val_{number}.JPEG\t{wnid}\t0\t0\t9\t9\n')
  put(root / 'test/images/test_0.JPEG', (9, 9, 9))
  # In another order than the names of folders, as in the original.
  (root / 'val/val_annotations.txt').write_text(''.join(lines[::-1]))
  (root / 'wnids.txt').write_text('n03\nn01\nn02\n')
  (root / 'words.txt').write_text(
    ''.join(f'{wnid}\t{word}\n' for wnid, word in WORDS.items())
  )
  return root


@pytest.fixture(autouse=True)
def _only_data_dir(monkeypatch):
  monkeypatch.delenv('FEDJAX_GEN_DATA', raising=False)


@pytest.mark.parametrize('place', ['tiny-imagenet-200', 'tiny_imagenet', ''])
def test_the_archive_is_found_by_name_and_by_path(tmp_path, place):
  root = write(tmp_path / place)
  source = sources.load('tiny_imagenet', data_dir=str(tmp_path))
  by_path = sources.load(str(root))
  assert (source.name, by_path.name) == ('tiny_imagenet', str(root))
  for found in (source, by_path):
    assert found.class_names == ('goldfish', 'crane (n02)', 'crane (n03)')
    np.testing.assert_array_equal(found.train.labels, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(found.test.labels, [2, 1, 0])
    assert found.train.inputs.shape == (6, 64, 64, 3)
    for part in (found.train, found.test):
      colours = np.array(list(COLOURS.values()))[part.labels]
      np.testing.assert_allclose(part.inputs[:, 32, 32], colours, atol=3)
    # Files of boxes are no faults, and not worth a note.
    assert found.notes == ('train and val are the splits; not used: test',)


def test_pictures_become_rgb_of_one_size(tmp_path):
  write(tmp_path)
  for wnid in COLOURS:
    for index in range(2):
      file = f'train/{wnid}/images/{wnid}_{index}.JPEG'
      put(tmp_path / file, (100, 100, 100), mode='L', size=64 - 8 * index)
  source = sources.load('tiny_imagenet', data_dir=str(tmp_path))
  assert source.train.inputs.shape == (6, 64, 64, 3)
  assert (abs(source.train.inputs.astype(int) - 100) < 4).all()
  assert any('all brought to RGB' in note for note in source.notes)
  assert any('2 sizes' in note for note in source.notes)
  for file in tmp_path.rglob('*.JPEG'):
    put(file, (7, 7, 7), mode='L')
  small = sources.load('tiny_imagenet', data_dir=str(tmp_path), image_size=16)
  assert small.input_shape == (16, 16, 3)


def test_broken_and_absent_pictures_are_named_and_skipped(tmp_path):
  write(tmp_path)
  cut = tmp_path / 'train/n02/images/n02_0.JPEG'
  cut.write_bytes(cut.read_bytes()[:300])
  (tmp_path / 'val/images/val_1.JPEG').unlink()
  source = sources.load(str(tmp_path))
  np.testing.assert_array_equal(source.train.labels, [0, 0, 1, 2, 2])
  np.testing.assert_array_equal(source.test.labels, [2, 0])
  (note,) = [note for note in source.notes if 'skipped' in note]
  assert '2 files' in note and 'n02_0.JPEG' in note and 'val_1.JPEG' in note


def test_a_half_unpacked_archive_is_noticed(tmp_path):
  write(tmp_path)
  for file in ('train/n03/images/n03_0.JPEG', 'train/n03/images/n03_1.JPEG'):
    (tmp_path / file).unlink()
  put(tmp_path / 'train/backup/old.JPEG', (1, 2, 3))
  (tmp_path / 'words.txt').unlink()
  source = sources.load(str(tmp_path))
  assert source.class_names == ('backup', 'n01', 'n02', 'n03')
  notes = ' '.join(source.notes)
  assert '1 of the 3 classes in wnids.txt have no train picture' in notes
  assert '1 classes are not in wnids.txt, the first is backup' in notes


def test_an_incomplete_folder_names_what_is_missing(tmp_path):
  root = write(tmp_path / 'tiny-imagenet-200')
  (root / 'val/val_annotations.txt').unlink()
  with pytest.raises(InputError, match='missing val/val_annotations.txt'):
    sources.load('tiny_imagenet', data_dir=str(tmp_path))


def test_without_files_the_error_says_where_it_looked(tmp_path):
  with pytest.raises(InputError, match='tiny-imagenet-200.*looked in') as error:
    sources.load('tiny_imagenet', data_dir=str(tmp_path))
  assert str(tmp_path) in str(error.value)
  assert 'TensorFlow Datasets does not have' in str(error.value)
