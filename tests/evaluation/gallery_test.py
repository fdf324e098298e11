"""The pictures of a run: which there are, and that they show what they say."""

import jax
import numpy as np
from PIL import Image
import pytest

from fedjax_gen.data.sources import DataSource, Examples
from fedjax_gen.evaluation import pictures, vaes
from fedjax_gen.evaluation.drawing import gallery
from fedjax_gen.models import elbo
from fedjax_gen.models.vae import DataSpec, VaeConfig, build_vae


def _source(num_classes=3, test_labels=(0, 0, 1, 1, 2, 2), shape=(4, 5, 3)):
  """Images whose every pixel is ten times their label."""

  def part(labels):
    labels = np.asarray(labels, np.int32)
    inputs = np.broadcast_to(
      (10 * labels).reshape(-1, 1, 1, 1), (len(labels), *shape)
    )
    return Examples(inputs.astype(np.uint8), labels)

  names = tuple(map(str, range(num_classes)))
  train = part(np.arange(4 * num_classes) % num_classes)
  return DataSource('toy', train, part(test_labels), names)


def _model(source, conditional=True, seed=0):
  config = VaeConfig(
    model='mlp', hidden_size=4, latent_size=2, conditional=conditional
  )
  vae = build_vae(config, DataSpec(source.input_shape, source.num_classes))
  return elbo.of_vae(vae), vae.init(jax.random.key(seed))


@pytest.fixture
def grids(monkeypatch):
  """The images and columns of every grid, none of which is written."""
  seen = {}

  def grid(inputs, path, *, columns=10, title=''):
    seen[path.name] = (inputs, columns, title)

  monkeypatch.setattr(pictures, 'image_grid', grid)
  return seen


def test_without_real_images_generated_ones_are_drawn_alone(tmp_path):
  source = _source()
  generator, variables = _model(source)
  drawn = gallery.draw_all(
    generator, {'a': variables}, source, tmp_path, seed=0, show_real=False
  )
  assert [(d.path.name, d.unprotected, d.made_by) for d in drawn] == [
    ('samples_a.png', '', ('a',))
  ]
  assert [path.name for path in tmp_path.iterdir()] == ['samples_a.png']
  shown = gallery.draw_all(
    generator, {'a': variables}, source, tmp_path, seed=0
  )
  assert {d.path.stem for d in shown if not d.unprotected} == {'samples_a'}


def test_every_method_has_its_pictures_beside_the_real_ones(tmp_path):
  source = _source()
  generator, variables = _model(source)
  models = {'federated': variables, 'central': _model(source, seed=1)[1]}
  drawn = gallery.draw_all(
    generator, models, source, tmp_path / 'samples', seed=0
  )
  names = [picture.path.stem for picture in drawn]
  assert len(set(names)) == len(names)
  assert set(names) == {'samples_real', 'reconstructions'} | {
    f'{kind}_{method}'
    for kind in ('samples', 'nearest', 'tsne_latents', 'tsne_pixels')
    for method in models
  }
  for picture in drawn:
    with Image.open(picture.path) as image:
      assert image.format == 'PNG'
      assert min(image.size) > 50
    assert picture.caption.endswith(('.', ')'))
  assert {picture.section for picture in drawn} == {
    'samples', 'reconstructions', 'memory', 'maps',
  }  # fmt: skip


def test_features_have_no_pictures(tmp_path):
  part = Examples(np.zeros((6, 2), np.float32), np.zeros(6, np.int32))
  source = DataSource('toy', part, part, ('a',))
  generator, variables = _model(source)
  assert (
    gallery.draw_all(generator, {'a': variables}, source, tmp_path, seed=0)
    == []
  )
  assert not list(tmp_path.iterdir())


def test_a_column_is_a_class_if_there_are_few(tmp_path, grids):
  for num_classes, conditional, expected in (
    (12, True, 12),
    (13, True, 10),
    (3, False, 10),
  ):
    source = _source(num_classes)
    generator, variables = _model(source, conditional)
    path = tmp_path / 'grid.png'
    gallery.draw_samples(generator, variables, source, path, title='t', seed=0)
    inputs, columns, title = grids['grid.png']
    assert (len(inputs), columns, title) == (10 * expected, expected, 't')


def test_the_grid_holds_the_model_s_samples_of_each_class(tmp_path, grids):
  source = _source()
  generator, variables = _model(source)
  path = tmp_path / 'grid.png'
  gallery.draw_samples(generator, variables, source, path, title='', seed=4)
  expected = vaes.sample_images(
    generator, variables, np.tile([0, 1, 2], 10).astype(np.int32), seed=4
  )
  np.testing.assert_array_equal(grids['grid.png'][0], expected)


def test_real_images_stand_in_the_columns_of_their_class(tmp_path, grids):
  # Class 1 is missing from the test split: others stand in for it.
  source = _source(test_labels=(0, 0, 2, 2, 2))
  generator, variables = _model(source)
  gallery.draw_all(generator, {'a': variables}, source, tmp_path, seed=0)
  inputs, columns, _ = grids['samples_real.png']
  classes = inputs[:, 0, 0, 0].reshape(-1, columns) // 10
  np.testing.assert_array_equal(classes[:, 0], 0)
  np.testing.assert_array_equal(classes[:, 2], 2)


def test_too_few_points_have_no_map(tmp_path):
  source = _source(test_labels=(0, 1, 2))
  generator, variables = _model(source)
  drawn = gallery.draw_all(
    generator, {'a': variables}, source, tmp_path, seed=0
  )
  assert 'maps' not in {picture.section for picture in drawn}
  assert 'samples' in {picture.section for picture in drawn}


def test_the_same_seed_draws_the_same_picture(tmp_path):
  source = _source()
  generator, variables = _model(source)
  for name, seed in (('a', 0), ('b', 0), ('c', 1)):
    path = tmp_path / f'{name}.png'
    gallery.draw_samples(
      generator, variables, source, path, title='', seed=seed
    )
  first, same, other = (
    (tmp_path / f'{name}.png').read_bytes() for name in 'abc'
  )
  assert first == same != other
