"""Certificates for tests: ready-made ones by `trustme`, and chains of which the test says what is in them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address

import attrs
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = 86_400

FAR = time.time() + 1000 * DAY
"""When certificates end unless the test says otherwise, in seconds since 1970: none is warned of."""

_LONG_AGO = datetime(2024, 1, 1, tzinfo=UTC)


@lru_cache
def make_authority() -> trustme.CA:
    """Return a private certificate authority, the same at each call."""
    return trustme.CA()


@lru_cache
def make_pem(host: str, *, rsa: bool = False) -> bytes:
    """Return a PEM file with key, certificate and chain for a host, behind an intermediate authority."""
    intermediate = make_authority().create_child_ca()
    kind = trustme.KeyType.RSA if rsa else trustme.KeyType.ECDSA
    issued = intermediate.issue_cert(host, key_type=kind)
    return issued.private_key_and_cert_chain_pem.bytes()


Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@lru_cache
def make_key(kind: str = "ECDSA", number: int = 0, bits: int = 2048) -> Key:
    """Return a private key, `ECDSA` of P-256 or `RSA` of so many bits; the same one for the same number."""
    return ec.generate_private_key(ec.SECP256R1()) if kind == "ECDSA" else rsa.generate_private_key(65537, bits)


def key_pem(key: Key) -> bytes:
    """Return a private key as a PEM file holds it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def pem(*certificates: x509.Certificate) -> bytes:
    """Return certificates as a PEM file holds them."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


@attrs.frozen
class Issued:
    """A certificate with its private key, and the authorities above it, the root last."""

    key: Key = attrs.field(repr=False)
    certificate: x509.Certificate
    above: tuple[x509.Certificate, ...]

    @property
    def key_pem(self) -> bytes:
        """What certbot calls privkey.pem."""
        return key_pem(self.key)

    @property
    def full_chain(self) -> bytes:
        """What certbot calls fullchain.pem: without the root."""
        return pem(self.certificate, *self.above[:-1])

    @property
    def both(self) -> bytes:
        """Key and chain in one file."""
        return self.key_pem + self.full_chain


@attrs.frozen
class Authority:
    """A certificate authority, and those above it."""

    key: Key = attrs.field(repr=False)
    certificate: x509.Certificate
    above: tuple[x509.Certificate, ...] = ()

    @classmethod
    def root(cls, name: str, *, kind: str = "ECDSA", ends: float = FAR) -> Authority:
        """Make one that signs itself; the same name has the same key."""
        key = make_key(kind, hash(name))
        return cls(key, _sign(name, key, _name(name), key, ends, authority=True))

    def below(self, name: str, *, kind: str = "ECDSA", ends: float = FAR) -> Authority:
        """Make one that this one signs."""
        key = make_key(kind, hash(name))
        certificate = _sign(name, key, self.certificate.subject, self.key, ends, authority=True)
        return Authority(key, certificate, (self.certificate, *self.above))

    def issue(self, host: str, kind: str = "ECDSA", *, ends: float = FAR, number: int = 0, bits: int = 2048) -> Issued:
        """Make the certificate of a host or a device; another number is another key."""
        key = make_key(kind, number, bits)
        certificate = _sign(host, key, self.certificate.subject, self.key, ends)
        return Issued(key, certificate, (self.certificate, *self.above))

    @property
    def pem(self) -> bytes:
        """The authority's own certificate as a PEM file holds it."""
        return pem(self.certificate)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _sign(
    name: str, key: Key, issuer: x509.Name, issuer_key: Key, ends: float, *, authority: bool = False
) -> x509.Certificate:
    builder = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=_name(name),
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=_LONG_AGO,
        not_valid_after=datetime.fromtimestamp(ends, UTC),
    ).add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    if authority:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        return builder.add_extension(usage, critical=True).sign(issuer_key, hashes.SHA256())
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    if name.replace(".", "").isdigit():
        names.append(x509.IPAddress(ip_address(name)))
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
