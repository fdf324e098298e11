"""What the tasks of the benchmark say that they cost."""

import jax
import pytest

from benchmarks import models, tasks
from benchmarks.contestants import system
from benchmarks.tasks import Task


def test_operations_are_those_of_the_layers():
  # Forward, and backward twice that, but no gradient of the pixels.
  macs = 784 * 256 + 256 * 32 + 16 * 256 + 256 * 784
  expected = 2 * (3 * macs - 784 * 256) * 2 * 3 * 4
  assert Task('mlp_vae', clients=2, steps=3, batch=4).flops == expected


def test_bytes_are_those_of_products_and_optimizer():
  layers = [(784, 256), (256, 32), (16, 256), (256, 784)]
  weights = [i * o for i, o in layers]
  one_pass = [4 * (i + o) + i * o for i, o in layers]
  # Three passes, but no gradient of the pixels; Adam's seven arrays.
  numbers = 3 * sum(one_pass) - one_pass[0] + 7 * sum(weights)
  task = Task('mlp_vae', clients=2, steps=3, batch=4)
  assert task.bytes_needed == 4 * numbers * 2 * 3


@pytest.mark.parametrize('name', ['conv_vae', 'mlp_vae', 'emnist_conv'])
def test_layers_have_the_weights_of_the_models(name):
  _check_weights(name, models.build(name).init)


@pytest.mark.parametrize(
  ('name', 'build'),
  [('fedvae_paper', system.paper_vae), ('fissionvae', system.fission_vae)],
)
def test_layers_have_the_weights_and_products_of_the_systems(name, build):
  _check_weights(name, build().init)
  task = Task(name, clients=2, steps=1, batch=32)
  counted = system.flops(system.build_system(task))
  # The program also multiplies zeros around images, and weighs messages.
  assert task.flops < counted < 1.1 * task.flops


def _check_weights(name, init):
  variables = jax.eval_shape(init, jax.random.key(0))
  kernels = sorted(
    leaf.size for leaf in jax.tree.leaves(variables) if leaf.ndim > 1
  )
  assert kernels == sorted(layer.weights for layer in tasks._LAYERS[name])
