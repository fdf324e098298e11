"""The pictures of groups: which there are, and that they show what they say."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from fedjax_gen.data.sources import DataSource, Examples
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import group_models, pictures
from fedjax_gen.evaluation.drawing import group_gallery, group_pictures
from fedjax_gen.evaluation.group_models import GroupGenerator, GroupVae
from fedjax_gen.models import elbo
from fedjax_gen.models.vae import DataSpec, VaeConfig, build_vae, to_pixels

_GROUPS = ('digits', 'shapes', 'faces')


def _source(channels=1, test_groups=(0, 1, 2)):
  """Images of 4 x 5 pixels whose grey says their group and their label."""

  def part(groups):
    groups = np.repeat(np.asarray(groups, np.int32), 20)
    labels = (np.arange(len(groups)) % 5).astype(np.int32)
    grey = (80 * groups + 10 * labels).reshape(-1, 1, 1, 1)
    inputs = np.broadcast_to(grey, (len(groups), 4, 5, channels))
    return Examples(inputs.astype(np.uint8), labels, groups=groups)

  names = tuple('abcde')
  return DataSource(
    'toy', part((0, 1, 2)), part(test_groups), names, group_names=_GROUPS
  )


def _models(num, channels=1, **config):
  config = {'model': 'mlp', 'hidden_size': 4, 'latent_size': 2} | config
  vae = build_vae(VaeConfig(**config), DataSpec((4, 5, channels), 5))
  return [GroupVae(vae, vae.init(jax.random.key(i))) for i in range(num)]


def _blank():
  """A generator without a VAE; its grey is the group, its noise the key."""

  def sample(group, labels, key):
    del key
    grey = (80 * group + 10 * labels).reshape(-1, 1, 1, 1)
    return np.broadcast_to(grey, (len(labels), 4, 5, 1)).astype(np.uint8)

  return GroupGenerator(sample)


@pytest.fixture
def seen(monkeypatch):
  """The rows of every picture by file name; none is written."""
  rows = {}

  def keep(given, path, **unused):
    rows[path.name] = given

  for module, name in (
    (group_pictures, 'group_rows'),
    (group_pictures, 'interpolations'),
    (pictures, 'image_rows'),
  ):
    monkeypatch.setattr(module, name, keep)
  return rows


def test_without_real_images_no_row_and_no_picture_has_any(seen, tmp_path):
  generators = {'L+D': group_models.of_vaes(_models(3, 1))}
  [drawn] = group_gallery.draw_all(
    generators, _source(1), tmp_path, seed=0, show_real=False
  )
  assert list(seen) == ['groups.png']
  assert list(seen['groups.png']) == ['L+D']
  assert (drawn.unprotected, drawn.made_by) == ('', ('L+D',))


@pytest.mark.parametrize('channels', [1, 3], ids=['grey', 'rgb'])
def test_every_picture_is_written_and_has_its_words(channels, tmp_path):
  models = _models(3, channels)
  generators = {
    'FedVAE': group_models.of_vaes(models[:1] * 3),
    'L+D': group_models.of_vaes(models),
  }
  folder = tmp_path / 'samples'
  drawn = group_gallery.draw_all(
    generators, _source(channels), folder, between=['L+D', 'FedVAE'], seed=0
  )
  assert [(d.path.stem, d.section) for d in drawn] == [
    ('groups', 'samples'),
    ('between_L+D', 'interpolations'),
    ('between_FedVAE', 'interpolations'),
    ('reconstructions_group_0', 'reconstructions'),
    ('reconstructions_group_1', 'reconstructions'),
    ('reconstructions_group_2', 'reconstructions'),
  ]
  for picture in drawn:
    with Image.open(picture.path) as image:
      assert image.format == 'PNG'
      assert min(image.size) > 50
    assert picture.caption.endswith('.')
  assert 'FedVAE, L+D' in drawn[0].caption


def test_a_cell_holds_what_the_method_makes_of_the_group(seen, tmp_path):
  drawn = group_gallery.draw_all(
    {'fedgan': _blank()}, _source(), tmp_path, seed=0
  )
  # What needs a VAE is left out.
  assert [picture.path.name for picture in drawn] == ['groups.png'] == [*seen]
  rows = seen['groups.png']
  assert [*rows] == ['real', 'fedgan']
  for group, name in enumerate(_GROUPS):
    # Real images and labels asked for: all classes, in order, of the group.
    for method in rows:
      greys = rows[method][name][:, 0, 0, 0].astype(int)
      assert len(greys) == 16
      assert set(greys) == {80 * group + 10 * label for label in range(5)}
      assert (np.diff(greys) >= 0).all()


def test_the_seed_decides_the_samples_of_a_group(seen, tmp_path):
  generators = {'L': group_models.of_vaes(_models(1) * 3)}
  drawn = []
  for seed in (0, 0, 1):
    group_gallery.draw_all(generators, _source(), tmp_path, seed=seed)
    drawn.append(seen['groups.png']['L'])
  first, same, other = drawn
  np.testing.assert_array_equal(first['digits'], same['digits'])
  assert (first['digits'] != other['digits']).any()
  # Nor are those of one group those of the next, whose model is the same.
  assert (first['digits'] != first['shapes']).any()


def test_a_way_has_a_row_for_each_decoder_there_is(seen, tmp_path):
  models = _models(3, conditional=False)
  generators = {
    'FedVAE': group_models.of_vaes(models[:1] * 3),
    'L+D': group_models.of_vaes(models),
  }
  group_gallery.draw_all(
    generators, _source(), tmp_path, between=list(generators), seed=0
  )
  assert [*seen['between_FedVAE.png']] == ['digits → shapes', 'shapes → faces']
  assert [*seen['between_L+D.png']] == [
    'digits → shapes, by digits', 'digits → shapes, by shapes',
    'shapes → faces, by shapes', 'shapes → faces, by faces',
  ]  # fmt: skip
  assert {len(way) for way in seen['between_L+D.png'].values()} == {8}


def test_reconstructions_are_those_of_the_group_s_own_model(seen, tmp_path):
  models, source = _models(3), _source()
  generators = {'D': group_models.of_vaes(models), 'fedgan': _blank()}
  group_gallery.draw_all(generators, source, tmp_path, seed=0)
  rows = seen['reconstructions_group_2.png']
  assert [*rows] == ['held out', 'D']
  inputs = rows['held out']
  labels = (inputs[:, 0, 0, 0].astype(np.int32) - 160) // 10
  assert len(labels) == 8
  assert set(labels) == set(range(5))
  expected = elbo.reconstruct(*models[2], jnp.asarray(inputs), labels)[1]
  np.testing.assert_array_equal(rows['D'], expected)
  other = elbo.reconstruct(*models[1], jnp.asarray(inputs), labels)[1]
  assert (rows['D'] != np.asarray(other)).any()


def test_groups_without_held_out_images_are_passed_over(seen, tmp_path):
  generators = {'D': group_models.of_vaes(_models(3))}
  source = _source(test_groups=(0, 2))
  group_gallery.draw_all(generators, source, tmp_path, between=['D'], seed=0)
  assert {*seen} == {
    'groups.png', 'between_D.png',
    'reconstructions_group_0.png', 'reconstructions_group_2.png',
  }  # fmt: skip
  assert [*seen['groups.png']['real']] == ['digits', 'faces']
  assert [*seen['groups.png']['D']] == [*_GROUPS]
  assert next(iter(seen['between_D.png'])).startswith('digits → faces')


def test_one_group_has_no_way_to_another(seen, tmp_path):
  generators = {'D': group_models.of_vaes(_models(3))}
  source = _source(test_groups=(1,))
  drawn = group_gallery.draw_all(
    generators, source, tmp_path, between=['D'], seed=0
  )
  assert 'interpolations' not in {picture.section for picture in drawn}


@pytest.mark.parametrize('hierarchy', ['none', 'z1_top'])
def test_a_way_is_straight_in_every_level_and_decoded_by_both(hierarchy):
  start, end = _models(2, hierarchy=hierarchy)
  inputs = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 1), np.uint8)
  labels = np.array([1, 3], np.int32)
  ways = group_gallery.interpolate(
    start, end, Examples(inputs, labels), num_steps=5
  )
  means = [
    model.vae.infer(
      model.variables, inputs[i : i + 1] / np.float32(255), labels[i : i + 1],
      None,
    )[0].latents
    for i, model in enumerate((start, end))
  ]  # fmt: skip
  for i, (model, way) in enumerate(zip((start, end), ways, strict=True)):
    assert way.shape == (5, 4, 5, 1)
    assert way.dtype == np.uint8
    for step, share in enumerate((0, 0.25, 0.5, 0.75, 1)):
      latents = {
        level: (1 - share) * means[0][level] + share * means[1][level]
        for level in model.vae.latent_sizes
      }
      outputs, _ = model.vae.decode(model.variables, latents, labels[i : i + 1])
      expected = to_pixels(model.vae.likelihood.mean(outputs))[0]
      np.testing.assert_allclose(
        way[step].astype(int), np.asarray(expected, int), atol=1
      )
  assert (ways[0] != ways[1]).any()


def test_what_cannot_be_drawn_is_refused(tmp_path):
  small, large = _models(1) + _models(1, latent_size=3)
  source = _source()
  two = Examples(source.test.inputs[:2], source.test.labels[:2])
  with pytest.raises(InputError, match=r"sizes, got \{'z': 2\} and \{'z': 3\}"):
    group_gallery.interpolate(small, large, two)
  with pytest.raises(InputError, match='num_steps > 1, got num_steps=1'):
    group_gallery.interpolate(small, small, two, num_steps=1)
  with pytest.raises(InputError, match=r'two images, got \[60, 4, 5, 1\]'):
    group_gallery.interpolate(small, small, source.test)
  with pytest.raises(InputError, match="VAEs, got 'fedgan'"):
    group_gallery.draw_all(
      {'fedgan': _blank()}, source, tmp_path, between=['fedgan'], seed=0
    )
