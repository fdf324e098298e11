"""Events as dp-accounting has them, composed by one of its accountants.

The translation lies apart from `accounting.py`, which is what others call,
because each of the library's accountants has its own idea of neighbours.
"""

from collections.abc import Iterator, Sequence
import contextlib
import functools
import math
from typing import Any

from absl import logging
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.privacy import events as events_lib
from fedjax_gen.privacy.events import Event

# Loss distributions are discretised to a part of what a step loses.
_GRID_SHARE = 0.2
_FINEST_GRID, _COARSEST_GRID = 1e-5, 1e-3


@functools.lru_cache(maxsize=4096)
def epsilon(
  events: tuple[Event, ...], delta: float, accountant: str, neighbouring: str
) -> float:
  """`accounting.epsilon`, of checked arguments; remembers what it computed.

  Guarantees:
    As `accounting.epsilon`.

  Raises:
    InputError: this accountant does not know an event under this relation.
  """
  import dp_accounting

  if not all(event.is_private for event in events):
    return math.inf
  if not events:
    return 0.0
  relation = getattr(dp_accounting.NeighboringRelation, neighbouring.upper())
  composed: Any
  if accountant == 'pld':
    events = _gaussians_joined(events)
    if len(events) == 1 and events[0].kind == 'gaussian':
      # Has a closed form; its losses may be too many to list.
      halved = 2 if neighbouring == 'replace_one' else 1
      stddev = events[0].noise_multiplier / halved
      return float(dp_accounting.get_epsilon_gaussian(stddev, delta))
    composed = dp_accounting.pld.PLDAccountant(relation, _grid(events))
  else:
    composed = dp_accounting.rdp.RdpAccountant(neighboring_relation=relation)
  with _quiet():
    for event in events:
      translated = _translated(event, accountant, neighbouring)
      if not composed.supports(translated):
        raise InputError(
          f'Expected events that accountant={accountant!r} knows under '
          f'neighbouring={neighbouring!r}, got kind={event.kind!r}.'
        )
      composed.compose(translated, event.steps)
    return float(composed.get_epsilon(delta))


def _gaussians_joined(events: Sequence[Event]) -> tuple[Event, ...]:
  """All events of kind `gaussian` as the one that costs the same."""
  rest = [event for event in events if event.kind != 'gaussian']
  precision = sum(
    event.steps / event.noise_multiplier**2
    for event in events
    if event.kind == 'gaussian'
  )
  joined = [events_lib.gaussian(precision**-0.5)] if precision else []
  return (*joined, *rest)


def _grid(events: Sequence[Event]) -> float:
  """Discretisation of privacy losses, fine for the least step of all.

  With a coarser one the result is an upper bound still, but a loose one: a
  quarter too much, for q = 0.001 and ten thousand steps on a grid of 1e-3.
  """
  losses = [
    event.sampling_probability / max(event.noise_multiplier, 1.0)
    for event in events
    if event.sampling_probability > 0
  ]
  finest = _GRID_SHARE * min(losses, default=1.0)
  return min(max(finest, _FINEST_GRID), _COARSEST_GRID)


def _translated(event: Event, accountant: str, neighbouring: str) -> Any:
  """One step of an event, as dp-accounting has it."""
  import dp_accounting

  noise = event.noise_multiplier
  if neighbouring == 'replace_one' and (
    accountant == 'rdp' or event.kind == 'laplace'
  ):
    # Its loss distributions of Gaussians know that replacing moves a sum
    # twice as far. Its Renyi accountant does not: it takes noise over whatever
    # the sensitivity is.
    noise = noise / 2
  gaussian = dp_accounting.GaussianDpEvent(noise)
  match event.kind:
    case 'gaussian':
      return gaussian
    case 'poisson_gaussian':
      return dp_accounting.PoissonSampledDpEvent(
        event.sampling_probability, gaussian
      )
    case 'truncated_poisson_gaussian':
      return dp_accounting.TruncatedSubsampledGaussianDpEvent(
        event.num_records, event.sampling_probability, event.capacity, noise
      )
    case 'fixed_size_gaussian':
      return dp_accounting.SampledWithoutReplacementDpEvent(
        event.num_records, event.capacity, gaussian
      )
    case 'laplace':
      return dp_accounting.LaplaceDpEvent(noise)
  raise AssertionError(event.kind)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences warnings of Renyi orders that are of no use at little noise."""
  level = logging.get_verbosity()
  logging.set_verbosity(min(level, logging.ERROR))
  try:
    with np.errstate(over='ignore', invalid='ignore', divide='ignore'):
      yield
  finally:
    logging.set_verbosity(level)
