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
NEIGHBOURING = ('zero_out', 'add_or_remove_one', 'replace_one')
LEAST_DELTA = 1e-12
"""Below it `pld` is loose or gives infinity: it drops such tails."""
MOST_EPSILON = 100.0
"""A factor of e^100 promises nothing; up to it a search takes seconds."""
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
  neighbouring: str = 'zero_out',
) -> float:
  """The epsilon of everything that was released about one unit's data.

  Guarantees:
    All events together are (epsilon, delta)-DP for the neighbouring relation,
    if every event is true: noise on sums of contributions clipped to C, and
    samples of the law that the event names. Infinity, an explicit value, is
    what a release without noise costs; no events cost 0.
    Neighbouring: `zero_out`, where the contribution of one is replaced by
      zero while numbers that are public, such as how many there are, stay as
      they are: a sum changes by C. It costs what `add_or_remove_one` does, of
      which not even the number is known. `replace_one`: it changes by 2 C.

  Args:
    events: all that was released, in any order.
    delta: from 1e-12 to below 1; well below one over the number of units
      (records, or clients), or it promises nothing.
    accountant: `pld` or `rdp`.
    neighbouring: what "one" means.

  Raises:
    InputError: an argument is out of range, or this accountant does not know
      an event under this relation.
  """
  released = (events,) if isinstance(events, Event) else tuple(events)
  check_delta(delta)
  validate.one_of(ACCOUNTANTS, accountant=accountant)
  validate.one_of(NEIGHBOURING, neighbouring=neighbouring)
  return composition.epsilon(released, delta, accountant, neighbouring)


def check_delta(delta: float) -> None:
  """Checks that the accountants can resolve a delta."""
  if not LEAST_DELTA <= delta < 1:
    raise InputError(
      f'Expected {LEAST_DELTA:g} <= delta < 1, which accountants can resolve, '
      f'got delta={delta!r}.'
    )


def check_epsilon(epsilon: float) -> None:
  """Checks a budget.

  Raises:
    InputError: it is not above 0, or so large that it promises nothing, but
      for infinity, which says so.
  """
  if epsilon == math.inf:
    return
  validate.positive(epsilon=epsilon)
  if epsilon > MOST_EPSILON:
    raise InputError(
      f'Expected epsilon <= {MOST_EPSILON:g}, or inf for no noise, got '
      f'epsilon={epsilon!r}: it lets a probability change by a factor of '
      f'e^{epsilon:g}, which promises nothing.'
    )


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
  neighbouring: str = 'zero_out',
) -> float:
  """The least noise that keeps a Poisson-sampled Gaussian within a budget.

  Guarantees:
    `poisson_gaussian(result, sampling_probability, steps)` and `others`
    together cost at most `target_epsilon` at `delta`, as `epsilon` has it. The
    result exceeds the least such multiplier by 0.01 % at most, unless that is
    below 0.01, where the search ends.

  Args:
    target_epsilon: at most 100; infinity asks for no noise, and gives 0.
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
  neighbouring: str = 'zero_out',
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
  """
  check_epsilon(target_epsilon)
  if target_epsilon == math.inf:
    return 0.0

  def cost(*released):
    return epsilon(
      (*others, *released),
      delta,
      accountant=accountant,
      neighbouring=neighbouring,
    )

  def fits(value):
    return cost(make_event(value)) <= target_epsilon

  spent = cost()
  if spent >= target_epsilon:
    raise InputError(
      f'Expected epsilon={target_epsilon!r} to leave something next to what '
      f'else is released, got {len(others)} other events, which cost '
      f'{spent:.4g}.'
    )

  # Near the noise for epsilon = 1: far less would have losses too many to list.
  event = make_event(1.0)
  high = max(event.sampling_probability * math.sqrt(event.steps), 1.0)
  while not fits(high):
    high *= 2
    if high > _MOST_NOISE:
      raise InputError(
        f'Expected epsilon={target_epsilon!r} at delta={delta!r} to be within '
        f'reach, got {len(others)} other events, and a noise multiplier of '
        f'{_MOST_NOISE:g} that does not fit by accountant={accountant!r}.'
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
