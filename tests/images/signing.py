"""Signed images, and keys to sign them with: by espsecure, and as `openssl dgst -sha256 -sign` does, to the byte.

Keys are made anew in each process, and once.
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from tests.images.tools import run_python

KeyKind = Literal["rsa2048", "rsa3072", "rsa4096", "p192", "p256", "p384"]
"""Kinds of keys: what openssl calls RSA with so many bits, prime192v1, prime256v1 and secp384r1."""

_CURVES: dict[KeyKind, type[ec.EllipticCurve]] = {"p192": ec.SECP192R1, "p256": ec.SECP256R1, "p384": ec.SECP384R1}


def private_key(kind: KeyKind = "rsa3072", number: int = 0) -> bytes:
    """Return a private key in PEM, another one for each number. RSA with 4096 bits may take seconds."""
    # The cache takes a number that is left out for another one than the same number given.
    return _private_key(kind, number)


@lru_cache
def _private_key(kind: KeyKind, number: int) -> bytes:
    del number
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    if kind in _CURVES:
        key = ec.generate_private_key(_CURVES[kind]())
    else:
        key = rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@lru_cache
def public_key(private: bytes) -> bytes:
    """Return the public key to a private one, both in PEM."""
    key = serialization.load_pem_private_key(private, None).public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@lru_cache
def secure_boot_v2(image: bytes, *keys: bytes, append: bool = False, flags: tuple[str, ...] = ()) -> bytes:
    """Return an image signed for Secure Boot v2 by one to three private keys: RSA-3072, or ECDSA of any curve here.

    espsecure fills the last sector up, and adds one of signature blocks. To `append`, it signs with the first key, and
    then adds the block of each other key to what is signed already; the bytes are laid out the same.
    """
    if append:
        for number, key in enumerate(keys):
            image = _espsecure(image, "2", (key,), (*flags, "--append-signatures") if number else flags)
        return image
    return _espsecure(image, "2", keys, flags)


@lru_cache
def secure_boot_v1(image: bytes, key: bytes) -> bytes:
    """Return an image signed for Secure Boot v1 by an ECDSA P-256 private key: 68 bytes more, of which 4 are zero."""
    return _espsecure(image, "1", (key,))


@lru_cache
def esp8266_signed(image: bytes, key: bytes, *, legacy: bool = False) -> bytes:
    """Return an image signed as by `signing.py` of the Arduino core for ESP8266, by an RSA private key.

    The signature (PKCS#1 v1.5, SHA-256) stands behind the image, and its length behind that. Until release 2.5.2 of
    the core it was a `legacy` one, over the bare hash; the core still makes these, in a file named `.legacy_sig`.
    """
    signature = _sign_legacy(image, key) if legacy else _sign(image, key)
    return image + signature + struct.pack("<I", len(signature))


@lru_cache
def esp32fota_signed(image: bytes, key: bytes) -> bytes:
    """Return an image with the signature of an RSA-4096 private key before it, as esp32FOTA wants it: 512 bytes."""
    return _sign(image, key) + image


def _espsecure(image: bytes, scheme: str, keys: tuple[bytes, ...], flags: tuple[str, ...] = ()) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file, signed = Path(folder, "app.bin"), Path(folder, "signed.bin")
        file.write_bytes(image)
        options = []
        for number, key in enumerate(keys):
            path = Path(folder, f"{number}.pem")
            path.write_bytes(key)
            options += ["--keyfile", str(path)]
        # Whatever stands behind the name of a key, up to the next option, would be taken for another one.
        options += [*flags, "--output", str(signed)]
        run_python("espsecure", "sign-data", "--version", scheme, *options, str(file))
        return signed.read_bytes()


def _sign(data: bytes, key: bytes) -> bytes:
    """Return the RSA signature of PKCS#1 v1.5 with SHA-256, which is the same each time."""
    return _load(key).sign(data, padding.PKCS1v15(), hashes.SHA256())


def _sign_legacy(data: bytes, key: bytes) -> bytes:
    """Return the same over the bare hash, without the name of the hash before it (RFC 8017, section 9.2)."""
    numbers = _load(key).private_numbers()
    modulus = numbers.public_numbers.n
    size = (modulus.bit_length() + 7) // 8
    digest = hashlib.sha256(data).digest()
    block = b"\0\1".ljust(size - len(digest) - 1, b"\xff") + b"\0" + digest
    return pow(int.from_bytes(block, "big"), numbers.d, modulus).to_bytes(size, "big")


def _load(key: bytes) -> rsa.RSAPrivateKey:
    loaded = serialization.load_pem_private_key(key, None)
    assert isinstance(loaded, rsa.RSAPrivateKey)
    return loaded
