"""The HTTP server at the operator's door."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.web.http import HTTPFactory, Request

from ota_server.operator.calls import Operation
from ota_server.operator.channel import OperatorChannel
from ota_server.operator.openapi import make_description
from ota_server.operator.pages import LogIn, Visitor
from ota_server.operator.request import OperatorRequest
from ota_server.operator.routing import Router
from ota_server.operator.sessions import Sessions
from ota_server.operator.token_calls import SESSION
from ota_server.operator.tokens import Token, Tokens
from ota_server.web.slowing import Slowdown

IDLE_TIME = 60
"""A connection that is silent for so many seconds is closed."""


class OperatorSite(HTTPFactory):
    """The HTTP server at the operator's door.

    `seconds` tells the time in seconds since 1970. `hosts` are further names by which browsers may ask it.
    """

    protocol: Any = OperatorChannel
    noisy = False

    def __init__(
        self,
        operations: Sequence[Operation],
        tokens: Tokens,
        reactor: IReactorTime,
        seconds: Callable[[], float],
        hosts: Sequence[str] = (),
    ) -> None:
        super().__init__(timeout=IDLE_TIME, reactor=reactor)
        self.router = Router(operations)
        self.tokens = tokens
        self.hosts = frozenset(hosts)
        self.sessions = Sessions(tokens.holds)
        self.pages: dict[str, Mapping[str, Visitor]] = dict(LogIn(self.sessions).pages)
        self.slowdown = Slowdown()
        self.seconds = seconds
        self.channels: set[OperatorChannel] = set()
        tokens.removed = self._break_off

    def buildProtocol(self, address: Any) -> Any:
        """Make the channel of a connection."""
        channel = super().buildProtocol(address)
        assert isinstance(channel, OperatorChannel)
        channel.site = self
        channel.requestFactory = OperatorRequest
        return channel

    def _break_off(self, token: Token) -> None:
        """Break off what goes on by a token that isn't taken any longer."""
        for channel in tuple(self.channels):
            if any(request.lasts_by(token) for request in channel.requests):
                channel.transport.abortConnection()

    def close(self) -> None:
        """Break off all connections."""
        for channel in tuple(self.channels):
            channel.transport.abortConnection()

    def log(self, request: Request) -> None:
        """Write no access log: what operators do is in the ledger."""

    def startFactory(self) -> None:
        """Open no access log."""

    def stopFactory(self) -> None:
        """Close no access log."""


def make_operator_site(
    operations: Sequence[Operation],
    tokens: Tokens,
    reactor: IReactorTime,
    seconds: Callable[[], float],
    hosts: Sequence[str] = (),
) -> OperatorSite:
    """Return the site that serves these operations, and their description. Raises ValueError where two collide."""
    whole = [*operations, SESSION]
    return OperatorSite([*whole, make_description(whole)], tokens, reactor, seconds, hosts)
