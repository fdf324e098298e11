"""A secure sum over sites of a fleet and group, as the coordinator leads it."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import shutil
from typing import Any, NamedTuple

import numpy as np

from fedjax_gen import validate
from fedjax_gen.deployment import masked_sum, site as site_lib
from fedjax_gen.deployment.collecting import Collector, TooFewError
from fedjax_gen.deployment.masked_sum import Advert, Terms, Unmasking
from fedjax_gen.deployment.wire import Packet
from fedjax_gen.errors import InputError
from fedjax_gen.privacy.secure_sum import FixedPoint

_MOST_ATTEMPTS = 3


@dataclasses.dataclass(frozen=True)
class Securing:
  """How messages are summed securely.

  Attributes:
    value_range: numbers of a site's sums lie in +- this; others are refused
      before they are sent. A site's part of a weighted mean is its message
      times its number of examples.
    modulus_bits: of the numbers that are sent: 62, in 8 bytes each, or up to
      32, in 4.
    threshold: sites that a sum needs; 0 for two thirds of a fleet. One fewer
      may collude with the coordinator.
  """

  value_range: float = 2.0**20
  modulus_bits: int = 62
  threshold: int = 0

  def __post_init__(self):
    validate.positive(value_range=self.value_range)
    validate.positive_int(modulus_bits=self.modulus_bits)
    validate.non_negative_int(threshold=self.threshold)

  def terms(
    self, session: str, identities: Sequence[bytes], size: int
  ) -> Terms:
    """Of one sum; the resolution is the finest that cannot wrap."""
    number = len(identities)
    levels = ((1 << self.modulus_bits) - 1) // (2 * number)
    return Terms(
      session,
      number,
      self.threshold or masked_sum.usual_threshold(number),
      FixedPoint(self.value_range, levels, number, self.modulus_bits),
      size,
      tuple(identities),
    )


class Summed(NamedTuple):
  """What came of it.

  Attributes:
    total: `[d]` float64; None if too few sent a vector, or told.
    metrics: that sites let go, of those that are in the sum, by member.
  """

  total: np.ndarray | None
  metrics: Mapping[int, Mapping[str, float]]


def summed(
  collector: Collector,
  securing: Securing,
  members: Sequence[int],
  requests: Mapping[int, Packet],
  size: int,
  folder: pathlib.Path,
  *,
  least: int,
) -> Summed:
  """The sum of what the sites of a fleet and group answer to requests.

  Until a vector was sent the sum can begin anew, and does. After that a site
  takes part in no other sum of the same round: what is lost then is the round.
  Every exchange is written down, so that a coordinator that was killed goes on
  with the same sum.

  Args:
    collector: asks.
    securing: how.
    members: of one fleet and group, in the order of rows.
    requests: for training, by member.
    size: d.
    folder: for what is written down, named by fleet and group; `forget` it
      when the state is saved.
    least: sites that are waited for until they have sent a vector.

  Raises:
    TooFewError: the sum cannot begin: too few sites take part.
    InputError: the terms protect nobody, for instance with two sites.
  """
  identities = [
    bytes.fromhex(collector.roster.members[i].identity) for i in members
  ]
  first = requests[members[0]].header
  name = '/'.join(
    [*(str(first[k]) for k in ('run', 'method', 'round')), folder.name]
  )
  for attempt in range(_MOST_ATTEMPTS):
    terms = securing.terms(f'{name}/{attempt}', identities, size)
    lead = _Leader(
      collector, terms, members, requests, folder / str(attempt), least
    )
    try:
      adverts, sent = lead.prepared()
    except (TooFewError, InputError) as error:
      collector.note({'kind': 'sum', 'cause': f'{terms.session}: {error}'})
      last = error
      continue
    try:
      result = lead.finished(adverts, sent)
    except (TooFewError, InputError) as error:
      collector.note({'kind': 'sum lost', 'cause': f'{terms.session}: {error}'})
      result = Summed(None, {})
    return result
  raise TooFewError(str(last))


def forget(folder: pathlib.Path) -> None:
  """Removes what was written down of sums that are known."""
  shutil.rmtree(folder, ignore_errors=True)


@dataclasses.dataclass
class _Leader:
  """One attempt; members of the roster are places of the terms."""

  collector: Collector
  terms: Terms
  members: Sequence[int]
  requests: Mapping[int, Packet]
  folder: pathlib.Path
  least: int

  def prepared(self) -> tuple[dict[int, Advert], dict[int, dict[int, bytes]]]:
    """Keys and sealed shares: of values nothing was sent yet."""
    adverts = self._step(
      'advertise',
      {place: {} for place in range(len(self.members))},
      lambda packet: Advert(*map(bytes.fromhex, packet.header['advert'])),
    )
    masked_sum.check_adverts(self.terms, adverts)
    said = {i: [part.hex() for part in a] for i, a in adverts.items()}
    sent = self._step(
      'share',
      {place: {'adverts': said} for place in adverts},
      lambda packet: _unhex(packet.header['sealed']),
    )
    return adverts, sent

  def finished(
    self,
    adverts: Mapping[int, Advert],
    sent: Mapping[int, Mapping[int, bytes]],
  ) -> Summed:
    """Masked vectors, the list of who sent one, and what takes off masks."""
    inboxes = masked_sum.routed(self.terms, sent)
    replies = self._step(
      'mask',
      {place: {'inbox': _hex(inboxes[place])} for place in sent},
      lambda packet: (packet.arrays['masked'], packet.header.get('metrics')),
    )
    masked = {place: vector for place, (vector, _) in replies.items()}
    signatures = self._step(
      'agree',
      {place: {'survivors': sorted(masked)} for place in masked},
      lambda packet: bytes.fromhex(packet.header['signature']),
    )
    told = self._step(
      'unmask',
      {place: {'signatures': _hex(signatures)} for place in signatures},
      lambda packet: Unmasking(
        _unhex(packet.header['lost']), _unhex(packet.header['survived'])
      ),
    )
    total = masked_sum.total(self.terms, adverts, sent, masked, told)
    metrics = {
      self.members[place]: found or {} for place, (_, found) in replies.items()
    }
    return Summed(total, metrics)

  def _step(self, step: str, headers: Mapping[int, Mapping[str, Any]], read):
    said = site_lib.terms_to(self.terms)
    requests = {}
    for place, header in headers.items():
      asked = self.requests[self.members[place]]
      requests[self.members[place]] = Packet(
        {
          **asked.header,
          'kind': 'sum',
          'step': step,
          'terms': said,
          'place': place,
          **header,
        },
        asked.arrays if step == 'mask' else {},
      )

    def checked(i, packet):
      del i
      try:
        return read(packet)
      except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
          f'Expected an answer to {step}, got another: {error}.'
        ) from error

    # Whose vector is in the sum need not be there to take off the masks.
    wanted = 0 if step in ('agree', 'unmask') else self.least
    found = self.collector.collect(
      requests,
      checked,
      least=max(self.terms.threshold, min(wanted, len(requests))),
      # Sealed shares for all, in hexadecimal, are the most after vectors.
      most_bytes=8 * self.terms.size + 1024 * self.terms.num_nodes,
      journal=self.folder / step,
    )
    return {self.members.index(i): value for i, value in found.items()}


def _hex(texts: Mapping[int, bytes]) -> dict[str, str]:
  return {str(i): text.hex() for i, text in texts.items()}


def _unhex(texts: Mapping[str, str]) -> dict[int, bytes]:
  return {int(i): bytes.fromhex(text) for i, text in texts.items()}
