"""Asks sites and waits for them, whatever the network does."""

from collections.abc import Callable, Mapping
import dataclasses
import os
import pathlib
import time
from typing import Any, TypeVar

import numpy as np

from fedjax_gen import files as base_files, validate, version
from fedjax_gen.deployment.roster import Address, Note, Roster, Transport
from fedjax_gen.deployment.wire import Packet
from fedjax_gen.errors import InputError
from fedjax_gen.running.storage import disk

_HEADER_BYTES = 1 << 16  # of a reply without its arrays, and for each site
_PAUSE = 1.0

Read = TypeVar('Read')


class TooFewError(InputError):
  """Fewer sites than needed answered; the same command resumes the run."""


@dataclasses.dataclass(frozen=True)
class Patience:
  """How long an exchange waits, and for whom.

  Attributes:
    seconds: after which it goes on without those that are missing if the
      others are enough, and else asks the missing again.
    total: seconds after which it gives up.
  """

  seconds: float = 600.0
  total: float = 86_400.0

  def __post_init__(self):
    validate.positive(seconds=self.seconds, total=self.total)


@dataclasses.dataclass
class Collector:
  """Exchanges with the members of a roster."""

  roster: Roster
  transport: Transport
  patience: Patience
  note: Note

  def name(self, i: int) -> str:
    """A member's name, for people."""
    return self.roster.members[i].name

  def collect(
    self,
    requests: Mapping[int, Packet],
    read: Callable[[int, Packet], Read],
    *,
    least: int,
    most_bytes: int,
    journal: str | os.PathLike | None = None,
  ) -> dict[int, Read]:
    """Replies by member, of those who gave one that can be used.

    A reply that is too large, cannot be read or is a refusal is noted with the
    member's name and the cause, and the member counts as missing.

    Args:
      requests: by member; asked again as they stand.
      read: what a reply is worth; raises `InputError` for nothing.
      least: replies with which to go on after the time is over.
      most_bytes: of the arrays of a reply.
      journal: a file in which the outcome is written down: once it is there,
        nobody is asked.

    Raises:
      TooFewError: fewer than `least` answered in all the time, or the others
        refused.
    """
    if journal is not None and pathlib.Path(journal).exists():
      kept = Packet.from_bytes(pathlib.Path(journal).read_bytes()).arrays
      # In the order of the first time, on which what is asked next depends.
      return {
        i: read(i, Packet.from_bytes(kept[str(i)].tobytes()))
        for i in sorted(map(int, kept))
      }
    found: dict[int, Read] = {}
    raw: dict[int, bytes] = {}
    refused: dict[int, str] = {}
    until = time.monotonic() + self.patience.total
    while True:
      started = time.monotonic()
      pending = set(requests) - set(found) - set(refused)
      self.roster.meet(self.transport, self.note, self.patience.seconds)
      for i, reply in self._replies(pending, requests):
        if i not in pending - set(found) - set(refused):
          continue  # a second time
        try:
          packet = _checked(reply, requests[i], most_bytes)
          if packet is None:
            continue  # to something else, late
          found[i] = read(i, packet)
          raw[i] = reply
        except InputError as error:
          refused[i] = str(error)
          self.note(
            {'kind': 'refused', 'node': self.name(i), 'cause': str(error)}
          )
      missing = set(requests) - set(found) - set(refused)
      if not missing or len(found) >= least:
        break
      self.note(
        {
          'kind': 'waiting',
          'node': ', '.join(map(self.name, sorted(missing))),
          'cause': f'{len(found)} of {least} sites answered',
        }
      )
      if time.monotonic() > until:
        break
      time.sleep(max(0.0, _PAUSE - (time.monotonic() - started)))
    for i in sorted(set(requests) - set(found) - set(refused)):
      self.note({'kind': 'missing', 'node': self.name(i), 'cause': 'no reply'})
    if len(found) < least:
      causes = '; '.join(f'{self.name(i)}: {refused[i]}' for i in refused)
      raise TooFewError(
        f'Expected {least} or more of {len(requests)} sites to answer, got '
        f'{len(found)}. {causes}'
      )
    if journal is not None:
      _write(
        journal,
        Packet(
          {},
          {str(i): np.frombuffer(text, np.uint8) for i, text in raw.items()},
        ),
      )
    return dict(sorted(found.items()))

  def _replies(self, pending: set[int], requests: Mapping[int, Packet]):
    """Replies of members as they come, with nothing sure of them."""
    where: dict[Address, int] = {
      address: i for i, address in self.roster.addresses.items() if i in pending
    }
    sent = {address: requests[i].to_bytes() for address, i in where.items()}
    if sent:
      for address, reply in self.transport.exchange(
        sent, self.patience.seconds
      ):
        if address in where:
          yield where[address], reply


def request(header: Mapping[str, Any], **arrays: Any) -> Packet:
  """A message to a site, with the version that both must have."""
  return Packet({**header, 'version': version.__version__}, **arrays)


def _checked(reply: bytes, asked: Packet, most_bytes: int) -> Packet | None:
  """A reply to what was asked; None for one to something else.

  Raises:
    InputError: it is a refusal, is too large, or is no message.
  """
  if len(reply) > most_bytes + _HEADER_BYTES:
    raise InputError(
      f'Expected a reply of {most_bytes} bytes at most, got {len(reply)}.'
    )
  packet = Packet.from_bytes(reply)
  for name in ('kind', 'run', 'method', 'round', 'step'):
    if packet.header.get(name) != asked.header.get(name):
      return None
  if 'refused' in packet.header:
    raise InputError(str(packet.header['refused'])[:2000])
  return packet


def _write(path: str | os.PathLike, packet: Packet) -> None:
  with disk.full_disk_named(path), base_files.replacing(path) as unfinished:
    unfinished.write_bytes(packet.to_bytes())
