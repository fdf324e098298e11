"""Each check accepts its range, refuses the rest, and says which argument."""

from absl.testing import absltest, parameterized
import numpy as np

from fedjax_gen import validate
from fedjax_gen.errors import InputError

_NOT_NUMBERS = (float('nan'), float('inf'), -float('inf'), '1', None)
_CASES = {
  # check: (accepted, refused)
  'positive': ((1, 1e-9, np.float32(2)), (0, -1, *_NOT_NUMBERS)),
  'non_negative': ((0, 0.0, 3), (-1e-9, *_NOT_NUMBERS)),
  'positive_int': ((1, np.int64(3)), (0, -1, 1.0, True, *_NOT_NUMBERS)),
  'non_negative_int': ((0, 3), (-1, 1.0, False, *_NOT_NUMBERS)),
  'fraction': ((0, 1, 0.5), (-1e-9, 1.0001, *_NOT_NUMBERS)),
}


def _accepted_and_refused():
  for name, (accepted, refused) in _CASES.items():
    for values, is_accepted in ((accepted, True), (refused, False)):
      for value in values:
        yield name, value, is_accepted


class ValidateTest(parameterized.TestCase):
  @parameterized.parameters(*_accepted_and_refused())
  def test_accepts_its_range_and_names_what_lies_outside(
    self, name, value, is_accepted
  ):
    check = getattr(validate, name)
    if is_accepted:
      check(epochs=value)
    else:
      with self.assertRaises(InputError) as caught:
        check(epochs=value)
      self.assertIn(f'epochs={value!r}', str(caught.exception))

  @parameterized.parameters(*_CASES)
  def test_of_several_values_the_wrong_one_is_named(self, name):
    with self.assertRaisesRegex(InputError, 'second=-1'):
      getattr(validate, name)(first=1, second=-1)

  def test_one_of_lists_the_choices(self):
    validate.one_of(('red', 'blue'), colour='red')
    with self.assertRaisesRegex(
      InputError, "colour to be one of red, blue, got colour='green'"
    ):
      validate.one_of(('red', 'blue'), colour='green')

  def test_an_input_error_can_be_caught_as_a_value_error(self):
    with self.assertRaises(ValueError):
      validate.positive(rate=0)


if __name__ == '__main__':
  absltest.main()
