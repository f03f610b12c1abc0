"""The device door in memory: real site, real files, a clock that stands still, no sockets and no threads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet import task
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.catalog import Catalog
from ota_server.firmware.digests import DigestStore
from ota_server.firmware.folder import Folder
from ota_server.fleet.ledger import Ledger, sqlite_url
from ota_server.fleet.policy import read_policy
from ota_server.forgetful import Forgetful
from ota_server.keeper import FleetKeeper
from ota_server.web.arrival import Reading
from ota_server.web.channel import DeviceChannel
from ota_server.web.delivery import Deliveries
from ota_server.web.site import DeviceSite
from ota_server.web.tree import DeviceRoot
from tests.web.answers import Answer, read_only_answer

NOW = 1_795_435_200
"""Where the clock stands: some time in November 2026."""

LONG_AGO = 1_700_000_000
"""When the files were last changed, in seconds since 1970."""


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files given by their paths inside a folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (LONG_AGO, LONG_AGO))


def read_folder(folder: Path) -> Catalog:
    """Read a folder whose files have all settled."""
    return Folder(folder, DigestStore(None)).read(time.time() + 3600, 0.0).catalog


class Shelf:
    """Holds a catalog that the test puts there."""

    def __init__(self) -> None:
        self._catalog: Catalog | None = None
        self._waiting: list[Deferred[None]] = []

    @property
    def catalog(self) -> Catalog | None:
        """The newest snapshot, if any."""
        return self._catalog

    def when_ready(self) -> Deferred[None]:
        """Return a Deferred that fires at the first `put`."""
        ready: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(ready)
        return ready

    def put(self, catalog: Catalog) -> None:
        """Put a new snapshot there, and let those that wait go on."""
        self._catalog = catalog
        waiting, self._waiting = self._waiting, []
        for ready in waiting:
            ready.callback(None)


class OwnThreadPool(ThreadPool):
    """Runs everything at once, in the thread that asks for it."""

    def callInThreadWithCallback(
        self, onResult: Callable[[bool, Any], object] | None, func: Callable[..., Any], *args: Any, **kw: Any
    ) -> None:
        """Call a function, and tell what came of it."""
        assert onResult is not None
        try:
            result = func(*args, **kw)
        except Exception:  # noqa: BLE001 - told as the real pool tells it
            onResult(False, Failure())
        else:
            onResult(True, result)


class MemoryReactor(task.Clock):
    """A clock, with the one thing more that results of a thread pool need."""

    def callFromThread(self, function: Callable[..., object], *args: Any, **kw: Any) -> None:
        """Call a function: all are in one thread here."""
        function(*args, **kw)


class FillingTransport(StringTransport):
    """A transport in memory that fills up as those of TCP do; it also keeps the bounds between writes."""

    FULL = 65536
    """More than so many bytes that wait are too many: the producer is paused."""

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "192.0.2.7", 50000))
        self.writes: list[bytes] = []
        self._waiting = 0
        self.paused = False
        self.aborted = False

    def write(self, data: bytes) -> None:
        """Take the bytes of one write, and pause the producer when that are too many."""
        self.writes.append(data)
        super().write(data)
        self._waiting += len(data)
        if self.producer is not None and self._waiting > self.FULL:
            self.paused = True
            self.producer.pauseProducing()

    def abortConnection(self) -> None:
        """Note that the connection was dropped."""
        self.aborted = True
        super().abortConnection()

    def drain(self) -> None:
        """Let what waits leave, and ask the producer for more."""
        self._waiting = 0
        if self.paused and self.producer is not None:
            self.paused = False
            self.producer.resumeProducing()


class MemoryConnection:
    """A connection to the door in memory.

    `unacknowledged` is how many of the bytes written have not arrived, as a kernel would tell; None is one that
    doesn't.
    """

    def __init__(self, site: DeviceSite) -> None:
        self.unacknowledged: int | None = None
        self.transport = FillingTransport()
        channel = site.buildProtocol(self.transport.getPeer())
        assert isinstance(channel, DeviceChannel)
        self.channel = channel
        self.channel.read_progress = self._read_progress  # type: ignore[method-assign]
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

    def lose(self, *, orderly: bool = True) -> None:
        """End the connection, as a network does: by the client's close, or by its reset."""
        if self.transport.producer is not None:
            self.transport.producer.stopProducing()
        self.channel.connectionLost(Failure(ConnectionDone() if orderly else ConnectionLost()))

    def _read_progress(self) -> Reading | None:
        if self.unacknowledged is None:
            return None
        written = len(self.received)
        return Reading(written - self.unacknowledged, written, lasting=True)


class MemoryDoor:
    """The device door of a folder; streaming goes on by one buffer with each turn.

    With a policy it has a memory, too: that of the text of `ota.toml`, with a real ledger in a file; and who may ask
    is as it says.
    """

    def __init__(
        self, test: SynchronousTestCase, files: Mapping[str, bytes], *, read: bool = True, policy: str | None = None
    ) -> None:
        self.folder = Path(test.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        write_files(self.folder, files)
        self.clock = MemoryReactor()
        self.clock.advance(NOW)
        self.shelf = Shelf()
        reactor: Any = self.clock
        self.deliveries = Deliveries(reactor, OwnThreadPool())
        self.keeper: FleetKeeper | None = None
        if policy is not None:
            ledger = Ledger(sqlite_url(self.folder / "ledger.sqlite"))
            rules = read_policy(policy, "ota.toml")
            self.keeper = FleetKeeper(ledger, rules, reactor, OwnThreadPool(), self.clock.seconds)
            self.keeper.startService()
            test.addCleanup(self.keeper.stopService)
        decider = self.keeper or Forgetful()
        self.site = DeviceSite(DeviceRoot(self.shelf, self.deliveries, self.clock, decider), self.clock)
        if policy is not None:
            self.site.take_policy(rules)
        self._connections: list[MemoryConnection] = []
        if read:
            self.read()

    def read(self) -> Catalog:
        """Read the folder, and put what is there on the shelf."""
        catalog = read_folder(self.folder)
        if self.keeper is not None:
            self.keeper.take_catalog(catalog)
        self.shelf.put(catalog)
        return catalog

    def connect(self) -> MemoryConnection:
        """Return a new connection."""
        connection = MemoryConnection(self.site)
        self._connections.append(connection)
        return connection

    def ask(self, path: bytes, *fields: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> Answer:
        """Return the one answer to a request over a connection of its own, streamed to its end."""
        connection = self.connect()
        head = b"".join(b"%s\r\n" % field for field in (b"Host: ota.example", *fields))
        connection.send(b"%s %s %s\r\n%s\r\n" % (method, path, version, head))
        self.turn()
        return read_only_answer(connection.received, method)

    def hang_up(self) -> None:
        """Let all clients close their connections."""
        connections, self._connections = self._connections, []
        for connection in connections:
            connection.lose()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, a second at a time."""
        self.clock.pump([1.0] * int(seconds))

    def turn(self, times: int = 1000) -> None:
        """Let streaming go on by so many buffers at each connection, or to its end."""
        for _ in range(times):
            streaming = [connection for connection in self._connections if connection.transport.paused]
            for connection in streaming:
                connection.transport.drain()
            if not streaming:
                break
