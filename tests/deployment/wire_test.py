"""Messages as bytes, and what is no message."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip('cryptography', reason='needs the extra flower')

from fedjax_gen.deployment import wire  # noqa: E402
from fedjax_gen.errors import InputError  # noqa: E402

_TREE = {
  'a': np.arange(6, dtype=np.float32).reshape(2, 3),
  'b': [np.zeros((0, 4)), np.int8(-3), np.ones(2, jnp.bfloat16)],
}
_MESSAGE = wire.Packet({'round': 3}, wire.to_arrays(_TREE)).to_bytes()


def test_a_tree_comes_back_with_its_bits():
  packet = wire.Packet.from_bytes(_MESSAGE)
  assert packet.header == {'round': 3}
  found = wire.to_tree(packet.arrays, _TREE)
  chex.assert_trees_all_equal_shapes_and_dtypes(found, _TREE)
  chex.assert_trees_all_equal(found, _TREE)
  assert wire.first_non_finite(packet.arrays) is None


@pytest.mark.parametrize(
  ('message', 'cause'),
  [
    (b'', 'another format'),
    (b'PK' + _MESSAGE[2:], 'another format'),
    (_MESSAGE[:-1], 'is cut'),
    (_MESSAGE + b'0', '1 bytes too many'),
    (_MESSAGE[:20], 'none'),
    (_MESSAGE.replace(b'"int8"', b'"bool"')[:-1], 'none'),
    (_MESSAGE.replace(b'[2, 3]', b'[2,-3]'), 'float32'),
    (_MESSAGE.replace(b'"float32"', b'"object" '), 'object'),
  ],
)
def test_what_is_no_message_is_refused(message, cause):
  with pytest.raises(InputError, match=cause):
    wire.Packet.from_bytes(message)


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_found(value):
  arrays = {'whole': np.arange(3), 'bad': np.array([0, value], jnp.bfloat16)}
  assert wire.first_non_finite(arrays) == 'bad'
