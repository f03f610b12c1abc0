"""Private keys and certificate chains, read from PEM files and put in order."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey
"""The kinds of keys that the update clients' TLS libraries know."""

MAX_FILE_SIZE = 1_000_000
"""The largest PEM file that is read, in bytes."""

# A block ends at the next five dashes: a search beyond them would take minutes in a large file without ends. Without
# possessive quantifiers, with which Python 3.11.2 finds nothing.
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----[^-]*(?:-(?!----)[^-]*)*-----END \1-----")


class CertificateError(Exception):
    """A certificate, or a file of them, that can't be used; its message says why and what to do, on one line."""


@attrs.frozen
class Credential:
    """What a server proves itself by: a private key, and the chain of its certificate.

    `chain` begins with the certificate of the key, and each is followed by that of its issuer. The root is left out:
    a client trusts it already or not at all, and small clients have no room to spare. `file` is where the chain was
    read, `unused` are certificates of it that don't belong to the chain.
    """

    file: Path
    key: PrivateKey = attrs.field(repr=False, eq=False)
    chain: tuple[x509.Certificate, ...]
    unused: tuple[x509.Certificate, ...] = ()

    @property
    def kind(self) -> str:
        """`RSA` or `ECDSA`: a server has at most one credential of each."""
        return "RSA" if isinstance(self.key, RSAPrivateKey) else "ECDSA"


def load_credential(certificate: Path, key: Path | None = None) -> Credential:
    """Read a certificate with its chain and its private key, each PEM file in any order.

    Without `key` the private key stands in the file of the certificate. Raises CertificateError.
    """
    blocks = _read_blocks(certificate)
    key_blocks = [pem for kind, pem in (blocks if key is None else _read_blocks(key)) if kind.endswith(b"PRIVATE KEY")]
    certificates = _load_certificates(certificate, blocks)
    if key is None and (len(key_blocks) != 1 or not certificates):
        raise CertificateError(
            f"{certificate} holds {len(key_blocks)} private keys and {len(certificates)} certificates; it must hold "
            "one key and its certificate, with the chain: cat privkey.pem fullchain.pem > both.pem"
        )
    if not certificates:
        raise CertificateError(
            f"{certificate} holds no certificate; name the file with the chain, such as fullchain.pem"
        )
    if len(key_blocks) != 1:
        raise CertificateError(f"{key} holds {len(key_blocks)} private keys; it must hold one, such as privkey.pem")
    private_key = _load_key(key or certificate, key_blocks[0])
    own = _public_bytes(private_key.public_key())
    leaf = next((each for each in certificates if _public_bytes(each.public_key()) == own), None)
    if leaf is None:
        beside = f"the private key in {key}" if key is not None else "its private key"
        raise CertificateError(f"no certificate in {certificate} belongs to {beside}")
    chain = _order(leaf, certificates)
    unused = tuple(each for each in certificates if each not in chain and not _is_root(each))
    return Credential(certificate, private_key, chain, unused)


def load_authorities(path: Path) -> tuple[x509.Certificate, ...]:
    """Read the certificates of a PEM file, of which there must be one at least. Raises CertificateError."""
    certificates = _load_certificates(path, _read_blocks(path))
    if not certificates:
        raise CertificateError(f"{path} holds no certificate; name the file of the authority that signs for devices")
    return tuple(certificates)


def describe(certificate: x509.Certificate) -> str:
    """Name a certificate for people: its first DNS name, or its subject's common name, or its whole subject."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        name = next(iter(names.value.get_values_for_type(x509.DNSName)), "")
    except Exception:  # noqa: BLE001 - there is none, or the extensions are damaged, which may show in many ways
        name = ""
    try:
        common = next((str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)), "")
        text = name or common or certificate.subject.rfc4514_string() or f"serial {certificate.serial_number:x}"
    except ValueError:
        text = f"serial {certificate.serial_number:x}"
    return text if text.isprintable() and len(text) <= 200 else ascii(text[:200])


def _read_blocks(path: Path) -> list[tuple[bytes, bytes]]:
    """Return the PEM blocks of a file, each with its label (RFC 7468)."""
    try:
        # Opening a pipe would wait for somebody to write there.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CertificateError(f"{path} is no plain file; name a PEM file")
            data = file.read(MAX_FILE_SIZE + 1)
    except OSError as error:
        raise CertificateError(f"{path} can't be read: {error.strerror}") from error
    if len(data) > MAX_FILE_SIZE:
        raise CertificateError(f"{path} has more than {MAX_FILE_SIZE:,} bytes; name a PEM file")
    return [(found[1], found[0]) for found in _BLOCK.finditer(data)]


def _load_certificates(path: Path, blocks: Sequence[tuple[bytes, bytes]]) -> list[x509.Certificate]:
    certificates = []
    for kind, pem in blocks:
        if kind != b"CERTIFICATE":
            continue
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            # What is damaged shows only when it is used.
            _ = certificate.subject, certificate.issuer, certificate.not_valid_after_utc, certificate.public_key()
        except Exception as error:
            raise CertificateError(f"a certificate in {path} is damaged") from error
        if certificate not in certificates:
            certificates.append(certificate)
    return certificates


def _load_key(path: Path, pem: bytes) -> PrivateKey:
    if b"ENCRYPTED" in pem:
        raise CertificateError(f"the private key in {path} has a passphrase; remove it: openssl pkey -in … -out …")
    try:
        key = load_pem_private_key(pem, None)
    except Exception:  # noqa: BLE001 - many kinds, some of which quote the key
        raise CertificateError(f"the private key in {path} is damaged") from None
    if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey):
        raise CertificateError(f"the private key in {path} is neither RSA nor ECDSA, which is all that devices know")
    return key


def _public_bytes(key: object) -> bytes:
    encode = getattr(key, "public_bytes", None)
    return encode(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) if encode is not None else b""


def _is_root(certificate: x509.Certificate) -> bool:
    return certificate.subject == certificate.issuer


def _order(leaf: x509.Certificate, certificates: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """Return the chain that begins with a certificate, as far as the others lead, without the root."""
    chain = [leaf]
    while not _is_root(chain[-1]):
        issuer = next(
            (each for each in certificates if each not in chain and _issued(each, chain[-1])),
            None,
        )
        if issuer is None or _is_root(issuer):
            break
        chain.append(issuer)
    return tuple(chain)


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Say whether one certificate is signed by the key of another."""
    if issuer.subject != certificate.issuer:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # noqa: BLE001 - a signature that can't be judged is none
        return False
    return True
