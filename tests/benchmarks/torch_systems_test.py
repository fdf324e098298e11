"""The PyTorch loops of the benchmark train the library's models."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.contestants import system
from benchmarks.tasks import Task
from fedjax_gen.algorithms import fissionvae
from fedjax_gen.data.federated import Batch
from fedjax_gen.models import elbo, vae as vaes
from tests.models.counting import num_parameters

torch = pytest.importorskip('torch')
torch_systems = pytest.importorskip('benchmarks.contestants.torch_systems')
torch_loop = pytest.importorskip('benchmarks.contestants.torch_loop')

# Flax's modules in the order in which PyTorch's stand.
PAPER = {
  'encoder': (
    'trunk.Conv_0',
    'trunk.Norm_0.BatchNorm_0',
    'trunk.Conv_1',
    'trunk.Norm_1.BatchNorm_0',
    'Heads_0.Dense_0',
  ),
  'decoder': (
    'Dense_0',
    'ConvTranspose_0',
    'Norm_0.BatchNorm_0',
    'ConvTranspose_1',
    'Norm_1.BatchNorm_0',
  ),
}
FISSION = {
  'encoder': (
    'trunk.Conv_0',
    'trunk.Norm_0.GroupNorm_0',
    'trunk.Conv_1',
    'trunk.Norm_1.GroupNorm_0',
    'trunk.Dense_0',
    'Heads_0.Dense_0',
  ),
  'decoder': (
    'Dense_0',
    'Dense_1',
    'Norm_0.GroupNorm_0',
    'ConvTranspose_0',
    'Norm_1.GroupNorm_0',
    'ConvTranspose_1',
  ),
}
CASES = {
  'fedvae_paper': (system.paper_vae, PAPER, (24, 24, 32)),
  'fissionvae': (system.fission_vae, FISSION, (8, 8, 64)),
}


@pytest.mark.parametrize('name', CASES)
def test_the_loss_is_the_librarys_to_rounding(name):
  build, modules, grid = CASES[name]
  vae, model = build(), torch_systems.MODELS[name][0]()[0]
  variables = _random(jax.eval_shape(vae.init, jax.random.key(0)))
  for part, names in modules.items():
    _copy(variables[part]['params'], names, grid, getattr(model, part))
  channels, height, width = torch_systems.MODELS[name][1]
  images = np.random.default_rng(0).random(
    (3, height, width, channels), np.float32
  )
  prior = vaes.fixed_prior({'z': jnp.asarray(model.prior_mean.numpy())})
  key = jax.random.key(1)
  batch = Batch(images, jnp.zeros(3, jnp.int32), jnp.ones(3, bool))
  expected, _ = jax.jit(elbo.elbo_loss(vae))(
    variables | {'prior': prior}, batch, key
  )
  noise = jax.random.normal(key, (3, vae.latent_sizes['z']))
  loss = model(
    torch.from_numpy(images.transpose(0, 3, 1, 2).copy()),
    torch.from_numpy(np.array(noise)),
  )
  assert loss.item() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize('name', CASES)
def test_parameters_are_as_many(name):
  variables = jax.eval_shape(CASES[name][0]().init, jax.random.key(0))
  expected = num_parameters(variables)
  assert name != 'fedvae_paper' or expected == 11_087_731
  for model in torch_systems.MODELS[name][0]():
    assert sum(one.numel() for one in model.parameters()) == expected


def test_prior_means_are_the_librarys():
  expected = fissionvae.prior_means(
    fissionvae.Config(), system.fission_vae(), 2
  )['z']
  means = [model.prior_mean for model in torch_systems.fissionvae()]
  np.testing.assert_allclose(torch.stack(means), expected, rtol=1e-6)


def test_groups_share_the_encoder_and_keep_their_decoders():
  run = torch_loop.build(Task('fissionvae', clients=3, steps=1, batch=2))
  start = [one.detach().clone() for one in run._server[0].parameters()]
  run()
  first, second = run._server
  assert _equal(first.encoder, second.encoder)
  assert not _equal(first.decoder, second.decoder)
  assert all(
    not torch.equal(a, b)
    for a, b in zip(start, first.parameters(), strict=True)
  )
  # The second group is one client: its mean is what that client has.
  assert _equal(second.decoder, run._clients[1].decoder)


def test_a_client_keeps_its_moments_and_not_its_weights():
  run = torch_loop.build(Task('fissionvae', clients=2, steps=1, batch=2))
  run()
  run()
  assert {one['step'].item() for one in run._descents[0].state.values()} == {2}
  assert not _equal(run._clients[0].encoder, run._server[0].encoder)


def _equal(module, other) -> bool:
  return all(
    torch.equal(a, b)
    for a, b in zip(module.parameters(), other.parameters(), strict=True)
  )


def _random(shapes):
  """Numbers for every parameter: zero biases would hide mistakes."""
  rng = np.random.default_rng(0)

  def draw(leaf):
    fan_in = math.prod(leaf.shape[:-1])
    return jnp.asarray(
      rng.standard_normal(leaf.shape) / fan_in**0.5, leaf.dtype
    )

  return jax.tree.map(draw, shapes)


def _copy(params, names, grid, sequence) -> None:
  """Puts parameters of Flax's modules into those of a `Sequential`."""
  layers = [layer for layer in sequence if list(layer.parameters())]
  for name, layer in zip(names, layers, strict=True):
    own = params
    for part in name.split('.'):
      own = own[part]
    weight, bias = _converted(name, jax.tree.map(np.asarray, own), grid)
    with torch.no_grad():
      layer.weight.copy_(torch.from_numpy(weight.copy()))
      layer.bias.copy_(torch.from_numpy(bias.copy()))


def _converted(name, own, grid):
  """Weight and bias as PyTorch has them; `grid` is what is flattened."""
  bias = own['bias']
  if 'Norm' in name:
    return own['scale'], bias
  kernel = own['kernel']
  if 'ConvTranspose' in name:
    return kernel.transpose(2, 3, 0, 1), bias
  if 'Conv' in name:
    return kernel.transpose(3, 2, 0, 1), bias
  # Channels come last here, and first there.
  size = math.prod(grid)
  order = np.arange(size).reshape(grid).transpose(2, 0, 1).ravel()
  if kernel.shape[0] == size:
    kernel = kernel[order]
  if kernel.shape[1] == size:
    kernel, bias = kernel[:, order], bias[order]
  return kernel.T, bias
