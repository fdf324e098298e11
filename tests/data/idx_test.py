"""idx folders: what is read is what was written, and faults name the file."""

import gzip
import struct

import numpy as np
import pytest

from fedjax_gen.data import sources
from fedjax_gen.data.formats import idx
from fedjax_gen.errors import InputError

PIXELS = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2)
LABELS = np.array([0, 1, 1], np.uint8)


def encode(array):
  header = struct.pack(f'>BBBB{array.ndim}I', 0, 0, 8, array.ndim, *array.shape)
  return header + array.tobytes()


def write_folder(folder, *, packed=False, prefix=''):
  folder.mkdir(exist_ok=True)
  for split in ('train', 't10k'):
    for kind, array in (('images-idx3', PIXELS), ('labels-idx1', LABELS)):
      data = encode(array)
      name = f'{prefix}{split}-{kind}-ubyte' + ('.gz' if packed else '')
      (folder / name).write_bytes(gzip.compress(data) if packed else data)
  return folder


@pytest.mark.parametrize('packed', [False, True])
def test_folder_is_read_unchanged(tmp_path, packed):
  source = sources.load(str(write_folder(tmp_path / 'a', packed=packed)))
  np.testing.assert_array_equal(source.train.inputs[..., 0], PIXELS)
  np.testing.assert_array_equal(source.test.labels, LABELS)
  assert source.input_shape == (2, 2, 1)
  assert source.class_names == ('0', '1')


def test_gzip_is_known_by_content_and_not_by_name(tmp_path):
  file = tmp_path / 'train-images-idx3-ubyte'
  file.write_bytes(gzip.compress(encode(PIXELS)))
  np.testing.assert_array_equal(idx.read_array(file, rank=3), PIXELS)


def test_emnist_is_turned_upright(tmp_path):
  folder = write_folder(tmp_path / 'emnist', prefix='emnist-balanced-')
  source = sources.load('emnist', data_dir=str(tmp_path))
  np.testing.assert_array_equal(
    source.train.inputs[..., 0], PIXELS.swapaxes(1, 2)
  )
  assert source.num_classes == 47
  assert folder.name in source.notes[0]


def test_folder_without_test_files_is_split(tmp_path):
  folder = write_folder(tmp_path / 'a')
  for file in folder.glob('t10k*'):
    file.unlink()
  source = sources.load(str(folder), test_fraction=0.4)
  assert (len(source.train.labels), len(source.test.labels)) == (2, 1)


IMAGES = encode(PIXELS)
FAULTS = {
  'empty': (b'', 'an empty file'),
  'magic': (b'PK\3\4' + IMAGES[4:], '504b0304'),
  'labels as images': (encode(LABELS), '00000801'),
  'floats': (b'\0\0\x0d\3' + IMAGES[4:], '00000d03'),
  'short header': (IMAGES[:9], 'header of 16 bytes, got 9'),
  'short body': (IMAGES[:-1], 'expected 12 bytes'),
  'long body': (IMAGES + b'\0', 'got 13'),
  'absurd shape': (IMAGES[:4] + b'\xff' * 12 + b'\0', 'got 1'),
  'cut gzip': (gzip.compress(IMAGES)[:-9], 'cannot be read'),
  'corrupt gzip': (gzip.compress(IMAGES)[:10] + b'\xff' * 30, 'cannot be read'),
  'no images': (encode(PIXELS[:0]), 'of the 0 images'),
  'fewer labels': (encode(np.tile(PIXELS, (2, 1, 1))), 'of the 6 images'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_fault_names_the_file_and_the_value(tmp_path, fault):
  data, message = FAULTS[fault]
  folder = write_folder(tmp_path / 'a')
  (folder / 'train-images-idx3-ubyte').write_bytes(data)
  with pytest.raises(InputError) as error:
    sources.load(str(folder))
  assert 'train-' in str(error.value)
  assert message in str(error.value)


def test_missing_labels_are_named(tmp_path):
  folder = write_folder(tmp_path / 'a')
  (folder / 'train-labels-idx1-ubyte').unlink()
  with pytest.raises(InputError, match='train labels'):
    sources.load(str(folder))


def test_two_data_sets_in_one_folder_are_refused(tmp_path):
  write_folder(tmp_path / 'a')
  write_folder(tmp_path / 'a', prefix='emnist-digits-')
  with pytest.raises(InputError, match='emnist-digits-'):
    sources.load(str(tmp_path / 'a'))


def test_fashion_files_are_not_taken_for_mnist(tmp_path):
  folder = write_folder(tmp_path / 'fashion-mnist')
  assert sources.load('fashion_mnist', data_dir=str(folder)).num_classes == 10
  with pytest.raises(InputError, match='mnist'):
    sources.load('mnist', data_dir=str(folder))


@pytest.fixture(autouse=True)
def _only_data_dir(monkeypatch):
  monkeypatch.delenv('FEDJAX_GEN_DATA', raising=False)
