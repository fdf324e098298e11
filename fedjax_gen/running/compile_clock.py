"""How long JAX spent compiling, apart from how long the program ran."""

import time

import jax

_EVENTS = '/jax/core/compile/'
_LAST_EVENT = f'{_EVENTS}backend_compile_duration'


class CompileClock:
  """Sums the time that JAX spends on tracing, lowering and compiling.

  Attributes:
    seconds: the sum since the clock was entered.
    is_compiling: whether a program is being made now, as far as one can tell
      from outside: JAX reports when a part of that has ended, and a program is
      ready when the last part has.

  Example:
    >>> with CompileClock() as clock:
    ...   unused = jax.jit(lambda x: 3 * x)(2.0)
    >>> clock.seconds > 0, clock.is_compiling
    (True, False)
  """

  def __init__(self):
    self._spans: list[tuple[float, float]] = []
    self.is_compiling = True  # what runs first is not compiled yet

  def __enter__(self) -> 'CompileClock':
    jax.monitoring.register_event_duration_secs_listener(self._listen)
    return self

  def __exit__(self, *unused_exception) -> None:
    jax.monitoring.unregister_event_duration_listener(self._listen)

  @property
  def seconds(self) -> float:
    """The seconds so far."""
    return sum(end - start for start, end in self._spans)

  def _listen(
    self, event: str, duration_secs: float, **unused_details: str | int
  ) -> None:
    if not event.startswith(_EVENTS):
      return
    self.is_compiling = event != _LAST_EVENT
    end = time.time()
    start = end - duration_secs
    # Functions traced within this one reported first: count them once.
    while self._spans and self._spans[-1][0] >= start:
      self._spans.pop()
    self._spans.append((start, end))
