"""One connection at the operator's door: Twisted's HTTP channel, which asks the request before its body is read.

Twisted reads a whole body, and says `100 Continue` to it, before anybody is asked. Here the head decides: a body that
nobody may send, or that is too large, isn't read, and yet the client gets to see the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request

if TYPE_CHECKING:
    from ota_server.operator.request import OperatorRequest
    from ota_server.operator.site import OperatorSite

HEAD_TIME = 20.0
"""The head of a request has to be whole so many seconds after its first byte."""

BODY_TIME = 30.0
"""A body that isn't a stream has to be whole after so many seconds."""

STREAM_TIME = 3600.0
"""One that is a stream, after so many."""

LAST_TIME = 60.0
"""The last answer over a connection has to be taken within so many seconds."""

LINGER = 5.0
"""How long a connection is kept, in seconds, for a client that still sends what nobody reads."""

LINGER_BYTES = 64 * 1024 * 1024
"""How much of that is taken, at the most."""


class OperatorChannel(HTTPChannel):
    """An HTTP connection with an operator's program or browser."""

    maxHeaders = 100
    abortTimeout = 5
    site: OperatorSite
    requests: list[OperatorRequest]
    transport: Any
    _deadline: IDelayedCall | None = None
    _awaits_head = True
    _held = False
    _lingering = 0

    def connectionMade(self) -> None:
        """Wait for the first request, but not for long."""
        super().connectionMade()
        self.site.channels.add(self)

    def dataReceived(self, data: bytes) -> None:
        """Take what comes; after an early answer it is thrown away."""
        if self._lingering:
            self._lingering += len(data)
            if self._lingering > LINGER_BYTES:
                self.transport.abortConnection()
            return
        if self._awaits_head and self._deadline is None:
            self.set_deadline(HEAD_TIME)
        super().dataReceived(data)

    def set_deadline(self, seconds: float | None) -> None:
        """Drop the connection after so many seconds, however lively it is; None for never."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if seconds is not None:
            self._deadline = self.callLater(seconds, self._expire)

    def _expire(self) -> None:
        self._deadline = None
        self.transport.abortConnection()

    def allHeadersReceived(self) -> None:
        """Let the request decide on its body."""
        request = self.requests[-1]
        self.persistent = self.checkPersistence(request, self._version)
        self._awaits_head = False
        self.set_deadline(BODY_TIME)
        request.judge(self._command, self._path, self._version, self.length)

    def allContentReceived(self) -> None:
        """Note that the request is whole."""
        if self._lingering:
            return
        self.set_deadline(None)
        super().allContentReceived()

    def requestDone(self, request: Request) -> None:
        """Go on with the next request."""
        self._awaits_head = True
        self._savedTimeOut = self.site.timeOut
        super().requestDone(request)
        if not self.persistent:
            self.set_deadline(LAST_TIME)

    def rawDataReceived(self, data: bytes) -> None:
        """Pass on what comes of a body, unless it has been answered meanwhile."""
        if not self._lingering:
            super().rawDataReceived(data)

    def send_continue(self) -> None:
        """Say that the body is wanted (RFC 9110, section 10.1.1)."""
        self._send100Continue()

    def hold(self) -> None:
        """Read nothing more from the client for now."""
        if not self._held:
            self._held = True
            self.setTimeout(None)
            self._networkProducer.pauseProducing()

    def release(self) -> None:
        """Read on."""
        if self._held:
            self._held = False
            if not self._handlingRequest:
                # It isn't in `timeOut` any more: there it has been switched off.
                self.setTimeout(self.site.timeOut)
            self._networkProducer.resumeProducing()

    def resumeProducing(self) -> None:
        """Note that what was written has left; a client that is held stays so."""
        super().resumeProducing()
        if self._held:
            self._networkProducer.pauseProducing()

    def linger(self) -> None:
        """Close the connection after an answer that came before the end of the body, so that the client sees it.

        Closed at once, with bytes of the client unread, the system would reset the connection, and what the client
        has not read of the answer would be lost (RFC 9112, section 9.6).
        """
        self._lingering = 1
        self.persistent = False
        self.release()
        self.setTimeout(None)
        self.set_deadline(LINGER)
        half_close = getattr(self.transport, "loseWriteConnection", None)
        if half_close is not None and not self.isSecure():
            half_close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the requests."""
        self.set_deadline(None)
        self.site.channels.discard(self)
        super().connectionLost(reason)

    def headerReceived(self, line: bytes) -> bool:
        """Take a header field; a length of thousands of digits is none, which Twisted leaves to Python to say."""
        try:
            return bool(super().headerReceived(line))
        except ValueError:
            self._respondToBadRequestAndDisconnect()
            return False

    def lineLengthExceeded(self, line: bytes) -> None:
        """Answer a line that is too long, too."""
        self._respondToBadRequestAndDisconnect()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Answer what is no HTTP request as Twisted does, but with a length."""
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self.loseConnection()
