"""The tokens of operators: who they belong to, and what they allow."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

import attrs

from ota_server.operator.scopes import Operator, Scope


def hash_token(token: bytes) -> bytes:
    """Return what is kept of a token: its SHA-256, 32 bytes."""
    return hashlib.sha256(token).digest()


@attrs.define
class Token:
    """One token: its name, its hash, what it allows, and when it was made and last used, in seconds since 1970."""

    name: str
    digest: bytes = attrs.field(repr=False)
    scopes: frozenset[Scope]
    created: float
    last_used: float | None = None

    @property
    def operator(self) -> Operator:
        """Who brings it."""
        return Operator(self.name, self.scopes)


class Tokens:
    """All tokens that are taken."""

    def __init__(self, tokens: Iterable[Token] = ()) -> None:
        self._tokens = {token.name: token for token in tokens}

    def find(self, token: bytes, now: float) -> Token | None:
        """Return the token that is this one, None without any, and note its use at a time in seconds since 1970.

        It takes as long for each: all hashes are compared to their end.
        """
        digest = hash_token(token)
        found = None
        for known in self._tokens.values():
            if hmac.compare_digest(known.digest, digest):
                found = known
        if found is not None:
            found.last_used = now
        return found

    def holds(self, token: Token) -> bool:
        """Say whether a token is still taken."""
        return self._tokens.get(token.name) is token
