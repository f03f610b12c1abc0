"""Who is let in at the operator's door, and for what: decided by the head of a request alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from ota_server.fleet.access import read_token
from ota_server.operator.calls import MAX_BODY, Call, Operation, Problem
from ota_server.operator.pages import MAX_FORM, Visit, Visitor, check_origin, check_session_write
from ota_server.operator.problems import token_needed, token_wrong, too_large, unknown_address, wrong_method
from ota_server.operator.routing import read_fields, read_path, read_values
from ota_server.operator.sessions import Session, cookie_name, is_asked_rightly, read_cookie
from ota_server.operator.tokens import Token

if TYPE_CHECKING:
    from ota_server.operator.site import OperatorSite

_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(/.*)", re.IGNORECASE)


@attrs.frozen
class Head:
    """The head of a request, and what is known of its connection.

    `length` is that of the body in bytes, None for chunks. `network` is who is slowed down as one. `address` and `port`
    are the server's own ones, None for what has none.
    """

    method: str
    uri: bytes = attrs.field(repr=False)
    version: bytes
    fields: Mapping[bytes, Sequence[bytes]] = attrs.field(repr=False)
    length: int | None
    network: str
    address: str | None
    port: int | None
    secure: bool


@attrs.frozen
class CallPlan:
    """What is to come of a request for an operation: its call, but for a body of at most `limit` bytes."""

    operation: Operation
    call: Call
    limit: int
    token: Token

    @property
    def streams(self) -> bool:
        """Whether the body is taken as it comes."""
        return self.operation.receive is not None


@attrs.frozen
class VisitPlan:
    """The same where it is for a page."""

    answer: Visitor
    visit: Visit
    limit: int
    streams = False


class Entry:
    """Judges one request."""

    def __init__(self, site: OperatorSite, head: Head) -> None:
        self.delay = 0.0
        """After how many seconds a wrong token is to be told; `release` has to be called then, if it isn't 0."""
        self._site = site
        self._head = head
        self._headers = read_fields(head.fields.items())
        self._uri = head.uri
        absolute = _ABSOLUTE.fullmatch(head.uri)
        if absolute is not None:
            # As proxies ask (RFC 9112, section 3.2.2): what stands there counts more than the Host field.
            host, self._uri = absolute.groups()
            self._headers = {**self._headers, "host": host.decode("latin-1")}

    def decide(self) -> CallPlan | VisitPlan:
        """Return what is to be done. Raises Problem."""
        raw, _, query = self._uri.partition(b"?")
        path = read_path(raw)
        self._check_host()
        session = self._find_session()
        if not self._site.router.leads_to_api(path):
            return self._decide_visit(path, session)
        token = self._authenticate(session)
        operation, in_path = self._site.router.find(self._head.method, path)
        if operation.scope is not None and operation.scope not in token.scopes:
            raise Problem(
                403,
                "wrong-scope",
                "This token doesn't allow that",
                f"it allows {', '.join(sorted(token.scopes)) or 'nothing'}, and this needs {operation.scope}",
                needs=operation.scope,
            )
        # A token that is brought counts more than a session.
        by_session = session if "authorization" not in self._headers else None
        if operation.method != "GET":
            check_origin(self._headers, secure=self._head.secure)
            if by_session is not None:
                brought = self._headers.get("x-csrf-token")
                check_session_write(by_session, self._headers, brought, secure=self._head.secure)
        values = read_values(operation, in_path, query, self._headers)
        limit = operation.max_body if operation.receive is not None else MAX_BODY
        self._check_length(limit)
        csrf_token = None if by_session is None else by_session.csrf
        call = Call(token.operator, values, now=self._site.seconds(), length=self._head.length, csrf_token=csrf_token)
        return CallPlan(operation, call, limit, token)

    def _decide_visit(self, path: str, session: Session | None) -> VisitPlan:
        """Return which page is to be shown. Raises Problem."""
        head = self._head
        visitors = self._site.pages.get(path)
        if visitors is None:
            raise unknown_address()
        method = "GET" if head.method == "HEAD" else head.method
        if method not in visitors:
            raise wrong_method({*visitors, *(["HEAD"] if "GET" in visitors else [])})
        limit = MAX_FORM if method == "POST" else 0
        self._check_length(limit)
        visit = Visit(self._headers, {}, session, self._cookie_name, head.secure, self._site.reactor.seconds())
        return VisitPlan(visitors[method], visit, limit)

    def _check_length(self, limit: int) -> None:
        if self._head.length is not None and self._head.length > limit:
            raise too_large(limit)

    def _check_host(self) -> None:
        """Check that the browser asked for this server, and not for another. Raises Problem."""
        hosts = self._head.fields.get(b"Host", ())
        if len(hosts) != 1:
            if self._head.version == b"HTTP/1.0" and not hosts:
                return
            raise Problem(400, "bad-host", "There has to be one Host field", "as in: Host: localhost:8001")
        if not is_asked_rightly(self._headers["host"], self._head.address, self._site.hosts, secure=self._head.secure):
            raise Problem(
                421,
                "wrong-host",
                "That is another host",
                "ask for localhost or 127.0.0.1, or start the server with --admin-host NAME",
            )

    @property
    def _cookie_name(self) -> str:
        return cookie_name(self._head.port, secure=self._head.secure)

    def _find_session(self) -> Session | None:
        """Return the session of the browser, if it has one."""
        cookies = "; ".join(field.decode("latin-1") for field in self._head.fields.get(b"Cookie", ()))
        identity = read_cookie(cookies, self._cookie_name)
        return None if not identity else self._site.sessions.find(identity, self._site.reactor.seconds())

    def _authenticate(self, session: Session | None) -> Token:
        """Return the token that the request brings, or that the session began with. Raises Problem."""
        brought = read_token(self._head.fields, b"")
        if brought is None:
            if session is None:
                raise token_needed()
            self._site.tokens.note_use(session.token, self._site.seconds())
            return session.token
        token = self.try_token(brought)
        if token is None:
            raise token_wrong()
        return token

    def try_token(self, brought: bytes) -> Token | None:
        """Return the token that was brought, None for a wrong one; see `delay`. Raises Problem where too many wait."""
        now = self._site.reactor.seconds()
        token = self._site.tokens.find(brought, self._site.seconds()) if brought else None
        if token is not None:
            self._site.slowdown.forgive(self._head.network, now)
            return token
        delay = self._site.slowdown.refuse(self._head.network, now)
        if delay is None:
            raise Problem(429, "too-many-tries", "There were too many wrong tokens", "wait some seconds")
        self.delay = delay
        return None

    def release(self) -> None:
        """Note that the answer waits no more."""
        self._site.slowdown.release(self._head.network)
