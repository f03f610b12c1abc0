"""One connection of a device: Twisted's HTTP channel, which also notices a download that stands still.

While an answer is under way `HTTPChannel` switches its timeout off, so a device that loses power would hold
its connection until the operating system gives up, after hours. And a keep-alive timeout that ran while a slow
device is still taking the last bytes of an answer would cut it off. Both need to know whether bytes arrive at
the other end, which is what this channel asks the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request

from ota_server.tls.identity import read_subject
from ota_server.web.arrival import Arrival, Reading, count_acknowledged, read_socket

if TYPE_CHECKING:
    from ota_server.web.site import DeviceSite

STALL = 90
"""A connection over which an answer makes no progress for so many seconds is dropped. An ESP may erase its
flash for some of them (70 at the worst)."""

CHECK_INTERVAL = 15
"""How often the progress of an answer is looked at, in seconds."""


class DeviceChannel(HTTPChannel):
    """An HTTP connection with a device."""

    log = Logger()
    abortTimeout = 5
    site: DeviceSite
    transport: Any
    arrival: Arrival | None = None
    """The wait for what was written last, while it is of interest whether that arrives."""
    watched = False
    """Whether it is of interest how far this connection has got when it ends."""
    last_progress: Reading | None = None
    """How far a watched connection had got when it ended, where the operating system tells."""
    challenged = False
    """Whether a token was asked for over this connection."""
    _subject: str | None = None
    _subject_known = False
    _closing = False
    """Whether this end has begun to close the connection."""
    _ended = False
    """Whether the connection has ended."""
    _started = False
    """Whether Twisted's HTTP machinery runs: it holds back a client that doesn't take its answers."""
    _plain = True
    """Whether nothing but plain checks has come in, so that Twisted's parser holds no half of a request."""
    _full = False
    _watching = False
    _progress: tuple[int, int] = (0, 0)
    _progress_since = 0.0

    def connectionMade(self) -> None:
        """Wait for the first request."""
        self.setTimeout(self.timeOut)

    def dataReceived(self, data: bytes) -> None:
        """Answer a plain check at once; leave everything else to Twisted."""
        if self.arrival is not None:
            self.arrival.heard()
        if self._plain:
            if self._closing:
                # There would be no answer to it.
                return
            answer = self.site.answer_check(data, self)
            if answer is not None:
                head, persistent = answer
                if persistent:
                    self._start()
                    self.resetTimeout()
                self.transport.write(head)
                if not persistent:
                    self.loseConnection()
                return
            self._plain = False
            self._start()
        super().dataReceived(data)

    def _start(self) -> None:
        if not self._started:
            self._started = True
            super().connectionMade()

    def read_subject(self) -> str | None:
        """Return the name that the connection's client certificate proves, if any: found once for each connection."""
        if not self._subject_known:
            self._subject_known = True
            # Only TLS has such a thing, and only where the port asked for one there is one.
            ask = getattr(self.transport, "getPeerCertificate", None)
            certificate = None if ask is None else ask()
            if certificate is not None:
                self._subject = read_subject(certificate, self.site.reactor.seconds())
        return self._subject

    def pauseProducing(self) -> None:
        """Note that the client doesn't take what is sent."""
        self._full = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """Note that there is room again."""
        self._full = False
        super().resumeProducing()

    def requestDone(self, request: Request) -> None:
        """Go on with the next request; but read none from a client that takes no answers.

        Twisted's channel stops reading when the transport fills up between requests, not when it does so while
        one is answered.
        """
        super().requestDone(request)
        if self._full and not self.requests and self.persistent:
            self.transport.pauseProducing()

    def loseConnection(self) -> None:
        """Close the connection once everything is written, and drop it if the other end doesn't see to that in time.

        TLS waits for a farewell, which never comes from a device that has lost its power. Twisted's channel has no
        timeout any more at the end of an answer.
        """
        if not (self._closing or self._ended):
            self._closing = True
            self.setTimeout(self.site.timeOut)
        if self._started:
            super().loseConnection()
        else:
            self.transport.loseConnection()

    def watch_progress(self) -> None:
        """Drop the connection from now on when no bytes arrive at the other end for STALL seconds.

        To be called when a long answer begins. It holds until the connection ends, since the last bytes of
        an answer are on their way long after the last of them was written.
        """
        self._watching = True
        self._progress = self._measure()
        self._progress_since = self.site.reactor.seconds()
        self.setTimeout(CHECK_INTERVAL)

    def resetTimeout(self) -> None:
        """Take what a client sends for a sign of life, but not while it should be taking an answer."""
        if not (self._watching and self.requests):
            super().resetTimeout()

    def timeoutConnection(self) -> None:
        """Close a connection that is silent, or whose answer stands still; let a slow one go on."""
        if self._watching:
            now = self.site.reactor.seconds()
            progress = self._measure()
            if progress != self._progress:
                self._progress, self._progress_since = progress, now
            if now - self._progress_since < STALL:
                self.setTimeout(CHECK_INTERVAL)
                return
            if self.requests:
                self.log.info("{peer} took nothing for {seconds} s: dropped", peer=self.getPeer(), seconds=STALL)
                self.transport.abortConnection()
                return
        if self._closing:
            self.forceAbortClient()
        else:
            super().timeoutConnection()

    def _measure(self) -> tuple[int, int]:
        """Return two numbers that grow while an answer makes progress: bytes written, and bytes that arrived.

        The second stays 0 where the operating system doesn't tell.
        """
        written = self.requests[0].sentLength if self.requests else 0
        return written, count_acknowledged(self.transport) or 0

    def await_arrival(self, judged: Callable[[bool], None], go_on: Callable[[], None]) -> None:
        """Wait until all that was written so far has arrived at the other end; see Arrival.

        To be called when an answer is written and before its request is finished: `go_on` is to finish it. A
        connection that stands still meanwhile is dropped as in the middle of an answer.
        """
        self.arrival = Arrival(self, judged, go_on)
        self.arrival.begin()

    def read_progress(self) -> Reading | None:
        """Ask how far this connection has got; None where the operating system doesn't tell."""
        return read_socket(self.transport)

    def stopProducing(self) -> None:
        """Note how far a watched connection has got: it ends, and its socket is still open for this moment."""
        if self.watched:
            self.last_progress = self.read_progress()
        super().stopProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Judge whether the last answer has arrived, then tell those that wait for its end."""
        self._ended = True
        if self.arrival is not None:
            self.arrival.lost(self.last_progress, reason)
        super().connectionLost(reason)

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Answer what is no HTTP request as Twisted does, but with a length, which some clients divide by."""
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self.loseConnection()
