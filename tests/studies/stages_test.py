"""What programs do alike, where a run does not show it."""

import math

import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.federation import FederationConfig
from fedjax_gen.privacy.plan import PrivacyConfig
from fedjax_gen.studies import private_run, stages
from fedjax_gen.studies.fedhypevae import hype_synthesis
from fedjax_gen.studies.fedhypevae.hype_budgets import HypePrivacyConfig
from fedjax_gen.studies.fedhypevae.hype_synthesis import SynthesisConfig
from tests.federated import toys


def _protection(privacy):
  return private_run.protect(
    PrivacyConfig(privacy, math.inf),
    FederationConfig(num_clients=3),
    toys.dataset([30, 20, 10]),
    batch_size=20,
    epochs=1.0,
    rounds=4,
  )


def test_what_was_spent_stands_beside_those_who_spent_it():
  metrics = {'federated': {'fid': 1.0}, 'local': {'fid': 2.0}}
  # Some methods that could be protected were not asked for.
  settled = stages.settle(
    _protection('client'), metrics, ('federated', 'other')
  )
  assert settled == {
    'federated': {'fid': 1.0, 'delta': 1e-4},
    'local': {'fid': 2.0},
  }
  assert list(settled) == list(metrics)


def test_without_protection_nothing_is_added():
  metrics = {'federated': {'fid': 1.0}}
  assert stages.settle(None, metrics, ('federated',)) == metrics


def test_codes_of_protected_clients_are_not_published():
  both = SynthesisConfig(codes=('meta', 'clients'))
  of_clients = HypePrivacyConfig(privacy='client')
  allowed, [note] = hype_synthesis.permitted(both, of_clients)
  assert allowed.codes == ('meta',)
  assert 'codes=clients is left out' in note
  of_records = HypePrivacyConfig(privacy='record_joint')
  assert hype_synthesis.permitted(both, of_records) == (both, [])
  alone = SynthesisConfig(codes=('clients',))
  with pytest.raises(InputError, match='codes=meta or meta_by_class'):
    hype_synthesis.permitted(alone, of_clients)
