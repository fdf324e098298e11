"""Several processes, on several hosts, as one run: how they agree.

XLA's collectives carry the sums of a round. This module carries the few
decisions that all processes must share (which round to resume from, that one of
them received a signal, that one has failed) through the key-value store of
JAX's coordinator, which process 0 hosts. It needs no device, waits for any time
without a collective's timeout, and reports why another process ended.

Process 0 is the writer: only it touches the work directory, evaluates and
draws. JAX is not imported before `connect`, so that mistakes are answered
earlier.
"""

import atexit
from collections.abc import Callable, Sequence
import json
import os
import sys
import threading
import time
from typing import Any

_POLL_MS = 500  # between two looks at whether another process has ended
_FAREWELL_MS = 10_000  # for all to hear that one ends
AGAIN = (
  'What was saved is intact: run the same commands again, one a process, to '
  'resume.'
)


class EndedError(Exception):
  """Another process ended the run; the message names it and says why.

  Attributes:
    status: the exit status of that process, which is to be everyone's.
  """

  def __init__(self, message: str, status: int):
    super().__init__(message)
    self.status = status


class Processes:
  """The processes of a run; `ALONE` is a run of one.

  Args:
    index: of this process, 0 for the writer.
    count: of all.
    client: JAX's client of the coordinator; None if there is one process.
    names: of all processes, for messages.
    patience: seconds after which the coordinator declares a silent one dead.
  """

  def __init__(
    self,
    index: int = 0,
    count: int = 1,
    client: Any = None,
    names: Sequence[str] = ('process 0',),
    patience: float = 0.0,
  ):
    self.index = index
    self.count = count
    self.names = tuple(names)
    self.handler: Any = None  # of aborts; kept alive as long as this is
    self._client = client
    self._patience = patience
    self._number = 0  # of the next exchange
    self.farewell: int | None = None  # this process's status, once it ends
    self.reason = ''  # why it ends, not said by itself yet
    if client is not None:
      threading.Thread(target=self._watch, daemon=True).start()

  @property
  def is_writer(self) -> bool:
    """Whether this process writes, evaluates and draws for all."""
    return self.index == 0

  def exchange(self, value: Any) -> list[Any]:
    """Gives every process the values of all, in the order of their indices.

    A meeting: nobody goes on before everybody has come. All must make the same
    calls in the same order.

    Raises:
      EndedError: another process ended instead of coming.
    """
    text = json.dumps(value)
    if self.count == 1:
      return [json.loads(text)]
    number, self._number = self._number, self._number + 1
    self._asked(
      self._client.key_value_set, f'exchange/{number}/up/{self.index}', text
    )
    result = f'exchange/{number}/down'
    if self.is_writer:
      values = [
        self._wait_for(f'exchange/{number}/up/{index}')
        for index in range(self.count)
      ]
      self._client.key_value_set(result, json.dumps(values))
      # All have come, so all have read the one before.
      self._client.key_value_delete(f'exchange/{number - 1}/')
    return self._wait_for(result)

  def from_writer(self, compute: Callable[[], Any]) -> Any:
    """Computes a JSON value in the writer and gives it to all.

    Raises:
      EndedError: the writer failed; the writer itself raises what it met.
    """
    return self.exchange(compute() if self.is_writer else None)[0]

  def release(self) -> None:
    """Parts the writer, which goes on alone, from the others, which wait.

    No collective may follow. The others stay until the writer ends, so that
    whoever restarts failed processes restarts all of them.

    Raises:
      EndedError: in all but the writer, when the writer has ended.
    """
    while not self.is_writer:
      self.check()
      time.sleep(_POLL_MS / 1000)

  def check(self) -> None:
    """Raises `EndedError` if another process has said that it ends."""
    if self._client is None:
      return
    for key, text in self._asked(self._client.key_value_dir_get, 'end/'):
      index = int(key.rpartition('/')[2])
      if index != self.index:
        status, message = json.loads(text)
        raise EndedError(f'{self.names[index]} ended: {message}', status)

  def end(self, status: int, message: str = '') -> None:
    """Tells the others that this process ends, and waits until they know.

    Args:
      status: its exit status.
      message: why it ends, if not because all is done.
    """
    if self._client is None or self.farewell is not None:
      return
    self.reason = message
    self.farewell = status
    # A thread that waits in C++, as `_watch` may, cannot be left in an orderly
    # way: C++ calls it a failure, after all has gone well.
    atexit.register(_leave, status)
    import jax

    try:
      self._client.key_value_set(
        f'end/{self.index}', json.dumps([status, message])
      )
      self._client.wait_at_barrier('end', _FAREWELL_MS)
      if self.is_writer:
        time.sleep(_POLL_MS / 1000)  # the others leave the coordinator first
      jax.distributed.shutdown()
    except jax.errors.JaxRuntimeError:
      pass  # whoever did not come is gone already

  def cause(self, error: BaseException) -> BaseException:
    """Returns `error`, or the end of another process if that is behind it.

    A collective fails at once where a connection breaks, before anybody knows
    which process is gone and why.
    """
    if self._client is None or 'Gloo' not in str(error):
      return error
    time.sleep(2 * _POLL_MS / 1000)
    try:
      self.check()
    except EndedError as ended:
      return ended
    first_line = str(error).partition('\n')[0]
    self._say(
      f'A connection to another process broke ({first_line}). Waiting up to '
      f'{self._patience:.0f} s for the coordinator to find which.'
    )
    time.sleep(2 * self._patience)  # `_watch` ends the process in between
    return EndedError(f'Another process is gone. {AGAIN}', 1)

  def _wait_for(self, key: str) -> Any:
    import jax

    while True:
      try:
        return json.loads(
          self._asked(self._client.blocking_key_value_get, key, _POLL_MS)
        )
      except jax.errors.JaxRuntimeError as error:
        if 'DEADLINE_EXCEEDED' not in str(error):
          raise
      self.check()

  def _asked(self, function: Callable[..., Any], *arguments: Any) -> Any:
    """What the coordinator answers.

    Raises:
      EndedError: it is gone.
      JaxRuntimeError: it answers otherwise.
    """
    import jax

    try:
      return function(*arguments)
    except jax.errors.JaxRuntimeError as error:
      if self.is_writer or 'UNAVAILABLE' not in str(error):
        raise
      lost = f'Lost {self.names[0]}, the coordinator. {AGAIN}'
      raise EndedError(lost, 1) from error

  def _watch(self) -> None:
    """Ends this process when another is dead, wherever its own work stands."""
    everyone = list(range(self.count))
    while True:
      try:
        # Waits for every live process to ask; heartbeats say who is live.
        alive = self._client.get_live_nodes(everyone)
      except Exception:
        return  # the coordinator is gone, for which `aborts` has the words
      if self.farewell is not None:
        return
      if dead := sorted(set(everyone) - set(alive)):
        names = ', '.join(self.names[index] for index in dead)
        self._say(
          f'Lost {names}: killed, crashed or cut off, no sign of life for '
          f'{self._patience:.0f} s. {AGAIN}'
        )
        if self.is_writer:
          time.sleep(2 * _POLL_MS / 1000)  # the coordinator outlives the others
        os._exit(1)
      time.sleep(_POLL_MS / 1000)

  def _say(self, text: str) -> None:
    print(f'{self.names[self.index]}: {text}', file=sys.stderr, flush=True)


def _leave(status: int) -> None:
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


ALONE = Processes()
