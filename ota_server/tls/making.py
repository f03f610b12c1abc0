"""Makes keys and certificates for a private authority: for servers of a home network, and for devices.

They are X.509 version 3 as RFC 5280 says, and as small TLS libraries read them: BearSSL and mbedTLS look for an IP
address among the DNS names only, and whoever asks for records of 512 bytes may need the certificate to fit into one.
"""

from __future__ import annotations

import base64
import enum
import ipaddress
import re
from collections.abc import Sequence
from datetime import datetime, timedelta

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

CLOCK_GRACE = timedelta(days=30)
"""How far before it is made a certificate begins to count, since the clocks of devices are wrong at times."""

AUTHORITY_LIFE = timedelta(days=7300)
"""How long an authority lives; a device that trusts it has to be taken from the wall when it ends."""

SERVER_DAYS = 790
"""How long a server's certificate lives unless something else is said; with the grace it is less than the 825 days
that Apple's devices accept."""

MAX_COMMON_NAME = 64
"""The longest common name, in characters (`ub-common-name` of RFC 5280, appendix A)."""

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


class MakingError(Exception):
    """A name, a key or a certificate that can't be used; its message says why and what to do."""


class Kind(enum.Enum):
    """The kinds of keys."""

    P256 = "p256"
    RSA = "rsa"

    @property
    def title(self) -> str:
        """What people call it."""
        return "P-256" if self is Kind.P256 else "RSA-2048"


def make_key(kind: Kind) -> PrivateKey:
    """Make a private key: of the curve P-256, or RSA with 2048 bits, which is what every client can work with."""
    if kind is Kind.P256:
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def is_of_kind(key: PrivateKey, kind: Kind) -> bool:
    """Say whether a key is of a kind, however many bits an RSA key has."""
    if kind is Kind.RSA:
        return isinstance(key, rsa.RSAPrivateKey)
    return isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)


@attrs.frozen(kw_only=True)
class Authority:
    """A private authority: its key, which signs, and its certificate, which devices trust."""

    key: PrivateKey = attrs.field(repr=False)
    certificate: x509.Certificate

    @property
    def end(self) -> datetime:
        """Until when it lives."""
        return self.certificate.not_valid_after_utc


def make_authority(kind: Kind, what: str, now: datetime) -> Authority:
    """Make an authority with a new key. `what` says in its name what it is for; `now` is in UTC.

    Its name ends with a mark of its key, since clients look authorities up by name.
    """
    key = make_key(kind)
    identifier = _identify(key.public_key())
    name = _name(f"{what} {identifier.digest[-4:].hex()}")
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    begin = _whole_seconds(now - CLOCK_GRACE)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + CLOCK_GRACE + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(key=key, certificate=certificate)


def make_server_certificate(
    authority: Authority, key: PublicKey, hosts: Sequence[str], now: datetime, days: int
) -> x509.Certificate:
    """Make the certificate of a server with these hosts, each as `read_host` returns them. Raises MakingError.

    A host that is an IP address stands in it as one (RFC 5280, section 4.2.1.6) and as a DNS name too.
    """
    names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
    names += [x509.IPAddress(ipaddress.ip_address(host)) for host in hosts if is_address(host)]
    common = next((host for host in hosts if len(host) <= MAX_COMMON_NAME), "server")
    # A client without forward secrecy encrypts its secret with the RSA key.
    usage = _key_usage(digital_signature=True, key_encipherment=isinstance(key, rsa.RSAPublicKey))
    return (
        _leaf(authority, key, common, usage, ExtendedKeyUsageOID.SERVER_AUTH, now, days)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def make_client_certificate(
    authority: Authority, key: PublicKey, name: str, now: datetime, days: int
) -> x509.Certificate:
    """Make the certificate of a device with this name, its common name. Raises MakingError."""
    usage = _key_usage(digital_signature=True)
    return _leaf(authority, key, name, usage, ExtendedKeyUsageOID.CLIENT_AUTH, now, days).sign(
        authority.key, hashes.SHA256()
    )


def _leaf(
    authority: Authority,
    key: PublicKey,
    common: str,
    usage: x509.KeyUsage,
    purpose: x509.ObjectIdentifier,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    now = _whole_seconds(now)
    left = (authority.end - now).days
    if days > left:
        raise MakingError(
            f"its authority lives for {left} more days, and a certificate can't live for {days}; say less"
        )
    issuer = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        x509.CertificateBuilder()
        .subject_name(_name(common))
        .issuer_name(authority.certificate.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_GRACE)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(_identify(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
    )


def _whole_seconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _key_usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_encipherment=key_encipherment,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _identify(key: PublicKey) -> x509.SubjectKeyIdentifier:
    """Return the short key identifier of RFC 5280, section 4.2.1.2 (2): 8 bytes, which leave room in small records."""
    digest = x509.SubjectKeyIdentifier.from_public_key(key).digest
    return x509.SubjectKeyIdentifier(bytes([0x40 | digest[-8] & 0x0F]) + digest[-7:])


def is_address(host: str) -> bool:
    """Say whether a host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def read_host(text: str) -> str:
    """Read a host name or an IP address, and return it in lower case. Raises MakingError with what to write."""
    shown = repr(text if len(text) <= 60 else f"{text[:59]}…")
    if "://" in text or "/" in text:
        raise MakingError(f"{shown} is no host name; leave out https:// and what comes after the name")
    host = text.lower()
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if is_address(bare):
        if "%" in bare:
            raise MakingError(f"{shown} has a zone, which can't be in a certificate; leave out the % and the rest")
        return str(ipaddress.ip_address(bare))
    if re.fullmatch(r".*:[0-9]+", host):
        raise MakingError(f"{shown} is no host name; leave out the port, certificates are good for all of them")
    if not host.isascii():
        raise MakingError(f"{shown} is not in ASCII; write the name as DNS knows it, which begins with xn--")
    labels = host.removeprefix("*.").split(".")
    if not all(_LABEL.fullmatch(label) for label in labels) or len(host) > 253:
        raise MakingError(
            f"{shown} is no host name; it is made of letters, digits and - with dots between, as in ota.local"
        )
    if labels[-1].isdigit():
        raise MakingError(f"{shown} is no IP address; that has four numbers from 0 to 255, as in 192.168.1.10")
    return host


def encode_key(key: PrivateKey) -> bytes:
    """Write a private key as PEM (PKCS #8, RFC 5208), without a passphrase."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def encode_certificate(certificate: x509.Certificate) -> bytes:
    """Write a certificate as PEM (RFC 7468)."""
    return certificate.public_bytes(Encoding.PEM)


def decode_key(pem: bytes) -> PrivateKey:
    """Read a private key from PEM. Raises MakingError, which says what it is instead."""
    try:
        key = load_pem_private_key(pem, None)
    except TypeError:
        raise MakingError("has a passphrase; remove it: openssl pkey -in … -out …") from None
    except ValueError:
        raise MakingError("is no private key, or damaged") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise MakingError("is neither an RSA key nor one of an elliptic curve")
    return key


def decode_certificate(pem: bytes) -> x509.Certificate:
    """Read a certificate from PEM. Raises MakingError."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise MakingError("is no certificate, or damaged") from None


def belongs(certificate: x509.Certificate, key: PrivateKey) -> bool:
    """Say whether a certificate is of this key."""
    return _spki(certificate.public_key()) == _spki(key.public_key())


def _spki(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        return b""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(certificate: x509.Certificate, algorithm: hashes.HashAlgorithm) -> str:
    """Return the fingerprint of a certificate as `5F:F1:…`; it changes with every renewal."""
    return certificate.fingerprint(algorithm).hex(":").upper()


def pin(certificate: x509.Certificate) -> str:
    """Return the pin of a certificate's public key as `sha256//…` (the hash of RFC 7469), which outlives renewals."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(_spki(certificate.public_key()))
    return f"sha256//{base64.b64encode(digest.finalize()).decode()}"


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """Return the hosts of a server's certificate, in their order."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return names.get_values_for_type(x509.DNSName)
