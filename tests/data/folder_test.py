"""Folders of pictures: layouts, messy files, and pixels that survive."""

import pathlib

import numpy as np
from PIL import Image
import pytest
from sklearn import datasets

from fedjax_gen.data import images, sources
from fedjax_gen.errors import InputError

DIGITS = np.rint(datasets.load_digits().images * (255 / 16)).astype(np.uint8)


def put(path, row=0, size=None, mode='L', **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  image = Image.fromarray(DIGITS[row])
  if size:
    image = image.resize(size)
  image.convert(mode).save(path, **options)
  return path


def fill(root, *folders, count=5):
  for index, folder in enumerate(folders):
    for row in range(count):
      put(root / folder / f'{row}.png', row=index * count + row)
  return str(root)


def everything(source):
  return np.concatenate([source.train.inputs, source.test.inputs])


def test_a_folder_per_class(tmp_path):
  source = sources.load(fill(tmp_path, 'b', 'a/deep/er', 'кот'))
  assert source.class_names == ('a', 'b', 'кот')
  np.testing.assert_array_equal(np.bincount(source.train.labels), [4, 4, 4])
  np.testing.assert_array_equal(np.bincount(source.test.labels), [1, 1, 1])
  # Folder b holds digits 0 to 4, and pixels of one size are untouched.
  found = everything(source)[..., 0]
  assert {i.tobytes() for i in found} == {d.tobytes() for d in DIGITS[:15]}
  first_b = source.train.inputs[source.train.labels == 1][0, ..., 0]
  assert any(np.array_equal(first_b, d) for d in DIGITS[:5])


@pytest.mark.parametrize('test', ['test', 'val', 'Validation'])
def test_train_and_test_folders_are_the_splits(tmp_path, test):
  root = fill(tmp_path, 'train/a', 'train/b', f'{test}/b')
  source = sources.load(root)
  np.testing.assert_array_equal(source.train.labels, [0] * 5 + [1] * 5)
  np.testing.assert_array_equal(source.test.labels, [1] * 5)
  np.testing.assert_array_equal(source.test.inputs[..., 0], DIGITS[10:15])


def test_a_folder_per_client_with_and_without_classes(tmp_path):
  plain = sources.load('clients:' + fill(tmp_path / 'x', 'ann', 'bob'))
  assert plain.user_names == ('ann', 'bob') and plain.num_classes == 1
  np.testing.assert_array_equal(np.bincount(plain.train.users), [4, 4])
  root = fill(tmp_path / 'y', 'ann/cat', 'ann/dog', 'bob/dog')
  source = sources.load('clients:' + root)
  assert source.class_names == ('cat', 'dog')
  pairs = set(zip(source.train.users, source.train.labels, strict=True))
  assert pairs == {(0, 0), (0, 1), (1, 1)}


def test_class_folders_of_some_clients_only_are_refused(tmp_path):
  with pytest.raises(InputError, match='bob/0.png'):
    sources.load('clients:' + fill(tmp_path, 'ann/cat', 'bob'))


def test_a_folder_per_group(tmp_path):
  root = fill(tmp_path, 'train/art/cat', 'train/photo', 'test/photo')
  source = sources.load('groups:' + root)
  assert source.group_names == ('art', 'photo')
  assert source.class_names == ('cat', 'photo')
  np.testing.assert_array_equal(source.train.groups, [0] * 5 + [1] * 5)
  np.testing.assert_array_equal(source.test.groups, [1] * 5)


def test_tiny_imagenet_tree(tmp_path):
  root = fill(tmp_path, 'train/n02/images', 'train/n01/images', 'val/images')
  fill(tmp_path, 'test/images')
  (tmp_path / 'train/n01/n01_boxes.txt').write_text('0.png 0 0 8 8')
  lines = [f'{row}.png\tn0{1 + row % 2}\t0\t0\t8\t8' for row in range(5)]
  (tmp_path / 'val/val_annotations.txt').write_text('\n'.join(lines))
  source = sources.load(root)
  assert source.class_names == ('n01', 'n02')
  np.testing.assert_array_equal(source.test.labels, [0, 1, 0, 1, 0])
  np.testing.assert_array_equal(source.test.inputs[..., 0], DIGITS[10:15])
  assert any('not used: test' in note for note in source.notes)


def test_messy_folder_loses_only_what_is_broken(tmp_path):
  fill(tmp_path, 'a', 'b')
  folder = tmp_path / 'a'
  put(folder / 'wide.jpg', row=20, size=(30, 17), mode='RGB')
  put(folder / 'grey alpha.png', row=21, mode='LA')
  put(folder / 'no suffix', row=22, format='PNG')
  put(folder / 'palette.gif', row=23, mode='P')
  whole = (folder / '0.png').read_bytes()
  (folder / 'cut.png').write_bytes(whole[: len(whole) // 2])
  (folder / 'empty.png').write_bytes(b'')
  (folder / 'fake.jpg').write_text('not a picture')
  (folder / '.hidden').write_text('not a picture')
  (folder / 'loop').symlink_to(tmp_path)
  put(tmp_path / 'stray.png')
  source = sources.load(str(tmp_path))
  assert len(everything(source)) == 10 + 4
  assert source.input_shape == (32, 32, 3)
  skipped = next(note for note in source.notes if 'skipped' in note)
  for name in ('4 files', 'cut.png (broken', 'empty.png', 'fake.jpg', 'stray'):
    assert name in skipped
  assert '.hidden' not in skipped


def test_many_skipped_files_are_counted(tmp_path):
  fill(tmp_path, 'a')
  for number in range(30):
    (tmp_path / 'a' / f'{number}.txt').write_text('x')
  (note,) = [n for n in sources.load(str(tmp_path)).notes if 'skipped' in n]
  assert note.startswith('30 files') and note.endswith('and 26 more')


def test_a_client_of_whom_nothing_can_be_read_is_named(tmp_path):
  fill(tmp_path, 'ann', 'bob')
  for name in ('cyd', 'dan'):
    (tmp_path / name).mkdir()
    (tmp_path / name / '0.png').write_text('not a picture')
  source = sources.load(f'clients:{tmp_path}')
  assert source.user_names == ('ann', 'bob')
  assert 'folders without any picture left out: cyd, dan' in source.notes
  (tmp_path / 'cyd' / '0.png').unlink()
  put(tmp_path / 'cyd' / '0.png')
  notes = sources.load(f'clients:{tmp_path}').notes
  assert 'folders without any picture left out: dan' in notes
  assert any(note.startswith('1 file skipped: dan/0.png') for note in notes)


@pytest.mark.parametrize('kind', ['clients', 'groups'])
def test_pictures_without_the_folders_asked_for_are_refused(tmp_path, kind):
  put(tmp_path / '0.png')
  put(tmp_path / '1.png', row=1)
  with pytest.raises(InputError, match=f'each of the {kind}.*got 0.png'):
    sources.load(f'{kind}:{tmp_path}')
  assert sources.load(str(tmp_path)).num_classes == 1


def test_files_of_one_name_in_two_clients_are_two_pictures(tmp_path):
  put(tmp_path / 'ann' / '0.png', row=1)
  put(tmp_path / 'bob' / '0.png', row=2)
  source = sources.load(f'clients:{tmp_path}')
  found = {image.tobytes() for image in everything(source)}
  assert found == {DIGITS[1].tobytes(), DIGITS[2].tobytes()}


@pytest.mark.filterwarnings('error')
def test_large_pictures_are_read_and_enormous_ones_named(tmp_path, monkeypatch):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
  fill(tmp_path, 'a')
  put(tmp_path / 'a' / 'large.png', size=(12, 14))  # Pillow would warn
  put(tmp_path / 'a' / 'enormous.png', size=(15, 14))
  source = sources.load(str(tmp_path), image_size=8)
  assert len(everything(source)) == 6
  (skipped,) = [note for note in source.notes if 'skipped' in note]
  assert skipped == '1 file skipped: a/enormous.png (more than 200 pixels)'


def test_size_is_asked_for_common_or_32(tmp_path):
  root = fill(tmp_path, 'a')
  assert sources.load(root).input_shape == (8, 8, 1)
  assert sources.load(root, image_size=4).input_shape == (4, 4, 1)
  put(tmp_path / 'a' / 'large.png', size=(20, 12))
  assert sources.load(root).input_shape == (32, 32, 1)


def test_crop_is_central_and_resize_is_antialiased():
  pixels = np.zeros((4, 8), np.uint8)
  pixels[:, 2:6] = np.tile([0, 255], (4, 2))  # the centre square
  square = images.to_array(Image.fromarray(pixels), (2, 2), 1)
  # Plain bilinear sampling between two columns would alias to 0 or 255.
  assert square.shape == (2, 2, 1)
  assert np.all((square > 60) & (square < 195))


def test_exif_orientation_is_respected(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # turn clockwise to see it upright
  pixels = np.zeros((6, 4), np.uint8)
  pixels[:, 0] = 255
  path = tmp_path / 'a.png'
  Image.fromarray(pixels).save(path, exif=exif)
  assert images.probe(path) == ((6, 4), 1)
  upright = np.asarray(images.open_image(path))
  np.testing.assert_array_equal(upright, np.rot90(pixels, -1))


MODES = {
  '1': 255,
  'L': 255,
  'LA': 255,
  'P': 255,
  'RGB': 255,
  'RGBA': 255,
  'I;16': 255,
}


@pytest.mark.parametrize('mode', MODES)
def test_white_is_white_in_every_mode(tmp_path, mode):
  if mode == 'I;16':
    image = Image.fromarray(np.full((3, 3), 65535, np.uint16))
  else:
    image = Image.new('L', (3, 3), 255).convert(mode)
  image.save(tmp_path / 'a.png')
  decoded = images.open_image(tmp_path / 'a.png')
  assert decoded.mode in ('L', 'RGB')
  assert np.all(np.asarray(decoded) == 255)


@pytest.mark.parametrize('files', [[], ['a/readme.txt'], ['readme.txt']])
def test_folder_without_pictures_is_refused(tmp_path, files):
  for name in files:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('x')
  with pytest.raises(InputError, match='expected pictures') as error:
    sources.load(str(tmp_path))
  assert all(pathlib.Path(name).name in str(error.value) for name in files)


def test_empty_test_folder_is_named(tmp_path):
  fill(tmp_path, 'train/a')
  (tmp_path / 'test').mkdir()
  with pytest.raises(InputError, match='expected test pictures'):
    sources.load(str(tmp_path))
