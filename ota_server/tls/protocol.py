"""The TLS side of one connection: Twisted's, without work that made a sixth of what a check costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IProtocol

    from ota_server.tls.creator import DeviceTls


@implementer(IPushProducer)
class DeviceTlsProtocol(TLSMemoryBIOProtocol):
    """The TLS side of one connection with a device, which begins with the client's hello.

    Answers are written in one piece here, so that Twisted's buffer for many small writes isn't needed. That it can be
    paused, which its base hands on to the transport, is what HTTP asks before it lets itself be paused: without this
    an image would be written whole, however little of it the device takes.
    """

    def __init__(self, factory: TLSMemoryBIOFactory, wrapped: IProtocol, tls: DeviceTls) -> None:
        super().__init__(factory, wrapped)
        self._tls = tls

    def makeConnection(self, transport: Any) -> None:
        """Begin.

        In the place of Twisted's, which declares for each connection which interfaces its transport provides:
        zope.interface computes these declarations anew each time; what is asked for is declared above. Nor is there
        anything to shake hands about yet.
        """
        no_delay = getattr(transport, "setTcpNoDelay", None)
        if no_delay is not None:
            # HTTP would ask for it where it sees TCP. UNIX sockets have no delay.
            no_delay(True)
        self._tls.expect(transport.getPeer())
        self._tlsConnection = self._tls.serverConnectionForTLS(self)
        self._tlsConnection.set_accept_state()
        self._appSendBuffer: list[bytes] = []
        Protocol.makeConnection(self, transport)
        self.factory.registerProtocol(self)
        self.wrappedProtocol.makeConnection(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End.

        Where this side closed the connection, all that came in has been read, and there is nothing to be said any
        more: OpenSSL need not be asked for either.
        """
        if self.disconnecting:
            self._lostTLSConnection = True
        super().connectionLost(reason)
