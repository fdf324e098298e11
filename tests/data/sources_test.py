"""`load` by name, with real files where they are, and its arguments."""

import os

import numpy as np
import pytest

from fedjax_gen.data import examples, sources
from fedjax_gen.errors import InputError

needs_files = pytest.mark.skipif(
  not os.environ.get('FEDJAX_GEN_DATA'),
  reason='needs the real image files in the folder FEDJAX_GEN_DATA',
)


def test_digits_are_split_the_same_way_each_time():
  source, again = sources.load('digits'), sources.load('digits')
  assert source.input_shape == (8, 8, 1) and source.is_image
  assert source.train.inputs.max() == 255
  assert len(source.train.labels) + len(source.test.labels) == 1797
  np.testing.assert_array_equal(source.test.inputs, again.test.inputs)
  other = sources.load('digits', seed=1)
  assert not np.array_equal(source.test.inputs, other.test.inputs)
  shares = np.bincount(source.test.labels) / np.bincount(
    np.concatenate([source.train.labels, source.test.labels])
  )
  np.testing.assert_allclose(shares, 0.2, atol=0.01)


def test_digits_and_shapes_are_two_groups_of_one_size_and_share_no_label():
  source = sources.load('digits_and_shapes')
  assert 'digits_and_shapes' in sources.NAMES
  assert source.input_shape == (8, 8, 1)
  assert source.group_names == ('digits', 'shapes')
  assert source.class_names[9:12] == (
    'digits/9', 'shapes/disc', 'shapes/square'
  )  # fmt: skip
  num_examples = 0
  for part in (source.train, source.test):
    np.testing.assert_array_equal(part.groups, part.labels >= 10)
    np.testing.assert_array_equal(np.unique(part.labels), range(15))
    np.testing.assert_array_equal(*np.bincount(part.groups)[:, None])
    num_examples += len(part.labels)
    # Bright on dark, and dark on bright: edges of the pictures tell.
    edge = part.inputs[:, :, 0].mean(axis=(1, 2))
    assert edge[part.groups == 0].max() < edge[part.groups == 1].min()
  assert num_examples == 2 * 1797
  digits = sources.load('digits')
  np.testing.assert_array_equal(
    source.test.inputs[source.test.groups == 0], digits.test.inputs
  )
  other = sources.load('digits_and_shapes', seed=1)
  # Another seed splits otherwise; the shapes are the same.
  assert not np.array_equal(source.test.inputs, other.test.inputs)
  sums = [
    sum(int(part.inputs.sum()) for part in (s.train, s.test))
    for s in (source, other)
  ]
  assert sums[0] == sums[1]


def test_images_are_resized_on_request():
  source = sources.load('digits', image_size=28)
  assert source.input_shape == (28, 28, 1)
  assert 'resized to 28x28' in source.notes[-1]


REAL = {
  'mnist': ((60000, 28, 28, 1), 10000, 10, 0),
  'fashion_mnist': ((60000, 28, 28, 1), 10000, 10, 0),
  'mixed_mnist': ((120000, 28, 28, 1), 20000, 20, 2),
  'charm_proxy': ((6000, 32, 32, 3), 1481, 15, 5),
  'cifar10_jpeg_subset': ((8000, 32, 32, 3), 2000, 10, 0),
}


@needs_files
@pytest.mark.parametrize('name', REAL)
def test_real_source(name):
  shape, num_test, num_classes, num_groups = REAL[name]
  source = sources.load(name)
  assert source.train.inputs.shape == shape
  assert source.test.inputs.shape == (num_test, *shape[1:])
  assert source.num_classes == num_classes
  assert len(source.group_names) == num_groups
  for part in (source.train, source.test):
    assert part.inputs.dtype == np.uint8 and part.labels.dtype == np.int32
    np.testing.assert_array_equal(np.unique(part.labels), range(num_classes))
    if num_groups:
      np.testing.assert_array_equal(np.unique(part.groups), range(num_groups))


@needs_files
def test_real_mnist_begins_with_its_known_labels():
  labels = sources.load('mnist').train.labels
  np.testing.assert_array_equal(labels[:8], [5, 0, 4, 1, 9, 2, 1, 3])


@needs_files
def test_real_groups_keep_their_classes_apart():
  train = sources.load('mixed_mnist').train
  np.testing.assert_array_equal(train.groups, train.labels // 10)


@needs_files
def test_real_medical_npz_leaves_validation_out():
  path = os.path.join(os.environ['FEDJAX_GEN_DATA'], 'pneumoniamnist_28.npz')
  source = sources.load(path)
  assert source.class_names == ('normal', 'pneumonia')
  assert (len(source.train.labels), len(source.test.labels)) == (4708, 624)
  assert source.notes == ('validation split not used: x_val, y_val',)


BAD_ARGUMENTS = {
  'unknown name': (('digit', {}), 'did you mean digits'),
  'no such path': (('/no/such/file.npz', {}), '/no/such/file.npz'),
  'no such folder': (('clients:/no/such', {}), 'clients:.*/no/such'),
  'empty': (('', {}), 'digits'),
  'fraction 0': (('digits', {'test_fraction': 0}), 'test_fraction=0'),
  'fraction 1': (('digits', {'test_fraction': 1.0}), 'test_fraction=1.0'),
  'fraction nan': (('digits', {'test_fraction': np.nan}), 'test_fraction=nan'),
  'seed': (('digits', {'seed': -1}), 'seed=-1'),
  'size 0': (('digits', {'image_size': 0}), 'image_size=0'),
  'size 1.5': (('digits', {'image_size': 1.5}), 'image_size=1.5'),
  'data_dir': (('digits', {'data_dir': __file__}), 'data_dir.*sources_test'),
}


@pytest.mark.parametrize('case', BAD_ARGUMENTS)
def test_bad_argument_is_named_with_its_value(case):
  (spec, options), message = BAD_ARGUMENTS[case]
  with pytest.raises(InputError, match=message):
    sources.load(spec, **options)


def test_features_have_no_size(tmp_path):
  np.savez(tmp_path / 'f.npz', x=np.eye(4))
  with pytest.raises(InputError, match='image_size=8'):
    sources.load(str(tmp_path / 'f.npz'), image_size=8)


def test_missing_proxy_file_is_named(tmp_path, monkeypatch):
  monkeypatch.setenv('FEDJAX_GEN_DATA', str(tmp_path))
  with pytest.raises(InputError, match='charm_cartoon_32.npz'):
    sources.load('charm_proxy')


def toy(labels, users=None):
  return examples.Examples(
    np.arange(len(labels), dtype=np.float32)[:, None], labels, users
  )


def test_split_loses_no_class_and_no_client():
  # 40 clients of 2 examples and 10 of one: 0.2 of them rounds to none each.
  users = np.concatenate([np.repeat(np.arange(40), 2), np.arange(40, 50)])
  pooled = toy(np.zeros(90, np.int32), users)
  train, test, _ = examples.split(pooled, examples.Options())
  np.testing.assert_array_equal(np.unique(train.users), np.arange(50))
  assert 0 < len(test.labels) <= 18
  both = np.concatenate([train.inputs, test.inputs])[:, 0]
  np.testing.assert_array_equal(np.sort(both), np.arange(90))


@pytest.mark.parametrize('size', [2, 3, 50])
@pytest.mark.parametrize('fraction', [0.01, 0.5, 0.99])
def test_split_leaves_neither_side_empty(size, fraction):
  options = examples.Options(test_fraction=fraction)
  for labels in (np.zeros(size, int), np.arange(size)):
    train, test, _ = examples.split(toy(labels), options)
    assert len(train.labels) and len(test.labels)
    assert len(train.labels) + len(test.labels) == size


def test_one_example_cannot_be_split():
  with pytest.raises(InputError, match='at least 2 examples'):
    examples.split(toy(np.zeros(1, int)), examples.Options())
