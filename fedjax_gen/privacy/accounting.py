"""From events to epsilon, by the accountants of dp-accounting.

Two of them. `pld`, privacy loss distributions, is tight: its discretisation is
pessimistic, so that what it gives is an upper bound. `rdp`, Renyi privacy, is
8 to 15 % looser in the settings of DP-SGD, and knows events that the other
does not. Events of one call are composed by one accountant.

dp-accounting is imported when first used, so that importing this package costs
nothing.
"""

from collections.abc import Callable, Iterable, Sequence
import math

from fedjax_gen import validate
from fedjax_gen.errors import InputError
from fedjax_gen.privacy import composition, events as events_lib
from fedjax_gen.privacy.events import Event

ACCOUNTANTS = ('pld', 'rdp')
NEIGHBOURING = ('add_or_remove_one', 'replace_one')
# Ratio of a calibrated noise multiplier to the smallest that would do.
_TOLERANCE = 1 + 1e-4
# Below this no guarantee is worth having, and loss distributions grow huge.
_LEAST_NOISE = 1e-2
_MOST_NOISE = 1e6


def epsilon(
  events: Event | Iterable[Event],
  delta: float,
  *,
  accountant: str = 'pld',
  neighbouring: str = 'add_or_remove_one',
) -> float:
  """The epsilon of everything that was released about one unit's data.

  Guarantees:
    All events together are (epsilon, delta)-DP for the neighbouring relation,
    if every event is true: noise on sums of contributions clipped to C, and
    samples of the law that the event names. Infinity, an explicit value, is
    what a release without noise costs; no events cost 0.
    Neighbouring: `add_or_remove_one`, where a sum changes by C, or
      `replace_one`, where it changes by 2 C.

  Args:
    events: all that was released, in any order.
    delta: in (0, 1); well below one over the number of units (records, or
      clients), or it promises nothing.
    accountant: `pld` or `rdp`.
    neighbouring: what "one" means.

  Raises:
    InputError: an argument is out of range, or this accountant does not know
      an event under this relation.
  """
  released = (events,) if isinstance(events, Event) else tuple(events)
  if not 0 < delta < 1:
    raise InputError(f'Expected 0 < delta < 1, got delta={delta!r}.')
  validate.one_of(ACCOUNTANTS, accountant=accountant)
  validate.one_of(NEIGHBOURING, neighbouring=neighbouring)
  return composition.epsilon(released, delta, accountant, neighbouring)


def parallel(epsilons: Iterable[float]) -> float:
  """Parallel composition: what mechanisms on disjoint data cost together.

  Guarantees:
    Released: one mechanism's output for each client, on its own data alone.
    Neighbouring: one record of one client. It is in one client's data, so the
      release is as private as the least private of them: the largest epsilon,
      at the same delta. Not so if a record lies with several clients.

  Args:
    epsilons: of each client; none cost 0.
  """
  return max((float(value) for value in epsilons), default=0.0)


def noise_multiplier(
  target_epsilon: float,
  delta: float,
  *,
  sampling_probability: float = 1.0,
  steps: int = 1,
  others: Sequence[Event] = (),
  accountant: str = 'pld',
  neighbouring: str = 'add_or_remove_one',
) -> float:
  """The least noise that keeps a Poisson-sampled Gaussian within a budget.

  Guarantees:
    `poisson_gaussian(result, sampling_probability, steps)` and `others`
    together cost at most `target_epsilon` at `delta`, as `epsilon` has it. The
    result exceeds the least such multiplier by 0.01 % at most, unless that is
    below 0.01, where the search ends.

  Args:
    target_epsilon: infinity asks for no noise, and gives 0.
    delta: see `epsilon`.
    sampling_probability: q; 1 for no sampling.
    steps: T.
    others: what else is released about the same data.
    accountant: see `epsilon`.
    neighbouring: see `epsilon`.

  Raises:
    InputError: an argument is out of range, or `others` leave no budget.
  """
  validate.positive_int(steps=steps)
  validate.fraction(sampling_probability=sampling_probability)

  def make(value):
    if sampling_probability == 1:
      return events_lib.gaussian(value, steps)
    return events_lib.poisson_gaussian(value, sampling_probability, steps)

  return calibrate(
    make,
    target_epsilon,
    delta,
    others=others,
    accountant=accountant,
    neighbouring=neighbouring,
  )


def calibrate(
  make_event: Callable[[float], Event],
  target_epsilon: float,
  delta: float,
  *,
  others: Sequence[Event] = (),
  accountant: str = 'pld',
  neighbouring: str = 'add_or_remove_one',
) -> float:
  """`noise_multiplier` for any event, for instance of truncated batches.

  Guarantees:
    `make_event(result)` and `others` together cost at most `target_epsilon`.

  Args:
    make_event: from noise multiplier to event; more noise must cost less.
    target_epsilon: as in `noise_multiplier`.
    delta: see `epsilon`.
    others: what else is released about the same data.
    accountant: see `epsilon`.
    neighbouring: see `epsilon`.

  Raises:
    InputError: as `noise_multiplier`.
  """
  if target_epsilon == math.inf:
    return 0.0
  validate.positive(epsilon=target_epsilon)

  def fits(value):
    cost = epsilon(
      (*others, make_event(value)),
      delta,
      accountant=accountant,
      neighbouring=neighbouring,
    )
    return cost <= target_epsilon

  # Near the noise for epsilon = 1: far less would have losses too many to list.
  event = make_event(1.0)
  high = max(event.sampling_probability * math.sqrt(event.steps), 1.0)
  while not fits(high):
    high *= 2
    if high > _MOST_NOISE:
      raise InputError(
        f'Expected epsilon={target_epsilon!r} to leave something beside what '
        f'else is released, got {len(others)} other events: no noise '
        f'multiplier up to {_MOST_NOISE:g} fits.'
      )
  low = high / 2
  while low >= _LEAST_NOISE and fits(low):
    low, high = low / 2, low
  if low < _LEAST_NOISE:
    return high
  while high / low > _TOLERANCE:
    middle = math.sqrt(low * high)
    if fits(middle):
      high = middle
    else:
      low = middle
  return high  # the side that fits
