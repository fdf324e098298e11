"""A secure summation: the server learns the sum of vectors, and no vector.

Bonawitz et al., "Practical secure aggregation for privacy-preserving machine
learning", 2017, Figure 4: every pair of nodes adds masks that cancel, every
node adds one more of its own, and shares of what makes the masks let those who
remain take off the masks of those who were lost. Each step is a pure function
of what was known and received; nothing here knows a transport.

    node                                    server
    advertise: two public keys        ->    adverts
    share: a sealed share for each    ->    routed
    mask: the masked vector           ->    the survivors
    agree: a signature of their list  ->    signatures
    unmask: shares of the survivors   ->    total
      own masks, of the others' keys

A node that drops out between two steps is missing from the next; the sum is of
those who sent a masked vector. The numbers are those of `FixedPoint`, and the
sum equals `privacy.secure_sum.secure_sum`, its simulation, to the bit.

Guarantees:
  Released: to the server, and to up to `threshold - 1` nodes that tell it all
    they know, the sum over the other survivors and who they are. A single
    masked vector is uniform to them. Against a server that runs the protocol
    as it stands; against one that lies, as far as nodes know each other's
    identities (`Terms.identities`): adverts and the list of survivors are
    signed, and no node gives both kinds of shares of one node.
  Not: differential privacy, which takes noise; nor that a node's numbers are
    sensible.
"""

from collections.abc import Collection, Mapping
import dataclasses
import json
from typing import NamedTuple

import numpy as np

from fedjax_gen import validate
from fedjax_gen.deployment import masking
from fedjax_gen.errors import InputError
from fedjax_gen.privacy.secure_sum import FixedPoint


@dataclasses.dataclass(frozen=True)
class Terms:
  """What server and nodes agree on before a sum.

  Attributes:
    session: names this one sum. Another sum needs another name.
    num_nodes: nodes have places from 0 to this.
    threshold: the fewest that may finish; up to `threshold - 1` may collude.
    number: how values become whole numbers.
    size: d, the length of the vectors.
    identities: of each place the Ed25519 public key it is known by; empty
      where nodes do not know each other, and believe the server.

  Raises:
    InputError: a field is out of range, or half of the nodes could finish
      without the other half: a server could then ask each half for the other
      kind of shares.
  """

  session: str
  num_nodes: int
  threshold: int
  number: FixedPoint
  size: int
  identities: tuple[bytes, ...] = ()

  def __post_init__(self):
    validate.positive_int(
      num_nodes=self.num_nodes, threshold=self.threshold, size=self.size
    )
    least = max(2, self.num_nodes // 2 + 1)
    if not least <= self.threshold <= self.num_nodes:
      raise InputError(
        f'Expected {least} <= threshold <= num_nodes={self.num_nodes}, got '
        f'threshold={self.threshold}: a sum over fewer says too much.'
      )
    if self.number.max_clients < self.num_nodes:
      raise InputError(
        f'Expected sums of up to num_nodes={self.num_nodes} not to wrap, got '
        f'max_clients={self.number.max_clients}.'
      )
    if self.identities and len(set(self.identities)) != self.num_nodes:
      raise InputError(
        f'Expected {self.num_nodes} distinct identities, got '
        f'{len(set(self.identities))}.'
      )


class Advert(NamedTuple):
  """The public keys of a node in one sum.

  Attributes:
    sealing: X25519, for shares that the server carries.
    masking: X25519, for masks.
    signature: Ed25519, of both; empty where nodes have no identities.
  """

  sealing: bytes
  masking: bytes
  signature: bytes


class Unmasking(NamedTuple):
  """What a survivor tells, of every other node one thing alone.

  Attributes:
    lost: shares of the masking keys of nodes that sent no vector.
    survived: shares of the seeds of the own masks of those that did.
  """

  lost: dict[int, bytes]
  survived: dict[int, bytes]


class Node(NamedTuple):
  """What a node remembers of one sum. Secret; `to_json` and back for its disk.

  Attributes:
    place: which it is.
    seed: 32 bytes that all of its keys in this sum follow from.
    adverts: of the nodes that advertised.
    inbox: sealed shares, of the nodes that shared.
    survivors: places that sent vectors.
  """

  place: int
  seed: bytes
  adverts: Mapping[int, Advert] = {}
  inbox: Mapping[int, bytes] = {}
  survivors: tuple[int, ...] = ()

  def to_json(self) -> str:
    """As text, which nobody else may read."""
    return json.dumps(
      {
        'place': self.place,
        'seed': self.seed.hex(),
        'adverts': {
          i: [part.hex() for part in advert]
          for i, advert in self.adverts.items()
        },
        'inbox': {i: text.hex() for i, text in self.inbox.items()},
        'survivors': self.survivors,
      }
    )

  @staticmethod
  def from_json(text: str) -> 'Node':
    """What `to_json` wrote."""
    found = json.loads(text)
    return Node(
      found['place'],
      bytes.fromhex(found['seed']),
      {
        int(i): Advert(*map(bytes.fromhex, parts))
        for i, parts in found['adverts'].items()
      },
      {int(i): bytes.fromhex(text) for i, text in found['inbox'].items()},
      tuple(found['survivors']),
    )


def usual_threshold(num_nodes: int) -> int:
  """Two thirds of the nodes, rounded up, and 2 at least."""
  return max(2, -(-2 * num_nodes // 3))


# The node's steps.


def advertise(
  terms: Terms, place: int, seed: bytes, identity: bytes | None = None
) -> tuple[Node, Advert]:
  """Begins a sum.

  Args:
    terms: of the sum.
    place: which node this is.
    seed: 32 bytes of the system's entropy, for this sum alone.
    identity: the node's Ed25519 private key; None where it has none.
  """
  node = Node(place, seed)
  sealing, masked = _own_keys(terms, node)
  signed = b''
  if identity is not None:
    signed = masking.signature(identity, _said(terms, place, sealing, masked))
  return node, Advert(sealing, masked, signed)


def share(
  terms: Terms, node: Node, adverts: Mapping[int, Advert]
) -> tuple[Node, dict[int, bytes]]:
  """Seals for every other node its shares of this one's secrets.

  Returns:
    The node, and what the server is to carry, by recipient.

  Raises:
    InputError: fewer than the threshold advertised, keys are not what nodes
      signed, or one key is that of two nodes.
  """
  check_adverts(terms, adverts)
  if adverts.get(node.place) != _own_advert(terms, node, adverts):
    raise InputError(
      f'Expected the keys that node {node.place} advertised, got others.'
    )
  secrets = [
    masking.shares(secret, terms.threshold, terms.num_nodes)
    for secret in (_private(terms, node, 'masking'), _own_seed(terms, node))
  ]
  node = node._replace(adverts=dict(adverts))
  sent = {
    other: masking.sealed(
      _sealing_key(terms, node, other),
      secrets[0][other] + secrets[1][other],
      node.place,
      _route(terms, node.place, other),
    )
    for other in adverts
    if other != node.place
  }
  # Its own are among what it needs later; sealed to itself like the others.
  own = masking.sealed(
    _private(terms, node, 'own'),
    secrets[0][node.place] + secrets[1][node.place],
    node.place,
    _route(terms, node.place, node.place),
  )
  return node._replace(inbox={node.place: own}), sent


def mask(
  terms: Terms,
  node: Node,
  inbox: Mapping[int, bytes],
  values: np.ndarray,
) -> tuple[Node, np.ndarray]:
  """The vector, which to all others looks like uniform noise.

  Args:
    terms: of the sum.
    node: after `share`.
    inbox: what others sealed for this node, by sender.
    values: `[d]` floats.

  Raises:
    InputError: fewer than the threshold shared, or a value is not finite or
      out of range (`FixedPoint.encode`): nothing is sent.
  """
  others = set(inbox) - {node.place}
  if len(others) + 1 < terms.threshold or not others <= set(node.adverts):
    raise InputError(
      f'Expected shares of {terms.threshold} or more of nodes '
      f'{sorted(node.adverts)}, got those of {sorted(others | {node.place})}.'
    )
  if len(node.inbox) > 1 and set(node.inbox) != others | {node.place}:
    raise InputError(
      f'Expected the shares of {sorted(node.inbox)}, with which node '
      f'{node.place} masked, got those of {sorted(others)}.'
    )
  values = np.asarray(values)
  if values.shape != (terms.size,):
    raise InputError(
      f'Expected a vector of length {terms.size}, got shape {values.shape}.'
    )
  node = node._replace(
    inbox={**{other: inbox[other] for other in others}, **node.inbox}
  )
  dtype = masking.word(terms.number.modulus_bits)
  encoded = terms.number.encode(values) % terms.number.modulus
  total = encoded.astype(dtype)
  total += _stream(terms, _own_seed(terms, node))
  for other in sorted(others):
    pairs = _pair_stream(
      terms,
      _private(terms, node, 'masking'),
      node.adverts[other].masking,
      node.place,
      other,
    )
    if node.place < other:
      total += pairs
    else:
      total -= pairs
  return node, total & dtype.type(terms.number.modulus - 1)


def agree(
  terms: Terms,
  node: Node,
  survivors: Collection[int],
  identity: bytes | None = None,
) -> tuple[Node, bytes]:
  """Signs the list of who sent a vector; the one list it will unmask.

  Raises:
    InputError: the list is too short, without this node, or names a node that
      did not share.
  """
  found = tuple(sorted(set(survivors)))
  if (
    len(found) < terms.threshold
    or node.place not in found
    or not set(found) <= set(node.inbox)
  ):
    raise InputError(
      f'Expected {terms.threshold} or more survivors with node {node.place} '
      f'among them, of those who shared, got {list(found)}.'
    )
  if node.survivors and node.survivors != found:
    raise InputError(
      f'Expected the survivors {list(node.survivors)}, which node '
      f'{node.place} signed, got {list(found)}.'
    )
  signed = b''
  if identity is not None:
    signed = masking.signature(identity, _listed(terms, found))
  return node._replace(survivors=found), signed


def unmask(
  terms: Terms, node: Node, signatures: Mapping[int, bytes]
) -> Unmasking:
  """Gives shares: of survivors their own mask, of lost nodes their key.

  Args:
    terms: of the sum.
    node: after `agree`.
    signatures: of the list of survivors, by node.

  Raises:
    InputError: this node has signed no list, fewer than the threshold signed
      the same, or sealed shares were changed.
  """
  signers = set(signatures) & set(node.survivors)
  if terms.identities:
    text = _listed(terms, node.survivors)
    signers = {
      other
      for other in signers
      if masking.is_signed(terms.identities[other], text, signatures[other])
    }
  if not node.survivors or len(signers) < terms.threshold:
    raise InputError(
      f'Expected {terms.threshold} or more signatures of the survivors '
      f'{list(node.survivors)}, got those of {sorted(signers)}.'
    )
  told = Unmasking({}, {})
  for other in sorted(node.inbox):
    key = (
      _private(terms, node, 'own')
      if other == node.place
      else _sealing_key(terms, node, other)
    )
    route = _route(terms, other, node.place)
    both = masking.opened(key, node.inbox[other], other, route)
    size = masking.KEY_BYTES
    if other in node.survivors:
      told.survived[other] = both[size:]
    else:
      told.lost[other] = both[:size]
  return told


# The server's steps.


def routed(
  terms: Terms, sent: Mapping[int, Mapping[int, bytes]]
) -> dict[int, dict[int, bytes]]:
  """For each node that shared, what the others sealed for it, by sender.

  Raises:
    InputError: fewer than the threshold shared, or one not with all others.
  """
  if len(sent) < terms.threshold:
    raise _too_few(terms, sent, 'shared their secrets')
  for sender, texts in sent.items():
    if missing := sorted(set(sent) - set(texts) - {sender}):
      raise InputError(
        f'Expected shares of node {sender} for all others, got none for '
        f'{missing}.'
      )
  return {
    place: {
      sender: texts[place] for sender, texts in sent.items() if sender != place
    }
    for place in sent
  }


def total(
  terms: Terms,
  adverts: Mapping[int, Advert],
  shared: Collection[int],
  masked: Mapping[int, np.ndarray],
  told: Mapping[int, Unmasking],
) -> np.ndarray:
  """`[d]` float64, the sum of the vectors of those who sent a masked one.

  Args:
    terms: of the sum.
    adverts: of all who advertised.
    shared: places with shares that were routed.
    masked: vectors of the survivors, by place.
    told: what survivors told, by place; `threshold` of them or more.

  Raises:
    InputError: too few are left, a vector does not fit, or what was told does
      not give the keys that were advertised.
  """
  dtype = masking.word(terms.number.modulus_bits)
  if len(masked) < terms.threshold or len(told) < terms.threshold:
    raise _too_few(terms, min(masked, told, key=len), 'are left')
  for place, vector in masked.items():
    if vector.shape != (terms.size,) or vector.dtype != dtype:
      raise InputError(
        f'Expected {dtype.name}[{terms.size}] of node {place}, got '
        f'{vector.dtype.name}{list(vector.shape)}.'
      )
  result = np.zeros(terms.size, dtype)
  for place in sorted(masked):
    seed = masking.recovered(
      {i: t.survived[place] for i, t in told.items() if place in t.survived},
      terms.threshold,
    )
    result += masked[place] - _stream(terms, seed)
  for lost in sorted(set(shared) - set(masked)):
    private = masking.recovered(
      {i: t.lost[lost] for i, t in told.items() if lost in t.lost},
      terms.threshold,
    )
    if masking.public_key(private) != adverts[lost].masking:
      raise InputError(
        f'Expected shares of the key of node {lost}, got shares of another: '
        'a node told something else than it was given.'
      )
    for place in sorted(masked):
      pairs = _pair_stream(terms, private, adverts[place].masking, place, lost)
      # What the survivor added or took off for the lost one.
      if place < lost:
        result -= pairs
      else:
        result += pairs
  modulo = result & dtype.type(terms.number.modulus - 1)
  return terms.number.decode(modulo.astype(np.int64))


def check_adverts(terms: Terms, adverts: Mapping[int, Advert]) -> None:
  """Raises `InputError` unless nodes can go on with these."""
  if len(adverts) < terms.threshold:
    raise _too_few(terms, adverts, 'advertised keys')
  if not set(adverts) <= set(range(terms.num_nodes)):
    raise InputError(
      f'Expected places in [0, {terms.num_nodes}), got {sorted(adverts)}.'
    )
  keys = [key for advert in adverts.values() for key in advert[:2]]
  if len(set(keys)) != len(keys):
    raise InputError('Expected distinct keys, got one of two nodes.')
  for place, advert in adverts.items() if terms.identities else ():
    said = _said(terms, place, advert.sealing, advert.masking)
    if not masking.is_signed(terms.identities[place], said, advert.signature):
      raise InputError(
        f'Expected keys signed by node {place}, got ones that are not: they '
        'are not from the node that is known by its identity.'
      )


def _own_advert(
  terms: Terms, node: Node, adverts: Mapping[int, Advert]
) -> Advert:
  """What this node advertised, with the signature that is told of it."""
  sealing, masked = _own_keys(terms, node)
  found = adverts.get(node.place)
  return Advert(sealing, masked, found.signature if found else b'')


def _own_keys(terms: Terms, node: Node) -> tuple[bytes, bytes]:
  return (
    masking.public_key(_private(terms, node, 'sealing')),
    masking.public_key(_private(terms, node, 'masking')),
  )


def _too_few(terms: Terms, found: Collection[int], what: str) -> InputError:
  return InputError(
    f'Expected {terms.threshold} or more of {terms.num_nodes} nodes, got '
    f'{len(found)} that {what}: {sorted(found)}. Nothing is summed.'
  )


def _private(terms: Terms, node: Node, use: str) -> bytes:
  return masking.derive(node.seed, use, terms.session, node.place)


def _own_seed(terms: Terms, node: Node) -> bytes:
  return _private(terms, node, 'own mask')


def _sealing_key(terms: Terms, node: Node, other: int) -> bytes:
  secret = masking.agreed(
    _private(terms, node, 'sealing'), node.adverts[other].sealing
  )
  return masking.derive(
    secret, 'shares', terms.session, *sorted((node.place, other))
  )


def _stream(terms: Terms, key: bytes) -> np.ndarray:
  return masking.stream(key, terms.size, terms.number.modulus_bits)


def _pair_stream(
  terms: Terms, private: bytes, public: bytes, place: int, other: int
) -> np.ndarray:
  """The mask of a pair, the same for both."""
  secret = masking.agreed(private, public)
  pair = sorted((place, other))
  return _stream(terms, masking.derive(secret, 'mask', terms.session, *pair))


def _said(terms: Terms, place: int, sealing: bytes, masked: bytes) -> bytes:
  return json.dumps(
    ['keys', terms.session, place, sealing.hex(), masked.hex()]
  ).encode()


def _listed(terms: Terms, survivors: Collection[int]) -> bytes:
  return json.dumps(['survivors', terms.session, sorted(survivors)]).encode()


def _route(terms: Terms, sender: int, recipient: int) -> bytes:
  return json.dumps(['route', terms.session, sender, recipient]).encode()
