"""What a secure summation is made of: keys, streams, shares, signatures.

X25519 for keys that two agree on, HKDF-SHA256 to derive, ChaCha20 for masks,
ChaCha20-Poly1305 for what the server carries and must not read, Ed25519 for
signatures (all from `cryptography`), and Shamir's shares (from `pycryptodome`,
in GF(2^128)). No protocol: that is `secure_sum`.

The primitives are those libraries'. Python and NumPy do not overwrite secrets
in memory, nor run in constant time: whoever reads a site's memory reads them.
"""

from collections.abc import Mapping
import json
from typing import Any

import numpy as np

from fedjax_gen.errors import InputError

KEY_BYTES = 32
_SHARED_BLOCK = 16  # bytes that Shamir's scheme of pycryptodome shares at once


def derive(secret: bytes, label: str, *context: Any) -> bytes:
  """32 bytes that follow from a secret, other ones for each label and context.

  HKDF-SHA256 (RFC 5869).

  Args:
    secret: 32 bytes or more, from a key agreement or the system's entropy.
    label: what for.
    context: JSON values that name the one use, such as session and places.
  """
  from cryptography.hazmat.primitives import hashes
  from cryptography.hazmat.primitives.kdf.hkdf import HKDF

  info = json.dumps([label, *context]).encode()
  return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=info).derive(secret)


def public_key(private: bytes) -> bytes:
  """The 32 bytes that belong to an X25519 private key of any 32 bytes."""
  return _x25519(private).public_key().public_bytes_raw()


def agreed(private: bytes, public: bytes) -> bytes:
  """What two share who know each one private key and the other's public one.

  Raises:
    InputError: `public` is no key that can be agreed with.
  """
  from cryptography.hazmat.primitives.asymmetric import x25519

  try:
    theirs = x25519.X25519PublicKey.from_public_bytes(public)
    return _x25519(private).exchange(theirs)
  except ValueError as error:  # a point of small order gives zeros
    raise InputError(
      f'Expected an X25519 public key, got {public.hex()}: {error}.'
    ) from error


def stream(key: bytes, size: int, bits: int) -> np.ndarray:
  """`[size]` uniform whole numbers modulo 2 to the bits: the ChaCha20 stream.

  Args:
    key: 32 bytes, used for this one stream.
    size: how many.
    bits: at most 64; uint32 up to 32, uint64 above.
  """
  from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

  dtype = word(bits)
  # The key has no other use, so that a fixed nonce does not repeat a stream.
  cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None)
  drawn = cipher.encryptor().update(bytes(size * dtype.itemsize))
  return np.frombuffer(drawn, dtype) & dtype.type((1 << bits) - 1)


def word(bits: int) -> np.dtype:
  """The little-endian type of whole numbers modulo 2 to the bits."""
  return np.dtype('<u4' if bits <= 32 else '<u8')


def sealed(key: bytes, plain: bytes, sender: int, context: bytes) -> bytes:
  """What only who has the key can read, or could have written.

  Args:
    key: 32 bytes; of each sender one message at most.
    plain: what is sealed.
    sender: its number, so that two with one key seal differently.
    context: what the message belongs to; must be given to open it.
  """
  from cryptography.hazmat.primitives.ciphers import aead

  cipher = aead.ChaCha20Poly1305(key)
  return cipher.encrypt(sender.to_bytes(12, 'big'), plain, context)


def opened(key: bytes, text: bytes, sender: int, context: bytes) -> bytes:
  """What `sealed` was given.

  Raises:
    InputError: it was sealed with another key, by another sender, for another
      context, or was changed.
  """
  from cryptography import exceptions
  from cryptography.hazmat.primitives.ciphers import aead

  try:
    cipher = aead.ChaCha20Poly1305(key)
    return cipher.decrypt(sender.to_bytes(12, 'big'), text, context)
  except exceptions.InvalidTag as error:
    raise InputError(
      f'Expected what node {sender} sealed, got something that was changed on '
      'the way or meant for another sum.'
    ) from error


def shares(secret: bytes, threshold: int, number: int) -> list[bytes]:
  """Shares of a 32-byte secret: `threshold` give it, fewer give nothing.

  Shamir, "How to share a secret", 1979, over each half of the secret.

  Args:
    secret: 32 bytes.
    threshold: how many give it back.
    number: how many are made; the i-th belongs to point i + 1.
  """
  Shamir = _shamir()
  halves = [
    Shamir.split(threshold, number, secret[start : start + _SHARED_BLOCK])
    for start in range(0, KEY_BYTES, _SHARED_BLOCK)
  ]
  return [left + right for (_, left), (_, right) in zip(*halves, strict=True)]


def recovered(found: Mapping[int, bytes], threshold: int) -> bytes:
  """The secret that `shares` were made from.

  Args:
    found: shares by their place in the list, `threshold` or more.
    threshold: how many there were needed.

  Raises:
    InputError: there are fewer, or shares do not have 32 bytes.
  """
  if len(found) < threshold or any(
    len(share) != KEY_BYTES for share in found.values()
  ):
    raise InputError(
      f'Expected {threshold} shares of {KEY_BYTES} bytes, got {len(found)} of '
      f'{sorted({len(share) for share in found.values()})} bytes.'
    )
  Shamir = _shamir()
  chosen = sorted(found.items())[:threshold]
  halves = [
    Shamir.combine(
      [(i + 1, share[start : start + _SHARED_BLOCK]) for i, share in chosen]
    )
    for start in range(0, KEY_BYTES, _SHARED_BLOCK)
  ]
  return b''.join(halves)


def identity(private: bytes) -> bytes:
  """The Ed25519 public key, 32 bytes, that others know a signer by."""
  return _ed25519(private).public_key().public_bytes_raw()


def signature(private: bytes, text: bytes) -> bytes:
  """The Ed25519 signature, 64 bytes, of a text."""
  return _ed25519(private).sign(text)


def is_signed(public: bytes, text: bytes, signed: bytes) -> bool:
  """Whether a signature is that of who is known by a public key."""
  from cryptography import exceptions
  from cryptography.hazmat.primitives.asymmetric import ed25519

  try:
    key = ed25519.Ed25519PublicKey.from_public_bytes(public)
    key.verify(signed, text)
  except (exceptions.InvalidSignature, ValueError):
    return False
  return True


def _x25519(private: bytes):
  from cryptography.hazmat.primitives.asymmetric import x25519

  return x25519.X25519PrivateKey.from_private_bytes(private)


def _ed25519(private: bytes):
  from cryptography.hazmat.primitives.asymmetric import ed25519

  return ed25519.Ed25519PrivateKey.from_private_bytes(private)


def _shamir():
  from Crypto.Protocol.SecretSharing import Shamir

  return Shamir


def check_installed() -> None:
  """Raises `InputError` unless the extra is there that all of this needs."""
  try:
    _shamir()
    identity(bytes(KEY_BYTES))
  except ImportError as error:
    raise InputError(
      'A federation between sites needs cryptography and pycryptodome, which '
      "are not installed: pip install 'fedjax_gen[flower]'."
    ) from error
