"""What was released, in terms that an accountant can charge.

An event says how noise compares to sensitivity. All noise multipliers are
standard deviations over the clipping norm C, what one record or client can add
to the sum; what follows for neighbours where one is replaced by another
(sensitivity 2 C) is worked out in `accounting.py`.
"""

import dataclasses

from fedjax_gen import validate

KINDS = (
  'gaussian',
  'poisson_gaussian',
  'truncated_poisson_gaussian',
  'fixed_size_gaussian',
  'laplace',
  'non_private',
)


@dataclasses.dataclass(frozen=True)
class Event:
  """A release, or several of the same kind. Made by the functions below.

  Attributes:
    kind: one of `KINDS`.
    noise_multiplier: noise over sensitivity; 0 for no noise.
    steps: T, how often it was done.
    sampling_probability: q; 1 where nothing is sampled.
    num_records: n, where the kind depends on it, else 0.
    capacity: rows of a batch, where the kind depends on it, else 0.
  """

  kind: str
  noise_multiplier: float = 0.0
  steps: int = 1
  sampling_probability: float = 1.0
  num_records: int = 0
  capacity: int = 0

  def __post_init__(self):
    """Raises `InputError` for a field out of range, a file's included."""
    validate.one_of(KINDS, kind=self.kind)
    validate.non_negative(noise_multiplier=self.noise_multiplier)
    validate.positive_int(steps=self.steps)
    validate.fraction(sampling_probability=self.sampling_probability)
    validate.non_negative_int(
      num_records=self.num_records, capacity=self.capacity
    )

  @property
  def is_private(self) -> bool:
    """Whether it has any noise; without, epsilon is infinity."""
    return self.kind != 'non_private' and self.noise_multiplier > 0

  def repeated(self, steps: int) -> 'Event':
    """The same event `steps` times as often."""
    validate.positive_int(steps=steps)
    return dataclasses.replace(self, steps=self.steps * steps)


def gaussian(noise_multiplier: float, steps: int = 1) -> Event:
  """Gaussian noise on a sum over all records, or all clients.

  Guarantees:
    Released: a sum of contributions of L2 norm at most C, with noise of
      standard deviation `noise_multiplier * C` on every value, `steps` times.
    Neighbouring: any; the sum changes by C if a contribution is zeroed, or one
      is added or removed.

  Args:
    noise_multiplier: the noise's standard deviation over C.
    steps: T.
  """
  return Event('gaussian', noise_multiplier, steps)


def poisson_gaussian(
  noise_multiplier: float, sampling_probability: float, steps: int
) -> Event:
  """Gaussian noise on sums over Poisson samples, as in DP-SGD.

  Guarantees:
    Released: T noisy sums, each over a sample of its own that every record
      (or client) enters by its own coin. Sums, or sums divided by the
      expected size; not by the size drawn.
    Neighbouring: zero out, or add or remove one; replacing one with the `pld`
      accountant.

  Args:
    noise_multiplier: the noise's standard deviation over C, on the sum.
    sampling_probability: q.
    steps: T, optimizer steps; with clients as the unit, rounds.
  """
  return Event(
    'poisson_gaussian', noise_multiplier, steps, sampling_probability
  )


def truncated_poisson_gaussian(
  noise_multiplier: float,
  sampling_probability: float,
  steps: int,
  *,
  num_records: int,
  capacity: int,
) -> Event:
  """As `poisson_gaussian`, at most `capacity` of a sample kept at random.

  What `sampling.poisson_batch` does, whatever its capacity (arXiv 2508.15089,
  as dp-accounting implements it).

  Guarantees:
    Released: T noisy sums, each over a truncated sample of its own.
    Neighbouring: any; `pld` accountant only.

  Args:
    noise_multiplier: the noise's standard deviation over C, on the sum.
    sampling_probability: q.
    steps: T.
    num_records: n, those the coins are thrown for.
    capacity: the most that are kept.
  """
  validate.positive_int(num_records=num_records, capacity=capacity)
  return Event(
    'truncated_poisson_gaussian',
    noise_multiplier,
    steps,
    sampling_probability,
    num_records,
    capacity,
  )


def fixed_size_gaussian(
  noise_multiplier: float, steps: int, *, num_records: int, batch_size: int
) -> Event:
  """Gaussian noise on sums over samples of a fixed size, without replacement.

  Every step draws afresh. The batches of one shuffled pass are not that, and
  have no amplification here: each record is in one of them, which
  `gaussian(noise_multiplier, epochs)` charges.

  Guarantees:
    Released: T noisy sums, each over `batch_size` of `num_records`.
    Neighbouring: replace one; `rdp` accountant only.

  Args:
    noise_multiplier: the noise's standard deviation over C, on the sum.
    steps: T.
    num_records: n.
    batch_size: B.
  """
  validate.positive_int(num_records=num_records, batch_size=batch_size)
  validate.fraction(sampling_probability=batch_size / num_records)
  return Event(
    'fixed_size_gaussian',
    noise_multiplier,
    steps,
    batch_size / num_records,
    num_records,
    batch_size,
  )


def laplace(noise_multiplier: float, steps: int = 1) -> Event:
  """Laplace noise, for instance on counts.

  Guarantees:
    Released: sums that change by at most S in L1, with Laplace noise of scale
      `noise_multiplier * S`, `steps` times.
    Neighbouring: zero out, or add or remove one; replacing one with the `rdp`
      accountant.

  Args:
    noise_multiplier: the noise's scale over S.
    steps: T.
  """
  return Event('laplace', noise_multiplier, steps)


def non_private() -> Event:
  """A release without protection: epsilon is infinity from there on.

  Guarantees:
    Released: anything. None.
  """
  return Event('non_private')
