"""Session resumption for Twisted's own endpoint strings `ssl:`, which come without."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.ssl import CertificateOptions


class ResumingReactor:
    """A reactor whose ports with TLS resume sessions by their ids; in all else the one that it is given.

    Twisted switches that off where nobody asks for it, and its endpoint strings have no word to ask. Tickets stay
    off; under TLS 1.3 a ticket holds an id then, so that both versions resume.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenSSL(
        self, port: int, factory: IProtocolFactory, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """Listen with TLS, as IReactorSSL says."""
        if isinstance(contextFactory, CertificateOptions):
            contextFactory.enableSessions = True
            # As in context.py.
            contextFactory.getContext().set_options(SSL.OP_IGNORE_UNEXPECTED_EOF)
        listening: IListeningPort = self._reactor.listenSSL(port, factory, contextFactory, backlog, interface)
        return listening
