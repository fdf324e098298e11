"""Who takes part in a federation: found once, and known again."""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import json
import os
import pathlib
import secrets as entropy
import time
from typing import Any, NamedTuple, Protocol

from fedjax_gen import version
from fedjax_gen.deployment import masking, site as site_lib
from fedjax_gen.deployment.agreement import Node
from fedjax_gen.deployment.wire import Packet
from fedjax_gen.errors import InputError
from fedjax_gen.running.storage import disk

Address = Any
"""How a transport names a machine that is connected: hashable."""
Note = Callable[[Mapping[str, Any]], None]
"""Writes down what happened: `kind`, `node`, `cause` and what else there is."""


class Transport(Protocol):
  """What carries messages; it may lose, delay, reorder and repeat them."""

  def addresses(self) -> Sequence[Address]:
    """Who is connected."""

  def exchange(
    self, requests: Mapping[Address, bytes], seconds: float
  ) -> Iterator[tuple[Address, bytes]]:
    """Sends each its message; gives replies as they come.

    Ends when all have come, or after some seconds. Replies to earlier
    messages may be among them.
    """


class Member(NamedTuple):
  """A site that takes part.

  Attributes:
    name: that it calls itself, for people.
    identity: its Ed25519 public key, in hexadecimal.
    node: what the algorithm knows of it.
  """

  name: str
  identity: str
  node: Node


Assign = Callable[[Sequence[tuple[int, int]]], Sequence[tuple[int, int]]]
"""`(group, num_examples)` of sites in their order to `(fleet, row)` of each."""


def one_fleet(sites: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
  """All sites in one fleet, in their order."""
  return [(0, row) for row in range(len(sites))]


def by_group(sites: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
  """A fleet for each group, and rows in the order of the sites."""
  seen: collections.Counter[int] = collections.Counter()
  places = []
  for group, _ in sites:
    places.append((group, seen[group]))
    seen[group] += 1
  return places


@dataclasses.dataclass
class Roster:
  """The members of one run, and where they are.

  Attributes:
    run: names the run; sites keep their state by it.
    config: of the study, JSON that sites are sent; None until it is known.
    members: in the order of fleets and rows.
    addresses: where members were last met, by their place in `members`.
  """

  run: str
  config: Mapping[str, Any] | None
  members: tuple[Member, ...]
  addresses: dict[int, Address] = dataclasses.field(default_factory=dict)

  def meet(self, transport: Transport, note: Note, seconds: float) -> None:
    """Asks the connected who they are, where a member is not where it was."""
    connected = set(transport.addresses())
    self.addresses = {
      i: address
      for i, address in self.addresses.items()
      if address in connected
    }
    if len(self.addresses) == len(self.members):
      return
    strangers = connected - set(self.addresses.values())
    places = {member.identity: i for i, member in enumerate(self.members)}
    for address, found in _joined(
      transport, self.run, self.config, strangers, note, seconds
    ):
      place = places.get(found['identity'])
      if place is None:
        note({'kind': 'refused', 'node': found['name'], 'cause': 'no member'})
      elif found['num_examples'] != self.members[place].node.num_examples:
        note({
          'kind': 'refused',
          'node': found['name'],
          'cause': 'another number of examples than it began with',
        })  # fmt: skip
      else:
        self.addresses[place] = address

  def agree(self, config: Mapping[str, Any]) -> None:
    """Sends the study to all when they are met next."""
    self.config, self.addresses = config, {}

  def save(self, path: str | os.PathLike) -> None:
    """Writes who the members are."""
    record = {
      'run': self.run,
      'members': [
        {
          'name': member.name,
          'identity': member.identity,
          **member.node._asdict(),
        }
        for member in self.members
      ],
    }
    disk.write_atomically(path, json.dumps(record, indent=1) + '\n')


def gathered(
  transport: Transport,
  path: str | os.PathLike,
  num_sites: int,
  *,
  assign: Assign = one_fleet,
  note: Note = lambda record: None,
  seconds: float = 60.0,
  patience: float = 86_400.0,
) -> Roster:
  """The members of a run: those it began with, or the first that come.

  Args:
    transport: to whom it may talk.
    path: of the file that remembers them.
    num_sites: how many to wait for.
    assign: the fleet of each site.
    note: writes down what happens.
    seconds: to wait for an answer.
    patience: seconds to wait for all, altogether.

  Raises:
    InputError: not all came in time, or the file is of another federation.
  """
  known = disk.read_json(path)
  if known is not None:
    members = tuple(_member(record) for record in known['members'])
    if len(members) != num_sites:
      raise InputError(
        f'Expected sites={len(members)}, as {path} began with, got '
        f'sites={num_sites}.'
      )
    return Roster(known['run'], None, members)
  run = entropy.token_hex(8)
  found: dict[str, dict[str, Any]] = {}
  addresses: dict[str, Address] = {}
  until, said = time.monotonic() + patience, -1
  while len(found) < num_sites:
    strangers = set(transport.addresses()) - set(addresses.values())
    for address, one in _joined(transport, run, None, strangers, note, seconds):
      if len(found) < num_sites or one['identity'] in found:
        found[one['identity']] = one
        addresses[one['identity']] = address
    if len(found) < num_sites:
      if time.monotonic() > until:
        raise InputError(
          f'Expected {num_sites} sites within {patience:g} s, got {len(found)}.'
        )
      if said != len(found):
        said = len(found)
        note({'kind': 'waiting', 'cause': f'{said} of {num_sites} sites'})
      time.sleep(_PAUSE)
  ordered = sorted(
    found.values(), key=lambda one: (one['name'], one['identity'])
  )
  places = assign([(one['group'], one['num_examples']) for one in ordered])
  ordered_members = sorted(
    (
      Member(
        one['name'],
        one['identity'],
        Node(fleet, row, one['group'], one['num_examples']),
      )
      for one, (fleet, row) in zip(ordered, places, strict=True)
    ),
    key=lambda member: member.node[:2],
  )
  roster = Roster(run, None, tuple(ordered_members))
  roster.addresses = {
    i: addresses[member.identity] for i, member in enumerate(roster.members)
  }
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  roster.save(path)
  return roster


_PAUSE = 0.5
_MOST_JOIN_BYTES = 1 << 16
MOST_EXAMPLES = 1 << 27
"""Of all sites together: a few bytes are kept for each."""


def _joined(
  transport: Transport,
  run: str,
  config: Mapping[str, Any] | None,
  addresses: set[Address],
  note: Note,
  seconds: float,
) -> Iterator[tuple[Address, dict[str, Any]]]:
  """Who is at addresses, as far as they prove it."""
  nonces = {address: entropy.token_hex(16) for address in addresses}
  requests = {
    address: Packet({
      'kind': 'join',
      'version': version.__version__,
      'run': run,
      'nonce': nonce,
      'config': config,
    }).to_bytes()
    for address, nonce in nonces.items()
  }  # fmt: skip
  if not requests:
    return
  for address, reply in transport.exchange(requests, seconds):
    if address not in nonces:
      continue
    try:
      if len(reply) > _MOST_JOIN_BYTES:
        raise InputError(f'a reply of {len(reply)} bytes')
      header = Packet.from_bytes(reply).header
      if header.get('kind') != 'join':
        continue  # an answer to something else, late
      if 'refused' in header:
        raise InputError(header['refused'])
      yield address, _proven(header, run, nonces[address])
    except InputError as error:
      note({'kind': 'refused', 'node': str(address), 'cause': str(error)})


def _proven(header: Mapping[str, Any], run: str, nonce: str) -> dict[str, Any]:
  try:
    one: dict[str, Any] = {
      'identity': str(header['identity']),
      'num_examples': int(header['num_examples']),
      'group': int(header['group']),
    }
    if not (
      0 <= one['num_examples'] <= MOST_EXAMPLES and 0 <= one['group'] < 1 << 16
    ):
      raise ValueError(
        f'num_examples={one["num_examples"]} and group={one["group"]}'
      )
    one['name'] = str(header.get('name') or one['identity'][:8])[:80]
    said = site_lib.joining_text(run, nonce, one['num_examples'], one['group'])
    signed = bytes.fromhex(header['signature'])
    if not masking.is_signed(bytes.fromhex(one['identity']), said, signed):
      raise ValueError('a signature of somebody else')
    return one
  except (KeyError, TypeError, ValueError) as error:
    raise InputError(
      f'Expected a site that says and proves who it is, got {error}.'
    ) from error


def _member(record: Mapping[str, Any]) -> Member:
  node = Node(*(int(record[name]) for name in Node._fields))
  return Member(record['name'], record['identity'], node)
