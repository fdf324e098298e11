"""What every family of generators owes the package. A new one adds a row."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_gen import trees
from fedjax_gen.data.federated import Batch
from fedjax_gen.data.sources import DataSource, Examples
from fedjax_gen.errors import InputError
from fedjax_gen.models import generators
from fedjax_gen.models.elbo import ElboConfig
from fedjax_gen.models.flows.flow import FlowConfig
from fedjax_gen.models.flows.latent_flow import LatentFlowConfig
from fedjax_gen.models.gan import GanConfig
from fedjax_gen.models.generators import GENERATORS
from fedjax_gen.models.vae import DataSpec, VaeConfig
from fedjax_gen.running.saves import saved, saving
from fedjax_gen.types import Phase

_SPEC = DataSpec((4, 4, 1), 3)
_CONFIGS = [
  VaeConfig(model='mlp', latent_size=2, hidden_size=8),
  GanConfig(gan_latent_size=2, gan_channels=(4,)),
  FlowConfig(flow_channels=(4, 4), flow_width=8, flow_blocks=1, flow_steps=2),
]
_PART = Examples(np.zeros((3, 4, 4, 1), np.uint8), np.arange(3, dtype=np.int32))
_SOURCE = DataSource('toy', _PART, _PART, ('a', 'b', 'c'))
_LABELS = np.array([2, 0, 1, 1], np.int32)
_ALL = pytest.mark.parametrize('name', GENERATORS)


@functools.cache
def _built(name):
  generator = generators.build(name, _CONFIGS, _SPEC)
  variables = generator.init(jax.random.key(0))
  # Biases and scales that are zero hide what they multiply.
  return generator, jax.tree.map(
    lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(9), leaf.shape),
    variables,
  )


def _phases(generator, variables):
  if callable(generator.loss):
    return [Phase(generator.loss, tuple(variables))]
  return list(generator.loss)


@_ALL
def test_padding_counts_nothing_and_trained_modules_have_gradients(name):
  generator, variables = _built(name)
  images = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 1), np.uint8)
  mask = np.array([True, True, True, False])
  batch = Batch(jnp.asarray(images), jnp.asarray(_LABELS), jnp.asarray(mask))
  poisoned = batch._replace(inputs=batch.inputs.at[3].set(255))
  for phase in _phases(generator, variables):
    compute = jax.jit(jax.value_and_grad(phase.loss, has_aux=True))
    (loss, (after, metrics)), gradient = compute(
      variables, batch, jax.random.key(1)
    )
    (other, _), _ = compute(variables, poisoned, jax.random.key(1))
    np.testing.assert_array_equal(loss, other)
    chex.assert_trees_all_equal(after, variables)  # it has no statistics
    chex.assert_tree_all_finite((loss, metrics, gradient))
    for module in phase.modules:
      assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient[module]))


@_ALL
def test_an_example_depends_on_the_key_its_place_and_its_label_alone(name):
  generator, variables = _built(name)
  key = jax.random.key(2)
  images = generator.sample(variables, _LABELS, key)
  assert (images.shape, images.dtype) == ((4, 4, 4, 1), np.uint8)
  fewer = generator.sample(variables, _LABELS[:2], key)
  np.testing.assert_allclose(images[:2], fewer, atol=1)
  changed = generator.sample(variables, np.array([2, 0, 0, 1]), key)
  np.testing.assert_array_equal(images[[0, 1, 3]], changed[[0, 1, 3]])
  assert np.any(images[2] != changed[2]) == generator.conditional
  other = generator.sample(variables, _LABELS, jax.random.key(3))
  assert np.any(images != other)


@_ALL
def test_saved_and_loaded_it_samples_the_same_bits(name, tmp_path):
  generator, variables = _built(name)
  saving.save_generator(tmp_path, 'm', name, _CONFIGS, _SOURCE, variables)
  model = saved.load_model(tmp_path)
  assert model.kind == name
  images, _ = model.sample(4, labels=_LABELS if generator.conditional else None)
  np.testing.assert_array_equal(
    images, generator.sample(variables, _LABELS, jax.random.key(0))
  )
  kept = generator.sampled or tuple(variables)
  chex.assert_trees_all_equal(
    model.variables, {module: variables[module] for module in kept}
  )


@_ALL
def test_what_is_measured_is_finite_and_reads_held_out_examples(name):
  generator, variables = _built(name)
  if generator.bounds is None:
    return
  arguments = (_PART.inputs, _PART.labels, jax.random.key(4))
  metrics = generator.bounds(variables, *arguments)
  assert np.isfinite(list(metrics.values())).all()
  white = generator.bounds(variables, _PART.inputs + 255, *arguments[1:])
  assert metrics.keys() == white.keys()
  assert metrics != white
  assert generator.best is None or generator.best in metrics


@_ALL
def test_fields_of_configurations_are_flags_without_a_twin(name):
  del name
  classes = {
    cls
    for family in GENERATORS.values()
    for cls in (*family.model, *family.training)
  }
  names = [field.name for cls in classes for field in dataclasses.fields(cls)]
  assert len(set(names)) == len(names)
  configs = generators.own_configs(VaeConfig, ElboConfig)
  assert {type(config) for config in configs} == classes - {
    VaeConfig,
    ElboConfig,
  }


@pytest.mark.parametrize('name', ['flow', 'latent_flow'])
def test_a_loaded_flow_is_sampled_from_with_other_steps(name, tmp_path):
  generator, variables = _built(name)
  saving.save_generator(tmp_path, 'm', name, _CONFIGS, _SOURCE, variables)
  model = saved.load_model(tmp_path)
  images, labels = model.sample(6)
  same, _ = model.sample(6, steps=2, solver='heun', guidance=0.0)
  np.testing.assert_array_equal(images, same)
  for options in ({'steps': 1}, {'solver': 'euler'}, {'guidance': 2.0}):
    other, _ = model.sample(6, **options)
    assert np.any(other != images)
    key = jax.random.key(0)
    expected = generator.sample(variables, labels, key, **options)
    np.testing.assert_array_equal(other, expected)
  with pytest.raises(InputError, match="option='churn'"):
    model.sample(6, churn=1.0)
  with pytest.raises(InputError, match='flow_steps=0'):
    model.sample(6, steps=0)


def test_families_are_built_of_their_own_configurations():
  @dataclasses.dataclass(frozen=True)
  class Larger(ElboConfig):
    beta: float = 3.0

  spec = DataSpec((2,), 3)
  config = VaeConfig(model='mlp', hidden_size=4, latent_size=2)
  batch = Batch(jnp.ones((2, 2)), jnp.zeros(2, jnp.int32), jnp.ones(2, bool))

  def loss_of(*configs):
    generator = generators.build('vae', [config, *configs], spec)
    variables = generator.init(jax.random.key(0))
    return generator.loss(variables, batch, jax.random.key(1))

  loss, (_, metrics) = loss_of(Larger())
  expected = metrics['reconstruction'] + 3.0 * metrics['kl']
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  default, _ = loss_of()
  assert trees.num_bytes(default) == 4
  assert default != loss


@pytest.mark.parametrize(
  ('name', 'config', 'fields', 'words'),
  [
    ('diffusion', VaeConfig, {}, "got generator='diffusion'"),
    ('vae', VaeConfig, {'latent_size': 0}, 'latent_size=0'),
    ('vae', ElboConfig, {'beta': -1.0}, 'beta=-1.0'),
    ('gan', GanConfig, {'gan_r1': -1.0}, 'gan_r1=-1.0'),
    ('flow', FlowConfig, {'flow_steps': 0}, 'flow_steps'),
    ('flow', FlowConfig, {'flow_solver': 'rk4'}, "flow_solver='rk4'"),
    ('flow', FlowConfig, {'flow_channels': ()}, 'at least one size'),
    ('flow', FlowConfig, {'flow_network': 'mlp'}, 'unet or transformer for'),
    (
      'flow',
      FlowConfig,
      {'flow_network': 'transformer', 'flow_width': 6},
      'flow_width=6',
    ),
    (
      'flow',
      FlowConfig,
      {'flow_guidance': 1.0, 'flow_label_dropout': 0.0},
      'flow_label_dropout > 0',
    ),
    (
      'latent_flow',
      FlowConfig,
      {'flow_network': 'unet'},
      'mlp or transformer',
    ),
    (
      'latent_flow',
      LatentFlowConfig,
      {'autoencoder_rounds': 0},
      'autoencoder_rounds=0',
    ),
    (
      'latent_flow',
      VaeConfig,
      {'hierarchy': 'z1_top'},
      "hierarchy='z1_top'",
    ),
  ],
)
def test_what_does_not_fit_is_refused_by_name(name, config, fields, words):
  with pytest.raises(InputError, match=words):
    generators.build(name, [config(**fields)], DataSpec((8, 8, 1), 10))
