"""The message when C++ ends the process.

If the coordinator is gone or processes never came, JAX's distributed runtime
calls `abort()` in a thread of its own. No exception reaches Python, and
`missed_heartbeat_callback`, made for this, ends in `std::bad_cast` (jaxlib
0.10.2). The signal that `abort` raises is the last chance to say what happened.
"""

from collections.abc import Callable
import ctypes
import os
import signal
from typing import Any


def explain(say: Callable[[], tuple[str, int] | None]) -> Any:
  """Has `say` called when the process aborts.

  It runs in the thread that aborts, so it must not need JAX.

  Args:
    say: returns the text to end with and the exit status; None to abort after
      all.

  Returns:
    The handler, which must be kept as long as it is to work.
  """

  def handle(unused_signum):
    if (said := say()) is not None:
      text, status = said
      os.write(2, text.encode())
      os._exit(status)

  # Not `signal.signal`: its handlers run in the main thread, between bytecodes,
  # and `abort` does not wait for that.
  handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)
  ctypes.CDLL(None).signal(signal.SIGABRT, handler)
  return handler
