"""Certificates and keys of a federation, made where none are given."""

from collections.abc import Sequence
import datetime
import ipaddress
import os
import pathlib

from fedjax_gen import files
from fedjax_gen.deployment.flower.flower_processes import Tls

_YEARS = 2


def coordinator_tls(folder: pathlib.Path, names: Sequence[str]) -> Tls:
  """A certificate of this coordinator, and the authority that signed it.

  Made once: sites are given `ca.crt`, and know the coordinator by it.

  Args:
    folder: to find or leave them in.
    names: host names and addresses under which sites reach it.
  """
  tls = Tls(
    *(
      str((folder / name).resolve())
      for name in ('tls.crt', 'tls.key', 'ca.crt')
    )
  )
  if not all(map(os.path.exists, (tls.certificate, tls.key, tls.authority))):
    _make(tls, names)
  return tls


def node_key(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """Files of the key by which Flower knows a site: private and public.

  Made once. The public one is for the coordinator.
  """
  from cryptography.hazmat.primitives import serialization
  from cryptography.hazmat.primitives.asymmetric import ec

  private, public = folder / 'node_key', folder / 'node_key.pub'
  if not private.exists():
    key = ec.generate_private_key(ec.SECP384R1())
    _write_secret(
      private,
      key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
      ),
    )
    with files.replacing(public) as unfinished:
      unfinished.write_bytes(
        key.public_key().public_bytes(
          serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
      )
  return private, public


def _make(tls: Tls, names: Sequence[str]) -> None:
  from cryptography import x509
  from cryptography.hazmat.primitives import hashes, serialization
  from cryptography.hazmat.primitives.asymmetric import ec
  from cryptography.x509.oid import NameOID

  def named(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

  def begun(subject, issuer, public):
    now = datetime.datetime.now(datetime.UTC)
    return (
      x509.CertificateBuilder()
      .subject_name(subject)
      .issuer_name(issuer)
      .public_key(public)
      .serial_number(x509.random_serial_number())
      .not_valid_before(now - datetime.timedelta(days=1))
      .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
    )

  issuer = named('fedjax_gen coordinator authority')
  authority_key = ec.generate_private_key(ec.SECP256R1())
  authority_id = x509.SubjectKeyIdentifier.from_public_key(
    authority_key.public_key()
  )
  authority = (
    begun(issuer, issuer, authority_key.public_key())
    .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    .add_extension(authority_id, False)
    .add_extension(_usage(key_cert_sign=True, crl_sign=True), True)
    .sign(authority_key, hashes.SHA256())
  )
  key = ec.generate_private_key(ec.SECP256R1())
  known = [_general_name(n) for n in dict.fromkeys([*names, *_LOCAL])]
  certificate = (
    begun(named(names[0] if names else 'localhost'), issuer, key.public_key())
    .add_extension(x509.SubjectAlternativeName(known), False)
    .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    .add_extension(
      x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
        authority_id
      ),
      False,
    )
    .add_extension(_usage(digital_signature=True), True)
    .sign(authority_key, hashes.SHA256())
  )
  # The authority's key is forgotten: it signs nothing else.
  pem = serialization.Encoding.PEM
  _write_secret(
    pathlib.Path(tls.key),
    key.private_bytes(
      pem,
      serialization.PrivateFormat.PKCS8,
      serialization.NoEncryption(),
    ),
  )
  for path, made in (
    (tls.certificate, certificate),
    (tls.authority, authority),
  ):
    with files.replacing(path) as unfinished:
      unfinished.write_bytes(made.public_bytes(pem))


_LOCAL = ('localhost', '127.0.0.1')
_USAGES = (
  'digital_signature', 'content_commitment', 'key_encipherment',
  'data_encipherment', 'key_agreement', 'key_cert_sign', 'crl_sign',
  'encipher_only', 'decipher_only',
)  # fmt: skip


def _usage(**allowed: bool):
  from cryptography import x509

  return x509.KeyUsage(**{name: allowed.get(name, False) for name in _USAGES})


def _general_name(text: str):
  from cryptography import x509

  try:
    return x509.IPAddress(ipaddress.ip_address(text))
  except ValueError:
    return x509.DNSName(text)


def _write_secret(path: pathlib.Path, text: bytes) -> None:
  with files.replacing(path) as unfinished:
    unfinished.touch(mode=0o600)
    unfinished.write_bytes(text)
