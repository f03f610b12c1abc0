"""The tokens of operators: who they belong to, what they allow, and the files that they are kept in.

A token is 32 random bytes. Of those that are made on demand only the SHA-256 is kept: a slow hash would protect nothing
that has so many bits (see `fleet/access.py`). The first one, of the machine that the server runs on, is kept as it is,
in a file that nobody else can read.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from ota_server.operator.scopes import EVERYTHING, Operator, Scope

TOKEN_FILE = "operator.token"  # noqa: S105 - a file's name
"""The file, among what the server keeps, with the token that it made at its first start."""

TOKENS_FILE = "tokens.json"
"""The file with all other tokens, as hashes."""

FIRST = "admin"
"""The name of the first token, which allows everything."""

MIN_LENGTH = 16
"""No token is shorter, in characters."""

MAX_LENGTH = 1024
"""Nor is one longer."""

MAX_TOKENS = 100
"""So many tokens are kept at most, since each is compared at each request."""

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
"""What the name of a token may be."""

_FORMAT = 1


class TokenFileError(Exception):
    """A file with tokens can't be used; the message says why and what to do, on one line."""


def hash_token(token: bytes) -> bytes:
    """Return what is kept of a token: its SHA-256, 32 bytes."""
    return hashlib.sha256(token).digest()


def make_secret() -> str:
    """Make a new token: 256 random bits."""
    return secrets.token_urlsafe(32)


@attrs.define(eq=False)
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
        self.removed: Callable[[Token], None] = lambda token: None
        """What is told of each token that isn't taken any longer."""
        self.used = False
        """Whether one was used that hasn't been used for a minute."""

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
            self.note_use(found, now)
        return found

    def note_use(self, token: Token, now: float) -> None:
        """Note when a token is used, to the minute."""
        if token.last_used is None or abs(now - token.last_used) >= 60:
            token.last_used = now
            self.used = True

    def holds(self, token: Token) -> bool:
        """Say whether a token is still taken."""
        return self._tokens.get(token.name) is token

    def get(self, name: str) -> Token | None:
        """Return the token of a name."""
        return self._tokens.get(name)

    def add(self, token: Token) -> None:
        """Take a token from now on."""
        self._tokens[token.name] = token

    def remove(self, token: Token) -> None:
        """Take a token no longer."""
        del self._tokens[token.name]
        self.removed(token)

    def __iter__(self) -> Any:
        """Go through all tokens, in the order of their names."""
        return iter(sorted(self._tokens.values(), key=lambda token: token.name))

    def __len__(self) -> int:
        return len(self._tokens)


def check_secret(text: str, place: str) -> bytes:
    """Return a token as it goes over the wire. Raises TokenFileError; never shows it."""
    token = text.strip()
    if not MIN_LENGTH <= len(token) <= MAX_LENGTH:
        raise TokenFileError(f"{place}: a token has {MIN_LENGTH} to {MAX_LENGTH} characters, this one {len(token)}")
    if re.fullmatch(r"[!-~]+", token) is None:
        raise TokenFileError(f"{place}: a token is one line of ASCII characters without spaces")
    return token.encode("ascii")


def read_token_file(path: Path) -> bytes:
    """Read a file with one token. Blocks. Raises TokenFileError, also where others can read it."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(MAX_LENGTH + 100)
    except OSError as problem:
        raise TokenFileError(f"{path}: {problem.strerror}") from problem
    if not stat.S_ISREG(status.st_mode):
        raise TokenFileError(f"{path}: this is no file")
    if status.st_mode & 0o077:
        raise TokenFileError(
            f"{path}: others than its owner can read or write it, so that it is no secret; put another token there, "
            f"and chmod 600 {path}"
        )
    return check_secret(data.decode("latin-1"), str(path))


def make_token_file(path: Path) -> bytes:
    """Make a token, and write it to a file that isn't there yet. Blocks. Raises TokenFileError."""
    token = make_secret()
    try:
        write_file(path, f"{token}\n".encode("ascii"))
    except OSError as problem:
        raise TokenFileError(f"{path} can't be written: {problem.strerror}") from problem
    return token.encode("ascii")


def write_file(path: Path, data: bytes) -> None:
    """Write a file that nobody else can read, so that it is there whole or not at all. Blocks. Raises OSError."""
    beside = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_tokens(path: Path) -> list[Token]:
    """Read the tokens of a file; none where it isn't there. Blocks. Raises TokenFileError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except OSError as problem:
        raise TokenFileError(f"{path}: {problem.strerror}") from problem
    except UnicodeDecodeError:
        text = ""
    try:
        told = json.loads(text)
        if told["format"] != _FORMAT:
            raise TokenFileError(f"{path}: it was written by a newer version of the server; start that")
        tokens = [_read_token(entry) for entry in told["tokens"]]
        if len({token.name for token in tokens} | {FIRST}) != len(tokens) + 1:
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError):
        raise TokenFileError(
            f"{path}: it can't be read as the server writes it; put an older copy there, or move it away and make the "
            "tokens anew"
        ) from None
    return tokens


def write_tokens(path: Path, entries: list[dict[str, Any]]) -> None:
    """Write the tokens of a file; see `as_entries`. Blocks. Raises OSError."""
    data = json.dumps({"format": _FORMAT, "tokens": entries}, indent=2)
    write_file(path, f"{data}\n".encode())


def as_entries(tokens: Iterable[Token]) -> list[dict[str, Any]]:
    """Return what is written of tokens: all but the first, which has a file of its own."""
    return [
        {
            "name": token.name,
            "sha256": token.digest.hex(),
            "scopes": sorted(token.scopes),
            "created": write_time(token.created),
            "last_used": None if token.last_used is None else write_time(token.last_used),
        }
        for token in tokens
        if token.name != FIRST
    ]


def _read_token(entry: Any) -> Token:
    digest = bytes.fromhex(entry["sha256"])
    if len(digest) != 32 or re.fullmatch(NAME_PATTERN, entry["name"]) is None:
        raise ValueError
    scopes = frozenset(Scope(word) for word in entry["scopes"])
    used = entry["last_used"]
    last_used = None if used is None else _read_time(used)
    return Token(entry["name"], digest, scopes, _read_time(entry["created"]), last_used)


def write_time(seconds: float) -> str:
    """Write a time in seconds since 1970 as RFC 3339 has it, to the second."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _read_time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def make_first(token: bytes, now: float) -> Token:
    """Return the token that allows everything."""
    return Token(FIRST, hash_token(token), EVERYTHING, now)
