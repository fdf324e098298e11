"""Checks that several programs share."""

import pytest

from experiments import options
from fedjax_gen.errors import InputError


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ((), "kinds to be one of a, b, got kinds=''"),
    (('a', 'c'), "got kinds='c'"),
    (('a', 'b', 'a'), 'each of kinds once, got a,b,a'),
  ],
)
def test_names_are_known_and_given_once(given, message):
  options.each_once(('a', 'b'), kinds=('b', 'a'))
  with pytest.raises(InputError, match=message):
    options.each_once(('a', 'b'), kinds=given)


def test_one_name_in_two_spellings_is_given_twice():
  options.each_once(str.lower, kinds=('a', 'B'))
  with pytest.raises(InputError, match='each of kinds once, got a,A'):
    options.each_once(str.lower, kinds=('a', 'A'))
