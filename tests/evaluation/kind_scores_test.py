"""Scores of series and tables: the best for real data, worse for others."""

import dataclasses
import pathlib
import tempfile

from absl.testing import absltest
import numpy as np
from PIL import Image

from fedjax_gen import encoding
from fedjax_gen.data import partition as partitions
from fedjax_gen.data.examples import DataSource, Examples
from fedjax_gen.data.tables.schema import Column, Schema
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import kind_scores, neighbours
from fedjax_gen.evaluation.drawing import kind_pictures
from fedjax_gen.evaluation.networks import judges


def _waves(num, seed, *, noise=0.1):
  """`[n, 16, 2]` waves of two classes, of one and of three periods."""
  rng = np.random.default_rng(seed)
  labels = np.arange(num) % 2
  time = np.arange(16) / 16 + rng.random((num, 1))
  phase = 2 * np.pi * time * (1 + 2 * labels[:, None])
  series = np.stack([np.sin(phase), np.cos(phase)], axis=-1)
  series += noise * rng.normal(size=series.shape)
  return series.astype(np.float32), labels.astype(np.int32)


def _rows(num, seed):
  rng = np.random.default_rng(seed)
  sex = rng.integers(0, 2, num)
  height = rng.normal(165 + 12 * sex, 6)
  weight = height - 100 + rng.normal(0, 4, num)
  raw = np.stack([sex, height, weight], axis=-1).astype(np.float32)
  return raw, (weight > 70).astype(np.int32)


def _source(make, schema, num=240):
  train, test = (Examples(*make(num, seed)) for seed in (0, 1))
  source = DataSource('toy', train, test, ('a', 'b'), schema=schema)
  return encoding.encode(source, partitions.iid(num, 2, seed=0))


_SERIES = Schema('series', (Column('x'), Column('y')))
_TABLE = Schema(
  'table',
  (
    Column('sex', 'category', ('f', 'm')),
    Column('height'),
    Column('weight', 'integer'),
  ),
)


class KindScoresTest(absltest.TestCase):
  def test_real_series_score_better_than_noise(self):
    source = _source(_waves, _SERIES)
    raw, labels = _waves(240, 2)
    real = source.codec.encode(raw)
    noise = np.random.default_rng(0).normal(size=real.shape).astype('f4')
    good, bad = (
      kind_scores.measure(source, made, labels, by_training=True)
      for made in (real, noise)
    )
    self.assertEqual(
      set(good),
      {
        'discriminative_score', 'autocorrelation_distance', 'spectrum_distance',
        'predictive_mae', 'dcr_share',
      },
    )  # fmt: skip
    for name in set(good) - {'dcr_share'}:
      self.assertLess(good[name], 0.6 * bad[name], name)
    self.assertBetween(good['dcr_share'], 0.35, 0.65)
    copies = neighbours.dcr_share(
      source.train.inputs, source.train.inputs, source.test.inputs
    )
    self.assertEqual(copies, 1)

  def test_a_classifier_of_windows_learns_their_classes(self):
    source = _source(_waves, _SERIES)
    recipe = judges.Recipe(num_steps=150)
    trained = judges.train(
      source.train.inputs, source.train.labels, 2, recipe=recipe
    )
    accuracy = trained.accuracy(source.test.inputs, source.test.labels)
    self.assertGreater(accuracy, 0.95)
    self.assertEqual(trained.features(source.test.inputs).shape, (240, 64))

  def test_real_rows_score_better_than_shuffled_columns(self):
    source = _source(_rows, _TABLE)
    raw, labels = _rows(240, 2)
    rng = np.random.default_rng(0)
    shuffled = np.stack([rng.permutation(c) for c in raw.T], axis=-1)
    good, bad = (
      kind_scores.measure(source, source.codec.encode(made), labels)
      for made in (raw, shuffled)
    )
    self.assertGreater(good['tstr_boosting'], bad['tstr_boosting'] + 0.1)
    self.assertLess(good['discriminative_score'], bad['discriminative_score'])
    if 'pair_trends' in good:  # sdmetrics is installed
      self.assertGreater(good['pair_trends'], bad['pair_trends'] + 0.1)
      self.assertGreater(bad['column_shapes'], 0.9)

  def test_other_data_are_refused(self):
    source = _source(_rows, _TABLE)
    with self.assertRaisesRegex(InputError, 'Expected encoded series or rows'):
      kind_scores.measure(
        dataclasses.replace(source, codec=None),
        source.test.inputs,
        source.test.labels,
      )
    with self.assertRaisesRegex(InputError, 'examples of one shape'):
      kind_scores.discriminative_score(
        source.test.inputs, source.test.inputs[:, :2]
      )

  def test_pictures_are_written(self):
    source = _source(_rows, _TABLE)
    raw, _ = _waves(7, 0)
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / 'picture.png'
      kind_pictures.windows(
        {'real': raw, 'made': raw[:2]}, path, channels=('x', 'y')
      )
      with Image.open(path) as picture:
        self.assertGreater(np.asarray(picture.convert('L')).std(), 0)
      table = source.codec.decode(source.test.inputs)
      kind_pictures.marginals(source.codec, {'real': table}, path)
      with Image.open(path) as picture:
        self.assertGreater(picture.width, 300)
      with self.assertRaisesRegex(InputError, "3 channels in 'real', got 2"):
        kind_pictures.windows({'real': raw}, path, channels=('x', 'y', 'z'))


if __name__ == '__main__':
  absltest.main()
