"""Certificates for tests, made by `trustme`."""

from __future__ import annotations

from functools import lru_cache

import trustme


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
