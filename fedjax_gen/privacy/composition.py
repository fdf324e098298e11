"""Events as dp-accounting has them, composed by one of its accountants.

The translation lies apart from `accounting.py`, which is what others call,
because each of the library's accountants has its own idea of neighbours.
"""

from collections.abc import Iterable, Iterator, Sequence
import contextlib
import dataclasses
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
# Of one step; where noise is so little that there are more, the grid is
# coarser.
_MOST_LOSSES = 200_000
# dp-accounting's names. For a sum, to zero a contribution is to remove it: the
# two pairs of output distributions are the same.
_RELATIONS = {
  'zero_out': 'ADD_OR_REMOVE_ONE',
  'add_or_remove_one': 'ADD_OR_REMOVE_ONE',
  'replace_one': 'REPLACE_ONE',
}


def epsilon(
  events: Iterable[Event], delta: float, accountant: str, neighbouring: str
) -> float:
  """`accounting.epsilon`, of checked arguments; remembers what it computed.

  Guarantees:
    As `accounting.epsilon`.

  Raises:
    InputError: this accountant does not know an event under this relation.
  """
  events = _joined(events)
  if not all(event.is_private for event in events):
    return math.inf
  if not events:
    return 0.0
  return _composed(events, delta, accountant, neighbouring)


@functools.lru_cache(maxsize=4096)
def _composed(
  events: tuple[Event, ...], delta: float, accountant: str, neighbouring: str
) -> float:
  """The epsilon of some events, all of them private."""
  import dp_accounting

  relation = dp_accounting.NeighboringRelation[_RELATIONS[neighbouring]]
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


def _joined(events: Iterable[Event]) -> tuple[Event, ...]:
  """Like events as one of more steps, in a fixed order.

  What is composed is a multiset: it costs the same, to the last digit, however
  releases are listed.
  """
  steps: dict[Event, int] = {}
  for event in events:
    once = dataclasses.replace(event, steps=1)
    steps[once] = steps.get(once, 0) + event.steps
  joined = (event.repeated(count) for event, count in steps.items())
  return tuple(sorted(joined, key=dataclasses.astuple))


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
  Nor with so fine a one that the losses are too many to list.
  """
  losses = [
    event.sampling_probability / max(event.noise_multiplier, 1.0)
    for event in events
    if event.sampling_probability > 0
  ]
  finest = _GRID_SHARE * min(losses, default=1.0)
  grid = min(max(finest, _FINEST_GRID), _COARSEST_GRID)
  # Losses of a Gaussian lie within 10 standard deviations, 1 / z, of their
  # mean, 1 / (2 z^2).
  least = min((event.noise_multiplier for event in events), default=1.0)
  widest = (0.5 / least + 10) / least
  return max(grid, widest / _MOST_LOSSES)


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
