"""The models of the tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import models


# A byte of a word for each quarter of a batch, which need not have quarters.
@pytest.mark.parametrize('batch', [1, 6, 8])
def test_dropout_keeps_the_mean_of_every_example(batch):
  values, rate = jnp.ones((batch, 64, 64)), 0.25
  dropped = models._dropped(jax.random.key(0), values, rate)
  kept = np.asarray(dropped) > 0
  np.testing.assert_allclose(dropped[kept], 1 / (1 - rate), rtol=1e-6)
  # Five standard deviations of the mean of 4,096 draws.
  deviation = (rate * (1 - rate) / 4096) ** 0.5
  np.testing.assert_allclose(kept.mean((1, 2)), 1 - rate, atol=5 * deviation)
  # No two examples are dropped alike.
  assert len(np.unique(kept.reshape(batch, -1), axis=0)) == batch
