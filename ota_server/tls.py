"""TLS for devices: a certificate from one PEM file."""

from __future__ import annotations

import re
from pathlib import Path

from OpenSSL import crypto
from twisted.internet.ssl import CertificateOptions

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


class CertificateError(Exception):
    """A certificate file that can't be used; its message says why and what to do."""


def load_certificate(path: Path) -> CertificateOptions:
    """Read a PEM file with a private key, its certificate, and the chain to the authority, in any order.

    The result allows TLS 1.2 and 1.3, and resumes sessions by ticket and by session id: a full handshake
    takes an ESP8266 seconds, and its TLS library (BearSSL) knows session ids only. Raises CertificateError.
    """
    try:
        blocks = [(found[1], found[0]) for found in _BLOCK.finditer(path.read_bytes())]
    except OSError as error:
        raise CertificateError(f"{path} can't be read: {error.strerror}") from error
    keys = [pem for kind, pem in blocks if kind.endswith(b"PRIVATE KEY")]
    chain = [_load(path, pem) for kind, pem in blocks if kind == b"CERTIFICATE"]
    if len(keys) != 1 or not chain:
        raise CertificateError(
            f"{path} holds {len(keys)} private keys and {len(chain)} certificates; it must hold one key and its "
            "certificate, with the chain: cat privkey.pem fullchain.pem > both.pem"
        )
    if b"ENCRYPTED" in keys[0]:
        raise CertificateError(f"the private key in {path} has a passphrase; remove it: openssl pkey -in … -out …")
    try:
        key = crypto.load_privatekey(crypto.FILETYPE_PEM, keys[0])
    except (crypto.Error, ValueError) as error:
        raise CertificateError(f"the private key in {path} is damaged") from error
    leaf = next((certificate for certificate in chain if _belongs(certificate, key)), None)
    if leaf is None:
        raise CertificateError(f"no certificate in {path} belongs to its private key")
    chain.remove(leaf)
    return CertificateOptions(
        privateKey=key,
        certificate=leaf,
        extraCertChain=chain,
        enableSessions=True,
        enableSessionTickets=True,
    )


def _load(path: Path, pem: bytes) -> crypto.X509:
    try:
        return crypto.load_certificate(crypto.FILETYPE_PEM, pem)
    except (crypto.Error, ValueError) as error:
        raise CertificateError(f"a certificate in {path} is damaged") from error


def _belongs(certificate: crypto.X509, key: crypto.PKey) -> bool:
    own, given = (crypto.dump_publickey(crypto.FILETYPE_PEM, k) for k in (certificate.get_pubkey(), key))
    return own == given
