"""The site that devices talk to: Twisted's HTTP server, with what a check doesn't need left out.

A check is answered some hundred times for each download, so the request class here skips what `twisted.web`
does for browsers (cookies, query arguments, bodies, pages), and writes its answers' heads in one piece.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.http import NOT_MODIFIED, RESPONSES, datetimeToString
from twisted.web.resource import IResource

from ota_server.fleet.access import Refusal, strip_token
from ota_server.fleet.policy import DEFAULT_POLICY, Policy
from ota_server.web.channel import DeviceChannel
from ota_server.web.gate import Gate
from ota_server.web.quick import read_head

if TYPE_CHECKING:
    from ota_server.web.tree import DeviceRoot

SILENCE = 30
"""A connection without a request is closed after so many seconds."""

SERVER = b"ota"
"""What the server calls itself: short, and no version, which would help nobody but an attacker."""

MAX_HEAD = 400
"""The longest head of an answer, in bytes: ESP-IDF reads heads into 512 bytes, nRF91 wants all in 2 kB."""

_MAX_HEADS = 1000

_SLASHES = re.compile(rb"/{2,}")
_ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)


class _NoContent:
    """The content of a request, which no resource here reads: nothing is kept, whatever a client sends."""

    def write(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        pass


_NO_CONTENT = _NoContent()

Fields = tuple[tuple[bytes, bytes], ...]
"""Header fields of an answer, as (name, value)."""


def join_fields(fields: Fields) -> bytes:
    """Write header fields as they go over the wire."""
    return b"".join([b"%s: %s\r\n" % field for field in fields])


class DeviceRequest(server.Request):
    """One request of a device."""

    defaultContentType = b"text/plain"
    channel: DeviceChannel
    site: DeviceSite
    gone = False
    """Whether the connection has ended before the answer."""
    proven: str | None = None
    """The id of the device, where a token or a certificate proves it."""
    brought: bytes | None = None
    """The query as it came, once the gate has taken the token out of it."""

    def __repr__(self) -> str:
        """Show the request without what stands behind the question mark, which may be a secret."""
        return f"<{type(self).__name__} {self.method!r} {getattr(self, 'path', None)!r}>"

    def connectionLost(self, reason: Failure) -> None:
        """Note that nobody waits for the answer any more."""
        self.gone = True
        super().connectionLost(reason)

    def break_off(self) -> None:
        """End the answer and the connection at once, which every client takes for a failed download."""
        if not (self.gone or self.finished):
            self.channel.transport.abortConnection()

    def fail(self, reason: Failure) -> None:
        """End the request after a failure, which is of no interest once the client has gone. For an errback."""
        if not self.gone:
            self.processingFailed(reason)

    def parseCookies(self) -> None:
        """Skip cookies: devices have none."""

    def gotLength(self, length: int | None) -> None:
        """Provide no room for a body: nothing that devices ask for has one."""
        self.content = _NO_CONTENT

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Take the request line apart and process the request."""
        self.method, self.uri, self.clientproto = command, path, version
        if not path.startswith(b"/"):
            # Proxies send the absolute form (RFC 9112, section 3.2.2).
            path = _ABSOLUTE.sub(b"", path, count=1) or b"/"
            if not path.startswith(b"/"):
                self.args = {}
                self.site = self.channel.site
                self.respond(http.BAD_REQUEST, b"", b"that is no path\n")
                return
        path, _, self.query = path.partition(b"?")
        if b"//" in path:
            path = _SLASHES.sub(b"/", path)
        self.path = path.rstrip(b"/") or b"/"
        self.args = {}
        self.process()

    def process(self) -> None:
        """Find the resource and let it answer; a failure is answered with 500, without a word of its inside."""
        self.site = self.channel.site
        gate = self.site.gate
        if gate is not None and not gate.admit(self):
            return
        self.prepath = []
        self.postpath = [unquote_to_bytes(part) if b"%" in part else part for part in self.path[1:].split(b"/")]
        try:
            self.render(self.site.getResourceFor(self))
        except Exception:  # noqa: BLE001 - whatever it is, the other devices are served on
            self.processingFailed(Failure())

    def render(self, resrc: IResource) -> None:
        """Let a resource answer: it calls `respond` itself, now or later."""
        if self.method not in (b"GET", b"HEAD"):
            self.respond(http.NOT_ALLOWED, b"Allow: GET, HEAD\r\n", b"only GET and HEAD work here\n")
            return
        resrc.render(self)

    def processingFailed(self, reason: Failure) -> Failure:
        """Log a failure, and answer 500 if nothing was answered yet; otherwise end the connection."""
        self.site.logger.failure("a request failed: {method!r} {path!r}", reason, method=self.method, path=self.path)
        if self.startedWriting:
            self.loseConnection()
        else:
            self.respond(http.INTERNAL_SERVER_ERROR, b"", b"the server failed\n")
        return reason

    def head(self, code: int, fields: bytes, length: int) -> bytes:
        """Return the head of an answer: status line, fields that all have, the given fields, in wire form.

        `length` is that of the body in bytes.
        """
        version = b"HTTP/1.0" if self.clientproto == b"HTTP/1.0" else b"HTTP/1.1"
        return self.site.make_head(version, bool(self.channel.persistent), code, fields, length)

    def begin(self, code: int, head: bytes, data: bytes = b"") -> None:
        """Send the head of an answer, with the first bytes of the body in the same write."""
        self.startedWriting = 1
        self.code = code
        self.sentLength += len(data)
        self.channel.write(head + data)

    def respond(self, code: int, fields: bytes = b"", body: bytes = b"") -> None:
        """Send a whole answer, with header fields in wire form."""
        if body:
            fields += b"Content-Type: text/plain\r\n"
        self.begin(code, self.head(code, fields, len(body)), b"" if self.method == b"HEAD" else body)
        self.finish()


class DeviceSite(server.Site):
    """The HTTP server at the device door; `silence` is SILENCE, but for tests.

    `asks_for_certificates` says whether connections may come with a client certificate that was checked.
    """

    requestFactory = DeviceRequest
    protocol: Any = DeviceChannel
    noisy = False
    resource: DeviceRoot
    log_decisions = False
    """Whether decisions are logged at info: where that isn't written, making the events costs too much."""
    gate: Gate | None = None
    """What judges each request; None while all may ask and nobody can prove anything."""
    logger = Logger()

    def __init__(
        self,
        resource: DeviceRoot,
        reactor: IReactorTime,
        *,
        silence: float = SILENCE,
        asks_for_certificates: bool = False,
    ) -> None:
        super().__init__(resource, timeout=silence, reactor=reactor, parsePOSTFormSubmission=False)
        self._asks_for_certificates = asks_for_certificates
        self._gate = Gate(reactor)
        self.take_policy(DEFAULT_POLICY)
        self._heads: dict[tuple[bytes, bool, bytes, bytes], bytes] = {}
        self._date = b""
        self._date_of = -1

    def take_policy(self, policy: Policy) -> None:
        """Let in who may come by a policy, from the next request on."""
        self._gate.access = policy.access
        self.gate = self._gate if policy.access.closed or self._asks_for_certificates else None

    def log(self, request: http.Request) -> None:
        """Write no access log: decisions and downloads are logged where they are made."""

    def startFactory(self) -> None:
        """Open no access log."""

    def stopFactory(self) -> None:
        """Close no access log."""

    def answer_check(self, data: bytes, channel: DeviceChannel) -> tuple[bytes, bool] | None:
        """Answer what came first over a connection, or after nothing but such, if it is a plain check.

        Returns the answer in wire form, and whether the connection is to stay. None where the request is of
        another kind, or where its answer is more than a head.
        """
        request = read_head(data)
        if request is None:
            return None
        try:
            resource = self.resource.find_firmware(request.path)
            if resource is None:
                return None
            query, proven = request.query, None
            gate = self.gate
            if gate is not None:
                verdict = gate.judge(request.headers, query, channel)
                if isinstance(verdict, Refusal):
                    return None
                query, proven = strip_token(query), verdict
            fields = resource.answer_check(request.headers, query, channel.getPeer(), self.log_decisions, proven)
        except Exception:  # noqa: BLE001 - it fails once more on the long way, where the client is told
            return None
        if fields is None:
            return None
        # The same few heads go out again and again within a second.
        key = (request.version, request.persistent, fields, self.date())
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) > _MAX_HEADS:
                self._heads.clear()
            head = self._heads[key] = self.make_head(request.version, request.persistent, NOT_MODIFIED, fields, 0)
        return head, request.persistent

    def make_head(self, version: bytes, persistent: bool, code: int, fields: bytes, length: int) -> bytes:
        """Return the head of an answer; see DeviceRequest.head."""
        connection = b"" if persistent or version == b"HTTP/1.0" else b"Connection: close\r\n"
        return b"%s %d %s\r\nServer: %s\r\nDate: %s\r\n%s%sContent-Length: %d\r\n\r\n" % (
            version,
            code,
            RESPONSES[code],
            SERVER,
            self.date(),
            connection,
            fields,
            length,
        )

    def date(self) -> bytes:
        """Return the value of the `Date` field, made anew once a second."""
        now = int(self.reactor.seconds())
        if now != self._date_of:
            self._date_of = now
            self._date = datetimeToString(now)
        return self._date
