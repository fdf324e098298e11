"""What an attacker on a folder measures: noise that is left, noise shared."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_gen.privacy import plan as plans, secret_keys
from fedjax_gen.privacy.one_upload import (
  class_moments,
  gaussian_release,
  one_release,
)
from fedjax_gen.privacy.steps import descent
from tests.federated import toys

_CLIENTS = 5
_DATA = toys.dataset([40] * _CLIENTS)


def _plan(**fields):
  config = plans.PrivacyConfig(
    'record', epsilon=8.0, accountant='rdp', clip_norm=0.7, **fields
  )
  return plans.record_plan(
    config, np.asarray(_DATA.sizes), batch_size=20, epochs=0.0, rounds=3
  )


def _messages(plan, size=20_000):
  """`[N, size]` messages of a loss that no record moves: noise alone."""
  gradient = descent.private_gradient(
    lambda variables, record, key: (0.0 * variables['shared'].sum(), {}), plan
  )
  variables = descent.Parts(shared=jnp.zeros(size), own=())
  key = secret_keys.nominal(0).key('FedHypeVAE', 'training')

  @jax.jit
  def message(row):
    own_key = jax.random.fold_in(key, row)
    return gradient(variables, _DATA.client(row), own_key)[0]['shared']

  return np.stack([message(jnp.int32(row)) for row in range(_CLIENTS)])


@pytest.mark.parametrize('colluding', [0, 1, 2])
def test_shares_leave_the_noise_that_is_charged_to_who_subtracts_its_own(
  colluding,
):
  plan = _plan(noise_placement='distributed', colluding=colluding)
  sizes = np.asarray(_DATA.sizes)[:, None]
  # The attackers see the sum and know their own messages, noise included.
  left = (sizes * _messages(plan))[colluding:].sum(axis=0) * plan.sampling_rate
  charged = plan.noise_multiplier * plan.max_norm
  np.testing.assert_allclose(left.std(), charged, rtol=0.02)


def test_every_message_has_the_whole_noise_where_nobody_is_trusted():
  plan = _plan()
  noise = _messages(plan) * plan.sampling_rate * 40
  charged = plan.noise_multiplier * plan.max_norm
  np.testing.assert_allclose(noise.std(axis=1), charged, rtol=0.02)
  correlations = np.corrcoef(noise)[np.triu_indices(_CLIENTS, 1)]
  assert np.abs(correlations).max() < 4 / np.sqrt(noise.shape[1])


def test_releases_of_a_run_have_noise_as_charged_and_of_their_own():
  """Class moments and class Gaussians, of one run of one method."""
  secrets, size = secret_keys.nominal(1), 200
  rng = np.random.default_rng(0)
  data = toys.dataset([30, 30])
  inputs = rng.normal(size=(60, size)).astype(np.float32)
  data = dataclasses.replace(data, inputs=jnp.asarray(inputs))

  def noise_of(release, purpose):
    key = secrets.key('FedHypeVAE', purpose)
    noised, exact = release(key, 1.5), release(key, 0.0)
    parts = jax.tree.map(lambda a, b: np.ravel(a - b), noised, exact)
    return np.concatenate(jax.tree.leaves(parts))

  def gaussians(key, noise_multiplier):
    statistic = gaussian_release.GaussianStatistic(2, 'pooled')
    return one_release.release(
      key, data, statistic, noise_multiplier=noise_multiplier
    )

  def moments(key, noise_multiplier):
    sums = class_moments.class_sums(
      key, data, 2, noise_multiplier=noise_multiplier
    )
    ones = jax.tree.map(jnp.ones_like, sums)
    scale = class_moments.restored(ones)
    return jax.tree.map(lambda total, unit: total / unit, sums, scale)

  first = noise_of(moments, 'class moments')
  second = noise_of(gaussians, 'training')
  expected = 1.5 * np.sqrt(2)  # two clients
  np.testing.assert_allclose(first.std(), expected, rtol=0.1)
  np.testing.assert_allclose(second.std(), expected, rtol=0.02)
  shared = min(first.size, second.size)
  found = np.corrcoef(first[:shared], second[:shared])[0, 1]
  assert abs(found) < 4 / np.sqrt(shared)
