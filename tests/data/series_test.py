"""Series: windows, unequal lengths, and mistakes in files."""

import pathlib
import tempfile

from absl.testing import absltest, parameterized
import numpy as np
import pytest

from fedjax_gen.data import sources
from fedjax_gen.errors import InputError

_X = np.arange(4 * 12 * 2, dtype=np.float32).reshape(4, 12, 2)
_GOOD = {
  'x': _X,
  'y': np.array(['walk', 'run', 'walk', 'run']),
  'users': np.array(['ann', 'ann', 'bob', 'bob']),
  'lengths': np.array([12, 12, 12, 7]),
  'channels': np.array(['ax', 'ay']),
}


class SeriesTest(parameterized.TestCase):
  def load(self, arrays=None, **options):
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / 's.npz'
      np.savez(path, **(_GOOD if arrays is None else arrays))
      return sources.load(f'series:{path}', **options)

  def test_recordings_are_examples_where_there_is_no_window(self):
    source = self.load(test_fraction=0.25)
    self.assertEqual(source.input_shape, (12, 2))
    self.assertEqual(source.class_names, ('run', 'walk'))
    self.assertEqual(source.user_names, ('ann', 'bob'))
    self.assertEqual(source.schema.mask, 'step')
    self.assertEqual([c.name for c in source.schema.columns], ['ax', 'ay'])
    everything = np.concatenate([source.train.inputs, source.test.inputs])
    self.assertEqual(np.isnan(everything).sum(), 5 * 2)

  def test_windows_hold_out_the_end_of_each_recording(self):
    source = self.load(window=3, stride=2, test_fraction=0.25)
    for part in (source.train, source.test):
      np.testing.assert_array_equal(np.diff(part.inputs[..., 0]), 2)
    seen, held = (
      set(p.inputs[..., 0].ravel()) for p in (source.train, source.test)
    )
    self.assertFalse(seen & held)
    # Of 12 steps 9 are for training, in windows that begin at 0, 2, 4 and 6;
    # of 7 too few would be left.
    self.assertLen(source.train.labels, 3 * 4 + 3)
    self.assertLen(source.test.labels, 3)

  def test_values_may_be_missing_in_single_channels(self):
    x = _X.copy()
    x[0, 3, 1] = np.nan
    self.assertEqual(self.load({'x': x}).schema.mask, 'channel')
    self.assertEqual(self.load({'x': _X}).schema.mask, '')

  @parameterized.parameters(
    ({'x': _X[0]}, "array 'x': expected series .n, T, C.* got shape .12, 2"),
    ({'x': _X.astype(str)}, "array 'x': expected real numbers, got <U"),
    ({'x': np.array([[1], [1, 2]], object)}, 'need pickle'),
    ({'x': np.where(_X == 5, np.inf, _X)},
     'recording 0, step 2, channel 1'),
    ({'z': _X}, 'expected an array x of series .* got z'),
    ({'x': _X, 'y': np.zeros(3)}, "one value for each of 4"),
    ({'x': _X, 'y': np.full(4, 0.5)}, "array 'y': expected whole numbers"),
    ({'x': _X, 'users': np.full(4, np.nan)}, "array 'users': .*finite"),
    ({'x': _X, 'lengths': np.array([1, 2, 3, 13])}, 'got 13 in recording 3'),
    ({'x': _X, 'channels': np.array(['a'])}, 'expected 2 names'),
  )  # fmt: skip
  def test_a_mistake_is_named_with_its_array(self, arrays, message):
    with self.assertRaisesRegex(InputError, message):
      self.load(arrays)

  def test_windows_that_do_not_fit_are_refused(self):
    with self.assertRaisesRegex(InputError, 'at most 12 steps.*window=13'):
      self.load(window=13)
    with self.assertRaisesRegex(InputError, 'stride >= window'):
      self.load(window=10, stride=1)
    with self.assertRaisesRegex(InputError, 'series:FILE.npz'):
      sources.load('digits', window=3)

  def test_waves_need_no_file_and_some_end_early(self):
    source = sources.load('waves')
    self.assertEqual(source.input_shape, (64, 2))
    self.assertLen(source.user_names, 8)
    self.assertEqual(source.schema.mask, 'step')
    shorter = sources.load('waves', window=8, stride=4)
    self.assertEqual(shorter.input_shape, (8, 2))

  def test_a_watch_has_ten_people_and_seven_exercises(self):
    pytest.importorskip('seglearn', reason='watch needs the extra `signals`')
    source = sources.load('watch', test_clients=['person 3', 'person 10'])
    self.assertEqual(source.input_shape, (100, 6))
    self.assertLen(np.unique(source.train.users), 8)
    self.assertLen(np.unique(source.train.labels), 7)
    self.assertLen(np.unique(source.test.labels), 7)


if __name__ == '__main__':
  absltest.main()
