"""What clients agree on: sums that partitions do not change, and noise."""

import dataclasses

from absl.testing import absltest
import jax
import numpy as np
from scipy import stats

from fedjax_gen import encoding
from fedjax_gen.data import partition as partitions
from fedjax_gen.data.examples import DataSource, Examples
from fedjax_gen.data.tables.codec import from_record
from fedjax_gen.data.tables.schema import Column, Schema
from fedjax_gen.errors import InputError
from fedjax_gen.kinds import Block
from fedjax_gen.privacy.one_upload import histograms

_N = 600
_COLUMNS = (
  Column('income', 'number', missing=True),
  Column('visits', 'integer'),
  Column('arm', 'category', ('a', 'b'), missing=True),
  Column('day', 'date'),
  Column('offset', 'number'),
)


def _table(seed=0):
  rng = np.random.default_rng(seed)
  income = np.exp(rng.normal(8, 2, _N))
  income[rng.random(_N) < 0.1] = np.nan
  raw = np.stack(
    [
      income,
      rng.poisson(0.7, _N),
      rng.integers(0, 3, _N),
      18_000 + rng.integers(0, 30, _N),
      1000 + 0.01 * rng.normal(size=_N),
    ],
    axis=-1,
  ).astype(np.float32)
  part = Examples(raw, np.zeros(_N, np.int32))
  schema = Schema('table', _COLUMNS)
  return DataSource('toy', part, part, ('all',), schema=schema)


class EncodingTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.source = _table()
    cls.partition = partitions.iid(_N, 3, seed=0)
    cls.encoded = encoding.encode(cls.source, cls.partition)

  def test_the_layout_has_a_flag_for_numbers_that_may_be_missing(self):
    self.assertEqual(
      self.encoded.codec.layout,
      (
        Block('number', flag=1),
        Block('flag'),
        Block('number'),
        Block('category', 3),
        Block('number'),
        Block('number'),
      ),
    )
    self.assertEqual(self.encoded.spec.kind.name, 'table')
    self.assertEqual(self.encoded.input_shape, (8,))
    with self.assertRaisesRegex(InputError, 'data that are encoded'):
      _ = self.source.spec

  def test_numbers_become_about_standard_normal_however_skewed(self):
    inputs = self.encoded.train.inputs
    self.assertTrue(np.isfinite(inputs).all())
    for place, rows in (
      (0, inputs[:, 1] > 0),
      (6, slice(None)),
      (7, slice(None)),
    ):
      values = inputs[rows, place]
      self.assertLess(stats.kstest(values, 'norm').statistic, 0.06)

  def test_decoding_gives_back_what_was_encoded(self):
    raw = self.source.train.inputs
    decoded = self.encoded.codec.decode(self.encoded.train.inputs)
    np.testing.assert_array_equal(decoded[:, 1:4], raw[:, 1:4])
    np.testing.assert_array_equal(np.isnan(decoded), np.isnan(raw))
    # Beyond the quantiles that so many records tell, the tails are cut.
    inner = np.abs(self.encoded.train.inputs[:, 0]) < 2.5
    np.testing.assert_allclose(decoded[inner, 0], raw[inner, 0], rtol=1e-3)
    np.testing.assert_allclose(decoded[:, 4], raw[:, 4], atol=5e-3)
    again = from_record(self.encoded.codec.to_record())
    np.testing.assert_array_equal(again.encode(raw), self.encoded.train.inputs)

  def test_columns_are_written_as_they_were_read(self):
    codec = self.encoded.codec
    raw = np.array([[2.5, 3, 1, 18_000, 999.5], [np.nan, 0, 2, 0, 1.0]])
    columns = codec.columns(raw)
    self.assertEqual(list(columns), [c.name for c in _COLUMNS])
    self.assertEqual(list(columns['visits']), [3, 0])
    self.assertEqual(list(columns['arm']), ['b', ''])
    self.assertEqual(list(columns['day']), ['2019-04-14', '1970-01-01'])
    self.assertTrue(np.isnan(columns['income'][1]))

  def test_before_the_ledger_is_charged_the_form_alone_is_right(self):
    public = encoding.public(self.source)
    self.assertEqual(public.spec, self.encoded.spec)
    raw = self.source.train.inputs
    # Numbers are as they were read, so that other data have another digest.
    np.testing.assert_array_equal(public.train.inputs[:, 6], raw[:, 3])
    np.testing.assert_array_equal(
      public.train.inputs[:, 0], np.nan_to_num(raw[:, 0])
    )

  def test_who_holds_what_changes_nothing(self):
    other = encoding.encode(self.source, partitions.iid(_N, 5, seed=1))
    np.testing.assert_allclose(
      other.train.inputs, self.encoded.train.inputs, atol=1e-4
    )

  def test_a_record_moves_a_histogram_by_a_norm_of_one_at_most(self):
    edges = np.stack([histograms.first_edges(None, None)] * 2)
    statistic = histograms.HistogramStatistic((0, 2), edges)
    records = np.array([[1.0, 0, -3e20], [np.nan, 0, np.inf], [0, 0, 0]])
    series = np.stack([records] * 4, axis=1)
    for inputs in (records, series):
      sums = np.stack(
        [
          statistic(
            inputs[[i]].astype(np.float32), np.zeros(1), np.ones(1, bool)
          )
          for i in range(3)
        ]
      )
      norms = np.linalg.norm(sums.reshape(3, -1), axis=1)
      np.testing.assert_allclose(norms, [1, 0, 1], rtol=1e-5)
    masked = statistic(
      records.astype(np.float32), np.zeros(3), np.zeros(3, bool)
    )
    self.assertEqual(float(np.abs(masked).sum()), 0)

  def test_noise_widens_cells_and_still_gives_a_scale(self):
    partition = partitions.iid(_N, 1, seed=0)
    codec = encoding.agree(
      self.source, partition, key=jax.random.key(1), noise_multiplier=2.0
    )
    other = encoding.agree(
      self.source, partition, key=jax.random.key(2), noise_multiplier=2.0
    )
    self.assertLess(codec.knots[0].shape[1], 64)
    self.assertFalse(np.array_equal(codec.knots[0], other.knots[0]))
    values = codec.encode(self.source.train.inputs)[:, 2]
    self.assertLess(np.abs(values.mean()), 0.5)
    # Noise that drowns everything leaves the public range.
    source = dataclasses.replace(
      self.source,
      schema=Schema(
        'table',
        tuple(dataclasses.replace(c, low=0.0, high=50.0) for c in _COLUMNS),
      ),
    )
    drowned = encoding.agree(
      source, partition, key=jax.random.key(0), noise_multiplier=1e4
    )
    self.assertBetween(drowned.knots[1][0].min(), -0.5, 50.5)
    self.assertBetween(drowned.knots[1][0].max(), -0.5, 50.5)

  def test_channels_of_a_series_have_mean_zero_and_deviation_one(self):
    rng = np.random.default_rng(0)
    raw = rng.normal([5, 1000], [2, 0.5], (80, 6, 2)).astype(np.float32)
    raw[:9, 4:] = np.nan
    part = Examples(raw, np.zeros(80, np.int32))
    columns = (Column('x'), Column('y'))
    source = DataSource(
      'toy', part, part, ('a',), schema=Schema('series', columns, 'step')
    )
    encoded = encoding.encode(source, partitions.iid(80, 2, seed=0))
    self.assertEqual(encoded.input_shape, (6, 3))
    seen = encoded.train.inputs[encoded.train.inputs[..., 2] == 1]
    np.testing.assert_allclose(seen[:, :2].mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(seen[:, :2].std(axis=0), 1, atol=0.02)
    decoded = encoded.codec.decode(encoded.train.inputs)
    np.testing.assert_allclose(decoded, raw, rtol=1e-5)
    self.assertEqual(
      list(encoded.codec.columns(decoded)), ['example', 'step', 'x', 'y']
    )


if __name__ == '__main__':
  absltest.main()
