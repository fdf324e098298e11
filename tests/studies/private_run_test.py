"""What programs say of privacy, and that the figures are the accountant's."""

import math

import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.federation import FederationConfig
from fedjax_gen.privacy import (
  accounting,
  events,
  plan as plan_lib,
  releases as releases_lib,
)
from fedjax_gen.privacy.plan import PrivacyConfig
from fedjax_gen.studies import private_run
from tests.federated import toys

_DATA = toys.dataset([30, 20, 10])


def _protect(federation=None, rounds=4, **fields):
  return private_run.protect(
    PrivacyConfig(**{'privacy': 'client', 'epsilon': 5.0, **fields}),
    federation or FederationConfig(num_clients=3),
    _DATA,
    batch_size=20,
    epochs=1.0,
    rounds=rounds,
  )


def _text(section):
  tables = [
    [[row.head, *row.cells] for row in table.rows] for table in section.blocks
  ]
  return section.text, dict(tables[0]), tables[1]


def test_nothing_is_protected_unless_asked_for():
  assert _protect(privacy='none') is None


def test_only_coins_of_clients_amplify():
  poisson = FederationConfig(sampling='poisson', participation=0.25)
  uniform = FederationConfig(sampling='uniform', cohort_size=2)
  everyone = _protect().plan
  assert _protect(uniform).plan.event == everyone.event
  drawn = _protect(poisson).plan
  assert drawn.event == events.poisson_gaussian(drawn.noise_multiplier, 0.25, 1)
  assert drawn.noise_multiplier < everyone.noise_multiplier


@pytest.mark.parametrize(
  ('fields', 'share'),
  [
    ({}, 1.0),
    ({'sampling': 'poisson', 'participation': 0.3}, 0.3),
    ({'sampling': 'uniform', 'cohort_size': 4}, 0.4),
    ({'sampling': 'by_size', 'cohort_size': 4, 'dropout_rate': 0.5}, 0.2),
  ],
)
def test_a_round_expects_what_its_sampler_draws(fields, share):
  federation = FederationConfig(**fields)
  assert private_run.expected_share(federation, 10) == pytest.approx(share)
  plan = private_run.client_plan(
    PrivacyConfig('client', math.inf), federation, 10, rounds=1
  )
  assert plan.expected_cohort == pytest.approx(10 * share)


def test_records_are_counted_and_a_weak_delta_is_named():
  protection = _protect(privacy='record', delta=1e-3)
  assert protection.num_units == 60
  assert 'delta=0.001' in protection.sentence()
  assert 'promises little' not in protection.sentence()
  weak = _protect(privacy='record', delta=0.1)
  assert '60 records a delta of 0.1 promises little' in weak.sentence()


def test_the_section_says_who_is_protected_and_who_not():
  protection = _protect()
  releases = private_run.releases_of(
    dict.fromkeys(['FedVAE', 'L', 'D'], protection)
  )
  text, facts, rows = _text(
    protection.section(
      ['FedVAE', 'L', 'D'], ['central'], releases=releases, remarks='And so on.'
    )
  )
  assert 'What FedVAE, L and D released' in text
  assert 'And so on.' in text
  assert 'central trained without privacy' in text
  assert facts['Rounds'] == '4 of 4'
  assert facts['Protected'] == 'one client with all its data'
  assert [row[0] for row in rows] == ['FedVAE', 'L', 'D']
  assert rows[0][1:5] == ['0-2', 'training', 'gaussian', '4']
  # Three models are three times the rounds.
  event = protection.plan.event.repeated(12)
  together = accounting.epsilon(event, protection.config.delta)
  assert f'3 methods together: epsilon={together:.4g}' in text
  assert together > protection.epsilon
  one = private_run.releases_of({'federated': protection})
  alone, _, _ = _text(protection.section(['federated'], releases=one))
  assert 'together' not in alone
  assert 'without privacy' not in alone
  epsilon = protection.ledger.worst()
  assert protection.metrics() == {'epsilon': epsilon, 'delta': 1e-4}
  np.testing.assert_allclose(epsilon, 5.0, rtol=1e-3)


def test_noise_of_a_public_seed_is_called_nominal_everywhere():
  protection = _protect(noise_seed=3)
  releases = private_run.releases_of({'federated': protection})
  assert releases.is_nominal
  section = protection.section(['federated'], releases=releases)
  text, facts, _ = _text(section)
  assert 'nothing is protected' in text
  assert 'differentially private' not in text
  assert 'ε' not in facts
  assert private_run.NOMINAL in facts
  assert set(protection.metrics()) == {'nominal_epsilon', 'delta'}
  for said in (protection.sentence(), private_run.folder_sentence(releases)):
    assert 'nominal' in said
  assert 'nominal' not in _protect().sentence()


def test_other_runs_on_the_same_data_are_summed(tmp_path):
  releases = private_run.releases_of({'federated': _protect()})
  assert private_run.other_runs(releases, []) == []
  (tmp_path / 'release').mkdir()
  (tmp_path / 'release/ledger.json').write_text(releases.to_json())
  [warning] = private_run.other_runs(releases, [tmp_path])
  both = releases_lib.together([releases, releases]).epsilon
  assert f'epsilon={both:.4g}' in warning
  (tmp_path / 'release/ledger.json').write_text('no ledger')
  [warning] = private_run.other_runs(releases, [tmp_path])
  assert 'cannot be read' in warning
  records = private_run.releases_of(
    {'federated': _protect(privacy='record', delta=1e-3)}
  )
  (tmp_path / 'release/ledger.json').write_text(records.to_json())
  [warning] = private_run.other_runs(releases, [tmp_path])
  assert 'cannot be told' in warning


def test_without_noise_nothing_is_claimed():
  protection = _protect(epsilon=math.inf)
  releases = private_run.releases_of({'federated': protection})
  section = protection.section(['federated'], releases=releases)
  text, facts, _ = _text(section)
  assert 'nothing is protected' in text
  assert 'differentially private' not in text
  assert facts['ε'] == '∞'
  assert protection.metrics() == {'delta': 1e-4}
  assert 'protects nothing' in protection.sentence()


def test_noise_in_shares_is_refused():
  with pytest.raises(InputError, match="noise_placement='distributed'"):
    _protect(privacy='record', noise_placement='distributed')


def test_noise_in_shares_names_what_it_rests_on():
  config = PrivacyConfig(
    'record', 5.0, 1e-3, noise_placement='distributed', colluding=1
  )
  plan = plan_lib.record_plan(
    config, np.array([30, 20, 10]), batch_size=20, epochs=1.0, rounds=4
  )
  protection = private_run.protection(config, plan, rounds=4, num_units=60)
  releases = private_run.releases_of({'FedHypeVAE': protection})
  text, _, _ = _text(protection.section(['FedHypeVAE'], releases=releases))
  for said in (text, protection.sentence()):
    assert 'secure sum' in said
    assert 'no more than 1 of the clients' in said
  assert 'holds against the server too' not in text
