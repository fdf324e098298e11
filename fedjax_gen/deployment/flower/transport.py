"""Flower's grid as a `roster.Transport`, at the other end of the server app."""

from collections.abc import Iterator, Mapping, Sequence
import json
from multiprocessing import connection
import time
from typing import Any

from fedjax_gen.deployment.roster import Address, Note

_POLL = 0.25  # seconds


class FlowerTransport:
  """What the coordinator's process asks of the server app that it started."""

  def __init__(self, relay: connection.Connection, note: Note):
    """Takes over a connection that the server app has made."""
    self._relay, self._note = relay, note

  def addresses(self) -> Sequence[Address]:
    """Nodes that Flower holds for connected."""
    return self._asked({'do': 'nodes'})['nodes']

  def exchange(
    self, requests: Mapping[Address, bytes], seconds: float
  ) -> Iterator[tuple[Address, bytes]]:
    """See `roster.Transport`."""
    until = time.monotonic() + seconds
    nodes = list(requests)
    ids = self._asked(
      {'do': 'send', 'nodes': nodes, 'seconds': seconds + _POLL},
      [requests[node] for node in nodes],
    )['ids']
    waiting = {i: node for i, node in zip(ids, nodes, strict=True) if i}
    while waiting and time.monotonic() < until:
      found = self._asked({'do': 'poll', 'ids': list(waiting)})['replies']
      for reply in found:
        text = None if reply['error'] else self._relay.recv_bytes()
        node = waiting.pop(reply['id'], None)
        if node is None:
          continue
        if text is None:
          self._note(
            {'kind': 'transport', 'node': node, 'cause': reply['error']}
          )
        else:
          yield node, text
      if not found:
        time.sleep(_POLL)

  def close(self) -> None:
    """Ends the server app, and so Flower's run."""
    try:
      self._relay.send_bytes(json.dumps({'do': 'end'}).encode())
      self._relay.close()
    except OSError:
      pass  # it has ended before

  def _asked(
    self, header: Mapping[str, Any], blobs: Sequence[bytes] = ()
  ) -> dict[str, Any]:
    self._relay.send_bytes(json.dumps(header).encode())
    for blob in blobs:
      self._relay.send_bytes(blob)
    return json.loads(self._relay.recv_bytes())
