"""Sessions of browsers, and what tells a browser's own requests from those that another site made it send: pure.

A session is a random id in a cookie, of which the server remembers the hash, in memory: all end with it.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Callable, Collection, Mapping
from urllib.parse import urlsplit

import attrs

from ota_server.operator.tokens import Token, hash_token

IDLE = 12 * 3600.0
"""A session that isn't used for so many seconds has ended."""

LONGEST = 7 * 24 * 3600.0
"""And so has each after so many."""

MAX_SESSIONS = 1000
"""So many are remembered at most: for a new one the oldest ends."""


@attrs.define(eq=False)
class Session:
    """A browser that has shown a token; `csrf` is what its writes have to bring, times are in seconds."""

    token: Token
    csrf: str = attrs.field(repr=False)
    began: float
    seen: float


class Sessions:
    """All sessions; `holds` says whether a token is still taken."""

    def __init__(self, holds: Callable[[Token], bool]) -> None:
        self._holds = holds
        self._sessions: dict[bytes, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, token: Token, now: float) -> str:
        """Begin a session; return its id."""
        self._forget(now)
        if len(self._sessions) >= MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        identity = secrets.token_urlsafe(32)
        self._sessions[hash_token(identity.encode("ascii"))] = Session(token, secrets.token_urlsafe(32), now, now)
        return identity

    def find(self, identity: bytes, now: float) -> Session | None:
        """Return the session of an id, None where there is none, or none any more."""
        key = hash_token(identity)
        session = self._sessions.get(key)
        if session is None:
            return None
        if not self._lasts(session, now):
            del self._sessions[key]
            return None
        session.seen = now
        return session

    def end(self, session: Session) -> None:
        """End a session."""
        self._sessions = {key: other for key, other in self._sessions.items() if other is not session}

    def _lasts(self, session: Session, now: float) -> bool:
        return now - session.seen < IDLE and now - session.began < LONGEST and self._holds(session.token)

    def _forget(self, now: float) -> None:
        self._sessions = {key: session for key, session in self._sessions.items() if self._lasts(session, now)}


def cookie_name(port: int | None, *, secure: bool) -> str:
    """Return the name of the cookie at a port: browsers keep those of all ports of a host together.

    With TLS the browser itself sees to it that no other host, and no page without TLS, sets one (`__Host-`).
    """
    return f"{'__Host-' if secure else ''}ota-{port or 'local'}"


def make_cookie(name: str, value: str, *, secure: bool, seconds: float) -> str:
    """Return the value of `Set-Cookie` (RFC 6265); with 0 seconds the browser forgets it."""
    tail = "; Secure" if secure else ""
    return f"{name}={value}; Path=/; Max-Age={int(seconds)}; HttpOnly; SameSite=Strict{tail}"


def read_cookie(field: str, name: str) -> bytes | None:
    """Return the value of a cookie, None without it, or where it is there several times."""
    pairs = (pair.strip().partition("=") for pair in field.split(";"))
    values = [value for key, _, value in pairs if key == name]
    return values[0].encode("latin-1", "replace") if len(values) == 1 else None


def is_own(headers: Mapping[str, str], *, secure: bool) -> bool:
    """Say whether a browser tells that a request was made by a page of this door.

    It says so by `Sec-Fetch-Site`, by `Origin`, or both; one that says neither is too old. `headers` are by names in
    lower case.
    """
    site = headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return False
    origin = headers.get("origin")
    if origin is None:
        return site is not None
    scheme, _, rest = origin.partition("://")
    if scheme not in (("https",) if secure else ("http", "https")):
        return False
    return _strip_port(rest.lower(), scheme) == _strip_port(headers.get("host", "").lower(), scheme)


def _strip_port(host: str, scheme: str) -> str:
    return host.removesuffix(":443" if scheme == "https" else ":80")


def matches(session: Session, brought: str | None) -> bool:
    """Say whether a write brings what the session's pages were given."""
    return brought is not None and hmac.compare_digest(session.csrf.encode(), brought.encode("utf-8", "replace"))


def is_asked_rightly(host: str, address: str | None, names: Collection[str], *, secure: bool) -> bool:
    """Say whether a `Host` field may stand in a request to a local address.

    A page whose host name has been made to lead to this machine would else be one of the door's own for the browser
    (DNS rebinding). With TLS the certificate says no to it. `names` are the hosts that the operator has named.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        local = None if address is None else ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if name in {known.lower() for known in names}:
        return True
    if local is None or secure or (not local.is_loopback and not names):
        return True
    if name == "localhost":
        return local.is_loopback
    try:
        asked = ipaddress.ip_address(name)
    except ValueError:
        return False
    return asked == local or (asked.is_loopback and local.is_loopback)
