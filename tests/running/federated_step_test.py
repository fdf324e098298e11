"""Rounds as numbers for a log, and a round that is only traced."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_gen.algorithms import fedvae
from fedjax_gen.data import partition
from fedjax_gen.data.federated import federated_dataset
from fedjax_gen.errors import InputError
from fedjax_gen.federated import rounds, sampling
from fedjax_gen.models import vae as vaes
from fedjax_gen.running import federated_step

_DATA = federated_dataset(
  np.ones((6, 3), np.float32),
  np.zeros(6, np.int32),
  partition.iid(6, 2, seed=0),
)


def _metrics(values, present, weight, row):
  """Metrics of one fleet, `[R, K]` each."""
  cohort = sampling.Cohort(*map(jnp.asarray, (row, present, weight)))
  return rounds.RoundMetrics(
    {'update_norm': jnp.ones(len(values))},
    ({'loss': jnp.asarray(values)},),
    (cohort,),
  )


def _algorithm(batch_size=2, hidden_size=4):
  config = vaes.VaeConfig(model='mlp', latent_size=2, hidden_size=hidden_size)
  vae = vaes.build_vae(config, vaes.DataSpec((3,), 1))
  return fedvae.fedvae(fedvae.Config(batch_size=batch_size), vae)


def test_means_weigh_clients_as_their_messages_and_bytes_count_who_came():
  summary = federated_step.summarise(
    _metrics([[1.0, 4.0, 9.0]], [[True, True, False]], [[1.0, 3.0, 5.0]],
             [[7, 2, 4]]),
    [rounds.Traffic(bytes_down=10, bytes_up=100)],
  )  # fmt: skip
  np.testing.assert_allclose(summary['loss'], [(1 + 3 * 4) / 4])
  assert summary['participants'] == [2]
  assert summary['bytes_down'] == [20]
  assert summary['bytes_up'] == [200]
  np.testing.assert_array_equal(summary['client_per_client'], [[7, 2, 4]])
  np.testing.assert_array_equal(summary['loss_per_client'], [[1, 4, 9]])


def test_the_nan_of_an_absent_client_hides_nobody_elses_loss():
  summary = federated_step.summarise(
    _metrics([[2.0, np.nan]], [[True, False]], [[1.0, 1.0]], [[0, 1]]),
    [rounds.Traffic(1, 1)],
  )
  np.testing.assert_array_equal(summary['loss'], [2.0])


def test_a_round_without_anybody_has_no_loss():
  summary = federated_step.summarise(
    _metrics([[1.0], [2.0]], [[False], [True]], [[4.0], [4.0]], [[0], [0]]),
    [rounds.Traffic(3, 5)],
  )
  np.testing.assert_array_equal(summary['loss'], [np.nan, 2.0])
  np.testing.assert_array_equal(summary['participants'], [0, 1])
  np.testing.assert_array_equal(summary['bytes_up'], [0, 5])


def test_two_fleets_are_one_mean_and_each_its_own_meter():
  first = _metrics([[1.0]], [[True]], [[1.0]], [[0]])
  second = _metrics([[4.0]], [[True]], [[2.0]], [[0]])
  both = rounds.RoundMetrics(
    {}, first.clients + second.clients, first.cohorts + second.cohorts
  )
  summary = federated_step.summarise(
    both, [rounds.Traffic(1, 10), rounds.Traffic(2, 20)]
  )
  np.testing.assert_allclose(summary['loss'], [3.0])
  assert summary['bytes_up'] == [30]


def test_a_dry_run_meters_the_model_both_ways():
  algorithm = _algorithm()
  [meter] = federated_step.dry_run('federated', algorithm, [_DATA])
  assert meter == rounds.traffic(algorithm, [_DATA])[0]
  assert meter.bytes_up == meter.bytes_down > 0


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'batch_size': 10**11}, '32 bits hold.*federated'),
    ({'hidden_size': 10**8}, 'fits in .* GB of memory, got .* for federated'),
  ],
)
def test_a_dry_run_refuses_what_no_machine_can_hold(fields, message):
  with pytest.raises(InputError, match=message):
    federated_step.dry_run('federated', _algorithm(**fields), [_DATA])
