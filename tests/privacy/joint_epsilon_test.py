"""The joint epsilon of releases, against dp-accounting composed by hand."""

import itertools
import math

import dp_accounting
import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.privacy import events, ledger as ledgers, ledger_rows, releases
from fedjax_gen.privacy.releases import Releases

_DELTA = 1e-5
_NUM_CLIENTS = 3
# By name an event and the same for dp-accounting, with its steps.
_EVENTS = {
  'moments': (events.gaussian(5.0), dp_accounting.GaussianDpEvent(5.0), 1),
  'means': (events.gaussian(7.0, 3), dp_accounting.GaussianDpEvent(7.0), 3),
  'training': (
    events.poisson_gaussian(1.4, 0.1, 30),
    dp_accounting.PoissonSampledDpEvent(
      0.1, dp_accounting.GaussianDpEvent(1.4)
    ),
    30,
  ),
  'heads': (
    events.poisson_gaussian(2.0, 0.25, 12),
    dp_accounting.PoissonSampledDpEvent(
      0.25, dp_accounting.GaussianDpEvent(2.0)
    ),
    12,
  ),
  'counts': (events.laplace(9.0), dp_accounting.LaplaceDpEvent(9.0), 1),
}
_ADD = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
_REPLACE = dp_accounting.NeighboringRelation.REPLACE_ONE


def _ledger(*of_clients, **fields):
  """A ledger of what was released about each client, by names of events."""
  fields = {'epsilon': math.inf, 'delta': _DELTA, **fields}
  ledger = ledgers.ledger(
    len(of_clients), fields.pop('epsilon'), fields.pop('delta'),
    **{k: v for k, v in fields.items() if k != 'set_aside'},
  ).setting_aside(fields.get('set_aside', 0.0))  # fmt: skip
  for client, names in enumerate(of_clients):
    for name in names:
      ledger = ledger.charge(name, _EVENTS[name][0], [client])
  return ledger


def _by_hand(names, delta=_DELTA, accountant='pld', relation=_ADD):
  if accountant == 'pld':
    composed = dp_accounting.pld.PLDAccountant(relation, 2e-4)
  else:
    composed = dp_accounting.rdp.RdpAccountant(neighboring_relation=relation)
  for name in names:
    _, event, steps = _EVENTS[name]
    composed.compose(event, steps)
  return composed.get_epsilon(delta)


def _joint(*parts):
  return Releases({f'method {i}': p for i, p in enumerate(parts)}).joint()


_SETS = [
  (('training',), ('training',)),
  (('moments', 'training'), ('training',)),
  (('moments', 'training'), ('heads',), ('means',)),
  (('counts',), ('moments', 'heads')),
  (('training',),) * 4,
  (('moments',), ('means',), ('counts',), ('training',), ('heads',)),
]


@pytest.mark.parametrize('accountant', ['pld', 'rdp'])
@pytest.mark.parametrize('parts', _SETS, ids=str)
def test_parts_of_equal_clients_are_composed(parts, accountant):
  made = [_ledger(*[names] * 2, accountant=accountant) for names in parts]
  epsilon, delta = _joint(*made)
  expected = _by_hand(itertools.chain(*parts), accountant=accountant)
  assert delta == _DELTA
  np.testing.assert_allclose(epsilon, expected, rtol=3e-3)
  assert epsilon > max(part.worst() for part in made)
  # Never better than it is: by hand the grid is coarser or as fine.
  assert epsilon > 0.997 * expected


@pytest.mark.parametrize('parts', _SETS, ids=str)
def test_the_order_of_parts_decides_nothing(parts):
  made = [_ledger(names) for names in parts]
  found = {_joint(*order) for order in itertools.permutations(made[:3])}
  assert len(found) == 1


@pytest.mark.parametrize('relation', ['zero_out', 'add_or_remove_one'])
def test_zeroing_and_removing_cost_the_same(relation):
  parts = [_ledger(('training',), neighbouring=relation)] * 2
  np.testing.assert_allclose(
    _joint(*parts).epsilon, _by_hand(['training'] * 2), rtol=3e-3
  )


def test_replacing_is_composed_as_replacing():
  parts = [
    _ledger(('training',), neighbouring='replace_one'),
    _ledger(('heads', 'moments'), neighbouring='replace_one'),
  ]
  expected = _by_hand(['training', 'heads', 'moments'], relation=_REPLACE)
  np.testing.assert_allclose(_joint(*parts).epsilon, expected, rtol=3e-3)
  assert expected > 1.3 * _by_hand(['training', 'heads', 'moments'])


def test_clients_are_composed_one_by_one():
  """Parts have other numbers of histories; nobody costs most in both."""
  first = _ledger(('training',), ('moments',), ())
  second = _ledger((), ('heads',), ('training',))
  third = _ledger(*[('means',)] * 3)
  of_clients = [
    ('training', 'means'),
    ('moments', 'heads', 'means'),
    ('training', 'means'),
  ]
  expected = max(_by_hand(names) for names in of_clients)
  got = _joint(first, second, third).epsilon
  np.testing.assert_allclose(got, expected, rtol=3e-3)
  # Less than if the costliest of every part were one client.
  everything = _by_hand(['training', 'training', 'means'])
  assert got < 0.95 * everything


@pytest.mark.parametrize('kept', [0.0, 1e-8, 2e-6, 4.5e-6])
def test_what_all_parts_set_aside_is_taken_off(kept):
  parts = [_ledger(('training',), set_aside=kept)] * 2
  epsilon, delta = _joint(*parts)
  assert delta == _DELTA
  expected = _by_hand(['training'] * 2, delta=_DELTA - 2 * kept)
  np.testing.assert_allclose(epsilon, expected, rtol=3e-3)


def test_where_parts_set_all_aside_nothing_is_promised():
  half = _ledger(('training',), set_aside=0.5 * _DELTA)
  assert math.isfinite(half.worst())
  assert _joint(half).epsilon == half.worst()
  assert _joint(half, half) == (math.inf, _DELTA)
  # What is left is there, but nothing that an accountant could resolve.
  almost = _ledger(('training',), set_aside=0.5 * _DELTA - 1e-13)
  assert _joint(half, almost) == (math.inf, _DELTA)


@pytest.mark.parametrize('names', [(), ('moments',), ('training', 'counts')])
def test_one_part_costs_its_own_worst(names):
  for accountant in ('pld', 'rdp'):
    part = _ledger(names, (), set_aside=1e-8, accountant=accountant)
    assert _joint(part) == (part.worst(), _DELTA)


def test_a_part_in_which_nothing_was_released_costs_nothing():
  part = _ledger(('training',), ('heads',))
  assert _joint(part, _ledger((), ())) == _joint(part)
  assert _joint() == (0.0, 0.0)


def test_one_part_without_noise_takes_all_with_it():
  part = _ledger(('training',), ('training',))
  for about in ([0], [1], None):
    bare = _ledger((), ()).charge('means', events.non_private(), about)
    assert _joint(part, bare) == (math.inf, _DELTA)


def test_of_several_deltas_the_largest_is_that_of_all():
  parts = _ledger(('training',)), _ledger(('heads',), delta=1e-6)
  epsilon, delta = _joint(*parts)
  assert delta == _DELTA
  np.testing.assert_allclose(
    epsilon, _by_hand(['training', 'heads']), rtol=3e-3
  )


def test_the_parts_cannot_be_changed_afterwards():
  parts = {'one': _ledger(('training',))}
  folder = Releases(parts)
  parts['two'] = parts['one']
  assert list(folder.parts) == ['one']
  with pytest.raises(TypeError):
    folder.parts['two'] = parts['one']  # type: ignore[index]


def test_an_unknown_method_has_no_claim():
  folder = Releases({'one': _ledger(('training',))})
  with pytest.raises(InputError, match="name='two'"):
    folder.claim('two')
  with pytest.raises(InputError, match="name='two'"):
    folder.alone('two')


def test_without_a_finite_epsilon_a_claim_names_none():
  bare = _ledger(()).charge('means', events.non_private())
  claim = Releases({'a': _ledger(('heads',)), 'b': bare}).claim('a')
  assert claim['folder_epsilon'] is None
  assert claim['epsilon'] is not None
  assert Releases({'b': bare}).claim('b')['epsilon'] is None


def test_folders_are_composed_whoever_is_which_client():
  """Of two histories, the one that is cheaper alone may cost more beside."""
  first = _ledger(('training',), ('moments', 'means'), ('means',))
  second = _ledger(('heads',), ('counts', 'moments'))
  folders = [Releases({'a': first}), Releases({'b': second})]
  expected = max(
    _by_hand([*one, *other])
    for one in (('training',), ('moments', 'means'), ('means',))
    for other in (('heads',), ('counts', 'moments'))
  )
  cost = releases.together(folders)
  np.testing.assert_allclose(cost.epsilon, expected, rtol=3e-3)
  assert cost.delta == _DELTA
  np.testing.assert_allclose(
    releases.together(folders[::-1]).epsilon, cost.epsilon, rtol=1e-9
  )


def test_the_costliest_history_alone_is_not_always_the_costliest_beside():
  # One large release, and many small ones: composed, the latter grow slower
  # or faster than the former, and neither list holds the other.
  first = _ledger(('counts', 'counts', 'counts'), ('heads',))
  folder = Releases({'a': first})
  cost = releases.together([folder] * 3)
  for names in itertools.combinations_with_replacement(
    (('counts',) * 3, ('heads',)), 3
  ):
    expected = _by_hand(itertools.chain(*names))
    assert cost.epsilon > 0.997 * expected, names


def test_the_first_folder_says_the_delta_and_all_set_aside():
  first = Releases(
    {
      'a': _ledger(('training',), set_aside=1e-6),
      'b': _ledger(('moments',), set_aside=2e-6),
    }
  )
  second = Releases({'a': _ledger(('heads',), delta=1e-4, set_aside=3e-6)})
  cost = releases.together([first, second])
  expected = _by_hand(['training', 'moments', 'heads'], delta=4e-6)
  assert cost.delta == _DELTA
  np.testing.assert_allclose(cost.epsilon, expected, rtol=3e-3)
  assert releases.together([second, first]).delta == 1e-4
  exhausted = Releases({'a': _ledger(('heads',), delta=1e-4, set_aside=9e-6)})
  assert releases.together([first, exhausted]) == (math.inf, _DELTA)


def test_folders_without_releases_cost_nothing():
  folder = Releases({'a': _ledger(('training',))})
  assert releases.together([]) == (0.0, 0.0)
  assert releases.together([Releases({})]) == (0.0, 0.0)
  assert releases.together([Releases({}), folder]) == folder.joint()
  assert releases.together([folder]) == folder.joint()


@pytest.mark.parametrize('fields', [
  {'unit': 'client'}, {'neighbouring': 'replace_one'}
])  # fmt: skip
def test_folders_of_other_units_are_refused(fields):
  one = Releases({'a': _ledger(('training',))})
  other = Releases({'a': _ledger(('training',), **fields)})
  with pytest.raises(InputError, match='one unit under one relation'):
    releases.together([one, other])


def test_the_table_has_all_methods():
  folder = Releases(
    {
      'FedVAE': _ledger(('moments', 'training'), ('training',)),
      'FedAvg': _ledger(*[('heads',)] * 2),
    }
  )
  header, *rows = ledger_rows.rows(folder)
  assert header[:3] == ['Method', 'clients', 'released']
  assert [row[:3] for row in rows] == [
    ['FedVAE', '0', 'moments'],
    ['', '', 'training'],
    ['', '1', 'training'],
    ['FedAvg', '0-1', 'heads'],
  ]
  text = ledger_rows.table(folder)
  joint = folder.joint().epsilon
  assert f'All together: epsilon={joint:.4g} at delta=1e-05' in text
  assert "one record's contribution zeroed; the number of records" in text
  assert 'Nominal' not in text
  assert 'Nominal' in ledger_rows.table(Releases(folder.parts, is_nominal=True))
  assert 'Nothing was released' in ledger_rows.table(Releases({}))
