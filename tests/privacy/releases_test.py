"""The epsilon of a folder is that of all its methods, composed as one."""

import json
import math

import dp_accounting
import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.privacy import events, ledger as ledgers, releases
from fedjax_gen.privacy.releases import Releases

_DELTA, _ASIDE = 1e-5, 2e-8
_STEP = events.poisson_gaussian(1.5, 0.1, 1)
_ONCE = events.gaussian(4.0)


def _ledger(num_clients=3, **fields):
  fields = {'set_aside': _ASIDE, **fields}
  return ledgers.ledger(num_clients, 8.0, _DELTA, **fields)


def _trained(steps=40, **fields):
  return _ledger(**fields).charge('training', _STEP.repeated(steps))


def _reference(steps, gaussians, delta):
  """The same composition, by dp-accounting alone."""
  relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
  accountant = dp_accounting.pld.PLDAccountant(relation, 1e-4)
  gaussian = dp_accounting.GaussianDpEvent(1.5)
  if steps:
    accountant.compose(
      dp_accounting.PoissonSampledDpEvent(0.1, gaussian), steps
    )
  for multiplier in gaussians:
    accountant.compose(dp_accounting.GaussianDpEvent(multiplier))
  return accountant.get_epsilon(delta)


def test_one_method_costs_what_it_costs_alone():
  ledger = _trained()
  folder = Releases({'one': ledger})
  assert folder.joint() == folder.alone('one')
  assert folder.joint().epsilon == ledger.worst()
  assert folder.joint().delta == _DELTA


def test_nothing_released_costs_nothing():
  assert Releases({}).joint() == (0.0, 0.0)
  assert Releases({'one': _ledger()}).joint() == (0.0, _DELTA)


def test_all_methods_are_composed_as_one():
  folder = Releases({
    'a': _trained(40),
    'b': _trained(30).charge('moments', _ONCE),
    'c': _ledger().charge('gaussians', events.gaussian(6.0)),
  })  # fmt: skip
  joint = folder.joint().epsilon
  expected = _reference(70, [4.0, 6.0], _DELTA - 3 * _ASIDE)
  np.testing.assert_allclose(joint, expected, rtol=2e-3)
  alone = [folder.alone(name).epsilon for name in 'abc']
  assert max(alone) < joint < sum(alone)


def test_equal_methods_are_not_counted_once():
  folder = Releases({name: _trained(20) for name in 'abcd'})
  expected = _reference(80, [], _DELTA - 4 * _ASIDE)
  np.testing.assert_allclose(folder.joint().epsilon, expected, rtol=2e-3)


def test_the_client_about_whom_most_was_released_decides():
  first = _ledger().charge('x', events.gaussian(2.0), [0])
  second = _ledger().charge('x', events.gaussian(2.0), [1])
  apart = Releases({'a': first, 'b': second}).joint().epsilon
  same = Releases({'a': first, 'b': first}).joint().epsilon
  np.testing.assert_allclose(
    apart, _reference(0, [2.0], _DELTA - 2 * _ASIDE), rtol=2e-3
  )
  np.testing.assert_allclose(
    same, _reference(0, [2.0, 2.0], _DELTA - 2 * _ASIDE), rtol=2e-3
  )


def test_without_noise_or_without_delta_nothing_is_promised():
  open_end = ledgers.ledger(3, math.inf, _DELTA).charge(
    'means', events.non_private(), [1]
  )
  assert Releases({'a': _trained(), 'b': open_end}).joint().epsilon == math.inf
  spent = Releases({
    name: _trained(1, set_aside=0.4 * _DELTA) for name in 'abc'
  })  # fmt: skip
  assert math.isfinite(spent.alone('a').epsilon)
  assert spent.joint().epsilon == math.inf


def test_accountants_may_differ():
  # The looser holds for what was counted by it because noise was adaptive.
  parts = {'a': _trained(), 'b': _trained(accountant='rdp')}
  mixed = Releases(parts).joint()
  loose = {name: _trained(accountant='rdp') for name in 'ab'}
  assert mixed == Releases(loose).joint()
  tight = Releases({'a': _trained(), 'b': _trained()})
  assert mixed.epsilon > 1.02 * tight.joint().epsilon
  truncated = events.truncated_poisson_gaussian(
    1.5, 0.1, 3, num_records=100, capacity=30
  )
  parts['c'] = _ledger().charge('training', truncated)
  with pytest.raises(InputError, match="accountant='rdp'"):
    Releases(parts).joint()


@pytest.mark.parametrize(
  ('other', 'message'),
  [
    ({'unit': 'client'}, "unit='record', got 'client' for b"),
    ({'neighbouring': 'replace_one'}, 'neighbouring'),
    ({'num_clients': 4}, 'num_clients=3, got 4'),
  ],
)
def test_what_cannot_be_composed_is_refused(other, message):
  with pytest.raises(InputError, match=message):
    Releases({'a': _trained(), 'b': _trained(**other)})


def test_a_file_says_what_holds_alone_and_with_the_rest():
  folder = Releases({'a': _trained(40), 'b': _trained(30)}, is_nominal=True)
  claim = folder.claim('a')
  assert claim == {
    'method': 'a',
    'unit': 'record',
    'relation': 'zero_out',
    'epsilon': folder.alone('a').epsilon,
    'delta': _DELTA,
    'folder_epsilon': folder.joint().epsilon,
    'folder_delta': _DELTA,
    'nominal': True,
  }
  assert claim['folder_epsilon'] > claim['epsilon']
  json.dumps(claim, allow_nan=False)


def test_survives_being_written_and_read():
  open_end = ledgers.ledger(3, math.inf, _DELTA).charge(
    'means', events.non_private()
  )
  for folder in (
    Releases({'a': _trained(), 'b': _trained(3)}, is_nominal=True),
    Releases({'a': open_end}),
    Releases({}),
  ):
    assert releases.from_json(folder.to_json()) == folder
  found = json.loads(Releases({'a': open_end}).to_json())
  assert found['epsilon'] is None  # JSON has no infinity


@pytest.mark.parametrize(
  'text', ['', '[]', '{}', '{"methods": {"a": 1}, "nominal": false}']
)
def test_texts_that_are_no_ledger_are_refused(text):
  with pytest.raises(InputError, match='Expected a ledger'):
    releases.from_json(text)


def test_folders_on_the_same_data_compose_by_their_costliest_clients():
  one = Releases({
    'a': _ledger().charge('x', events.gaussian(3.0), [0]).charge(
      'y', events.gaussian(9.0), [1]
    )
  })  # fmt: skip
  other = Releases({'a': _ledger(7).charge('x', events.gaussian(5.0), [6])})
  cost = releases.together([one, other])
  expected = _reference(0, [3.0, 5.0], _DELTA - 2 * _ASIDE)
  np.testing.assert_allclose(cost.epsilon, expected, rtol=2e-3)
  with pytest.raises(InputError, match='one unit'):
    releases.together([one, Releases({'a': _trained(unit='client')})])
