"""How a run ends early: a signal, or numbers that are not finite.

Does not import JAX, so that the command line can answer a mistake before it
does.
"""

from collections.abc import Iterator
import contextlib
import os
import signal
import socket
import sys
import threading

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class DivergedError(Exception):
  """Numbers turned non-finite; the message names where, and what was kept."""


class StoppedError(BaseException):
  """A signal asked the run to stop, and what had to be saved is saved.

  Like `KeyboardInterrupt`, not an `Exception`: nothing is to handle it on its
  way out.

  Attributes:
    signum: the signal's number; a shell expects exit status 128 + signum.
  """

  def __init__(self, signum: int):
    super().__init__(f'Stopped by {signal.Signals(signum).name}.')
    self.signum = signum


class StopSignal:
  """Turns SIGINT and SIGTERM into `StoppedError` at a moment that suits.

  Inside `with StopSignal() as stop:` a signal raises `StoppedError` where the
  main thread stands, except within `with stop.deferred():`, where it only sets
  `stop.requested`; the end of that block then raises. A second signal ends the
  process at once, even while a long compiled step holds the main thread: Python
  runs its handlers only between bytecodes, so a thread fed by the interpreter's
  wake-up descriptor does the talking and the exiting.

  Must be entered in the main thread.
  """

  def __init__(self):
    self.requested: int | None = None
    self._is_deferred = False

  def __enter__(self) -> 'StopSignal':
    self._previous = {s: signal.signal(s, self._handle) for s in _SIGNALS}
    self._reader, self._writer = socket.socketpair()
    self._writer.setblocking(False)
    self._previous_fd = signal.set_wakeup_fd(self._writer.fileno())
    threading.Thread(target=self._watch, daemon=True).start()
    return self

  def __exit__(self, *unused_exception) -> None:
    signal.set_wakeup_fd(self._previous_fd)
    for signum, handler in self._previous.items():
      signal.signal(signum, handler)
    self._writer.close()  # ends the thread: it reads an end of file

  @contextlib.contextmanager
  def deferred(self) -> Iterator[None]:
    """Lets the block finish before a signal takes effect.

    Raises:
      StoppedError: after the block, if a signal arrived within it.
    """
    self._is_deferred = True
    try:
      yield
    finally:
      self._is_deferred = False
    if self.requested:
      raise StoppedError(self.requested)

  def _handle(self, signum, unused_frame) -> None:
    self.requested = signum
    if not self._is_deferred:
      raise StoppedError(signum)

  def _watch(self) -> None:
    with self._reader:
      seen = 0
      while received := self._reader.recv(1):
        if received[0] not in _SIGNALS:
          continue
        seen += 1
        if seen > 1:
          os._exit(128 + received[0])
        if self._is_deferred:
          print(
            '\nFinishing the running step, then saving. '
            'Signal again to stop at once.',
            file=sys.stderr,
            flush=True,
          )
