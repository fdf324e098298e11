"""Two processes of one machine that talk: one that stays, and Flower's.

Flower starts a process for each message. JAX would start in each and compile
anew, so that process is a relay to one that stays warm. They meet at a Unix
socket in a folder that the user alone may enter, with a key that lies there.
Frames are bytes; nothing is pickled, and nothing here imports JAX.
"""

from collections.abc import Callable, Iterator
import contextlib
from multiprocessing import AuthenticationError, connection
import os
import pathlib
import secrets
import shutil
import tempfile
import threading

_KEY = 'key'
_SOCKET = 'socket'


@contextlib.contextmanager
def listening() -> Iterator[tuple[pathlib.Path, connection.Listener]]:
  """A folder to meet in, and its listener; both are gone at the end."""
  # Paths of sockets have 107 bytes at most: not in a folder of the user's.
  folder = pathlib.Path(tempfile.mkdtemp(prefix='fedjax-gen-'))
  key = secrets.token_bytes(32)
  try:
    (folder / _KEY).touch(mode=0o600)
    (folder / _KEY).write_bytes(key)
    address = str(folder / _SOCKET)
    with connection.Listener(address, 'AF_UNIX', authkey=key) as listener:
      yield folder, listener
  finally:
    shutil.rmtree(folder, ignore_errors=True)


def connected(folder: str | os.PathLike) -> connection.Connection:
  """Who listens at a folder.

  Raises:
    OSError: nobody does.
  """
  folder = pathlib.Path(folder)
  key = (folder / _KEY).read_bytes()
  return connection.Client(str(folder / _SOCKET), 'AF_UNIX', authkey=key)


def accepted(
  listener: connection.Listener, seconds: float
) -> connection.Connection:
  """The one who connects first.

  Raises:
    TimeoutError: nobody does in that time.
  """
  found: list[connection.Connection] = []
  thread = threading.Thread(
    target=lambda: found.append(listener.accept()), daemon=True
  )
  thread.start()
  thread.join(seconds)
  if not found:
    raise TimeoutError(f'Nobody connected within {seconds:g} s.')
  return found[0]


def serve(
  listener: connection.Listener, answer: Callable[[bytes], bytes]
) -> threading.Thread:
  """Answers one message a connection, one after the other, until it is closed.

  Returns:
    The thread that does.
  """

  def work():
    while True:
      try:
        accepted = listener.accept()
      except AuthenticationError:
        continue
      except OSError:
        return  # closed
      # Who asked may be gone before there is an answer; it asks again.
      with accepted, contextlib.suppress(EOFError, OSError):
        accepted.send_bytes(answer(accepted.recv_bytes()))

  thread = threading.Thread(target=work, daemon=True)
  thread.start()
  return thread
