"""A network that is slow, stops and breaks, between processes of this machine.

What packets suffer (loss, reordering) TCP turns into delay; what is left for
programs are delays and connections that end.
"""

import contextlib
import random
import socket
import threading
import time

_MOST_CUTS = 5  # what cut connections cost is waiting to connect again


class Relay:
  """Passes on what is sent to a port, late, and cuts connections at random.

  Attributes:
    port: to send to.
    num_delays: pieces that were held back.
    num_cuts: connections that were cut.
  """

  def __init__(self, to: int, *, seed: int = 0):
    self._to, self._random = to, random.Random(seed)
    self._listener = socket.create_server(('127.0.0.1', 0))
    self.port = self._listener.getsockname()[1]
    self.num_delays = self.num_cuts = 0
    threading.Thread(target=self._serve, daemon=True).start()

  def close(self) -> None:
    """Takes no more connections."""
    self._listener.close()

  def _serve(self) -> None:
    with contextlib.suppress(OSError):  # closed
      while True:
        near, _ = self._listener.accept()
        far = socket.create_connection(('127.0.0.1', self._to))
        for ends in ((near, far), (far, near)):
          threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

  def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
      while piece := source.recv(1 << 16):
        chance = self._random.random()
        if chance < 0.2:
          self.num_delays += 1
          time.sleep(self._random.uniform(0.05, 0.5))
        if chance > 0.99 and self.num_cuts < _MOST_CUTS:
          self.num_cuts += 1
          break
        target.sendall(piece)
    for end in (source, target):
      with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
