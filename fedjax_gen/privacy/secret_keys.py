"""Keys that a guarantee can rest on: 512 secret bits, from the system.

JAX's own keys have 64 bits, and programs make them from a seed that everyone
knows. Whoever knows the key subtracts the noise. A secret key is eight
Threefry keys that are never derived from each other:

* the first four make noise (`normal`): the sum of four normals under four keys,
  halved, which also reaches far beyond the 5.4 standard deviations where JAX's
  float32 normal ends;
* the other four make everything else, such as who is sampled: the exclusive or
  of their bits.

It is a key as JAX has them: `jax.random.split`, `fold_in`, `bernoulli`,
`permutation` and so on take it, under `jit` and `vmap`, and what is derived
from it is as wide. So an algorithm is private or a plain simulation by the key
that its rounds are given, and is not written twice.

    key = secret_keys.fresh().key('FedHypeVAE', 'training')

A key from `jax.random.key(seed)` works wherever a secret key does. The noise
then has the right law, and hides nothing from who knows the seed: such a run is
*nominal*.
"""

import hashlib
import hmac
import json
import secrets
from typing import NamedTuple

import jax
from jax.extend import random as extend
import jax.numpy as jnp
import numpy as np

from fedjax_gen import validate
from fedjax_gen.errors import InputError
from fedjax_gen.types import Array, Key

_LANES = 4  # Threefry keys of 64 bits, for noise and for everything else each
_ROOT_BYTES = 32
_FOLDED = 0x666F6C64


class Secrets(NamedTuple):
  """What nobody but the one who runs may know; see `fresh` and `nominal`.

  Attributes:
    noise: of all noise.
    sampling: of all other draws of training, such as who is sampled.
    digests: of digests of data, which would tell who guesses the data that the
      guess is right.
    is_nominal: whether all of it follows from a seed: then epsilon holds
      against nobody who knows the seed.
  """

  noise: bytes
  sampling: bytes
  digests: bytes
  is_nominal: bool = False

  def key(self, method: str, purpose: str) -> Key:
    """A secret key for one method and for what is drawn with it.

    Keys of other methods or purposes are independent of it: they are made by
    HMAC-SHA256, under roots that noise and sampling have apart.

    Args:
      method: name of the method, in a run that compares several.
      purpose: what is drawn: 'training', 'class moments'.
    """
    label = json.dumps([method, purpose]).encode()
    words = b''.join(
      hmac.digest(root, label, 'sha256') for root in (self.noise, self.sampling)
    )
    data = np.frombuffer(words, np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(data), impl=_SECRET)

  def digest(self, text: str) -> str:
    """A digest that says nothing to who does not have the key of digests."""
    return hmac.digest(self.digests, text.encode(), 'sha256').hex()

  def to_json(self) -> str:
    """As text, for a file that nobody else may read; see `from_json`."""
    return json.dumps(
      {
        'noise': self.noise.hex(),
        'sampling': self.sampling.hex(),
        'digests': self.digests.hex(),
        'is_nominal': self.is_nominal,
      },
      indent=1,
    )


def fresh() -> Secrets:
  """New ones, from the operating system's entropy."""
  noise, sampling, digests = (
    secrets.token_bytes(_ROOT_BYTES) for _ in range(3)
  )
  return Secrets(noise, sampling, digests)


def nominal(seed: int) -> Secrets:
  """Those of a public seed, for simulations that must repeat.

  Guarantees:
    None: whoever knows the seed makes the same noise and subtracts it.
  """
  validate.non_negative_int(noise_seed=seed)
  noise, sampling, digests = (
    hashlib.sha256(f'{name} of the public seed {seed}'.encode()).digest()
    for name in ('noise', 'sampling', 'digests')
  )
  return Secrets(noise, sampling, digests, is_nominal=True)


def from_json(text: str) -> Secrets:
  """What `Secrets.to_json` wrote."""
  try:
    found = json.loads(text)
    roots = [bytes.fromhex(found[n]) for n in ('noise', 'sampling', 'digests')]
    if any(len(root) != _ROOT_BYTES for root in roots):
      raise ValueError
    noise, sampling, digests = roots
    return Secrets(noise, sampling, digests, bool(found['is_nominal']))
  except (ValueError, KeyError, TypeError) as error:
    # Its text is a secret, and is not shown.
    raise InputError(
      'Expected secrets as Secrets.to_json writes them, got another text.'
    ) from error


def is_secret(key: Key) -> bool:
  """Whether a key is one of `Secrets.key`, or derived from one."""
  return key.dtype == jax.eval_shape(_blank).dtype


def normal(key: Key, num: int) -> Array:
  """`[num]` float32 draws of N(0, 1), the sum of four, halved.

  The law of each of the four is JAX's normal, cut at -5.42 and +5.22; their sum
  reaches beyond 10. Four draws and a sum is what Holohan and Braghin, "Secure
  random sampling in differential privacy", ESORICS 2021, do against attacks on
  the spacing of floats.

  Args:
    key: consumed; secret, or any other of JAX's.
    num: how many.
  """
  if is_secret(key):
    data = jax.random.key_data(key).reshape(2, _LANES, 2)[0]
    lanes = jax.random.wrap_key_data(data, impl='threefry2x32')
  else:
    lanes = jax.random.split(key, _LANES)
  # One after the other: four times the noise need not be in memory.
  total = jnp.zeros((num,), jnp.float32)
  for lane in range(_LANES):
    total += jax.random.normal(lanes[lane], (num,), jnp.float32)
  return total / 2


def _blank() -> Key:
  zeros: Array = jnp.zeros(_KEY_SHAPE, jnp.uint32)
  return jax.random.wrap_key_data(zeros, impl=_SECRET)


def _lanes(data: Array) -> Array:
  """The eight Threefry keys of a secret key's words."""
  return jax.random.wrap_key_data(
    data.reshape(2 * _LANES, 2), impl='threefry2x32'
  )


def _seed(seed: Array) -> Array:
  del seed
  raise InputError(
    'Expected a secret key to be made by Secrets.key, from the entropy of the '
    'system; jax.random.key would make it of a seed.'
  )


def _split(data: Array, shape: tuple[int, ...]) -> Array:
  parts = jax.vmap(lambda lane: jax.random.split(lane, shape))(_lanes(data))
  words = jnp.moveaxis(jax.random.key_data(parts), 0, -2)
  return words.reshape(*shape, *_KEY_SHAPE)


def _fold_in(data: Array, number: int) -> Array:
  # Else `split(key)[i]` and `fold_in(key, i)` would be the same key, and noise.
  lanes = jax.vmap(jax.random.fold_in, (0, None))(_lanes(data), _FOLDED)
  folded = jax.vmap(jax.random.fold_in, (0, None))(lanes, number)
  return jax.random.key_data(folded).reshape(_KEY_SHAPE)


def _random_bits(data: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
  dtype = jnp.dtype(f'uint{bit_width}')
  bits: Array = jnp.zeros(shape, dtype)
  for lane in range(_LANES, 2 * _LANES):
    bits ^= jax.random.bits(_lanes(data)[lane], shape, dtype)
  return bits


_KEY_SHAPE = (4 * _LANES,)
_SECRET = extend.define_prng_impl(
  key_shape=_KEY_SHAPE,
  seed=_seed,
  split=_split,
  random_bits=_random_bits,
  fold_in=_fold_in,
  name='fedjax_gen_secret',
  tag='sec',
)
