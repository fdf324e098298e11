"""Sites and a coordinator do what the simulation does, whatever happens."""

import itertools
import json
import math
import random
import re
import subprocess

import chex
import jax
import numpy as np
import pytest

pytest.importorskip('cryptography', reason='needs the extra flower')
pytest.importorskip('Crypto', reason='needs the extra flower')

from fedjax_gen.deployment import collecting, roster, site as site_lib  # noqa: E402
from fedjax_gen.deployment.collecting import TooFewError  # noqa: E402
from fedjax_gen.deployment.securing import Securing  # noqa: E402
from fedjax_gen.deployment.site import Allowance  # noqa: E402
from fedjax_gen.deployment.wire import Packet  # noqa: E402
from fedjax_gen.errors import InputError  # noqa: E402
from fedjax_gen.privacy import events, ledger  # noqa: E402
from tests.algorithms import contract_test  # noqa: E402
from tests.deployment import federations  # noqa: E402
from tests.federated import toys  # noqa: E402

_TOY = toys.mean_estimation()
_CLIENTS = [toys.dataset([4, 4, 4, 4])]
_FINE = Securing(value_range=100.0)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
  monkeypatch.setattr(collecting, '_PAUSE', 0.0)
  monkeypatch.setattr(roster, '_PAUSE', 0.0)


def _toy(folder, **options):
  return federations.Federation(folder, _TOY, _CLIENTS, **options)


@pytest.mark.parametrize(
  'name', ['fedvae', 'fissionvae', 'fissionvae_two_decoders', 'fedhypevae',
           'fedvtc'],
)  # fmt: skip
def test_equals_the_simulation(tmp_path, name):
  algorithm, datasets = contract_test.ALGORITHMS[name]()
  expected, _ = federations.simulated(algorithm, datasets, 2)
  for securing in (None, Securing()):
    folder = tmp_path / str(bool(securing))
    federation = federations.Federation(folder, algorithm, datasets)
    federation.securing = securing
    if securing and name == 'fissionvae':  # one of its groups is one client
      with pytest.raises(InputError, match='alone in group 1'):
        federation.run(2)
      continue
    state, _ = federation.run(2)
    server = jax.device_get(state.server)
    if name == 'fedvae' and not securing:
      chex.assert_trees_all_equal(server, expected.server)
    chex.assert_trees_all_close(server, expected.server, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope='module')
def undisturbed():
  """The toy after four rounds, simulated."""
  return federations.simulated(_TOY, _CLIENTS, 4)[0].server


@pytest.mark.parametrize('secured', [False, True])
def test_a_bad_network_changes_nothing(tmp_path, secured, undisturbed):
  federation = _toy(tmp_path)
  federation.patience = collecting.Patience(5.0, 60.0)
  federation.securing = _FINE if secured else None
  federations.bad_network(seed=3)(federation.network)
  state, _ = federation.run(4)
  assert federation.causes('waiting')  # it was bad
  check = (
    chex.assert_trees_all_close if secured else chex.assert_trees_all_equal
  )
  check(jax.device_get(state.server), undisturbed)


class _Killed(Exception):
  """Of the coordinator, wherever it stands."""


@pytest.mark.parametrize('secured', [False, True])
def test_after_twenty_kills_the_bits_are_those_without(
  tmp_path, secured, undisturbed, monkeypatch
):
  draws, kills = random.Random(5), itertools.count(1)
  federation = _toy(tmp_path)
  federation.patience = collecting.Patience(5.0, 60.0)
  federation.securing = _FINE if secured else None
  killed = 0

  def perhaps_kill(place, header, reply):
    nonlocal killed
    if killed < 20 and draws.random() < (0.15 if secured else 0.5):
      killed = next(kills)
      # The site has answered, and starts again; its answer is lost or not.
      federation.start(place)
      if draws.random() < 0.5:
        raise _Killed
      return []
    return [reply]

  write = site_lib._write

  def perhaps_not(path, packet):
    nonlocal killed
    if killed < 20 and draws.random() < 0.1:
      killed = next(kills)
      raise federations.SiteKilled  # before anything is written
    write(path, packet)

  monkeypatch.setattr(site_lib, '_write', perhaps_not)
  federation.network.fault = perhaps_kill
  state = None
  for _ in range(400):
    try:
      coordinator = federation.coordinator()
      state = coordinator.init(federations.INIT) if state is None else state
      while int(state.round) < 4:
        # The last state is what a checkpoint holds.
        state, _ = coordinator.round(jax.device_get(state))
        coordinator.done(state)
      break
    except _Killed:
      continue
  assert killed == 20 and int(state.round) == 4
  if secured:
    chex.assert_trees_all_close(
      jax.device_get(state.server), undisturbed, rtol=1e-6
    )
  else:
    chex.assert_trees_all_equal(jax.device_get(state.server), undisturbed)


def test_a_message_that_comes_twice_gets_the_reply_that_was_given(tmp_path):
  federation = _toy(tmp_path, own_keys=None)  # its own entropy
  seen = []

  def twice(place, header, reply):
    if header['kind'] == 'train':
      seen.append(reply)
    return [reply]

  asked = {}

  def remember(place, message):
    asked[place] = message
    return message

  federation.network.fault, federation.network.before = twice, remember
  federation.run(1)
  before = federation.kept(0)
  assert federation.sites[0].answer(asked[0]) == seen[0]
  federation.start(0)
  assert federation.sites[0].answer(asked[0]) == seen[0]
  assert federation.kept(0).header == before.header
  # The same round of something else would be a second draw.
  packet = Packet.from_bytes(asked[0])
  other = packet._replace(
    arrays={name: array + 1 for name, array in packet.arrays.items()}
  )
  reply = Packet.from_bytes(federation.sites[0].answer(other.to_bytes()))
  assert 'noise would be drawn twice' in reply.header['refused']
  # Sites draw by themselves: no two with one reply.
  assert len({Packet.from_bytes(r).arrays['w'].tobytes() for r in seen}) == 4


def _bad(**change):
  """A reply that has something else in it."""

  def fault(place, header, reply):
    if place != 2 or header['kind'] == 'join':
      return [reply]
    packet = Packet.from_bytes(reply)
    return [packet._replace(**change).to_bytes()]

  return fault


@pytest.mark.parametrize(
  ('fault', 'cause'),
  [
    (_bad(arrays={'w': np.full(3, np.nan, np.float32)}), 'finite.* in w'),
    (_bad(arrays={'w': np.zeros(4, np.float32)}), r'w to be float32\[3\]'),
    (_bad(arrays={'w': np.zeros(3)}), 'found float64'),
    (_bad(arrays={}), 'found none'),
    (_bad(arrays={'w': np.zeros(1 << 16, np.float32)}), '12 bytes at most'),
    (lambda place, header, reply: [
      reply[:-1] if place == 2 and header['kind'] != 'join' else reply
    ], 'w is cut'),
    (lambda place, header, reply: [
      b'\x80\x04' if place == 2 and header['kind'] != 'join' else reply
    ], 'another format'),
  ],
)  # fmt: skip
def test_a_bad_reply_names_its_node_and_ends_nothing(tmp_path, fault, cause):
  federation = _toy(tmp_path)
  federation.least = 3
  federation.network.fault = fault
  state, metrics = federation.run(2)
  assert int(state.round) == 2
  assert metrics.cohorts[0].present.tolist() == [[True, True, False, True]]
  [(node, found), _] = federation.causes('refused')
  assert node == 'site02'
  assert re.search(cause, found)


def test_a_site_cut_off_for_two_rounds_comes_back(tmp_path):
  federation = _toy(tmp_path)
  federation.least = 3
  federation.network.before = lambda place, message: (
    None
    if place == 1 and Packet.from_bytes(message).header.get('round') in (1, 2)
    else message
  )
  state, metrics = federation.run(4)
  assert metrics.cohorts[0].present.all()
  assert federation.kept(1).arrays['client/'] == 2  # rounds it took part in
  assert federation.kept(0).arrays['client/'] == 4
  federation.least = 4
  with pytest.raises(TooFewError, match='4 or more of 4 sites'):
    federation.network.before = lambda place, message: (
      None if place == 1 else message
    )
    federation.coordinator().round(state)


@pytest.mark.parametrize('step', ['advertise', 'share', 'mask', 'agree'])
def test_a_sum_without_those_who_were_lost(tmp_path, step):
  results = {}
  for secured in (False, True):
    federation = _toy(tmp_path / str(secured))
    federation.least = 3
    federation.securing = _FINE if secured else None

    def lost(place, message, secured=secured):
      header = Packet.from_bytes(message).header
      is_lost = place == 3 and header['kind'] != 'join'
      if secured and step == 'agree':  # its vector was sent: it is in the sum
        is_lost = is_lost and header['step'] in ('agree', 'unmask')
      elif step == 'agree':
        is_lost = False
      elif secured:
        is_lost = is_lost and _STEPS.index(header['step']) >= _STEPS.index(step)
      return None if is_lost else message

    federation.network.before = lost
    state, metrics = federation.run(1)
    results[secured] = jax.device_get(state.server)
    assert metrics.cohorts[0].present.sum() == (4 if step == 'agree' else 3)
  chex.assert_trees_all_close(results[True], results[False], rtol=1e-6)


_STEPS = ['advertise', 'share', 'mask', 'agree', 'unmask']


def test_a_lost_sum_is_a_round_without_anyone_and_is_not_asked_again(tmp_path):
  federation = _toy(tmp_path)
  federation.securing = _FINE
  federation.network.before = lambda place, message: (
    None
    if Packet.from_bytes(message).header.get('step') == 'unmask'
    else message
  )
  start = federation.coordinator().init(federations.INIT)
  state, metrics = federation.run(1, start)
  assert not metrics.cohorts[0].present.any()
  chex.assert_trees_all_equal(state.server, start.server)
  [(_, cause)] = federation.causes('sum lost')
  assert '3 or more of 4 sites' in cause
  # Another sum of the same round would tell their difference.
  federation.network.before = lambda place, message: message
  federation.folder.joinpath('server', 'sums').rename(tmp_path / 'gone')
  federation.securing = Securing(value_range=100.0, threshold=4)
  with pytest.raises(TooFewError):
    federation.coordinator().round(start)
  assert any('two of the same' in c for _, c in federation.causes('refused'))


@pytest.fixture
def small_disk(tmp_path):
  """A folder on a disk of its own, of 256 KB."""
  folder = tmp_path / 'site1'
  folder.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', str(folder)]
  try:
    subprocess.run(mount, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    pytest.skip('a small disk cannot be mounted here')
  yield folder
  subprocess.run(['umount', '-l', str(folder)], check=True)


def test_a_full_disk_is_named_and_ends_nobody_elses_run(tmp_path, small_disk):
  federation = _toy(tmp_path)
  federation.least = 3
  state, _ = federation.run(1)
  filler = small_disk / 'filler'
  with pytest.raises(OSError, match='No space left'):
    filler.write_bytes(bytes(1 << 20))
  state, metrics = federation.run(1, state)
  assert metrics.cohorts[0].present.tolist() == [[True, False, True, True]]
  assert federation.causes('refused') == [
    ('site01', 'failed there: the disk is full')
  ]
  filler.unlink()
  _, metrics = federation.run(1, state)
  assert metrics.cohorts[0].present.all()


def test_no_order_of_rounds_releases_more_than_the_budget_affords(tmp_path):
  event = events.gaussian(1.0)
  budget = ledger.ledger(1, 8.0, 1e-3, accountant='rdp')
  afford = budget.remaining_steps(event)
  federation = _toy(tmp_path, event=event)
  federation.least, federation.options['budget'] = 1, budget
  federation.start(0)
  first = []

  def kept_back(place, message):
    packet = Packet.from_bytes(message)
    if place == 0 and packet.header['kind'] == 'train':
      first.append(packet)
      return None
    return message

  federation.network.before = kept_back
  federation.run(1)

  def asked(number, **fields):
    packet = first[0]._replace(
      header={**first[0].header, 'round': number, **fields}
    )
    answer = Packet.from_bytes(federation.sites[0].answer(packet.to_bytes()))
    return answer.header.get('refused')

  assert 'from 0 on' in asked(-1)
  assert 'failed' in asked(2, shared=['no key'])  # and nothing was charged
  assert asked(2) is None
  assert 'a round after 2' in asked(0)
  # Paid for and not released: what a site that was killed has.
  charged = federation.sites[0]._ledger
  charged.charge(first[0].header['run'], federations.METHOD, 9, event)
  assert 'after 9' in asked(5)
  released = [number for number in range(9, 40) if asked(number) is None]
  assert released == [*range(9, 9 + afford - 1)]


def test_a_budget_that_is_spent_ends_one_sites_part(tmp_path):
  event = events.gaussian(1.0)
  budget = ledger.ledger(1, 8.0, 1e-3, accountant='rdp')
  afford = budget.remaining_steps(event)
  assert 2 <= afford < 20
  federation = _toy(tmp_path, event=event)
  federation.least = 1
  federation.options['budget'] = budget
  federation.start(0)
  federation.run(afford + 2)
  refused = federation.causes('refused')
  assert len(refused) == 2 and {node for node, _ in refused} == {'site00'}
  assert 'to fit the privacy budget epsilon=8' in refused[0][1]
  # It outlives the run, and the server.
  federation.start(0)
  (tmp_path / 'server').rename(tmp_path / 'old')
  federation.notes.clear()
  federation.run(1)
  assert [node for node, _ in federation.causes('refused')] == ['site00']
  with pytest.raises(InputError, match='epsilon=9.*'):
    federation.options['budget'] = ledger.ledger(1, 9.0, 1e-3, accountant='rdp')
    federation.start(0)


@pytest.mark.parametrize(
  ('options', 'cause'),
  [
    ({'allowance': Allowance(methods=('other',))}, "other.*'federated'"),
    ({'allowance': Allowance(rounds=1)}, 'at most 1 rounds'),
    ({'allowance': Allowance(message_bytes=11)}, '11 bytes at most.*got 12'),
    ({'allowance': Allowance(secured_only=True)}, 'insists on'),
    ({'budget': ledger.ledger(1, 8.0, 1e-3)}, 'without: this site has'),
  ],
)
def test_a_site_does_what_it_allows(tmp_path, options, cause):
  federation = _toy(tmp_path)
  federation.least = 3
  federation.options |= options
  federation.start(1)
  federation.run(2)
  node, found = federation.causes('refused')[-1]
  assert node == 'site01'
  assert re.search(cause, found)


def test_a_secure_sum_is_with_peers_that_are_known(tmp_path):
  federation = _toy(tmp_path)
  federation.securing = _FINE
  known = [site.identity for site in federation.sites.values()]
  federation.options['allowance'] = Allowance(peers=tuple(known), rounds=1)
  federation.start(0)
  federation.options['allowance'] = Allowance(peers=tuple(known[:3]))
  federation.start(1)
  federation.least = 3
  federation.run(1)
  assert [n for n, _ in federation.causes('refused')] == ['site01']
  assert known[3] in federation.causes('refused')[0][1]


def test_metrics_stay_at_home_unless_they_are_let_go(tmp_path):
  federation = _toy(tmp_path)
  _, metrics = federation.run(1)
  assert metrics.clients == ({},)
  log = (tmp_path / 'site0' / 'log.jsonl').read_text().splitlines()
  assert math.isfinite(json.loads(log[-1])['metrics']['loss'])
  federation.options['allowance'] = Allowance(metrics=('loss',))
  for place in range(4):
    federation.start(place)
  (tmp_path / 'server').rename(tmp_path / 'old')
  _, metrics = federation.run(1)
  _, expected = federations.simulated(_TOY, _CLIENTS, 1)
  chex.assert_trees_all_close(metrics.clients, expected.clients, rtol=1e-6)


def test_single_messages_are_not_secured(tmp_path):
  algorithm, datasets = contract_test.ALGORITHMS['fedtgp']()
  federation = federations.Federation(tmp_path, algorithm, datasets)
  federation.securing = Securing()
  with pytest.raises(InputError, match='by_client'):
    federation.coordinator()


def test_another_study_version_or_set_of_sites_is_refused(
  tmp_path, monkeypatch
):
  federation = _toy(tmp_path)
  federation.run(1)
  site = federation.sites[0]
  [run] = [path.name for path in (tmp_path / 'site0' / 'runs').iterdir()]
  join = {'kind': 'join', 'run': run, 'nonce': '0'}

  def refused(header):
    packet = collecting.request(header)
    return Packet.from_bytes(site.answer(packet.to_bytes())).header['refused']

  assert 'study' in refused({**join, 'config': {'study': 'other'}})
  assert 'plain run' in refused({**join, 'run': '../x', 'config': {}})
  assert 'this site joined' in refused(
    {'kind': 'train', 'run': 'new', 'method': 'federated', 'round': 0,
     'fleet': 0, 'row': 0, 'shared': [0, 0]}
  )  # fmt: skip
  assert 'KeyError' in refused({'kind': 'train', 'run': run})
  federation.names = federation.names[:3]
  with pytest.raises(InputError, match='sites=4.*sites=3'):
    federation.coordinator()
  with pytest.raises(InputError, match='another process'):
    site_lib.Site(site.folder, _CLIENTS[0].select([0]), lambda config: {})
  monkeypatch.setattr(
    collecting, 'request', lambda header: Packet({**header, 'version': '0.0'})
  )
  assert "got '0.0'" in refused(join)
