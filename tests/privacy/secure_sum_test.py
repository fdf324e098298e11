"""Masked sums are the plain sums, to the bit, whoever drops out."""

from absl.testing import absltest, parameterized
import chex
import jax
import numpy as np
from scipy import stats

from fedjax_gen.errors import InputError
from fedjax_gen.privacy import secure_sum

_NUMBER = secure_sum.FixedPoint(8.0, 1 << 10, 10, 16)


def _messages(count=5, scale=2.0):
  rng = np.random.default_rng(0)
  return [
    {
      'a': rng.uniform(-scale, scale, (2, 3)).astype(np.float32),
      'b': [rng.uniform(-scale, scale), rng.uniform(-scale, scale, 4)],
    }
    for _ in range(count)
  ]


def _plain(number, messages):
  """The sum of whole numbers, without masks or modulus."""
  encoded = [jax.tree.map(number.encode, message) for message in messages]
  total = jax.tree.map(lambda *leaves: sum(leaves), *encoded)
  return jax.tree.map(lambda leaf: leaf * number.resolution, total)


class SecureSumTest(parameterized.TestCase):
  @parameterized.parameters((), (0,), (4,), (1, 3), (0, 2, 3, 4))
  def test_is_exactly_the_sum_of_those_who_sent(self, *dropped):
    messages = _messages()
    got = secure_sum.secure_sum(_NUMBER, messages, seed=3, dropped=dropped)
    sent = [m for k, m in enumerate(messages) if k not in dropped]
    chex.assert_trees_all_equal(got, _plain(_NUMBER, sent))
    real = jax.tree.map(lambda *leaves: sum(map(np.float64, leaves)), *sent)
    error = _NUMBER.resolution / 2 * len(sent)
    jax.tree.map(
      lambda g, r: np.testing.assert_allclose(g, r, rtol=0, atol=error),
      got,
      real,
    )
    self.assertEqual(got['a'].shape, (2, 3))

  def test_the_extreme_sums_do_not_wrap(self):
    number = secure_sum.FixedPoint(1.0, 3276, 10, 16)
    for value in (1.0, -1.0):
      got = secure_sum.secure_sum(number, [np.full(3, value)] * 10, seed=0)
      np.testing.assert_allclose(got, 10 * value)

  @parameterized.parameters(8, 32, 62)
  def test_any_modulus(self, bits):
    number = secure_sum.FixedPoint(4.0, 20, 5, bits)
    got = secure_sum.secure_sum(number, _messages(), seed=1, dropped=[2])
    sent = [m for k, m in enumerate(_messages()) if k != 2]
    chex.assert_trees_all_equal(got, _plain(number, sent))

  def test_what_is_sent_looks_uniform_and_depends_on_every_partner(self):
    encoded = np.full(20_000, 7, np.int64)
    sent = secure_sum.masked(_NUMBER, encoded, 1, range(3), seed=0)
    self.assertGreater(
      stats.kstest(sent, stats.uniform(0, _NUMBER.modulus).cdf).pvalue, 1e-3
    )
    fewer = secure_sum.masked(_NUMBER, encoded, 1, range(2), seed=0)
    other = secure_sum.masked(_NUMBER, encoded, 1, range(3), seed=1)
    for variant in (fewer, other, encoded):
      self.assertLess(np.mean(variant == sent), 0.01)

  def test_masks_that_are_not_recovered_spoil_the_sum(self):
    encoded = np.arange(6)
    total = sum(
      secure_sum.masked(_NUMBER, encoded, k, range(3), 0) for k in (0, 1)
    )
    self.assertFalse(
      np.array_equal(
        _NUMBER.decode(total % _NUMBER.modulus),
        2 * encoded * _NUMBER.resolution,
      )
    )

  def test_rounding_is_part_of_the_sensitivity(self):
    # The nearest multiples of values just above a half are all one.
    number = secure_sum.FixedPoint(4.0, 4, 10, 16)
    values = np.full(100, 0.501)
    encoded = number.encode(values) * number.resolution
    norm = np.linalg.norm(values)
    self.assertGreater(np.linalg.norm(encoded), 1.9 * norm)
    bound = number.sensitivity(norm, 100)
    self.assertLessEqual(np.linalg.norm(encoded), bound)
    self.assertLess(bound, 2.01 * norm)

  @parameterized.parameters(
    (lambda: secure_sum.FixedPoint(8.0, 3277, 10, 16), '2.16.*65541 sums'),
    (lambda: secure_sum.FixedPoint(8.0, 1, 1, 63), 'modulus_bits=63'),
    (lambda: secure_sum.FixedPoint(0.0, 1, 1), 'value_range=0.0'),
    (lambda: _NUMBER.encode(np.array([1.0, 8.1])), '8.0.*8.1'),
    (lambda: _NUMBER.encode(np.array([np.nan])), 'nan'),
    (lambda: secure_sum.secure_sum(_NUMBER, [], seed=0), 'got 0'),
    (lambda: secure_sum.secure_sum(_NUMBER, _messages(11), seed=0), 'got 11'),
    (lambda: secure_sum.secure_sum(_NUMBER, _messages(2), seed=0,
                                   dropped=[0, 1]), r'\[0, 1\]'),
    (lambda: secure_sum.secure_sum(_NUMBER, _messages(2), seed=0,
                                   dropped=[2]), r'\[2\]'),
  )  # fmt: skip
  def test_overflow_and_nonsense_are_refused(self, build, message):
    with self.assertRaisesRegex(InputError, message):
      build()


if __name__ == '__main__':
  absltest.main()
