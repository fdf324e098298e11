"""What programs do alike, where a run does not show it."""

import dataclasses
import math

import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.federation import FederationConfig
from fedjax_gen.privacy.plan import PrivacyConfig
from fedjax_gen.studies import private_run, study
from fedjax_gen.studies.fedhypevae import hype_synthesis
from fedjax_gen.studies.fedhypevae.hype_budgets import HypePrivacyConfig
from fedjax_gen.studies.fedhypevae.hype_synthesis import SynthesisConfig
from tests.federated import toys


def _method(**fields):
  return study.Method(
    algorithm=None, datasets=[], samplers=[], mapping=None, rounds=4, **fields
  )


def _protection(epsilon):
  return private_run.protect(
    PrivacyConfig('client', epsilon),
    FederationConfig(num_clients=3),
    toys.dataset([30, 20, 10]),
    batch_size=20,
    epochs=1.0,
    rounds=4,
  )


def test_what_was_spent_is_of_those_who_spent_it():
  private = _method(protection=_protection(8.0))
  nominal = dataclasses.replace(private, is_nominal=True)
  without_noise = _method(protection=_protection(math.inf))
  spent = private.spent()
  assert spent['epsilon'] <= 8 and spent['delta'] == 1e-4
  assert nominal.spent() == {
    'nominal_epsilon': spent['epsilon'], 'delta': 1e-4,
  }  # fmt: skip
  assert without_noise.spent() == {'delta': 1e-4}
  assert _method().spent() == {}
  methods = {
    'a': private, 'b': nominal, 'c': without_noise, 'd': _method(),
  }  # fmt: skip
  compared = study.Comparison(
    source=None, partition=None, methods=methods,
    rows={'a': 'a', 'a-meta': 'a', 'b-meta': 'b'},
  )  # fmt: skip
  assert compared.spent('a-meta') == spent
  assert compared.spent('local') == {}
  assert set(compared.held) == {'a', 'a-meta'}
  assert list(compared.releases.parts) == ['a', 'c']


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
