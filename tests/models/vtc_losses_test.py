"""L_DM, where only some of the classes are known to anyone."""

from typing import NamedTuple

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.federated.statistics.class_gaussians import ClassGaussians
from fedjax_gen.models import vtc_losses

_C, _F = 20, 4


class _Model(NamedTuple):
  """A classifier for which every image has the feature zero."""

  num_classes: int = _C

  def features(self, variables, images):
    del variables
    return jnp.zeros((len(images), _F))

  def logits(self, head, features):
    del head
    return jnp.zeros((len(features), _C))


class _Vtc(NamedTuple):
  """A generator of nothing."""

  def decode(self, variables, latents):
    del variables
    return jnp.zeros((len(latents), 2, 2, 1))


class MatchingTest(parameterized.TestCase):
  @parameterized.product(num_known=[0, 1, 3, 12, 20], num=[8, 64])
  def test_it_is_on_average_the_sum_over_all_known_classes(
    self, num_known, num
  ):
    known = jnp.arange(_C) < num_known
    # Class y lies at squared distance y + 1 from what is generated.
    squared = jnp.where(known, jnp.arange(_C) + 1.0, 0.0)
    means = jnp.tile(jnp.sqrt(squared / _F)[:, None], (1, _F))
    gaussians = ClassGaussians(known, means, jnp.full((1, _F), 1e-3))

    def one(key):
      return vtc_losses.matching(
        vtc_losses.GeneratorLosses(), _Vtc(), _Model(), {}, {'head': {}},
        gaussians, num, key,
      )['matching']  # fmt: skip

    values = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 2000))
    expected = num_known * (num_known + 1) / 2
    np.testing.assert_allclose(values.mean(), expected, rtol=0.05)


if __name__ == '__main__':
  absltest.main()
