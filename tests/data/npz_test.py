"""npz files: the layouts that are read, and what is refused by name."""

import pathlib

import numpy as np
import pytest

from fedjax_gen.data import sources
from fedjax_gen.errors import InputError

IMAGES = np.arange(10 * 4, dtype=np.uint8).reshape(10, 2, 2)
LABELS = np.arange(10) % 2
KERAS = {
  'x_train': IMAGES,
  'y_train': LABELS,
  'x_test': IMAGES[:4],
  'y_test': LABELS[:4],
}


def save(tmp_path, **arrays):
  path = tmp_path / 'data.npz'
  np.savez(path, **arrays)
  return str(path)


LAYOUTS = {
  'keras': KERAS,
  'medmnist': {
    'train_images': IMAGES,
    'train_labels': LABELS[:, None],
    'test_images': IMAGES[:4],
    'test_labels': LABELS[:4, None],
    'val_images': IMAGES,
  },
  'channels': {**KERAS, 'x_train': IMAGES[..., None]},
  'channels first': {**KERAS, 'x_train': IMAGES[:, None]},
  'floats': {**KERAS, 'x_train': IMAGES / 255},
  'wide integers': {**KERAS, 'x_train': IMAGES.astype(np.int64)},
  'labels in floats': {**KERAS, 'y_train': LABELS.astype(float)},
  'class names': {**KERAS, 'classes': np.array(['0', '1'])},
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts_give_the_same_images(tmp_path, layout):
  source = sources.load(save(tmp_path, **LAYOUTS[layout]))
  np.testing.assert_array_equal(source.train.inputs, IMAGES[..., None])
  np.testing.assert_array_equal(source.train.labels, LABELS)
  np.testing.assert_array_equal(source.test.inputs, IMAGES[:4, ..., None])
  assert source.train.inputs.dtype == np.uint8
  assert source.train.labels.dtype == np.int32
  assert source.class_names == ('0', '1')
  assert any('val_images' in n for n in source.notes) == (layout == 'medmnist')


@pytest.mark.parametrize('key', ['inputs', 'features', 'embeddings', 'x'])
def test_one_array_is_split_with_its_users_and_groups(tmp_path, key):
  features = np.linspace(-3, 3, 40).reshape(20, 2)
  path = save(
    tmp_path,
    **{key: features},
    y=np.repeat([3, 8], 10),
    client_ids=np.repeat([70, 50, 90, 60], 5),
    domain=np.repeat(['photo', 'art'], 10),
  )
  source = sources.load(path, test_fraction=0.2)
  assert not source.is_image and source.train.inputs.dtype == np.float32
  assert source.class_names == ('3', '8')
  assert source.user_names == ('50', '60', '70', '90')
  assert source.group_names == ('art', 'photo')
  # One of the five examples of every client is held out, none is lost.
  np.testing.assert_array_equal(np.bincount(source.test.users), [1, 1, 1, 1])
  both = np.concatenate([source.train.inputs, source.test.inputs])
  np.testing.assert_array_equal(
    np.sort(both[:, 0]), features[:, 0].astype(np.float32)
  )
  row = int(np.flatnonzero(features[:, 0].astype('f4') == both[0, 0])[0])
  assert source.train.users[0] == [2, 0, 3, 1][row // 5]
  assert source.train.groups[0] == [1, 0][row // 10]


def test_users_of_the_train_split_are_enough(tmp_path):
  source = sources.load(save(tmp_path, **KERAS, users_train=LABELS + 5))
  np.testing.assert_array_equal(source.train.users, LABELS)
  assert source.user_names == ('5', '6') and source.test.users is None


def test_pickled_arrays_that_nobody_asked_for_do_not_matter(tmp_path):
  path = save(tmp_path, **KERAS, info=np.array([{}]))
  assert len(sources.load(path).train.labels) == 10


def test_unlabelled_images_are_of_one_class(tmp_path):
  source = sources.load(save(tmp_path, images=IMAGES))
  assert source.num_classes == 1 and not source.train.labels.any()


def with_nan(array):
  array = array.astype(np.float32)
  array[3, 1] = np.nan
  return array


FAULTS = {
  'nan images': ({'x_train': with_nan(IMAGES / 255)}, 'x_train.*2 NaN.*row 3'),
  'large floats': ({'x_train': IMAGES * 1.0}, r'x_train.*\[0, 1\].*39'),
  'large integers': ({'x_train': IMAGES + np.int64(300)}, 'x_train.*339'),
  'negative': ({'x_train': IMAGES - 1.0}, 'x_train.*-1'),
  'channels': ({'x_train': np.zeros((9, 2, 2, 4))}, r'x_train.*\[9, 2, 2, 4\]'),
  'no rows': ({'x_train': IMAGES[:0]}, r'x_train.*\[0, 2, 2\]'),
  'text': ({'x_train': np.full((10, 2), 'a')}, 'x_train.*<U1'),
  'shapes': ({'x_test': IMAGES[:4, :1]}, r'x_test.*\[2, 2, 1\].*\[1, 2, 1\]'),
  'label count': ({'y_train': LABELS[:-1]}, r'y_train.*\[10\].*\[9\]'),
  'many labels': ({'y_train': np.zeros((10, 2))}, r'y_train.*\[10, 2\]'),
  'negative label': ({'y_train': LABELS - 1}, 'y_train.*-1 in row 0'),
  'half label': ({'y_train': LABELS / 2}, 'y_train.*0.5 in row 1'),
  'huge label': (
    {'y_train': LABELS.astype('u8') + np.uint64(2**63)},
    'y_train.*9223372',
  ),
  'nan label': ({'y_test': LABELS[:4] * np.nan}, 'y_test.*NaN'),
  'text label': ({'y_train': LABELS.astype(str)}, 'y_train.*<U'),
  'unnamed label': ({'classes': np.array(['a'])}, 'y_train.*below 1.*got 1'),
  'odd classes': ({'classes': np.array('a')}, 'classes'),
  'one label array': ({'y_test': None}, 'y_train.*both'),
  'users': ({'users_train': [1], 'users_test': [1] * 4}, 'users_train'),
  'objects': ({'y_train': np.array([{}] * 10)}, 'y_train.*Python objects'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_fault_names_the_array_and_the_value(tmp_path, fault):
  changed, message = FAULTS[fault]
  with pytest.raises(InputError, match=f'data.npz.*{message}'):
    arrays = {**KERAS, **changed}
    arrays = {k: v for k, v in arrays.items() if v is not None}
    sources.load(save(tmp_path, **arrays))


def test_infinite_features_are_refused_after_the_cast_too(tmp_path):
  with pytest.raises(InputError, match='float32.*1 NaN or infinite.*row 1'):
    sources.load(save(tmp_path, x=np.array([[1.0], [1e300]])))


def test_foreign_and_broken_files_are_refused(tmp_path):
  whole = pathlib.Path(save(tmp_path, **KERAS)).read_bytes()
  middle = len(whole) // 3
  for name, data in {
    'text.npz': b'hello',
    'empty.npz': b'',
    'cut.npz': whole[:middle],
    'flipped.npz': whole[:300] + b'\xff' * 40 + whole[340:],
  }.items():
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=name):
      sources.load(str(tmp_path / name))
  np.save(tmp_path / 'array.npy', IMAGES)
  with pytest.raises(InputError, match='array.npy'):
    sources.load(str(tmp_path / 'array.npy'))


def test_unknown_arrays_are_listed(tmp_path):
  with pytest.raises(InputError, match='weights'):
    sources.load(save(tmp_path, weights=IMAGES))
