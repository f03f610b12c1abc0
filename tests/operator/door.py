"""The operator's door in memory: the real site, a clock that stands still, no sockets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ISSLTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from ota_server.operator.calls import Operation
from ota_server.operator.channel import OperatorChannel
from ota_server.operator.scopes import EVERYTHING, Scope
from ota_server.operator.site import OperatorSite, make_operator_site
from ota_server.operator.tokens import Token, Tokens, hash_token
from tests.web.answers import Answer, read_only_answer
from tests.web.memory import NOW, FillingTransport, MemoryReactor

TOKEN = b"operator-token-0123456789abcdefgh"
READER = b"reading-token-0123456789abcdefghi"


def make_token(name: str, token: bytes, scopes: Iterable[Scope] = EVERYTHING) -> Token:
    """Return a token of this name."""
    return Token(name, hash_token(token), frozenset(scopes), NOW)


def bearer(token: bytes = TOKEN) -> bytes:
    """Return the header field that brings a token."""
    return b"Authorization: Bearer " + token


class OperatorTransport(FillingTransport):
    """A transport in memory that can be paused by its reader, and half closed."""

    def __init__(self, *, secure: bool = False) -> None:
        super().__init__()
        self.hostAddr = IPv4Address("TCP", "127.0.0.1", 8001)
        self.half_closed = False
        if secure:
            directlyProvides(self, ISSLTransport)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Take several pieces as one write, as chunks come."""
        self.write(b"".join(data))

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Take note of nothing."""

    def loseWriteConnection(self) -> None:
        """Note that nothing more is sent."""
        self.half_closed = True


class OperatorConnection:
    """A connection to the door in memory."""

    def __init__(self, site: OperatorSite, *, secure: bool = False) -> None:
        self.transport = OperatorTransport(secure=secure)
        channel = site.buildProtocol(self.transport.getPeer())
        assert isinstance(channel, OperatorChannel)
        self.channel = channel
        channel.makeConnection(self.transport)

    def send(self, *segments: bytes) -> None:
        """Let bytes arrive, segment by segment, for as long as the server takes any."""
        for segment in segments:
            if not self.transport.disconnecting:
                self.channel.dataReceived(segment)

    @property
    def received(self) -> bytes:
        """All that the server sent."""
        data: bytes = self.transport.value()
        return data

    @property
    def reading(self) -> bool:
        """Whether the server reads what the client sends."""
        return bool(self.transport.producerState == "producing")

    def lose(self) -> None:
        """End the connection, as a client does."""
        self.channel.connectionLost(Failure(ConnectionDone()))


class OperatorDoor:
    """The door with some operations, and two tokens: TOKEN allows everything, READER to read.

    `secure` says that its connections are those of TLS.
    """

    def __init__(
        self,
        test: SynchronousTestCase,
        operations: Sequence[Operation] = (),
        *,
        secure: bool = False,
        tokens: Tokens | None = None,
    ) -> None:
        self._secure = secure
        self.clock = MemoryReactor()
        self.clock.advance(NOW)
        self.tokens = Tokens() if tokens is None else tokens
        self.tokens.add(make_token("admin", TOKEN))
        self.tokens.add(make_token("reader", READER, [Scope.READ]))
        self.site = make_operator_site(operations, self.tokens, self.clock, self.clock.seconds)
        self._connections: list[OperatorConnection] = []
        test.addCleanup(self.hang_up)

    def connect(self) -> OperatorConnection:
        """Return a new connection."""
        connection = OperatorConnection(self.site, secure=self._secure)
        self._connections.append(connection)
        return connection

    def ask(
        self, method: bytes, path: bytes, *fields: bytes, body: bytes = b"", host: bytes = b"127.0.0.1:8001"
    ) -> Answer:
        """Return the one answer to a request over a connection of its own."""
        connection = self.connect()
        if body:
            fields = (*fields, b"Content-Length: %d" % len(body))
        connection.send(make_head(method, path, *fields, host=host) + body)
        return read_only_answer(connection.received, method)

    def get(self, path: bytes, token: bytes = TOKEN) -> Any:
        """Return the JSON of an answer of 200."""
        answer = self.ask(b"GET", path, bearer(token))
        assert answer.code == 200, answer
        return json.loads(answer.body)

    def hang_up(self) -> None:
        """Let all clients close their connections."""
        connections, self._connections = self._connections, []
        for connection in connections:
            connection.lose()


def make_head(method: bytes, path: bytes, *fields: bytes, host: bytes = b"127.0.0.1:8001") -> bytes:
    """Return the head of a request."""
    return b"\r\n".join((b"%s %s HTTP/1.1" % (method, path), b"Host: " + host, *fields, b"", b""))


def read_problem(answer: Answer) -> tuple[int, str]:
    """Return the status and the kind of a problem, whose form is checked."""
    assert answer.get(b"Content-Type") == b"application/problem+json", answer
    problem = json.loads(answer.body)
    assert problem["status"] == answer.code, problem
    kind: str = problem["type"].removeprefix("/problems/")
    return answer.code, kind
