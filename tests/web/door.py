"""The device door over real TCP: all parts are the server's own, in the reactor that runs the tests."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    connectProtocol,
    serverFromString,
)
from twisted.internet.interfaces import IAddress, IReactorTime, IStreamServerEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock, deferLater
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from ota_server.doors import DoorService
from ota_server.firmware.catalog import Catalog
from ota_server.firmware.digests import DigestStore
from ota_server.firmware.folder import Folder
from ota_server.firmware.watch import FolderWatcher
from ota_server.forgetful import Forgetful
from ota_server.service import DeliveryService, ThreadPoolService
from ota_server.web.channel import DeviceChannel
from ota_server.web.delivery import Deliveries
from ota_server.web.site import DeviceSite
from ota_server.web.tree import DeviceRoot
from tests.web.memory import write_files

reactor: Any = global_reactor


def turn() -> Deferred[None]:
    """Return a Deferred that fires in the reactor's next turn."""
    return deferLater(reactor, 0, lambda: None)


async def until(condition: Callable[[], object]) -> None:
    """Let the reactor run until a condition holds; the test's time limit ends what never comes."""
    while not condition():
        await turn()


class Connection(Protocol):
    """A client's end of a connection, which keeps what arrives as it arrived."""

    def __init__(self) -> None:
        self.segments: list[bytes] = []
        self.ended = False
        self._changed: list[Deferred[None]] = []

    @property
    def received(self) -> bytes:
        """All that has arrived."""
        return b"".join(self.segments)

    def send(self, data: bytes) -> None:
        """Send bytes as one segment."""
        assert self.transport is not None
        self.transport.write(data)

    def close(self) -> None:
        """Close the connection at once, as a device does that resets."""
        transport: Any = self.transport
        transport.abortConnection()

    async def until(self, condition: Callable[[bytes], object]) -> bytes:
        """Wait until what has arrived fulfils a condition, and return it; EOFError where the end comes before."""
        while not condition(self.received):
            if self.ended:
                raise EOFError(f"the connection ended after {self.received[:400]!r}")
            await self._change()
        return self.received

    async def until_end(self) -> bytes:
        """Wait until the server has ended the connection, and return all that arrived."""
        while not self.ended:
            await self._change()
        return self.received

    def _change(self) -> Awaitable[None]:
        changed: Deferred[None] = Deferred()
        self._changed.append(changed)
        return changed

    def dataReceived(self, data: bytes) -> None:
        """Keep a segment: what one call of recv gave."""
        self.segments.append(data)
        self._tell()

    def connectionLost(self, reason: Failure = Failure(EOFError())) -> None:  # noqa: B008
        """Note the end."""
        self.ended = True
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, []
        for waiting in changed:
            waiting.callback(None)


class KnowingSite(DeviceSite):
    """A site that knows its connections."""

    def __init__(self, resource: DeviceRoot, clock: IReactorTime) -> None:
        super().__init__(resource, clock)
        self.channels: list[DeviceChannel] = []

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make the channel of a new connection."""
        channel: Any = super().buildProtocol(addr)
        self.channels.append(channel)
        return channel

    @property
    def open(self) -> list[DeviceChannel]:
        """The channels that are connected."""
        return [channel for channel in self.channels if _is_connected(channel)]


def _is_connected(channel: DeviceChannel) -> bool:
    transport = channel.transport
    while isinstance(transport, ProtocolWrapper):  # some of these never say that it has ended
        transport = transport.transport
    return bool(transport.connected)


class FilesReactor(Clock):
    """The reactor with a time of its own."""

    def callFromThread(self, function: Callable[..., object], *args: Any, **kw: Any) -> None:
        """Call a function in the reactor's thread, soon."""
        reactor.callFromThread(function, *args, **kw)


class Door:
    """The server of a folder at a port of its own; ends with the test.

    `clock` is the time of the site where it isn't the reactor's. `openers` is the number of threads that open
    images, `files` the time by which these are closed. Files count as settled at once.
    """

    def __init__(
        self,
        test: TestCase,
        files: Mapping[str, bytes],
        *,
        clock: IReactorTime | None = None,
        openers: int = 4,
        folder: Callable[[Path, DigestStore], Folder] = Folder,
    ) -> None:
        self.folder = Path(test.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        write_files(self.folder, files)
        self._published: list[Deferred[None]] = []
        readers = ThreadPoolService("folder", 1)
        self.openers = ThreadPoolService("images", openers)
        self.files = FilesReactor()
        self.watcher = FolderWatcher(
            folder(self.folder, DigestStore(None)), reactor, readers.pool, lambda: time.time() + 3600, self._tell
        )
        files_reactor: Any = self.files
        self.deliveries = Deliveries(files_reactor, self.openers.pool)
        self.decider = Forgetful()
        root = DeviceRoot(self.watcher, self.deliveries, clock or reactor, self.decider)
        self.site = KnowingSite(root, clock or reactor)
        self.service = MultiService()
        for part in (readers, self.openers, DeliveryService(self.deliveries), self.watcher):
            part.setServiceParent(self.service)
        test.addCleanup(self._close)

    async def open(self, wrap: Callable[[IStreamServerEndpoint], IStreamServerEndpoint] | None = None) -> None:
        """Start, and wait until the folder is read."""
        await self.listen(wrap)
        await self.watcher.when_ready()

    async def listen(self, wrap: Callable[[IStreamServerEndpoint], IStreamServerEndpoint] | None = None) -> None:
        """Start."""
        endpoint = serverFromString(reactor, "tcp:0:interface=127.0.0.1")
        door = DoorService("the test's port", endpoint if wrap is None else wrap(endpoint), self.site)
        door.setServiceParent(self.service)
        self.service.startService()
        listening: Any = door._waitingForPort
        assert listening is not None
        port = await listening.addCallback(lambda port: port)
        # The service ends the port with the result of this Deferred.
        door._waitingForPort = succeed(port)
        self.port: int = getattr(port.getHost(), "port", 0)

    async def _close(self) -> None:
        if self.service.running:
            await self.service.stopService()
        for channel in self.site.open:
            channel.transport.abortConnection()
        await until(lambda: not self.site.open)

    async def connect(self) -> Connection:
        """Return a new connection."""
        connection: Connection = await connectProtocol(
            TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), Connection()
        )
        return connection

    def connect_by_hand(self, buffer: int | None = None) -> socket.socket:
        """Return a new connection that is read by nobody but the test; `buffer` is that for receiving, in bytes."""
        connection = socket.socket()
        if buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.connect(("127.0.0.1", self.port))
        connection.setblocking(False)
        return connection

    async def ask(self, request: bytes) -> bytes:
        """Send a request that ends its connection, and return all that arrives."""
        connection = await self.connect()
        connection.send(request)
        return await connection.until_end()

    async def publish(self, name: str, data: bytes) -> None:
        """Put one file into the folder, and wait for the catalog that has it."""
        aside = Path(f"{self.folder}.aside")
        write_files(aside, {"file": data})
        (aside / "file").rename(self.folder / name)
        await self.read_again()

    async def read_again(self) -> None:
        """Read the folder again now, and wait for the new catalog."""
        published: Deferred[None] = Deferred()
        self._published.append(published)
        self.watcher.hint()
        await published

    def _tell(self, catalog: Catalog) -> None:
        published, self._published = self._published, []
        for waiting in published:
            waiting.callback(None)


def take(connection: socket.socket, size: int = 65536) -> bytes:
    """Return what a connection has to read, up to so many bytes; b"" where there is nothing now, or no more."""
    try:
        return connection.recv(size)
    except BlockingIOError:
        return b""
    except ConnectionResetError:
        return b""


def open_images(folder: Path) -> list[str]:
    """Return the files of a folder that this process has open, by one name for each descriptor."""
    names = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:
            continue
        if name.startswith(f"{folder}/"):
            names.append(name)
    return names
