"""What each method of the table may release, and that its noise is for that."""

import functools
import math

import chex
import jax
import jax.flatten_util
import numpy as np
import pytest

from fedjax_gen.algorithms.dp_cgan import CganConfig
from fedjax_gen.algorithms.dp_merf import MerfConfig
from fedjax_gen.algorithms.fedhypevae import Config
from fedjax_gen.algorithms.hyper_pretraining import PretrainingConfig
from fedjax_gen.algorithms.linear_head import LinearConfig
from fedjax_gen.errors import InputError
from fedjax_gen.federated import rounds
from fedjax_gen.federated.statistics.correlated_gaussians import (
  CorrelatedGaussians,
)
from fedjax_gen.federation import FederationConfig
from fedjax_gen.models.hyper.hypernetwork import HyperVaeConfig
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.privacy import accounting
from fedjax_gen.privacy.ledger import BudgetSpentError
from fedjax_gen.studies.fedhypevae import hype_methods
from fedjax_gen.studies.fedhypevae.hype_budgets import HypePrivacyConfig
from fedjax_gen.studies.fedhypevae.hype_uploads import GaussianConfig
from tests.federated import toys

_DATA = toys.dataset([60, 40, 20])
_TRAINED = tuple(m for m in hype_methods.METHODS if m != 'FedLambda')
_ROUNDS = 6
_UPLOADS = ('ClassGaussians', 'DP-MERF')
_LEARNED = tuple(name for name in _TRAINED if name not in _UPLOADS)


@functools.cache
def _methods(names=hype_methods.METHODS, sampling='all', **fields):
  fields = {'epsilon': 3.0, 'accountant': 'rdp', **fields}  # rdp is quicker
  return hype_methods.build_methods(
    names,
    hype_methods.Setting(
      config=Config(batch_size=10),
      hyper=HyperVaeConfig(
        latent_size=2, hidden_sizes=(4,), code_size=3, hyper_size=4
      ),
      cgan=CganConfig(gan_latent_size=2, gan_hidden_sizes=(4,)),
      linear=LinearConfig(linear_rounds=3, linear_epochs=2.0),
      gaussians=GaussianConfig(),
      merf=MerfConfig(merf_features=10, merf_steps=2),
      pretraining=PretrainingConfig(pretrain_steps=2),
      privacy=HypePrivacyConfig(**fields),
      federation=FederationConfig(
        num_clients=3, sampling=sampling, participation=0.5
      ),
      data=_DATA,
      spec=DataSpec((3,), 2),
      rounds=_ROUNDS,
      seed=0,
    ),
  )


def _labels(method):
  [history] = set(method.budget.protection.ledger.histories)
  return {entry.label: entry.event for entry in history}


@pytest.mark.parametrize('privacy', ['record_joint', 'client'])
@pytest.mark.parametrize('name', _TRAINED)
def test_each_method_spends_its_budget_and_not_more(privacy, name):
  method = _methods(privacy=privacy)[name]
  ledger = method.budget.protection.ledger
  assert ledger.unit == ('client' if privacy == 'client' else 'record')
  # As the accountant has it of all that is listed, moments included.
  spent = accounting.epsilon(
    _labels(method).values(), ledger.accounted_delta, accountant='rdp'
  )
  assert spent == pytest.approx(ledger.worst())
  assert spent <= 3.0
  assert spent > 2.95
  assert ledger.would_exceed(method.budget.protection.plan.event)
  rounds_of = {'FedAvg': 3, 'FedProx': 3, 'ClassGaussians': 1, 'DP-MERF': 1}
  assert method.rounds == rounds_of.get(name, _ROUNDS)


def test_steps_that_are_charged_are_those_that_are_made():
  for name, method in _methods(_LEARNED).items():
    plan = method.budget.plan
    event = _labels(method)['training']
    steps = 2 * 4 if name in ('FedAvg', 'FedProx') else 1  # 2 passes of q = 1/4
    assert plan.steps == steps
    assert event.steps == steps * method.rounds
    assert event.sampling_probability == pytest.approx(0.25)
    assert event.noise_multiplier == plan.noise_multiplier > 0


def test_one_upload_is_one_gaussian_event_of_all_records():
  methods = _methods(_UPLOADS)
  assert set(_labels(methods['ClassGaussians'])) == {'class Gaussians'}
  assert set(_labels(methods['DP-MERF'])) == {'random features'}
  for method in methods.values():
    [event] = _labels(method).values()
    assert (event.steps, event.sampling_probability) == (1, 1.0)
    noise = event.noise_multiplier
    assert method.model.stddev == pytest.approx(noise * math.sqrt(3))
  # A sum of features, counts and a triangle, once, and nothing back.
  traffic = rounds.traffic(methods['ClassGaussians'].algorithm, [_DATA])
  assert [t.bytes_up for t in traffic] == [4 * (3 * 4 // 2 + 2 * 3 + 2)]
  assert [t.bytes_down for t in traffic] == [0]
  # A noise multiplier that is given is of training.
  [given] = _methods(('ClassGaussians',), noise_multiplier=1.1).values()
  plan = methods['ClassGaussians'].budget.plan
  assert given.budget.plan.noise_multiplier == plan.noise_multiplier


@pytest.mark.parametrize(
  'fields', [{'privacy': 'client'}, {'noise_placement': 'distributed'}]
)
def test_one_upload_has_its_noise_once_where_a_sum_is_all_that_is_seen(fields):
  for method in _methods(_UPLOADS, **fields).values():
    plan = method.budget.protection.plan
    # Of three shares, two are there for who subtracts its own.
    shares = 1.0 if 'privacy' in fields else math.sqrt(3 / 2)
    assert method.model.stddev == pytest.approx(shares * plan.noise_multiplier)
    assert plan.unit == ('client' if 'privacy' in fields else 'record')


def test_pretrained_generators_pay_for_the_gaussians_they_start_from():
  methods = _methods()
  for name in ('FedHypeVAE-pretrained', 'DP-CVAE-pretrained'):
    method = methods[name]
    labels = _labels(method)
    assert set(labels) == {'class Gaussians', 'training'}
    share = accounting.epsilon(
      labels['class Gaussians'],
      method.budget.protection.ledger.delta,
      accountant='rdp',
    )
    assert share == pytest.approx(0.5 * 3.0, rel=1e-2)
    plain = methods[name.removesuffix('-pretrained')]
    ours, theirs = (m.budget.plan.noise_multiplier for m in (method, plain))
    assert ours > theirs
    assert method.pretraining is not None
  names = ('FedHypeVAE-pretrained', 'DP-CVAE-pretrained')
  with pytest.raises(InputError, match='record_server_code'):
    _methods(names, privacy='record_server_code')
  _methods(names[1:], privacy='record_server_code')


def test_training_begins_where_pretraining_ended():
  gaussians = CorrelatedGaussians(
    np.ones(2, bool), np.full(2, 60.0), np.zeros((2, 3)), np.eye(3)[None]
  )
  for name in ('FedHypeVAE-pretrained', 'DP-CVAE-pretrained'):
    method = _methods((name,))[name]
    begun = method.pretraining.begin(gaussians, jax.random.key(0))
    other = method.pretraining.begin(gaussians, jax.random.key(1))
    assert begun.gaussians is gaussians
    states = [
      rounds.init_state(m.algorithm, [_DATA], jax.random.key(2))
      for m in (method, begun, other)
    ]
    chex.assert_trees_all_equal_shapes(*states)
    heads = [
      jax.flatten_util.ravel_pytree(state.server.variables)[0]
      for state in states
    ]
    assert not np.array_equal(heads[0], heads[1])
    assert not np.array_equal(heads[1], heads[2])
    [kept] = states[1].fleets
    # One encoder for all clients; codes stay their own.
    for leaf in jax.tree.leaves(kept.own['encoder']):
      np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    if 'code' in kept.own:
      assert not np.array_equal(kept.own['code'][0], kept.own['code'][1])
    assert begun.algorithm_of(begun.budget.plan).server.init is not None


def test_moments_are_released_by_fedhypevae_alone():
  methods = _methods(tuple(n for n in _LEARNED if 'pretrained' not in n))
  ours = methods['FedHypeVAE']
  event = _labels(ours)['class moments']
  assert event.noise_multiplier == ours.budget.first_noise
  share = accounting.epsilon(
    event, ours.budget.protection.ledger.accounted_delta, accountant='rdp'
  )
  assert share == pytest.approx(0.15 * 3.0, rel=1e-2)
  for name, method in methods.items():
    if name != 'FedHypeVAE':
      assert set(_labels(method)) == {'training'}
      assert method.budget.first_noise == 0
  # So it trains with a little more noise than what it is compared with.
  noise = ours.budget.plan.noise_multiplier
  assert noise > methods['DP-CVAE'].budget.plan.noise_multiplier


def test_with_clients_protected_records_are_sampled_and_not_charged():
  for method in _methods(privacy='client').values():
    assert method.budget.plan.unit == 'record'
    assert method.budget.plan.noise_multiplier == 0
    protected = method.budget.protection.plan
    assert protected.unit == 'client'
    assert protected.noise_multiplier > 0
    assert protected.expected_cohort == 3


def test_nothing_is_charged_where_nothing_is_protected():
  for method in _methods(privacy='none').values():
    assert method.budget.protection is None
    assert method.budget.plan.noise_multiplier == 0
  for method in _methods(epsilon=math.inf).values():
    assert not method.is_one_upload or method.model.stddev == 0
    assert method.budget.plan.noise_multiplier == 0
    assert method.budget.first_noise == 0
    assert math.isinf(method.budget.protection.epsilon)


def test_given_noise_ends_a_run_when_the_budget_is_spent():
  names = ('FedHypeVAE', 'DP-CVAE')
  methods = _methods(names, noise_multiplier=1.1)
  for method in methods.values():
    assert 0 < method.rounds < _ROUNDS
    assert method.budget.plan.noise_multiplier == 1.1
    ledger = method.budget.protection.ledger
    assert ledger.worst() <= 3.0
    assert ledger.would_exceed(method.budget.plan.event)
  with pytest.raises(BudgetSpentError):
    _methods(names, noise_multiplier=0.2)


def test_what_is_compared_is_protected_as_it_should_be(monkeypatch):
  made = []
  real = hype_methods.fedhypevae.fedhypevae

  def spy(config, model, mode, plan, client_plan=None):
    made.append((model.config.head, mode))
    return real(config, model, mode, plan, client_plan)

  monkeypatch.setattr(hype_methods.fedhypevae, 'fedhypevae', spy)
  names = ('FedHypeVAE', 'DP-CVAE')
  methods = _methods(names, privacy='paper', accept_no_guarantee=True)
  assert [methods[name].is_nominal for name in names] == [True, False]
  assert made == [('row_scaled', 'paper'), ('constant', 'record_joint')]
  made.clear()
  methods = _methods(names, privacy='record_server_code')
  assert not any(method.is_nominal for method in methods.values())
  assert made == [('constant', 'record_joint')]
  [ours], [theirs] = (
    rounds.traffic(methods[name].algorithm, [_DATA]) for name in names
  )
  assert ours.bytes_up < theirs.bytes_up  # a modulation, not a decoder


def test_names_are_ordered_and_known():
  names = ('FedProx', 'FedHypeVAE', 'FedProx')
  assert hype_methods.ordered(names) == ('FedHypeVAE', 'FedProx')
  assert hype_methods.trained(('FedLambda', 'DP-CGAN')) == ('DP-CGAN', 'FedAvg')
  assert hype_methods.trained(hype_methods.METHODS) == _TRAINED
  for unknown in ((), ('FedSGD',)):
    with pytest.raises(InputError, match='methods='):
      hype_methods.ordered(unknown)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'privacy': 'paper'}, 'accept_no_guarantee'),
    ({'privacy': 'record'}, "privacy='record'"),
    ({'moments_share': 0.0}, 'moments_share'),
    ({'moments_share': 1.0}, 'moments_share'),
    ({'moments_share': 1.5}, 'moments_share'),
    ({'gaussians_share': 1.0}, 'gaussians_share'),
  ],
)
def test_privacy_is_checked(fields, message):
  with pytest.raises(InputError, match=message):
    HypePrivacyConfig(**fields)


def test_the_unit_is_that_of_the_mode():
  units = {
    mode: HypePrivacyConfig(privacy=mode, accept_no_guarantee=True).unit
    for mode in hype_methods.fedhypevae.MODES
  }
  assert units.pop('none') == 'none'
  assert units.pop('client') == 'client'
  assert set(units.values()) == {'record'}
