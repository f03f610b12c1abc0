"""The whole server in the reactor that runs the tests, with the operator's door at a real socket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol, serverFromString
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from ota_server.firmware.watch import FolderWatcher
from ota_server.keeper import FleetKeeper
from ota_server.operator.door import DOOR_FILE, OperatorDoor
from ota_server.operator.tokens import TOKEN_FILE
from ota_server.service import ThreadPoolService, make_ota_service
from tests.serving import ServedFolder

ENDPOINT = "tcp:0:interface=127.0.0.1"


class Wire(Protocol):
    """One connection of a client; `ended` fires at its end."""

    def __init__(self) -> None:
        self.data = b""
        self.ended: Deferred[None] = Deferred()
        self._waiting: tuple[int, Deferred[None]] | None = None

    def dataReceived(self, data: bytes) -> None:
        """Keep what comes."""
        self.data += data
        if self._waiting is not None and len(self.data) >= self._waiting[0]:
            self._stop_waiting()

    async def read_up_to(self, size: int, patience: float = 10.0) -> None:
        """Wait until so many bytes have come in all, but no longer than so many seconds."""
        from twisted.internet import reactor

        if len(self.data) >= size or self.ended.called:
            return
        waiting: Deferred[None] = Deferred()
        self._waiting = (size, waiting)
        clock: Any = reactor
        timer = clock.callLater(patience, self._stop_waiting)
        await waiting
        if timer.active():
            timer.cancel()

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            (_, waiting), self._waiting = self._waiting, None
            waiting.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell of the end."""
        self.ended.callback(None)
        self._stop_waiting()


class LiveServer:
    """A served folder with an operator's door, which ends with the test."""

    keeper: FleetKeeper

    def __init__(self, test: TestCase, files: Mapping[str, bytes]) -> None:
        from twisted.internet import reactor

        self._test = test
        self._reactor: Any = reactor
        self._folder = ServedFolder(test, files)
        self._state = self._folder.path / ".ota"

    async def start(self) -> None:
        """Start, and wait until all is read."""
        self._state.mkdir()
        endpoints = [serverFromString(self._reactor, ENDPOINT) for _ in range(2)]
        service = make_ota_service(
            self._folder.path,
            self._state,
            [("the devices' port", endpoints[0])],
            operator=OperatorDoor(ENDPOINT, endpoints[1]),
        )
        service.startService()
        self._test.addCleanup(service.stopService)
        for part in service:
            if isinstance(part, ThreadPoolService):
                for inner in part:
                    if isinstance(inner, FolderWatcher | FleetKeeper):
                        await inner.when_ready()
                    if isinstance(inner, FleetKeeper):
                        self.keeper = inner

    async def connect(self) -> Wire:
        """Return a new connection to the operator's door."""
        url = json.loads((self._state / DOOR_FILE).read_text())["url"]
        port = url.rpartition(":")[2]
        wire: Wire = await connectProtocol(clientFromString(self._reactor, f"tcp:127.0.0.1:{port}"), Wire())
        return wire

    async def ask(self, path: str, **fields: str) -> Wire:
        """Return a connection over which a request went that may be answered for long."""
        wire = await self.connect()
        token = (self._state / TOKEN_FILE).read_text().strip()
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        transport: Any = wire.transport
        transport.write("\r\n".join([*lines, "", ""]).encode("ascii"))
        return wire

    async def get(self, path: str) -> Any:
        """Return the JSON of an answer."""
        wire = await self.ask(path, Connection="close")
        await wire.ended
        head, _, body = wire.data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), wire.data
        return json.loads(body)
