"""The protocol: the plain sum whoever drops out, and nothing besides."""

import itertools

import numpy as np
import pytest
from scipy import stats

pytest.importorskip('cryptography', reason='needs the extra flower')
pytest.importorskip('Crypto', reason='needs the extra flower')

from fedjax_gen.deployment import masked_sum, masking
from fedjax_gen.errors import InputError  # noqa: E402
from fedjax_gen.privacy import secure_sum as simulated  # noqa: E402

_NUMBER = simulated.FixedPoint(8.0, 1 << 20, 7, 32)
_PRIVATE = [masking.derive(b'test' * 8, 'identity', i) for i in range(7)]
_STEPS = ('advertise', 'share', 'mask', 'agree', 'unmask')


def _terms(num_nodes=5, threshold=3, size=4, *, number=_NUMBER, signed=True):
  known = tuple(masking.identity(key) for key in _PRIVATE[:num_nodes])
  return masked_sum.Terms(
    'a sum', num_nodes, threshold, number, size, known if signed else ()
  )


def _values(terms, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(-8, 8, (terms.num_nodes, terms.size))


def _run(terms, values, lost=None):
  """All steps with a server that follows them; `(sum, what it has seen)`.

  Args:
    terms: of the sum.
    values: `[nodes, d]`.
    lost: by step, places that do not answer in it or later.
  """
  alive, nodes, seen = set(range(terms.num_nodes)), {}, {}

  def answers(step, ask):
    alive.difference_update((lost or {}).get(step, ()))
    seen[step] = {place: ask(place) for place in sorted(alive)}
    return seen[step]

  def keep(place, pair):
    # What a site has on its disk between two steps.
    nodes[place] = masked_sum.Node.from_json(pair[0].to_json())
    return pair[1]

  identity = _PRIVATE if terms.identities else [None] * terms.num_nodes
  adverts = answers(
    'advertise',
    lambda i: keep(
      i,
      masked_sum.advertise(
        terms, i, masking.derive(b'seed' * 8, 'node', i), identity[i]
      ),
    ),
  )
  sent = answers(
    'share', lambda i: keep(i, masked_sum.share(terms, nodes[i], adverts))
  )
  inboxes = masked_sum.routed(terms, sent)
  masked = answers(
    'mask',
    lambda i: keep(i, masked_sum.mask(terms, nodes[i], inboxes[i], values[i])),
  )
  signatures = answers(
    'agree',
    lambda i: keep(
      i, masked_sum.agree(terms, nodes[i], list(masked), identity[i])
    ),
  )
  told = answers(
    'unmask', lambda i: masked_sum.unmask(terms, nodes[i], signatures)
  )
  return masked_sum.total(terms, adverts, sent, masked, told), seen


@pytest.mark.parametrize('step', _STEPS)
@pytest.mark.parametrize('lost', [(), (4,), (0, 3)])
@pytest.mark.parametrize('bits', [32, 62])
def test_equals_its_simulation_whoever_is_lost_when(step, lost, bits):
  number = simulated.FixedPoint(8.0, 1 << (bits - 12), 5, bits)
  terms = _terms(number=number)
  values = _values(terms)
  got, _ = _run(terms, values, {step: lost})
  counted = step in ('agree', 'unmask')
  expected = simulated.secure_sum(
    number, list(values), seed=1, dropped=() if counted else lost
  )
  np.testing.assert_array_equal(got, expected)


def test_some_are_lost_at_every_step():
  terms = _terms(7, 4)
  values = _values(terms)
  got, seen = _run(terms, values, {'share': [6], 'mask': [1], 'unmask': [0]})
  rest = [0, 2, 3, 4, 5]
  np.testing.assert_allclose(got, values[rest].sum(axis=0), atol=1e-4)
  assert set(seen['unmask']) == {2, 3, 4, 5}
  # Of nobody both kinds of shares are told.
  for told in seen['unmask'].values():
    assert set(told.lost) == {1} and set(told.survived) == set(rest)


@pytest.mark.parametrize('step', _STEPS)
def test_fewer_than_the_threshold_end_the_sum(step):
  terms = _terms()
  with pytest.raises(InputError, match='Expected 3 or more'):
    _run(terms, _values(terms), {step: (0, 1, 2)})


def test_a_masked_vector_is_uniform_whatever_it_holds():
  terms = _terms(3, 2, 20_000)
  values = np.zeros((3, terms.size))
  _, seen = _run(terms, values)
  for vector in seen['mask'].values():
    drawn = stats.kstest(vector, stats.uniform(0, 1 << 32).cdf)
    assert drawn.pvalue > 1e-3
  _, other = _run(terms, _values(terms))
  # And not what it would be unmasked: the test above can fail.
  difference = seen['mask'][0] - other['mask'][0]
  assert stats.kstest(difference, stats.uniform(0, 1 << 32).cdf).pvalue < 1e-3


def test_those_who_collude_with_the_server_learn_the_sum_alone(monkeypatch):
  """Another input with the same sum gives the same view, by other masks.

  Nodes 2, 3 and the server pool all they know. The mask that only the two
  honest nodes know is uniform, so that moving it by a constant changes no
  probability.
  """
  terms = _terms(4, 3)
  values, shift = _values(terms) / 4, np.array([1.0, -2.0, 0.5, 0.0])
  original, honest_key = masking.stream, []
  derive = masking.derive

  def noted(secret, label, *context):
    key = derive(secret, label, *context)
    if label == 'mask' and context[1:] == (0, 1):
      honest_key.append(key)
    return key

  monkeypatch.setattr(masking, 'derive', noted)
  total, seen = _run(terms, values)
  assert len(set(honest_key)) == 1  # both know one mask, and only they

  moved = np.rint(shift / _NUMBER.resolution).astype(np.int64) % (1 << 32)

  def other_mask(key, size, bits):
    drawn = original(key, size, bits)
    # Node 0 adds the pair's mask, node 1 takes it off.
    return drawn - moved.astype('<u4') if key == honest_key[0] else drawn

  monkeypatch.setattr(masking, 'stream', other_mask)
  values = values.copy()
  values[0] += shift
  values[1] -= shift
  total_too, seen_too = _run(terms, values)
  np.testing.assert_array_equal(total, total_too)
  for place in range(4):
    np.testing.assert_array_equal(seen['mask'][place], seen_too['mask'][place])
  values[1] += 1.0  # another sum is another view
  _, third = _run(terms, values)
  assert not np.array_equal(seen['mask'][1], third['mask'][1])


def test_fewer_shares_than_the_threshold_fit_any_secret():
  secret = masking.derive(b'secret' * 6, 'x')
  shares = masking.shares(secret, 3, 5)
  for chosen in itertools.combinations(range(5), 3):
    found = {i: shares[i] for i in chosen}
    assert masking.recovered(found, 3) == secret
  # With two shares the third could be any, and each gives another secret.
  found = {
    masking.recovered({0: shares[0], 1: shares[1], 2: bytes([i]) * 32}, 3)
    for i in range(50)
  }
  assert len(found) == 50
  with pytest.raises(InputError, match='Expected 3 shares'):
    masking.recovered({0: shares[0], 1: shares[1]}, 3)


def _begun(terms):
  """Nodes that advertised and shared; what the server has of them."""
  begun = [
    masked_sum.advertise(
      terms, i, masking.derive(b'seed' * 8, 'node', i), _PRIVATE[i]
    )
    for i in range(terms.num_nodes)
  ]
  adverts = {i: advert for i, (_, advert) in enumerate(begun)}
  shared = [masked_sum.share(terms, node, adverts) for node, _ in begun]
  sent = {i: texts for i, (_, texts) in enumerate(shared)}
  return [node for node, _ in shared], adverts, masked_sum.routed(terms, sent)


def test_a_server_that_lies_gets_nothing():
  terms = _terms(4, 3)
  nodes, adverts, inboxes = _begun(terms)
  values = _values(terms)
  # Keys of its own in place of a node's.
  _, forged = masked_sum.advertise(terms, 1, bytes(32), _PRIVATE[2])
  with pytest.raises(InputError, match='keys signed by node 1'):
    masked_sum.share(terms, nodes[0], {**adverts, 1: forged})
  with pytest.raises(InputError, match='keys that node 0 advertised'):
    own = masked_sum.advertise(terms, 0, bytes(32), _PRIVATE[0])[1]
    masked_sum.share(terms, nodes[0], {**adverts, 0: own})
  with pytest.raises(InputError, match='distinct keys'):
    masked_sum.share(terms, nodes[0], {**adverts, 1: adverts[0]})
  masked = [
    masked_sum.mask(terms, node, inboxes[i], values[i])
    for i, node in enumerate(nodes)
  ]
  # The same vector under fewer masks would be told apart.
  fewer = {place: inboxes[0][place] for place in (1, 2)}
  with pytest.raises(InputError, match='with which node 0 masked'):
    masked_sum.mask(terms, masked[0][0], fewer, values[0])
  # One list to some and another to others.
  lists = {0: (0, 1, 2), 1: (0, 1, 2, 3), 2: (0, 1, 2), 3: (0, 1, 2, 3)}
  agreed = {
    i: masked_sum.agree(terms, masked[i][0], lists[i], _PRIVATE[i])
    for i in range(4)
  }
  signatures = {i: signed for i, (_, signed) in agreed.items()}
  with pytest.raises(InputError, match=r'3 or more signatures.*\[0, 2\]'):
    masked_sum.unmask(terms, agreed[0][0], signatures)
  with pytest.raises(InputError, match='survivors .*which node 0 signed'):
    masked_sum.agree(terms, agreed[0][0], (0, 1, 2, 3), _PRIVATE[0])
  with pytest.raises(InputError, match='with node 3 among them'):
    masked_sum.agree(terms, masked[3][0], (0, 1, 2), _PRIVATE[3])


def test_what_the_server_carries_cannot_be_changed():
  terms = _terms(3, 2)
  nodes, _, inboxes = _begun(terms)
  inboxes[0][1] = inboxes[0][1][:-1] + bytes([inboxes[0][1][-1] ^ 1])
  nodes = [
    masked_sum.agree(
      terms,
      masked_sum.mask(terms, node, inboxes[i], np.zeros(4))[0],
      [0, 1, 2],
      _PRIVATE[i],
    )
    for i, node in enumerate(nodes)
  ]
  signatures = {i: signed for i, (_, signed) in enumerate(nodes)}
  with pytest.raises(InputError, match='what node 1 sealed'):
    masked_sum.unmask(terms, nodes[0][0], signatures)


@pytest.mark.parametrize('value', [8.1, np.nan, -np.inf])
def test_a_value_out_of_range_is_not_sent(value):
  terms = _terms(3, 2)
  nodes, _, inboxes = _begun(terms)
  with pytest.raises(InputError, match=r'values in \[-8.0, 8.0\]'):
    masked_sum.mask(terms, nodes[0], inboxes[0], np.full(4, value))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'threshold': 2}, '3 <= threshold <= num_nodes=5, got threshold=2'),
    ({'threshold': 6}, 'got threshold=6'),
    ({'num_nodes': 1, 'threshold': 1}, '2 <= threshold'),
    ({'num_nodes': 8, 'threshold': 5}, 'max_clients=7'),
    ({'size': 0}, 'size=0'),
    ({'identities': (b'a',) * 5}, 'distinct identities, got 1'),
  ],
)
def test_terms_that_protect_nobody_are_refused(change, message):
  fields = {
    'session': 's', 'num_nodes': 5, 'threshold': 3, 'number': _NUMBER,
    'size': 1,
  }  # fmt: skip
  with pytest.raises(InputError, match=message):
    masked_sum.Terms(**fields | change)
