"""How long JAX spent compiling, apart from how long the program ran."""

import time

import jax


class CompileClock:
  """Sums the time that JAX spends on tracing, lowering and compiling.

  Attributes:
    seconds: the sum since the clock was entered.

  Example:
    >>> with CompileClock() as clock:
    ...   unused = jax.jit(lambda x: 3 * x)(2.0)
    >>> clock.seconds > 0
    True
  """

  def __init__(self):
    self._spans: list[tuple[float, float]] = []

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
    if not event.startswith('/jax/core/compile/'):
      return
    end = time.time()
    start = end - duration_secs
    # Functions traced within this one reported first: count them once.
    while self._spans and self._spans[-1][0] >= start:
      self._spans.pop()
    self._spans.append((start, end))
