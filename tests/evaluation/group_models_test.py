"""Generators asked for images of a group, by models whose numbers are known."""

from flax import core
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_gen.data.sources import DataSource, Examples
from fedjax_gen.evaluation import (
  group_models,
  group_requests,
  group_separation,
  groups as groups_lib,
)
from fedjax_gen.evaluation.group_models import GroupGenerator, GroupVae
from fedjax_gen.evaluation.networks import features
from fedjax_gen.evaluation.vaes import EvaluationConfig
from fedjax_gen.losses import gaussian, likelihoods
from fedjax_gen.models import generators
from fedjax_gen.models.gan import GanConfig
from fedjax_gen.models.vae import DataSpec, Inference, Vae

_SHAPE = (2, 3, 1)
_NAMES = ('dark', 'a bit grey', 'bright')
_GREYS = np.array([20, 120, 230])


def _vae():
  """A VAE of one latent: its grey, times a gain, plus a shift.

  Asked for class c it makes images of grey 0.1 c plus the shift.
  """

  def infer(variables, data, labels, key, mask=None):
    del labels, mask
    mean = data.mean(axis=(1, 2, 3))[:, None] * variables['gain']
    mean = mean + variables['shift']
    latents = mean
    if key is not None:
      latents = mean + 0.01 * jax.random.normal(key, mean.shape)
    posterior = gaussian.Gaussian(mean, jnp.zeros_like(mean))
    prior = gaussian.standard(mean.shape)
    kl = {'z': 0.5 * mean[:, 0] ** 2}
    return Inference({'z': latents}, {'z': posterior}, {'z': prior}, kl), {}

  def ancestral(variables, labels, key):
    del key
    return {'z': (0.1 * labels + variables['shift'])[:, None]}

  def decode(variables, latents, labels, mask=None):
    del variables, labels, mask
    grey = latents['z'][:, None, None, :]
    return jnp.broadcast_to(grey, (*grey.shape[:1], *_SHAPE)), {}

  return Vae(
    lambda key: _variables(),
    infer,
    ancestral,
    decode,
    likelihoods.gaussian(bounded=False)._replace(mean=lambda outputs: outputs),
    core.FrozenDict(z=1),
    True,
  )


_VAE = _vae()


def _variables(gain=1.0, shift=0.0):
  return {'gain': jnp.float32(gain), 'shift': jnp.float32(shift)}


def _models(*shifts, gain=1.0):
  return group_models.of_vaes(
    [GroupVae(_VAE, _variables(gain, shift)) for shift in shifts]
  )


def _source(train=(12, 6, 2), test=(4, 1, 3), *, shuffled=True):
  """Images whose grey tells their group; classes that differ by group."""

  def part(sizes, seed):
    rng = np.random.default_rng(seed)
    kinds = np.repeat(np.arange(3), sizes)
    if shuffled:
      kinds = rng.permutation(kinds)
    noise = rng.integers(-9, 10, (len(kinds), *_SHAPE))
    inputs = (_GREYS[kinds][:, None, None, None] + noise).astype(np.uint8)
    # Group 0 has classes 0 and 1, a third of it 1; the others their own.
    first = np.cumsum(kinds == 0) % 3 == 0
    labels = np.where(kinds == 0, first, kinds + 1)
    return Examples(
      inputs, labels.astype(np.int32), groups=kinds.astype(np.int32)
    )

  return DataSource(
    'shades', part(train, 0), part(test, 1), tuple('abcd'), group_names=_NAMES
  )


_SOURCE = _source()


def _by_brightness(inputs):
  return np.eye(3)[np.digitize(inputs.mean(axis=(1, 2, 3)), [85, 170])]


def _reference(source):
  few = features.FeatureExtractor(
    'pixels',
    lambda images: images[:, 0, :, 0] / np.float32(255),
    None,
    '',
  )
  kinds = features.FeatureExtractor('kinds', few.features, _by_brightness, '')
  return groups_lib.group_reference(
    source, groups_lib.GroupExtractors(few, kinds)
  )


def _recording():
  """A generator whose images say the group, and what it was asked."""
  asked = []

  def sample(group, labels, key):
    asked.append((group, np.asarray(labels), jax.random.key_data(key).tolist()))
    return np.full((len(labels), *_SHAPE), group, np.uint8)

  return GroupGenerator(sample), asked


def test_samples_are_drawn_in_the_proportions_of_groups_and_classes():
  generator, asked = _recording()
  images, requested, labels = group_models.draw(generator, _SOURCE, 40, seed=3)
  np.testing.assert_array_equal(
    requested, group_requests.requested_groups(_SOURCE, 40)
  )
  np.testing.assert_array_equal(np.bincount(requested), [24, 12, 4])
  np.testing.assert_array_equal(images[:, 0, 0, 0], requested)
  assert images.shape == (40, *_SHAPE)
  np.testing.assert_array_equal(np.bincount(labels), [16, 8, 12, 4])
  assert set(labels[requested == 1]) == {2}
  np.testing.assert_array_equal(labels, np.concatenate([a[1] for a in asked]))
  assert [group for group, _, _ in asked] == [0, 1, 2]
  assert all(type(group) is int for group, _, _ in asked)


def test_each_group_has_its_own_key_whatever_is_drawn_beside_it():
  def keys(num, seed, source=_SOURCE):
    generator, asked = _recording()
    group_models.draw(generator, source, num, seed=seed)
    return {group: tuple(key) for group, _, key in asked}

  first = keys(40, 0)
  assert len(set(first.values())) == 3
  assert keys(40, 0) == keys(90, 0) == first
  assert not set(keys(40, 1).values()) & set(first.values())
  # One sample is of the first group, whose key is still its own.
  assert keys(1, 0) == {0: first[0]}
  assert keys(40, 0, _source((0, 6, 2))) == {g: first[g] for g in (1, 2)}


def test_labels_of_a_group_are_those_of_its_training_data_in_order():
  labels = group_models.labels_of(_SOURCE, 0, 6)
  np.testing.assert_array_equal(labels, [0, 0, 0, 0, 1, 1])
  np.testing.assert_array_equal(group_models.labels_of(_SOURCE, 2, 3), [3] * 3)
  assert group_models.labels_of(_SOURCE, 0, 1).tolist() == [0]


def test_a_group_is_asked_of_its_own_model_and_with_its_labels():
  generator = _models(0.0, 0.5, 0.25)
  images, requested, labels = group_models.draw(generator, _SOURCE, 20, seed=0)
  assert images.dtype == np.uint8
  shifts = np.array([0.0, 0.5, 0.25])[requested]
  expected = np.round((0.1 * labels + shifts) * 255)
  np.testing.assert_allclose(images[:, 1, 2, 0], expected, atol=1)
  assert len(generator.models) == 3


def test_a_gan_is_asked_for_no_group_and_has_no_bounds():
  config = GanConfig(gan_latent_size=2, gan_channels=(2,))
  gan = generators.build('gan', [config], DataSpec(_SHAPE, 4))
  generator = group_models.of_one(gan, gan.init(jax.random.key(0)))
  key = jax.random.key(1)
  first, second = (
    generator.sample(group, np.full(5, group), key) for group in (0, 2)
  )
  np.testing.assert_array_equal(first, second)
  assert (first.shape, first.dtype) == ((5, *_SHAPE), np.uint8)
  assert generator.models == ()
  assert group_models.bounds(generator, _SOURCE, seed=0) == {}
  config = EvaluationConfig(num_samples=20, importance_samples=2)
  assert group_models.evaluate([generator], _SOURCE, None, config, seed=0) == {}
  measured = group_models.evaluate(
    [generator], _SOURCE, _reference(_SOURCE), config, seed=0
  )
  assert 'group_leakage' in measured
  assert not [n for n in measured if 'elbo' in n or 'separation' in n]


def _kl(source, group, shift, rows=slice(None)):
  own = source.test.inputs[source.test.groups == group][rows]
  return np.mean(0.5 * (own.mean(axis=(1, 2, 3)) / 255 + shift) ** 2)


def test_bounds_of_all_are_the_mean_over_examples_of_the_groups_own():
  shifts = (0.0, 1.0, -2.0)
  found = group_models.bounds(_models(*shifts), _SOURCE, seed=0)
  names = ('dark', 'a_bit_grey', 'bright')
  by_group = [_kl(_SOURCE, group, shift) for group, shift in enumerate(shifts)]
  for name, kl in zip(names, by_group, strict=True):
    np.testing.assert_allclose(found[f'test_kl/{name}'], kl, rtol=1e-5)
  pooled = np.average(by_group, weights=[4, 1, 3])
  np.testing.assert_allclose(found['test_kl'], pooled, rtol=1e-5)
  assert abs(pooled - np.mean(by_group)) > 0.01 * pooled
  metrics = ('test_elbo', 'test_reconstruction', 'test_kl')
  for metric in metrics:
    of_groups = [found[f'{metric}/{name}'] for name in names]
    np.testing.assert_allclose(
      found[metric], np.average(of_groups, weights=[4, 1, 3]), rtol=1e-5
    )
  assert set(found) == {
    f'{metric}{suffix}'
    for metric in metrics
    for suffix in ('', *(f'/{name}' for name in names))
  }


def test_bounds_of_a_few_examples_are_of_the_first_of_each_group():
  found = group_models.bounds(
    _models(0.0, 1.0, -2.0),
    _SOURCE,
    seed=0,
    max_examples=2,
    importance_samples=3,
  )
  kl = [
    _kl(_SOURCE, group, shift, slice(2))
    for group, shift in enumerate((0.0, 1.0, -2.0))
  ]
  for name, expected in zip(('dark', 'a_bit_grey', 'bright'), kl, strict=True):
    np.testing.assert_allclose(found[f'test_kl/{name}'], expected, rtol=1e-5)
    assert f'test_iw_bound_3/{name}' in found
  # The groups' shares of all examples, not of the few.
  np.testing.assert_allclose(
    found['test_kl'], np.average(kl, weights=[4, 1, 3]), rtol=1e-5
  )


def test_the_seed_decides_the_draws_of_bounds():
  def elbo(seed):
    return group_models.bounds(_models(0.0, 0.0, 0.0), _SOURCE, seed=seed)[
      'test_elbo'
    ]

  assert elbo(0) == elbo(0) != elbo(1)


@pytest.mark.parametrize(
  ('generator', 'expected'),
  [
    # Latents that tell the grey; that tell nothing; that overlap where each
    # group's model shifts them; and that the models alone tell apart.
    (_models(0.0, 0.0, 0.0), 1.0),
    (_models(0.0, 0.0, 0.0, gain=0.0), 0.5),
    (_models(0.0, 1.0, 2.0, gain=0.0), 1.0),
  ],
)
def test_a_probe_reads_the_group_off_its_own_model_s_latents(
  generator, expected
):
  assert group_models.separation(generator, _SOURCE) == expected


def test_the_probe_looks_at_few_examples_of_every_group(monkeypatch):
  monkeypatch.setattr(group_models, '_MAX_PROBED', 6)
  source = _source((30, 30, 30), (20, 20, 20), shuffled=False)
  probed = []

  def note(latents, groups, *held_out):
    probed.append((len(latents), sorted(set(groups.tolist()))))
    probed.append((len(held_out[0]), sorted(set(held_out[1].tolist()))))
    return 1.0

  monkeypatch.setattr(group_separation, 'linear_probe', note)
  group_models.separation(_models(0.0, 0.0, 0.0), source)
  assert probed == [(6, [0, 1, 2]), (6, [0, 1, 2])]


def test_several_generators_are_measured_by_their_mean():
  source = _source((20, 20, 20), (12, 12, 12))
  reference = _reference(source)
  config = EvaluationConfig(num_samples=36, importance_samples=2)
  # The first makes each group's grey, the second the same for all.
  good = _models(0.0, 0.25, 0.6)
  bad = _models(0.0, -0.2, -0.3)

  def evaluate(*generators):
    return group_models.evaluate(generators, source, reference, config, seed=0)

  one, other, both = evaluate(good), evaluate(bad), evaluate(good, bad)
  assert one['group_leakage'] == 0
  assert other['group_leakage'] == pytest.approx(2 / 3)
  assert set(one) == set(other) == set(both)
  assert {
    'test_elbo/dark', 'test_iw_bound_2', 'latent_separation', 'fid_pixels',
    'fid_pixels/bright', 'group_mean_fid_pixels', 'group_leakage/a_bit_grey',
  } <= set(both)  # fmt: skip
  for name, value in both.items():
    assert isinstance(value, float)
    np.testing.assert_allclose(
      value, (one[name] + other[name]) / 2, rtol=1e-6, atol=1e-9, err_msg=name
    )


def test_curves_follow_the_cheap_part_of_the_final_measures():
  source = _source((20, 20, 20), (12, 12, 12))
  reference = _reference(source)
  generators = [_models(0.0, 0.25, 0.6), _models(0.0, -0.2, -0.3)]

  def follow(reference):
    return group_models.follow(
      generators, source, reference, num_samples=30, max_examples=12, seed=0
    )

  found = follow(reference)
  config = EvaluationConfig(num_samples=30, importance_samples=0)
  final = group_models.evaluate(generators, source, reference, config, seed=0)
  assert set(found) < set(final)
  assert {'test_elbo', 'latent_separation', 'fid_pixels', 'group_leakage'} <= (
    set(found)
  )
  for name, value in found.items():
    np.testing.assert_allclose(value, final[name], rtol=1e-6, err_msg=name)
  assert not [name for name in follow(None) if 'fid' in name or 'leak' in name]
  assert 'test_elbo' in follow(None)
