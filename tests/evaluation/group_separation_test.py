import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import group_separation


def test_leakage_of_sure_and_of_blind_classifiers():
  requested = np.array([0, 1, 2, 3] * 5)
  sure = np.eye(4)[requested]
  assert group_separation.leakage(sure, requested) == (0.0, 0.0)
  assert group_separation.leakage(sure, (requested + 1) % 4) == (1.0, 0.0)
  blind = group_separation.leakage(
    np.full([20, 4], 0.25, np.float32), requested
  )
  assert blind.leakage == 0.75
  np.testing.assert_allclose(blind.entropy, np.log(4), rtol=1e-6)


def test_leakage_is_a_share_and_entropy_a_mean_over_samples():
  probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [1.0, 0.0]])
  found = group_separation.leakage(probabilities, np.array([0, 1, 1, 1]))
  assert found.leakage == 0.5
  each = [-sum(p * np.log(p) for p in row if p) for row in probabilities]
  np.testing.assert_allclose(found.entropy, np.mean(each))


def test_leakage_refuses_what_are_no_probabilities_or_groups():
  even = np.full([2, 2], 0.5)
  with pytest.raises(InputError, match=r'adding up to 4\.\.4'):
    group_separation.leakage(4 * even, np.array([0, 1]))
  with pytest.raises(InputError, match='probabilities >= 0'):
    group_separation.leakage(np.array([[1.5, -0.5]]), np.array([0]))
  with pytest.raises(InputError, match=r'requested in 0\.\.1, got 0\.\.2'):
    group_separation.leakage(even, np.array([0, 2]))
  with pytest.raises(InputError, match='requested to be 2 whole numbers'):
    group_separation.leakage(even, np.array([0, 1, 1]))


def test_probe_finds_groups_that_differ_and_no_others():
  rng = np.random.default_rng(0)
  kinds = rng.permutation(np.repeat([0, 1, 2], [200, 100, 100]))
  noise = rng.normal(size=[400, 3])
  halves = slice(0, 200), slice(200, 400)

  def probed(latents):
    (ours, theirs) = halves
    return group_separation.linear_probe(
      latents[ours], kinds[ours], latents[theirs], kinds[theirs]
    )

  apart = noise.copy()
  apart[:, 0] += 8 * (kinds == 1)
  apart[:, 1] += 8 * (kinds == 2)
  assert probed(apart) > 0.98
  assert probed(apart) == probed(apart)
  assert abs(probed(noise) - np.mean(kinds[halves[1]] == 0)) < 0.1
  # Neither a tiny scale nor a large offset nor dead dimensions hide them.
  dead = np.concatenate([1e-4 * apart + 50, np.full([400, 2], 3.0)], axis=1)
  assert probed(dead.astype(np.float64)) > 0.98
  assert probed(np.zeros([400, 2], np.float32)) == np.mean(
    kinds[halves[1]] == 0
  )


def test_probe_does_without_some_of_the_groups():
  latents = np.repeat(np.arange(3.0), 10)[:, None]
  kinds = np.repeat(np.arange(3), 10)
  some = kinds < 2
  assert (
    group_separation.linear_probe(latents, kinds, latents[some], kinds[some])
    == 1
  )
  found = group_separation.linear_probe(
    latents[some], kinds[some], latents, kinds
  )
  np.testing.assert_allclose(found, 2 / 3)
  only = kinds == 1
  found = group_separation.linear_probe(
    latents[only], kinds[only], latents, kinds
  )
  np.testing.assert_allclose(found, 1 / 3)
  with pytest.raises(InputError, match='held_out_groups to be 30 whole'):
    group_separation.linear_probe(latents, kinds, latents, kinds[some])
  with pytest.raises(InputError, match='held_out_latents to be finite'):
    group_separation.linear_probe(latents, kinds, latents * np.nan, kinds)
