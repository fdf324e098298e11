"""CIFAR's archives: pixels and labels as written, and no pickle that runs."""

import pickle
import struct

import numpy as np
from PIL import Image
import pytest

from fedjax_gen.data import named, sources
from fedjax_gen.data.formats import safe_pickle
from fedjax_gen.errors import InputError

NAMES = {'cifar10': ['airplane', 'automobile', 'bird'], 'cifar100': ['a', 'b']}
RNG = np.random.default_rng(0)
# What is written, by split: CIFAR-10 has five files of two images to train on.
IMAGES = {
  split: RNG.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
  for split, size in (('train', 10), ('test', 3))
}
LABELS = {split: np.arange(len(i)) % 2 for split, i in IMAGES.items()}


def rows(split, part=slice(None)):
  """Images of a split as the archives have them, [n, 3072]."""
  planes = IMAGES[split][part].transpose(0, 3, 1, 2)
  return np.ascontiguousarray(planes).reshape(len(planes), -1)


def python2(value):
  """Pickles as Python 2 and NumPy 1 did, protocol 2, without the memo."""

  def encode(value):
    match value:
      case None:
        return b'N'
      case bool():
        return b'\x88' if value else b'\x89'
      case int():
        return b'J' + struct.pack('<i', value)
      case str() | bytes():
        data = value.encode() if isinstance(value, str) else value
        return b'T' + struct.pack('<i', len(data)) + data
      case list():
        return b'](' + b''.join(map(encode, value)) + b'e'
      case tuple():
        return b'(' + b''.join(map(encode, value)) + b't'
      case dict():
        items = (encode(k) + encode(v) for k, v in value.items())
        return b'}(' + b''.join(items) + b'u'
    dtype = b'cnumpy\ndtype\n' + encode(('u1', 0, 1)) + b'R'
    dtype += encode((3, '|', None, None, None, -1, -1, 0)) + b'b'
    shape = encode(value.shape)
    return (
      b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n'
      + encode((0,))
      + encode('b')
      + b'tR('
      + (encode(1) + shape + dtype + encode(False) + encode(value.tobytes()))
      + b'tb'
    )

  return b'\x80\x02' + encode(value) + b'.'


def parts():
  """Names of the files of CIFAR-10 without ending, and their examples."""
  for number in range(5):
    yield f'data_batch_{number + 1}', 'train', slice(2 * number, 2 * number + 2)
  yield 'test_batch', 'test', slice(None)


def write(root, name, *, binary, dump=python2):
  """Writes one archive below `root` and returns its folder."""
  files = {}
  if name == 'cifar10':
    folder = root / (
      'cifar-10-batches-bin' if binary else 'cifar-10-batches-py'
    )
    for file, split, part in parts():
      pixels, labels = rows(split, part), LABELS[split][part]
      if binary:
        data = np.column_stack([labels, pixels]).astype(np.uint8)
        files[f'{file}.bin'] = data.tobytes()
      else:
        files[file] = dump({'data': pixels, 'labels': labels.tolist()})
  else:
    folder = root / ('cifar-100-binary' if binary else 'cifar-100-python')
    for split in ('train', 'test'):
      pixels, labels = rows(split), LABELS[split]
      coarse = np.full(len(labels), 19)
      if binary:
        data = np.column_stack([coarse, labels, pixels]).astype(np.uint8)
        files[f'{split}.bin'] = data.tobytes()
      else:
        files[split] = dump({
          'coarse_labels': coarse.tolist(),
          'fine_labels': labels.tolist(),
          'data': pixels,
        })  # fmt: skip
  meta, key = {
    'cifar10': ('batches.meta', 'label_names'),
    'cifar100': ('meta', 'fine_label_names'),
  }[name]
  if binary:
    file = 'batches.meta.txt' if name == 'cifar10' else 'fine_label_names.txt'
    files[file] = ('\n'.join(NAMES[name]) + '\n\n').encode()
  else:
    files[meta] = dump({key: NAMES[name]})
  folder.mkdir(parents=True)
  for file, data in files.items():
    (folder / file).write_bytes(data)
  return folder


@pytest.fixture(autouse=True)
def _only_data_dir(monkeypatch):
  monkeypatch.delenv('FEDJAX_GEN_DATA', raising=False)


@pytest.mark.parametrize('binary', [True, False])
@pytest.mark.parametrize('name', NAMES)
def test_an_archive_is_read_as_it_was_written(tmp_path, name, binary):
  folder = write(tmp_path / 'data', name, binary=binary)
  by_name = sources.load(name, data_dir=str(tmp_path / 'data'))
  inside = sources.load(name, data_dir=str(folder))
  by_path = sources.load(str(folder))
  assert (by_name.name, by_path.name) == (name, str(folder))
  for source in (by_name, inside, by_path):
    assert source.class_names == tuple(NAMES[name])
    for split in ('train', 'test'):
      part = getattr(source, split)
      np.testing.assert_array_equal(part.inputs, IMAGES[split])
      np.testing.assert_array_equal(part.labels, LABELS[split])
  assert by_name.notes == (f'read from {folder}',)


def test_the_binary_version_is_preferred(tmp_path):
  write(tmp_path, 'cifar10', binary=False)
  folder = write(tmp_path, 'cifar10', binary=True)
  source = sources.load('cifar10', data_dir=str(tmp_path))
  assert source.notes == (f'read from {folder}',)


def test_image_size_resizes(tmp_path):
  write(tmp_path, 'cifar100', binary=True)
  source = sources.load('cifar100', data_dir=str(tmp_path), image_size=8)
  assert source.train.inputs.shape == (10, 8, 8, 3)


def test_pickles_of_this_numpy_are_read_like_those_of_python_2(tmp_path):
  value = {'data': rows('test'), 'labels': [1, 0, 1]}
  for index, data in enumerate([python2(value), pickle.dumps(value, 4)]):
    path = tmp_path / f'{index}'
    path.write_bytes(data)
    found = safe_pickle.load(path)
    array = safe_pickle.byte_array(found['data'], 'data')
    np.testing.assert_array_equal(array, value['data'])
    labels = safe_pickle.whole_numbers(found['labels'], 'labels')
    assert labels.tolist() == [1, 0, 1]
  # And the pickles that this file makes are such as NumPy itself can read.
  real = pickle.loads(python2(value), encoding='bytes')
  np.testing.assert_array_equal(real[b'data'], value['data'])


class Malicious:
  """Its pickle opens, and so makes, a file."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return open, (self.path, 'w')


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('file', ['train', 'meta'])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, file, protocol):
  folder = write(tmp_path, 'cifar100', binary=False)
  made = tmp_path / 'made'
  data = pickle.dumps({'data': Malicious(made)}, protocol)
  (folder / file).write_bytes(data)
  with pytest.raises(InputError, match=f'{file}.*io.open.*cifar-100-binary'):
    sources.load('cifar100', data_dir=str(tmp_path))
  assert not made.exists()
  with pickle.loads(data)['data']:  # it would have been
    assert made.exists()


REFUSED = {
  'another function of numpy': b'cnumpy\nload\n(U\x01xtR.',
  'by attribute': b'\x80\x04\x8c\x05numpy\x8c\x0bndarray.dumpx\x93.',
  'old instance': b'(ios\nsystem\n.',
  'extension': b'\x82\x01.',
  'persistent': b'Px\n.',
  'stand-in changed': b'cnumpy\ndtype\n}b.',
  'cut': python2({'data': rows('test')})[:-9],
  'no pickle': b'\xff\xd8\xff\xe0 a picture',
  'empty': b'',
  'a list': python2([1, 2]),
  'a key': python2({3: 'x'}),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_is_no_dictionary_of_data_is_refused(tmp_path, case):
  (tmp_path / 'file').write_bytes(REFUSED[case])
  with pytest.raises(InputError, match='file: '):
    safe_pickle.load(tmp_path / 'file')


def array(shape, data, kind=b'u1'):
  """The record of an array as a hostile pickle may give it."""
  dtype = b'cnumpy\ndtype\n(U' + bytes([len(kind)]) + kind + b'tR'
  state = b'(K\x01(' + shape + b't' + dtype + b'\x89' + data + b't'
  head = b'cnumpy.core.multiarray\n_reconstruct\n(tR'
  return b'}U\x01d' + head + state + b'bs.'


BAD_ARRAYS = {
  'too short': (array(b'K\x09', b'U\x04abcd'), 'expected 9 bytes.*got 4'),
  'negative': (
    array(b'J\xff\xff\xff\xffJ\xfc\xff\xff\xff', b'U\x04abcd'),
    r'shape \[-1, -4\]',
  ),
  'absurd': (array(b'I' + b'9' * 40 + b'\n', b'U\x04abcd'), 'got 4'),
  'shape of text': (array(b'U\x01a', b'U\x04abcd'), 'whole array'),
  'objects': (array(b'K\x04', b']', b'O8'), "'O8'"),
  'no bytes': (array(b'K\x04', b']'), 'got list'),
  'no state': (b'}U\x01dcnumpy.core.multiarray\n_reconstruct\n(tRs.', 'whole'),
  'a list': (b'}U\x01d]s.', 'expected an array, got list'),
}


@pytest.mark.parametrize('case', BAD_ARRAYS)
def test_a_bad_array_is_refused(tmp_path, case):
  data, message = BAD_ARRAYS[case]
  (tmp_path / 'file').write_bytes(data)
  found = safe_pickle.load(tmp_path / 'file')
  with pytest.raises(InputError, match=message):
    safe_pickle.byte_array(found['d'], 'd')


FAULTS = {
  'cut': ('cifar10', 'data_batch_2.bin', b'x' * 3072, 'rows of 3073 bytes'),
  'empty': ('cifar100', 'train.bin', b'', 'rows of 3074 bytes, got 0'),
  'label': ('cifar100', 'test.bin', b'\2' * 3074, 'labels below 2'),
  'gone': ('cifar10', 'data_batch_3.bin', None, 'the file data_batch_3.bin'),
  'names gone': ('cifar10', 'batches.meta.txt', None, 'batches.meta.txt'),
  'batch gone': ('cifar10', 'test_batch', None, 'the file test_batch'),
  'no labels': ('cifar100', 'train', python2({'data': 1}), "'fine_labels' in"),
  'few labels': (
    'cifar100',
    'test',
    python2({'data': rows('test'), 'fine_labels': [0]}),
    r'\[1, 3072\], got shape \[3, 3072\]',
  ),
  'label of text': (
    'cifar100',
    'test',
    python2({'data': rows('test'), 'fine_labels': [0, 1, 'a']}),
    'got bytes among',
  ),
  'names': ('cifar100', 'meta', python2({'fine_label_names': 'a'}), 'names'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_names_the_file(tmp_path, fault):
  name, file, data, message = FAULTS[fault]
  binary = file.endswith(('.bin', '.txt'))
  folder = write(tmp_path, name, binary=binary)
  if data is None:
    (folder / file).unlink()
  else:
    (folder / file).write_bytes(data)
  with pytest.raises(InputError, match=message) as error:
    sources.load(name, data_dir=str(tmp_path))
  assert str(folder) in str(error.value)
  assert file in str(error.value)


def test_a_picture_folder_is_no_archive(tmp_path):
  for name in ('train', 'test', 'meta'):
    (tmp_path / name).mkdir()
  with pytest.raises(InputError, match='expected train pictures'):
    sources.load(str(tmp_path))


@pytest.mark.parametrize('name', NAMES)
def test_without_files_the_error_names_the_archive(tmp_path, monkeypatch, name):
  monkeypatch.setattr(named.tfds, '_network_reachable', lambda: False)
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  with pytest.raises(InputError, match=r'archive, unpacked, in data_dir'):
    sources.load(name, data_dir=str(tmp_path))


def test_the_subset_stands_in_for_cifar10_and_says_so(tmp_path, monkeypatch):
  monkeypatch.setattr(named.tfds, '_network_reachable', lambda: False)
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  arrays = {'classes': np.array(NAMES['cifar10'])}
  for split in ('train', 'test'):
    files = []
    for image in IMAGES[split]:
      Image.fromarray(image).save(tmp_path / 'one.jpg')
      files.append((tmp_path / 'one.jpg').read_bytes())
    arrays[f'jpeg_{split}'] = np.frombuffer(b''.join(files), np.uint8)
    arrays[f'offset_{split}'] = np.cumsum([0, *map(len, files)])
    arrays[f'y_{split}'] = LABELS[split]
  np.savez(tmp_path / 'cifar10_10k_jpeg.npz', **arrays)
  source = sources.load('cifar10', data_dir=str(tmp_path))
  assert source.name == 'cifar10_jpeg_subset'
  notes = ' '.join(source.notes)
  assert 'not a CIFAR-10 result' in notes
  assert 'in place of cifar10, which was not found' in notes
  np.testing.assert_array_equal(source.train.labels, LABELS['train'])
  # The real one wins where it is.
  write(tmp_path, 'cifar10', binary=True)
  assert sources.load('cifar10', data_dir=str(tmp_path)).name == 'cifar10'
