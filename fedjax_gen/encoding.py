"""Series and tables as models see them: agreed on by clients, told to nobody.

The scale of a column follows from its histogram over all clients, a sum. It is
released three times, each time in cells that the one before suggests, and under
differential privacy with noise that the ledger is charged for (`event`). Each
client then encodes its own records. Nothing else of a column leaves a client;
what a schema says of it is public.
"""

import jax
import numpy as np

from fedjax_gen.data.examples import DataSource
from fedjax_gen.data.federated import federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.data.tables import agreed, codec as codec_lib
from fedjax_gen.data.tables.codec import Codec
from fedjax_gen.data.tables.schema import Column
from fedjax_gen.errors import InputError
from fedjax_gen.privacy import events
from fedjax_gen.privacy.events import Event
from fedjax_gen.privacy.one_upload import histograms, one_release
from fedjax_gen.types import Key

LABEL = 'ranges of columns'
"""What a ledger calls it."""
NOISE_MULTIPLIER = 20.0
"""Noise over sensitivity of each histogram of a private run."""
_RELEASES = 3
_MOST_CELLS = 256
# Of dates if no other range is public: the years 1900 to 2100.
_DAYS = (-25567.0, 47482.0)
# A count within so many standard deviations of the noise is none: of some 500
# cells of a column that nobody is in, one seems held in one of 600 columns.
_LEVELS = 4.5


def event(noise_multiplier: float = NOISE_MULTIPLIER) -> Event:
  """What `agree` costs each client."""
  return events.gaussian(noise_multiplier, _RELEASES)


def encode(
  source: DataSource,
  partition: Partition,
  *,
  key: Key | None = None,
  unit: str = 'record',
) -> DataSource:
  """A source with series or rows of tables as models see them.

  Sources of other kinds are returned as they are.

  Guarantees:
    As `agree`, with a key; without one nothing is protected.

  Args:
    source: as it was read.
    partition: who holds what of the training examples.
    key: of the noise, a secret of a private run, or None for no noise.
    unit: of privacy, record or client.
  """
  if source.schema is None or source.codec is not None:
    return source
  codec = agree(
    source,
    partition,
    key=jax.random.key(0) if key is None else key,
    noise_multiplier=0.0 if key is None else NOISE_MULTIPLIER,
    unit=unit,
  )
  return agreed.encoded(source, codec)


def public(source: DataSource) -> DataSource:
  """A source encoded without looking at a record, for checks before a run.

  Of the form of what `encode` returns, with numbers as they were read: a digest
  of it is one of the data.
  """
  if source.schema is None or source.codec is not None:
    return source
  places = codec_lib.number_places(source.schema)
  knots = np.array([[-1.0, 1.0], [-1.0, 1.0]])
  codec = Codec(source.schema, (knots,) * len(places))
  sizes = [block.size for block in codec.layout]
  starts = np.cumsum([0, *sizes[:-1]])
  at = [
    start
    for start, block in zip(starts, codec.layout, strict=True)
    if block.kind == 'number'
  ]
  found = agreed.encoded(source, codec)
  for part, raw in ((found.train, source.train), (found.test, source.test)):
    part.inputs[..., at] = np.nan_to_num(raw.inputs[..., places])
  return found


def hidden(codec: Codec | None) -> list[str]:
  """Names of columns that do not stand out from the noise.

  They have a scale from -1 to 1, and values beyond it are lost.
  """
  if codec is None:
    return []
  unknown = np.array([[-1.0, 1.0], [-1.0, 1.0]])
  places = codec_lib.number_places(codec.schema)
  return [
    codec.schema.columns[place].name
    for place, knots in zip(places, codec.knots, strict=True)
    if np.array_equal(knots, unknown)
  ]


def agree(
  source: DataSource,
  partition: Partition,
  *,
  key: Key,
  noise_multiplier: float = 0.0,
  unit: str = 'record',
) -> Codec:
  """The codec that all clients use, from sums over clients.

  Guarantees:
    Released: the noised histograms of every client (unit=record), or their
      noised sum over clients (unit=client), three times.
    Neighbouring: one record, or the data of one client, there or not; see
      `one_release.release`. The numbers of records and clients are public, and
      so are the schema and the length of a window.
    Sensitivity: 1. Charge `event(noise_multiplier)`.

  Args:
    source: as it was read, with a schema.
    partition: who holds what of the training examples.
    key: consumed.
    noise_multiplier: noise over sensitivity; 0 for none.
    unit: record or client.

  Raises:
    InputError: the source has no schema, or an argument is out of range.
  """
  schema = source.schema
  if schema is None:
    raise InputError(
      f'Expected series or a table, got the {source.kind.name} of '
      f'{source.name}.'
    )
  places = tuple(codec_lib.number_places(schema))
  if not places:
    return Codec(schema, ())
  data = federated_dataset(source.train.inputs, source.train.labels, partition)
  # Who trusts the server with sums over clients adds a share of the noise.
  share = 1.0 if unit == 'record' else partition.num_clients**-0.5
  stddev = (
    one_release.summed_stddev(noise_multiplier, partition.num_clients, share)
    * len(places) ** 0.5
  )
  total = len(partition.order) if unit == 'record' else partition.num_clients
  num_cells = _MOST_CELLS
  if stddev:
    num_cells = int(np.clip(total / (8 * stddev), 4, _MOST_CELLS))
  columns = [schema.columns[place] for place in places]
  edges = np.stack([_first_edges(column) for column in columns])
  counts = np.zeros((len(places), edges.shape[1] - 1))
  for number in range(_RELEASES):
    if number:
      edges = np.stack(
        [
          _next_edges(column, own, held, num_cells)
          for column, own, held in zip(columns, edges, counts, strict=True)
        ]
      )
    statistic = histograms.HistogramStatistic(places, edges)
    sums = one_release.release(
      jax.random.fold_in(key, number),
      data,
      statistic,
      noise_multiplier=noise_multiplier,
      unit=unit,
      share=share,
    )
    counts = statistic.restored(sums)
    counts = np.where(counts > _LEVELS * stddev, counts, 0.0)
  is_series = schema.kind == 'series'
  knots = codec_lib.affine_knots if is_series else codec_lib.quantile_knots
  return Codec(
    schema,
    tuple(knots(own, held) for own, held in zip(edges, counts, strict=True)),
  )


def _first_edges(column: Column) -> np.ndarray:
  """Edges of a column that depend on the schema alone."""
  low, high = column.low, column.high
  if column.kind == 'date':
    low, high = (
      default if bound is None else bound
      for bound, default in ((low, _DAYS[0]), (high, _DAYS[1]))
    )
  return histograms.first_edges(low, high)


def _next_edges(
  column: Column, edges: np.ndarray, counts: np.ndarray, num_cells: int
) -> np.ndarray:
  """Edges that follow from what was released."""
  refined = histograms.refined_edges(edges, counts, num_cells)
  if column.kind == 'number':
    return refined
  # Whole numbers lie in the middle of their cells.
  snapped = np.rint(refined) - 0.5
  snapped[-1] += 1
  return snapped
