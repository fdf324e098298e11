"""Keys of what is drawn apart from training."""

import jax
import pytest

from fedjax_gen import keys


def test_no_two_purposes_share_a_key():
  numbers = list(keys.PURPOSES.values())
  assert len(set(numbers)) == len(numbers)
  drawn = {int(jax.random.bits(keys.derive(0, name))) for name in keys.PURPOSES}
  # Nor do they share one with what training splits the seed into.
  drawn |= {
    int(jax.random.bits(key)) for key in jax.random.split(jax.random.key(0))
  }
  assert len(drawn) == len(numbers) + 2


def test_a_purpose_without_a_number_is_no_key():
  with pytest.raises(KeyError):
    keys.derive(0, 'anything')
