"""Checks the signatures in images against the public keys that the operator trusts.

Nothing is signed here: the server never sees a private key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from ota_server.firmware.facts import Scheme, Signature

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
"""The kinds of keys that devices verify updates with."""

SMALLEST_RSA = 2048
"""The shortest RSA key that is accepted, in bits."""

_MARK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----[^-]*-----END \1-----")

_EXTRACT = "openssl pkey -in KEY -pubout -out PUBLIC"
_ACCEPTED = f"RSA of {SMALLEST_RSA} bits or more, or ECDSA on P-192, P-256 or P-384"


@attrs.frozen
class _Curve:
    """What people call a curve, how long its numbers are in bytes, and the hash that goes with it."""

    title: str
    size: int
    hash: hashes.HashAlgorithm


_CURVES = {
    "secp192r1": _Curve("P-192", 24, hashes.SHA256()),
    "secp256r1": _Curve("P-256", 32, hashes.SHA256()),
    "secp384r1": _Curve("P-384", 48, hashes.SHA384()),
}

_PKCS1 = padding.PKCS1v15()
_PSS = padding.PSS(padding.MGF1(hashes.SHA256()), 32)

# The length of the key in bits, where the scheme prescribes it, and the padding.
_RSA: dict[Scheme, tuple[int | None, padding.AsymmetricPadding]] = {
    Scheme.SECURE_BOOT_V2_RSA: (3072, _PSS),
    Scheme.ESP8266: (None, _PKCS1),
    Scheme.ESP32FOTA: (4096, _PKCS1),
}


class VerifyKeyError(ValueError):
    """A file of public keys that can't be used; its message says what is wrong, where, and what to do."""


@attrs.frozen
class VerifyKey:
    """A public key that the operator trusts.

    `name` is that of its file. `fingerprint` is the first 16 hexadecimal digits of the SHA-256 of the key as DER
    (SubjectPublicKeyInfo, RFC 5280 section 4.1.2.7), as of: openssl pkey -pubin -in PUBLIC -outform DER | sha256sum
    """

    name: str
    key: PublicKey = attrs.field(eq=False, repr=False)
    fingerprint: str

    @property
    def kind(self) -> str:
        """What kind of key it is, for people."""
        return _describe(self.key)

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}, {self.fingerprint})"


def load_verify_key(path: Path) -> tuple[VerifyKey, ...]:
    """Return the public keys in a PEM file (RFC 7468), in its order, and at least one.

    Each block may be a PUBLIC KEY, an RSA PUBLIC KEY or a CERTIFICATE. Of a certificate only the key is taken:
    who issued it and until when it is valid doesn't matter, as it doesn't to devices; so of a chain every
    authority's key would be trusted too. One block that can't be used refuses the file. Raises VerifyKeyError.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise VerifyKeyError(f"{path} can't be read: {error.strerror}") from error
    if b"PRIVATE KEY-----" in content:
        raise VerifyKeyError(
            f"{path} holds a private key, which has no place on the server: whoever gets it signs as you do. "
            f"Keep it where images are signed, and give the server its public part: {_EXTRACT}"
        )
    keys = tuple(_read_block(path, content, mark) for mark in _MARK.finditer(content))
    if not keys:
        fault = "holds no public key in PEM form" if content.strip() else "is empty"
        raise VerifyKeyError(
            f"{path} {fault}; it must have a block from -----BEGIN PUBLIC KEY----- to -----END PUBLIC KEY-----, "
            f"which this writes: {_EXTRACT}"
        )
    return keys


def find_signer(signatures: Sequence[Signature], keys: Sequence[VerifyKey]) -> VerifyKey | None:
    """Return the first of the keys that one of the signatures verifies with, or None.

    The keys that stand beside the signatures in the file count for nothing. That a signature's `digest` is that
    of the bytes it covers is for the caller to see to. Whatever the bytes are, nothing is raised.
    """
    for key in keys:
        if any(_verifies(signature, key.key) for signature in signatures):
            return key
    return None


def _read_block(path: Path, content: bytes, mark: re.Match[bytes]) -> VerifyKey:
    """Read the block that begins at a mark."""
    kind = mark[1].decode("ascii")
    line = content.count(b"\n", 0, mark.start()) + 1
    what = f"{path}, line {line}: this {kind}"
    if kind not in ("PUBLIC KEY", "RSA PUBLIC KEY", "CERTIFICATE"):
        raise VerifyKeyError(f"{what} is neither PUBLIC KEY, RSA PUBLIC KEY nor CERTIFICATE; take it out of the file")
    block = _BLOCK.match(content, mark.start())
    if block is None:
        raise VerifyKeyError(f"{what} has no end that belongs to it; copy the file anew")
    try:
        key = (
            x509.load_pem_x509_certificate(block[0]).public_key()
            if kind == "CERTIFICATE"
            else serialization.load_pem_public_key(block[0])
        )
    except (ValueError, UnsupportedAlgorithm) as error:
        raise VerifyKeyError(
            f"{what} is damaged, or of a kind that is not known here; copy the file anew, or sign with {_ACCEPTED}"
        ) from error
    if (
        not isinstance(key, PublicKey)
        or (isinstance(key, rsa.RSAPublicKey) and key.key_size < SMALLEST_RSA)
        or (isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name not in _CURVES)
    ):
        raise VerifyKeyError(f"{what} is for {_describe(key)}, which is not accepted; sign with {_ACCEPTED}")
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return VerifyKey(path.name, key, hashlib.sha256(der).hexdigest()[:16])


def _describe(key: object) -> str:
    """Return the kind of a public key, for people."""
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA-{key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        curve = _CURVES.get(key.curve.name)
        return f"ECDSA {curve.title if curve else key.curve.name}"
    return type(key).__name__.removesuffix("PublicKey")


def _verifies(signature: Signature, key: PublicKey) -> bool:
    """Say whether a signature is one by this key."""
    try:
        digest, value = bytes.fromhex(signature.digest), bytes.fromhex(signature.value)
        if isinstance(key, rsa.RSAPublicKey):
            return _verifies_rsa(signature.scheme, key, digest, value)
        return _verifies_ecdsa(signature.scheme, key, digest, value)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):  # ValueError: a digest of another length, too
        return False


def _verifies_rsa(scheme: Scheme, key: rsa.RSAPublicKey, digest: bytes, value: bytes) -> bool:
    """Say whether an RSA signature (RFC 8017 section 8) verifies, or raise InvalidSignature or ValueError."""
    if scheme not in _RSA:
        return False
    bits, scheme_padding = _RSA[scheme]
    if bits not in (None, key.key_size) or len(value) != (key.key_size + 7) // 8:
        return False
    if scheme is Scheme.SECURE_BOOT_V2_RSA:  # The chip's accelerator takes numbers with the lowest byte first.
        value = value[::-1]
    key.verify(value, digest, scheme_padding, Prehashed(hashes.SHA256()))
    return True


def _verifies_ecdsa(scheme: Scheme, key: ec.EllipticCurvePublicKey, digest: bytes, value: bytes) -> bool:
    """Say whether an ECDSA signature (FIPS 186-5 section 6) verifies, or raise InvalidSignature or ValueError."""
    curve = _CURVES.get(key.curve.name)
    if curve is None or len(value) != 2 * curve.size:
        return False
    order: Literal["little", "big"]
    if scheme is Scheme.SECURE_BOOT_V2_ECDSA:
        order = "little"
    elif scheme is Scheme.SECURE_BOOT_V1 and isinstance(key.curve, ec.SECP256R1):
        order = "big"
    else:
        return False
    r, s = int.from_bytes(value[: curve.size], order), int.from_bytes(value[curve.size :], order)
    key.verify(encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(curve.hash)))
    return True
